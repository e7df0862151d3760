package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

const (
	watchTime = 10 * time.Second // for a peer's first word
	stallTime = 30 * time.Second // without a byte of what was asked for
	silence   = 3 * heartbeat    // of a peer that is watched
)

// mate is a peer that gives leaves in bulk, and tells what it has. Mates that
// fetch themselves form the swarm.
type swarmPeer struct {
	f  *fetch
	id peer.ID

	// With desk.mu:
	held, wanted []byte
	inSwarm      bool  // it fetches, or did during this fetch
	leavesLeft   int   // leaves that it wants
	gotLeaves    int   // leaves that it got since it joined
	broughtBytes int64 // bytes of those leaves that nobody else in the swarm had
	joined       time.Time
	broughtAt    time.Time     // the last of those
	broughtTook  time.Duration // to get those, without pauses
	passed       bool          // it was to bring something and did not
	unreliable   bool          // it said that it has a leaf and did not have it
	salt         uint64
	gone         bool

	mu   sync.Mutex
	idle []*leafStream
	over bool
}

// pipe is a stream on which leaves are asked for.
type leafStream struct {
	network.Stream
	r *bufio.Reader
}

func (m *swarmPeer) name() string       { return m.id.String() }
func (m *swarmPeer) workers() int       { return 2 } // one asks while the other's answer is under way
func (m *swarmPeer) mayAsk(n Need) bool { return protocol.Bit(m.held, n.Number) }

// most is what comes in a quarter of a second: enough to fill the way, and
// soon given back if the source turns out slow.
func (m *swarmPeer) batch(rate float64) int {
	return int(max(1, min(8, rate/4/protocol.LeafSize)))
}

func (m *swarmPeer) stream(ctx context.Context) (*leafStream, error) {
	m.mu.Lock()
	if n := len(m.idle); n > 0 {
		p := m.idle[n-1]
		m.idle = m.idle[:n-1]
		m.mu.Unlock()
		return p, nil
	}
	m.mu.Unlock()
	s, err := m.f.x.dialer.open(ctx, m.id, protocol.LeavesID)
	if err != nil {
		return nil, err
	}
	return &leafStream{s, bufio.NewReaderSize(s, 4<<10)}, nil
}

func (m *swarmPeer) putBack(p *leafStream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		_ = p.Reset()
		return
	}
	m.idle = append(m.idle, p)
}

func (m *swarmPeer) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	for _, p := range m.idle {
		_ = p.Reset()
	}
	m.idle = nil
}

// get asks for leaves and takes them one after another.
func (m *swarmPeer) get(ctx context.Context, ask []Need, got func(i int, data []byte) error) (err error) {
	p, err := m.stream(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Reset() })
	defer func() {
		if !stop() || err != nil {
			_ = p.Reset()
		} else {
			m.putBack(p)
		}
	}()
	q := &protocol.LeavesRequest{Model: m.f.model.Bytes()}
	for _, n := range ask {
		q.Leaves = append(q.Leaves, uint32(n.Number))
	}
	_ = p.SetWriteDeadline(time.Now().Add(stallTime))
	if err := protocol.WriteLeaves(p, q); err != nil {
		return err
	}
	for i, n := range ask {
		if err := m.readLeaf(ctx, p, n, func(data []byte) error { return got(i, data) }); err != nil {
			return err
		}
	}
	return nil
}

// take takes one leaf off a pipe.
func (m *swarmPeer) readLeaf(ctx context.Context, p *leafStream, n Need, got func([]byte) error) error {
	for {
		_ = p.SetReadDeadline(time.Now().Add(stallTime))
		h, err := protocol.ReadLeafHead(p.r, n.Number, n.Size)
		switch {
		case errors.Is(err, protocol.ErrLeaves):
			return fmt.Errorf("%w: %w", errBad, err)
		case err != nil:
			return err
		case h.Size == 0:
			m.f.scheduler.peerLacks(m, n.Number)
			return nil
		case h.Size == protocol.LeafLater:
			continue
		}
		beat := func(by time.Time) error {
			m.f.scheduler.bytesCame()
			return p.SetReadDeadline(by)
		}
		return m.f.leafFrom(ctx, p.r, n, beat, got)
	}
}

// addrInfo is what a peer says of where another is. It is hearsay, and not
// believed before that one has proved who it is.
func addrInfo(o *protocol.Fetcher) (info peer.AddrInfo) {
	id, err := peer.IDFromBytes(o.Peer)
	if err != nil {
		return info
	}
	info.ID = id
	for _, b := range o.Addrs {
		if a, err := ma.NewMultiaddrBytes(b); err == nil && !slices.ContainsFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_CIRCUIT }) {
			info.Addrs = append(info.Addrs, a)
		}
	}
	return info
}
