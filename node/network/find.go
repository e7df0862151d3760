package network

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/shoalnet/shoal/protocol"
)

const (
	fewMembers = 16                     // so many members of a model are all asked at once; of more, askedFirst
	askedFirst = 3                      // members that are asked before any other
	headStart  = 250 * time.Millisecond // of the connected peers before the DHT, and twice that of a model's members
	atATime    = 16                     // peers from the DHT that are asked at once: most must be dialled, and some are gone
	thinnest   = 4                      // buckets of a model that are looked up
)

// Offers finds the peers that serve or hold a model, or, with cid.Undef, the
// offers of connected peers. If enough accepts the known offers they are
// returned at once. Otherwise Offers asks the known or remembered members, a few
// of them first if they are many, and the DHT if their answers do not suffice or
// do not come soon.
func (n *Network) Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer {
	done := func() bool { return enough != nil && enough(n.Known(model)) }
	if done() {
		n.askAgain(model)
		return n.Known(model)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	begin := func(peers []peer.ID) <-chan struct{} { // askAll, which orders its peers
		asked := make(chan struct{})
		go func() {
			n.askAll(ctx, slices.Clone(peers), model, enough)
			close(asked)
		}()
		return asked
	}
	ask, met := n.members(model)
	wait := headStart
	if met {
		wait *= 2
	}
	if len(ask) > fewMembers && met && enough != nil {
		if soon(begin(n.some(ask)), wait); done() {
			return n.Known(model)
		}
	}
	asked := begin(ask)
	if model.Defined() {
		if soon(asked, wait); !done() {
			n.lookUp(ctx, model, ask, enough, enough != nil)
		}
	}
	if !done() {
		<-asked
	}
	return n.Known(model)
}

// soon waits until something has ended, but not for long.
func soon(ended <-chan struct{}, most time.Duration) {
	select {
	case <-ended:
	case <-time.After(most):
	}
}

// members returns the peers to ask about a model first, and whether they are
// members of the model, as opposed to any connected peers.
func (n *Network) members(model cid.Cid) (ask []peer.ID, met bool) {
	if model.Defined() {
		for _, o := range n.Known(model) {
			if o.From != n.host.ID() {
				ask = append(ask, o.From)
			}
		}
		if len(ask) > 0 {
			return ask, true
		}
		for _, p := range n.book.serving(model, askedFirst) {
			n.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.TempAddrTTL)
			ask, met = append(ask, p.ID), true
		}
	}
	return append(ask, n.host.Network().Peers()...), met
}

// some returns the nearest of many peers and others at random.
func (n *Network) some(peers []peer.ID) []peer.ID {
	near := nearest(peers, 1, func(p peer.ID) peer.ID { return p }, n.RTT, n.Group)
	others := slices.DeleteFunc(slices.Clone(peers), func(p peer.ID) bool { return slices.Contains(near, p) })
	return append(near, draw(others, askedFirst-len(near), n.Group)...)
}

// askAgain asks members in the background, at most every askEvery: the
// known offers suffice for now, but others may be better.
func (n *Network) askAgain(model cid.Cid) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.asked[model]) < askEvery || n.ctx.Err() != nil {
		return
	}
	if len(n.asked) >= maxOffers {
		clear(n.asked)
	}
	n.asked[model] = time.Now()
	n.wg.Go(func() {
		ctx, cancel := context.WithTimeout(n.ctx, lookTime)
		defer cancel()
		ask, met := n.members(model)
		if met && len(ask) > fewMembers {
			ask = n.some(ask)
		}
		n.askAll(ctx, ask, model, nil)
	})
}

// askAll asks peers concurrently. It waits for all, or until the known offers
// are enough, so that one dead peer does not hold up the answers of the others.
func (n *Network) askAll(ctx context.Context, peers []peer.ID, model cid.Cid, enough func([]*protocol.Offer) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slices.Sort(peers)
	peers = slices.DeleteFunc(slices.Compact(peers), func(p peer.ID) bool { return p == n.host.ID() })
	peers = draw(peers, 64, n.Group)
	asked := make(chan struct{}, len(peers))
	for _, p := range peers {
		go func() {
			if err := n.ask(ctx, p, model); err != nil {
				n.log.Debug("asking for offers", "peer", p, "error", err)
			}
			asked <- struct{}{}
		}()
	}
	for range peers {
		<-asked
		if enough != nil && enough(n.Known(model)) {
			return
		}
	}
}

// ask requests a peer's own offer and, of those it knows about a model, as many
// as are kept on its word.
func (n *Network) ask(ctx context.Context, p peer.ID, model cid.Cid) error {
	return n.askFor(ctx, p, model, n.tells(p))
}

