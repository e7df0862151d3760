//go:build !linux

package proc

// Shed does nothing here.
func Shed() {}

// ShedFile does nothing here.
func ShedFile(string) {}
