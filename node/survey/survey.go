package survey

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/protocol"
)

// Network is what the survey needs of the network.
type Network interface {
	Self() peer.ID
	Own(peer.ID) bool // reports whether a peer is this node, in any network
	// In returns this node's ID and its own offer in the network of a swarm; nil: it offers
	// nothing there.
	In(swarm string) (self peer.ID, own *protocol.Offer)
	// Borrowed reports whether a network is that of a bridge, over which another swarm lends.
	Borrowed(swarm string) bool
	Group(peer.ID) string   // names the peer's IP network
	Machine(peer.ID) string // names the machine on which the peer runs; "": not known
	Connected(peer.ID) bool
	RTT(peer.ID) (time.Duration, bool)
	// Offers returns the known offers for a model, this node's own among them once, and
	// asks peers for more until enough returns true for them.
	Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer
	Known(model cid.Cid) []*protocol.Offer
	// Status asks a peer for its load, and for how much of a prompt it has cached.
	Status(ctx context.Context, p peer.ID, model cid.Cid, prefix []uint64) (*protocol.StatusReply, error)
}

// Survey knows the peers. It is safe for concurrent use.
type Survey struct {
	net     Network
	book    *standing.Book
	prefers atomic.Pointer[preferences]
	warm    warm

	mu    sync.Mutex // guards the fields below
	asked time.Time  // when all peers were last asked, for Beats
	beats map[peer.ID]Beat

	machines map[peer.ID]string   // names of trusted peers' machines
	fellow   func(peer.ID) string // see SetFellows; nil: there are none
}

// preferences are what the operator says of peers. They are replaced, never changed.
type preferences struct {
	trusts  map[peer.ID]bool
	fastest bool // the node and the peers that it trusts are not preferred
}

// New returns a survey of a network. trusts are the peers that the operator trusts; if
// fastest is set, they are not preferred.
func New(net Network, book *standing.Book, trusts map[peer.ID]bool, fastest bool) *Survey {
	s := &Survey{net: net, book: book, beats: map[peer.ID]Beat{}, machines: map[peer.ID]string{}}
	s.Prefer(trusts, fastest)
	return s
}

// Prefer replaces the peers that the operator trusts, and whether they are preferred.
// The map must not be changed afterwards.
func (s *Survey) Prefer(trusts map[peer.ID]bool, fastest bool) {
	s.prefers.Store(&preferences{trusts, fastest})
}

// Fastest reports whether this node and the peers that it trusts are not preferred.
func (s *Survey) Fastest() bool { return s.prefers.Load().fastest }

// Trusted reports whether a peer is this node itself or one that its operator trusts.
func (s *Survey) Trusted(p peer.ID) bool { return s.net.Own(p) || s.prefers.Load().trusts[p] }

// Named reports whether the operator has named any peer to trust.
func (s *Survey) Named() bool { return len(s.prefers.Load().trusts) > 0 }

// Claims returns the models of all known offers and, if ask is set, of those that
// peers return when asked. The most plausible comes first.
func (s *Survey) Claims(ctx context.Context, ask bool) []*Claim {
	if ask {
		return s.Weigh(s.net.Offers(ctx, cid.Undef, nil))
	}
	return s.Weigh(s.net.Known(cid.Undef))
}

// Weigh returns the models that offers claim, the most plausible first.
func (s *Survey) Weigh(offers []*protocol.Offer) []*Claim {
	return weigh(offers, func(p peer.ID) teller {
		return teller{group: s.net.Group(p), own: s.Trusted(p), there: s.net.Own(p) || s.net.Connected(p)}
	})
}

// Query is what Choose looks for.
type Query struct {
	Model    cid.Cid
	Span     protocol.Span
	Excluded map[string]bool // peers, by ID
	Prefix   []uint64        // hashes of the prompt's prefix blocks
	Anybody  bool            // ask all peers that serve the model at once
	Via      string          // ID of a peer that must be asked; "": none
	Own      bool            // ask only this node and the peers that it trusts
	Turn     bool            // ask newcomers too: it may be their turn
	Within   *string         // ID of the swarm in which the route must lie; nil: any
	Warm     bool            // what peers have said of their load a moment ago will do

	// May reports whether a peer of a swarm's network may be asked and be in the route. It
	// may be called from several goroutines. nil: any.
	May func(swarm string, p peer.ID) bool
}

// Pick chooses a route over candidates of one network, in which self is this node's ID.
type Pick func(self string, list []route.Candidate, links Distances) (*route.Route, error)

// How many peers are asked for their load: the best askBest by what is known of them,
// then, if there is no route over these, askMost; and each time askSome others at
// random.
const (
	askBest, askMost = 16, 64
	askSome          = 4
)

