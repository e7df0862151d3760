package exchange

import (
	"slices"
	"sync"

	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	lookNow   = time.Second      // between two searches while there are no holders
	lookAgain = 5 * time.Second  // while nothing comes
	lookMore  = 30 * time.Second // while blocks come
	lookTime  = 10 * time.Second // for a search
	dialTime  = 5 * time.Second
)

// join makes a holder a source in bulk for as long as it is connected. One that
// does not speak the protocol is left to bitswap.
func (f *fetch) join(ctx context.Context, l *lane, p peer.ID) {
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, lookMore) {
		begin := time.Now()
		err := f.watchPeer(ctx, l, p)
		if f.x.ledger.Bad(p.String()) || isUnspoken(err) || errors.Is(err, errBad) || errors.Is(err, errUnknown) && !l.speaks(p) {
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
		if ctx.Err() == nil && !l.connected(p) {
			f.forgetBulk(p) // it is joined again when it is found again
			return
		}
	}
}

// errUnknown ends a watch: the peer does not know the model, or not yet.
var errUnknown = errors.New("the peer tells nothing of the model")

// watchPeer follows what a peer reports to have, and makes it a source until the
// watch fails.
func (f *fetch) watchPeer(ctx context.Context, l *lane, p peer.ID) error {
	dctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	s, err := l.dialer.open(dctx, p, protocol.LeavesID)
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
	m := &swarmPeer{f: f, in: l, id: p, joined: time.Now(), salt: saltOf(p)}
	defer m.close()
	over, got := func() {}, 0
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
		_ = s.SetReadDeadline(time.Now().Add(silenceMost))
		if n := f.scheduler.peerHas(m, st); n > got {
			got = n
			f.gained()
		}
		for _, o := range st.Fetchers {
			info := addrInfo(o)
			if l.Believable != nil {
				info.Addrs = l.Believable(p, info.Addrs)
			}
			f.addHearsay(holder{info, l})
		}
		if first {
			f.setBulk(p, true)
			over = f.startSource(ctx, m, func() { _ = s.Reset() })
		}
	}
}

// gained has a fetch to which nothing comes go on, and ask again by bitswap, too: a peer
// has got leaves since it was asked, and may have got what lists them. The peer can say
// so no more often than there are leaves.
func (f *fetch) gained() {
	if idle, _, _ := f.idle(); idle > lookAgain {
		f.mark(&f.lastCame)
		f.newHolder.Store(true)
	}
}

// keepLooking finds holders until ctx ends: those that the Finder knows, also
// when they appear during the fetch, and those that peers name.
func (f *fetch) keepLooking(ctx context.Context) {
	tick := time.NewTicker(lookNow)
	defer tick.Stop()
	for {
		f.look(ctx)
		for looked := time.Now(); time.Since(looked) < f.searchPause(); {
			select {
			case <-ctx.Done():
				return
			case p := <-f.heard:
				f.workers.Go(func() {
					dctx, cancel := context.WithTimeout(ctx, dialTime)
					defer cancel()
					f.meet(ctx, dctx, p)
				})
			case <-tick.C:
			}
		}
	}
}

// addHearsay takes a peer's word on where a holder is.
func (f *fetch) addHearsay(p holder) {
	f.mu.Lock()
	known := p.ID == "" || f.x.own(p.ID) || among(f.holders, p.ID) || len(f.holders) >= maxHolders
	f.mu.Unlock()
	if known {
		return
	}
	select {
	case f.heard <- p:
	default: // it will be named again
	}
}

// meet connects to a holder, unless it has lied, and joins it.
func (f *fetch) meet(ctx, dctx context.Context, p holder) {
	if f.x.own(p.ID) || p.in.over() || f.x.ledger.Bad(p.ID.String()) {
		return
	}
	f.meeting.Add(1)
	defer f.meeting.Add(-1)
	isNew := f.note(p)
	f.relay(ctx, p)
	if err := p.in.Host.Connect(dctx, p.AddrInfo); err != nil {
		return
	}
	f.relay(ctx, p)
	if isNew {
		f.newHolder.Store(true)
	}
	if f.total == 0 || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	_, known := f.bulk[p.ID]
	if !known {
		f.bulk[p.ID] = joining
	}
	f.mu.Unlock()
	if !known {
		f.workers.Go(func() { f.join(ctx, p.in, p.ID) })
	}
}

