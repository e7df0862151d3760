package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

const referenceFile = "../../contrib/config/node.toml"

// TestConfigReference: the reference is what the flags say, and holds the
// defaults.
func TestConfigReference(t *testing.T) {
	raw, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != configReference() {
		t.Errorf("%s is old: bin/shoal config --reference > contrib/config/node.toml", referenceFile)
	}
	all := filepath.Join(t.TempDir(), "all.toml")
	if err := os.WriteFile(all, regexp.MustCompile(`(?m)^#(\w)`).ReplaceAll(raw, []byte("$1")), 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	want, got := configOf(t, "--home", home), configOf(t, "--config", all)
	if len(want) < 25 || len(got) != len(want) {
		t.Fatalf("%d settings, and %d of the reference", len(want), len(got))
	}
	for i, w := range want {
		if g := got[i]; w.Name != "home" && (!reflect.DeepEqual(w.Value, g.Value) || w.From != "default" || !strings.HasPrefix(g.From, all+", line ")) {
			t.Errorf("%+v by default, and %+v in the reference", w, g)
		}
	}
}

// configOf is `shoal config --json`.
func configOf(t *testing.T, args ...string) (out []setting) {
	t.Helper()
	t.Setenv("SHOAL_QUIET_BUILD", "1")
	var stdout, stderr bytes.Buffer
	if code := run(append([]string{"shoal", "config", "--json"}, args...), &stdout, &stderr); code != 0 {
		t.Fatalf("shoal config %v: exit %d\n%s", args, code, &stderr)
	}
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &stdout)
	}
	return out
}

// TestConfigOrigins: a flag wins over the environment, and that over the file;
// what is printed is a configuration file that says the same; no key is shown.
func TestConfigOrigins(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "config.toml")
	text := "# mine\nmemory = \"1GiB\"\nthreads = 1\napi-key = \"hush-hush\"\ndrain-time = \"90s\"\nmodel = [\"a\", \"b\"]\nno-mdns = true\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOAL_THREADS", "0")
	t.Setenv("SHOAL_NICE", "7")
	t.Setenv("SHOAL_WIRE", "f16")
	got := configOf(t, "--home", home, "--wire", "q8_0", "--memory", "2GiB")
	want := map[string]setting{
		"home": {Value: home, From: "--home"}, "memory": {Value: "2GiB", From: "--memory"}, "wire": {Value: "q8_0", From: "--wire"},
		"threads": {Value: 0.0, From: "SHOAL_THREADS"}, "nice": {Value: 7.0, From: "SHOAL_NICE"},
		"api-key": {Value: "(not shown)", From: file + ", line 4"}, "drain-time": {Value: "1m30s", From: file + ", line 5"},
		"model": {Value: []any{"a", "b"}, From: file + ", line 6"}, "no-mdns": {Value: true, From: file + ", line 7"},
		"span": {Value: "auto", From: "default"},
	}
	for _, s := range got {
		if w, ok := want[s.Name]; ok {
			w.Name = s.Name
			if !reflect.DeepEqual(s, w) {
				t.Errorf("%+v, want %+v", s, w)
			}
			delete(want, s.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("not printed: %v", want)
	}

	var printed, stderr bytes.Buffer
	if code := run([]string{"shoal", "config", "--home", home}, &printed, &stderr); code != 0 || strings.Contains(printed.String(), "hush") {
		t.Fatalf("exit %d\n%s%s", code, &printed, &stderr)
	}
	again := filepath.Join(home, "again.toml")
	if err := os.WriteFile(again, printed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOAL_THREADS", "")
	for i, s := range configOf(t, "--config", again) {
		if first := configOf(t, "--home", home)[i]; s.Name != "home" && s.Name != "threads" && s.Name != "nice" && s.Name != "wire" && !reflect.DeepEqual(s.Value, first.Value) {
			t.Errorf("%+v was printed as %+v", first, s)
		}
	}
}

// TestConfigRefused: what a node would refuse, and what nobody would read.
func TestConfigRefused(t *testing.T) {
	t.Setenv("SHOAL_QUIET_BUILD", "1")
	for text, want := range map[string]string{
		"memroy = \"1GiB\"\n":   `line 1: there is no setting "memroy"; did you mean "memory"?`,
		"\nquux = 1\n":          "line 2: there is no setting \"quux\"; `shoal config --reference`",
		"threads = \"two\"\n":   "line 1: threads has a value of the wrong type",
		"memory = \"much\"\n":   "write a size like",
		"kv = \"f8\"\n":         "f16 and f32 are known",
		"config = \"x.toml\"\n": `there is no setting "config"`,
		"memory = \n":           "line 1",
	} {
		home := t.TempDir()
		if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		if code := run([]string{"shoal", "config", "--home", home}, &stdout, &stderr); code != 2 || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
			t.Errorf("%q: exit %d, want %q\n%s%s", text, code, want, &stdout, &stderr)
		}
	}
}

// FuzzConfigFile: no configuration file does worse than being refused, by a
// message that names the file.
func FuzzConfigFile(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	raw, err := os.ReadFile(referenceFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("memory = \"1GiB\"\n[model]\na = 1\n"))
	f.Add([]byte("model = [1, \"a\"]\nthreads = 1e9\n\"drain-time\" = 1979-05-27\n"))
	path := filepath.Join(f.TempDir(), "config.toml")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		flags := nodeFlags()
		app := &cli.App{Flags: flags, Writer: &bytes.Buffer{}, Action: func(c *cli.Context) error {
			if err := loadConfig(c, flags); err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("%v", err)
			}
			return nil
		}}
		if err := app.Run([]string{"shoal", "--config", path}); err != nil {
			t.Fatal(err)
		}
	})
}
