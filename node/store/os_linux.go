package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// written is how far a file's first stretch of data goes that is no hole.
func written(f *os.File) int64 {
	n, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
	if err != nil {
		return 0
	}
	return n
}

// punch gives a range's disk space back; it reads as zeros afterwards. Blocks
// that are only partly in the range keep the rest. A file system that makes no
// holes keeps all.
func punch(f *os.File, at, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
