package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// entry is a file of an archive; without a kind it is a plain one.
type entry struct {
	name, content string
	kind          byte
}

func packed(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Size: int64(len(e.content)), Mode: 0o644, Typeflag: tar.TypeReg}
		if e.kind != 0 {
			h.Typeflag, h.Linkname, h.Size, e.content = e.kind, e.content, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pinned is a build whose archive has these bytes.
func pinned(archive []byte) Build {
	sum := sha512.Sum512(archive)
	return Build{OS: "os", Arch: "arch", Accel: "cpu", Package: "os-arch", Version: "1.2.3", Llama: "v9", Integrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
}

var good = []entry{
	{name: "package/LICENSE", content: "MIT"}, {name: "package/package.json", content: "{}"}, {name: "package/bins/os-arch/libllama.v9.so", content: "llama"},
	{name: "package/bins/os-arch/libggml-cpu-x64.so", content: "ggml"}, {name: "package/bins/os-arch/llama-addon.node", content: "no"}, {name: "package/bins/os-arch/libllama-common.so", content: "no"},
}

// registry serves archives by their path.
func registry(t *testing.T, answer http.HandlerFunc) string {
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.URL + "/mirror/"
}

// tree lists all that is under a directory.
func tree(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		if path != "." {
			out = append(out, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

func TestFetch(t *testing.T) {
	archive := packed(t, good...)
	b := pinned(archive)
	asked := ""
	url := registry(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		_, _ = w.Write(archive)
	})
	under := filepath.Join(t.TempDir(), "engines")
	var done, total int64
	dir, err := Fetch(t.Context(), nil, url, b, under, func(d, all int64) { done, total = d, all })
	if err != nil || asked != "/mirror/@node-llama-cpp/os-arch/-/os-arch-1.2.3.tgz" {
		t.Fatalf("asked for %s: %v", asked, err)
	}
	want := []string{"llama-v9-os-arch", "llama-v9-os-arch/LICENSE", "llama-v9-os-arch/build.json", "llama-v9-os-arch/libggml-cpu-x64.so", "llama-v9-os-arch/libllama.v9.so"}
	if got := tree(t, under); !slices.Equal(got, want) || done != int64(len(archive)) || total != done {
		t.Errorf("%v, after %d of %d bytes", got, done, total)
	}
	n, err := ReadNote(dir)
	if err != nil || n.Integrity != b.Integrity || n.Licence != "MIT" || n.Package != "@node-llama-cpp/os-arch" || n.Llama != "v9" {
		t.Errorf("noted %+v, %v", n, err)
	}
	if !There(under, b) || !slices.Equal(Dirs(under), []string{dir}) {
		t.Errorf("found %v", Dirs(under))
	}
	if err := os.Truncate(filepath.Join(dir, "libllama.v9.so"), 2); err != nil {
		t.Fatal(err)
	}
	if There(under, b) || len(Dirs(under)) > 0 {
		t.Error("a library that was cut off counts as whole")
	}
	if again, err := Fetch(t.Context(), nil, url, b, under, nil); err != nil || again != dir || !There(under, b) {
		t.Errorf("mended: %v", err)
	}
}

// Whatever goes wrong, it is said, and nothing is left.
func TestFetchFails(t *testing.T) {
	archive := packed(t, good...)
	for name, c := range map[string]struct {
		registry string // "": one that answers as follows
		answer   http.HandlerFunc
		build    Build
		is       error
		says     string
	}{
		"no address":        {registry: "npm.example.com", is: ErrRegistry, says: "no registry's address"},
		"nobody there":      {registry: "http://127.0.0.1:1", is: ErrRegistry, says: "refused"},
		"no such package":   {answer: http.NotFound, is: ErrRegistry, says: "404"},
		"another archive":   {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(packed(t, good[:3]...)) }, is: ErrChecksum, says: "checksum"},
		"a page for people": {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, is: ErrChecksum},
		"too large":         {answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "2000000000") }, is: ErrChecksum},
		"breaks off": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(archive)
		}, is: ErrRegistry, says: "broke off"},
	} {
		if c.registry == "" {
			c.registry = registry(t, c.answer)
		}
		under := filepath.Join(t.TempDir(), "engines")
		_, err := Fetch(t.Context(), nil, c.registry, pinned(archive), under, nil)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if left := tree(t, under); len(left) > 0 {
			t.Errorf("%s: left are %v", name, left)
		}
	}
}

