package survey

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Coverage is how much of a model its peers serve.
type Coverage struct {
	Model   cid.Cid
	Name    string // as the first of its peers calls it
	Blocks  int
	Nodes   int             // peers that have a span of it loaded
	Missing []protocol.Span // blocks that nobody has loaded
	Coming  []protocol.Span // spans that are about to be loaded, and that nobody has loaded
}

// Coverage returns how much the peers of some offers serve of each of the likeliest
// models, at most most of them, by name.
func (s *Survey) Coverage(offers []*protocol.Offer, most int) []Coverage {
	claims := s.Weigh(offers)
	counts := map[cid.Cid]bool{}
	for _, c := range claims[:min(len(claims), most)] {
		counts[c.ID] = true
	}
	type sum struct {
		Coverage
		loaded, all []protocol.Span
	}
	sums := map[cid.Cid]*sum{}
	for _, o := range offers {
		counted := map[cid.Cid]bool{}
		for _, sp := range o.Spans {
			id := sp.ModelID()
			if !counts[id] {
				continue
			}
			c := sums[id]
			if c == nil {
				c = &sum{Coverage: Coverage{Model: id}}
				sums[id] = c
			}
			c.Blocks, c.Name = max(c.Blocks, int(sp.Blocks)), cmp.Or(c.Name, sp.Name)
			c.all = append(c.all, sp.Span())
			if !sp.Loaded {
				continue
			}
			c.loaded = append(c.loaded, sp.Span())
			if !counted[id] {
				counted[id] = true
				c.Nodes++
			}
		}
	}
	out := make([]Coverage, 0, len(sums))
	for _, c := range sums {
		c.Missing = protocol.Uncovered(c.Blocks, c.loaded)
		c.Coming = slices.DeleteFunc(c.all, func(s protocol.Span) bool { return slices.Contains(c.loaded, s) })
		out = append(out, c.Coverage)
	}
	slices.SortFunc(out, func(a, b Coverage) int { return strings.Compare(a.Name+a.Model.String(), b.Name+b.Model.String()) })
	return out
}

// PeerSpan is a span as its peer offers it, with the load that the peer last
// reported.
type PeerSpan struct {
	Model            cid.Cid
	Name             string // of the model, as the peer calls it
	Class            string // what computes it; "": unknown
	Span             protocol.Span
	Ready, Loaded    bool
	Load             float64 // over the last minute, 0 to 1
	StepMs           float64 // of one row through the span, in milliseconds
	KVTokens, KVFree int     // KV cells, in tokens
	Sessions         int
	TokensPerS       float64 // as reported; any float
}

// SpansOf returns the spans of an offer, which may be nil. The beat has the last report
// of the offer's peer.
func SpansOf(o *protocol.Offer, b Beat) (out []PeerSpan) {
	if o == nil {
		return nil
	}
	for _, sp := range o.Spans {
		v := PeerSpan{
			Model: sp.ModelID(), Name: sp.Name, Class: sp.Engine.Class(), Span: sp.Span(), Ready: sp.Ready, Loaded: sp.Loaded, Load: float64(sp.LoadPermille) / 1000,
			StepMs: float64(sp.UsPerBlock) * float64(sp.Span().Len()) / 1000, KVTokens: int(sp.KvTokens), KVFree: int(sp.KvFree),
		}
		if b.Status != nil {
			for _, now := range b.Status.Spans {
				if string(now.Model) == string(sp.Model) && now.From == sp.From && now.To == sp.To {
					v.KVFree, v.Sessions, v.TokensPerS = int(now.KvFree), int(now.Sessions), float64(now.TokensPerS)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// Holder is a peer that has shards of a model.
type Holder struct {
	Peer   peer.ID
	Shards int // how many
}

// Holders returns the peers other than this node that have shards of each model, as
// their offers claim, at most most of them per model.
func (s *Survey) Holders(offers []*protocol.Offer, most int) map[cid.Cid][]Holder {
	out := map[cid.Cid][]Holder{}
	for _, o := range offers {
		if s.net.Own(o.From) {
			continue
		}
		for _, h := range o.Shards {
			id, err := cid.Cast(h.Model)
			if err != nil || len(out[id]) >= most {
				continue
			}
			held := 0
			for _, b := range h.Bitmap {
				held += bits.OnesCount8(b)
			}
			out[id] = append(out[id], Holder{o.From, held})
		}
	}
	return out
}
