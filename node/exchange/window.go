package exchange

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
)

const (
	quick = 5 * time.Second  // a leaf that comes within this time widens the window
	slow  = 20 * time.Second // one that takes longer narrows it
)

// window bounds how many leaves bitswap is asked for at once. It widens while
// they come quickly: on a slow link, each of many would take long, and one that
// takes a minute does not come at all.
type window struct {
	free  chan struct{} // a token per leaf that may be asked for
	mu    sync.Mutex
	size  int
	asked map[cid.Cid]time.Time // when leaves that have not come were first asked for
}

func newWindow() *window {
	w := &window{free: make(chan struct{}, windowMost), size: windowLeast, asked: map[cid.Cid]time.Time{}}
	for range windowLeast {
		w.free <- struct{}{}
	}
	return w
}

// start waits until a block may be asked for; false: ctx ended first. Nodes may
// be asked for at any time: they are small.
func (w *window) start(ctx context.Context, c cid.Cid) bool {
	if isNode(c) {
		return ctx.Err() == nil
	}
	select {
	case <-w.free:
		return true
	case <-ctx.Done():
		return false
	}
}

// isNode reports whether a block lists others.
func isNode(c cid.Cid) bool { return c.Defined() && c.Prefix().Codec != cid.Raw }

// putBack returns what start allowed and was not used.
func (w *window) putBack() { w.free <- struct{}{} }

// asking notes that a block is being asked for until done is called.
func (w *window) asking(c cid.Cid) (done func(came bool)) {
	if isNode(c) {
		return func(bool) {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, again := w.asked[c]; !again {
		w.asked[c] = time.Now()
	}
	return func(came bool) { w.done(c, came) }
}

func (w *window) done(c cid.Cid, came bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	took, free := time.Since(w.asked[c]), 1
	if came {
		delete(w.asked, c)
	}
	if came && took < quick && w.size < windowMost {
		free = 2
	} else if took > slow && w.size > windowLeast {
		free = 0
	}
	w.size += free - 1
	for range free {
		w.free <- struct{}{}
	}
}
