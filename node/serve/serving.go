package serve

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// serving keeps one span served: it fetches the shards, loads them into an
// engine, measures it, offers it, and begins again when the engine is lost.
type serving struct {
	srv  *Server
	spec Spec
	stop context.CancelFunc // ends it in order
	over chan struct{}      // closed when it has ended

	// Guarded by Server.mu.
	asked    bool                  // by Serve, which has not succeeded yet
	callers  int                   // of Serve that wait for it
	stopping bool                  // told to stop
	changed  chan struct{}         // closed and replaced when any of the following may have
	watch    []*func(api.Progress) // are told of fetches, by their goroutine
	trouble  error                 // why it is not served; nil: nothing is known to be wrong
	state    string
	target   target
	stage    *stage.Stage
	info     engine.Info
	pid      int
	ready    bool           // a probe has come through
	leaving  bool           // not offered any more
	asleep   time.Duration  // how long it takes to load the engine again, which is not loaded for want of use; 0: it is
	gaveUp   error          // why llama.cpp's library does not compute it, though it is here and may be better; nil: it does, or is not wanted
	kept     *time.Duration // how long a request wants it to stay loaded after its last use; negative: for ever; nil: as the operator says
	measure  measured
	taken    int64         // bytes of this machine's memory that its engine takes, or is about to
	reserved int64         // bytes of the memory lent, likewise
	wants    int64         // bytes of the memory lent that it was refused; 0: none
	wake     chan struct{} // Server.news when it was; nil: it was not
	goal     *store.Model  // what its spec means; nil: not known yet
	guest    bool          // it waits for what the host chooses
	auto     bool          // of the node's own choice
	since    time.Time     // in this state: being fetched, loaded, ready
	offered  stage.Load    // as the last offer says
	takes    []cid.Cid     // models that it may be of, if auto
	losses   losses        // of its engine
	draft    *drafting     // nil: it has no drafter

	took time.Duration // of the last load; used by the goroutine that loads

	next      target // what it is about to move to, or none
	nextSince time.Time
}

// target is a span of a model that is to be served. Without a model it is none.
type target struct {
	model *store.Model
	span  protocol.Span
}

// shards are those that the target's engine needs.
func (t target) shards() []int { return t.model.Manifest().ShardsFor(t.span) }

// event fills in what a serving's events have in common.
func (t target) event(e Event) Event {
	e.Model, e.Name, e.From, e.To = t.model.ID().String(), t.model.Name(), t.span.From, t.span.To
	e.Blocks = int(t.model.Manifest().Blocks)
	return e
}

// measured is what an engine was found to need.
type measured struct {
	decode  time.Duration // one row through one block
	prefill time.Duration // one row of a chunk through one block
}

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = time.Minute
)

// set notes in words what the serving does.
func (s *serving) set(state string) {
	s.update(func() { s.state = state })
	s.srv.cfg.Log.Info(state, "model", s.spec.Model)
}

// update changes what is guarded by Server.mu, and wakes those that wait for it.
func (s *serving) update(how func()) {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	how()
	close(s.changed)
	s.changed = make(chan struct{})
}

// settle makes a serving one of a target, or of none.
func (s *serving) settle(t target) {
	s.update(func() { s.target, s.since, s.info = t, time.Now(), engine.Info{} })
}

// announce notes the target that a serving will move to, or none.
func (s *serving) announce(t target) {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	s.next, s.nextSince = t, time.Now()
}

// lost notes that the engine was lost.
func (s *serving) lost(err error) {
	s.update(func() { s.losses.add(time.Now(), err); s.trouble = err })
}

// snapshot is called with Server.mu held.
func (s *serving) snapshot(now time.Time) Span {
	v := Span{
		Target: s.spec.Model, Model: s.target.model, Span: s.target.span, State: s.state, Since: s.since, Ready: s.ready, Loaded: s.stage != nil,
		Leaving: s.leaving, Auto: s.auto, Takes: slices.Clone(s.takes), EnginePID: s.pid, Engine: s.info, Decode: s.measure.decode, Prefill: s.measure.prefill,
		Asleep: s.asleep, stays: s.stays(), GaveUp: s.gaveUp, Losses: s.losses.report(now), Guest: s.guest, Left: s.srv.left(s), Draft: s.draft.snapshot(), of: s,
	}
	if s.next.model != nil {
		v.Next = &Next{s.next.model, s.next.span, s.nextSince}
	}
	return v
}

