package stage

import (
	"testing"
	"time"
)

// A stage is offered by its first passes: one that was held up does not count, and later
// the average follows what passes take.
func TestDecodeBegins(t *testing.T) {
	const ms = time.Millisecond
	var s stats
	pass := func(n int, took time.Duration) {
		for range n {
			s.pass(1, 1, took, 0, time.Now())
		}
	}
	pass(1, ms)
	if got := s.decodePass(); got != ms {
		t.Errorf("%s after one pass", got)
	}
	pass(1, 900*ms)
	pass(3, 2*ms)
	if got := s.decodePass(); got != 2*ms {
		t.Errorf("%s with a pass that was held up", got)
	}
	pass(firstPasses, 2*ms)
	pass(100, 5*ms)
	if got := s.decodePass(); got < 4*ms || got > 5*ms {
		t.Errorf("%s when passes had long taken 5 ms", got)
	}
}
