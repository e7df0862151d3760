// Package files writes the files in a home directory that must not be lost:
// keys, messages to other processes, remembered state. After a full disk or a
// power cut a file has its old or its new content, never less: it is written
// under another name, synced, and renamed; then the directory is synced,
// without which the rename itself might be lost.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Mark is part of the name of files that are not complete yet. Files with it
// left by a crash may be removed by the process that owns the directory.
const Mark = ".new-"

// Replace gives a file new content, creating it if it does not exist. At any
// instant the file is complete: either the old or the new one. Errors are those
// of package os; after an error the old content is intact, unless only syncing
// the directory failed.
func Replace(path string, raw []byte, mode fs.FileMode) error {
	return replace(path, raw, mode, func(*os.File) {})
}

// replace is Replace; own is called with the new file before it takes the old one's
// place.
func replace(path string, raw []byte, mode fs.FileMode, own func(*os.File)) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+Mark)
	if err != nil {
		return err
	}
	own(f)
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Rewrite is Replace for a file that belongs to someone else: it keeps the mode and, as
// far as the system allows, the owner, and follows a link to the file. A file that does
// not exist is created with the mode 0600.
func Rewrite(path string, raw []byte) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Replace(path, raw, 0o600)
	}
	if err != nil {
		return err
	}
	return replace(path, raw, info.Mode().Perm(), func(f *os.File) { keepOwner(f, info) })
}

// Sweep removes the incomplete files that a crash left in a directory.
func Sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*"+Mark+"*"))
	for _, f := range left {
		_ = os.Remove(f)
	}
}
