package generate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// penaltyWindow is how many of the prompt's last tokens the repetition penalty sees,
// llama.cpp's default.
const penaltyWindow = 64

// inFlight is how many rows of guesses an answer may have on their way at once: with more,
// even a copied text gains little.
const inFlight = 32

// drive runs a session along a planned route, and emits its events.
func (g *generation) drive(ctx context.Context, p *planned) error {
	// Bulk transfers make way for answers; but not while a route is sought, which may
	// wait for just such a transfer.
	g.active.Add(1)
	defer g.active.Add(-1)
	req := g.request(p)
	start := &api.Start{
		Model: g.model.ID().String(), Name: g.model.Name(), PromptTokens: g.ids, Note: p.note, Warning: g.warning,
		PredictedRate: p.Prediction.TokensPerSecond(), PredictedTTFTMs: ms(p.Prediction.TTFT),
	}
	g.costs.take(req.Route)
	g.changes = nil
	start.Route, start.Costs = g.routeWithCosts(req.Route)
	req.Repair = func(rec session.Recovery, hops []session.Hop) error {
		var changes []api.EngineChange
		if len(hops) > 0 {
			if changes = g.costs.take(hops); g.count == 0 {
				changes = nil // no word has come from the engine that was lost
			}
			g.hops, g.changes = hops, append(g.changes, changes)
		}
		if g.count > 0 {
			return g.repair(rec, hops, changes)
		}
		if len(hops) > 0 { // the caller has not been told of a route yet
			start.Route, start.Costs = g.routeWithCosts(hops)
		}
		return nil
	}
	if g.req.PromptLogprobs {
		start.Prompt = g.scored(nil) // of a single token there are none
	}
	req.Scored = func(scores []*protocol.Score) error {
		start.Prompt = g.scored(scores)
		return nil
	}
	g.hops, g.drawn = req.Route, nil
	g.beginReading()
	ctx, req.Trace = g.trace.beginSession(ctx, p.Route)
	begin := time.Now()
	out, err := session.Run(ctx, g.cfg.Network, req, func(t *protocol.Token) error {
		if err := g.checkFormat(t.Id); err != nil {
			return err
		}
		if g.count == 0 {
			if err := g.emit(api.Event{Start: start}); err != nil {
				return err
			}
		}
		return g.token(t)
	})
	g.trace.endSession(ctx, begin, out, err)
	return g.over(p, out, err)
}

// request is what the session is to compute.
func (g *generation) request(p *planned) *session.Request {
	s := g.req.Sampling.Protocol()
	s.Seed, s.MaxTokens, s.StopIds, s.Format = g.seed, uint32(p.limit), g.stopIDs(), g.pieces
	if s.RepeatPenalty != 0 && s.RepeatPenalty != 1 {
		s.History = g.ids[max(0, len(g.ids)-penaltyWindow):]
	}
	req := &session.Request{
		Model: g.model.ID(), Prompt: g.ids, Vocab: int(g.model.Manifest().Vocab), Sampling: s, Codec: g.cfg.Codec,
		Route: g.hopsAsSaid(p), Step: p.Prediction.Step, Prefill: p.Prediction.TTFT,
	}
	if g.cfg.AutoWire {
		req.SlowestRow = g.costs.slowestRow(req.Route)
	}
	if g.mayGuess() {
		req.MaxInFlight, req.Expected = inFlight, g.expect[:min(len(g.expect), p.limit)]
	}
	if g.req.PromptLogprobs {
		s.Scored = g.ids[1:]
		return req // a route that is lost is replaced by another attempt
	}
	if len(g.req.Route) == 0 { // else that one and no other
		req.Replan, req.Second = g.replan, g.secondRoute
	}
	return req
}

// over records what came of a session, and ends the answer unless it failed.
func (g *generation) over(p *planned, out *session.Outcome, err error) error {
	for _, rec := range out.Recoveries {
		g.blameReplaced(rec)
	}
	g.ended(p.hops, out.Route, len(g.ids), out.Cached, out.Prefix, err)
	if errors.Is(err, errStopped) {
		err = nil
	}
	switch {
	case err != nil && g.count > 0:
		return fmt.Errorf("the answer broke off after %d tokens: %w", g.count, err)
	case err != nil:
		return err
	case g.count > 0:
		g.credit(out)
	}
	for _, h := range g.hops {
		g.cfg.Network.Worked(h.Peer)
	}
	return g.done(out, p.Prediction)
}

