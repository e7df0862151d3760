package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is the pauses of one retry loop. It is not safe for concurrent use. The
// fields are set before the first pause.
type Backoff struct {
	First time.Duration                       // the first pause, before jitter; more than zero
	Most  time.Duration                       // no pause is longer; at least First
	Rand  func(n time.Duration) time.Duration // returns a number in [0, n); nil: math/rand's

	next time.Duration // before jitter; 0: First
}

// Next returns how long to pause now, between half and all of what the pause has
// doubled to, and doubles it.
func (b *Backoff) Next() time.Duration {
	pause := max(b.next, b.First)
	b.next = min(2*pause, b.Most)
	draw := b.Rand
	if draw == nil {
		draw = rand.N[time.Duration]
	}
	return pause - draw(pause/2+1)
}

// Reset has the next pause be the first again.
func (b *Backoff) Reset() { b.next = 0 }

// Wait pauses for what Next returns. When ctx ends first it returns ctx.Err().
func (b *Backoff) Wait(ctx context.Context) error { return Pause(ctx, b.Next()) }

// Pause waits for d, or until ctx ends, whose error it returns then.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
