package survey

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/protocol"
)

// answering is a network whose peers say that they serve what they offer, but for those
// that serve nothing to this node.
type answering struct {
	offersOf
	refuse map[peer.ID]bool
}

func (n answering) Status(_ context.Context, p peer.ID, _ cid.Cid, _ []uint64) (*protocol.StatusReply, error) {
	reply := &protocol.StatusReply{}
	for _, o := range n.offersOf {
		for _, sp := range o.Spans {
			if o.From == p && !n.refuse[p] {
				reply.Spans = append(reply.Spans, &protocol.SpanStatus{Model: sp.Model, From: sp.From, To: sp.To, KvFree: 100})
			}
		}
	}
	return reply, nil
}

// Candidates are those whom the query allows, and who serve the model to this node; what
// is only offered does not count.
func TestChooseAmong(t *testing.T) {
	var ids []peer.ID
	var offers []*protocol.Offer
	for i := range 3 {
		id := test.RandPeerIDFatal(t)
		ids = append(ids, id)
		o := offering(t, string(id), "m 0-8 of 8")
		if i == 2 {
			o.Swarm = "lab"
		}
		offers = append(offers, o)
	}
	s := surveyOf(t)
	s.net = answering{offers, map[peer.ID]bool{ids[0]: true}}
	found := errors.New("found")
	among := func(may func(string, peer.ID) bool) (got []string) {
		q := Query{Model: someID(t, "m"), Span: protocol.Span{From: 0, To: 8}, May: may}
		_, _, err := s.Choose(t.Context(), q, func(_ string, list []route.Candidate, _ Distances) (*route.Route, error) {
			for _, c := range list {
				if !slices.Contains(got, c.Peer) {
					got = append(got, c.Peer)
				}
			}
			return nil, found
		})
		if !errors.Is(err, found) {
			t.Error(err)
		}
		slices.Sort(got)
		return got
	}
	both := []string{ids[1].String(), ids[2].String()}
	slices.Sort(both)
	if got := among(nil); !slices.Equal(got, both) {
		t.Errorf("without a rule: %v, want %v", got, both)
	}
	if got := among(func(swarm string, _ peer.ID) bool { return swarm == "lab" }); !slices.Equal(got, []string{ids[2].String()}) {
		t.Errorf("in the swarm alone: %v", got)
	}
	if got := among(func(string, peer.ID) bool { return false }); len(got) != 0 {
		t.Errorf("nowhere: %v", got)
	}
}