// askFor requests a peer's own offer and at most most of those it knows about a
// model.
func (n *Network) askFor(ctx context.Context, p peer.ID, model cid.Cid, most int) error {
	req := &protocol.OffersRequest{Most: uint32(most), Near: true}
	if model.Defined() {
		req.Model = model.Bytes()
	}
	own := n.OwnOffer()
	if own != nil {
		req.Own = own.Envelope
	}
	var reply protocol.OffersReply
	if err := n.request(ctx, p, protocol.OffersID, req, &reply, maxReply, protocol.ProbeTime); err != nil {
		return err
	}
	if own != nil {
		n.mu.Lock()
		n.told[p] = max(n.told[p], own.Seq)
		n.mu.Unlock()
	}
	for i, raw := range reply.Envelopes {
		if i > protocol.MaxOffersReply {
			break
		}
		if i == 0 { // its own comes first (see answer)
			n.compareClocks(p, raw)
		}
		if err := n.hear(p, raw); err != nil && !errors.Is(err, protocol.ErrOfferOld) {
			n.log.Debug("an offer was refused", "from", p, "error", err)
		}
	}
	return nil
}

// lookUp asks the peers that the DHT names for a model, as they appear, until the
// known offers are enough. With buckets, it looks under the keys of some buckets of
// blocks as well: the list of a popular model may be full of peers that serve
// other blocks than those that are missing.
func (n *Network) lookUp(ctx context.Context, model cid.Cid, asked []peer.ID, enough func([]*protocol.Offer) bool, buckets bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	seen := map[peer.ID]bool{n.host.ID(): true}
	for _, p := range asked {
		seen[p] = n.offerOf(p) != nil
	}
	turns := make(chan struct{}, atATime)
	ask := func(p peer.ID) {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-turns }()
		_ = n.ask(ctx, p, model)
		if enough != nil && enough(n.Known(model)) {
			cancel()
		}
	}
	look := func(key cid.Cid, wg *sync.WaitGroup) {
		follow, walk, end := n.looked.follow(ctx, n.host.ID())
		defer end(true)
		for p := range n.dht.FindProvidersAsync(follow, key, protocol.MaxOffersReply) {
			walk.found()
			mu.Lock()
			fresh := !seen[p.ID]
			seen[p.ID] = true
			mu.Unlock()
			if fresh {
				wg.Go(func() { ask(p.ID) })
			}
		}
	}
	looked := map[int]bool{}
	for pass := range 2 { // what is missing may be known only after the first
		var wg sync.WaitGroup
		if pass == 0 {
			wg.Go(func() { look(protocol.ModelKey(model), &wg) })
		}
		if buckets && ctx.Err() == nil {
			for _, b := range n.thin(model) {
				if !looked[b] {
					looked[b] = true
					wg.Go(func() { look(protocol.BucketKey(model, b), &wg) })
				}
			}
		}
		wg.Wait()
	}
}

// thin returns the buckets of a model whose blocks the fewest known peers serve,
// the thinnest first and at most thinnest of them; none if nobody is known to
// serve any. How many blocks the model has is what peers of the most groups of
// addresses say.
func (n *Network) thin(model cid.Cid) []int {
	var spans []protocol.Span
	said := map[int]map[string]bool{}
	n.mu.Lock()
	for w := range n.offers.concerning(model) {
		for _, s := range w.SpansOf(model) {
			blocks := int(s.Blocks)
			if said[blocks] == nil {
				said[blocks] = map[string]bool{}
			}
			said[blocks][w.group] = true
		}
	}
	n.mu.Unlock()
	for _, o := range n.Known(model) {
		for _, s := range o.SpansOf(model) {
			if s.Loaded {
				spans = append(spans, s.Span())
			}
		}
	}
	blocks, groups := 0, 0
	for b, of := range said {
		if len(of) > groups || len(of) == groups && b < blocks {
			blocks, groups = b, len(of)
		}
	}
	return thinBuckets(blocks, spans)
}

// thinBuckets returns the buckets of which some block is covered by the fewest of
// some spans, at most thinnest of them; of equal ones any.
func thinBuckets(blocks int, spans []protocol.Span) []int {
	type bucket struct{ number, depth int }
	var all []bucket
	for _, b := range rand.Perm(len(protocol.Buckets(protocol.Span{To: blocks}))) {
		depth := len(spans)
		for i := b * protocol.BucketBlocks; i < min((b+1)*protocol.BucketBlocks, blocks); i++ {
			over := 0
			for _, s := range spans {
				if s.From <= i && i < s.To {
					over++
				}
			}
			depth = min(depth, over)
		}
		all = append(all, bucket{b, depth})
	}
	slices.SortStableFunc(all, func(a, b bucket) int { return cmp.Compare(a.depth, b.depth) })
	var out []int
	for _, b := range all[:min(len(all), thinnest)] {
		out = append(out, b.number)
	}
	return out
}

// Holders are the other peers that hold shards of a model, as far as is known.
// It returns no error.
func (n *Network) Holders(ctx context.Context, model cid.Cid) ([]peer.AddrInfo, error) {
	n.Offers(ctx, model, nil)
	return n.KnownHolders(model), nil
}

// KnownHolders is Holders without asking anybody.
func (n *Network) KnownHolders(model cid.Cid) (out []peer.AddrInfo) {
	for _, o := range n.Known(model) {
		if o.From != n.host.ID() && o.Held(model) != nil {
			out = append(out, n.host.Peerstore().PeerInfo(o.From))
		}
	}
	return out
}
