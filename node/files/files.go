// Package files writes the files of a home that must exist: keys, words to
// others, what is remembered. After a full disk or a power cut there is the old
// content or the new, never less: the file is written beside its place, synced,
// renamed, and then the directory is synced, without which the rename itself may
// be lost.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Mark stands in the names of files that are not whole yet. What a crash leaves
// of them may be removed by whoever has the directory.
const Mark = ".new-"

// Replace gives a file new content, and makes it if there is none. At any
// instant it is whole: the old one, or the new. It returns errors of package os;
// after one the old content is there, unless only the directory could not be
// synced.
func Replace(path string, raw []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+Mark)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // some file systems sync no directories: there is no more to be done
	}
	return errors.Join(err, d.Close())
}

// Sweep removes what a crash has left of files of a directory.
func Sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*"+Mark+"*"))
	for _, f := range left {
		_ = os.Remove(f)
	}
}
