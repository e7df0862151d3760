package exchange

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	turnsAtOnce  = 4 // leaves on their way out in bulk, to all peers
	strangerTurn = 4 // every so many turns go to whoever waits longest
)

// turns says whose leaf goes out next. Of the peers that wait, that one has its
// turn which gave most, less what it was given (see ledger); every fourth turn
// goes to who waits longest, so that a stranger, and who has nothing to give,
// is served, too. A peer that takes a leaf too slowly gives up its turn, and
// until it has the leaf it comes after all others.
type turns struct {
	balance func(peer.ID) int64 // bytes taken from a peer, less those given to it

	mu      sync.Mutex
	taken   int
	count   int
	waiting []*turn         // longest first
	slow    map[peer.ID]int // leaves that a peer takes too slowly now
}

type turn struct {
	of    *turns
	peer  peer.ID
	ready chan struct{} // closed when it is this one's turn
	state turnState
}

type turnState int

const (
	waits turnState = iota
	has
	isLate
	ended
)

// wait gets in line.
func (t *turns) wait(p peer.ID) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &turn{of: t, peer: p, ready: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.next()
	return w
}

// late gives the turn up, for a peer that takes its leaf too slowly.
func (w *turn) late() {
	t := w.of
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.state != has {
		return
	}
	w.state = isLate
	if t.slow == nil {
		t.slow = map[peer.ID]int{}
	}
	t.slow[w.peer]++
	t.taken--
	t.next()
}

// end gives the turn back, or leaves the line; again it does nothing.
func (w *turn) end() {
	t := w.of
	t.mu.Lock()
	defer t.mu.Unlock()
	was := w.state
	w.state = ended
	switch was {
	case waits:
		t.waiting = slices.DeleteFunc(t.waiting, func(o *turn) bool { return o == w })
	case has:
		t.taken--
	case isLate:
		if t.slow[w.peer]--; t.slow[w.peer] == 0 {
			delete(t.slow, w.peer)
		}
	}
	t.next()
}

// next hands out what is free. Called with mu held.
func (t *turns) next() {
	for t.taken < turnsAtOnce && len(t.waiting) > 0 {
		t.count++
		longest := t.count%strangerTurn == 0
		best := 0
		for i := range t.waiting[1:] {
			if t.before(i+1, best, longest) {
				best = i + 1
			}
		}
		w := t.waiting[best]
		t.waiting = slices.Delete(t.waiting, best, best+1)
		t.taken++
		w.state = has
		close(w.ready)
	}
}

// before says whether one that waits comes before another that waits longer.
func (t *turns) before(a, b int, longest bool) bool {
	p, q := t.waiting[a].peer, t.waiting[b].peer
	if s := t.slow[p] > 0; s != (t.slow[q] > 0) {
		return !s
	}
	return !longest && t.balance(p) > t.balance(q)
}
