package node

import (
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// costs remember what the surveys of an answer found out, so that whoever waits
// for it can be told what each stage of its route costs, after a repair too.
type costs struct {
	steps map[stageKey]time.Duration
	links distances
}

type stageKey struct {
	peer string
	span protocol.Span
}

func (c *costs) learn(candidates []route.Candidate, links distances, blocks int) {
	if c.steps == nil {
		c.steps, c.links = map[stageKey]time.Duration{}, distances{}
	}
	for i := range candidates {
		s := &candidates[i]
		c.steps[stageKey{s.Peer, s.Span}] = s.Step(blocks)
	}
	for pair, rtt := range links {
		c.links.set(pair[0], pair[1], rtt)
	}
}

// way is a route with what its stages are predicted to cost.
func (g *generation) way(hops []session.Hop) ([]api.Hop, []api.Cost) {
	var out []api.Cost
	for i, h := range hops {
		c := api.Cost{ComputeMs: ms(g.costs.steps[stageKey{h.Peer.String(), h.Span}])}
		if next := hops[(i+1)%len(hops)].Peer; next != h.Peer {
			way, ok := g.costs.links.OneWay(h.Peer.String(), next.String())
			if !ok {
				way = route.UnknownOneWay
			}
			c.NextMs = ms(way)
		}
		out = append(out, c)
	}
	return apiHops(hops), out
}

// repair tells of a repair of the route, and has the stages that seem lost asked
// whether they live: who plans a route next should not wait for them, nor who
// looks at the network be shown them.
func (g *generation) repair(rec session.Recovery, way []session.Hop) error {
	if len(way) == 0 {
		for _, h := range rec.Lost {
			go g.n.ping(h.Peer)
		}
	}
	r := &api.Repair{Recovery: apiRecovery(rec)}
	r.Route, r.Costs = g.way(way)
	return g.emit(api.Event{Repair: r})
}

func apiRecovery(r session.Recovery) api.Recovery {
	return api.Recovery{Why: r.Why, Token: r.Token, StallMs: ms(r.Stall), Replayed: r.Replayed, Lost: apiHops(r.Lost)}
}
