package route

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Trust is the planning node's relation to a peer. Price decides whether a stranger is
// known or a newcomer, by comparison with the others.
type Trust int

// From least to most.
const (
	Stranger Trust = iota
	Trusted        // by its operator's configuration
	Own            // the node itself
)

// ErrOwnFull means that the node itself, or peers that it trusts, serve all of the
// model and have no room now. It wraps ErrNoRoom.
var ErrOwnFull = fmt.Errorf("%w at this node and those that it trusts", ErrNoRoom)

const (
	// A stranger is permanently known once it has completed knownDone sessions and was
	// first met knownAge ago.
	knownDone = 20
	knownAge  = 24 * time.Hour

	// Before that, it is known if it has completed at least 1/knownShare as many
	// sessions as the best-known peer of the same blocks. One in ten sessions may use a
	// newcomer, so a peer that gets only those stays a newcomer. In a new network,
	// where nobody has completed many, a few sessions are enough.
	knownShare = 4

	favour = 0.5 // factor of the cost of own and trusted stages, and of a newcomer in its turn
)

// least is the least time per block that a claim may have.
const least = time.Microsecond

// known reports whether a candidate is not a newcomer among all.
func known(c *Candidate, all []Candidate) bool {
	switch {
	case c.Trust != Stranger || c.Done >= knownDone && c.Age >= knownAge:
		return true
	case c.Done == 0:
		return false
	}
	for i := range all {
		o := &all[i]
		if o.Trust == Stranger && o.Done > knownShare*c.Done && o.Span.Overlaps(c.Span) {
			return false
		}
	}
	return true
}

// Price returns copies of the candidates with costs as the planning node knows them:
// the claimed times multiplied by the measured ratios, plus a surcharge for marks. A
// newcomer costs at least the median. A stranger that has completed no session is not
// believed to have kept any of the prompt. Price also sets New.
func Price(candidates []Candidate) []Candidate {
	out := slices.Clone(candidates)
	for i := range out {
		c := &out[i]
		c.New = !known(c, candidates)
		if c.Prefill == 0 {
			c.Prefill = c.Decode
		}
		c.Claimed, c.ClaimedPrefill = max(least, sane(c.Decode)), max(least, sane(c.Prefill))
		c.Decode, c.Prefill = times(c.Claimed, factor(c.SeenDecode)), times(c.ClaimedPrefill, factor(c.SeenPrefill))
	}
	decode := median(out, func(c *Candidate) time.Duration { return c.Decode })
	prefill := median(out, func(c *Candidate) time.Duration { return c.Prefill })
	for i := range out {
		c := &out[i]
		if c.New {
			c.Decode, c.Prefill = max(c.Decode, decode), max(c.Prefill, prefill)
		}
		if c.Done == 0 && c.Trust == Stranger {
			c.Kept = 0
		}
		c.weight = 1 + min(max(0, c.Marks), 100)
		if c.Trust != Stranger {
			c.weight *= favour
		}
	}
	return out
}

// factor returns a measured ratio, bounded; 1 if there is none.
func factor(seen float64) float64 {
	if !(seen > 0) {
		return 1
	}
	return min(seen, 1e6)
}

// median returns the median of known candidates, or of all if none is known. Of an even
// number it is the upper one, so that a liar cannot lower it.
func median(list []Candidate, of func(*Candidate) time.Duration) time.Duration {
	var known, all []time.Duration
	for i := range list {
		d := of(&list[i])
		if all = append(all, d); !list[i].New {
			known = append(known, d)
		}
	}
	if len(known) > 0 {
		all = known
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Choose returns the route to take. The candidates are those that Price returned. It is
// the first of these that exists:
//
//  1. over the node itself alone;
//  2. over it and peers that it trusts;
//  3. over these and known strangers; if turn is not nil, also over one newcomer,
//     whose index it draws;
//  4. over these and one newcomer;
//  5. over all peers that are not shunned;
//  6. over all peers.
//
// Of each, one whose stages compute as req.Like says comes before one that is faster.
//
// If no stranger is known, 3 and 4 are skipped: a new network has only newcomers. With
// req.Wait, Choose returns ErrOwnFull instead of a route over strangers if 1 or 2 fails
// for lack of room. Its other errors are Plan's.
func Choose(req Request, candidates []Candidate, links Links, turn func(n int) int) (*Route, error) {
	if len(req.Forced) > 0 {
		return Plan(req, candidates, links)
	}
	plan := func(ok func(*Candidate) bool) (*Route, error) {
		some := slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return !ok(&c) })
		if alike := req.alike(some); len(alike) < len(some) {
			if r, err := Plan(req, alike, links); err == nil {
				return r, nil
			}
		}
		return Plan(req, some, links)
	}
	for _, trust := range []Trust{Own, Trusted} {
		if r, err := plan(func(c *Candidate) bool { return c.Trust >= trust }); err == nil {
			return r, nil
		}
	}
	if req.Wait && ownWhole(req, candidates) {
		return nil, ErrOwnFull
	}
	fresh := newcomers(candidates)
	if slices.ContainsFunc(candidates, func(c Candidate) bool { return c.Trust == Stranger && !c.New && !c.Shunned }) {
		settled := func(c *Candidate) bool { return !c.New && !c.Shunned }
		if turn != nil && len(fresh) > 0 {
			if r := explore(req, candidates, links, settled, fresh[turn(len(fresh))]); r != nil {
				return r, nil
			}
		}
		if r, err := plan(settled); err == nil {
			return r, nil
		}
		var best *Route
		for _, peer := range fresh {
			r, err := plan(func(c *Candidate) bool { return settled(c) || c.Peer == peer })
			if err == nil && (best == nil || r.Prediction.Step < best.Prediction.Step) {
				best = r
			}
		}
		if best != nil {
			return best, nil
		}
	}
	if r, err := plan(func(c *Candidate) bool { return !c.Shunned }); err == nil {
		return r, nil
	}
	return plan(func(*Candidate) bool { return true })
}

