package outer

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// LeastPlace is how long a place at a relay must last. Each that is lost or gained changes
	// this node's addresses, of which all of its peers are told.
	LeastPlace = time.Minute

	firstRest = 5 * time.Second // doubles up to lastRest
	lastRest  = 10 * time.Minute
	maxRests  = 256
	moveTime  = 15 * time.Second // after this node has moved, in which a place is lost through no fault of the relay's
)

// Rests is which relays are left alone for a while, longer each time: those that have failed,
// and those at which a place did not last. The zero value is none. It is not safe for
// concurrent use.
type Rests struct {
	of    map[peer.ID]rest
	moved time.Time
}

type rest struct {
	until time.Time
	last  time.Duration
}

// Tire leaves a relay alone for a while from now on.
func (r *Rests) Tire(relay peer.ID, now time.Time) {
	if r.of == nil || len(r.of) >= maxRests {
		r.of = map[peer.ID]rest{}
	}
	last := min(lastRest, max(firstRest, 2*r.of[relay].last))
	r.of[relay] = rest{now.Add(last), last}
}

// Lost notes the end of a place that there was since a time.
func (r *Rests) Lost(relay peer.ID, since, now time.Time) {
	switch {
	case now.Sub(since) >= LeastPlace:
		r.Forgive(relay)
	case now.Sub(r.moved) >= moveTime:
		r.Tire(relay, now)
	}
}

// Forgive forgets what a relay has done.
func (r *Rests) Forgive(relay peer.ID) { delete(r.of, relay) }

// Moved forgets what all relays have done, since this node is elsewhere now.
func (r *Rests) Moved(now time.Time) { r.of, r.moved = nil, now }

// Resting reports whether a relay is to be left alone.
func (r *Rests) Resting(relay peer.ID, now time.Time) bool { return now.Before(r.of[relay].until) }