// Choose asks the peers that serve the blocks for their load, their distances from each
// other, and how much of the prompt they have cached, and calls pick to choose a
// route. Peers that do not answer are left out, and so are excluded ones. Strangers
// are asked only if there is no route without them, and the members of private swarms
// before the peers of the open network: a route lies in one network. where has the offer
// of each peer. Choose returns pick's error, or route.ErrNoServer if there is nobody to
// ask.
func (s *Survey) Choose(ctx context.Context, q Query, pick Pick) (r *route.Route, where map[string]session.Hop, err error) {
	covered := func(offers []*protocol.Offer) bool {
		return slices.ContainsFunc(s.sides(offers, q), func(of *side) bool { return covers(of.list, q.Span, q.Excluded) })
	}
	err = route.ErrNoServer // if there is nobody to ask
	for _, turn := range turns(s.sides(s.net.Offers(ctx, q.Model, covered), q), q) {
		found, why := s.pickWarm(&q, turn, pick)
		if why != nil {
			links, silent := s.measure(ctx, turn.of.self, turn.list, &q)
			asked := slices.DeleteFunc(slices.Clone(turn.list), func(c route.Candidate) bool { return silent[c.Peer] })
			found, why = pick(turn.of.self, route.Price(asked), links)
		}
		if why == nil {
			s.keepWarm(&q, turn)
		}
		if why == nil || errors.Is(why, route.ErrOwnFull) {
			return found, turn.of.where, why
		}
		if r, where = found, turn.of.where; err == route.ErrNoServer || !errors.Is(why, route.ErrNoServer) {
			err = why
		}
	}
	return r, where, err
}

// side is what the offers of one network come to.
type side struct {
	self  string // this node's ID there
	list  []route.Candidate
	where map[string]session.Hop
	via   string // Query.Via, as this network knows it
}

// sides returns what offers come to, network by network, private swarms first. This
// node's own offer, which is there once, counts in each.
func (s *Survey) sides(offers []*protocol.Offer, q Query) (sides []*side) {
	of := map[string][]*protocol.Offer{}
	var swarms []string
	for _, o := range offers {
		if of[o.Swarm] == nil {
			swarms = append(swarms, o.Swarm)
		}
		of[o.Swarm] = append(of[o.Swarm], o)
	}
	ownFails := slices.ContainsFunc(swarms, func(swarm string) bool {
		self, _ := s.net.In(swarm)
		return q.Excluded[self.String()]
	})
	slices.SortFunc(swarms, func(a, b string) int { return cmp.Or(cmp.Compare(s.rank(a), s.rank(b)), cmp.Compare(a, b)) })
	for _, swarm := range swarms {
		self, own := s.net.In(swarm)
		if self == "" || q.Within != nil && *q.Within != swarm {
			continue
		}
		mine := of[swarm]
		if own != nil && !slices.ContainsFunc(mine, func(o *protocol.Offer) bool { return o.From == self }) {
			mine = append(mine, own)
		}
		v := &side{self: self.String(), via: q.Via}
		if v.via == s.net.Self().String() {
			v.via = v.self
		}
		v.list, v.where = s.candidates(mine, q.Model)
		v.list = slices.DeleteFunc(v.list, func(c route.Candidate) bool {
			return q.Excluded[c.Peer] || ownFails && c.Peer == v.self || q.May != nil && !q.May(swarm, v.where[c.Peer].Peer)
		})
		if v.via == "" || v.via == v.self || slices.ContainsFunc(v.list, func(c route.Candidate) bool { return c.Peer == v.via }) {
			sides = append(sides, v)
		}
	}
	if len(sides) == 0 { // pick says best why there is no route
		sides = append(sides, &side{self: s.net.Self().String(), via: q.Via, where: map[string]session.Hop{}})
	}
	return sides
}

// rank is lowest for this node's own swarms, and highest for the open network, in which
// anybody may be.
func (s *Survey) rank(swarm string) int {
	switch {
	case swarm == "":
		return 2
	case s.net.Borrowed(swarm):
		return 1
	}
	return 0
}

// turn is a round of questions in one network.
type turn struct {
	of   *side
	list []route.Candidate
	own  bool // this node and those that it trusts alone
}

// turns returns the rounds of all networks in the order in which they are asked: those
// over this node and the peers that it trusts before any other.
func turns(sides []*side, q Query) (all []turn) {
	for _, of := range sides {
		all = append(all, rounds(of, q)...)
	}
	slices.SortStableFunc(all, func(a, b turn) int { return first(a.own, b.own) })
	return all
}

