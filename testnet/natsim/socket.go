package natsim

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
)

// backlog is how many packets may wait in a socket: more than a burst in these
// networks, so that no packet is lost by how goroutines are scheduled.
const backlog = 4096

// socket is a UDP socket of a host, as QUIC uses one.
type socket struct {
	host     *Host
	at       netip.AddrPort
	in       chan packet
	deadline chan struct{} // capacity 1: the read deadline has changed
	done     chan struct{}
	once     sync.Once

	mu   sync.Mutex
	read time.Time // the read deadline
}

func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		s.mu.Lock()
		read := s.read
		s.mu.Unlock()
		var late <-chan time.Time
		if !read.IsZero() {
			timer := time.NewTimer(time.Until(read))
			defer timer.Stop()
			late = timer.C
		}
		select {
		case p := <-s.in:
			return copy(b, p.data), net.UDPAddrFromAddrPort(p.flow.Src), nil
		case <-s.deadline:
		case <-late:
			return 0, nil, os.ErrDeadlineExceeded
		case <-s.done:
			return 0, nil, net.ErrClosed
		}
	}
}

func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-s.done:
		return 0, net.ErrClosed
	default:
	}
	dst := to.(*net.UDPAddr).AddrPort()
	p := packet{nat.Flow{UDP: true, Src: s.at, Dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())}, slices.Clone(b)}
	h := s.host
	h.net.w.mu.Lock()
	defer h.net.w.mu.Unlock()
	h.line.up.carry(&h.line, p, h.net.send)
	return len(b), nil
}

func (s *socket) Close() error {
	s.once.Do(func() {
		close(s.done)
		w := s.host.net.w
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(s.host.sockets, s.at.Port())
	})
	return nil
}

func (s *socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.at) }

func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.read = t
	s.mu.Unlock()
	select {
	case s.deadline <- struct{}{}:
	default:
	}
	return nil
}

func (s *socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

func (s *socket) SetWriteDeadline(time.Time) error { return nil } // a write never waits

// Without these QUIC warns that its buffers are small.
func (s *socket) SetReadBuffer(int) error  { return nil }
func (s *socket) SetWriteBuffer(int) error { return nil }
