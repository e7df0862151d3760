package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// punch gives a range's disk space back; it reads as zeros afterwards. Pages
// that are only partly in the range keep the rest.
func punch(f *os.File, at, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
}
