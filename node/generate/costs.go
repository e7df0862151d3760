package generate

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

// costs keep what the surveys of an answer found out, so that the caller can be told
// what each stage of its route costs, after a repair, too. They are safe for concurrent
// use.
type costs struct {
	mu     sync.Mutex // of all below: a second route is sought beside the first
	stages map[stageKey]route.Candidate
	links  survey.Distances
	blocks int // of the model
	classes
}

type stageKey struct {
	peer string
	span protocol.Span
}

// add takes in what a survey found.
func (c *costs) add(candidates []route.Candidate, links survey.Distances, blocks int) {
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

// stage returns what is known of a stage; false if it was in no survey.
func (c *costs) stage(h session.Hop) (route.Candidate, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.stages[stageKey{h.Peer.String(), h.Span}]
	return s, ok
}

// oneWay is the time from one stage to the next.
func (c *costs) oneWay(from, to peer.ID) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from == to {
		return 0
	}
	if d, ok := c.links.OneWay(from.String(), to.String()); ok {
		return d
	}
	return route.UnknownOneWay
}

// slowestRow returns how long the slowest stage takes per row of a prompt; 0: it is not
// known of all.
func (c *costs) slowestRow(hops []session.Hop) (slowest time.Duration) {
	for _, h := range hops {
		s, ok := c.stage(h)
		row := s.PromptRow()
		if !ok || row <= 0 {
			return 0
		}
		slowest = max(slowest, row)
	}
	return slowest
}

// wireName is what a codec is called in routes; "": it is exact.
func wireName(c protocol.TensorCodec) string {
	switch c {
	case protocol.TensorCodec_TENSOR_CODEC_F16:
		return "f16"
	case protocol.TensorCodec_TENSOR_CODEC_Q8_0:
		return "q8_0"
	}
	return ""
}

// routeWithCosts is a route with what its stages are predicted to cost.
func (g *generation) routeWithCosts(hops []session.Hop) ([]api.Hop, []api.Cost) {
	var out []api.Cost
	for i, h := range hops {
		c := api.Cost{NextMs: ms(g.costs.oneWay(h.Peer, hops[(i+1)%len(hops)].Peer))}
		if s, ok := g.costs.stage(h); ok {
			c.ComputeMs = ms(s.Step(g.costs.blocks))
		}
		out = append(out, c)
	}
	return g.route(hops), out
}

// route is a route with how this node stands to its peers.
func (g *generation) route(hops []session.Hop) []api.Hop {
	out := apiHops(hops)
	for i, h := range hops {
		c, _ := g.costs.stage(h)
		out[i].Engine, out[i].Name, out[i].SwarmName = g.costs.class(h), g.cfg.Survey.MachineName(h.Peer), g.cfg.Network.SwarmName(h.Swarm)
		switch {
		case g.cfg.Network.Own(h.Peer):
			out[i].Trust = "own"
		case g.cfg.Survey.Trusted(h.Peer):
			out[i].Trust = "trusted"
		case c.New:
			out[i].Trust = "new"
		default:
			out[i].Trust = "known"
		}
	}
	return out
}
