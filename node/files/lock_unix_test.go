//go:build unix

package files

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A lock that was given back is free, even while a child that is being started has the file.
func TestUnlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	take := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := Lock(f, false); err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := take()
	child, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child)
	if err := Unlock(f); err != nil {
		t.Fatal(err)
	}
	if err := Unlock(take()); err != nil {
		t.Fatal(err)
	}
}
