package survey

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
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
	Group(peer.ID) string // of addresses
	Connected(peer.ID) bool
	RTT(peer.ID) (time.Duration, bool)
	// Offers returns the known offers of a model's peers, and asks for more until
	// they are enough.
	Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer
	Known(model cid.Cid) []*protocol.Offer
	// Status asks a peer for its load, and how much of a prompt it has cached.
	Status(ctx context.Context, p peer.ID, model cid.Cid, prefix []uint64) (*protocol.StatusReply, error)
}

// Survey knows the peers. It is safe for concurrent use.
type Survey struct {
	net     Network
	book    *standing.Book
	trusts  map[peer.ID]bool
	fastest bool // the node and those that it trusts are not preferred

	mu    sync.Mutex // of what follows
	asked time.Time  // all peers, for Beats
	beats map[peer.ID]Beat
}

// New makes a survey over a network. trusts are the peers that the operator trusts;
// if fastest is set they are not preferred.
func New(net Network, book *standing.Book, trusts map[peer.ID]bool, fastest bool) *Survey {
	return &Survey{net: net, book: book, trusts: trusts, fastest: fastest, beats: map[peer.ID]Beat{}}
}

// Trusted reports that a peer is this node itself, or one that its operator trusts.
func (s *Survey) Trusted(p peer.ID) bool { return p == s.net.Self() || s.trusts[p] }

// Claims are the models of all offers: the known ones, and, if ask is set, those
// that members have when they are asked. The likeliest to be meant comes first.
func (s *Survey) Claims(ctx context.Context, ask bool) []*Claim {
	if ask {
		return s.Weigh(s.net.Offers(ctx, cid.Undef, nil))
	}
	return s.Weigh(s.net.Known(cid.Undef))
}

// Weigh returns what offers say of models, the likeliest to be meant first.
func (s *Survey) Weigh(offers []*protocol.Offer) []*Claim {
	return weigh(offers, func(p peer.ID) teller {
		return teller{group: s.net.Group(p), own: s.Trusted(p), there: p == s.net.Self() || s.net.Connected(p)}
	})
}

// Query is what a route is sought for.
type Query struct {
	Model    cid.Cid
	Span     protocol.Span
	Excluded map[string]bool // peers, by ID
	Prefix   []uint64        // hashes of the prompt's beginnings
	Anybody  bool            // any peer may be asked: the caller has named some
	Via      string          // a peer that must be asked; "": none
	Own      bool            // only this node and those that it trusts are to be asked
	Turn     bool            // newcomers are to be asked, too: it may be their turn
}

// How many peers are asked for their load where there are more, by what is known
// of them, and how many besides at random; and if no route leads over these, how
// many then.
const (
	askBest, askMost = 16, 64
	askSome          = 4
)

// Choose finds the peers that serve the blocks, how loaded they are, how far from
// each other, and how much of the prompt they have cached, and has pick choose a
// route. Peers that do not answer are left out, and so are the excluded. Strangers
// are asked only if there is no route without them. where has the offer of each
// peer. The errors are pick's, and route.ErrNoServer if there is nobody to ask.
func (s *Survey) Choose(ctx context.Context, q Query, pick func([]route.Candidate, Distances) (*route.Route, error)) (r *route.Route, where map[string]session.Hop, err error) {
	covered := func(offers []*protocol.Offer) bool {
		list, _ := s.candidates(offers, q.Model)
		return covers(list, q.Span, q.Excluded)
	}
	list, where := s.candidates(s.net.Offers(ctx, q.Model, covered), q.Model)
	list = slices.DeleteFunc(list, func(c route.Candidate) bool { return q.Excluded[c.Peer] })
	err = route.ErrNoServer // if there is nobody to ask
	for _, asked := range rounds(list, q) {
		links, silent := s.measure(ctx, asked, q.Model, q.Span, q.Prefix)
		asked = slices.DeleteFunc(asked, func(c route.Candidate) bool { return silent[c.Peer] })
		if r, err = pick(route.Price(asked), links); err == nil || errors.Is(err, route.ErrOwnFull) {
			break
		}
	}
	return r, where, err
}

// rounds are those who are asked, one round after the other until there is a route:
// one's own, if they cover the blocks; those who are known as well; the best; and
// more of them.
func rounds(list []route.Candidate, q Query) (rounds [][]route.Candidate) {
	if q.Anybody {
		return [][]route.Candidate{list}
	}
	priced := route.Price(list)
	for _, ok := range []func(*route.Candidate) bool{
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
			rounds = append(rounds, shortlist(some, q, askBest))
		}
		if q.Own {
			return rounds
		}
	}
	best := shortlist(list, q, askBest)
	rounds = append(rounds, best)
	if more := shortlist(list, q, askMost); len(more) > len(best) {
		rounds = append(rounds, more)
	}
	return rounds
}

