//go:build linux && (amd64 || arm64)

package fence

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets of a call's number, convention and arguments in what a filter reads,
// in bytes.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16 // eight bytes each, the lower four first on both architectures
)

// sockets are the calls that make connections.
var sockets = []uint32{
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
}

// outside are the calls that reach beyond this process, and those into parts of
// the kernel that it does not need.
var outside = []uint32{
	// programs
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	// other processes
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_MRELEASE,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
	// memory and messages that a user's processes share by number or name
	unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_SEMCTL,
	unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV, unix.SYS_MSGCTL, unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK,
	// the kernel's own machinery
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_FANOTIFY_INIT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_SYSLOG, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_VHANGUP,
	// mounts and namespaces
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
	// the machine's clock and name
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}

// filter is a BPF program with which the kernel checks each call.
type filter []unix.SockFilter

func (f *filter) add(code uint16, k uint32, jt, jf uint8) {
	*f = append(*f, unix.SockFilter{Code: code, K: k, Jt: jt, Jf: jf})
}

func (f *filter) load(at uint32) { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, at, 0, 0) }

func (f *filter) end(result uint32) { f.add(unix.BPF_RET|unix.BPF_K, result, 0, 0) }

func (f *filter) fail(errno unix.Errno) { f.end(unix.SECCOMP_RET_ERRNO | uint32(errno)) }

// skip jumps over ifTrue or ifFalse instructions, depending on how the loaded
// value compares with k.
func (f *filter) skip(compare uint16, k uint32, ifTrue, ifFalse uint8) {
	f.add(unix.BPF_JMP|unix.BPF_K|compare, k, ifTrue, ifFalse)
}

// deny refuses calls with errno.
func (f *filter) deny(errno unix.Errno, calls ...uint32) {
	for _, nr := range calls {
		f.skip(unix.BPF_JEQ, nr, 0, 1)
		f.fail(errno)
	}
}

// argument refuses a call depending on one of its arguments: if the comparison
// with k has the result refused.
func (f *filter) argument(nr uint32, arg uint32, compare uint16, k uint32, refused bool) {
	f.skip(unix.BPF_JEQ, nr, 0, 4)
	f.load(atArgs + 8*arg)
	if refused {
		f.skip(compare, k, 0, 1)
	} else {
		f.skip(compare, k, 1, 0)
	}
	f.fail(unix.EPERM)
	f.load(atNumber)
}

// newFilter returns a filter that so far refuses calls by other conventions.
func newFilter() *filter {
	f := &filter{}
	f.load(atArch)
	f.skip(unix.BPF_JEQ, arch, 1, 0)
	f.fail(unix.EPERM)
	f.load(atNumber)
	if x32 != 0 {
		f.skip(unix.BPF_JGE, x32, 0, 1)
		f.fail(unix.EPERM)
	}
	return f
}

// denyCalls takes away the calls that reach beyond this process. unixSockets
// still allows sockets of that kind. Errors are those of seccomp.
func denyCalls(unixSockets bool) error {
	f := newFilter()
	f.deny(unix.EPERM, outside...)
	f.deny(unix.EPERM, outsideHere...)
	if unixSockets {
		f.argument(unix.SYS_SOCKET, 0, unix.BPF_JEQ, unix.AF_UNIX, false)
	} else {
		f.deny(unix.EPERM, sockets...)
	}
	self := uint32(os.Getpid())
	f.argument(unix.SYS_KILL, 0, unix.BPF_JEQ, self, false)
	f.argument(unix.SYS_TGKILL, 0, unix.BPF_JEQ, self, false)  // Go's runtime interrupts its own threads this way
	f.argument(unix.SYS_MOVE_PAGES, 0, unix.BPF_JEQ, 0, false) // 0 is this process
	f.argument(unix.SYS_MIGRATE_PAGES, 0, unix.BPF_JEQ, 0, false)
	f.argument(unix.SYS_FCNTL, 1, unix.BPF_JEQ, unix.F_SETOWN, true)
	f.argument(unix.SYS_FCNTL, 1, unix.BPF_JEQ, unix.F_SETOWN_EX, true)
	f.argument(unix.SYS_IOCTL, 1, unix.BPF_JEQ, fiosetown, true)
	f.argument(unix.SYS_IOCTL, 1, unix.BPF_JEQ, siocspgrp, true)
	f.argument(unix.SYS_IOCTL, 1, unix.BPF_JEQ, unix.TIOCSTI, true) // typing into the terminal that started the node
	f.argument(unix.SYS_IOCTL, 1, unix.BPF_JEQ, tioclinux, true)
	// Threads are allowed, processes are not. A filter cannot read the
	// arguments of clone3, so that is refused; the C library then falls back to
	// clone.
	f.argument(unix.SYS_CLONE, 0, unix.BPF_JSET, unix.CLONE_THREAD, false)
	f.deny(unix.ENOSYS, unix.SYS_CLONE3)
	return f.install()
}

// Ioctl requests that cause signals to be sent, or text to be typed.
const (
	fiosetown = 0x8901
	siocspgrp = 0x8902
	tioclinux = 0x541c
)

// denySockets takes away the sockets that denyCalls still allowed.
func denySockets() error {
	f := newFilter()
	f.deny(unix.EPERM, sockets...)
	return f.install()
}

// install applies the filter to every thread from now on.
func (f *filter) install() error {
	f.end(unix.SECCOMP_RET_ALLOW)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(*f)), Filter: &(*f)[0]}
	other, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(f)
	switch {
	case errno != 0:
		return fmt.Errorf("seccomp: %w", errno)
	case other != 0:
		return errors.New("seccomp: a thread has another filter")
	}
	return nil
}
