//go:build linux || darwin

package node

import "golang.org/x/sys/unix"

// diskFree is how many bytes a directory's disk has left for this process; -1
// if it does not tell.
func diskFree(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return -1
	}
	return int64(st.Bavail * uint64(st.Bsize))
}
