package serve

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/draft"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// A span that begins a model and does not end it may have a drafter: a small model of the
// same vocabulary, whole in an engine of its own, that guesses tokens for the sessions of
// the span (package draft). It is loaded when guesses would pay, and only into memory that
// no span has reserved.

const (
	// NoDraft as Engines.Draft stands for: no model drafts. Auto stands for: the smallest that
	// is here whole, has the same vocabulary, and at most a quarter of the weights.
	NoDraft = "off"

	draftShare = 4    // of the model's weights: one part, at most
	draftLanes = 4    // sessions drafted for at the same time
	draftCells = 8192 // KV cells, where there is room
	draftRows  = 128  // per pass
	draftYield = 5    // niceness beyond that of the spans' engines
	draftIdle  = 2 * time.Minute
	draftLook  = 10 * time.Second // after how long a drafter is looked for again
	leastNice  = 19
)

// drafting is the drafter of a span.
type drafting struct {
	srv     *Server
	t       target // whose tokens it guesses
	measure measured
	drafter *draft.Drafter

	// Guarded by Server.mu.
	model    *store.Model // chosen; nil: none
	trouble  error        // why it does not run; nil: nothing is known to be wrong
	reserved int64        // bytes of the memory lent; 0: it is not loaded
	taken    int64        // bytes of this machine's memory
	pid      int
	yield    context.CancelFunc // has it unloaded
	gone     chan struct{}      // closed when it is
}

// Draft is the drafter of a span, in a snapshot.
type Draft struct {
	Model   *store.Model // nil: none was chosen yet
	Trouble error        // why it does not run; nil: nothing is known to be wrong
	Loaded  bool
	Memory  int64 // bytes of the memory lent that it has reserved
	PID     int
	Takes   time.Duration // per guess; 0: not measured yet
	draft.Score
}

// newDrafting returns the drafter of a target that an engine computes; nil: it has none.
func (s *Server) newDrafting(t target, info engine.Info, m measured) *drafting {
	if s.cfg.Engines.Draft == "" || s.cfg.Engines.Draft == NoDraft || s.cfg.NoAhead || t.span.From > 0 || t.last() || info.Rollback == 0 || info.Pooling != engine.NoPooling {
		return nil
	}
	return &drafting{srv: s, t: t, measure: m, drafter: draft.New(info.Vocab)}
}

// snapshot is called with Server.mu held; nil: there is no drafter.
func (f *drafting) snapshot() *Draft {
	if f == nil {
		return nil
	}
	return &Draft{Model: f.model, Trouble: f.trouble, Loaded: f.reserved > 0, Memory: f.reserved, PID: f.pid}
}

// measured adds what the drafter counts, which has a lock of its own.
func (v *Draft) measured(f *drafting) {
	if v != nil {
		v.Takes, v.Score = f.drafter.Takes(), f.drafter.Score()
	}
}

// follow loads the drafter whenever guesses are wanted, and unloads it when they are not any
// more or the memory is wanted for a span, until ctx ends.
func (f *drafting) follow(ctx context.Context) {
	if f.srv.cfg.Engines.Draft != Auto { // an operator's mistake is told before anybody asks
		if _, err := f.choose(ctx); err != nil {
			f.fails(err)
		}
	}
	retry := backoff.Backoff{First: firstRetry, Most: mostRetry}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-f.drafter.Wanted():
		}
		m, err := f.choose(ctx)
		if err == nil && m == nil {
			_ = backoff.Pause(ctx, draftLook)
			continue
		}
		began := time.Now()
		if err == nil {
			err = f.run(ctx, m)
		}
		if err == nil || time.Since(began) > maxBackoff {
			retry.Reset()
		}
		if err != nil && ctx.Err() == nil {
			f.fails(err)
			_ = retry.Wait(ctx)
		}
	}
}

