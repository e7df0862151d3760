package llama

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
)

func TestVersionOf(t *testing.T) {
	for _, c := range []struct{ reported, ggml, file, want string }{
		{"0.5.0-dev", "0.25.1", "libllama.v0.5.0.so", "0.5.0"},
		{"0.5.0", "0.25.1", "libllama.so.0", "0.5.0"},
		{"", "0.17.0", "libllama.b10068.so", "b10068"},
		{"0.5.0", "0.25.2", "libllama.so", ""}, // of another build
		{"0.9.0", "0.25.1", "libllama.so", ""},
		{"", "0.17.0", "libllama.so", ""}, // which of several it is cannot be told
		{"", "", "", ""},
	} {
		v, err := versionOf(c.reported, c.ggml, c.file)
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%+v is taken for %s", c, v.name)
		case c.want == "" && !strings.Contains(err.Error(), strings.Join(Known(), ", ")):
			t.Errorf("%+v: %v", c, err)
		case c.want != "" && (err != nil || v.name != c.want):
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	touch := func(names ...string) {
		for _, n := range names {
			if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv(Variable, "")
	if lib, looked := Find(dir); lib != nil || len(looked) != 1 || looked[0].Lacks == "" {
		t.Errorf("an empty folder: %+v, %+v", lib, looked)
	}
	touch("libllama-common.so", "llama.txt", "libllama.so.0.1", "libllama.so.0", "libggml.v0.5.0.so", "libggml-base.so", "libggml-cpu-x64.so")
	lib, _ := Find(dir)
	if lib == nil || filepath.Base(lib.Llama) != "libllama.so.0" || filepath.Base(lib.Ggml) != "libggml.v0.5.0.so" || filepath.Base(lib.Base) != "libggml-base.so" || lib.Backends != dir {
		t.Errorf("%+v", lib)
	}
	t.Setenv(Variable, dir)
	if lib, _ := Find("/nowhere"); lib != nil {
		t.Errorf("a folder that was named gives way to another: %+v", lib)
	}
	if lib, _ := Find("", "/nowhere"); lib == nil || lib.Origin != Variable {
		t.Errorf("%+v", lib)
	}
	t.Setenv(Variable, "")
	if lib, looked := Find("", dir); lib == nil || lib.Origin != "installed" {
		t.Errorf("%+v, %+v", lib, looked)
	}
	for file, want := range map[string]string{"llama.dll": "llama", "libllama.dylib": "llama", "libllama.0.dylib": "llama", "libllama.so.0.0.5": "llama", "libllama.a": "", "llama": "", "libggml-base.so": "ggml-base"} {
		if got := stem(file); got != want {
			t.Errorf("%s is %q", file, got)
		}
	}
}

// fake makes a folder with the library's files, in which libllama is what source says.
// It can say little: what it has not got is the real one's.
func fake(t *testing.T, source string) string {
	t.Helper()
	lib := library(t)
	cc, err := exec.LookPath("cc")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("no C compiler to make a library with")
	}
	dir := t.TempDir()
	entries, err := os.ReadDir(lib.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if stem(e.Name()) != "llama" {
			if err := os.Symlink(filepath.Join(lib.Dir, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := filepath.Join(dir, "fake.c")
	if err := os.WriteFile(c, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(cc, "-shared", "-fPIC", "-w", "-o", filepath.Join(dir, "libllama.so"), c, "-Wl,--no-as-needed", lib.Llama, "-Wl,-rpath,"+lib.Dir, "-Wl,--allow-shlib-undefined").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// A library that is not known, or not right, is refused with the reason, and only the
// process of that engine may end by it.
func TestBadLibraries(t *testing.T) {
	lib := library(t)
	path := enginetest.Tiny(t)
	stage := stageFile(t, path, 0, blocksOf(t, path))
	load := func(dir string) error {
		cfg := engine.Config{Engine: engine.Llama, Library: dir, Path: stage, To: blocksOf(t, path), KVTokens: 256, MaxSeqs: 1, MaxBatch: 8}
		e, err := engine.InChild()(t.Context(), cfg, nil)
		if err == nil {
			e.Close()
		}
		return err
	}
	if err := load(fake(t, "")); err != nil {
		t.Fatal("one that only passes calls on: ", err)
	}
	for name, c := range map[string]struct{ source, says string }{
		"a later version":   {`const char *llama_version(void) { return "9.9.9"; }`, "9.9.9 with ggml 0.25.1 is not known; known are 0.5.0"},
		"wrong numbers":     {`float *llama_get_logits_ith(void *c, int i) { static float l[64]; return l; }`, "it computes wrong"},
		"other parameters":  {`struct big { char b[200]; } llama_context_default_params(void) { struct big b = {{1}}; return b; }`, "parameters that are not its own"},
		"a pass that fails": {`int llama_decode() { return -3; }`, "its pass fails with -3"},
	} {
		if err := load(fake(t, c.source)); !errors.Is(err, engine.ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := load(fake(t, `__attribute__((constructor)) static void crash(void) { *(volatile int *)0 = 0; }`)); !errors.Is(err, engine.ErrLost) {
		t.Errorf("one that crashes when it is opened: %v", err)
	}
	short := t.TempDir()
	for _, file := range []string{lib.Llama, lib.Ggml, lib.Base} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(short, filepath.Base(file)), raw[:len(raw)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := load(short); !errors.Is(err, engine.ErrUnsupported) || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("a truncated one: %v", err)
	}
	if err := load(t.TempDir()); !errors.Is(err, engine.ErrUnsupported) {
		t.Errorf("none: %v", err)
	}
}
