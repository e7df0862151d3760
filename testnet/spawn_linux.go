package testnet

import "syscall"

// ownGroup puts a process in its own group and makes it die with the thread that starts
// it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
