//go:build !linux

package proc

// Shed does nothing here.
func Shed() {}
