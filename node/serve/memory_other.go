//go:build !linux && !darwin && !windows

package serve

// MachineMemory is a guess, in bytes, on systems that are not asked.
func MachineMemory() int64 { return 8 << 30 }