// alike returns the candidates whose class is that of all stages in Like whose blocks
// they have.
func (r *Request) alike(candidates []Candidate) []Candidate {
	return slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool {
		return slices.ContainsFunc(r.Like, func(l Like) bool { return l.Class != "" && l.Class != c.Class && l.Span.Overlaps(c.Span) })
	})
}

// ownWhole reports whether the node and the peers that it trusts serve all of the
// model, with room for a session of this length if they had no others.
func ownWhole(req Request, candidates []Candidate) bool {
	var spans []protocol.Span
	for _, c := range candidates {
		if c.Trust != Stranger && !c.Unproven && !req.Exclude[c.Peer] && c.Span.Valid(req.Blocks) && req.Prompt+req.MaxTokens <= c.MaxContext {
			spans = append(spans, c.Span)
		}
	}
	return len(protocol.Uncovered(req.Blocks, spans)) == 0
}

// newcomers returns the peers that are new and without a mark, each once.
func newcomers(candidates []Candidate) (list []string) {
	for _, c := range candidates {
		if c.New && !c.Shunned && !c.Unproven && c.Marks < 0.5 {
			list = append(list, c.Peer)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// explore returns the best route over settled peers and one newcomer, whose cost counts
// half; nil if that route does not use the newcomer.
func explore(req Request, candidates []Candidate, links Links, settled func(*Candidate) bool, peer string) *Route {
	var list []Candidate
	for _, c := range candidates {
		if c.Peer == peer {
			c.weight = favour
		} else if !settled(&c) {
			continue
		}
		list = append(list, c)
	}
	r, err := Plan(req, list, links)
	if err != nil || !slices.ContainsFunc(r.Hops, func(h Hop) bool { return h.Peer == peer }) {
		return nil
	}
	r.Explores = true
	return r
}

// Shortlist returns the candidates for some blocks that are to be asked for their
// load. It takes at most most peers in this order: own and trusted ones, known
// strangers, the cheapest first within each; then newcomers in an order that draw
// shuffles, since their claims mean nothing, connected ones first; then shunned peers.
// From the rest it adds those needed to cover the blocks, up to four times most peers
// in all, and some more at random.
func Shortlist(candidates []Candidate, blocks protocol.Span, most, some int, draw func(n int) int) []Candidate {
	peers := map[string]bool{}
	take := func(peer string, limit int) bool {
		if peers[peer] || len(peers) < limit {
			peers[peer] = true
		}
		return peers[peer]
	}
	covered := []protocol.Span{{From: 0, To: blocks.From}}
	var rest []Candidate
	for _, c := range ranked(Price(candidates), draw) {
		if take(c.Peer, most) {
			covered = append(covered, c.Span)
		} else {
			rest = append(rest, c)
		}
	}
	for _, c := range rest {
		gaps := protocol.Uncovered(blocks.To, covered)
		if slices.ContainsFunc(gaps, func(g protocol.Span) bool { return g.Overlaps(c.Span) }) && take(c.Peer, 4*most) {
			covered = append(covered, c.Span)
		}
	}
	limit := len(peers) + some
	for range rest {
		take(rest[draw(len(rest))].Peer, limit)
	}
	return slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return !peers[c.Peer] })
}

// ranked sorts priced candidates into the order in which they are asked.
func ranked(list []Candidate, draw func(n int) int) []Candidate {
	for i := len(list) - 1; i > 0; i-- {
		j := draw(i + 1)
		list[i], list[j] = list[j], list[i]
	}
	class := func(c *Candidate) int {
		switch {
		case c.Trust != Stranger:
			return 0
		case c.Shunned:
			return 4
		case c.New && !c.Connected:
			return 3
		case c.New:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b Candidate) int {
		if k := cmp.Compare(class(&a), class(&b)); k != 0 || class(&a) > 1 {
			return k // newcomers and shunned peers in the shuffled order
		}
		return cmp.Compare(times(a.Decode, a.weight), times(b.Decode, b.weight))
	})
	return list
}
