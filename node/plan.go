package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/survey"
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
	r, where, err = g.choose(ctx, survey.Query{Span: man.All(), Excluded: excluded, Anybody: len(req.Forced) > 0, Turn: turn != nil}, func(list []route.Candidate, links survey.Distances) (*route.Route, error) {
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
	own := !g.n.cfg.Fastest && !slices.ContainsFunc(gap.Route, func(h session.Hop) bool { return !g.n.survey.Trusted(h.Peer) })
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
	return g.choose(ctx, survey.Query{Span: gap.Span, Excluded: avoid, Own: own}, func(list []route.Candidate, links survey.Distances) (*route.Route, error) {
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
func (g *generation) choose(ctx context.Context, q survey.Query, pick func([]route.Candidate, survey.Distances) (*route.Route, error)) (*route.Route, map[string]session.Hop, error) {
	q.Model, q.Prefix = g.model.ID(), g.prefix
	return g.n.survey.Choose(ctx, q, func(list []route.Candidate, links survey.Distances) (*route.Route, error) {
		g.costs.learn(list, links, int(g.model.Manifest().Blocks))
		return pick(list, links)
	})
}
