package network

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
)

// Lookups are what lookups in the DHT have taken so far: the searches for the peers of a
// model, and those with which this node finds out where to announce itself. Of nodes that
// are gone, tables and answers have some, and dials of them make the slowest lookups.
type Lookups struct {
	Hops  Distribution // answers that led to each other, at most, per lookup that asked anybody
	First Distribution // seconds until the first provider, per search that found one
	Vain  uint64       // searches that found none
	Dials uint64       // peers that were not connected
	Dead  uint64       // those of Dials that could not be reached
}

// Distribution is how many values there were up to each of some bounds.
type Distribution struct {
	Count  uint64
	Sum    float64
	Within []uint64 // values up to the bound with that index; nil: there were none
}

// HopBounds and FirstBounds are the bounds of Lookups.Hops and Lookups.First, ascending.
var (
	HopBounds   = []float64{1, 2, 3, 4, 5, 6, 8, 12}
	FirstBounds = []float64{0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 4, 8}
)

func (d *Distribution) add(bounds []float64, v float64) {
	if d.Within == nil {
		d.Within = make([]uint64, len(bounds))
	}
	d.Count++
	d.Sum += v
	for i, b := range bounds {
		if v <= b {
			d.Within[i]++
		}
	}
}

func (d Distribution) plus(o Distribution) Distribution {
	d.Count, d.Sum = d.Count+o.Count, d.Sum+o.Sum
	if d.Within == nil {
		d.Within = slices.Clone(o.Within)
		return d
	}
	d.Within = slices.Clone(d.Within)
	for i, n := range o.Within {
		d.Within[i] += n
	}
	return d
}

// Plus returns the sum of both.
func (l Lookups) Plus(o Lookups) Lookups {
	return Lookups{Hops: l.Hops.plus(o.Hops), First: l.First.plus(o.First), Vain: l.Vain + o.Vain, Dials: l.Dials + o.Dials, Dead: l.Dead + o.Dead}
}

// lookups counts lookups. It is safe for concurrent use; the zero value has counted none.
type lookups struct {
	mu  sync.Mutex
	all Lookups
}

// Lookups returns what lookups in the DHT have taken so far.
func (n *Network) Lookups() Lookups {
	n.looked.mu.Lock()
	defer n.looked.mu.Unlock()
	return Lookups{}.Plus(n.looked.all)
}

// walk is one lookup.
type walk struct {
	began time.Time
	first time.Duration // until the first provider; negative: there is none yet

	depth       map[peer.ID]int // answers that led to a peer
	asked, hops int
	dialling    map[peer.ID]bool
	dials, dead int
}

// follow counts a lookup of a node, which is to use the context that it returns, until end is
// called. end ends that context, too, and is told whether the lookup was to find providers.
func (l *lookups) follow(ctx context.Context, self peer.ID) (look context.Context, w *walk, end func(search bool)) {
	w = &walk{began: time.Now(), first: -1, depth: map[peer.ID]int{self: 0}, dialling: map[peer.ID]bool{}}
	inner, cancel := context.WithCancel(ctx)
	look, events := routing.RegisterForQueryEvents(inner)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range events {
			w.note(e)
		}
	}()
	return look, w, func(search bool) {
		cancel()
		<-done
		l.count(w, search && ctx.Err() == nil)
	}
}

// count takes a lookup that has ended. vain says that a search without a provider was to the end.
func (l *lookups) count(w *walk, vain bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.asked > 0 {
		l.all.Hops.add(HopBounds, float64(w.hops))
	}
	switch {
	case w.first >= 0:
		l.all.First.add(FirstBounds, w.first.Seconds())
	case vain:
		l.all.Vain++
	}
	l.all.Dials += uint64(w.dials)
	l.all.Dead += uint64(w.dead)
}

// found notes a provider.
func (w *walk) found() {
	if w.first < 0 {
		w.first = time.Since(w.began)
	}
}

// note takes one of the DHT's events.
func (w *walk) note(e *routing.QueryEvent) {
	switch e.Type {
	case routing.DialingPeer:
		w.dialling[e.ID] = true
		w.dials++
	case routing.SendingQuery:
		delete(w.dialling, e.ID)
		w.asked++
		if _, ok := w.depth[e.ID]; !ok {
			w.depth[e.ID] = 1
		}
	case routing.QueryError: // of a dial, or of a peer that was asked
		if w.dialling[e.ID] {
			delete(w.dialling, e.ID)
			if !strings.Contains(e.Extra, context.Canceled.Error()) { // the lookup has ended before
				w.dead++
			}
		}
	case routing.PeerResponse:
		w.hops = max(w.hops, w.depth[e.ID])
		for _, r := range e.Responses {
			if _, ok := w.depth[r.ID]; !ok {
				w.depth[r.ID] = w.depth[e.ID] + 1
			}
		}
	}
}