// run serves what the spec names until ctx ends. Its error is as that of persist.
func (s *serving) run(ctx context.Context) error {
	return s.persist(ctx, func(ctx context.Context) error {
		t, err := s.resolve(ctx)
		if err != nil {
			return err
		}
		return s.keep(ctx, t)
	})
}

// keep keeps the target served until ctx ends, or until it cannot be.
func (s *serving) keep(ctx context.Context, t target) error {
	defer func() {
		if ctx.Err() != nil && s.srv.base.Err() == nil { // the node goes on without it
			for _, p := range t.parts() {
				p.model.Unserved()
			}
		}
	}()
	for _, p := range t.parts() {
		defer p.model.UseShards(p.shards())() // neither the quota nor anybody's command takes them away
	}
	defer s.release()
	if err := s.reserve(s.srv.least(t).bytes); err != nil { // before anything is fetched
		return err
	}
	retry := backoff.Backoff{First: firstBackoff, Most: maxBackoff}
	for {
		if err := s.srv.computable(t.model); err != nil { // before it is fetched
			return err
		}
		if err := s.fetch(ctx, t); err != nil || ctx.Err() != nil {
			return err
		}
		lived := time.Now()
		err := s.serve(ctx, t)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop, and drained
		}
		var missing *store.Missing
		var small noRoom
		switch {
		case errors.Is(err, errSmaller):
			srv := s.srv
			srv.cfg.Log.Info("less memory is lent; the engine is loaded smaller", "model", t.model.Name(), "blocks", t.span)
			if err := s.reserve(srv.least(t).bytes); err != nil {
				return err
			}
			continue
		case errors.As(err, &missing): // damaged on disk: fetched again at once
			s.srv.cfg.Log.Warn("shards are damaged and fetched again", "error", err)
			continue
		case errors.Is(err, protocol.ErrCut), errors.Is(err, engine.ErrUnsupported), errors.Is(err, engine.ErrMemory), errors.Is(err, engine.ErrNoChild), errors.As(err, &small):
			return err
		}
		if time.Since(lived) > maxBackoff {
			retry.Reset()
		}
		s.lost(err)
		s.srv.cfg.Metrics.Restarted()
		pause := retry.Next().Round(10 * time.Millisecond)
		s.set(fmt.Sprintf("the engine was lost; it is started again in %s", pause))
		s.srv.cfg.Events(t.event(Event{Event: "engine", Error: fmt.Sprintf("%s; it is started again in %s", err, pause)}))
		if backoff.Pause(ctx, pause) != nil {
			return nil
		}
	}
}

// find returns the model to be served. What is imported for that is the blocks of only,
// or everything if only is nil.
func (s *serving) find(ctx context.Context, only *protocol.Span) (*store.Model, error) {
	s.set("looking for the model")
	last := time.Now()
	return s.srv.cfg.Models.Obtain(ctx, s.spec.Model, only, func(done, total int64) {
		if time.Since(last) > time.Second {
			last = time.Now()
			s.srv.cfg.Events(Event{Event: "fetching", Name: shownName(s.spec.Model), Done: done, Total: total})
		}
	})
}

// shownName is a model's name as it may be shown: an address may have a secret in it.
func shownName(name string) string {
	if u, err := url.Parse(name); err == nil && u.Host != "" {
		return path.Base(u.Path)
	}
	return name
}

// resolve finds the model and the span to serve.
func (s *serving) resolve(ctx context.Context) (t target, err error) {
	span, _, err := s.spec.Parse()
	if err != nil {
		return t, err
	}
	var only *protocol.Span // of a file that is imported first
	if span.Len() > 0 {
		only = &span
	}
	m, err := s.find(ctx, only)
	if errors.Is(err, store.ErrSpan) {
		return t, specError{err}
	}
	if err != nil {
		return t, err
	}
	if span.To == -1 {
		span = m.Manifest().All()
	}
	if !span.Valid(int(m.Manifest().Blocks)) {
		return t, badSpec("blocks %s: %s has blocks 0-%d", span, m.Name(), m.Manifest().Blocks)
	}
	if err := s.srv.cuts(m).Check(span, m.Name()); err != nil {
		return t, specError{err}
	}
	t = target{m, span}
	s.update(func() { s.goal = m })
	s.settle(t)
	s.srv.Offer()
	return t, nil
}

