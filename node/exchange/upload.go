package exchange

import (
	"bufio"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	idleStream = 2 * time.Minute        // without a request, before a stream is reset
	laterEvery = 5 * time.Second        // between two LeafLater to a peer that waits for a slot
	slotTime   = 2 * time.Second        // for a chunk to be sent, before a slow reader loses its slot
	newsTime   = 100 * time.Millisecond // in which news are gathered into one report
	heartbeat  = 20 * time.Second       // between two reports, so that a peer that is gone is noticed
	maxNews    = 4096                   // leaves in a report; if there are more, the whole state is sent
)

// Leaves are the leaves of a model, numbered as in protocol/README.md. It is safe
// for concurrent use.
type Leaves interface {
	LeafCount() int
	HeldLeaves() []byte // a bit per leaf; the caller's own
	// ReadLeaf reads a leaf into buf, if that is large enough. It fails if the
	// leaf is not held, or is not what its CID says.
	ReadLeaf(n int, buf []byte) ([]byte, error)
}

// leafReader is where an answer's leaves are read, as from Leaves.
type leafReader interface {
	ReadLeaf(n int, buf []byte) ([]byte, error)
}

// serveLeaves serves a stream of /shoal/leaves/1 in a network.
func (x *Exchange) serveLeaves(l *lane, s network.Stream) {
	if relayed(s.Conn()) {
		_ = s.Reset()
		return
	}
	r := bufio.NewReaderSize(s, 1<<10)
	for first := true; ; first = false {
		_ = s.SetReadDeadline(time.Now().Add(idleStream))
		q, err := protocol.ReadLeavesRequest(r)
		if err != nil {
			if errors.Is(err, protocol.ErrLeaves) {
				x.log.Debug("a request for leaves is refused", "peer", s.Conn().RemotePeer(), "error", err)
			}
			_ = s.Reset()
			return
		}
		model, err := cid.Cast(q.Model)
		var have Leaves
		if err == nil && l.may(s.Conn().RemotePeer(), model) {
			have = x.leaves(l, model)
		}
		switch {
		case have == nil || q.Watch && !first:
			err = errors.New("no such model")
		case q.Watch:
			x.serveWatch(l, s, model, have, q.Fetching)
			err = errors.New("the watch is over")
		default:
			err = x.upload(l.ctx, s, have, q.Leaves)
		}
		if err != nil {
			_ = s.Reset()
			return
		}
	}
}

// leaves returns the leaves of a model that is known here, as far as they may be sent in
// a network, nil: to this node itself; nil: it is not known, or has too many to be
// numbered.
func (x *Exchange) leaves(l *lane, model cid.Cid) Leaves {
	find := x.opt.Leaves
	if l != nil && l.Leaves != nil {
		find = l.Leaves
	}
	if find == nil {
		return nil
	}
	have := find(model)
	if have == nil || have.LeafCount() > protocol.MaxLeaves {
		return nil
	}
	return have
}

// upload answers a request, leaf by leaf, each when it has a slot.
func (x *Exchange) upload(ctx context.Context, s network.Stream, have leafReader, list []uint32) error {
	p := s.Conn().RemotePeer()
	out := &steadyStream{Stream: s, ctx: ctx, rate: x.up}
	buf, _ := x.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, protocol.LeafHeadSize+protocol.LeafSize)
		buf = &b
	}
	defer x.buffers.Put(buf)
	for _, n := range list {
		t := x.slots.request(p)
		err := x.awaitSlot(out, t, n)
		if err == nil {
			out.slow = t.giveUp
			err = x.uploadLeaf(out, have, p, n, *buf)
		}
		t.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitSlot waits for a slot, and tells the peer so from time to time.
func (x *Exchange) awaitSlot(out *steadyStream, t *slot, leaf uint32) error {
	tick := time.NewTimer(laterEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.ready:
			return nil
		case <-out.ctx.Done():
			return out.ctx.Err()
		case <-tick.C:
		}
		if _, err := out.Write(protocol.LeafHead{Leaf: leaf, Size: protocol.LeafLater}.Append(nil)); err != nil {
			return err
		}
		tick.Reset(laterEvery)
	}
}

// uploadLeaf sends one leaf, or a head that says that it is not here, or that it is refused.
func (x *Exchange) uploadLeaf(out *steadyStream, have leafReader, p peer.ID, n uint32, buf []byte) error {
	body := buf[protocol.LeafHeadSize:]
	raw, err := have.ReadLeaf(int(n), body)
	if err != nil {
		raw = nil
	}
	head := protocol.LeafHead{Leaf: n, Size: uint32(len(raw))}
	if errors.Is(err, errRefused) {
		head.Size = protocol.HeadingRefused
	}
	msg := head.Append(buf[:0])
	msg = append(msg, raw...) // copies nothing if the leaf was read into buf
	if _, err := out.Write(msg); err != nil {
		return err
	}
	x.given.Add(uint64(len(raw)))
	x.ledger.Pass(p.String(), len(raw), 0)
	return nil
}

