package generate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

const (
	// patience is how long a route is sought that does not exist yet: a network that
	// has just formed, or lost a node, may have one in a moment.
	patience = 3 * time.Second
	// roomPatience is how long room is waited for: that of a session which has just
	// ended is free a moment later.
	roomPatience = time.Second
	// replanTime bounds one search for stages in place of lost ones.
	replanTime = 5 * time.Second
)

// planned is a route for an answer.
type planned struct {
	*route.Route
	where map[string]session.Hop // offers of its peers, by ID
	note  string                 // what a forced route costs, for people
	limit int                    // tokens of the answer that there is room for
	hops  []session.Hop          // with which a session begins
}

// attempt plans a route and drives a session along it.
func (g *generation) attempt(ctx context.Context, excluded map[string]bool) error {
	var p *planned
	err := g.seek(ctx, excluded, func(ctx context.Context) (err error) {
		p, err = g.plan(ctx, excluded)
		return err
	})
	if err != nil {
		return err
	}
	return g.drive(ctx, p)
}

// seek plans a route, again and again while one may yet come.
func (g *generation) seek(ctx context.Context, excluded map[string]bool, plan func(context.Context) error) error {
	for begin := time.Now(); ; {
		planning, end := g.trace.step(ctx, "plan")
		err := plan(planning)
		end(err)
		if err == nil {
			return nil
		}
		// ErrOwnFull ends by itself: it becomes another error at ownEnd.
		if !errors.Is(err, route.ErrOwnFull) && (len(excluded) > 0 || time.Since(begin) >= patienceWith(err)) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// patienceWith returns how long a route is sought after a failure; 0: no longer.
func patienceWith(err error) time.Duration {
	switch {
	case errors.Is(err, route.ErrNoServer), errors.Is(err, route.ErrNotReady):
		return patience
	case errors.Is(err, route.ErrNoRoom):
		return roomPatience
	}
	return 0
}

// plan chooses the answer's first route. The errors are those of Survey.Choose.
func (g *generation) plan(ctx context.Context, excluded map[string]bool) (*planned, error) {
	man, book := g.model.Manifest(), g.cfg.Recorder
	req := route.Request{
		Blocks: int(man.Blocks), Prompt: len(g.ids), MaxTokens: g.limit,
		MaxStages: g.req.MaxStages, Exclude: excluded, Guessed: g.guessed(), Wait: time.Now().Before(g.ownEnd), Cuts: g.tools.Cuts,
	}
	var turn func(int) int
	if book.Due() {
		turn = rand.IntN
	}
	p := &planned{}
	r, where, err := g.choose(ctx, survey.Query{Span: man.All(), Excluded: excluded, Anybody: len(g.req.Route) > 0, Turn: turn != nil, Warm: turn == nil && g.calm(excluded)}, func(self string, list []route.Candidate, links survey.Distances) (*route.Route, error) {
		req.Client, req.Forced = self, g.forced(self)
		req.MaxTokens = g.limit
		if g.req.MaxTokens <= 0 { // no limit was asked for: take what there is room for
			req.MaxTokens = roomFor(list, len(g.ids), g.limit)
		}
		r, err := route.Choose(req, list, links, turn)
		if err == nil && r.Explores && !book.Explore() { // another prompt was first
			r, err = route.Choose(req, list, links, nil)
		}
		if err == nil {
			p.note = route.Compare(r, req, list, links)
		}
		return r, err
	})
	p.Route, p.where, p.limit = r, where, req.MaxTokens
	return p, err
}

// calm reports whether a route may be planned by what peers have said a moment ago: nothing
// of this node's has been sent to them since, and none of them has failed.
func (g *generation) calm(excluded map[string]bool) bool {
	return len(excluded) == 0 && g.under.Load() <= 1
}

// forced is the route that the caller demands, with this node as a network knows it.
func (g *generation) forced(self string) (hops []route.Hop) {
	for _, h := range g.req.Route {
		if h.Peer == g.cfg.Network.Self().String() {
			h.Peer = self
		}
		hops = append(hops, route.Hop{Peer: h.Peer, Span: protocol.Span{From: h.From, To: h.To}})
	}
	return hops
}

// roomFor is how long an answer may be if the caller names no limit: as long as all
// peers that might serve it have room for, without those that have hardly any.
// Newcomers count only if there are no others.
func roomFor(list []route.Candidate, prompt, limit int) int {
	known := slices.ContainsFunc(list, func(c route.Candidate) bool { return !c.New })
	for _, c := range list {
		if room := min(c.KVFree, c.MaxContext) - prompt; room >= 64 && !(known && c.New) {
			limit = min(limit, room)
		}
	}
	return limit
}

// replan finds stages in place of lost ones.
func (g *generation) replan(ctx context.Context, gap session.Gap) ([]session.Hop, error) {
	r, where, err := g.planAround(ctx, gap, false)
	if err != nil {
		return nil, err
	}
	g.cfg.Log.Info("stages were lost and are replaced", "blocks", gap.Span, "by", len(r.Hops))
	return hopsOf(r, where), nil
}

// secondRoute finds another route for an answer that is kept waiting. An answer that
// has not left this node and those that it trusts is not taken to strangers for that.
func (g *generation) secondRoute(ctx context.Context, gap session.Gap) (*session.Plan, error) {
	own := !g.cfg.Survey.Fastest() && !slices.ContainsFunc(gap.Route, func(h session.Hop) bool { return !g.cfg.Survey.Trusted(h.Peer) })
	r, where, err := g.planAround(ctx, gap, own)
	if err != nil {
		return nil, err
	}
	return &session.Plan{Route: hopsOf(r, where), Prefill: r.Prediction.TTFT, Step: r.Prediction.Step}, nil
}

// planAround chooses a route for a gap; with own, over this node and those that it
// trusts alone.
func (g *generation) planAround(ctx context.Context, gap session.Gap, own bool) (_ *route.Route, _ map[string]session.Hop, err error) {
	ctx, cancel := context.WithTimeout(ctx, replanTime)
	defer cancel()
	ctx, end := g.trace.step(ctx, "plan", attribute.String("shoal.blocks", gap.Span.String()))
	defer func() { end(err) }()
	man := g.model.Manifest()
	avoid := map[string]bool{}
	for _, p := range gap.Avoid {
		avoid[p.String()] = true
	}
	req := route.Request{
		Blocks: int(man.Blocks), Span: gap.Span, Exclude: avoid,
		Prompt: gap.Rows, MaxTokens: gap.Tokens - gap.Rows, Cuts: g.tools.Cuts, Like: g.costs.like(gap.Span),
	}
	q := survey.Query{Span: gap.Span, Excluded: avoid, Own: own}
	if gap.Span != man.All() {
		req.Before, req.After = gap.Before.String(), gap.After.String()
		q.Within = &gap.Route[0].Swarm // its neighbours are there
	}
	return g.choose(ctx, q, func(self string, list []route.Candidate, links survey.Distances) (*route.Route, error) {
		req.Client = self
		return route.Choose(req, list, links, nil)
	})
}

// inexact is why there is no exact route, for which n stages, or all, were left out.
func (g *generation) inexact(err error, n int, all bool) error {
	if all && g.tools.Recurrent {
		return api.Errorf(api.NoRoute, "%w", remedy.For(fmt.Errorf("there are no exact answers of %s: some of its blocks are recurrent, and no engine computes those the same to the last bit whatever else it computes at the time", g.model.Name()), remedy.NotExact))
	}
	return remedy.For(fmt.Errorf("%w; %d stages are left out, which do not say that they are exact", err, n), remedy.ServeExact)
}

// hopsOf returns the hops of a route, with the offers of its peers.
func hopsOf(r *route.Route, where map[string]session.Hop) []session.Hop {
	var out []session.Hop
	for _, h := range r.Hops {
		hop := where[h.Peer]
		hop.Span = h.Span
		out = append(out, hop)
	}
	return out
}

// hopsAsSaid returns the hops of a planned route, with what the peers have said of their
// stages.
func (g *generation) hopsAsSaid(p *planned) []session.Hop {
	list := hopsOf(p.Route, p.where)
	for i := range list {
		if c, ok := g.costs.stage(list[i]); ok {
			list[i].Said = session.Said{Early: c.Early, Kept: c.Cached, Rollback: c.Rollback, Back: c.Back}
		}
	}
	p.hops = list
	return list
}

// ended notes what the stages keep of a session that began with so many tokens, now that it
// has ended along a route. cached is how many tokens no stage had to compute.
func (g *generation) ended(begun, hops []session.Hop, prompt, cached int, prefix []uint64, err error) {
	kept := prompt - 1
	for _, h := range begun {
		if kept = min(kept, h.Said.Kept); h.Said.Back > 0 { // it may begin again all the same
			kept = 0
		}
	}
	if err != nil && !errors.Is(err, errStopped) {
		hops, prefix, kept = nil, nil, math.MaxInt // nobody knows
	}
	g.cfg.Survey.Ended(g.model.ID(), hops, prefix, cached <= kept-protocol.PrefixBlock)
}

// choose has a route chosen over the peers that serve the answer's model, and keeps
// what the survey found out about them.
func (g *generation) choose(ctx context.Context, q survey.Query, pick survey.Pick) (*route.Route, map[string]session.Hop, error) {
	q.Model, q.Prefix = g.model.ID(), g.prefix
	leftOut := g.keepTo(&q)
	r, where, err := g.cfg.Survey.Choose(ctx, q, func(self string, list []route.Candidate, links survey.Distances) (*route.Route, error) {
		g.costs.add(list, links, int(g.model.Manifest().Blocks))
		if !g.req.Exact {
			return pick(self, list, links)
		}
		exact := slices.DeleteFunc(slices.Clone(list), func(c route.Candidate) bool { return !c.Exact })
		r, err := pick(self, exact, links)
		if n := len(list) - len(exact); err != nil && n > 0 {
			err = g.inexact(err, n, len(exact) == 0)
		}
		return r, err
	})
	return r, where, leftOut(err)
}

// keepTo has a query keep to the peers to which the operator lets prompts with the model
// go. The function that it returns adds to an error which peers were left out, and why.
func (g *generation) keepTo(q *survey.Query) (explain func(error) error) {
	if g.cfg.Use == nil {
		return func(err error) error { return err }
	}
	may, whom, rule := g.cfg.Use(g.model.Called())
	if may == nil {
		return func(err error) error { return err }
	}
	var out sync.Map // of peer.ID
	q.May = func(swarm string, p peer.ID) bool {
		ok := may(swarm, p)
		if !ok {
			out.Store(p, true)
		}
		return ok
	}
	return func(err error) error {
		n := 0
		out.Range(func(any, any) bool { n++; return true })
		if err == nil || n == 0 {
			return err
		}
		return remedy.For(fmt.Errorf("%w; %d nodes that serve it are left out, because the rule %q keeps prompts to %s", err, n, rule, whom), remedy.UseRule)
	}
}