// scored are the prompt's tokens with their log probabilities; the first has none.
func (g *generation) scored(scores []*protocol.Score) []api.Token {
	tokens := make([]api.Token, len(g.ids))
	for i, id := range g.ids {
		tokens[i] = api.Token{Index: i, ID: id, Text: g.tools.Token(id), Bytes: g.tools.Bytes(id)}
		if i > 0 && i <= len(scores) {
			tokens[i].Logprob, tokens[i].Top = float64(scores[i-1].Logprob), g.top(scores[i-1].Top)
		}
	}
	return tokens
}

// top are the alternatives to a token.
func (g *generation) top(alternatives []*protocol.TopToken) (top []api.Top) {
	for _, a := range alternatives {
		top = append(top, api.Top{ID: a.Id, Logprob: float64(a.Logprob), Text: g.tools.Token(a.Id), Bytes: g.tools.Bytes(a.Id)})
	}
	return top
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// token emits a token, with the text that is complete by now.
func (g *generation) token(t *protocol.Token) error {
	g.count++
	g.trace.token()
	ev := &api.Token{Index: int(t.Index), ID: t.Id, Logprob: float64(t.Logprob), Top: g.top(t.Top)}
	if g.req.Sampling.Logprobs {
		ev.Bytes = g.tools.Bytes(t.Id)
	}
	if t.Finish != protocol.Finish_FINISH_STOP {
		ev.Text, ev.Reasoning, ev.Calls = g.parse(g.decoder.Push(t.Id), false)
	}
	if err := g.emit(api.Event{Token: ev}); err != nil {
		return err
	}
	if g.stopped {
		return errStopped
	}
	return nil
}

// done emits the end of the answer, with the text that was held back.
func (g *generation) done(out *session.Outcome, p route.Prediction) error {
	d := &api.Done{FinishReason: "stop", Tokens: out.Tokens, TokensPerS: out.Rate(), TTFTMs: ms(out.TTFT), Note: p.String(), Cached: out.Cached}
	if a := out.Ahead; a.Sent > 0 {
		d.Ahead = &api.Ahead{Sent: a.Sent, Kept: a.Kept, Gain: a.Gain}
	}
	for i, r := range out.Recoveries {
		d.Recoveries = append(d.Recoveries, apiRecovery(r, g.changes[i]))
	}
	for _, m := range out.Moves {
		d.Moves = append(d.Moves, api.Move{Peer: m.Hop.Peer.String(), From: m.Hop.Span.From, To: m.Hop.Span.To,
			Link: m.Link, Token: m.Token, Relayed: m.Relayed, TookMs: ms(m.Took)})
	}
	if len(d.Recoveries)+len(d.Moves) > 0 || slices.ContainsFunc(out.Paths, func(p session.Path) bool { return p != session.Path{} }) {
		d.Route = g.route(out.Route)
		for i, p := range out.Paths[:min(len(out.Paths), len(d.Route))] {
			d.Route[i].Relayed, d.Route[i].LinkRelayed, d.Route[i].Wire = p.Relayed, p.LinkRelayed, wireName(p.Codec)
		}
	}
	if !g.stopped {
		// What was held back cannot grow into a mark or a stop sequence any more.
		d.Text, d.Reasoning, d.Calls = g.parse(g.decoder.Flush(), true)
		if !g.stopped {
			d.Text += g.stops.Flush()
			if out.Finish == protocol.Finish_FINISH_LENGTH {
				d.FinishReason = "length"
				if g.req.MustCall {
					d.Text, d.Calls = "", append(d.Calls, g.cutCalls()...)
				}
			}
		}
	}
	d.StopSequence = g.stops.Met()
	if g.calls > 0 && d.FinishReason == "stop" {
		d.FinishReason = "tool_calls"
	}
	g.trace.finish(d.FinishReason)
	return g.emit(api.Event{Done: d})
}

// repair emits a repair of the route. The stages that seem lost are asked whether they
// live, so that neither the next plan waits for them nor a view of the network shows
// them.
func (g *generation) repair(rec session.Recovery, hops []session.Hop, changes []api.EngineChange) error {
	if len(hops) == 0 {
		for _, h := range rec.Lost {
			go g.cfg.Survey.Ask(h.Peer)
		}
	}
	r := &api.Repair{Recovery: apiRecovery(rec, changes)}
	r.Route, r.Costs = g.routeWithCosts(hops)
	return g.emit(api.Event{Repair: r})
}

func apiRecovery(r session.Recovery, changes []api.EngineChange) api.Recovery {
	return api.Recovery{Why: r.Why, Token: r.Token, StallMs: ms(r.Stall), Replayed: r.Replayed, Lost: apiHops(r.Lost), Engines: changes}
}

func apiHops(hops []session.Hop) (out []api.Hop) {
	for _, h := range hops {
		out = append(out, api.Hop{Peer: h.Peer.String(), Swarm: h.Swarm, From: h.Span.From, To: h.Span.To})
	}
	return out
}
