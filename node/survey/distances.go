package survey

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Distances are round trips between pairs of peers, by their IDs, as this node and the
// peers it asked have measured them. They are not safe for concurrent use.
type Distances map[[2]string]time.Duration

// OneWay returns half of the round trip between two peers; false if it is unknown.
func (d Distances) OneWay(a, b string) (time.Duration, bool) {
	if rtt, ok := d[[2]string{a, b}]; ok {
		return rtt / 2, true
	}
	rtt, ok := d[[2]string{b, a}]
	return rtt / 2, ok
}

// Set notes a round trip. Where both ends measured one, the shorter counts.
func (d Distances) Set(a, b string, rtt time.Duration) {
	if old, ok := d[[2]string{b, a}]; ok { // the other end's
		rtt = min(rtt, old)
		delete(d, [2]string{b, a})
	}
	d[[2]string{a, b}] = rtt
}

// Take notes the round trips that a peer has measured, as it says.
func (d Distances) Take(from peer.ID, said *protocol.StatusReply) {
	for _, r := range said.Rtts {
		if to, err := peer.IDFromBytes(r.Peer); err == nil {
			d.Set(from.String(), to.String(), time.Duration(r.Us)*time.Microsecond)
		}
	}
}
