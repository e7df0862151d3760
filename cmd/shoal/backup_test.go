package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackup: what a backup has is there again in an empty home, and it has no models.
func TestBackup(t *testing.T) {
	t.Setenv("SHOAL_QUIET_BUILD", "1")
	old := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(old, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "b.tar")
	try := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := run(append([]string{"shoal", "backup"}, args...), &out, &out); code != want {
			t.Errorf("%v: exit %d\n%s", args, code, &out)
		}
		return out.String()
	}
	try(2, "--home", old, file)                             // no node's home
	put("swarms/0123456789abcdef0123456789abcdef/key", "s") // of a home that was never in the open network
	try(0, "--home", old, file)
	put("key", "k")
	put("port", "4001\n")
	put("config.toml", "nice = 1\n")
	put("keys.json", "{}")
	put("catalog.d/mine.toml", "own = true\n")
	put("swarms/0123456789abcdef0123456789abcdef/key", "s")
	put("store/models/x/data.gguf", "weights")
	put("api.json", "{}")
	try(0, "--home", old, file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if out := try(0, "--list", file); out != "key\nport\nconfig.toml\nkeys.json\ncatalog.d/mine.toml\nswarms/0123456789abcdef0123456789abcdef/key\n" {
		t.Error(out)
	}
	fresh := filepath.Join(t.TempDir(), "home")
	try(0, "restore", "--home", fresh, file)
	for name, want := range map[string]string{"key": "k", "config.toml": "nice = 1\n", "catalog.d/mine.toml": "own = true\n", "swarms/0123456789abcdef0123456789abcdef/key": "s"} {
		if raw, err := os.ReadFile(filepath.Join(fresh, name)); err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	if out := try(2, "restore", "--home", fresh, file); !strings.Contains(out, "empty home") {
		t.Error(out)
	}
	try(1, "restore", "--home", t.TempDir(), filepath.Join(old, "port"))
}

// FuzzBackup: a file that is no backup of a node is refused, and nothing that is read
// from one leads out of the home.
func FuzzBackup(f *testing.F) {
	for _, name := range []string{"key", "../key", "catalog.d/../../x", "catalog.d/x.toml", "swarms/../key", "swarms/x/../../key", "swarms/x", "swarms/x/key", "swarms/chosen", "/etc/passwd", "store/data"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range []string{"key", name} {
			_ = w.WriteHeader(&tar.Header{Name: n, Size: 1, Mode: 0o600})
			_, _ = w.Write([]byte("x"))
		}
		_ = w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := readBackup(bytes.NewReader(raw))
		if err != nil {
			return
		}
		for _, name := range b.names {
			if !filepath.IsLocal(name) || strings.Count(filepath.Clean(name), "/") > 2 {
				t.Errorf("a backup has %q", name)
			}
		}
	})
}
