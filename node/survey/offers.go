package survey

import (
	"cmp"
	"context"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/placement"
	"github.com/shoalnet/shoal/protocol"
)

// maxPlaced is how many peers at most are asked whether they are there, before a
// decision about placement.
const maxPlaced = 128

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
			Model: sp.ModelID(), Name: sp.Name, Span: sp.Span(), Ready: sp.Ready, Loaded: sp.Loaded, Load: float64(sp.LoadPermille) / 1000,
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
		if o.From == s.net.Self() {
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

// NameOf returns what the first peer that names a model calls it; "" if none does.
func (s *Survey) NameOf(model cid.Cid) string {
	for _, o := range s.net.Known(model) {
		for _, sp := range o.Spans {
			if sp.ModelID() == model && sp.Name != "" {
				return sp.Name
			}
		}
		for _, h := range o.Shards {
			if string(h.Model) == string(model.Bytes()) && h.Name != "" {
				return h.Name
			}
		}
	}
	return ""
}

// PlacementPeers returns the peers that serve or may serve one of the models, by
// their offers and by what this node knows of them. Peers that do not answer are left
// out, and so are strangers that are shunned.
func (s *Survey) PlacementPeers(ctx context.Context, models map[cid.Cid]*protocol.Manifest) (out []placement.Peer) {
	seen := map[peer.ID]*protocol.Offer{}
	for model := range models {
		some := func(offers []*protocol.Offer) bool { return len(offers) > 0 }
		for _, o := range s.net.Offers(ctx, model, some) {
			if s.Trusted(o.From) || !Shunned(s.book.Of(o.From)) {
				seen[o.From] = o
			}
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	now := time.Now()
	for _, id := range s.acquaintances(slices.Collect(maps.Keys(seen)), maxPlaced) {
		wg.Go(func() {
			if _, err := s.net.Status(ctx, id, cid.Undef, nil); err != nil {
				return
			}
			p := s.placementPeer(seen[id], now, models)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, p)
		})
	}
	wg.Wait()
	return out
}

// acquaintances returns at most most of some peers: first those that are trusted,
// then those that have worked for this node, those met before, and any others. It
// reorders the list.
func (s *Survey) acquaintances(peers []peer.ID, most int) []peer.ID {
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	class := map[peer.ID]int{}
	for _, p := range peers {
		switch seen := s.book.Of(p); {
		case s.Trusted(p):
		case seen.Done > 0:
			class[p] = 1
		case !seen.Since.IsZero():
			class[p] = 2
		default:
			class[p] = 3
		}
	}
	slices.SortStableFunc(peers, func(a, b peer.ID) int { return cmp.Compare(class[a], class[b]) })
	return peers[:min(len(peers), most)]
}

// placementPeer makes the input of placement from the offer of a peer that has
// answered.
func (s *Survey) placementPeer(o *protocol.Offer, now time.Time, models map[cid.Cid]*protocol.Manifest) placement.Peer {
	s.book.Meet(o.From)
	p := placement.Peer{
		ID: o.From.String(), Expires: o.Expires(), Lent: int64(min(o.AutoBytes, 1<<50)), Held: map[string][]bool{},
		Trusted: s.Trusted(o.From), Met: s.book.Since(o.From), Group: s.net.Group(o.From),
	}
	for _, raw := range o.Takes {
		if id, err := cid.Cast(raw); err == nil {
			p.Takes = append(p.Takes, id.String())
		}
	}
	for _, h := range o.Shards {
		id, err := cid.Cast(h.Model)
		if man := models[id]; err == nil && man != nil {
			held := make([]bool, len(man.Shards))
			for i := range held {
				held[i] = i/8 < len(h.Bitmap) && h.Bitmap[i/8]>>(i%8)&1 == 1
			}
			p.Held[id.String()] = HeldBlocks(man, held)
		}
	}
	for _, sp := range o.Spans {
		v := placement.Served{
			Model: sp.ModelID().String(), Span: sp.Span(), Ready: sp.Ready, Loaded: sp.Loaded, Auto: sp.Auto,
			Since: now.Add(-time.Duration(sp.SinceS) * time.Second), Row: time.Duration(sp.UsPerBlockPrefill) * time.Microsecond,
			Load: float64(sp.LoadPermille) / 1000, LoadLong: float64(sp.LoadLongPermille) / 1000, Refused: float64(sp.RefusedPermille) / 1000,
		}
		v.First, v.Answered = s.book.Answers(o.From, v.Model+" "+v.Span.String())
		p.Serves = append(p.Serves, v)
	}
	return p
}

// HeldBlocks returns which blocks of a model are held, from which of its shards are.
func HeldBlocks(man *protocol.Manifest, shards []bool) []bool {
	out := make([]bool, man.Blocks)
	for i, sh := range man.Shards {
		if sh.Kind == protocol.ShardBlock && i < len(shards) {
			out[sh.Block] = shards[i]
		}
	}
	return out
}