// knows reports whether a peer is a known holder.
func (f *fetch) knows(p peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return among(f.holders, p)
}

// setBulk notes whether a holder gives leaves in bulk.
func (f *fetch) setBulk(p peer.ID, does bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if does {
		f.bulk[p] = inBulk
		return
	}
	if f.bulk[p] != byBitswap {
		f.bulk[p] = byBitswap
		f.newHolder.Store(true)
	}
}

// forgetBulk makes the holder be joined again when it is met again.
func (f *fetch) forgetBulk(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.bulk, p)
}

// bitswapOnly reports whether some holder can be asked by bitswap alone.
func (f *fetch) bitswapOnly() bool {
	return slices.ContainsFunc(f.connected(), func(p holder) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.bulk[p.ID] == byBitswap
	})
}

// mayMeetPeers reports whether peers that have the model may be about to be met.
func (f *fetch) mayMeetPeers() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.looked || len(f.holders) > 0 || slices.ContainsFunc(f.x.lanes(), func(l *lane) bool { return len(l.Host.Network().Peers()) > 0 })
}

// met reports whether origins may be asked: no connection to a peer is being
// made any more, or that has taken too long. A member of the swarm that asks
// before it knows the others takes itself for the owner of all leaves.
func (f *fetch) met() bool {
	took := time.Since(f.scheduler.began)
	if took > graceMost || !f.mayMeetPeers() {
		return true
	}
	return took > graceTime && f.meeting.Load() == 0 && !f.joins()
}

// joins reports whether some holder that was met has not answered yet.
func (f *fetch) joins() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, state := range f.bulk {
		if state == joining {
			return true
		}
	}
	return false
}

// searchPause is how long to wait between two searches for holders.
func (f *fetch) searchPause() time.Duration {
	if len(f.connected()) == 0 {
		return lookNow
	}
	if idle, _, _ := f.idle(); idle > lookAgain {
		return lookAgain
	}
	return lookMore
}

// look finds and connects to holders. Those known before stay: the search may
// have failed.
func (f *fetch) look(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range f.x.lanes() {
		wg.Go(func() { f.lookIn(ctx, l) })
	}
	wg.Wait()
	f.mu.Lock()
	f.looked = true
	f.mu.Unlock()
}

// lookIn is look in one network.
func (f *fetch) lookIn(ctx context.Context, l *lane) {
	var wg sync.WaitGroup
	defer wg.Wait()
	meet := func(list []peer.AddrInfo) {
		for _, p := range list {
			wg.Go(func() {
				dctx, cancel := context.WithTimeout(ctx, dialTime)
				defer cancel()
				f.meet(ctx, dctx, holder{p, l})
			})
		}
	}
	if l.Known != nil {
		meet(l.Known(f.model))
	}
	sctx, cancel := context.WithTimeout(ctx, lookTime)
	found, err := l.Find.Holders(sctx, f.model)
	cancel()
	if err != nil {
		f.x.log.Debug("looking for holders", "model", f.model, "error", err)
	}
	meet(found)
}

// note adds a holder, and reports whether it is new.
func (f *fetch) note(p holder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, q := range f.holders {
		if q.ID == p.ID {
			if q.in.over() {
				f.holders[i] = p
			}
			return q.in.over()
		}
	}
	f.holders = append(f.holders, p)
	return true
}

// connected lists the holders that can be asked: those that are hidden from
// bitswap cannot.
func (f *fetch) connected() (out []holder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.holders {
		if p.in.connected(p.ID) && !p.in.bitswap.Shuns(p.ID) {
			out = append(out, p)
		}
	}
	return out
}

// connectedIn is connected for one network.
func (f *fetch) connectedIn(l *lane) (out []peer.AddrInfo) {
	for _, p := range f.connected() {
		if p.in == l {
			out = append(out, p.AddrInfo)
		}
	}
	return out
}

// among reports whether a peer is in a list.
func among(list []holder, p peer.ID) bool {
	return slices.ContainsFunc(list, func(q holder) bool { return q.ID == p })
}
