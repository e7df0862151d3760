// Package files writes the files of a home that must exist: keys, words to
// others, what is remembered. A full disk or a power cut leaves the old one.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Mark stands in the names of files that are not whole yet. What a crash leaves
// of them may be removed by whoever has the directory.
const Mark = ".new-"

// Replace gives a file new content, and makes it if there is none. At any
// instant it is whole: the old one, or the new.
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
	}
	return err
}
