package fence

import "golang.org/x/sys/unix"

const (
	arch = unix.AUDIT_ARCH_X86_64
	x32  = 0x40000000 // this bit in a call's number means the x32 convention
)

var outsideHere = []uint32{unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_USELIB}
