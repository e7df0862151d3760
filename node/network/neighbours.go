package network

import (
	"context"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
)

const (
	nearNeighbours   = 8 // per model that this node serves
	randomNeighbours = 8
	swapFirst        = 10 * time.Second // until this node first asks a neighbour
	swapEvery        = 80 * time.Second // the longest wait; with jitter a minute
	swapped          = 8                // offers of others that a neighbour is asked for
	modelTag         = "model"          // of neighbours, for the connection manager
	modelWeight      = 40
)

// flock is this node's neighbours among the servers of a model: the nearest, which
// make good routes, and others at random, which keep the swarm in one piece. The
// neighbours of all servers together know all of them, though each knows few. It
// is not safe for concurrent use.
type flock struct {
	near, random []peer.ID // random: the one that has been there for longest first
}

// renew chooses neighbours among the servers that are known now. Each time one of
// those at random makes room for another.
func (f *flock) renew(known []peer.ID, rtt func(peer.ID) (time.Duration, bool), group func(peer.ID) string) {
	f.near = nearest(known, nearNeighbours, func(p peer.ID) peer.ID { return p }, rtt, group)
	gone := func(p peer.ID) bool { return !slices.Contains(known, p) || slices.Contains(f.near, p) }
	f.random = slices.DeleteFunc(f.random, gone)
	others := slices.DeleteFunc(slices.Clone(known), func(p peer.ID) bool { return f.has(p) })
	if len(f.random) == randomNeighbours && len(others) > 0 {
		f.random = f.random[1:]
	}
	f.random = append(f.random, draw(others, randomNeighbours-len(f.random), group)...)
}

func (f *flock) all() []peer.ID { return slices.Concat(f.near, f.random) }

func (f *flock) has(p peer.ID) bool {
	return slices.Contains(f.near, p) || slices.Contains(f.random, p)
}

// mingle keeps neighbours for the models that this node serves, and asks one of
// them per minute and model for a few offers. Only what is asked for is taken, so
// a peer can press nothing on its neighbours, and the bounds of hearsay hold
// (see heard).
func (n *Network) mingle() {
	flocks := map[cid.Cid]*flock{}
	wait := backoff.Backoff{First: swapFirst, Most: swapEvery}
	searched := map[cid.Cid]time.Time{}
	for wait.Wait(n.ctx) == nil {
		models := served(n.OwnOffer())
		tagged := n.neighbours(flocks)
		for m := range flocks {
			if !slices.Contains(models, m) {
				delete(flocks, m)
				delete(searched, m)
			}
		}
		for _, m := range models {
			if flocks[m] == nil {
				flocks[m] = &flock{}
			}
			if known := n.servers(m); len(known) < nearNeighbours+randomNeighbours && time.Since(searched[m]) > announces && n.dht.RoutingTable().Size() > 0 {
				searched[m] = time.Now()
				n.introduce(m)
			}
			flocks[m].renew(n.servers(m), n.RTT, n.Group)
			n.swap(m, flocks[m])
		}
		n.tag(tagged, n.neighbours(flocks))
	}
}

// introduce finds servers of a model as a client does, until there are enough to
// choose neighbours from.
func (n *Network) introduce(model cid.Cid) {
	ctx, cancel := context.WithTimeout(n.ctx, lookTime)
	defer cancel()
	n.lookUp(ctx, model, n.servers(model), func([]*protocol.Offer) bool {
		return len(n.servers(model)) >= nearNeighbours+randomNeighbours
	}, false)
}

// swap asks one neighbour for offers.
func (n *Network) swap(model cid.Cid, f *flock) {
	one := draw(f.all(), 1, n.Group)
	if len(one) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, lookTime)
	defer cancel()
	err := n.askFor(ctx, one[0], model, swapped)
	if n.ctx.Err() != nil {
		return
	}
	if err != nil {
		n.doubt(one[0], true)
		n.log.Debug("a neighbour does not answer", "peer", one[0], "error", err)
	}
}

// served returns the models of which an offer, which may be nil, has spans; at
// most maxModels of them.
func served(o *protocol.Offer) (out []cid.Cid) {
	if o == nil {
		return nil
	}
	for _, s := range o.Spans {
		if m := s.ModelID(); len(out) < maxModels && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// servers returns the other peers that are known to serve spans of a model.
func (n *Network) servers(model cid.Cid) (out []peer.ID) {
	for _, o := range n.Known(model) {
		if o.From != n.host.ID() && len(o.SpansOf(model)) > 0 {
			out = append(out, o.From)
		}
	}
	return out
}

func (n *Network) neighbours(flocks map[cid.Cid]*flock) map[peer.ID]bool {
	out := map[peer.ID]bool{}
	for _, f := range flocks {
		for _, p := range f.all() {
			out[p] = true
		}
	}
	return out
}

// tag has the connections to neighbours closed after those of other strangers when
// there are too many.
func (n *Network) tag(before, now map[peer.ID]bool) {
	for p := range before {
		if !now[p] {
			n.host.ConnManager().UntagPeer(p, modelTag)
		}
	}
	for p := range now {
		n.host.ConnManager().TagPeer(p, modelTag, modelWeight)
	}
}
