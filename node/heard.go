package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/protocol"
)

// What peers offer is their word, and a name costs them nothing. So what is heard
// is weighed by those who are there: peers that are connected, of how many groups
// of addresses, and whether they are the operator's own. Offers of others count
// for being found by name and CID, and for nothing else.

const (
	maxListed = 200 // models in a list
	maxOfPeer = 8   // of which one peer brings so many
	maxNamed  = 10  // models that an error names
	maxTried  = 8   // manifests that are fetched for one name

	graceTime = 2 * time.Second
)

// claim is a model as offers tell of it.
type claim struct {
	id            cid.Cid
	names         []string // at most maxOfPeer
	blocks, width int      // 0: not told
	served, held  bool     // in part, as somebody says; of held: as a peer that is there says
	own           bool     // served by this node, or by a peer that the operator trusts
	whole         bool     // served whole by peers that are there, together
	groups        int      // groups of addresses of which each serves it whole
}

// teller is what an offer's peer is to this node.
type teller struct {
	group string
	there bool // connected
	own   bool
}

// teller of an offer.
func (n *Node) teller(p peer.ID) teller {
	s := teller{group: n.net.Group(p), own: n.trusted(p)}
	s.there = p == n.net.Self() || n.net.Host().Network().Connectedness(p) == network.Connected
	return s
}

// heard gives what offers tell of models, the likeliest to be meant first.
func (n *Node) heard(offers []*protocol.Offer) []*claim { return weigh(offers, n.teller) }

// tally collects what is claimed of one model.
type tally struct {
	claim
	spans map[cover][]protocol.Span
}

// cover is who serves a model, and of how many blocks he says that it is; the
// group "" is all together.
type cover struct {
	group  string
	blocks int
}

func weigh(offers []*protocol.Offer, of func(peer.ID) teller) []*claim {
	all := map[string]*tally{}
	for _, o := range offers {
		s, brought := of(o.From), map[string]bool{}
		// note gives the tally that a model's figures go to; of what is one model too
		// many of a peer's only the name counts, and of a peer that is not there nothing.
		note := func(raw []byte, name string) *tally {
			brought[string(raw)] = true
			few := len(brought) <= maxOfPeer
			t := all[string(raw)]
			if t == nil {
				id, err := cid.Cast(raw)
				if err != nil || !few && !s.there {
					return nil
				}
				t = &tally{claim: claim{id: id}}
				all[string(raw)] = t
			}
			if name != "" && len(t.names) < maxOfPeer && !slices.Contains(t.names, name) {
				t.names = append(t.names, name)
			}
			if !few {
				return nil
			}
			return t
		}
		for _, sp := range o.Spans {
			if t := note(sp.Model, sp.Name); t != nil {
				t.serve(sp, s)
			}
		}
		for _, h := range o.Shards {
			if t := note(h.Model, h.Name); t != nil {
				t.held = t.held || s.there
			}
		}
	}
	out := make([]*claim, 0, len(all))
	for _, t := range all {
		t.count()
		out = append(out, &t.claim)
	}
	slices.SortFunc(out, func(a, b *claim) int {
		return cmp.Or(first(a.own, b.own), b.groups-a.groups, first(a.whole, b.whole), first(a.held, b.held), strings.Compare(a.id.KeyString(), b.id.KeyString()))
	})
	return out
}

// first orders who has something before who has not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// serve notes that a peer says to serve a span.
func (t *tally) serve(sp *protocol.ServedSpan, s teller) {
	t.served, t.own = true, t.own || s.own && s.there
	if t.blocks == 0 || s.there {
		t.blocks, t.width = int(sp.Blocks), int(sp.Width)
	}
	if s.there && sp.Loaded {
		if t.spans == nil {
			t.spans = map[cover][]protocol.Span{}
		}
		for _, group := range []string{"", s.group} {
			c := cover{group, int(sp.Blocks)}
			t.spans[c] = append(t.spans[c], sp.Span())
		}
	}
}

