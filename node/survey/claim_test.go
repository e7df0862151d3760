package survey

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

func someID(t *testing.T, text string) cid.Cid {
	t.Helper()
	id, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: 0x12}.Sum([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// offering is an offer of spans of models, written as NAME or NAME=CONTENT, then
// FROM-TO of so many blocks.
func offering(t *testing.T, from string, spans ...string) *protocol.Offer {
	t.Helper()
	o := &protocol.Offer{OfferBody: &protocol.OfferBody{}, From: peer.ID(from)}
	for _, s := range spans {
		var what string
		var a, b, blocks uint32
		if _, err := fmt.Sscanf(s, "%s %d-%d of %d", &what, &a, &b, &blocks); err != nil {
			t.Fatal(s, err)
		}
		name, content, _ := strings.Cut(what, "=")
		o.Spans = append(o.Spans, &protocol.ServedSpan{Model: someID(t, name+content).Bytes(), From: a, To: b, Blocks: blocks, Name: name, Loaded: true})
	}
	return o
}

// Whom a name is taken for: who is there counts, by groups of addresses, and not
// how many say so.
func TestWeigh(t *testing.T) {
	of := func(p peer.ID) teller {
		s := teller{group: string(p), there: !strings.HasPrefix(string(p), "hearsay"), own: strings.HasPrefix(string(p), "own")}
		if strings.HasPrefix(string(p), "flock") { // many behind one address
			s.group = "flock"
		}
		return s
	}
	flock := []*protocol.Offer{}
	for i := range 50 {
		flock = append(flock, offering(t, fmt.Sprintf("flock%d", i), "m=b 0-4 of 4"))
		flock = append(flock, offering(t, fmt.Sprintf("hearsay%d", i), "m=b 0-4 of 4"))
	}
	for name, c := range map[string]struct {
		offers []*protocol.Offer
		first  string
		groups int
		whole  bool
	}{
		"two networks before one, whatever its peers": {append(flock, offering(t, "x", "m=a 0-4 of 4"), offering(t, "y", "m=a 0-4 of 4")), "ma", 2, true},
		"all of it before a part":                     {append(slices.Clone(flock[:2]), offering(t, "x", "m=a 0-3 of 4"), offering(t, "y", "m=a 0-3 of 4")), "mb", 1, true},
		"parts together before hearsay":               {append([]*protocol.Offer{flock[1]}, offering(t, "x", "m=a 0-2 of 4"), offering(t, "y", "m=a 2-4 of 4")), "ma", 0, true},
		"one's own before all":                        {append(slices.Clone(flock), offering(t, "own", "m=a 0-1 of 4")), "ma", 0, false},
		"a false count of blocks takes nothing away":  {[]*protocol.Offer{offering(t, "liar", "m=a 0-1 of 60000"), offering(t, "x", "m=a 0-4 of 4"), flock[1]}, "ma", 1, true},
	} {
		all := weigh(c.offers, of)
		got := all[0]
		if !got.ID.Equals(someID(t, c.first)) || got.Groups != c.groups || got.Whole != c.whole {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What thousands offer who may be nobody leaves lists and errors of a size, and
// hides nobody who is there.
func TestWeighFlood(t *testing.T) {
	offers := []*protocol.Offer{offering(t, "honest", "tales 0-4 of 4")}
	var many []string
	for i := range 55 {
		many = append(many, fmt.Sprintf("made-up-%d 0-1 of 1", i))
	}
	for i := range 2000 {
		o := offering(t, fmt.Sprintf("p%d", i), many...)
		for k, s := range o.Spans {
			s.Model = someID(t, fmt.Sprint(i, " ", k)).Bytes()
		}
		offers = append(offers, o)
	}
	all := weigh(offers, func(p peer.ID) teller { return teller{group: string(p), there: p == "honest" || p == "p7"} })
	if len(all) > 1+2000*maxOfPeer+55 {
		t.Errorf("%d models", len(all))
	}
	whole := 0
	for _, c := range all {
		if c.Whole {
			whole++
		}
	}
	if whole != 1+maxOfPeer {
		t.Errorf("%d models are served whole by the two who are there", whole)
	}
	found := Fitting("tales", all)
	if len(found) != 1 || !found[0].ID.Equals(someID(t, "tales")) {
		t.Errorf("found %+v", found)
	}
	if text := ListOf(Fitting("made", all), (*Claim).Name); len(text) > 1000 || !strings.Contains(text, "more") {
		t.Errorf("an error of %d bytes: %.200s", len(text), text)
	}
}
