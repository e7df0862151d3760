//go:build unix

package engine

import (
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// socket is one end of a socketpair. It blocks a thread and not Go's poller,
// which would add two wake-ups to each step.
type socket struct {
	*os.File
	fd    int
	close sync.Once
}

// Close ends reads and writes under way on both sides.
func (s *socket) Close() (err error) {
	s.close.Do(func() {
		_ = syscall.Shutdown(s.fd, syscall.SHUT_RDWR)
		err = s.File.Close()
	})
	return err
}

// handle is the end of a connection that a child inherits.
type handle struct{ *os.File }

// hand has a command inherit the handle as file descriptor 3.
func (h handle) hand(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{h.File} }

// inherited returns the connection that the parent has handed to this process.
func inherited() io.ReadWriter { return os.NewFile(3, "engine") }

// connection returns this process's end, and the one for a child.
func connection() (mine io.ReadWriteCloser, theirs handle, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, handle{}, err
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<20) // a pass's activations in one go
	}
	return &socket{File: os.NewFile(uintptr(fds[0]), "engine"), fd: fds[0]}, handle{os.NewFile(uintptr(fds[1]), "engine")}, nil
}
