package swarm

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/backoff"
)

// firstRest is the pause after the first exchange that did not end in agreement.
const firstRest = time.Second

// push passes the newest list on to all connected members.
func (r *running) push() {
	for _, p := range r.net.Host().Network().Peers() {
		r.start(func() { r.agree(p, true) })
	}
}

// compare compares lists with a connected member from time to time. A member that is kept
// too busy to be told of a list asks for it so.
func (r *running) compare() {
	for backoff.Pause(r.ctx, keepTime) == nil {
		if all := r.net.Host().Network().Peers(); len(all) > 0 {
			p := all[rand.IntN(len(all))]
			r.start(func() { r.agree(p, false) })
		}
	}
}

// agree compares certificates, names and lists with a member until it is known to have the
// same list as this node, for as long as it is connected and r is attached. With list, the
// first request carries the list already.
func (r *running) agree(p peer.ID, list bool) {
	r.agreeing.with(r.ctx, p, list, r.connected, func(list bool) (differs bool, err error) {
		differs, err = r.tell(p, list, false)
		if err != nil && r.ctx.Err() == nil {
			r.s.log.Debug("a member does not answer", "swarm", r.s.Name(), "peer", p, "error", err)
		}
		return differs, err
	})
}

// agreeing is with whom lists are being compared. It is safe for concurrent use; the zero
// value is nobody.
type agreeing struct {
	mu sync.Mutex
	of map[peer.ID]bool // true: something has come meanwhile
}

// with tells a peer until it does not differ, for as long as it is connected and ctx
// lasts. If the peer is being agreed with, that goes on until it has what is told now, and
// with returns at once.
func (a *agreeing) with(ctx context.Context, p peer.ID, list bool, connected func(peer.ID) bool, tell func(list bool) (differs bool, err error)) {
	if a.ask(p) {
		return
	}
	rest := backoff.Backoff{First: firstRest, Most: keepTime}
	for a.asked(p) {
		differs, err := tell(list)
		if err == nil && !differs {
			rest.Reset()
			continue
		}
		if !connected(p) {
			continue // whoever connects again asks again
		}
		a.ask(p)
		if err == nil && !list {
			list = true
			continue
		}
		if rest.Wait(ctx) != nil {
			return
		}
	}
}

// ask notes that there is something to compare with a peer. under reports whether with is
// under way with it.
func (a *agreeing) ask(p peer.ID) (under bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = map[peer.ID]bool{}
	}
	_, under = a.of[p]
	a.of[p] = true
	return under
}

// asked reports whether ask was called since the last call; if not, with is over.
func (a *agreeing) asked(p peer.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[p] {
		a.of[p] = false
		return true
	}
	delete(a.of, p)
	return false
}
