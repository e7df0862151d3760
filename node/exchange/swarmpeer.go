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
	watchTime   = 10 * time.Second // for a peer's first report
	stallTime   = 30 * time.Second // for a chunk of what was asked for
	silenceMost = 3 * heartbeat    // between two reports
)

// swarmPeer is a peer that sends leaves in bulk and reports which it has. Those
// that fetch themselves are the members of the swarm.
type swarmPeer struct {
	f  *fetch
	in *lane
	id peer.ID

	// With scheduler.mu:
	held, wanted []byte // a bit per leaf
	inSwarm      bool   // it fetches, or did during this fetch
	leavesLeft   int    // that it wants and does not have
	gotLeaves    int    // since it joined
	joined       time.Time
	broughtBytes int64         // of leaves that it was the first of the swarm to have
	broughtAt    time.Time     // when it got the last of those
	broughtTook  time.Duration // for it to get those, without pauses
	passed       bool          // it owns nothing until it brings something
	unreliable   bool          // it claimed to have a leaf and did not have it
	salt         uint64        // see ownership.go
	gone         bool

	mu   sync.Mutex
	idle []*leafStream
	over bool // close was called
}

// leafStream is a stream on which leaves are asked for.
type leafStream struct {
	network.Stream
	r *bufio.Reader
}

func (m *swarmPeer) name() string       { return m.id.String() }
func (m *swarmPeer) workers() int       { return 2 } // one asks while the other's answer is under way
func (m *swarmPeer) mayAsk(n Need) bool { return protocol.Bit(m.held, n.Number) }

// batch is what comes in a quarter of a second: enough to keep the link busy, and
// little to wait for if the peer turns out slow.
func (m *swarmPeer) batch(rate float64) int {
	return int(max(1, min(8, rate/4/protocol.LeafSize)))
}

// stream returns an idle stream, or opens one.
func (m *swarmPeer) stream(ctx context.Context) (*leafStream, error) {
	m.mu.Lock()
	if n := len(m.idle); n > 0 {
		p := m.idle[n-1]
		m.idle = m.idle[:n-1]
		m.mu.Unlock()
		return p, nil
	}
	m.mu.Unlock()
	s, err := m.in.dialer.open(ctx, m.id, protocol.LeavesID)
	if err != nil {
		return nil, err
	}
	return &leafStream{s, bufio.NewReaderSize(s, 4<<10)}, nil
}

// putBack keeps a stream for the next request.
func (m *swarmPeer) putBack(p *leafStream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		_ = p.Reset()
		return
	}
	m.idle = append(m.idle, p)
}

// close ends the idle streams, and those that are put back later.
func (m *swarmPeer) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	for _, p := range m.idle {
		_ = p.Reset()
	}
	m.idle = nil
}

// get asks for leaves and reads them one after another.
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

// readLeaf reads the answer for one leaf.
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

// addrInfo is what a peer reports about where another is; zero if it makes no
// sense. The other must still prove who it is when it is dialled.
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
