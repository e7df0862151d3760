package node

import (
	"context"
	"fmt"
	"time"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
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
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	n, man := s.node, s.model.Manifest()
	blocks := int(man.Blocks)
	candidates, where, links := n.survey(ctx, s.model.ID(), man.All(), nil, nil)
	self := n.net.Self()
	hops := []session.Hop{{Peer: self, Span: s.span}}
	part := func(span protocol.Span) ([]session.Hop, error) {
		if span.Len() == 0 {
			return nil, nil
		}
		r, err := route.Plan(route.Request{
			Client: self.String(), Blocks: blocks, Span: span, Before: self.String(), After: self.String(), Prompt: 2, MaxTokens: 1, Unproven: true,
		}, candidates, links)
		if err != nil {
			return nil, err
		}
		return hopsOf(r, where), nil
	}
	before, err := part(protocol.Span{From: 0, To: s.span.From})
	if err != nil {
		return err
	}
	after, err := part(protocol.Span{From: s.span.To, To: blocks})
	if err != nil {
		return err
	}
	_, err = session.Run(ctx, sessionDialer{streams{n.net}}, &session.Request{
		Model: s.model.ID(), Route: append(append(before, hops...), after...), Prompt: []int32{0, 1},
		Sampling: &protocol.Sampling{MaxTokens: 1},
	}, func(*protocol.Token) error { return nil })
	if err != nil {
		return fmt.Errorf("a probe did not come through: %w", err)
	}
	return nil
}
