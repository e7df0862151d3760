package serve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

const (
	chooseTime   = 15 * time.Second // to find peers for a probe
	probeTime    = 10 * time.Second // for one token through the whole chain
	firstReprobe = 200 * time.Millisecond
	lastReprobe  = 3 * time.Second
)

// prove sends a token through a chain that the target is part of, again and again
// until one comes out, and only then calls the span ready. All blocks of a model are a
// chain by themselves, through which calibrate has just sent tokens.
func (s *serving) prove(ctx context.Context, t target) {
	if t.span == t.model.Manifest().All() {
		s.proven(t)
		return
	}
	retry := backoff.Backoff{First: firstReprobe, Most: lastReprobe}
	for try := 1; ctx.Err() == nil; try++ {
		err := s.srv.probe(ctx, t.model, route.Hop{Peer: s.srv.cfg.Network.Self().String(), Span: t.span})
		if err == nil {
			s.proven(t)
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.set("loaded, and waiting: " + err.Error())
		if try == 4 { // the others may only be a moment later
			s.update(func() { s.trouble = err })
			s.srv.cfg.Events(t.event(Event{Event: "loaded", Error: err.Error()}))
		}
		_ = retry.Wait(ctx)
	}
}

func (s *serving) proven(t target) {
	pid := 0
	s.update(func() { s.ready, s.since, s.trouble, pid = s.stage != nil, time.Now(), nil, s.pid })
	s.set("serving")
	s.srv.Offer()
	s.srv.cfg.Events(t.event(Event{Event: "serving", EnginePID: pid, Ready: true}))
}

// probe computes one token of a prompt that nobody can know along the fastest route
// through a peer's span. Neither that span nor the others on the way need be ready.
func (s *Server) probe(ctx context.Context, m *store.Model, via route.Hop) error {
	look, cancel := context.WithTimeout(ctx, chooseTime)
	defer cancel()
	man, self := m.Manifest(), s.cfg.Network.Self()
	r, where, err := s.cfg.Survey.Choose(look, survey.Query{Model: m.ID(), Span: man.All(), Via: via.Peer}, func(as string, list []route.Candidate, links survey.Distances) (*route.Route, error) {
		via := via
		if via.Peer == self.String() {
			via.Peer = as
		}
		return through(via, list, links, int(man.Blocks))
	})
	if err != nil {
		return err
	}
	for _, h := range r.Hops { // a span that is not offered yet
		if id, err := peer.Decode(h.Peer); err == nil && where[h.Peer].Peer == "" {
			where[h.Peer] = session.Hop{Peer: id}
		}
	}
	prompt := make([]int32, 2)
	for i := range prompt {
		prompt[i] = rand.Int32N(int32(max(1, man.Vocab)))
	}
	ctx, end := context.WithTimeout(ctx, probeTime) // its own: the search alone may have taken as long
	defer end()
	if err := s.cfg.Probe(ctx, m, r, where, prompt); err != nil {
		return fmt.Errorf("a probe did not come through: %w", err)
	}
	return nil
}

// through returns the fastest ring that goes through one stage.
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
