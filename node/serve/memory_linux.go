package serve

import (
	"github.com/KimMachineGun/automemlimit/memlimit"
	"golang.org/x/sys/unix"
)

// MachineMemory is the memory of the machine, in bytes, or the part of it that this
// process's control group may use: a container, or a service with MemoryMax.
func MachineMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 8 << 30
	}
	total := int64(info.Totalram) * int64(info.Unit)
	if limit, err := memlimit.FromCgroup(); err == nil && limit < uint64(total) {
		return int64(limit)
	}
	return total
}