// fails notes why the drafter does not run.
func (f *drafting) fails(err error) {
	f.srv.mu.Lock()
	said := f.trouble != nil && f.trouble.Error() == err.Error()
	f.trouble = err
	f.srv.mu.Unlock()
	if !said {
		f.srv.cfg.Log.Warn("no model drafts", "model", f.t.model.Name(), "blocks", f.t.span, "error", err)
	}
}

// choose returns the model that drafts: the one that the operator named, or the smallest
// that may; nil: there is none.
func (f *drafting) choose(ctx context.Context) (m *store.Model, err error) {
	s := f.srv
	if name := s.cfg.Engines.Draft; name != Auto {
		if m, err = s.cfg.Models.Obtain(ctx, name, nil, nil); err != nil {
			return nil, remedy.For(fmt.Errorf("the drafter %s: %w", shownName(name), err), remedy.Setting, "draft")
		}
		if err := s.mayDraft(m, f.t.model); err != nil {
			return nil, remedy.For(fmt.Errorf("%s cannot draft for %s: %w", m.Name(), f.t.model.Name(), err), remedy.Setting, "draft")
		}
	} else {
		m = s.smallest(f.t.model)
	}
	s.mu.Lock()
	f.model = m
	s.mu.Unlock()
	if m != nil {
		f.drafter.Expect(f.expected(m))
	}
	return m, nil
}

// smallest returns the smallest model that may draft for another one by the node's own
// choice; nil: there is none.
func (s *Server) smallest(of *store.Model) (best *store.Model) {
	most := weights(of) / draftShare
	least := most + 1
	for _, m := range s.cfg.Models.List() {
		if n := weights(m); m.ID() != of.ID() && n < least && s.mayDraft(m, of) == nil {
			best, least = m, n
		}
	}
	return best
}

// weights is what the weights of a model take, in bytes.
func weights(m *store.Model) (n int64) {
	for _, shard := range m.Manifest().Shards {
		if shard.Kind != protocol.ShardHeader {
			n += shard.Size
		}
	}
	return n
}

// expected is how long a guess should take, by what the span takes for its weights.
func (f *drafting) expected(m *store.Model) time.Duration {
	whole := f.measure.decode * time.Duration(f.t.model.Manifest().Blocks)
	return time.Duration(float64(whole) * float64(weights(m)) / float64(max(1, weights(f.t.model))))
}

// mayDraft returns why a model cannot draft for another one; nil: it can. What is quick to
// see comes first, since a node may have many models.
func (s *Server) mayDraft(m, of *store.Model) error {
	switch {
	case m.IsAdapter():
		return errors.New("it is an adapter")
	case !m.Whole(m.Shards()):
		return errors.New("it is not whole on this disk")
	}
	own, err := s.vocabulary(m)
	if err != nil {
		return err
	}
	theirs, err := s.vocabulary(of)
	if err != nil {
		return err
	}
	if own.tokens != theirs.tokens {
		return fmt.Errorf("its vocabulary is another one, of %d tokens instead of %d", own.tokens, theirs.tokens)
	}
	if own != theirs {
		return fmt.Errorf("its vocabulary is another one, with as many tokens (%d)", own.tokens)
	}
	if pooling(m) != engine.NoPooling {
		return errors.New("it makes embeddings")
	}
	_, err = s.options(m)
	return err
}

// vocabulary stands for the tokens of a model, without those that only fill it up.
type vocabulary struct {
	tokens int
	sum    [sha256.Size]byte
}

// vocabulary returns that of a model. It is kept, since headers are long.
func (s *Server) vocabulary(m *store.Model) (vocabulary, error) {
	if v, ok := s.vocabularies.Load(m.ID()); ok {
		return v.(vocabulary), nil
	}
	h, err := m.Header()
	if err != nil {
		return vocabulary{}, err
	}
	v, err := vocabularyOf(h)
	if err == nil {
		s.vocabularies.Store(m.ID(), v)
	}
	return v, err
}

// unused is the type of tokens that only fill a vocabulary up, as GGUF has it.
const unused = 5

