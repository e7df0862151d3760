package serve

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

var _ api.Controller = (*Server)(nil)

// errStopped is why a span that was asked for is not served: it was told to stop.
var errStopped = errors.New("it was told to stop meanwhile")

// Serve implements api.Controller. What is served already, or about to be, is waited
// for. A span that this call has begun is ended again if it fails or ctx ends, unless
// another caller waits for it.
func (s *Server) Serve(ctx context.Context, req api.ServeRequest, progress func(api.Progress)) (*api.Served, error) {
	if s.cfg.Light {
		return nil, api.Errorf(api.Refused, "this is a light client; it serves no model")
	}
	if progress == nil {
		progress = func(api.Progress) {}
	}
	spec := Spec{req.Model, req.Span}
	span, auto, err := spec.Parse()
	if err != nil {
		return nil, badInput(err)
	}
	select {
	case <-s.began:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m, err := s.obtain(ctx, req.Model, span, auto, progress)
	if err != nil {
		return nil, badInput(err)
	}
	if all := m.Manifest().All(); span.To == -1 {
		span = all
	} else if !auto && !span.Valid(all.To) {
		return nil, api.Errorf(api.BadInput, "blocks %s: %s has blocks %s", span, m.Name(), all)
	} else if !auto {
		if err := s.cuts(m).Check(span, m.Name()); err != nil {
			return nil, api.Errorf(api.BadInput, "%w", err)
		}
	}
	v, err := s.join(spec, target{m, span}, auto)
	if err != nil {
		return nil, err
	}
	done, err := v.await(ctx, progress)
	s.part(v, err != nil)
	if err != nil && ctx.Err() == nil {
		err = badInput(fmt.Errorf("serving %s: %w", m.Name(), err))
	}
	return done, err
}

// badInput makes errors that are the caller's to correct api's.
func badInput(err error) error {
	var known *api.Error
	var small noRoom
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, ErrSpec), errors.Is(err, store.ErrSpan), errors.Is(err, store.ErrSource):
		return api.Errorf(api.BadInput, "%w", err)
	case errors.Is(err, store.ErrFull), errors.As(err, &small):
		return api.Errorf(api.Refused, "%w", err)
	}
	return err
}

// obtain finds the model that is to be served. What is imported for that is the blocks
// that are.
func (s *Server) obtain(ctx context.Context, name string, span protocol.Span, auto bool, progress func(api.Progress)) (*store.Model, error) {
	var only *protocol.Span
	if !auto && span.To != -1 {
		only = &span
	}
	said := func(done, total int64) { progress(api.Progress{Done: done, Total: total}) }
	m, err := s.cfg.Models.Obtain(ctx, name, only, said)
	if auto && errors.Is(err, store.ErrFull) { // what is chosen of it is then fetched from its origin
		return s.cfg.Models.Obtain(ctx, name, &protocol.Span{}, said)
	}
	return m, err
}

// join returns the span that serves a target, or begins one. part must be called.
func (s *Server) join(spec Spec, t target, auto bool) (*serving, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.spans {
		if v.stopping {
			continue
		}
		if v.is(spec, t, auto) {
			v.callers++
			if v.stage == nil && v.trouble != nil { // it is tried now, whatever was the matter before
				v.trouble = nil
				s.retry()
			}
			return v, nil
		}
	}
	if auto { // all of it, if that fits: nobody waits for the network's need
		t.span = t.model.Manifest().All()
		if s.comfort(t) <= s.left(nil) {
			spec.Span = "all"
		}
	}
	v := s.newServing(spec)
	v.asked, v.callers, v.goal = true, 1, t.model
	failed := func(err error) { v.update(func() { v.trouble = err }) }
	if !s.begin(v, failed) {
		return nil, api.Errorf(api.Refused, "this node is leaving")
	}
	return v, nil
}

// is reports that a span serves a target of a spec, or is about to. Called with Server.mu
// held.
func (v *serving) is(spec Spec, t target, auto bool) bool {
	switch {
	case v.target.model != nil:
		return v.target.model == t.model && (auto || v.target.span.Contains(t.span))
	case v.goal != nil && v.goal != t.model, v.goal == nil && v.spec.Model != spec.Model:
		return false
	}
	span, itsOwn, err := v.spec.Parse()
	if span.To == -1 {
		span = t.model.Manifest().All()
	}
	return err == nil && (auto || !itsOwn && span.Contains(t.span))
}

// part ends what join began: after a failure the span is ended, too, if this call and
// no other has to do with it.
func (s *Server) part(v *serving, failed bool) {
	s.mu.Lock()
	v.callers--
	v.asked = v.asked && failed
	stop := v.asked && v.callers == 0
	v.stopping = v.stopping || stop
	s.mu.Unlock()
	if stop {
		s.end(v)
	}
}

// await waits until a span answers, and returns what it is. Of a part of a model it is
// enough that it is loaded, if nobody has the rest.
func (v *serving) await(ctx context.Context, progress func(api.Progress)) (*api.Served, error) {
	v.update(func() { v.watch = append(v.watch, &progress) })
	defer v.update(func() {
		v.watch = slices.DeleteFunc(v.watch, func(w *func(api.Progress)) bool { return w == &progress })
	})
	said := ""
	for {
		v.srv.mu.Lock()
		t, ready, loaded, trouble, state, changed := v.target, v.ready, v.stage != nil, v.trouble, v.state, v.changed
		v.srv.mu.Unlock()
		switch {
		case ready:
			return t.served(), nil
		case loaded && trouble != nil && t.span != t.model.Manifest().All():
			done := t.served()
			done.Waiting = trouble.Error()
			return done, nil
		case trouble != nil:
			return nil, trouble
		}
		if state != said {
			said = state
			progress(api.Progress{What: state})
		}
		select {
		case <-changed:
		case <-v.over:
			return nil, errStopped
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t target) served() *api.Served {
	return &api.Served{Model: t.model.ID().String(), Name: t.model.Name(), From: t.span.From, To: t.span.To}
}

// Stop implements api.Controller.
func (s *Server) Stop(ctx context.Context, req api.StopRequest) error {
	s.mu.Lock()
	if s.base == nil || s.ended {
		s.mu.Unlock()
		return api.Errorf(api.Refused, "this node is leaving, or has not begun to serve")
	}
	var list []*serving
	for _, v := range s.spans {
		if v.called(req.Model) {
			v.stopping = true
			list = append(list, v)
		}
	}
	s.mu.Unlock()
	if len(list) == 0 {
		return api.Errorf(api.UnknownModel, "this node serves no model %q", req.Model)
	}
	for _, v := range list {
		v.stop() // all drain at the same time
	}
	gone := make(chan struct{})
	s.work.Go(func() { // whether the caller waits or not
		defer close(gone)
		for _, v := range list {
			s.end(v)
		}
	})
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// called reports that a span is of a model of that name. Called with Server.mu held.
func (v *serving) called(name string) bool {
	if v.spec.Model == name {
		return true
	}
	m := v.target.model
	return m != nil && protocol.MatchModel(name, m.ID(), slices.Concat(m.Names(), []string{m.Name()})) == protocol.MatchExact
}