func TestFrom(t *testing.T) {
	archive := packed(t, good...)
	b, dir := pinned(archive), t.TempDir()
	file := filepath.Join(dir, b.File())
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir} {
		if got, err := From(path, b, filepath.Join(t.TempDir(), "engines"), nil); err != nil || filepath.Base(got) != b.Dir() {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.WriteFile(file, archive[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := From(file, b, t.TempDir(), nil); !errors.Is(err, ErrChecksum) {
		t.Error(err)
	}
	if _, err := From(t.TempDir(), b, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), b.File()) {
		t.Errorf("which file is missing is not said: %v", err)
	}
}

// An archive with a good checksum and bad content harms nothing either.
func TestUnpackRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		says    string
	}{
		"no library":         {[]entry{{name: "package/LICENSE", content: "MIT"}}, "no libllama"},
		"a link for it":      {[]entry{{name: "package/libllama.so", content: "/etc/passwd", kind: tar.TypeSymlink}}, "no libllama"},
		"twice":              {[]entry{{name: "a/libllama.so"}, {name: "b/libllama.so"}}, "twice"},
		"hidden":             {[]entry{{name: "a/.libllama.so"}}, "no libllama"},
		"a drive's name":     {[]entry{{name: `a/C:\libllama.dll`}}, "no libllama"},
		"more than it may":   {append(manyFiles(maxFiles+1), good...), "more in it"},
		"its program's only": {[]entry{{name: "a/libllama-common.so"}}, "no libllama"},
	} {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := unpack(bytes.NewReader(packed(t, c.entries...)), dir); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if _, err := unpack(bytes.NewReader(packed(t, append(good, entry{name: "package/../../../libescaped.so"})...)), filepath.Join(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "libescaped.so")); err != nil {
		t.Errorf("a name that leads out is not kept inside: %v", err)
	}
}

func manyFiles(n int) (out []entry) {
	for i := range n {
		out = append(out, entry{name: "lib" + strings.Repeat("x", i%200+1) + string(rune('a'+i/200)) + ".so"})
	}
	return out
}

// FuzzUnpack: no archive writes beside its folder, or more than it may.
func FuzzUnpack(f *testing.F) {
	f.Add(packed(f, good...))
	f.Add(packed(f, entry{name: "../../libllama.so", content: "x"}, entry{name: "/libllama.so.so", content: "y", kind: tar.TypeLink}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer // the checksum keeps damaged gzip out: fuzz what is inside
		z := gzip.NewWriter(&b)
		_, _ = z.Write(raw)
		_ = z.Close()
		for _, archive := range [][]byte{raw, b.Bytes()} {
			sizes, err := unpack(bytes.NewReader(archive), dir)
			if err == nil && len(sizes) == 0 {
				t.Fatal("nothing was unpacked, and that was right")
			}
			if left := tree(t, outer); len(left) > maxFiles+1 || slices.ContainsFunc(left, func(p string) bool { return p != "in" && filepath.Dir(p) != "in" }) {
				t.Fatalf("written: %v", left)
			}
			_ = os.RemoveAll(dir)
			_ = os.Mkdir(dir, 0o700)
		}
	})
}

// Every machine has one build per accelerator, all with a SHA-512.
func TestBuilds(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range builds {
		key := b.OS + b.Arch + b.Accel
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(b.Integrity, "sha512-"))
		if seen[key] || seen[b.Integrity] || err != nil || len(sum) != sha512.Size || !strings.HasPrefix(b.Integrity, "sha512-") {
			t.Errorf("%+v", b)
		}
		seen[key], seen[b.Integrity] = true, true
	}
	if b, err := buildFor("linux", "amd64", "vulkan"); err != nil || b.Dir() != "llama-v0.5.0-linux-x64-vulkan" || b.File() != "node-llama-cpp-linux-x64-vulkan-3.22.1.tgz" {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := buildFor("linux", "amd64", "metal"); !errors.Is(err, ErrNoBuild) || !strings.Contains(err.Error(), "cpu, cuda, vulkan") {
		t.Error(err)
	}
	if _, err := buildFor("plan9", "386", "cpu"); !errors.Is(err, ErrNoBuild) || !strings.Contains(err.Error(), "--llama") {
		t.Error(err)
	}
}