// watchers are the peers that follow which leaves of a model this node has. It is
// safe for concurrent use.
type watchers struct {
	mu  sync.Mutex
	all map[cid.Cid]map[*watcher]struct{}
}

type watcher struct {
	in       *lane
	peer     peer.ID
	fetching bool
	wake     chan struct{} // capacity 1

	// With watchers.mu:
	got          []uint32
	sendAll      bool // the whole state is due
	sendFetchers bool // the list of other fetchers is due
}

func (w *watcher) notify() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (ws *watchers) add(model cid.Cid, w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all[model] == nil {
		ws.all[model] = map[*watcher]struct{}{}
	}
	if w.fetching {
		for o := range ws.all[model] {
			if o.in == w.in { // others must not hear of it
				o.sendFetchers = true
				o.notify()
			}
		}
	}
	ws.all[model][w] = struct{}{}
}

func (ws *watchers) remove(model cid.Cid, w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all[model], w)
	if len(ws.all[model]) == 0 {
		delete(ws.all, model)
	}
}

// leafCame reports a leaf that is held from now on.
func (ws *watchers) leafCame(model cid.Cid, leaf int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all[model] {
		if len(w.got) < maxNews {
			w.got = append(w.got, uint32(leaf))
		} else {
			w.sendAll = true
		}
		w.notify()
	}
}

// fetchChanged makes the whole state be sent: a fetch has begun or ended, or a model was
// imported.
func (ws *watchers) fetchChanged(model cid.Cid) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all[model] {
		w.sendAll = true
		w.notify()
	}
}

// pending returns what a watcher has not been sent yet, and counts it as sent.
func (ws *watchers) pending(model cid.Cid, w *watcher) (got []uint32, whole bool, fetchers []peer.ID) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	got, whole, w.got, w.sendAll = w.got, w.sendAll, nil, false
	if w.sendFetchers || whole {
		w.sendFetchers = false
		for o := range ws.all[model] {
			if o.in == w.in && o.fetching && o.peer != w.peer && !slices.Contains(fetchers, o.peer) && len(fetchers) < protocol.MaxFetchers {
				fetchers = append(fetchers, o.peer)
			}
		}
	}
	return got, whole, fetchers
}

// serveWatch reports to a peer which leaves of a model are held, and those that
// come, until it goes.
func (x *Exchange) serveWatch(l *lane, s network.Stream, model cid.Cid, have Leaves, fetching bool) {
	w := &watcher{in: l, peer: s.Conn().RemotePeer(), fetching: fetching, wake: make(chan struct{}, 1), sendAll: true}
	x.watchers.add(model, w)
	defer x.watchers.remove(model, w)
	if fetching {
		x.addHearsay(model, holder{peer.AddrInfo{ID: w.peer}, l})
	}
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	gone := make(chan struct{})
	defer func() { <-gone }()
	defer s.Reset()
	go func() { // the peer sends nothing more; the stream's end shows that it is gone
		defer close(gone)
		defer cancel()
		_ = s.SetReadDeadline(time.Time{})
		_, _ = s.Read(make([]byte, 1))
	}()
	out := &steadyStream{Stream: s, ctx: l.ctx}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		got, whole, fetchers := x.watchers.pending(model, w)
		st := &protocol.LeavesState{Got: got}
		if whole { // got is part of it
			st = &protocol.LeavesState{Total: uint32(have.LeafCount()), Held: have.HeldLeaves(), Wanted: x.wanted(model, have.LeafCount())}
		}
		for _, p := range fetchers {
			st.Fetchers = append(st.Fetchers, l.fetcher(p))
		}
		if err := protocol.WriteLeaves(out, st); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if !l.may(w.peer, model) { // it was told before the rules changed
				return
			}
			continue
		case <-w.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(newsTime):
		}
	}
}

// fetcher returns where a peer can be reached, as far as this node knows.
func (l *lane) fetcher(p peer.ID) *protocol.Fetcher {
	f := &protocol.Fetcher{Peer: []byte(p)}
	for _, a := range l.Host.Peerstore().Addrs(p) {
		if len(f.Addrs) < 8 {
			f.Addrs = append(f.Addrs, a.Bytes())
		}
	}
	return f
}