// fetch brings the target's shards, and those of what its adapter adds to.
func (s *serving) fetch(ctx context.Context, t target) error {
	for _, p := range t.parts() {
		if err := s.fetchPart(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *serving) fetchPart(ctx context.Context, t target) error {
	if t.model.Whole(t.shards()) {
		return nil
	}
	s.set("fetching shards")
	last := time.Time{}
	return s.srv.cfg.Models.Fetch(ctx, t.model, t.shards(), func(p api.Progress) {
		for _, said := range s.watchers() {
			(*said)(p)
		}
		if time.Since(last) > time.Second {
			last = time.Now()
			s.srv.cfg.Events(t.event(Event{
				Event: "fetching", Done: p.Done, Total: p.Total, Peers: p.Peers, Origins: p.Origins, Rate: p.Rate, Left: p.Left, Trouble: p.Trouble,
			}))
		}
	})
}

func (s *serving) watchers() []*func(api.Progress) {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	return slices.Clone(s.watch)
}

// load loads the target into an engine that fits into the memory lent. The error is a
// noRoom if none does, those of Config.Load, or of the shards.
func (s *serving) load(ctx context.Context, t target, o option) (engine.Engine, engine.Config, error) {
	srv := s.srv
	extra := int64(0) // bytes that the engine takes beyond the estimate
	for try := 1; ; try++ {
		room := srv.leftFor(s)
		z, ok := srv.sizeOf(t, room-extra)
		cfg := srv.engineConfig(t, z)
		cfg.Engine, cfg.Library = o.name, o.library.Dir
		if !ok {
			return nil, cfg, remedy.For(noRoom{z.bytes + extra, room, srv.limits().Memory}, remedy.RaiseMemory)
		}
		if err := s.reserve(z.bytes + extra); err != nil {
			return nil, cfg, err
		}
		srv.makeRoom(ctx)
		s.claim(z.bytes - srv.ownBytes())
		e, err := s.start(ctx, t, &cfg)
		if err != nil {
			return nil, cfg, err
		}
		info := e.Info()
		took := int64(max(info.Weights+info.KV+info.Graph, info.Host)) + srv.ownBytes() // the host's may have copies of weights
		if err = s.reserve(took); err == nil {
			s.claim(int64(info.Host))
			return e, cfg, nil
		}
		_ = e.Close()
		if extra = max(extra, took-z.bytes); try == loadTries {
			return nil, cfg, err
		}
		srv.cfg.Log.Info("the engine takes more than foreseen, and is loaded smaller", "model", t.model.Name(), "bytes", took)
	}
}

// start loads the target into an engine as cfg says, of which it fills in the path.
func (s *serving) start(ctx context.Context, t target, cfg *engine.Config) (e engine.Engine, err error) {
	begin := time.Now()
	err = t.withFiles(ctx, *cfg, func(filled engine.Config) (err error) {
		*cfg = filled
		e, err = s.srv.cfg.Load(ctx, filled, s.srv.cfg.Log.With("part", "engine"))
		return err
	})
	s.took = time.Since(begin)
	return e, err
}

// serve loads the target and serves it until the engine is lost or ctx ends.
func (s *serving) serve(ctx context.Context, t target) error {
	srv := s.srv
	s.set("loading")
	defer s.claim(0)
	l, err := s.open(ctx, t)
	if err != nil {
		return err
	}
	e, cfg, m := l.engine, l.cfg, l.measured
	z := newSleeper(e, s.took)
	defer z.close()
	pid := 0
	if c, ok := e.(*engine.Child); ok {
		pid = c.Pid()
	}
	f := srv.newDrafting(t, e.Info(), m)
	st := srv.newStage(t, e.Info(), z, cfg, m, f)
	if open, _, _ := srv.gate.look(); !open { // before anybody finds it
		st.Reserve(srv.own)
	}
	s.update(func() {
		s.stage, s.info, s.pid, s.measure, s.since, s.trouble, s.draft = st, e.Info(), pid, m, time.Now(), nil, f
	})
	srv.cfg.Stages.Add(st)
	srv.Offer()
	proving, stopProving := context.WithCancel(ctx)
	var prover sync.WaitGroup
	prover.Go(func() { s.prove(proving, t) })
	prover.Go(func() { srv.followGate(proving, st) })
	prover.Go(func() { s.followUse(proving, t, st, z, cfg) })
	if f != nil {
		prover.Go(func() { f.follow(proving) })
	}
	if t.last() {
		prover.Go(func() { srv.prepareFormats(proving, t) })
	}

	var reason error
	select {
	case <-ctx.Done():
		reason = s.drain(st, z.lost)
	case <-z.lost:
		if reason = z.err(); errors.Is(reason, errSmaller) {
			_ = s.drain(st, nil)
		}
	case <-st.Done():
		reason = st.Err()
	}
	stopProving()
	prover.Wait()
	srv.cfg.Stages.Remove(st)
	s.update(func() {
		s.stage, s.ready, s.leaving, s.pid, s.asleep, s.since, s.draft = nil, false, false, 0, 0, time.Now(), nil
	})
	srv.Offer()
	// A pass that hangs would keep the stage, and with it the node, from leaving.
	hangs := time.AfterFunc(lastPass, z.close)
	defer hangs.Stop()
	st.Close(reason)
	return reason
}

// last reports that the target ends its model.
func (t target) last() bool { return t.span.To == int(t.model.Manifest().Blocks) }

// newStage makes the stage of a target on its engine.
func (s *Server) newStage(t target, info engine.Info, z *sleeper, cfg engine.Config, m measured, f *drafting) *stage.Stage {
	man := t.model.Manifest()
	maxContext := cfg.KVTokens
	if man.Context > 0 {
		maxContext = min(maxContext, int(man.Context))
	}
	return stage.New(stage.Config{
		Model: t.model.ID(), Span: t.span, Blocks: int(man.Blocks), Width: int(man.Width), Vocab: info.Vocab,
		Pooling: info.Pooling, Embedded: info.Embedded, Texts: info.MaxSeqs,
		Back: max(0, info.Back), Rollback: info.Rollback, Guess: s.guessers(f),
		KVTokens: cfg.KVTokens, MaxSeqs: min(info.MaxSeqs, s.limits().MaxSessions), MaxBatch: cfg.MaxBatch, MaxContext: maxContext,
		Row: m.prefill * time.Duration(t.span.Len()), Dir: s.cfg.Home,
		Formats:  stageFormats{s.cfg.Models, t.model},
		Group:    s.cfg.Network.Group,
		Lending:  s.cfg.Lending,
		Observer: stageObserver{s, strings.ToValidUTF8(t.model.Name(), ""), t.span},
		Log:      s.cfg.Log.With("part", "stage", "model", t.model.Name(), "blocks", t.span.String()),
		Waken:    z.waken,
	}, z, s.cfg.Dialer)
}

// prepareFormats does in advance what would keep the first client with a format
// waiting, which would take the stage for one that hangs.
func (s *Server) prepareFormats(ctx context.Context, t target) {
	if err := s.cfg.Models.Prepare(ctx, t.model); err != nil {
		s.cfg.Log.Warn("answers of a given format cannot be served", "model", t.model.Name(), "error", err)
	}
}

// lastPass is how long a pass may go on when its stage closes.
const lastPass = 5 * time.Second

// drain has other stages take over the sessions that are open: it admits no new ones,
// makes no offer, and waits for the old ones as long as the operator allows. It
// returns why the stage ends.
func (s *serving) drain(st *stage.Stage, lost <-chan struct{}) error {
	srv := s.srv
	srv.mu.Lock()
	s.ready, s.leaving = false, true
	srv.mu.Unlock()
	s.set("draining")
	srv.Offer()
	st.Drain(true)
	end := time.NewTimer(srv.cfg.DrainTime)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	leaving := protocol.Errorf(protocol.Code_CODE_DRAINING, "this node is leaving")
	for st.Status().Sessions > 0 {
		select {
		case <-tick.C:
		case <-lost:
			return leaving
		case <-end.C:
			srv.cfg.Log.Warn("sessions are ended that found no other stage", "sessions", st.Status().Sessions)
			return leaving
		}
	}
	return leaving
}
