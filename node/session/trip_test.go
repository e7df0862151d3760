package session

import (
	"testing"
	"time"
)

// What a trip takes is not what a token takes once guesses bring some.
func TestTrip(t *testing.T) {
	for _, c := range []struct {
		out  Outcome
		want time.Duration
	}{
		{Outcome{Tokens: 1}, 0},
		{Outcome{Tokens: 11, Elapsed: time.Second}, 100 * time.Millisecond},
		{Outcome{Tokens: 11, Elapsed: time.Second, Ahead: Ahead{Sent: 20, Gain: 1}}, 100 * time.Millisecond},
		{Outcome{Tokens: 11, Elapsed: time.Second, Ahead: Ahead{Sent: 20, Kept: 5, Gain: 1.5}}, 150 * time.Millisecond},
		{Outcome{Tokens: 11, Elapsed: time.Second, Ahead: Ahead{Sent: 20, Kept: 10}}, 0}, // unknown
	} {
		if got := c.out.Trip(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.out, got, c.want)
		}
	}
}
