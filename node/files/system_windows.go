package files

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// Lock locks a file for this process until it is closed, or fails at once because
// another process has it. Several processes may have a shared lock.
func Lock(f *os.File, shared bool) error {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if !shared {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	// A byte far behind the content, which others may still read.
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
}

// Unlock gives a lock back and closes its file.
func Unlock(f *os.File) error { return f.Close() }

// Allocated returns what a file takes on disk, in bytes.
func Allocated(st os.FileInfo) int64 { return st.Size() }

// Owner returns the IDs of a file's user and group; ok is false where files have none.
func Owner(os.FileInfo) (uid, gid int, ok bool) { return 0, 0, false }

// Inode returns the number of a file on its disk; 0: unknown.
func Inode(os.FileInfo) uint64 { return 0 }

// MayWrite reports whether this user may read and write a file, or, of a directory,
// make files in it. What does not exist may be written.
func MayWrite(path string, dir bool) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return dir || err == nil || errors.Is(err, os.ErrNotExist)
}

// Full reports that an error says that a disk is full.
func Full(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

// FreeSpace returns how many bytes the disk that holds path has free for this
// process, or -1 if that is unknown.
func FreeSpace(path string) int64 {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return -1
	}
	var free uint64
	if windows.GetDiskFreeSpaceEx(name, &free, nil, nil) != nil {
		return -1
	}
	return int64(min(free, 1<<62))
}

// SyncDir does nothing: Windows syncs no directories.
func SyncDir(string) error { return nil }
