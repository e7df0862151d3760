package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// serving keeps one span served: it fetches the shards, loads them into an
// engine, measures it, offers it, and begins again when the engine is lost.
type serving struct {
	node *Node
	spec ServeSpec

	// guarded by node.mu
	state   string
	model   *store.Model
	span    protocol.Span
	stage   *stage.Stage
	info    engine.Info
	pid     int
	ready   bool // a probe has come through
	leaving bool // no offer any more
	measure measured
	taken   int64      // bytes of memory that its engine takes, or is about to
	auto    bool       // of the node's own choice
	since   time.Time  // in this state: being fetched, loaded, ready
	told    stage.Load // of the last offer
	takes   []cid.Cid  // models that it may be of, if auto
	losses  losses     // of its engine

	nextModel *store.Model // what it is about to move to, or nil
	nextSpan  protocol.Span
	nextSince time.Time
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

func (s *serving) set(state string) {
	s.node.mu.Lock()
	s.state = state
	s.node.mu.Unlock()
	s.node.cfg.Log.Info(state, "model", s.spec.Model)
}

// run returns when ctx ends, or with an error when the span cannot be served
// at all.
func (s *serving) run(ctx context.Context) error {
	if err := s.resolve(ctx); err != nil {
		return err
	}
	return s.keep(ctx)
}

// keep keeps the span served until ctx ends.
func (s *serving) keep(ctx context.Context) error {
	defer s.model.UseShards(s.model.Manifest().ShardsFor(s.span))() // neither the quota nor anybody's command takes them away
	backoff := firstBackoff
	for {
		if err := s.fetch(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to stop
			}
			return err
		}
		s.node.gate.wait(ctx, func(why string) { s.set("paused: " + why) })
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop
		}
		lived := time.Now()
		lent, stop := s.node.gate.while(ctx)
		err := s.serve(lent)
		paused := lent.Err() != nil
		stop()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop, and drained
		}
		if paused {
			continue
		}
		var missing *store.Missing
		switch {
		case errors.As(err, &missing): // damaged on disk: fetched again at once
			s.node.cfg.Log.Warn("shards are damaged and fetched again", "error", err)
			continue
		case errors.Is(err, engine.ErrUnsupported), errors.Is(err, engine.ErrMemory), errors.Is(err, engine.ErrNoChild):
			return err
		}
		if time.Since(lived) > maxBackoff {
			backoff = firstBackoff
		}
		s.lost(err)
		s.node.metrics.Restarted()
		s.set(fmt.Sprintf("the engine was lost; it is started again in %s", backoff))
		s.node.cfg.Events(Event{Event: "engine", Model: s.model.ID().String(), Name: s.model.Name(), From: s.span.From, To: s.span.To,
			Error: fmt.Sprintf("%s; it is started again in %s", err, backoff)})
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// resolve finds the model and the span to serve.
func (s *serving) resolve(ctx context.Context) error {
	s.set("looking for the model")
	span, _, err := s.spec.span()
	if err != nil {
		return err
	}
	var only *protocol.Span // of a file that is imported first
	if span.Len() > 0 {
		only = &span
	}
	m, err := s.node.awaitModel(ctx, s.spec.Model, only)
	if errors.Is(err, store.ErrSpan) {
		return configError{err}
	}
	if err != nil {
		return err
	}
	if span.To == -1 {
		span = m.Manifest().All()
	}
	if !span.Valid(int(m.Manifest().Blocks)) {
		return badConfig("blocks %s: %s has blocks 0-%d", span, m.Name(), m.Manifest().Blocks)
	}
	s.settle(m, span)
	s.node.offerAll()
	return nil
}

// fetch brings the span's shards.
func (s *serving) fetch(ctx context.Context) error {
	shards := s.model.Manifest().ShardsFor(s.span)
	if s.model.Whole(shards) {
		return nil
	}
	s.set("fetching shards")
	last := time.Time{}
	return s.node.fetchShards(ctx, s.model, shards, func(p api.Progress) {
		if time.Since(last) > time.Second {
			last = time.Now()
			s.node.cfg.Events(Event{
				Event: "fetching", Model: s.model.ID().String(), Name: s.model.Name(), From: s.span.From, To: s.span.To, Done: p.Done, Total: p.Total,
				Peers: p.Peers, Origins: p.Origins, Rate: p.Rate, Left: p.Left, Trouble: p.Trouble,
			})
		}
	})
}

