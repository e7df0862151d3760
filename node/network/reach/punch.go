package reach

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// RetryEvery is how often a direct path to a relayed peer in use is tried for. To
	// one that is not in use it is the first wait, which doubles idleDoubles times.
	RetryEvery = 10 * time.Minute

	idleDoubles = 4 // to 160 minutes

	firstWait = 15 * time.Second // between tries when a session uses the path
	maxTried  = 1024             // peers that are remembered
)

// Retries decides when to try for a direct path to a relayed peer: when a
// session uses it, when this node's address has changed, and every RetryEvery, or
// less often if no session uses it. What failed is tried again after growing waits,
// because where two NATs do not match, each try costs packets and can only fail: to
// all of a home's idle peers, every ten minutes, they would be most of its traffic.
// The zero value is ready to use; it is not safe for concurrent use.
type Retries struct {
	all map[peer.ID]*tried
}

type tried struct {
	at    time.Time
	times int // because it was used, or was due
	idle  int // because it was due, since the last use
}

// Use reports whether to try now because a session uses the peer, and counts the
// try.
func (r *Retries) Use(p peer.ID, now time.Time) bool {
	if t := r.all[p]; t != nil {
		t.idle = 0
	}
	return r.after(p, now, func(t *tried) time.Duration { return min(RetryEvery, firstWait<<min(max(t.times-1, 0), 10)) })
}

// Tick reports whether to try now because enough time has passed, and counts the
// try.
func (r *Retries) Tick(p peer.ID, now time.Time) bool {
	due := r.after(p, now, func(t *tried) time.Duration { return RetryEvery << min(t.idle, idleDoubles) })
	if due {
		r.all[p].idle++
	}
	return due
}

func (r *Retries) after(p peer.ID, now time.Time, wait func(*tried) time.Duration) bool {
	if t := r.all[p]; t != nil && now.Sub(t.at) < wait(t) {
		return false
	}
	r.Tried(p, now)
	r.all[p].times++
	return true
}

// Tried notes a try that began for another reason, such as that the peer has
// just connected. It puts the next one off, but makes no later wait longer: several
// come at once where both sides have just met.
func (r *Retries) Tried(p peer.ID, now time.Time) {
	if r.all == nil {
		r.all = map[peer.ID]*tried{}
	}
	t := r.all[p]
	if t == nil {
		t = &tried{}
		r.all[p] = t
	}
	t.at = now
	for id, t := range r.all {
		if len(r.all) <= maxTried {
			break
		}
		if id != p && (now.Sub(t.at) >= RetryEvery || len(r.all) > 2*maxTried) {
			delete(r.all, id)
		}
	}
}

// Done forgets a peer: there is a direct path to it, or no path.
func (r *Retries) Done(p peer.ID) { delete(r.all, p) }

// Moved forgets all waits: from a new address, what failed may succeed.
func (r *Retries) Moved() { r.all = nil }
