//go:build linux || darwin

package files

import "golang.org/x/sys/unix"

// FreeSpace returns how many bytes the disk that holds path has free for this
// process, or -1 if that is unknown.
func FreeSpace(path string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Blocks == 0 {
		return -1
	}
	return int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // not redundant on every system
}
