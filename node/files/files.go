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
	return SyncDir(filepath.Dir(path))
}

// Sweep removes the incomplete files that a crash left in a directory.
func Sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*"+Mark+"*"))
	for _, f := range left {
		_ = os.Remove(f)
	}
}