// shortlist are the candidates to be asked, best of them by what is known.
func shortlist(list []route.Candidate, q Query, best int) []route.Candidate {
	some := route.Shortlist(list, q.Span, best, askSome, rand.IntN)
	for _, c := range list {
		if c.Peer == q.Via && !slices.Contains(some, c) {
			some = append(some, c)
		}
	}
	return some
}

// covers says that proven spans of candidates cover a span.
func covers(list []route.Candidate, span protocol.Span, excluded map[string]bool) bool {
	spans := []protocol.Span{{From: 0, To: span.From}}
	for _, c := range list {
		if !c.Unproven && !excluded[c.Peer] {
			spans = append(spans, c.Span)
		}
	}
	return len(protocol.Uncovered(span.To, spans)) == 0
}

// candidates makes the planner's input of offers; where tells how to reach
// each peer.
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
				KVFree: int(sp.KvFree), MaxContext: int(sp.MaxContext), Unproven: !sp.Ready,
			}
			s.know(&c, o.From)
			list = append(list, c)
			where[id] = session.Hop{Peer: o.From, Offer: o.Envelope}
		}
	}
	return list, where
}

// enoughTime is how much longer than the slowest that is needed the others are
// waited for, at least.
const enoughTime = 30 * time.Millisecond

// measure asks the candidates for their load, their Distances and what they
// have kept of a prompt, all at once, and fills it in. As soon as those who
// have answered cover the span, the others have as long again: one that is
// gone must not keep everybody waiting.
func (s *Survey) measure(ctx context.Context, list []route.Candidate, model cid.Cid, span protocol.Span, prefix []uint64) (d Distances, silent map[string]bool) {
	d, silent = Distances{}, map[string]bool{}
	self := s.net.Self().String()
	type answer struct {
		peer string
		id   peer.ID
		st   *protocol.StatusReply
	}
	answers := make(chan answer, len(list))
	for _, c := range list {
		if silent[c.Peer] {
			continue
		}
		silent[c.Peer] = true // until it answers
		id, err := peer.Decode(c.Peer)
		if err != nil {
			continue
		}
		told := prefix
		if c.Trust == route.Stranger && c.Done == 0 { // what it says it has kept is not believed
			told = nil
		}
		go func() {
			if st, err := s.net.Status(context.WithoutCancel(ctx), id, model, told); err == nil {
				answers <- answer{c.Peer, id, st}
				return
			}
			answers <- answer{c.Peer, id, nil}
		}()
	}
	begin, asked := time.Now(), len(silent)
	var enough <-chan time.Time
	covered := []protocol.Span{{From: 0, To: span.From}}
	for range asked {
		var a answer
		select {
		case a = <-answers:
		case <-enough:
			return d, silent
		case <-ctx.Done():
			return d, silent
		}
		if a.st == nil {
			continue
		}
		delete(silent, a.peer)
		s.book.Meet(a.id)
		if rtt, ok := s.net.RTT(a.id); ok && a.peer != self {
			d.Set(self, a.peer, rtt)
		}
		d.Take(a.id, a.st)
		for i := range list {
			if list[i].Peer == a.peer {
				fillIn(&list[i], a.st.Spans, model)
				if !list[i].Unproven {
					covered = append(covered, list[i].Span)
				}
			}
		}
		if enough == nil && len(protocol.Uncovered(span.To, covered)) == 0 {
			enough = time.After(enoughTime + time.Since(begin))
		}
	}
	return d, silent
}

// fillIn takes a candidate's load from what its peer says.
func fillIn(c *route.Candidate, spans []*protocol.SpanStatus, model cid.Cid) {
	for _, s := range spans {
		if string(s.Model) == string(model.Bytes()) && int(s.From) == c.Span.From && int(s.To) == c.Span.To {
			c.KVFree, c.Kept = int(s.KvFree), int(s.Cached)
			c.Queue = min(time.Hour, time.Duration(s.QueuedRows)*c.Prefill*time.Duration(c.Span.Len()))
		}
	}
}

// bad is how much of a lie's mark, or of any mark of a peer that never did any
// work, makes a peer shunned.
const bad = 0.5

// know fills in what this node knows of a candidate.
func (s *Survey) know(c *route.Candidate, p peer.ID) {
	switch {
	case s.Trusted(p) && s.fastest: // counts as a stranger that is known for good
		c.Done, c.Age = math.MaxInt32, math.MaxInt64
		return
	case p == s.net.Self():
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

// Shunned reports that a peer is used only where there is nobody else.
func Shunned(s standing.Standing) bool {
	return s.Marks[standing.Lied] >= bad || s.Done == 0 && s.Marks[standing.Failed]+s.Marks[standing.Slow] >= bad
}

// SpanName names a span of a model in the record of what peers answered.
func SpanName(model cid.Cid, s protocol.Span) string { return model.String() + " " + s.String() }
