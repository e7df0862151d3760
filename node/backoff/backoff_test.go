package backoff

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestNext(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		rand func(time.Duration) time.Duration
		want []time.Duration
	}{
		"the longest":  {func(time.Duration) time.Duration { return 0 }, []time.Duration{s, 2 * s, 4 * s, 5 * s, 5 * s, s}},
		"the shortest": {func(n time.Duration) time.Duration { return n - 1 }, []time.Duration{s / 2, s, 2 * s, 5 * s / 2, 5 * s / 2, s / 2}},
	} {
		b := Backoff{First: s, Most: 5 * s, Rand: c.rand}
		var got []time.Duration
		for range 5 {
			got = append(got, b.Next())
		}
		b.Reset()
		if got = append(got, b.Next()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Those that fail together do not come back together.
func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		b := Backoff{First: time.Second, Most: time.Minute}
		p := b.Next()
		if p < time.Second/2 || p > time.Second {
			t.Fatalf("a first pause of %s", p)
		}
		seen[p] = true
	}
	if len(seen) < 90 {
		t.Errorf("only %d different pauses of 100", len(seen))
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{First: time.Minute, Most: time.Hour, Rand: func(time.Duration) time.Duration { return 0 }}
		begin := time.Now()
		if err := b.Wait(t.Context()); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if err := b.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}
