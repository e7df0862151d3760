package link

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// lookEvery is how long a change of the file of cuts may go unnoticed.
const lookEvery = 20 * time.Millisecond

// cuts are the addresses that a link cannot reach at present: the content of a file,
// which is read again when packets are sent or received. nil: links are never cut.
type cuts struct {
	path string

	mu     sync.Mutex
	looked time.Time
	text   []byte
	set    map[endpoint]bool
}

var quicV1 = ma.StringCast("/quic-v1")

// endpoint is a socket's address; UDP and TCP have separate ports.
type endpoint struct {
	udp  bool
	addr netip.AddrPort
}

func newCuts(path string) *cuts {
	if path == "" {
		return nil
	}
	return &cuts{path: path}
}

// has reports whether traffic to and from an address is cut at present.
func (c *cuts) has(a net.Addr) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		c.readLocked()
	}
	return len(c.set) > 0 && c.set[endpointOf(a)]
}

// readLocked reads the file. It ignores lines that are not addresses: another process
// writes the file, and there is no way to report the error to it.
func (c *cuts) readLocked() {
	text, err := os.ReadFile(c.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) || err == nil && bytes.Equal(text, c.text) {
		return
	}
	c.text, c.set = text, map[endpoint]bool{}
	for line := range bytes.Lines(text) {
		m, err := ma.NewMultiaddr(string(bytes.TrimSpace(line)))
		if err != nil {
			continue
		}
		if a, err := manet.ToNetAddr(m.Decapsulate(quicV1)); err == nil {
			c.set[endpointOf(a)] = true
		}
	}
}

func endpointOf(a net.Addr) endpoint {
	var e endpoint
	switch a := a.(type) {
	case *net.UDPAddr:
		e = endpoint{udp: true, addr: a.AddrPort()}
	case *net.TCPAddr:
		e = endpoint{addr: a.AddrPort()}
	}
	e.addr = netip.AddrPortFrom(e.addr.Addr().Unmap(), e.addr.Port())
	return e
}

// inbox holds what a stream's socket receives while its link is cut: it counts as still
// in flight.
type inbox struct {
	mu   sync.Mutex // one reader at a time
	data []byte
	err  error // behind data
	full bool

	deadline time.Time     // guarded by conn.mu
	closed   chan struct{} // closed by Close
}

// readCut implements Read for links that can be cut.
func (c *conn) readCut(b []byte) (int, error) {
	in := &c.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.full {
		n, err := c.Conn.Read(b)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) || !c.up.cuts.has(c.RemoteAddr()) {
			return n, err
		}
		in.data, in.err, in.full = append(in.data[:0], b[:n]...), err, true
	}
	for c.up.cuts.has(c.RemoteAddr()) {
		if err := c.waitHealed(); err != nil {
			return 0, err
		}
	}
	n := copy(b, in.data)
	if in.data = in.data[n:]; len(in.data) > 0 {
		return n, nil
	}
	in.full = false
	return n, in.err
}

// waitHealed waits until it is time to check the link again.
func (c *conn) waitHealed() error {
	c.mu.Lock()
	deadline := c.inbox.deadline
	c.mu.Unlock()
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return os.ErrDeadlineExceeded
	}
	select {
	case <-c.inbox.closed:
		return net.ErrClosed
	case <-time.After(lookEvery):
		return nil
	}
}
