package exchange

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What bulk takes of a link, and of a machine, while sessions run: it rests
// busyRest times as long as it worked.
const (
	busyRest  = 4
	busyLook  = 50 * time.Millisecond // how long "busy" is believed
	leastWork = time.Millisecond      // of a chunk, for the rest that follows; a socket's buffer takes it at once
	mostWork  = 100 * time.Millisecond
)

// pacer holds bulk in one direction to the operator's rate, and back while
// sessions run on this node.
type pacer struct {
	limit *rate.Limiter // nil: none
	busy  func() bool

	mu     sync.Mutex
	looked time.Time
	is     bool
}

// newPacer takes bytes a second; 0: no limit.
func newPacer(bytes float64, busy func() bool) *pacer {
	p := &pacer{busy: busy}
	if bytes > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytes), max(chunk, int(bytes/20)))
	}
	return p
}

// wait waits until n bytes may pass. worked is how long the bytes before took.
func (p *pacer) wait(ctx context.Context, n int, worked time.Duration) error {
	if p.yields() {
		t := time.NewTimer(busyRest * min(max(worked, leastWork), mostWork))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for p.limit != nil && n > 0 {
		k := min(n, p.limit.Burst())
		if err := p.limit.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

func (p *pacer) yields() bool {
	if p.busy == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.looked) > busyLook {
		p.looked, p.is = now, p.busy()
	}
	return p.is
}
