package survey

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
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
			if _, err := s.status(ctx, id, cid.Undef, nil); err != nil {
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
		id := h.ModelID()
		if man := models[id]; man != nil {
			p.Held[id.String()] = HeldBlocks(man, h.Bits(len(man.Shards)))
		}
	}
	for _, sp := range o.Spans {
		v := placement.Served{
			Model: sp.ModelID().String(), Span: sp.Span(), Ready: sp.Ready, Loaded: sp.Loaded, Auto: sp.Auto,
			Since: now.Add(-time.Duration(sp.SinceS) * time.Second), Row: time.Duration(sp.UsPerBlockPrefill) * time.Microsecond,
			Load: float64(sp.LoadPermille) / 1000, LoadLong: float64(sp.LoadLongPermille) / 1000, Refused: float64(sp.RefusedPermille) / 1000,
		}
		v.First, v.Answered = s.book.Answers(o.From, SpanName(sp.ModelID(), v.Span))
		if v.Asleep = sp.LoadMs > 0; v.Asleep && !v.Answered.IsZero() {
			v.Answered = now // it is not asked meanwhile, or it could never sleep
		}
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