// serve loads the span and serves it until the engine is lost or ctx ends.
func (s *serving) serve(ctx context.Context) error {
	n := s.node
	s.set("loading")
	var e engine.Engine
	cfg := s.engineConfig()
	s.claim(s.needs(cfg.KVTokens))
	defer s.claim(0)
	err := s.model.StageFile(ctx, s.span, func(md *gguf.Header) []gguf.KV {
		var out []gguf.KV
		for k, v := range engine.Defaults(md) {
			out = append(out, gguf.KV{Key: k, Value: v})
		}
		slices.SortFunc(out, func(a, b gguf.KV) int {
			if a.Key < b.Key {
				return -1
			}
			return 1
		})
		return out
	}, func(path string) (err error) {
		cfg.Path = path
		load := n.cfg.Engine
		if load == nil {
			load = engine.InChild()
		}
		e, err = load(ctx, cfg, n.cfg.Log.With("part", "engine"))
		return err
	})
	if err != nil {
		return err
	}
	defer e.Close()
	s.claim(int64(e.Info().Host))
	pid := 0
	lost := make(<-chan struct{})
	if c, ok := e.(*engine.Child); ok {
		pid, lost = c.Pid(), c.Done()
	}
	m, err := calibrate(ctx, e)
	if err != nil {
		return err
	}
	man := s.model.Manifest()
	maxContext := cfg.KVTokens
	if man.Context > 0 {
		maxContext = min(maxContext, int(man.Context))
	}
	formats, last := stageFormats{n, s.model}, s.span.To == int(man.Blocks)
	st := stage.New(stage.Config{
		Model: s.model.ID(), Span: s.span, Blocks: int(man.Blocks), Width: int(man.Width), Vocab: e.Info().Vocab,
		KVTokens: cfg.KVTokens, MaxSeqs: cfg.MaxSeqs, MaxBatch: cfg.MaxBatch, MaxContext: maxContext,
		Row: m.prefill * time.Duration(s.span.Len()), Dir: n.cfg.Home,
		Formats:  formats,
		Group:    n.net.Group,
		Trusted:  n.trusted,
		Observer: stageObserver{n, modelLabel(s.model.Name()), s.span},
		Log:      n.cfg.Log.With("part", "stage"),
	}, e, stageDialer{streams{n.net}})
	n.mu.Lock()
	s.stage, s.info, s.pid, s.measure, s.since = st, e.Info(), pid, m, time.Now()
	n.mu.Unlock()
	n.stages.Add(st)
	n.offerAll()
	proving, stopProving := context.WithCancel(ctx)
	var prover sync.WaitGroup
	prover.Go(func() { s.prove(proving) })
	if last {
		prover.Go(func() { formats.prepare(proving) })
	}

	var reason error
	select {
	case <-ctx.Done():
		reason = s.drain(st, lost)
	case <-lost:
		reason = e.(*engine.Child).Err()
	case <-st.Done():
		reason = st.Err()
	}
	stopProving()
	prover.Wait()
	n.stages.Remove(st)
	n.mu.Lock()
	s.stage, s.ready, s.leaving, s.pid, s.since = nil, false, false, 0, time.Now()
	n.mu.Unlock()
	n.offerAll()
	// A pass that hangs would keep the stage, and with it the node, from leaving.
	if c, ok := e.(*engine.Child); ok {
		hangs := time.AfterFunc(lastPass, func() { _ = c.Close() })
		defer hangs.Stop()
	}
	st.Close(reason)
	return reason
}

// lastPass is how long a pass may go on when its stage closes.
const lastPass = 5 * time.Second

// drain has the sessions under way taken over by others: no new ones, no
// offer, and as long as the operator allows for the old ones to go.
func (s *serving) drain(st *stage.Stage, lost <-chan struct{}) error {
	n := s.node
	n.mu.Lock()
	s.ready, s.leaving = false, true
	n.mu.Unlock()
	s.set("draining")
	n.offerAll()
	st.Drain(true)
	end := time.NewTimer(n.cfg.DrainTime)
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
			n.cfg.Log.Warn("sessions are ended that found no other stage", "sessions", st.Status().Sessions)
			return leaving
		}
	}
	return leaving
}

// maxBatch is the most rows of a pass: eight prefill chunks, or a decode of
// every session and some.
const maxBatch = 512

func (s *serving) engineConfig() engine.Config {
	n := s.node
	man := s.model.Manifest()
	kv := n.cfg.KVTokens
	if kv <= 0 {
		kv = int(n.kvTokens(s.model, s.span))
	}
	kv = max(kv, min(int(man.Context), 512))
	return engine.Config{
		From: s.span.From, To: s.span.To, KVTokens: kv, MaxSeqs: n.cfg.MaxSessions,
		MaxBatch: maxBatch, KVType: n.cfg.KVType, Threads: n.cfg.Threads, Nice: n.cfg.Nice, Devices: n.cfg.Devices, Exact: n.cfg.Exact,
		Memory: max(n.cfg.Memory, s.needs(kv)) + loadRoom + machineMemory()/4,
	}
}

