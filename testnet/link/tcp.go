package link

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
)

// The model of a TCP sender (doc.go says what it leaves out). Sizes in bytes.
const (
	segment     = 1448 // payload of one packet
	tcpOverhead = 52   // IP and TCP headers with timestamps
	firstWindow = 10 * segment
	maxWindow   = 3 << 20
	sendBuffer  = 64 << 10 // beyond two windows
	minRTO      = 200 * time.Millisecond
	tcpLinger   = 10 * time.Second
)

// conn delays what is written to a TCP connection; it does not delay reads.
//
//	Write -> buf -> pump: window, uplink -> flight (until its time) -> socket
type conn struct {
	manet.Conn
	up    *uplink
	start time.Time     // nothing is sent before
	wake  chan struct{} // for the pump, holds one

	mu       sync.Mutex
	room     chan struct{} // closed and replaced when a writer should look again
	deadline time.Time     // of Write
	buf      [][]byte      // written, but not yet sent
	buffered int
	flight   []sending // sent, not yet at the other end, by time
	unacked  []sending // sent, acknowledgement not yet back, by time; no bytes
	out      int       // payload in unacked
	window   int
	thresh   int       // slow start ends at this window
	limited  bool      // the window held the sender back
	shrunk   time.Time // when the window was last cut
	lastSent time.Time
	lastAt   time.Time // when the last byte so far arrives
	nextWake time.Time // of the earliest wake event in the timeline

	finAt    time.Time // when the end of stream arrives, once asked for; zero: not asked
	finSent  bool
	closed   bool
	abortAt  time.Time // of what lingers after Close
	writeErr error

	inbox inbox // if the link can be cut
}

// sending is a chunk in flight.
type sending struct {
	data []byte
	n    int // payload
	wire int // held on the uplink
	at   time.Time
}

func newConn(raw manet.Conn, up *uplink, start time.Time) *conn {
	c := &conn{
		Conn: raw, up: up, start: start,
		wake: make(chan struct{}, 1), room: make(chan struct{}), inbox: inbox{closed: make(chan struct{})},
		window: firstWindow, thresh: maxWindow,
	}
	up.timeline.hold()
	go c.pump()
	return c
}

// Write takes b into the send buffer and waits only for room in it.
func (c *conn) Write(b []byte) (int, error) {
	n := 0
	for {
		c.mu.Lock()
		if err := c.writableLocked(); err != nil {
			c.mu.Unlock()
			return n, err
		}
		if free := sendBuffer + 2*c.window - c.buffered; free > 0 {
			take := min(free, len(b)-n)
			if take > 0 {
				c.buf = append(c.buf, append([]byte(nil), b[n:n+take]...))
				c.buffered += take
				n += take
			}
		}
		room, deadline := c.room, c.deadline
		c.mu.Unlock()
		c.poke()
		if n == len(b) {
			return n, nil
		}
		waitFor(room, deadline)
	}
}

func (c *conn) writableLocked() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeErr != nil:
		return c.writeErr
	case !c.finAt.IsZero():
		return errors.New("link: write after CloseWrite")
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func waitFor(ready <-chan struct{}, deadline time.Time) {
	if deadline.IsZero() {
		<-ready
		return
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-ready:
	case <-t.C:
	}
}

// poke makes the pump look at its state.
func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// fire implements event: the timeline wakes the pump.
func (c *conn) fire() { c.poke() }

// tellWritersLocked makes blocked writers check the state again.
func (c *conn) tellWritersLocked() {
	close(c.room)
	c.room = make(chan struct{})
}

// pump moves bytes until the connection is closed and everything that lingers has been
// sent. Only it writes to the socket.
func (c *conn) pump() {
	defer c.up.timeline.release()
	for {
		c.mu.Lock()
		now := time.Now()
		c.acknowledgeLocked(now)
		arrived := c.arrivedLocked(now)
		if arrived == nil {
			next := c.sendLocked(now)
			ended, at := c.endLocked(now)
			if ended {
				c.mu.Unlock()
				return
			}
			next = earlier(next, at)
			if len(c.flight) > 0 {
				next = earlier(next, c.flight[0].at)
			}
			if len(c.unacked) > 0 && c.limited {
				next = earlier(next, c.unacked[0].at)
			}
			c.wakeAtLocked(now, next)
			c.mu.Unlock()
			<-c.wake
			continue
		}
		c.mu.Unlock()
		_, err := c.Conn.Write(arrived.data)
		c.up.done(arrived.wire)
		if err != nil {
			c.fail(err)
		}
	}
}

// arrivedLocked removes and returns the first chunk in flight if it is due.
func (c *conn) arrivedLocked(now time.Time) *sending {
	if len(c.flight) == 0 || c.flight[0].at.After(now) {
		return nil
	}
	s := c.flight[0]
	c.flight[0] = sending{}
	c.flight = c.flight[1:]
	return &s
}

// acknowledgeLocked opens the window as acknowledgements come back.
func (c *conn) acknowledgeLocked(now time.Time) {
	for len(c.unacked) > 0 && !c.unacked[0].at.After(now) {
		n := c.unacked[0].n
		c.unacked = c.unacked[1:]
		c.out -= n
		if !c.limited {
			continue // an unused window does not grow
		}
		if c.window < c.thresh {
			c.window = min(c.window+n, maxWindow)
		} else {
			c.window = min(c.window+max(1, segment*n/c.window), maxWindow)
		}
	}
}

