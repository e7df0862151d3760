package network

import (
	"testing"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
)

// A relay that breaks off every few seconds, or whatever else changes this node's addresses
// all the time, does not have the offer signed and sent to everybody as often; and the last
// change is told all the same.
func TestResignIsBounded(t *testing.T) {
	const watched = 10 * time.Minute
	simulate(t, 2, func(in *internet) {
		home := in.home(nat.Port, 1)
		if err := home.SetOffer(serves(0, 5)); err != nil {
			in.Fatal(err)
		}
		most := uint64(signBurst + watched/signEvery + watched/refreshes + 5)
		for what, change := range map[string]func(){
			"relays break off": func() {
				for _, r := range in.all[:2] {
					_ = r.Host().Network().ClosePeer(home.Self())
				}
			},
			"addresses change": home.resign,
		} {
			time.Sleep(signBurst * signEvery) // what came before is not counted
			before := home.OwnOffer().Seq
			for end := time.Now().Add(watched); time.Now().Before(end); time.Sleep(3 * time.Second) {
				change()
			}
			if signed := home.OwnOffer().Seq - before; signed > most {
				in.Errorf("%s: the offer was signed %d times in %v, want %d at most", what, signed, watched, most)
			} else {
				in.Logf("%s: the offer was signed %d times in %v", what, signed, watched)
			}
		}
		last := home.OwnOffer().Seq
		home.resign()
		if time.Sleep(signEvery + time.Second); home.OwnOffer().Seq == last {
			in.Error("the last change is not told")
		}
		in.until("there is a relay again", 15*time.Minute, func() bool { return len(home.reaching.relays.all()) > 0 })
	})
}
