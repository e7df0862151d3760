package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// written returns where a file's first stretch of data ends, before the first
// hole.
func written(f *os.File) int64 {
	n, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
	if err != nil {
		return 0
	}
	return n
}

// punch frees the disk space of a range, which reads as zeros afterwards.
// Blocks only partly in the range keep their other part. On a file system
// without holes, nothing is freed.
func punch(f *os.File, at, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// share lets a range of a file have the disk's blocks of another's in common, and
// reports whether the file system can. Positions and length are multiples of a block.
func share(f *os.File, at int64, of *os.File, from, n int64) bool {
	return unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{
		Src_fd: int64(of.Fd()), Src_offset: uint64(from), Src_length: uint64(n), Dest_offset: uint64(at),
	}) == nil
}
