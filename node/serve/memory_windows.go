package serve

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

var globalMemoryStatusEx = windows.NewLazySystemDLL("kernel32.dll").NewProc("GlobalMemoryStatusEx")

// memoryStatus is the MEMORYSTATUSEX of Windows.
type memoryStatus struct {
	Length, Load                                              uint32
	Total, Free, TotalPage, FreePage, TotalVirtual, Virt, Ext uint64
}

// MachineMemory is the memory of the machine, in bytes.
func MachineMemory() int64 {
	st := memoryStatus{}
	st.Length = uint32(unsafe.Sizeof(st))
	if ok, _, _ := globalMemoryStatusEx.Call(uintptr(unsafe.Pointer(&st))); ok == 0 {
		return 8 << 30
	}
	return int64(st.Total)
}
