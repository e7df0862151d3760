package exchange

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	relayWait    = 10 * time.Second // without a byte, before a fetch fails because no relay carries what is missing
	relayAgain   = 2 * time.Second  // before a peer that failed is asked for a block again
	askedAtATime = 4                // leaves
)

// errHeading means that a header is not for relays.
var errHeading = fmt.Errorf("its header has more than the %d MiB that are taken over relays", protocol.MaxHeading>>20)

// errTooOld means that a peer knows nothing of /shoal/heading/1.
var errTooOld = permanent{errors.New("its version sends no headers over relays")}

// relayedPeer is a holder to which only a relay leads. It is asked for what Need.Heading
// marks, and for nothing else. As a source it brings leaves of the header; blocks without a
// number come by byRelay.
type relayedPeer struct {
	f  *fetch
	in *lane
	id peer.ID

	mu      sync.Mutex
	later   time.Time // it is not asked for blocks before
	useless error     // it is not asked any more
}

func (m *relayedPeer) name() string       { return m.id.String() }
func (m *relayedPeer) workers() int       { return 1 }
func (m *relayedPeer) batch(float64) int  { return askedAtATime }
func (m *relayedPeer) mayAsk(n Need) bool { return n.Heading }

// get asks for leaves of the header.
func (m *relayedPeer) get(ctx context.Context, list []Need, got func(i int, data []byte) error) error {
	err := m.ask(ctx, list, got)
	m.note(ctx, err)
	return err
}

// relay makes a holder be asked over a relay for as long as there is no other way to it.
func (f *fetch) relay(ctx context.Context, p holder) {
	if !onlyRelayed(p.in.Host, p.ID) || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.relayed[p.ID] != nil {
		return
	}
	m := &relayedPeer{f: f, in: p.in, id: p.ID}
	f.relayed[p.ID] = m
	f.workers.Go(func() { m.run(ctx, p) })
}

// run has the holder be asked until something else than a relay leads to it.
func (m *relayedPeer) run(ctx context.Context, p holder) {
	leave := func() {}
	if m.f.total > 0 {
		leave = m.f.startSource(ctx, m, func() {})
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil && onlyRelayed(m.in.Host, m.id) {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	leave()
	m.f.mu.Lock()
	delete(m.f.relayed, m.id)
	m.f.mu.Unlock()
	if ctx.Err() == nil && m.in.connected(m.id) {
		dctx, cancel := context.WithTimeout(ctx, dialTime)
		defer cancel()
		m.f.meet(ctx, dctx, p)
	}
}

// relaysTurn reports whether holders are asked over relays: no other is connected, or
// nothing comes from those.
func (f *fetch) relaysTurn() bool {
	if f.tooMuch(0) {
		return false
	}
	idle, _, _ := f.idle()
	return len(f.connected()) == 0 || idle > impatient
}

// noteNeed notes what is still wanted of a model.
func (f *fetch) noteNeed(need []Need) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.headingLeft, f.weights = 0, false
	for _, n := range need {
		if n.Heading {
			f.headingLeft += int64(n.Size)
		} else {
			f.weights = true
		}
	}
}

// tooMuch reports whether so many bytes more than a fetch takes over relays, and else
// counts them.
func (f *fetch) tooMuch(size int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.headingLeft > protocol.MaxHeading || f.overRelays+size > protocol.MaxHeading {
		return true
	}
	f.overRelays += size
	return false
}

// relaysFail returns why what is missing of a header does not come over relays, where there
// is no other way to it; "": it may come.
func (f *fetch) relaysFail() string {
	large := f.tooMuch(0)
	if f.origins > 0 || len(f.connected()) > 0 {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.relayed) == 0 || f.weights { // there may be a direct path soon
		return ""
	}
	why := errHeading
	for _, m := range f.relayed {
		m.mu.Lock()
		useless := m.useless
		m.mu.Unlock()
		if useless == nil && !large {
			return ""
		}
		if !large {
			why = useless
		}
	}
	return fmt.Sprintf("only relays lead to the %d peers that have it: %s", len(f.relayed), why)
}

// noWeights says that some peers have what is missing, and no relay carries it; "": it is
// not so.
func (f *fetch) noWeights() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.relayed) == 0 || !f.weights {
		return ""
	}
	return fmt.Sprintf("only relays lead to %d peers that have it, and relays carry no weights", len(f.relayed))
}

