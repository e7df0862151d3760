package engine

import (
	"os"
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

// socketpair gives this process's end, and the end to hand on.
func socketpair() (mine *socket, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<20) // a pass's activations in one go
	}
	return &socket{File: os.NewFile(uintptr(fds[0]), "engine"), fd: fds[0]}, os.NewFile(uintptr(fds[1]), "engine"), nil
}
