//go:build unix && !linux && !darwin

package files

// FreeSpace returns -1: it is not implemented on this system.
func FreeSpace(string) int64 { return -1 }
