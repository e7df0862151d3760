package exchange

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	slotCount       = 4 // leaves sent at once in bulk, to all peers
	optimisticEvery = 4 // every so many slots, one goes to the longest-waiting peer
)

// uploadSlots decides whose leaf is sent next. The next slot goes to the waiting
// peer with the highest balance (bytes received from it minus bytes sent to it,
// see ledger). Every fourth slot goes to the longest-waiting peer instead, so
// newcomers with no balance are served too. A peer that reads a leaf too slowly
// loses its slot, and comes after all others until it has the leaf. It is safe for
// concurrent use.
type uploadSlots struct {
	balance func(peer.ID) int64 // bytes taken from a peer minus bytes given to it

	mu      sync.Mutex
	busy    int             // slots that are in use
	count   int             // slots assigned so far
	waiting []*slot         // longest first
	slow    map[peer.ID]int // leaves that a peer reads too slowly now
}

// slot is a request for a slot, and then the slot.
type slot struct {
	slots *uploadSlots
	peer  peer.ID
	ready chan struct{} // closed when the slot is assigned
	state slotState
}

// slotState is where a slot is in its life.
type slotState int

const (
	waiting slotState = iota
	active            // the slot is in use
	overdue           // the slot was taken away, and the leaf is still being sent
	released
)

// request asks for a slot; slot.ready tells when it is there.
func (t *uploadSlots) request(p peer.ID) *slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &slot{slots: t, peer: p, ready: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.assign()
	return w
}

// giveUp frees the slot of a peer that reads its leaf too slowly, while the leaf
// is still being sent.
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

// release frees the slot, or withdraws the request. A second call does nothing.
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

// assign assigns the slots that are free. Called with mu held.
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

// before reports whether waiting request a is served before b, which has waited
// longer. longest: the order is by waiting time alone.
func (t *uploadSlots) before(a, b int, longest bool) bool {
	p, q := t.waiting[a].peer, t.waiting[b].peer
	if s := t.slow[p] > 0; s != (t.slow[q] > 0) {
		return !s
	}
	return !longest && t.balance(p) > t.balance(q)
}