// needs is what the span's weights and so many KV cells take, in bytes.
func (s *serving) needs(kvTokens int) int64 {
	man := s.model.Manifest()
	n := s.node.kvBytes(s.model) * int64(s.span.Len()) * int64(kvTokens)
	for _, i := range man.ShardsFor(s.span) {
		n += man.Shards[i].Size
	}
	return n
}

// loadRoom and a quarter of the machine's memory are what an engine may take
// while it loads, beside what is lent or its weights and KV cells take by
// themselves: the buffers of a pass are not known before. What it may take later
// goes by what it has then (see fence).
const loadRoom = 1 << 30

// kvTokens is how many KV cells a quarter of the memory lent holds, within
// reason: eight sessions of the model's whole context, or 64k tokens.
func (n *Node) kvTokens(m *store.Model, span protocol.Span) int64 {
	man := m.Manifest()
	per := max(1, n.kvBytes(m)*int64(span.Len()))
	want := max(512, min(8*max(man.Context, 512), 64<<10))
	return max(256, min(want, n.cfg.Memory/4/per))
}

// kvBytes is what a token's keys and values take in one block.
func (n *Node) kvBytes(m *store.Model) int64 {
	man := m.Manifest()
	h, err := m.Header()
	if err != nil {
		return 4 * man.Width // two halves of two bytes: at most, but for a few models
	}
	heads, _ := h.Uint(h.Arch("attention.head_count"))
	kvHeads, ok := h.Uint(h.Arch("attention.head_count_kv"))
	if !ok {
		kvHeads = heads
	}
	headDim, ok := h.Uint(h.Arch("attention.key_length"))
	if !ok && heads > 0 {
		headDim = uint64(man.Width) / heads
	}
	per := int64(kvHeads*headDim) * 2 * 2 // keys and values, two bytes each
	if n.cfg.KVType == "f32" {
		per *= 2
	}
	return per
}

// calibrateTime is enough for two measurements each to end soon on a machine
// that is slow for its span.
const calibrateTime = time.Second

// calibrate measures what a row costs, alone and in a chunk, and is the proof
// that the span computes at all.
func calibrate(ctx context.Context, e engine.Engine) (m measured, err error) {
	info := e.Info()
	blocks := time.Duration(info.To - info.From)
	base := 0
	pass := func(rows int) (time.Duration, error) {
		b := &engine.Batch{}
		for i := range rows {
			b.Rows = append(b.Rows, engine.Row{Seq: 0, Pos: int32(base + i)})
		}
		if info.From == 0 {
			b.Tokens = make([]int32, rows)
		} else {
			b.Hidden = make([]float32, rows*info.Width)
			for i := range b.Hidden {
				b.Hidden[i] = float32(i%7) - 3
			}
		}
		if info.To == info.Blocks {
			b.Outputs = []engine.Output{{Row: rows - 1, Position: uint64(base + rows)}}
		}
		res, err := e.Run(ctx, b)
		if err != nil {
			return 0, fmt.Errorf("the engine does not compute: %w", err)
		}
		base += rows
		return res.Compute, nil
	}
	// The engine settles on a number of threads meanwhile; the later half
	// counts.
	typical := func(passes, rows int) (time.Duration, error) {
		var all []time.Duration
		begin := time.Now()
		for range passes {
			d, err := pass(rows)
			if err != nil {
				return 0, err
			}
			if all = append(all, d); time.Since(begin) > calibrateTime {
				break
			}
		}
		all = all[len(all)/2:]
		slices.Sort(all)
		return all[len(all)/2], nil
	}
	rows := min(route.Chunk, info.MaxBatch, max(1, info.KVTokens/4))
	chunk, err := typical(2, rows)
	if err != nil {
		return m, err
	}
	one, err := typical(min(24, max(1, info.KVTokens/4)), 1)
	if err != nil {
		return m, err
	}
	m = measured{decode: one / blocks, prefill: chunk / time.Duration(rows) / blocks}
	return m, e.Remove(0, 0)
}

