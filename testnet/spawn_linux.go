package testnet

import "syscall"

// ownGroup puts a process in a group of its own and ties its life to that of
// the thread that starts it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
