package exchange

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	slotCount       = 4 // leaves on their way out in bulk, to all peers
	optimisticEvery = 4 // every so many turns go to whoever waits longest
)

// turns says whose leaf goes out next. Of the peers that wait, that one has its
// turn which gave most, less what it was given (see ledger); every fourth turn
// goes to who waits longest, so that a stranger, and who has nothing to give,
// is served, too. A peer that takes a leaf too slowly gives up its turn, and
// until it has the leaf it comes after all others.
type uploadSlots struct {
	balance func(peer.ID) int64 // bytes taken from a peer, less those given to it

	mu      sync.Mutex
	busy    int
	count   int
	waiting []*slot         // longest first
	slow    map[peer.ID]int // leaves that a peer takes too slowly now
}

type slot struct {
	slots *uploadSlots
	peer  peer.ID
	ready chan struct{} // closed when it is this one's turn
	state slotState
}

type slotState int

const (
	waiting slotState = iota
	active
	overdue
	released
)

// wait gets in line.
func (t *uploadSlots) request(p peer.ID) *slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &slot{slots: t, peer: p, ready: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.assign()
	return w
}

// late gives the turn up, for a peer that takes its leaf too slowly.
func (w *slot) giveUp() {
	t := w.slots
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.state != active {
		return
	}
	w.state = overdue
	if t.slow == nil {
		t.slow = map[peer.ID]int{}
	}
	t.slow[w.peer]++
	t.busy--
	t.assign()
}

// end gives the turn back, or leaves the line; again it does nothing.
func (w *slot) release() {
	t := w.slots
	t.mu.Lock()
	defer t.mu.Unlock()
	was := w.state
	w.state = released
	switch was {
	case waiting:
		t.waiting = slices.DeleteFunc(t.waiting, func(o *slot) bool { return o == w })
	case active:
		t.busy--
	case overdue:
		if t.slow[w.peer]--; t.slow[w.peer] == 0 {
			delete(t.slow, w.peer)
		}
	}
	t.assign()
}

// next hands out what is free. Called with mu held.
func (t *uploadSlots) assign() {
	for t.busy < slotCount && len(t.waiting) > 0 {
		t.count++
		longest := t.count%optimisticEvery == 0
		best := 0
		for i := range t.waiting[1:] {
			if t.before(i+1, best, longest) {
				best = i + 1
			}
		}
		w := t.waiting[best]
		t.waiting = slices.Delete(t.waiting, best, best+1)
		t.busy++
		w.state = active
		close(w.ready)
	}
}

// before says whether one that waits comes before another that waits longer.
func (t *uploadSlots) before(a, b int, longest bool) bool {
	p, q := t.waiting[a].peer, t.waiting[b].peer
	if s := t.slow[p] > 0; s != (t.slow[q] > 0) {
		return !s
	}
	return !longest && t.balance(p) > t.balance(q)
}
