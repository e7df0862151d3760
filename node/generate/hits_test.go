package generate

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/session"
)

func TestHits(t *testing.T) {
	model := func(i int) cid.Cid {
		id, err := cid.V1Builder{Codec: cid.Raw, MhType: 0x12}.Sum(fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	var h hits
	share := func(want float64) {
		t.Helper()
		if got := h.share(model(1)); math.Abs(got-want) > 0.05 {
			t.Errorf("a share of %.2f, want about %.2f", got, want)
		}
	}
	share(0)
	h.add(model(1), 4, 4)
	share(0.2) // one short answer proves little
	h.add(model(1), 400, 300)
	share(0.72)
	for range 10 {
		h.add(model(1), 400, 0)
	}
	share(0) // of late there was nothing to guess
	h.add(model(1), 100000, 90000)
	share(0.9)
	if got := h.share(model(2)); got != 0 {
		t.Errorf("another model's share is %.2f", got)
	}
	for i := range 10 * mostHits {
		h.add(model(i), 10, 10)
	}
	if len(h.of) > mostHits {
		t.Errorf("%d models are remembered, %d at most", len(h.of), mostHits)
	}
}

// Answers whose gain is unknown count by their rows alone.
func TestAheadAdded(t *testing.T) {
	g := &Generator{}
	g.hits.sum(&session.Outcome{Tokens: 5, Elapsed: time.Second})
	if a := g.Ahead(); a != nil {
		t.Errorf("%+v without a guess", a)
	}
	g.hits.sum(&session.Outcome{Tokens: 5, Elapsed: time.Second, Ahead: session.Ahead{Sent: 4, Kept: 4}})
	if a := g.Ahead(); a == nil || a.Sent != 4 || a.Kept != 4 || a.Gain != 0 {
		t.Errorf("%+v of an answer whose gain is unknown", a)
	}
	g.hits.sum(&session.Outcome{Tokens: 5, Elapsed: time.Second, Ahead: session.Ahead{Sent: 4, Kept: 2, Gain: 3}})
	g.hits.sum(&session.Outcome{Tokens: 5, Elapsed: 3 * time.Second, Ahead: session.Ahead{Sent: 1, Kept: 0, Gain: 1}})
	if a := g.Ahead(); a.Sent != 9 || a.Kept != 6 || math.Abs(a.Gain-1.5) > 1e-9 {
		t.Errorf("%+v", a)
	}
}