func vocabularyOf(h *gguf.Header) (v vocabulary, err error) {
	tokens, _ := h.Value("tokenizer.ggml.tokens").([]string)
	types, _ := h.Value("tokenizer.ggml.token_type").([]int32)
	v.tokens = len(tokens)
	for v.tokens > 0 && (strings.HasPrefix(tokens[v.tokens-1], "[PAD") || v.tokens <= len(types) && types[v.tokens-1] == unused) {
		v.tokens--
	}
	if v.tokens == 0 {
		return v, errors.New("its header has no tokens")
	}
	sum := sha256.New()
	for _, t := range tokens[:v.tokens] {
		_, _ = fmt.Fprintf(sum, "%d ", len(t))
		_, _ = io.WriteString(sum, t)
	}
	sum.Sum(v.sum[:0])
	return v, nil
}

// run loads the drafter, and has it guess until nobody wants guesses any more, a span
// wants the memory, or ctx ends.
func (f *drafting) run(ctx context.Context, m *store.Model) error {
	s := f.srv
	ctx, yield := context.WithCancel(ctx)
	defer yield()
	z, err := f.reserve(m, yield)
	if err != nil {
		return err
	}
	defer f.release(m)
	e, took, err := f.load(ctx, m, z)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	idle := draftIdle
	if after := s.limits().UnloadAfter; after > 0 {
		idle = min(idle, after)
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { // a pass may hang
		defer close(closed)
		_ = e.Close()
	})
	err = f.drafter.Run(ctx, draft.Loaded{Engine: e, Takes: took, Context: int(m.Manifest().Context), Idle: idle})
	if stop() {
		_ = e.Close()
	} else {
		<-closed
	}
	if err != nil {
		s.cfg.Metrics.Restarted()
	}
	return err
}

