package engine

import (
	"net"
	"os"
	"syscall"
)

// socketpair gives this process's end, usable with Go's poller, and the end to
// hand on.
func socketpair() (mine net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	for _, fd := range fds { // a pass's activations in one go
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<20)
	}
	f := os.NewFile(uintptr(fds[0]), "engine")
	defer f.Close()
	if mine, err = net.FileConn(f); err != nil {
		_ = syscall.Close(fds[1])
		return nil, nil, err
	}
	return mine, os.NewFile(uintptr(fds[1]), "engine"), nil
}
