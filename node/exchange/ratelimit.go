package exchange

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// While sessions run here, bulk is held to a part of what it reached without
// them; to busyFirst where that is not known. A rest after each piece of work
// would not do: sockets take in more than they have sent.
const (
	busyPart  = 0.2
	busyFirst = 1 << 20                // bytes a second
	busyLeast = 64 << 10               // likewise: bulk never ends
	busyLook  = 50 * time.Millisecond  // how long "busy" is believed
	rateTime  = 500 * time.Millisecond // a rate is measured over, and a longer pause is not counted
	rateBytes = 1 << 20                // a rate is measured over: less says what was asked for, not what can be reached
)

// pacer holds bulk in one direction to the operator's rate, and back while
// sessions run on this node.
type rateLimiter struct {
	limit     *rate.Limiter // nil: none
	whileBusy *rate.Limiter // while busy
	busy      func() bool   // nil: never

	mu       sync.Mutex
	lookedAt time.Time
	isBusy   bool
	begun    time.Time // of the bytes counted
	last     time.Time
	bytes    int
	freeRate float64 // bytes a second that were reached while nobody was busy
}

// newPacer takes bytes a second; 0: no limit.
func newRateLimiter(bytes float64, busy func() bool) *rateLimiter {
	p := &rateLimiter{busy: busy, whileBusy: rate.NewLimiter(busyFirst, bulkChunk)}
	if bytes > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytes), max(chunk, int(bytes/20)))
	}
	return p
}

// wait waits until n bytes may pass.
func (p *rateLimiter) wait(ctx context.Context, n int) error {
	if p.standsBack(n) {
		if err := waitN(ctx, p.whileBusy, n); err != nil {
			return err
		}
	}
	if p.limit != nil {
		return waitN(ctx, p.limit, n)
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

// yields says whether sessions run, and measures while they do not.
func (p *rateLimiter) standsBack(n int) bool {
	if p.busy == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.lookedAt) > busyLook {
		was := p.isBusy
		if p.lookedAt, p.isBusy = now, p.busy(); p.isBusy && !was {
			limit := rate.Limit(busyFirst)
			if p.freeRate > 0 {
				limit = rate.Limit(max(busyLeast, p.freeRate*busyPart))
			}
			p.whileBusy.SetLimit(limit)
		}
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
