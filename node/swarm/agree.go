package swarm

import (
	"math/rand/v2"
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
// first request carries the list already. If the member is being agreed with, that goes on
// until it has the list of now, and agree returns at once.
func (r *running) agree(p peer.ID, list bool) {
	if r.ask(p) {
		return
	}
	rest := backoff.Backoff{First: firstRest, Most: keepTime}
	for r.asked(p) {
		differs, err := r.tell(p, list, false)
		if err == nil && !differs {
			rest.Reset()
			continue
		}
		if err != nil && r.ctx.Err() == nil {
			r.s.log.Debug("a member does not answer", "swarm", r.s.Name(), "peer", p, "error", err)
		}
		if !r.connected(p) {
			continue // whoever connects again asks again
		}
		r.ask(p)
		if err == nil && !list {
			list = true
			continue
		}
		if rest.Wait(r.ctx) != nil {
			return
		}
	}
}

// ask notes that there is something to compare with a member. under reports whether agree
// is under way with it.
func (r *running) ask(p peer.ID) (under bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, under = r.agreeing[p]
	r.agreeing[p] = true
	return under
}

// asked reports whether ask was called since the last call; if not, agree is over.
func (r *running) asked(p peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.agreeing[p] {
		r.agreeing[p] = false
		return true
	}
	delete(r.agreeing, p)
	return false
}
