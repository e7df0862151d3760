package exchange

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	streamsIn = 16               // of a peer, read at once
	chunk     = 32 << 10         // bytes
	chunkTime = 15 * time.Second // for a chunk to go out; many share a link
)

// door is the host as bitswap sees it. It keeps in bounds what a peer can take
// of this node by sending, or by not reading.
type door struct {
	host.Host

	mu     sync.Mutex
	closed bool
	ids    []protocol.ID
	inside map[network.Stream]struct{}
	slots  map[peer.ID]*slots
}

// slots are for a peer's streams.
type slots struct {
	free  chan struct{}
	users int
}

func newDoor(h host.Host) *door {
	return &door{Host: h, inside: map[network.Stream]struct{}{}, slots: map[peer.ID]*slots{}}
}

// SetStreamHandler lets only so many of a peer's streams be read at once; the
// others wait. Bitswap makes room for a message, up to 4 MiB, as soon as its
// length has come.
func (d *door) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	d.mu.Lock()
	d.ids = append(d.ids, id)
	d.mu.Unlock()
	d.Host.SetStreamHandler(id, func(s network.Stream) {
		leave := d.enter(s)
		defer leave()
		handle(s)
	})
}

func (d *door) enter(s network.Stream) (leave func()) {
	p := s.Conn().RemotePeer()
	d.mu.Lock()
	if d.closed {
		_ = s.Reset()
	}
	d.inside[s] = struct{}{}
	of := d.slots[p]
	if of == nil {
		of = &slots{free: make(chan struct{}, streamsIn)}
		d.slots[p] = of
	}
	of.users++
	d.mu.Unlock()
	of.free <- struct{}{}
	return func() {
		<-of.free
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.inside, s)
		if of.users--; of.users == 0 {
			delete(d.slots, p)
		}
	}
}

// close ends all streams that came in, which bitswap leaves open.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, id := range d.ids {
		d.Host.RemoveStreamHandler(id)
	}
	for s := range d.inside {
		_ = s.Reset()
	}
}

// NewStream opens a stream that fails when the peer stops reading.
func (d *door) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := d.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	return &steady{Stream: s}, nil
}

// steady is a stream on which each chunk must go out in time. Bitswap gives a
// message more than a minute, since links may be slow; a peer that takes
// nothing is to cost less.
type steady struct {
	network.Stream
	deadline time.Time
}

func (s *steady) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return s.Stream.SetWriteDeadline(t)
}

func (s *steady) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		by := time.Now().Add(chunkTime)
		if !s.deadline.IsZero() && s.deadline.Before(by) {
			by = s.deadline
		}
		if err = s.Stream.SetWriteDeadline(by); err != nil {
			return n, err
		}
		var k int
		k, err = s.Stream.Write(b[:min(len(b), chunk)])
		n, b = n+k, b[k:]
	}
	return n, err
}
