package proc

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
)

// Signals that not every system has. Where one does not exist, sending it returns an
// error.
const (
	Pause    = syscall.Signal(0x41)
	Continue = syscall.Signal(0x42)
	Resized  = syscall.Signal(0x43) // the terminal
)

// Apart has a command run in a process group of its own, so that Ctrl-C in the
// terminal reaches only this process, which then ends the command in order. It is
// called before the command starts.
func Apart(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// Lower sets the priority of this process: Windows knows two steps below the normal
// one. A system that refuses leaves it as it is.
func Lower(nice int) {
	class := uint32(windows.NORMAL_PRIORITY_CLASS)
	switch {
	case nice >= 15:
		class = windows.IDLE_PRIORITY_CLASS
	case nice > 0:
		class = windows.BELOW_NORMAL_PRIORITY_CLASS
	}
	_ = windows.SetPriorityClass(windows.CurrentProcess(), class)
}

// stillActive is the exit code of a process that has not ended.
const stillActive = 259

// Alive reports whether a process with this ID exists.
func Alive(pid int) bool {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return errors.Is(err, windows.ERROR_ACCESS_DENIED)
	}
	defer func() { _ = windows.CloseHandle(h) }()
	var code uint32
	return windows.GetExitCodeProcess(h, &code) == nil && code == stillActive
}

// Signal sends a signal to a process of any kind, not only to a child. Windows has
// only the one that ends it.
func Signal(pid int, sig syscall.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	return p.Signal(sig)
}

// KillGroup ends a process that was started Apart, and its children.
func KillGroup(pid int) {
	_ = exec.Command("taskkill", "/F", "/T", "/PID", strconv.Itoa(pid)).Run()
}

// Become runs another program in the place of this process: Windows cannot replace
// it, so it waits and ends with the program's exit code. It returns only an error.
func Become(program string, args, env []string) error {
	cmd := exec.Command(program, args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		os.Exit(cmd.ProcessState.ExitCode())
	}
	return err
}
