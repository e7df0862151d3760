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
// is served, too.
type turns struct {
	balance func(peer.ID) int64 // bytes taken from a peer, less those given to it

	mu      sync.Mutex
	taken   int
	count   int
	waiting []*turn // longest first
}

type turn struct {
	of    *turns
	peer  peer.ID
	ready chan struct{} // closed when it is this one's turn
	over  bool
}

// wait gets in line.
func (t *turns) wait(p peer.ID) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &turn{of: t, peer: p, ready: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.next()
	return w
}

// end gives the turn back, or leaves the line; again it does nothing.
func (w *turn) end() {
	t := w.of
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.over {
		return
	}
	w.over = true
	if i := slices.Index(t.waiting, w); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		return
	}
	t.taken--
	t.next()
}

// next hands out what is free. Called with mu held.
func (t *turns) next() {
	for t.taken < turnsAtOnce && len(t.waiting) > 0 {
		best := 0
		if t.count++; t.count%strangerTurn != 0 {
			most := t.balance(t.waiting[0].peer)
			for i, w := range t.waiting[1:] {
				if b := t.balance(w.peer); b > most {
					best, most = i+1, b
				}
			}
		}
		w := t.waiting[best]
		t.waiting = slices.Delete(t.waiting, best, best+1)
		t.taken++
		close(w.ready)
	}
}
