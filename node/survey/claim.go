package survey

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	maxOfPeer = 8  // models that one peer brings, with all their figures
	maxNamed  = 10 // models that a message names
)

// Claim is a model as offers describe it. It is not changed after it was returned.
type Claim struct {
	ID            cid.Cid
	Names         []string // at most 8
	Blocks, Width int      // 0: unknown
	Served, Held  bool     // in part; Served: by anybody's word; Held: by that of a connected peer
	Own           bool     // served by this node or by a peer that the operator trusts
	Whole         bool     // served whole by the connected peers together
	Groups        int      // groups of addresses of which each serves it whole
}

// teller is what the peer of an offer is to this node.
type teller struct {
	group string // of addresses
	there bool   // connected
	own   bool   // this node, or trusted
}

// tally collects what is claimed of one model.
type tally struct {
	Claim
	spans map[cover][]protocol.Span
}

// cover is a group of peers that serve a model with a number of blocks, as they
// say; the group "" is all peers together.
type cover struct {
	group  string
	blocks int
}

// weigh returns what offers say of models, the likeliest to be meant first.
func weigh(offers []*protocol.Offer, of func(peer.ID) teller) []*Claim {
	all := map[string]*tally{}
	for _, o := range offers {
		s, brought := of(o.From), map[string]bool{}
		// note returns the tally to which a model's figures go. Past a peer's
		// maxOfPeer models only the names count, and nothing if it is not connected.
		note := func(raw []byte, name string) *tally {
			brought[string(raw)] = true
			few := len(brought) <= maxOfPeer
			t := all[string(raw)]
			if t == nil {
				id, err := cid.Cast(raw)
				if err != nil || !few && !s.there {
					return nil
				}
				t = &tally{Claim: Claim{ID: id}}
				all[string(raw)] = t
			}
			if name != "" && len(t.Names) < maxOfPeer && !slices.Contains(t.Names, name) {
				t.Names = append(t.Names, name)
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
				t.Held = t.Held || s.there
			}
		}
	}
	out := make([]*Claim, 0, len(all))
	for _, t := range all {
		t.count()
		t.spell()
		out = append(out, &t.Claim)
	}
	slices.SortFunc(out, func(a, b *Claim) int {
		return cmp.Or(first(a.Own, b.Own), b.Groups-a.Groups, first(a.Whole, b.Whole), first(a.Held, b.Held), strings.Compare(a.ID.KeyString(), b.ID.KeyString()))
	})
	return out
}

// first orders what has a property before what has not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// serve notes that a peer claims to serve a span.
func (t *tally) serve(sp *protocol.ServedSpan, s teller) {
	t.Served, t.Own = true, t.Own || s.own && s.there
	if t.Blocks == 0 || s.there {
		t.Blocks, t.Width = int(sp.Blocks), int(sp.Width)
	}
	if s.there && sp.Loaded {
		if t.spans == nil {
			t.spans = map[cover][]protocol.Span{}
		}
		for _, group := range []string{"", s.group} {
			k := cover{group, int(sp.Blocks)}
			t.spans[k] = append(t.spans[k], sp.Span())
		}
	}
}

// count finds the groups that serve all of the model.
func (t *tally) count() {
	groups := map[string]bool{}
	for c, spans := range t.spans {
		switch {
		case len(protocol.Uncovered(c.blocks, spans)) > 0:
		case c.group == "":
			t.Whole = true
		default:
			groups[c.group] = true
		}
	}
	t.Groups = len(groups)
}

// spell puts of the spellings of the first name that differ in case alone the one with
// capitals first, whoever uses it: peers that have only the manifest write small letters.
func (t *tally) spell() {
	for i, n := range t.Names {
		if first := t.Names[0]; strings.EqualFold(n, first) && n < first { // capitals come first in Unicode
			t.Names[0], t.Names[i] = n, first
		}
	}
}

// Name is what the model is called, or its CID if it has no name.
func (c *Claim) Name() string {
	if len(c.Names) == 0 {
		return c.ID.String()
	}
	return c.Names[0]
}

// Fitting returns the claims that a name fits best, in their order.
func Fitting(name string, all []*Claim) (found []*Claim) {
	best := protocol.MatchBegin
	for _, c := range all {
		switch fit := protocol.MatchModel(name, c.ID, c.Names); {
		case fit > best:
			found, best = []*Claim{c}, fit
		case fit == best:
			found = append(found, c)
		}
	}
	return found
}

// Likeliest returns the first of models that peers call by one name, and a warning
// that names the others, if there are any.
func Likeliest(name string, found []*Claim) (c *Claim, warning string) {
	if c = found[0]; len(found) > 1 {
		warning = fmt.Sprintf("peers call %d models %+q: this is %s, which %s; the others are %s",
			len(found), name, c.ID, c.Why(), ListOf(found[1:], func(c *Claim) string { return c.ID.String() }))
	}
	return c, warning
}

// Why says in words why a claim comes before others.
func (c *Claim) Why() string {
	switch {
	case c.Own:
		return "nodes of yours serve"
	case c.Groups > 0:
		return fmt.Sprintf("%d networks serve whole", c.Groups)
	case c.Whole:
		return "peers serve whole together"
	}
	return "nobody who is connected serves whole"
}

// ListOf names at most ten claims and says how many more there are.
func ListOf(list []*Claim, what func(*Claim) string) string {
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

// ServedOf returns the claims of models that are served: by connected peers, if
// there are any such. It may reuse the list.
func ServedOf(all []*Claim) (out []*Claim) {
	for _, c := range all {
		if c.Whole || c.Served && c.Own {
			out = append(out, c)
		}
	}
	if len(out) > 0 {
		return out
	}
	return slices.DeleteFunc(all, func(c *Claim) bool { return !c.Served })
}

// Leads reports that a claim is likelier to be meant than another by more than its
// place in the order.
func (c *Claim) Leads(other *Claim) bool {
	return c.Own && !other.Own || c.Own == other.Own && c.Groups > other.Groups
}