// byRelay asks holders for a block over relays until one sends it, or ctx ends.
func (f *fetch) byRelay(ctx context.Context, n Need) ([]byte, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if m := f.relayedNow(); m != nil && f.relaysTurn() {
			data, err := m.block(ctx, n)
			if err == nil {
				return data, nil
			}
			f.x.log.Debug("a block does not come over a relay", "peer", m.id, "block", n.CID, "error", err)
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// relayedNow returns a holder that can be asked for a block now; nil: there is none.
func (f *fetch) relayedNow() *relayedPeer {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.relayed {
		if m.ready() {
			return m
		}
	}
	return nil
}

func (m *relayedPeer) ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.useless == nil && !time.Now().Before(m.later)
}

// note remembers what a request failed with.
func (m *relayedPeer) note(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var p permanent
	if errors.As(err, &p) || errors.Is(err, errBad) {
		m.useless = err
	}
	m.later = time.Now().Add(relayAgain)
}

// block asks for one block, and checks it.
func (m *relayedPeer) block(ctx context.Context, n Need) (data []byte, err error) {
	err = m.ask(ctx, []Need{n}, func(_ int, b []byte) error {
		if sum, err := n.CID.Prefix().Sum(b); err != nil || sum != n.CID {
			return fmt.Errorf("%w: block %s is another", errBad, n.CID)
		}
		data = bytes.Clone(b)
		return nil
	})
	m.note(ctx, err)
	if errors.Is(err, errBad) {
		m.f.blame(m.name(), err.Error())
	}
	if err == nil {
		m.f.x.ledger.Pass(m.name(), 0, len(data))
		m.f.x.taken.Add(uint64(len(data)))
	}
	return data, err
}

// ask asks for blocks and passes each to got as it comes. Errors are errBad, a permanent
// one if another try would not help, or what the connection failed with.
func (m *relayedPeer) ask(ctx context.Context, list []Need, got func(i int, data []byte) error) error {
	octx, cancel := context.WithTimeout(network.WithAllowLimitedConn(network.WithNoDial(ctx, "heading"), "heading"), watchTime)
	defer cancel()
	s, err := m.in.Host.NewStream(octx, m.id, protocol.HeadingID)
	if isUnspoken(err) {
		return errTooOld
	}
	if err != nil {
		return err
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	q := new(protocol.HeadingRequest)
	for _, n := range list {
		q.Blocks = append(q.Blocks, n.CID.Bytes())
	}
	_ = s.SetWriteDeadline(time.Now().Add(stallTime))
	err = protocol.WriteLeaves(s, q)
	r := bufio.NewReaderSize(s, 4<<10)
	for i := 0; i < len(list) && err == nil; i++ {
		err = m.read(ctx, s, r, i, list[i], func(data []byte) error { return got(i, data) })
	}
	if isUnspoken(err) { // libp2p asks for the protocol with the first bytes
		return errTooOld
	}
	return err
}

// refusal says why a block did not come.
func (m *relayedPeer) refusal(c network.Conn, n Need) error {
	if room := m.in.room(c); room < uint64(max(n.Size, protocol.LeafSize)) {
		return fmt.Errorf("the relay carries %d KiB more, which is too little for the header", room>>10)
	}
	return errors.New("a peer sends no more over relays for now")
}

// read reads the answer about block i of a request.
func (m *relayedPeer) read(ctx context.Context, s network.Stream, r *bufio.Reader, i int, n Need, got func([]byte) error) error {
	for {
		_ = s.SetReadDeadline(time.Now().Add(stallTime))
		h, err := protocol.ReadHeadingHead(r, i)
		switch {
		case errors.Is(err, protocol.ErrLeaves):
			return fmt.Errorf("%w: %w", errBad, err)
		case err != nil:
			return err
		case h.Size == protocol.LeafLater:
			continue
		case h.Size == 0:
			return errors.New("it does not have the block now")
		case h.Size == protocol.HeadingRefused:
			return permanent{m.refusal(s.Conn(), n)}
		case n.Size > 0 && int(h.Size) != n.Size:
			return fmt.Errorf("%w: %d bytes of block %s, which has %d", errBad, h.Size, n.CID, n.Size)
		case m.f.tooMuch(int64(h.Size)):
			return permanent{errHeading}
		}
		n.Size = int(h.Size)
		beat := func(by time.Time) error {
			m.f.scheduler.bytesCame()
			return s.SetReadDeadline(by)
		}
		return m.f.leafFrom(ctx, r, n, beat, got)
	}
}