// rounds returns the candidates of a network to ask, round by round until there is a
// route: own and trusted peers, then known ones, each only if they cover the blocks; then
// the best askBest of all; then the best askMost.
func rounds(of *side, q Query) (rounds []turn) {
	list := of.list
	if q.Via = of.via; q.Anybody {
		return []turn{{of: of, list: list}}
	}
	priced := route.Price(list)
	for i, ok := range []func(*route.Candidate) bool{
		func(c *route.Candidate) bool { return c.Trust != route.Stranger },
		func(c *route.Candidate) bool { return !c.New && !c.Shunned && !q.Turn },
	} {
		var some []route.Candidate
		for i := range list {
			if ok(&priced[i]) {
				some = append(some, list[i])
			}
		}
		if q.Via == "" && covers(some, q.Span, nil) {
			rounds = append(rounds, turn{of, shortlist(some, q, askBest), i == 0})
		}
		if q.Own {
			return rounds
		}
	}
	best := shortlist(list, q, askBest)
	rounds = append(rounds, turn{of: of, list: best})
	if more := shortlist(list, q, askMost); len(more) > len(best) {
		rounds = append(rounds, turn{of: of, list: more})
	}
	return rounds
}

// shortlist returns the candidates to ask: the best ones by what is known of them,
// askSome at random, and q.Via.
func shortlist(list []route.Candidate, q Query, best int) []route.Candidate {
	some := route.Shortlist(list, q.Span, best, askSome, rand.IntN)
	for _, c := range list {
		if c.Peer == q.Via && !slices.Contains(some, c) {
			some = append(some, c)
		}
	}
	return some
}

// covers reports whether the proven spans of candidates cover a span.
func covers(list []route.Candidate, span protocol.Span, excluded map[string]bool) bool {
	spans := []protocol.Span{{From: 0, To: span.From}}
	for _, c := range list {
		if !c.Unproven && !excluded[c.Peer] {
			spans = append(spans, c.Span)
		}
	}
	return len(protocol.Uncovered(span.To, spans)) == 0
}

// candidates returns the spans in offers as candidates, and in where how to reach each
// peer.
func (s *Survey) candidates(offers []*protocol.Offer, model cid.Cid) (list []route.Candidate, where map[string]session.Hop) {
	where = map[string]session.Hop{}
	us := func(v uint32) time.Duration { return time.Duration(v) * time.Microsecond }
	for _, o := range offers {
		id := o.From.String()
		for _, sp := range o.SpansOf(model) {
			if !sp.Loaded {
				continue
			}
			c := route.Candidate{
				Peer: id, Span: sp.Span(), Decode: us(sp.UsPerBlock), Prefill: us(sp.UsPerBlockPrefill), Embed: us(sp.UsEmbed), Head: us(sp.UsHead),
				KVFree: int(sp.KvFree), MaxContext: int(sp.MaxContext), Unproven: !sp.Ready, Class: sp.Engine.Class(), Exact: sp.Engine.GetExact(),
				Load: time.Duration(sp.LoadMs) * time.Millisecond, Machine: s.net.Machine(o.From),
			}
			s.know(&c, o.From)
			list = append(list, c)
			where[id] = session.Hop{Peer: o.From, Offer: o.Envelope, Swarm: o.Swarm}
		}
	}
	return list, where
}

// enoughTime is the least additional wait for the other replies once those received
// cover the span.
const enoughTime = 30 * time.Millisecond

// measure asks all candidates at once for their load, their distances and how much of
// a prompt they have kept, and fills it in; self is this node among them. Once the replies
// received cover the span, the other peers get as much time again, plus enoughTime: one
// that is gone must not delay the prompt. silent are the peers that did not reply, or that
// serve nothing of the model to this node.
func (s *Survey) measure(ctx context.Context, self string, list []route.Candidate, q *Query) (d Distances, silent map[string]bool) {
	type answer struct {
		id peer.ID
		st *protocol.StatusReply
	}
	r := s.expect(self, list, q)
	answers := make(chan answer, len(list))
	asked := r.silent()
	for p, told := range r.peers {
		id, err := peer.Decode(p)
		if err != nil {
			delete(asked, p)
			continue
		}
		prefix := q.Prefix
		if !told {
			prefix = nil
		}
		go func() {
			began := time.Now()
			st, err := s.status(context.WithoutCancel(ctx), id, q.Model, prefix)
			if err != nil {
				st = nil
			}
			s.warm.said(q.Model, id, st, began)
			answers <- answer{id, st}
		}()
	}
	begin := time.Now()
	var enough <-chan time.Time
	for range asked {
		var a answer
		select {
		case a = <-answers:
		case <-enough:
			return r.links, r.silent()
		case <-ctx.Done():
			return r.links, r.silent()
		}
		if r.take(a.id, a.st); enough == nil && r.enough() {
			enough = time.After(enoughTime + time.Since(begin))
		}
	}
	return r.links, r.silent()
}

