package network

import (
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

func TestClockOff(t *testing.T) {
	for age, want := range map[time.Duration]time.Duration{
		0: 0, time.Minute: 0, refreshes: 0, // as offers age between two refreshes
		-3 * time.Minute:         -3 * time.Minute,
		refreshes + 10*time.Hour: 10 * time.Hour,
	} {
		if got := clockOff(age); got != want {
			t.Errorf("an offer that seems %s old: off by %s, want %s", age, got, want)
		}
	}
}

// What one peer reports about another does not count: an old offer passed on
// would make this clock seem ahead.
func TestHealthHearsay(t *testing.T) {
	a, b := join(t, false), join(t, false)
	b2 := join(t, false, b)
	if err := b2.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); b.Health().Alone && time.Now().Before(end); { // it hears of the other a moment later
		time.Sleep(time.Millisecond)
	}
	old := serves(0, 10)
	old.Seq, old.IssuedUnixMs, old.ExpiresUnixMs = 1, time.Now().Add(-time.Hour).UnixMilli(), time.Now().Add(-50*time.Minute).UnixMilli()
	o, err := protocol.SealOffer(old, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	b.compareClocks(b2.Self(), o.Envelope)
	b.compareClocks(b2.Self(), []byte("junk"))
	if h := b.Health(); h.ClockPeers != 0 || h.Reach != ReachLocal || h.Alone || len(h.Strangers) != 0 {
		t.Errorf("%+v", h)
	}
	if h := a.Health(); !h.Alone {
		t.Errorf("who knows nobody: %+v", h)
	}
}
