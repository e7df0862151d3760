package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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

// fill reads what comes in bulk, chunk by chunk, at the pace that the operator
// and running sessions allow.
func (f *fetch) readPaced(ctx context.Context, data []byte, r io.Reader, deadline func(time.Time) error) error {
	for at := 0; at < len(data); {
		n := min(len(data)-at, bulkChunk)
		if err := f.x.down.wait(ctx, n); err != nil {
			return err
		}
		_ = deadline(time.Now().Add(stallTime))
		if _, err := io.ReadFull(r, data[at:at+n]); err != nil {
			return err
		}
		at += n
		f.mark(&f.lastCame)
	}
	return nil
}

// join has a holder give in bulk for as long as it is there. One that does not
// speak the protocol is left to bitswap.
func (f *fetch) join(ctx context.Context, p peer.ID) {
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, lookMore) {
		begin := time.Now()
		err := f.watchPeer(ctx, p)
		if f.x.ledger.Bad(p.String()) || isUnspoken(err) || errors.Is(err, errBad) || errors.Is(err, errUnknown) && !f.x.speaks(p) {
			f.setBulk(p, false)
			return
		}
		if ctx.Err() != nil {
			return
		}
		f.x.log.Debug("no leaves in bulk", "peer", p, "error", err)
		f.setBulk(p, false)
		if time.Since(begin) > lookMore {
			wait = time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() == nil && f.x.host.Network().Connectedness(p) != network.Connected {
			f.forgetBulk(p) // it is joined again when it is found again
			return
		}
	}
}

// errUnknown ends a watch whose peer does not know the model, or not yet.
var errUnknown = errors.New("the peer tells nothing of the model")

// speaks says whether a peer is known to speak the protocol.
func (x *Exchange) speaks(p peer.ID) bool {
	list, err := x.host.Peerstore().SupportsProtocols(p, protocol.LeavesID)
	return err == nil && len(list) > 0
}

// watchMate follows what a peer tells, and has it give.
func (f *fetch) watchPeer(ctx context.Context, p peer.ID) error {
	dctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	s, err := f.x.dialer.open(dctx, p, protocol.LeavesID)
	if err != nil {
		return err
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(watchTime))
	if err := protocol.WriteLeaves(s, &protocol.LeavesRequest{Model: f.model.Bytes(), Watch: true, Fetching: true}); err != nil {
		return err
	}
	r := bufio.NewReaderSize(s, 4<<10)
	m := &swarmPeer{f: f, id: p, joined: time.Now(), salt: saltOf(p)}
	defer m.close()
	over := func() {}
	defer func() { over() }()
	for first := true; ; first = false {
		st, err := protocol.ReadLeavesState(r, f.total)
		switch {
		case errors.Is(err, protocol.ErrLeaves), err == nil && first && st.Total == 0:
			f.blame(m.name(), "it does not keep to the protocol")
			return fmt.Errorf("%w: %w", errBad, err)
		case err != nil && first && isUnspoken(err):
			return err
		case err != nil && first:
			return fmt.Errorf("%w: %w", errUnknown, err)
		case err != nil:
			return err
		}
		_ = s.SetReadDeadline(time.Now().Add(silence))
		f.scheduler.peerHas(m, st)
		for _, o := range st.Fetchers {
			info := addrInfo(o)
			if f.x.opt.Believable != nil {
				info.Addrs = f.x.opt.Believable(p, info.Addrs)
			}
			f.addHearsay(info)
		}
		if first {
			f.setBulk(p, true)
			over = f.startSource(ctx, m, func() { _ = s.Reset() })
		}
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
