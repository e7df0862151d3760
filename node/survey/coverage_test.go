package survey

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/protocol"
)

// offersOf is a network of peers that are known by their offers. Those whose names
// begin with "mute" do not answer.
type offersOf []*protocol.Offer

func (n offersOf) Self() peer.ID                        { return "self" }
func (n offersOf) Own(p peer.ID) bool                   { return p == "self" }
func (n offersOf) In(string) (peer.ID, *protocol.Offer) { return "self", nil }
func (n offersOf) Borrowed(string) bool                 { return false }
func (n offersOf) Group(p peer.ID) string               { return string(p) }
func (n offersOf) Machine(peer.ID) string               { return "" }
func (n offersOf) Connected(peer.ID) bool               { return true }
func (n offersOf) RTT(peer.ID) (time.Duration, bool)    { return 0, false }
func (n offersOf) Known(cid.Cid) []*protocol.Offer      { return n }
func (n offersOf) Offers(context.Context, cid.Cid, func([]*protocol.Offer) bool) []*protocol.Offer {
	return n
}

func (n offersOf) Status(_ context.Context, p peer.ID, _ cid.Cid, _ []uint64) (*protocol.StatusReply, error) {
	if strings.HasPrefix(string(p), "mute") {
		return nil, errors.New("no answer")
	}
	return &protocol.StatusReply{}, nil
}

func surveyOf(t *testing.T, offers ...*protocol.Offer) *Survey {
	t.Helper()
	book := standing.Open(filepath.Join(t.TempDir(), "standing.json"), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = book.Close() })
	return New(offersOf(offers), book, map[peer.ID]bool{"friend": true}, false)
}

func TestCoverage(t *testing.T) {
	a, b := offering(t, "a", "m 0-3 of 8", "m 2-4 of 8", "n 0-2 of 2"), offering(t, "b", "m 6-8 of 8")
	coming := offering(t, "c", "m 4-6 of 8")
	coming.Spans[0].Loaded = false
	s := surveyOf(t, a, b, coming)
	want := []Coverage{
		{Model: someID(t, "m"), Name: "m", Blocks: 8, Nodes: 2, Missing: []protocol.Span{{From: 4, To: 6}}, Coming: []protocol.Span{{From: 4, To: 6}}},
		{Model: someID(t, "n"), Name: "n", Blocks: 2, Nodes: 1, Coming: []protocol.Span{}},
	}
	if got := s.Coverage([]*protocol.Offer{a, b, coming}, 10); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := s.Coverage([]*protocol.Offer{a, b, coming}, 1); len(got) != 1 {
		t.Errorf("%d models, 1 at most", len(got))
	}
}

func TestSpansOf(t *testing.T) {
	o := offering(t, "a", "m 0-4 of 8", "m 4-8 of 8")
	o.Spans[0].UsPerBlock, o.Spans[0].KvFree, o.Spans[0].LoadPermille = 250, 5, 300
	now := Beat{Status: &protocol.StatusReply{Spans: []*protocol.SpanStatus{
		{Model: o.Spans[0].Model, From: 0, To: 4, Sessions: 2, KvFree: 3, TokensPerS: 1.5}, {Model: o.Spans[0].Model, From: 0, To: 8, Sessions: 9},
	}}}
	got := SpansOf(o, now)
	if len(got) != 2 || got[0].StepMs != 1 || got[0].KVFree != 3 || got[0].Sessions != 2 || got[0].TokensPerS != 1.5 || got[0].Load != 0.3 || got[1].Sessions != 0 {
		t.Errorf("%+v", got)
	}
	if got := SpansOf(o, Beat{}); got[0].KVFree != 5 {
		t.Errorf("without a report: %+v", got)
	}
	if SpansOf(nil, now) != nil {
		t.Error("no offer has no spans")
	}
}

func TestHolders(t *testing.T) {
	m := someID(t, "m")
	holds := func(from, name string, bits ...byte) *protocol.Offer {
		o := offering(t, from)
		o.Shards = append(o.Shards, &protocol.HeldShards{Model: m.Bytes(), Bitmap: bits, Name: name}, &protocol.HeldShards{Model: []byte("no CID"), Bitmap: bits})
		return o
	}
	offers := []*protocol.Offer{holds("self", "", 1), holds("a", "", 0xff, 1), holds("b", "their name", 2), holds("c", "", 3)}
	s := surveyOf(t, offers...)
	want := map[cid.Cid][]Holder{m: {{"a", 9}, {"b", 1}}}
	if got := s.Holders(offers, 2); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Who is asked about placement, and what is made of an offer.
func TestPlacementPeers(t *testing.T) {
	m := someID(t, "m")
	man := &protocol.Manifest{Blocks: 2, Shards: []protocol.Shard{{Kind: protocol.ShardEmbedding}, {Kind: protocol.ShardBlock, Block: 0}, {Kind: protocol.ShardBlock, Block: 1}}}
	o := offering(t, "a", "m 0-2 of 2")
	o.AutoBytes, o.Takes = 1<<60, [][]byte{m.Bytes(), []byte("no CID")}
	o.Spans[0].Auto, o.Spans[0].SinceS, o.Spans[0].LoadPermille = true, 60, 500
	o.Shards = []*protocol.HeldShards{{Model: m.Bytes(), Bitmap: []byte{0b101}}}
	s := surveyOf(t, o, offering(t, "friend", "m 0-2 of 2"), offering(t, "mute", "m 0-2 of 2"), offering(t, "liar", "m 0-2 of 2"))
	s.book.Mark("liar", standing.Lied, "nonsense")
	s.book.Answered("a", m.String()+" 0-2")

	got := s.PlacementPeers(t.Context(), map[cid.Cid]*protocol.Manifest{m: man})
	var names []string
	for _, p := range got {
		names = append(names, p.ID)
		if p.ID != peer.ID("a").String() {
			if !p.Trusted || !p.Serves[0].Answered.IsZero() {
				t.Errorf("of a peer that is trusted: %+v", p)
			}
			continue
		}
		v := p.Serves[0]
		if p.Lent != 1<<50 || len(p.Takes) != 1 || p.Trusted || p.Met.IsZero() || p.Group != "a" || !slices.Equal(p.Held[m.String()], []bool{false, true}) {
			t.Errorf("%+v", p)
		}
		if ago := time.Since(v.Since); !v.Auto || !v.Loaded || v.Load != 0.5 || v.Answered.IsZero() || ago < time.Minute {
			t.Errorf("%+v", v)
		}
	}
	slices.Sort(names)
	want := []string{peer.ID("a").String(), peer.ID("friend").String()}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("%v are asked and answer, want %v", names, want)
	}
}
