package outer

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A relay whose places do not last is asked more and more rarely, whatever else it does; one
// that keeps its word, or loses a place because this node has moved, at once.
func TestRests(t *testing.T) {
	var r Rests
	now := time.Now()
	places := 0
	for end := now.Add(24 * time.Hour); now.Before(end); now = now.Add(time.Second) {
		if !r.Resting("brief", now) {
			places++
			r.Lost("brief", now, now.Add(time.Second))
		}
	}
	if most := 24*6 + 10; places > most || places < 24*3 {
		t.Errorf("%d places in a day, want %d at most", places, most)
	}
	if r.Lost("brief", now, now.Add(LeastPlace)); r.Resting("brief", now) {
		t.Error("after a place that lasted it rests")
	}
	r.Lost("brief", now, now)
	if !r.Resting("brief", now) || r.Resting("brief", now.Add(firstRest)) || r.Resting("other", now) {
		t.Error("its first rest is not the shortest")
	}
	if r.Moved(now); r.Resting("brief", now) {
		t.Error("it rests after a move")
	}
	if r.Lost("brief", now.Add(-time.Second), now.Add(time.Second)); r.Resting("brief", now.Add(time.Second)) {
		t.Error("it rests because this node has moved")
	}
	for i := range 10 * maxRests {
		r.Tire(peer.ID(fmt.Sprint(i)), now)
	}
	if len(r.of) > maxRests {
		t.Errorf("%d relays rest", len(r.of))
	}
}
