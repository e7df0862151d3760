package network

import (
	"time"

	"golang.org/x/time/rate"
)

// An offer is signed again whenever this node's addresses change, and all connected peers are
// told: that must not be had for nothing by a relay that comes and goes, or by peers that see
// this node elsewhere each time. A start and a move take a few, which are not held up.
const (
	signBurst = 16
	signEvery = 30 * time.Second
)

// resigning is when the offer may be signed again. Guarded by Network.mu.
type resigning struct {
	limit *rate.Limiter
	due   bool // it will be, with the addresses of then
}

// resign signs the offer again, because this node's addresses have changed, and
// has it sent to peers; later, if that has been often lately.
func (n *Network) resign() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.signs.due {
		return
	}
	now := time.Now()
	wait := n.signs.limit.ReserveN(now, 1).DelayFrom(now)
	if wait == 0 {
		n.resignNow()
		return
	}
	if n.ctx.Err() != nil {
		return
	}
	n.signs.due = true
	n.wg.Go(func() {
		select {
		case <-time.After(wait):
		case <-n.ctx.Done():
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.signs.due = false
		n.resignNow()
	})
}

// resignNow is resign without the limit. Called with mu held.
func (n *Network) resignNow() {
	if err := n.sign(); err != nil {
		n.log.Warn("the offer cannot be signed", "error", err)
	}
	n.news = n.seq
	n.poke()
}