// replies are what the candidates of a round have answered.
type replies struct {
	survey  *Survey
	self    string // this node among them
	query   *Query
	list    []route.Candidate
	links   Distances
	peers   map[string]bool // those asked; whether for what they have kept of the prompt, too
	serve   map[string]bool // those that serve some of the model to this node, by their answer
	covered []protocol.Span
}

// expect returns the replies of candidates, none of which has come.
func (s *Survey) expect(self string, list []route.Candidate, q *Query) *replies {
	r := &replies{
		survey: s, self: self, query: q, list: list, links: Distances{}, peers: map[string]bool{}, serve: map[string]bool{},
		covered: []protocol.Span{{From: 0, To: q.Span.From}},
	}
	for _, c := range list {
		r.peers[c.Peer] = c.Trust != route.Stranger || c.Done > 0
	}
	return r
}

// take takes a peer's answer; nil: there was none.
func (r *replies) take(id peer.ID, st *protocol.StatusReply) {
	if st == nil {
		return
	}
	s, p := r.survey, id.String()
	s.book.Meet(id)
	if rtt, ok := s.net.RTT(id); ok && p != r.self {
		r.links.Set(r.self, p, rtt)
	}
	r.links.Take(id, st)
	for i := range r.list {
		c := &r.list[i]
		if c.Peer != p || !fillIn(c, st.Spans, r.query.Model) {
			continue
		}
		r.serve[p] = true
		if !r.peers[p] {
			c.Kept = s.warm.kept(r.query, c, time.Now())
		}
		c.Cached = c.Kept
		if !c.Unproven {
			r.covered = append(r.covered, c.Span)
		}
	}
}

// enough reports whether the answers so far cover the blocks.
func (r *replies) enough() bool { return len(protocol.Uncovered(r.query.Span.To, r.covered)) == 0 }

// silent returns the peers that have not answered, or serve nothing of the model to this
// node.
func (r *replies) silent() map[string]bool {
	silent := map[string]bool{}
	for p := range r.peers {
		if !r.serve[p] {
			silent[p] = true
		}
	}
	return silent
}

// fillIn sets a candidate's load from its peer's reply. It returns false if the reply does
// not have the candidate's span.
func fillIn(c *route.Candidate, spans []*protocol.SpanStatus, model cid.Cid) (found bool) {
	for _, s := range spans {
		if string(s.Model) == string(model.Bytes()) && int(s.From) == c.Span.From && int(s.To) == c.Span.To {
			c.KVFree, c.Kept = int(s.KvFree), int(s.Cached)
			c.Early, c.Rollback, c.Back = s.Early, int(min(s.RollbackRows, protocol.MaxInFlight)), int(min(s.Back, math.MaxInt32))
			c.Queue = min(time.Hour, time.Duration(s.QueuedRows)*c.Prefill*time.Duration(c.Span.Len()))
			found = true
		}
	}
	return found
}

// bad is how much mark for lies, or of any mark of a peer that has completed no
// session, makes a peer shunned.
const bad = 0.5

// know fills in what this node knows of a candidate.
func (s *Survey) know(c *route.Candidate, p peer.ID) {
	switch {
	case s.Trusted(p) && s.Fastest(): // counts as a permanently known stranger
		c.Done, c.Age = math.MaxInt32, math.MaxInt64
		return
	case s.net.Own(p):
		c.Trust = route.Own
		return
	case s.Trusted(p):
		c.Trust = route.Trusted
	}
	seen := s.book.Of(p)
	c.Done, c.SeenDecode, c.SeenPrefill = seen.Done, seen.Decode, seen.Prefill
	if !seen.Since.IsZero() {
		c.Age = time.Since(seen.Since)
	}
	c.Marks = seen.Marks[standing.Failed] + seen.Marks[standing.Slow]
	c.Shunned = Shunned(seen)
	_, c.Connected = s.net.RTT(p)
}

// Shunned reports whether a peer is to be used only if there is no other route.
func Shunned(s standing.Standing) bool {
	return s.Marks[standing.Lied] >= bad || s.Done == 0 && s.Marks[standing.Failed]+s.Marks[standing.Slow] >= bad
}

// SpanName returns the name of a model's span in the record of what peers answered.
func SpanName(model cid.Cid, s protocol.Span) string { return model.String() + " " + s.String() }
