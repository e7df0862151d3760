// Package replace writes files that must be there at any instant, also on a
// full disk and over a crash: the old one or the new one, never half of it.
package replace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Mark is in the names of files that are being written; one that is there when
// nobody writes was left by a crash.
const Mark = ".new-"

// File writes a file beside the one at path, and puts it in its place when it is
// on the disk. At an error the old one is as it was.
func File(path string, raw []byte, perm fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+Mark)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Sweep removes what a crash has left of files of a directory.
func Sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*"+Mark+"*"))
	for _, f := range left {
		_ = os.Remove(f)
	}
}
