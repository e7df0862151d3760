//go:build linux || darwin

package store

import "golang.org/x/sys/unix"

// FreeSpace is how many bytes the disk of a directory or file has left for this
// process; -1 if it does not tell.
func FreeSpace(path string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Blocks == 0 {
		return -1
	}
	return int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // not on every system
}
