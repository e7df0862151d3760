package node

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// costs remember what the surveys of an answer found out, so that whoever waits
// for it can be told what each stage of its route costs, after a repair too.
type costs struct {
	mu     sync.Mutex // a second route is looked for beside the first
	stages map[stageKey]route.Candidate
	links  survey.Distances
	blocks int // of the model
}

type stageKey struct {
	peer string
	span protocol.Span
}

func (c *costs) learn(candidates []route.Candidate, links survey.Distances, blocks int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stages == nil {
		c.stages, c.links = map[stageKey]route.Candidate{}, survey.Distances{}
	}
	c.blocks = blocks
	for _, s := range candidates {
		c.stages[stageKey{s.Peer, s.Span}] = s
	}
	for pair, rtt := range links {
		c.links.Set(pair[0], pair[1], rtt)
	}
}

// stage is what is known of a stage; false if it was in no survey.
func (c *costs) stage(h session.Hop) (route.Candidate, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.stages[stageKey{h.Peer.String(), h.Span}]
	return s, ok
}

// way is the time from one stage to the next.
func (c *costs) way(from, to peer.ID) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from == to {
		return 0
	}
	if way, ok := c.links.OneWay(from.String(), to.String()); ok {
		return way
	}
	return route.UnknownOneWay
}

// way is a route with what its stages are predicted to cost.
func (g *generation) way(hops []session.Hop) ([]api.Hop, []api.Cost) {
	var out []api.Cost
	for i, h := range hops {
		c := api.Cost{NextMs: ms(g.costs.way(h.Peer, hops[(i+1)%len(hops)].Peer))}
		if s, ok := g.costs.stage(h); ok {
			c.ComputeMs = ms(s.Step(g.costs.blocks))
		}
		out = append(out, c)
	}
	return g.route(hops), out
}

// route is a route with what this node has to do with its peers.
func (g *generation) route(hops []session.Hop) []api.Hop {
	out := apiHops(hops)
	for i, h := range hops {
		c, _ := g.costs.stage(h)
		switch {
		case h.Peer == g.n.net.Self():
			out[i].Trust = "own"
		case g.n.survey.Trusted(h.Peer):
			out[i].Trust = "trusted"
		case c.New:
			out[i].Trust = "new"
		default:
			out[i].Trust = "known"
		}
	}
	return out
}

// repair tells of a repair of the route, and has the stages that seem lost asked
// whether they live: who plans a route next should not wait for them, nor who
// looks at the network be shown them.
func (g *generation) repair(rec session.Recovery, way []session.Hop) error {
	if len(way) == 0 {
		for _, h := range rec.Lost {
			go g.n.survey.Ask(h.Peer)
		}
	}
	r := &api.Repair{Recovery: apiRecovery(rec)}
	r.Route, r.Costs = g.way(way)
	return g.emit(api.Event{Repair: r})
}

func apiRecovery(r session.Recovery) api.Recovery {
	return api.Recovery{Why: r.Why, Token: r.Token, StallMs: ms(r.Stall), Replayed: r.Replayed, Lost: apiHops(r.Lost)}
}
