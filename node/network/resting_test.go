package network

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/testnet/nat"
)

// Relays at which places did not last are not offered as candidates, until they have rested
// or this node has moved.
func TestRestingRelays(t *testing.T) {
	simulate(t, 2, func(in *internet) {
		home := in.home(nat.Port, 1)
		r := &home.reaching.relays
		in.until("two relays", time.Minute, func() bool { return len(r.all()) == 2 })
		time.Sleep(20 * time.Second)
		held := r.held
		r.set(nil)
		ids := []peer.ID{in.all[0].Self(), in.all[1].Self()}
		if got := r.connected(nil); len(got) > 0 || !r.resting(ids[0]) || !r.resting(ids[1]) {
			in.Errorf("%v are candidates", got)
		}
		if r.moved(); len(r.connected(nil)) != 2 {
			in.Error("after a move they still rest")
		}
		r.set(held)
		time.Sleep(2 * time.Minute)
		if r.set(nil); r.resting(ids[0]) || r.resting(ids[1]) {
			in.Error("relays whose places have lasted rest")
		}
	})
}
