//go:build !linux

package testnet

import (
	"os/exec"
	"syscall"

	"github.com/shoalnet/shoal/node/proc"
)

// ownGroup puts a process in its own group.
func ownGroup() *syscall.SysProcAttr {
	var cmd exec.Cmd
	proc.Apart(&cmd)
	return cmd.SysProcAttr
}
