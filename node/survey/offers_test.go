package survey

import (
	"context"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// heard is a network that knows some offers and asks nobody.
type heard struct {
	Network
	offers []*protocol.Offer
}

func (h heard) Self() peer.ID      { return "self" }
func (h heard) Own(p peer.ID) bool { return p == "self" }
func (h heard) Offers(context.Context, cid.Cid, func([]*protocol.Offer) bool) []*protocol.Offer {
	return h.offers
}
func (h heard) Known(cid.Cid) []*protocol.Offer { return h.offers }

// A model's peers are counted by its CID, or by its name where that is unknown: each
// peer once, spans and shards alike, and not this node.
func TestIndex(t *testing.T) {
	holds := &protocol.Offer{OfferBody: &protocol.OfferBody{Shards: []*protocol.HeldShards{{Model: someID(t, "mb").Bytes(), Name: "M"}}}, From: "holder"}
	nameless := &protocol.Offer{OfferBody: &protocol.OfferBody{Shards: []*protocol.HeldShards{{Model: someID(t, "mb").Bytes()}}}, From: "nameless"}
	s := &Survey{net: heard{offers: []*protocol.Offer{
		nameless, offering(t, "self", "m=a 0-4 of 4"), offering(t, "x", "m=a 0-2 of 4", "m=a 2-4 of 4", "m=b 0-4 of 4"), holds,
	}}}
	x := s.Index(t.Context())
	for _, c := range []struct {
		id   cid.Cid
		name string
		want int
	}{
		{someID(t, "ma"), "m", 1}, {someID(t, "mb"), "m", 3}, {someID(t, "mc"), "m", 0}, {cid.Undef, "m", 2}, {cid.Undef, "n", 0},
	} {
		if got := x.Peers(c.id, c.name); got != c.want {
			t.Errorf("%s %s: %d peers, want %d", c.id, c.name, got, c.want)
		}
	}
	if name := s.NameOf(someID(t, "mb")); name != "m" {
		t.Errorf("it is called %q", name)
	}
	if name := s.NameOf(someID(t, "mc")); name != "" {
		t.Errorf("a model that nobody has is called %q", name)
	}
}
