package exchange

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	wire "github.com/shoalnet/shoal/protocol"
)

const (
	streamsIn = 16               // streams of one peer that are read at once
	chunk     = 32 << 10         // bytes
	bulkChunk = 128 << 10        // bytes, read at once
	chunkTime = 15 * time.Second // for a chunk to go out; many share a link
)

// inboundLimiter is the host as bitswap and bulk see it. It bounds what a peer
// can cost this node by sending, or by not reading. It is safe for concurrent use.
type inboundLimiter struct {
	host.Host
	ctx      context.Context // of the exchange
	up, down *rateLimiter

	mu     sync.Mutex
	closed bool
	ids    []protocol.ID
	open   map[network.Stream]struct{}
	slots  map[peer.ID]*peerStreams
}

// peerStreams bounds the streams of one peer.
type peerStreams struct {
	free  chan struct{}
	users int
}

func newInboundLimiter(ctx context.Context, h host.Host, up, down *rateLimiter) *inboundLimiter {
	return &inboundLimiter{Host: h, ctx: ctx, up: up, down: down, open: map[network.Stream]struct{}{}, slots: map[peer.ID]*peerStreams{}}
}

// SetStreamHandler refuses streams that cross a relay, and lets only streamsIn of a
// peer's streams be read at once; the others wait. Bitswap allocates a message, up to 4 MiB, as soon as its length has
// come.
func (d *inboundLimiter) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	d.setHandler(id, func(s network.Stream) bool { return !relayed(s.Conn()) }, handle)
}

// setHandler is SetStreamHandler for streams for which may returns true; others are refused.
func (d *inboundLimiter) setHandler(id protocol.ID, may func(network.Stream) bool, handle network.StreamHandler) {
	d.mu.Lock()
	d.ids = append(d.ids, id)
	d.mu.Unlock()
	d.Host.SetStreamHandler(id, func(s network.Stream) {
		if !may(s) { // libp2p refuses only outgoing ones
			_ = s.ResetWithError(network.StreamErrorCode(wire.ResetRelayed))
			return
		}
		leave := d.admit(s)
		defer leave()
		if id != wire.LeavesID && id != wire.HeadingID { // what comes there is small
			s = &pacedStream{Stream: s, ctx: d.ctx, rate: d.down}
		}
		handle(s)
	})
}

// admit waits until a stream may be read. leave must be called when it is over.
func (d *inboundLimiter) admit(s network.Stream) (leave func()) {
	p := s.Conn().RemotePeer()
	d.mu.Lock()
	if d.closed {
		_ = s.Reset()
	}
	d.open[s] = struct{}{}
	of := d.slots[p]
	if of == nil {
		of = &peerStreams{free: make(chan struct{}, streamsIn)}
		d.slots[p] = of
	}
	of.users++
	d.mu.Unlock()
	of.free <- struct{}{}
	return func() {
		<-of.free
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.open, s)
		if of.users--; of.users == 0 {
			delete(d.slots, p)
		}
	}
}

// close resets all inbound streams: bitswap leaves them open.
func (d *inboundLimiter) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, id := range d.ids {
		d.Host.RemoveStreamHandler(id)
	}
	for s := range d.open {
		_ = s.Reset()
	}
}

// NewStream opens a stream that fails when the peer stops reading. It fails with
// errRelayed if the peer is reached over a relay alone.
func (d *inboundLimiter) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	if onlyRelayed(d.Host, p) { // libp2p would wait for a direct connection
		return nil, errRelayed
	}
	s, err := d.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	if relayed(s.Conn()) {
		_ = s.Reset()
		return nil, errRelayed
	}
	return &steadyStream{Stream: s, ctx: d.ctx, rate: d.up}, nil
}

// steadyStream is a stream on which each chunk must be sent within chunkTime, at
// the rate that the operator and running sessions allow. Bitswap allows a message
// more than a minute, since links may be slow; a peer that reads nothing must cost
// less than that.
type steadyStream struct {
	network.Stream
	ctx      context.Context
	rate     *rateLimiter // nil: none
	slow     func()       // called when a chunk has taken slotTime; may be nil
	deadline time.Time
}

// SetWriteDeadline bounds all writes, besides the time per chunk.
func (s *steadyStream) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return s.Stream.SetWriteDeadline(t)
}

func (s *steadyStream) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		size := min(len(b), chunk)
		if s.rate != nil {
			if err := s.rate.wait(s.ctx, size); err != nil {
				return n, err
			}
		}
		by := time.Now().Add(chunkTime)
		if !s.deadline.IsZero() && s.deadline.Before(by) {
			by = s.deadline
		}
		if err = s.Stream.SetWriteDeadline(by); err != nil {
			return n, err
		}
		var late *time.Timer
		if s.slow != nil {
			late = time.AfterFunc(slotTime, s.slow)
		}
		var k int
		k, err = s.Stream.Write(b[:size])
		if late != nil {
			late.Stop()
		}
		n, b = n+k, b[k:]
	}
	return n, err
}

// pacedStream is a stream that is read at the rate that is allowed.
type pacedStream struct {
	network.Stream
	ctx  context.Context
	rate *rateLimiter
}

func (s *pacedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if n > 0 && s.rate != nil {
		if werr := s.rate.wait(s.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}
