package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// How an answer finds its route: who serves what, how far away they are, and the
// planner's word on it.

// patience is how long a route is looked for that does not exist yet: a network
// that has just formed, or lost a node, may know better in a moment.
const patience = 3 * time.Second

// attempt plans a route and drives a session along it.
func (g *generation) attempt(ctx context.Context, excluded map[string]bool) error {
	for begin := time.Now(); ; {
		planning, planned := g.watch.step(ctx, "plan")
		r, where, note, limit, err := g.plan(planning, excluded)
		planned(err)
		if err == nil {
			return g.drive(ctx, r, where, note, limit)
		}
		soon := errors.Is(err, route.ErrNoServer) || errors.Is(err, route.ErrNotReady)
		if !errors.Is(err, route.ErrOwnFull) && (!soon || len(excluded) > 0 || time.Since(begin) > patience) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (g *generation) plan(ctx context.Context, excluded map[string]bool) (r *route.Route, where map[string]session.Hop, note string, limit int, err error) {
	n, man := g.n, g.model.Manifest()
	req := route.Request{
		Client: n.net.Self().String(), Blocks: int(man.Blocks), Prompt: len(g.ids), MaxTokens: g.limit,
		MaxStages: g.req.MaxStages, Exclude: excluded, Wait: time.Now().Before(g.ownEnd),
	}
	for _, h := range g.req.Route {
		req.Forced = append(req.Forced, route.Hop{Peer: h.Peer, Span: protocol.Span{From: h.From, To: h.To}})
	}
	var turn func(int) int
	if n.standing.Due() {
		turn = rand.IntN
	}
	r, where, err = g.choose(ctx, query{span: man.All(), excluded: excluded, anybody: len(req.Forced) > 0, turn: turn != nil}, func(list []route.Candidate, links distances) (*route.Route, error) {
		req.MaxTokens = g.limit
		if g.req.MaxTokens <= 0 { // no limit was asked for: take what there is room for
			req.MaxTokens = roomFor(list, len(g.ids), g.limit)
		}
		r, err := route.Choose(req, list, links, turn)
		if err == nil && r.Explores && !n.standing.Explore() { // another prompt was sooner
			r, err = route.Choose(req, list, links, nil)
		}
		if err == nil {
			note = route.Compare(r, req, list, links)
		}
		return r, err
	})
	return r, where, note, req.MaxTokens, err
}

// roomFor is how long an answer may be where nobody has said: as long as there is
// room for at all who might serve it, if they have room to speak of. Of newcomers
// that is asked only where there are no others.
func roomFor(list []route.Candidate, prompt, limit int) int {
	known := slices.ContainsFunc(list, func(c route.Candidate) bool { return !c.New })
	for _, c := range list {
		if room := min(c.KVFree, c.MaxContext) - prompt; room >= 64 && !(known && c.New) {
			limit = min(limit, room)
		}
	}
	return limit
}

// replanTime bounds one search for stages in place of lost ones.
const replanTime = 5 * time.Second

// replan finds stages in place of lost ones.
func (g *generation) replan(ctx context.Context, gap session.Gap) ([]session.Hop, error) {
	r, where, err := g.around(ctx, gap, false)
	if err != nil {
		return nil, err
	}
	g.n.cfg.Log.Info("stages were lost and are replaced", "blocks", gap.Span, "by", len(r.Hops))
	return hopsOf(r, where), nil
}

// second finds another route for an answer that is kept waiting. One that has not
// left this node, and those that it trusts, is not taken to strangers for that.
func (g *generation) second(ctx context.Context, gap session.Gap) (*session.Plan, error) {
	own := !g.n.cfg.Fastest && !slices.ContainsFunc(gap.Route, func(h session.Hop) bool { return !g.n.trusted(h.Peer) })
	r, where, err := g.around(ctx, gap, own)
	if err != nil {
		return nil, err
	}
	return &session.Plan{Route: hopsOf(r, where), Prefill: r.Prediction.TTFT, Step: r.Prediction.Step}, nil
}

// around chooses a route for a gap; if it is to stay one's own, over nobody else.
func (g *generation) around(ctx context.Context, gap session.Gap, own bool) (_ *route.Route, _ map[string]session.Hop, err error) {
	ctx, cancel := context.WithTimeout(ctx, replanTime)
	defer cancel()
	ctx, planned := g.watch.step(ctx, "plan", attribute.String("shoal.blocks", gap.Span.String()))
	defer func() { planned(err) }()
	n, man := g.n, g.model.Manifest()
	avoid := map[string]bool{}
	for _, p := range gap.Avoid {
		avoid[p.String()] = true
	}
	req := route.Request{
		Client: n.net.Self().String(), Blocks: int(man.Blocks), Span: gap.Span, Exclude: avoid,
		Prompt: gap.Rows, MaxTokens: gap.Tokens - gap.Rows,
	}
	if gap.Span != man.All() {
		req.Before, req.After = gap.Before.String(), gap.After.String()
	}
	return g.choose(ctx, query{span: gap.Span, excluded: avoid, own: own}, func(list []route.Candidate, links distances) (*route.Route, error) {
		return route.Choose(req, list, links, nil)
	})
}

// hopsOf a route, with the offers of its peers.
func hopsOf(r *route.Route, where map[string]session.Hop) []session.Hop {
	var out []session.Hop
	for _, h := range r.Hops {
		hop := where[h.Peer]
		hop.Span = h.Span
		out = append(out, hop)
	}
	return out
}

// choose surveys those who serve blocks of the answer's model, and has a route
// chosen over them.
func (g *generation) choose(ctx context.Context, q query, pick func([]route.Candidate, distances) (*route.Route, error)) (*route.Route, map[string]session.Hop, error) {
	q.model, q.prefix = g.model.ID(), g.prefix
	return g.n.choose(ctx, q, func(list []route.Candidate, links distances) (*route.Route, error) {
		g.costs.learn(list, links, int(g.model.Manifest().Blocks))
		return pick(list, links)
	})
}

// query is what a route is looked for.
type query struct {
	model    cid.Cid
	span     protocol.Span
	excluded map[string]bool // peers
	prefix   []uint64        // hashes of the prompt's beginnings
	anybody  bool            // whoever is named by the caller may be asked
	via      string          // a peer that must be asked; "": none
	own      bool            // nobody but this node and those that it trusts is to be asked
	turn     bool            // newcomers are to be asked as well: it may be their turn
}

// How many peers are asked for their load where there are more, by what is known
// of them, and how many besides at random; and if no route leads over these, how
// many then.
const (
	askBest, askMost = 16, 64
	askSome          = 4
)

// choose finds who serves the blocks, how loaded they are, how far from each
// other, and how much of a prompt they have kept, and has a route picked. Who
// does not answer is left out, and so are those excluded. Strangers are asked only
// if there is no route without them: what is asked tells of the prompt, and a
// stranger's offer is no reason to dial him.
func (n *Node) choose(ctx context.Context, q query, pick func([]route.Candidate, distances) (*route.Route, error)) (r *route.Route, where map[string]session.Hop, err error) {
	covered := func(offers []*protocol.Offer) bool {
		list, _ := n.candidates(offers, q.model)
		return covers(list, q.span, q.excluded)
	}
	list, where := n.candidates(n.net.Offers(ctx, q.model, covered), q.model)
	list = slices.DeleteFunc(list, func(c route.Candidate) bool { return q.excluded[c.Peer] })
	err = route.ErrNoServer // if there is nobody to ask
	for _, asked := range rounds(list, q) {
		links, silent := n.measure(ctx, asked, q.model, q.span, q.prefix)
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
func rounds(list []route.Candidate, q query) (rounds [][]route.Candidate) {
	if q.anybody {
		return [][]route.Candidate{list}
	}
	priced := route.Price(list)
	for _, ok := range []func(*route.Candidate) bool{
		func(c *route.Candidate) bool { return c.Trust != route.Stranger },
		func(c *route.Candidate) bool { return !c.New && !c.Shunned && !q.turn },
	} {
		var some []route.Candidate
		for i := range list {
			if ok(&priced[i]) {
				some = append(some, list[i])
			}
		}
		if q.via == "" && covers(some, q.span, nil) {
			rounds = append(rounds, shortlist(some, q, askBest))
		}
		if q.own {
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
func shortlist(list []route.Candidate, q query, best int) []route.Candidate {
	some := route.Shortlist(list, q.span, best, askSome, rand.IntN)
	for _, c := range list {
		if c.Peer == q.via && !slices.Contains(some, c) {
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
func (n *Node) candidates(offers []*protocol.Offer, model cid.Cid) (list []route.Candidate, where map[string]session.Hop) {
	where = map[string]session.Hop{}
	us := func(v uint32) time.Duration { return time.Duration(v) * time.Microsecond }
	for _, o := range offers {
		id := o.From.String()
		for _, s := range o.Spans {
			if s.ModelID() != model || !s.Loaded {
				continue
			}
			c := route.Candidate{
				Peer: id, Span: s.Span(), Decode: us(s.UsPerBlock), Prefill: us(s.UsPerBlockPrefill), Embed: us(s.UsEmbed), Head: us(s.UsHead),
				KVFree: int(s.KvFree), MaxContext: int(s.MaxContext), Unproven: !s.Ready,
			}
			n.know(&c, o.From)
			list = append(list, c)
			where[id] = session.Hop{Peer: o.From, Offer: o.Envelope}
		}
	}
	return list, where
}

// enoughTime is how much longer than the slowest that is needed the others are
// waited for, at least.
const enoughTime = 30 * time.Millisecond

// measure asks the candidates for their load, their distances and what they
// have kept of a prompt, all at once, and fills it in. As soon as those who
// have answered cover the span, the others have as long again: one that is
// gone must not keep everybody waiting.
func (n *Node) measure(ctx context.Context, list []route.Candidate, model cid.Cid, span protocol.Span, prefix []uint64) (d distances, silent map[string]bool) {
	d, silent = distances{}, map[string]bool{}
	self := n.net.Self().String()
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
			if st, err := n.net.Status(context.WithoutCancel(ctx), id, model, told); err == nil {
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
		n.standing.Meet(a.id)
		if rtt, ok := n.net.RTT(a.id); ok && a.peer != self {
			d.set(self, a.peer, rtt)
		}
		for _, r := range a.st.Rtts {
			if to, err := peer.IDFromBytes(r.Peer); err == nil {
				d.set(a.peer, to.String(), time.Duration(r.Us)*time.Microsecond)
			}
		}
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
