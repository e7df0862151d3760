package node

import (
	"context"
	"errors"
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
		if !errors.Is(err, route.ErrNoServer) && !errors.Is(err, route.ErrNotReady) || len(excluded) > 0 || time.Since(begin) > patience {
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
	candidates, where, links := n.survey(ctx, g.model.ID(), man.All(), excluded, g.prefix)
	g.costs.learn(candidates, links, int(man.Blocks))
	req := route.Request{
		Client: n.net.Self().String(), Blocks: int(man.Blocks), Prompt: len(g.ids), MaxTokens: g.limit,
		MaxStages: g.req.MaxStages, Exclude: excluded,
	}
	for _, h := range g.req.Route {
		req.Forced = append(req.Forced, route.Hop{Peer: h.Peer, Span: protocol.Span{From: h.From, To: h.To}})
	}
	if g.req.MaxTokens <= 0 { // no limit was asked for: take what there is room for
		for _, c := range candidates {
			if room := min(c.KVFree, c.MaxContext) - len(g.ids); room >= 64 && room < req.MaxTokens {
				req.MaxTokens = room
			}
		}
	}
	if r, err = route.Plan(req, candidates, links); err != nil {
		return nil, nil, "", 0, err
	}
	return r, where, route.Compare(r, req, candidates, links), req.MaxTokens, nil
}

// replanTime bounds one search for stages in place of lost ones.
const replanTime = 5 * time.Second

// replan finds stages in place of lost ones.
func (g *generation) replan(ctx context.Context, gap session.Gap) (_ []session.Hop, err error) {
	ctx, cancel := context.WithTimeout(ctx, replanTime)
	defer cancel()
	ctx, planned := g.watch.step(ctx, "plan", attribute.String("shoal.blocks", gap.Span.String()))
	defer func() { planned(err) }()
	n, man := g.n, g.model.Manifest()
	avoid := map[string]bool{}
	for _, p := range gap.Avoid {
		avoid[p.String()] = true
	}
	candidates, where, links := n.survey(ctx, g.model.ID(), gap.Span, avoid, g.prefix)
	g.costs.learn(candidates, links, int(man.Blocks))
	req := route.Request{
		Client: n.net.Self().String(), Blocks: int(man.Blocks), Span: gap.Span, Exclude: avoid,
		Prompt: len(g.ids), MaxTokens: gap.Tokens - len(g.ids),
	}
	if gap.Span != man.All() {
		req.Before, req.After = gap.Before.String(), gap.After.String()
	}
	r, err := route.Plan(req, candidates, links)
	if err != nil {
		return nil, err
	}
	n.cfg.Log.Info("stages were lost and are replaced", "blocks", gap.Span, "by", len(r.Hops))
	return hopsOf(r, where), nil
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

// survey finds who serves blocks of a model, how loaded they are, how far from
// each other, and how much of a prompt they have kept. Who does not answer is
// left out, and so are those excluded.
func (n *Node) survey(ctx context.Context, model cid.Cid, span protocol.Span, excluded map[string]bool, prefix []uint64) ([]route.Candidate, map[string]session.Hop, distances) {
	covered := func(offers []*protocol.Offer) bool {
		spans := []protocol.Span{{From: 0, To: span.From}}
		for _, o := range offers {
			for _, s := range o.Spans {
				if s.ModelID() == model && s.Ready && !excluded[o.From.String()] {
					spans = append(spans, s.Span())
				}
			}
		}
		return len(protocol.Uncovered(span.To, spans)) == 0
	}
	candidates, where := n.candidates(n.net.Offers(ctx, model, covered), model)
	candidates = slices.DeleteFunc(candidates, func(c route.Candidate) bool { return excluded[c.Peer] })
	links, silent := n.measure(ctx, candidates, model, span, prefix)
	return slices.DeleteFunc(candidates, func(c route.Candidate) bool { return silent[c.Peer] }), where, links
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
			list = append(list, route.Candidate{
				Peer: id, Span: s.Span(), Decode: us(s.UsPerBlock), Prefill: us(s.UsPerBlockPrefill), Embed: us(s.UsEmbed), Head: us(s.UsHead),
				KVFree: int(s.KvFree), MaxContext: int(s.MaxContext), Unproven: !s.Ready,
			})
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
		go func() {
			if st, err := n.net.Status(context.WithoutCancel(ctx), id, model, prefix); err == nil {
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
			c.KVFree, c.Kept = int(s.KvFree), int(s.Kept)
			c.Queue = min(time.Hour, time.Duration(s.QueuedRows)*c.Prefill*time.Duration(c.Span.Len()))
		}
	}
}
