package network

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// One slow answer, such as at a start, does not count as the round trip of a TCP connection.
func TestRoundTripOverTCP(t *testing.T) {
	t.Parallel()
	a, b := join(t, false), join(t, false)
	if err := a.host.Connect(t.Context(), peer.AddrInfo{ID: b.Self(), Addrs: only(b, multiaddr.P_TCP)}); err != nil {
		t.Fatal(err)
	}
	const slow = time.Hour
	a.host.Peerstore().RecordLatency(b.Self(), slow)
	await(t, "the multiplexer's measurement", func() bool {
		rtt, ok := a.RTT(b.Self())
		return ok && rtt < slow/100
	})
}
