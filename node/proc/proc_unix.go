//go:build unix

package proc

import (
	"errors"
	"os/exec"
	"syscall"
)

// Signals that not every system has. Where one does not exist, sending it returns an
// error.
const (
	Pause    = syscall.SIGSTOP
	Continue = syscall.SIGCONT
	Resized  = syscall.SIGWINCH // the terminal
)

// Apart has a command run in a process group of its own, so that Ctrl-C in the
// terminal reaches only this process, which then ends the command in order. It is
// called before the command starts.
func Apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// Lower sets the priority of this process as nice(1) does, from 0 to 19. A system
// that refuses leaves it as it is.
func Lower(nice int) { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, nice) }

// Alive reports whether a process with this ID exists.
func Alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return pid > 0 && (err == nil || errors.Is(err, syscall.EPERM))
}

// Signal sends a signal to a process of any kind, not only to a child.
func Signal(pid int, sig syscall.Signal) error { return syscall.Kill(pid, sig) }

// KillGroup ends a process that was started Apart, and its children.
func KillGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// Become replaces this process by another program, and returns only an error.
func Become(program string, args, env []string) error { return syscall.Exec(program, args, env) }