// offerAll tells the network what is served and held now.
func (n *Node) offerAll() {
	if n.cfg.Client {
		return
	}
	body := &protocol.OfferBody{}
	lending, _, _ := n.gate.look()
	n.mu.Lock()
	if n.leaving {
		n.mu.Unlock()
		return
	}
	for _, s := range n.serving {
		if s.model == nil || s.leaving || !lending {
			continue
		}
		body.Spans = append(body.Spans, s.offer())
		if s.nextModel != nil {
			body.Spans = append(body.Spans, s.offerNext())
		}
		if body.Device == nil && s.stage != nil {
			body.Device = &protocol.Device{Memory: uint64(n.cfg.Memory), Threads: uint32(n.cfg.Threads)}
			for _, d := range s.info.Devices {
				body.Device.Name, body.Device.Backend = d.Name, d.Library
			}
		}
	}
	for _, s := range n.serving {
		if s.auto && lending {
			body.AutoBytes = uint64(max(0, n.cfg.Memory))
			for _, m := range s.takes {
				body.Takes = append(body.Takes, m.Bytes())
			}
		}
	}
	n.mu.Unlock()
	for _, m := range n.store.Models() {
		held := m.Holds()
		bits := make([]byte, (len(held)+7)/8)
		any := false
		for i, h := range held {
			if h {
				bits[i/8] |= 1 << (i % 8)
				any = true
			}
		}
		if any && len(body.Shards) < 32 {
			body.Shards = append(body.Shards, &protocol.HeldShards{Model: m.ID().Bytes(), Bitmap: bits, Name: m.Name()})
		}
	}
	if err := n.net.SetOffer(body); err != nil {
		n.cfg.Log.Warn("the offer cannot be made", "error", err)
	}
}

// offer is the span as peers are told of it. Called with node.mu held.
func (s *serving) offer() *protocol.ServedSpan {
	man := s.model.Manifest()
	o := &protocol.ServedSpan{
		Model: s.model.ID().Bytes(), From: uint32(s.span.From), To: uint32(s.span.To), Blocks: uint32(man.Blocks), Width: uint32(man.Width),
		Name: s.model.Name(), Auto: s.auto, Ready: s.ready, Loaded: s.stage != nil, SinceS: uint32(time.Since(s.since).Seconds()),
	}
	if s.stage == nil {
		return o
	}
	st, cfg, load := s.stage.Status(), s.stage.Config(), s.stage.Load()
	decode := s.measure.decode
	if st.DecodePass > 0 { // what sessions see is truer than the first measurement
		decode = min(4*decode, st.DecodePass/time.Duration(s.span.Len()))
	}
	o.UsPerBlock, o.UsPerBlockPrefill = uint32(max(1, decode.Microseconds())), uint32(max(1, s.measure.prefill.Microseconds()))
	o.KvTokens, o.KvFree, o.MaxContext = uint32(cfg.KVTokens), uint32(st.KVFree), uint32(cfg.MaxContext)
	permille := func(x float64) uint32 { return uint32(1000 * max(0, min(1, x))) }
	o.LoadPermille, o.LoadLongPermille, o.RefusedPermille = permille(load.Minute), permille(load.Ten), permille(load.Refused)
	s.told = load
	return o
}

// offerNext announces what is being fetched while another span is served.
func (s *serving) offerNext() *protocol.ServedSpan {
	man := s.nextModel.Manifest()
	return &protocol.ServedSpan{
		Model: s.nextModel.ID().Bytes(), From: uint32(s.nextSpan.From), To: uint32(s.nextSpan.To), Blocks: uint32(man.Blocks), Width: uint32(man.Width),
		Name: s.nextModel.Name(), Auto: true, SinceS: uint32(time.Since(s.nextSince).Seconds()),
	}
}

// loadEvery is how often an offer is made anew because the load has moved.
const loadEvery = 10 * time.Second

// tellLoad makes the offer anew when the load is another than it tells: who
// decides about replicas goes by it.
func (n *Node) tellLoad(ctx context.Context) {
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		moved := false
		n.mu.Lock()
		for _, s := range n.serving {
			if s.stage != nil {
				l := s.stage.Load()
				moved = moved || math.Abs(l.Minute-s.told.Minute) > 0.05 || math.Abs(l.Ten-s.told.Ten) > 0.05 || math.Abs(l.Refused-s.told.Refused) > 0.02
			}
		}
		n.mu.Unlock()
		if moved {
			n.offerAll()
		}
	}
}

// statusReply is the load that peers are told.
func (n *Node) statusReply(who peer.ID, req *protocol.StatusRequest) *protocol.StatusReply {
	r := &protocol.StatusReply{UptimeMs: uint64(time.Since(n.started).Milliseconds())}
	for _, st := range n.stages.Stages() {
		cfg, s := st.Config(), st.Status()
		r.Spans = append(r.Spans, &protocol.SpanStatus{
			Model: cfg.Model.Bytes(), From: uint32(cfg.Span.From), To: uint32(cfg.Span.To), Sessions: uint32(s.Sessions),
			QueuedRows: uint32(s.QueuedRows), KvFree: uint32(st.Room(who)), TokensPerS: float32(s.TokensPerS),
		})
		if string(req.Model) == string(cfg.Model.Bytes()) {
			r.Spans[len(r.Spans)-1].Kept = uint32(st.Kept(who, req.Prefix))
		}
	}
	return r
}