// reserve sets memory aside for the drafter, of what no span has reserved. yield has it
// unloaded.
func (f *drafting) reserve(m *store.Model, yield context.CancelFunc) (size, error) {
	s, t := f.srv, target{m, m.Manifest().All()}
	c := s.costsOf(t)
	c.sessions = draftLanes
	z := size{cells: draftCells, batch: draftRows}
	if n := int(m.Manifest().Context); n > 0 {
		z.cells = min(z.cells, draftLanes*n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := max(0, s.left(nil)-s.drafted())
	for z.bytes = c.bytes(z.cells, z.batch); z.bytes > left; z.bytes = c.bytes(z.cells, z.batch) {
		if z.cells /= 2; z.cells < leastCells {
			return z, remedy.For(fmt.Errorf("%s as a drafter: %w", m.Name(), noRoom{z.bytes, left, s.limits().Memory}), remedy.RaiseMemory)
		}
	}
	f.model, f.reserved, f.yield, f.gone, f.trouble = m, z.bytes, yield, make(chan struct{}), nil
	return z, nil
}

// release gives back what the drafter has reserved, once its engine is closed.
func (f *drafting) release(m *store.Model) {
	s := f.srv
	s.mu.Lock()
	f.reserved, f.taken, f.pid = 0, 0, 0
	close(f.gone)
	s.mu.Unlock()
	s.shareMemory()
	if !s.Serves(m) {
		m.Unserved()
	}
}

// load loads the drafter with the engine that is best for it, and measures it.
func (f *drafting) load(ctx context.Context, m *store.Model, z size) (e engine.Engine, took time.Duration, err error) {
	s, t := f.srv, target{m, m.Manifest().All()}
	options, err := s.options(m)
	if err != nil {
		return nil, 0, err
	}
	if len(options) == 2 && s.verdicts.of(s.question(t, options[1].library)) == engine.Llama {
		slices.Reverse(options)
	}
	cfg := s.engineConfig(t, z)
	cfg.MaxSeqs, cfg.Nice = draftLanes, min(leastNice, cfg.Nice+draftYield)
	cfg.Engine, cfg.Library = options[0].name, options[0].library.Dir
	err = t.withFiles(ctx, cfg, func(filled engine.Config) (err error) {
		e, err = s.cfg.Load(ctx, filled, s.cfg.Log.With("part", "drafter"))
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	info := e.Info()
	if info.Rollback == 0 {
		_ = e.Close()
		return nil, 0, fmt.Errorf("%w: %s cannot draft, since nothing it has computed can be taken back", engine.ErrUnsupported, m.Name())
	}
	one, err := calibrate(ctx, e)
	if err == nil {
		err = f.take(m, e)
	}
	if err != nil {
		_ = e.Close()
		return nil, 0, err
	}
	return e, one.decode * time.Duration(info.Blocks), nil
}

// take notes what an engine was found to take.
func (f *drafting) take(m *store.Model, e engine.Engine) error {
	s, info := f.srv, e.Info()
	took := int64(max(info.Weights+info.KV+info.Graph, info.Host)) + s.ownBytes()
	s.mu.Lock()
	left := max(0, s.left(nil)-s.drafted()+f.reserved)
	if took <= left {
		f.reserved, f.taken = took, int64(info.Host)
		if c, ok := e.(*engine.Child); ok {
			f.pid = c.Pid()
		}
	}
	s.mu.Unlock()
	if took > left {
		return remedy.For(fmt.Errorf("%s as a drafter: %w", m.Name(), noRoom{took, left, s.limits().Memory}), remedy.RaiseMemory)
	}
	s.shareMemory()
	return nil
}

// drafted is what drafters have reserved of the memory lent, which is theirs only as long
// as no span wants it. Called with mu held.
func (s *Server) drafted() (n int64) {
	for _, v := range s.spans {
		if v.draft != nil {
			n += v.draft.reserved
		}
	}
	return n
}

// makeRoom unloads drafters until spans and drafters together have reserved no more than is
// lent. It returns when they are unloaded, or ctx has ended.
func (s *Server) makeRoom(ctx context.Context) {
	for _, gone := range s.yieldDrafts() {
		select {
		case <-gone:
		case <-ctx.Done():
		}
	}
}

// yieldDrafts is makeRoom without waiting: it returns what is closed when a drafter is
// unloaded. The last ones go first.
func (s *Server) yieldDrafts() (gone []chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := s.drafted() - s.left(nil)
	for _, v := range slices.Backward(s.spans) {
		if f := v.draft; over > 0 && f != nil && f.reserved > 0 {
			over -= f.reserved
			f.yield()
			gone = append(gone, f.gone)
		}
	}
	return gone
}

// draftGuesser is a Runner with a drafter, as a stage wants it.
type draftGuesser struct {
	guesser
	of   *drafting
	from *draft.Session
}

// Begin implements stage.Assisted.
func (g *draftGuesser) Begin(draws *protocol.Sampling, more func()) {
	g.from = g.of.drafter.Open(draws, more)
}

// Prompt implements stage.Guesser.
func (g *draftGuesser) Prompt(tokens []int32) {
	g.guesser.Prompt(tokens)
	g.from.Prompt(tokens)
}

// Token implements stage.Guesser.
func (g *draftGuesser) Token(id int32, at time.Time, m stage.Measures) {
	g.hint()
	g.guesser.Token(id, at, m)
	g.from.Token(id)
	g.from.Want(g.Drafts(g.of.drafter.Takes()))
}

// Next implements stage.Guesser.
func (g *draftGuesser) Next(at time.Time, full bool) (int32, bool) {
	g.hint()
	return g.guesser.Next(at, full)
}

func (g *draftGuesser) hint() {
	if final, tokens, ok := g.from.Take(); ok {
		g.Hint(final, tokens)
	}
}

// Close implements stage.Assisted.
func (g *draftGuesser) Close() {
	score := g.from.Close()
	g.of.srv.cfg.Metrics.Drafted(score.Right, score.Wrong)
}