// sendLocked puts what the window allows on the wire. It returns when to try
// again for a reason other than the window; zero if there is none.
func (c *conn) sendLocked(now time.Time) (next time.Time) {
	if c.buffered == 0 {
		c.limited = false
		return time.Time{}
	}
	if now.Before(c.start) {
		return c.start
	}
	if c.up.cuts.has(c.RemoteAddr()) {
		return now.Add(lookEvery)
	}
	if c.out == 0 { // an idle sender forgets what the link could take
		rto := c.up.RTT + minRTO
		for idle := now.Sub(c.lastSent); idle > rto && c.window > firstWindow; idle -= rto {
			c.window = max(c.window/2, firstWindow)
		}
	}
	sentAny := false
	for c.buffered > 0 && c.out < c.window {
		head := c.buf[0]
		n := min(len(head), c.window-c.out, firstWindow)
		packets := (n + segment - 1) / segment
		wire := n + packets*tcpOverhead
		at, v := c.up.send(now, wire, packets, true)
		if v == full {
			if now.Sub(c.shrunk) > c.up.RTT {
				c.shrunk = now
				c.window = max(c.window*7/10, firstWindow)
				c.thresh = c.window
			}
			next = c.up.room(now)
			break
		}
		if v == lost {
			at = at.Add(c.up.RTT)
		}
		if at.Before(c.lastAt) {
			at = c.lastAt
		}
		c.lastAt, c.lastSent, sentAny = at, now, true
		c.flight = append(c.flight, sending{data: head[:n], n: n, wire: wire, at: at})
		c.unacked = append(c.unacked, sending{n: n, at: at.Add(c.up.RTT / 2)})
		c.out += n
		c.buffered -= n
		if c.buf[0] = head[n:]; n == len(head) {
			c.buf[0] = nil
			c.buf = c.buf[1:]
		}
	}
	c.limited = c.out >= c.window
	if sentAny {
		c.tellWritersLocked()
	}
	return next
}

// endLocked sends the end of the stream when all bytes before it have arrived,
// and closes the socket after Close. It returns when to look again.
func (c *conn) endLocked(now time.Time) (ended bool, next time.Time) {
	if c.finAt.IsZero() {
		return false, time.Time{}
	}
	drained := c.buffered == 0 && len(c.flight) == 0
	cut := drained && c.up.cuts.has(c.RemoteAddr())
	due := drained && !cut && !now.Before(c.finAt) && !now.Before(c.lastAt)
	if due && !c.finSent {
		c.finSent = true
		if !c.closed {
			closeWrite(c.Conn)
		}
	}
	if !c.closed {
		switch {
		case cut && !c.finSent:
			next = now.Add(lookEvery)
		case drained && !due:
			next = c.finAt
		}
		return false, next
	}
	if due || c.writeErr != nil || !now.Before(c.abortAt) {
		c.dropLocked()
		c.Conn.Close()
		return true, time.Time{}
	}
	switch {
	case cut:
		return false, now.Add(lookEvery)
	case drained:
		return false, c.finAt
	}
	return false, c.abortAt
}

// dropLocked discards everything that was not delivered.
func (c *conn) dropLocked() {
	for _, s := range c.flight {
		c.up.done(s.wire)
	}
	c.flight, c.unacked, c.buf, c.buffered, c.out = nil, nil, nil, 0, 0
}

// fail ends the sending side after the socket did.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeErr == nil {
		c.writeErr = err
	}
	c.dropLocked()
	c.tellWritersLocked()
}

// wakeAtLocked asks the timeline for a wake-up, unless an earlier one that is
// still to come will do: the pump then asks again.
func (c *conn) wakeAtLocked(now, at time.Time) {
	if at.IsZero() || c.nextWake.After(now) && !c.nextWake.After(at) {
		return
	}
	c.nextWake = at
	c.up.timeline.at(at, c)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Read is the socket's, except for the error after Close.
func (c *conn) Read(b []byte) (int, error) {
	read := c.Conn.Read
	if c.up.cuts != nil {
		read = c.readCut
	}
	n, err := read(b)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			err = net.ErrClosed
		}
	}
	return n, err
}

// Close returns at once; bytes written before are still delivered.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	now := time.Now()
	c.closed = true
	close(c.inbox.closed)
	c.abortAt = now.Add(tcpLinger)
	if c.finAt.IsZero() {
		c.finAt = now.Add(c.up.RTT / 2)
	}
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	_ = c.Conn.SetWriteDeadline(c.abortAt)
	c.tellWritersLocked()
	c.poke()
	return nil
}

// CloseWrite ends this side's stream after what was written.
func (c *conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.finAt.IsZero() {
		c.finAt = time.Now().Add(c.up.RTT / 2)
	}
	c.poke()
	return nil
}

func (c *conn) CloseRead() error {
	if r, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return r.CloseRead()
	}
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.inbox.deadline = t
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.deadline = t
	c.tellWritersLocked()
	return nil
}

// The transport sets these on the connections that it accepts.

func (c *conn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

func (c *conn) SetKeepAlive(on bool) error {
	if k, ok := c.Conn.(interface{ SetKeepAlive(bool) error }); ok {
		return k.SetKeepAlive(on)
	}
	return nil
}

func (c *conn) SetKeepAlivePeriod(d time.Duration) error {
	if k, ok := c.Conn.(interface{ SetKeepAlivePeriod(time.Duration) error }); ok {
		return k.SetKeepAlivePeriod(d)
	}
	return nil
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}
