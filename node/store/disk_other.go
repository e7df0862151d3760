//go:build !linux && !darwin

package store

// FreeSpace returns -1: it is not implemented on this system.
func FreeSpace(string) int64 { return -1 }
