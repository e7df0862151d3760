package natlab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// device is the name of each namespace's TUN device.
const device = "wan0"

// space is a network namespace without a name: it exists while a thread or a
// process is in it, so nothing of it can be left behind.
type space struct {
	calls chan func()
	done  chan struct{} // closed once the thread has ended
}

// newSpace makes a namespace with a thread of its own in it.
func newSpace() (*space, error) {
	s := &space{calls: make(chan func()), done: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		for f := range s.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		s.close()
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	if err := s.ip("link", "set", "lo", "up"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// do runs f on the namespace's thread.
func (s *space) do(f func() error) error {
	done := make(chan error)
	s.calls <- func() { done <- f() }
	return <-done
}

// close ends the thread. Processes that it started get SIGKILL, as their
// Pdeathsig says.
func (s *space) close() {
	close(s.calls)
	<-s.done
}

// start starts a command in the namespace.
func (s *space) start(cmd *exec.Cmd) error { return s.do(cmd.Start) }

// ip runs ip(8) in the namespace.
func (s *space) ip(args ...string) error {
	cmd := exec.Command("ip", args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// tun makes the namespace's device, which is its way to everywhere. Closing the
// file ends a blocked Read, and removes the device.
func (s *space) tun() (f *os.File, err error) {
	err = s.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(device)
		if err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err == nil {
			err = unix.SetNonblock(fd, true) // so that the poller reads it
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("a TUN device: %w", err)
		}
		f = os.NewFile(uintptr(fd), device)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, s.ip("link", "set", device, "mtu", "1500", "txqueuelen", "5000", "up")
}

// addAddr gives the device an address, and a default route for its IP version.
func (s *space) addAddr(a netip.Addr) error {
	args := []string{"addr", "add", netip.PrefixFrom(a, a.BitLen()).String(), "dev", device}
	family := "-4"
	if a.Is6() {
		args, family = append(args, "nodad"), "-6"
	}
	if err := s.ip(args...); err != nil {
		return err
	}
	return s.ip(family, "route", "replace", "default", "dev", device)
}

func (s *space) removeAddr(a netip.Addr) error {
	return s.ip("addr", "del", netip.PrefixFrom(a, a.BitLen()).String(), "dev", device)
}