// count sees who serves all of the model.
func (t *tally) count() {
	groups := map[string]bool{}
	for c, spans := range t.spans {
		switch {
		case len(protocol.Uncovered(c.blocks, spans)) > 0:
		case c.group == "":
			t.whole = true
		default:
			groups[c.group] = true
		}
	}
	t.groups = len(groups)
}

// name is what the model is called, or its CID.
func (c *claim) name() string {
	if len(c.names) == 0 {
		return c.id.String()
	}
	return c.names[0]
}

// listed are the models of peers that a list shows: of those not here, what the
// catalogue knows, and what peers that are there serve whole.
func (n *Node) listed(heard []*claim) (out []*claim) {
	named := map[string]bool{} // names of the catalogue that stand in the list
	for _, c := range heard {
		if _, err := n.store.Model(c.id); err == nil || len(out) == maxListed {
			continue
		}
		if c.whole || c.served && n.names.lists(c, named) {
			out = append(out, c)
		}
	}
	return out
}

// lists says that a claim is of a model in the catalogue: by its CID or, where
// nobody knows that, by the name, which the first to come has.
func (s *names) lists(c *claim, named map[string]bool) bool {
	for _, name := range c.names {
		e := s.Find(name)
		if e == nil {
			continue
		}
		if id := s.meaning(e); id.Defined() && id.Equals(c.id) {
			return true
		} else if !id.Defined() && !named[e.Name] {
			named[e.Name] = true
			return true
		}
	}
	return false
}

// fitting are the claims that a name fits best, in their order.
func fitting(name string, all []*claim) (found []*claim) {
	best := protocol.MatchBegin
	for _, c := range all {
		switch fit := protocol.MatchModel(name, c.id, c.names); {
		case fit > best:
			found, best = []*claim{c}, fit
		case fit == best:
			found = append(found, c)
		}
	}
	return found
}

// real are those of the likeliest claims whose manifests can be had, and are as
// they should be, in their order. Once one has come, the others have graceTime.
func (n *Node) real(ctx context.Context, found []*claim, good func(*protocol.Manifest) bool) (out []*claim) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found = found[:min(len(found), maxTried)]
	came := make([]bool, len(found))
	var wg sync.WaitGroup
	for i, c := range found {
		wg.Go(func() {
			raw, err := n.exchange.Manifest(ctx, c.id)
			if err != nil {
				return
			}
			man, err := protocol.DecodeManifest(raw)
			if came[i] = err == nil && good(man); came[i] {
				time.AfterFunc(graceTime, cancel)
			}
		})
	}
	wg.Wait()
	for i, c := range found {
		if came[i] {
			out = append(out, c)
		}
	}
	return out
}

// choose takes the likeliest of models that are all called by a name, and says so.
func choose(name string, found []*claim) (c *claim, warning string) {
	if c = found[0]; len(found) > 1 {
		warning = fmt.Sprintf("peers call %d models %+q: this is %s, which %s; the others are %s",
			len(found), name, c.id, c.why(), listOf(found[1:], func(c *claim) string { return c.id.String() }))
	}
	return c, warning
}

// why a claim goes before others.
func (c *claim) why() string {
	switch {
	case c.own:
		return "nodes of yours serve"
	case c.groups > 0:
		return fmt.Sprintf("%d networks serve whole", c.groups)
	case c.whole:
		return "peers serve whole together"
	}
	return "nobody who is connected serves whole"
}

// unclear is the error where a name must mean one model, and means several.
func unclear(name string, found []*claim) error {
	return api.Errorf(api.BadInput, "peers call %d models %q; name one of %s", len(found), name, listOf(found, func(c *claim) string { return c.id.String() }))
}

// listOf names a few claims.
func listOf(list []*claim, what func(*claim) string) string {
	var out []string
	for _, c := range list[:min(len(list), maxNamed)] {
		out = append(out, what(c))
	}
	text := strings.Join(out, ", ")
	if more := len(list) - len(out); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
