//go:build unix && !linux

package testnet

import "syscall"

// ownGroup puts a process in its own group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
