package link

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// udpOverhead is the size of IP and UDP headers in bytes.
const udpOverhead = 28

// udpLinger bounds how long Close waits for datagrams in flight.
const udpLinger = 2 * time.Second

// packetConn delays what is written to a UDP socket. It hides the socket's
// WriteMsgUDP on purpose: quic-go would send around the delay line.
type packetConn struct {
	sock *net.UDPConn
	up   *uplink

	mu       sync.Mutex
	idle     sync.Cond // pending fell to 0
	pending  int       // datagrams in the line
	closed   bool
	gone     bool // the socket is closed: drop what still fires
	released bool // of the timeline
	stop     sync.Once
	err      error
}

var _ net.PacketConn = (*packetConn)(nil)

func newPacketConn(sock *net.UDPConn, up *uplink) *packetConn {
	c := &packetConn{sock: sock, up: up}
	c.idle.L = &c.mu
	up.timeline.hold()
	return c
}

// listenUDP opens a socket on the uplink; the signature is quicreuse's.
func (u *uplink) listenUDP(network string, laddr *net.UDPAddr) (net.PacketConn, error) {
	sock, err := net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	return newPacketConn(sock, u), nil
}

// datagram is one packet in the line.
type datagram struct {
	c    *packetConn
	to   net.Addr
	n    int
	wire int // bytes held on the uplink
	buf  [1500]byte
	big  []byte // instead of buf, if that is too small
}

var datagrams = sync.Pool{New: func() any { return new(datagram) }}

// WriteTo accepts the datagram and returns; like a network, it does not report losses.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	wire := len(b) + udpOverhead
	if c.up.cuts.has(to) {
		return len(b), nil
	}
	at, v := c.up.send(time.Now(), wire, 1, false)
	if v != sent {
		return len(b), nil
	}
	d := datagrams.Get().(*datagram)
	d.c, d.to, d.n, d.wire, d.big = c, to, len(b), wire, nil
	if len(b) > len(d.buf) {
		d.big = append([]byte(nil), b...)
	} else {
		copy(d.buf[:], b)
	}
	c.pending++
	c.up.timeline.at(at, d)
	return len(b), nil
}

func (d *datagram) fire() {
	c := d.c
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if !gone {
		b := d.big
		if b == nil {
			b = d.buf[:d.n]
		}
		_, _ = c.sock.WriteTo(b, d.to) // an error counts as a packet lost in flight
	}
	c.up.done(d.wire)
	d.c, d.to, d.big = nil, nil, nil
	datagrams.Put(d)

	c.mu.Lock()
	c.pending--
	if c.pending == 0 {
		c.idle.Broadcast()
		c.releaseLocked()
	}
	c.mu.Unlock()
}

// releaseLocked releases the timeline once it holds nothing of this socket.
func (c *packetConn) releaseLocked() {
	if c.gone && c.pending == 0 && !c.released {
		c.released = true
		c.up.timeline.release()
	}
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.sock.ReadFrom(b)
	for err == nil && c.up.cuts.has(from) {
		n, from, err = c.sock.ReadFrom(b)
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			return 0, nil, net.ErrClosed
		}
	}
	return n, from, err
}

// Close ends reading at once and returns when the datagrams written before have
// left, so that a last word (CONNECTION_CLOSE) still gets through.
func (c *packetConn) Close() error {
	c.stop.Do(func() {
		c.mu.Lock()
		c.closed = true
		_ = c.sock.SetReadDeadline(time.Unix(1, 0))
		timeout := time.AfterFunc(udpLinger, func() {
			c.mu.Lock()
			c.gone = true
			c.idle.Broadcast()
			c.mu.Unlock()
		})
		for c.pending > 0 && !c.gone {
			c.idle.Wait()
		}
		timeout.Stop()
		c.gone = true
		c.releaseLocked()
		c.mu.Unlock()
		c.err = c.sock.Close()
	})
	return c.err
}

func (c *packetConn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.sock.SetReadDeadline(t)
}

// SetWriteDeadline has nothing to do: WriteTo never waits.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// The next three let quic-go enlarge the kernel's buffers and forbid
// fragmentation, without which it cannot find the path's packet size.

func (c *packetConn) SetReadBuffer(n int) error             { return c.sock.SetReadBuffer(n) }
func (c *packetConn) SetWriteBuffer(n int) error            { return c.sock.SetWriteBuffer(n) }
func (c *packetConn) SyscallConn() (syscall.RawConn, error) { return c.sock.SyscallConn() }
