package exchange

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// While sessions run here, bulk is limited to a part of the rate that it reached
// without them, or to busyFirst where that is not known. Pausing after each chunk
// would not do: sockets buffer more than they have sent.
const (
	busyPart  = 0.2
	busyFirst = 1 << 20                // bytes per second
	busyLeast = 64 << 10               // likewise: bulk never stops
	busyLook  = 50 * time.Millisecond  // how long an answer of busy is reused
	rateTime  = 500 * time.Millisecond // over which a rate is measured; a longer pause does not count
	rateBytes = 1 << 20                // over which a rate is measured: fewer show what was asked for, not what can be reached
)

// rateLimiter limits bulk in one direction to the operator's rate, and to a part
// of it while sessions run on this node. It is safe for concurrent use.
type rateLimiter struct {
	limit     atomic.Pointer[rate.Limiter] // nil: none
	whileBusy *rate.Limiter                // while busy
	busy      func() bool                  // nil: never; called without mu

	mu       sync.Mutex
	lookedAt time.Time
	isBusy   bool
	begun    time.Time // of the bytes counted
	last     time.Time
	bytes    int
	freeRate float64 // bytes per second that were reached while no session ran; 0: not known
}

// newRateLimiter takes bytes per second; 0: no limit.
func newRateLimiter(bytes float64, busy func() bool) *rateLimiter {
	p := &rateLimiter{busy: busy, whileBusy: rate.NewLimiter(busyFirst, bulkChunk)}
	p.set(bytes)
	return p
}

// set changes the limit, in bytes per second; 0: none. What waits already keeps to the
// old one.
func (p *rateLimiter) set(bytes float64) {
	if bytes <= 0 {
		p.limit.Store(nil)
		return
	}
	p.limit.Store(rate.NewLimiter(rate.Limit(bytes), max(chunk, int(bytes/20))))
}

// wait waits until n bytes may pass. It fails only with ctx.
func (p *rateLimiter) wait(ctx context.Context, n int) error {
	if p.standsBack(n) {
		if err := waitN(ctx, p.whileBusy, n); err != nil {
			return err
		}
	}
	if limit := p.limit.Load(); limit != nil {
		return waitN(ctx, limit, n)
	}
	return nil
}

func waitN(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 {
		k := min(n, l.Burst())
		if err := l.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// standsBack reports whether sessions run, and measures the rate while none do.
func (p *rateLimiter) standsBack(n int) bool {
	if p.busy == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.lookedAt) > busyLook {
		p.lookedAt = now // others go by the last answer meanwhile
		p.mu.Unlock()
		busy := p.busy()
		p.mu.Lock()
		if busy && !p.isBusy {
			limit := rate.Limit(busyFirst)
			if p.freeRate > 0 {
				limit = rate.Limit(max(busyLeast, p.freeRate*busyPart))
			}
			p.whileBusy.SetLimit(limit)
		}
		p.isBusy = busy
	}
	if p.isBusy || now.Sub(p.last) > rateTime {
		p.begun, p.bytes = now, 0
	} else if took := now.Sub(p.begun); took > rateTime && p.bytes >= rateBytes {
		p.freeRate += (float64(p.bytes)/took.Seconds() - p.freeRate) / 2
		p.begun, p.bytes = now, 0
	}
	p.last = now
	p.bytes += n
	return p.isBusy
}
