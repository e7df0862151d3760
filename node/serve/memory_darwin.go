package serve

import "golang.org/x/sys/unix"

// MachineMemory is the memory of the machine, in bytes.
func MachineMemory() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 8 << 30
	}
	return int64(n)
}
