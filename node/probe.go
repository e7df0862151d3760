package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

const (
	probeTime   = 10 * time.Second // for one token through the whole chain
	firstReprob = 200 * time.Millisecond
	lastReprob  = 3 * time.Second
)

// prove sends a token through a chain that the served span is part of, again
// and again until one comes out, and only then calls the span ready: a control
// plane that says "ready" while nothing flows is the field's commonest lie.
func (s *serving) prove(ctx context.Context) {
	told := false
	for wait := firstReprob; ctx.Err() == nil; wait = min(2*wait, lastReprob) {
		err := s.probe(ctx)
		if err == nil {
			s.proven()
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.set("loaded, and waiting: " + err.Error())
		if !told && wait > 4*firstReprob {
			told = true
			s.node.cfg.Events(s.event(Event{Event: "loaded", Error: err.Error()}))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (s *serving) proven() {
	n := s.node
	n.mu.Lock()
	s.ready, s.since = s.stage != nil, time.Now()
	pid := s.pid
	n.mu.Unlock()
	s.set("serving")
	n.offerAll()
	n.cfg.Events(s.event(Event{Event: "serving", EnginePID: pid, Ready: true}))
}

// event fills in what a serving's events have in common.
func (s *serving) event(e Event) Event {
	e.Model, e.Name, e.From, e.To = s.model.ID().String(), s.model.Name(), s.span.From, s.span.To
	return e
}

// probe computes one token along the fastest route through this very span.
func (s *serving) probe(ctx context.Context) error {
	return s.node.probe(ctx, s.model, route.Hop{Peer: s.node.net.Self().String(), Span: s.span})
}

// probe computes one token of a prompt that nobody can know along the fastest
// route through a peer's span, which need not be ready, as the others on the way
// need not. Those that it went over are then known to answer.
func (n *Node) probe(ctx context.Context, m *store.Model, via route.Hop) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	man := m.Manifest()
	r, where, err := n.survey.Choose(ctx, survey.Query{Model: m.ID(), Span: man.All(), Via: via.Peer}, func(list []route.Candidate, links survey.Distances) (*route.Route, error) {
		return through(via, list, links, int(man.Blocks))
	})
	if err != nil {
		return err
	}
	where[n.net.Self().String()] = session.Hop{Peer: n.net.Self()}
	prompt := make([]int32, 2)
	for i := range prompt {
		prompt[i] = rand.Int32N(int32(max(1, man.Vocab)))
	}
	if err := n.generator.Probe(ctx, m, r, where, prompt); err != nil {
		return fmt.Errorf("a probe did not come through: %w", err)
	}
	return nil
}

// through is the fastest ring through one stage.
func through(via route.Hop, list []route.Candidate, links route.Links, blocks int) (*route.Route, error) {
	r := &route.Route{Hops: []route.Hop{via}}
	part := func(span protocol.Span) ([]route.Hop, error) {
		if span.Len() == 0 {
			return nil, nil
		}
		r, err := route.Plan(route.Request{
			Client: via.Peer, Blocks: blocks, Span: span, Before: via.Peer, After: via.Peer, Prompt: 2, MaxTokens: 1, Unproven: true,
		}, list, links)
		if err != nil {
			return nil, err
		}
		return r.Hops, nil
	}
	before, err := part(protocol.Span{From: 0, To: via.Span.From})
	if err != nil {
		return nil, err
	}
	after, err := part(protocol.Span{From: via.Span.To, To: blocks})
	if err != nil {
		return nil, err
	}
	r.Hops = append(append(before, via), after...)
	return r, nil
}
