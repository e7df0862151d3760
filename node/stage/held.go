package stage

import (
	"container/list"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Limits on the memory for streams without an accepted session, in bytes.
const (
	maxHeld      = 32 << 20 // of all peers together
	maxHeldPeer  = 1 << 20
	streamBuffer = 4 << 10 // of a stream that has sent nothing yet
)

// held counts that memory. When it is full, a new stream displaces the longest-waiting
// one: an honest first frame is complete within moments. It is safe for concurrent
// use.
type held struct {
	mu    sync.Mutex
	total int
	peers map[peer.ID]int
	order list.List // of *hold, the oldest first
}

// hold is one stream's part. One goroutine calls its take and release.
type hold struct {
	of   *held
	at   *list.Element // nil: released or displaced
	st   Stream
	size int // guarded by of.mu
}

// errDisplaced ends the reading of a stream that another has displaced.
var errDisplaced = errors.New("stage: the stream has waited too long")

func (h *held) open(st Stream) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.peers == nil {
		h.peers = map[peer.ID]int{}
	}
	x := &hold{of: h, st: st}
	x.at = h.order.PushBack(x)
	return x
}

// take reserves n more bytes. It returns errDisplaced, or a protocol.Error with
// CODE_BUSY if the peer's own limit is reached.
func (x *hold) take(n int) error {
	h := x.of
	h.mu.Lock()
	defer h.mu.Unlock()
	p := x.st.Peer()
	switch {
	case x.at == nil:
		return errDisplaced
	case h.peers[p]+n > maxHeldPeer:
		return &protocol.Error{Code: protocol.Code_CODE_BUSY, RetryAfter: time.Second, Message: "too many sessions of yours are being opened here at once"}
	}
	for e := h.order.Front(); h.total+n > maxHeld && e != nil; {
		old := e.Value.(*hold)
		if e = e.Next(); old != x && old.size > 0 {
			old.drop()
			_ = old.st.Reset()
		}
	}
	h.total += n
	h.peers[p] += n
	x.size += n
	return nil
}

// release returns all of it, once the stream has a session or has ended.
func (x *hold) release() {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.drop()
}

// drop is called with held.mu held.
func (x *hold) drop() {
	h := x.of
	if x.at == nil {
		return
	}
	h.order.Remove(x.at)
	x.at = nil
	h.total -= x.size
	if p := x.st.Peer(); h.peers[p] > x.size {
		h.peers[p] -= x.size
	} else {
		delete(h.peers, p)
	}
}
