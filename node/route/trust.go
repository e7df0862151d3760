package route

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Trust is what the node that plans has to do with a peer. Whether a stranger is
// known or a newcomer, Choose and Price find out by comparison.
type Trust int

// From least to most.
const (
	Stranger Trust = iota
	Trusted        // by its operator's word
	Own            // the node itself
)

// ErrOwnFull says that the node itself, or peers that it trusts, serve all of the
// model and have no room now. It is an ErrNoRoom.
var ErrOwnFull = fmt.Errorf("%w at this node and those that it trusts", ErrNoRoom)

const (
	// A stranger is known for good when so many sessions have gone over it, and
	// it has been met so long ago.
	knownDone = 20
	knownAge  = 24 * time.Hour

	// Before, it is known if it has done one in so many of what the best known
	// of the same blocks has. Of every ten sessions one may go over a newcomer, so
	// that one that is always there stays a newcomer; and where nobody has done
	// much, as in a network that has just begun, a few sessions make one known.
	knownShare = 4

	favour = 0.5 // of the cost of own and trusted stages, and of a newcomer in its turn
)

// least is the least that a block may be claimed to take.
const least = time.Microsecond

// known says that a candidate is no newcomer among others.
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

// Price gives candidates that cost what the planning node knows of them: what
// they claim times what it saw; a newcomer the network's median at best, whose
// claim to have kept a prompt counts for nothing; and marks besides. It also says
// which of them are new.
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

// factor is a ratio of what was seen to what was claimed; one that was not seen
// is 1.
func factor(seen float64) float64 {
	if !(seen > 0) {
		return 1
	}
	return min(seen, 1e6)
}

// median is of those who are known, or of all if nobody is. Of two it is the
// larger: one who lies is not to halve what the other costs.
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

// Choose finds the route that is to be taken, of candidates that Price has seen.
// The first of these that there is, is it:
//
//  1. over the node itself alone;
//  2. over it and peers that it trusts;
//  3. over these and known strangers; if turn is not nil, also over the one
//     newcomer whose index it draws;
//  4. over these and one newcomer;
//  5. over anybody who is not shunned;
//  6. over anybody.
//
// Where nobody is known, 3 and 4 are left out: a network that has just begun has
// newcomers only. With req.Wait, an ErrOwnFull is the answer instead of strangers,
// where 1 or 2 fails for want of room.
func Choose(req Request, candidates []Candidate, links Links, turn func(n int) int) (*Route, error) {
	if len(req.Forced) > 0 {
		return Plan(req, candidates, links)
	}
	plan := func(ok func(*Candidate) bool) (*Route, error) {
		return Plan(req, slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return !ok(&c) }), links)
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

// ownWhole says that the node and those that it trusts serve all of the model, and
// a session of this length would fit if nobody else were there.
func ownWhole(req Request, candidates []Candidate) bool {
	var spans []protocol.Span
	for _, c := range candidates {
		if c.Trust != Stranger && !c.Unproven && !req.Exclude[c.Peer] && c.Span.Valid(req.Blocks) && req.Prompt+req.MaxTokens <= c.MaxContext {
			spans = append(spans, c.Span)
		}
	}
	return len(protocol.Uncovered(req.Blocks, spans)) == 0
}

// newcomers are the peers that are new and of which nothing bad is known, once
// each.
func newcomers(candidates []Candidate) (list []string) {
	for _, c := range candidates {
		if c.New && !c.Shunned && !c.Unproven && c.Marks < 0.5 {
			list = append(list, c.Peer)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// explore gives a route over a newcomer and settled peers, if it is not worse
// than twice one without; nil if there is none.
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

// Shortlist says which candidates for some blocks are to be asked how they are:
// at most most peers, who are the node's own, trusted or known, the cheapest
// first, then newcomers in an order that draw makes, for their claims say nothing,
// but those before that are connected; of the others those it takes to cover the blocks, as many again thrice; and some
// at random.
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

// ranked are priced candidates in the order in which they are asked.
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
			return k // newcomers as they were drawn
		}
		return cmp.Compare(times(a.Decode, a.weight), times(b.Decode, b.weight))
	})
	return list
}
