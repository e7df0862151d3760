package files

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A failed write leaves the old content, and no other file.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "word")
	for _, text := range []string{"one", "two"} {
		if err := Replace(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		st, serr := os.Stat(path)
		if err != nil || serr != nil || string(raw) != text || st.Mode().Perm() != 0o600 {
			t.Errorf("%q, %v, %v", raw, st.Mode(), err)
		}
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	small := was
	small.Cur = 4096 // a disk as good as full
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	err := Replace(path, []byte(strings.Repeat("x", 1<<20)), 0o600)
	if serr := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); serr != nil {
		t.Fatal(serr)
	}
	if err == nil {
		t.Error("written beyond the limit")
	}
	raw, _ := os.ReadFile(path)
	if left, _ := os.ReadDir(dir); string(raw) != "two" || len(left) != 1 {
		t.Errorf("left %q and %v", raw, left)
	}
}
