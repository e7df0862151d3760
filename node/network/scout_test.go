package network

import (
	"testing"
	"time"
)

// A router may still let in those to which an earlier scout has sent from a port.
func TestScoutPorts(t *testing.T) {
	used, now := scoutPorts{}, time.Unix(0, 0)
	for range 1000 {
		if port := used.draw(now); port < lowestPort {
			t.Fatalf("port %d", port)
		}
	}
	if len(used) != 1000 {
		t.Errorf("of 1000 draws, %d ports", len(used))
	}
	if used.draw(now.Add(portLife)); len(used) != 1 {
		t.Errorf("%d ports are kept after a day", len(used))
	}
}
