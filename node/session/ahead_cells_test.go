package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// cells is an engine whose cache is like a real one's: cells that sequences share, the
// lowest free one taken first, and a mask over all of them. Removal changes who sees a
// cell, and leaves a large number in it. It checks nothing: if a stage leaves a position in
// the cache that should have been taken back, the numbers are others from there on. They
// are whole, so that the order of sums does not matter.
type cells struct {
	*sums
	jitter *rand.Rand // of a pass's time; nil: none
	skip   int        // the so-manieth removal of positions is not done; 0: all are

	all     []cache
	removed int // removals of positions so far
}

type cache struct {
	seqs uint64 // who sees it
	pos  int
	x    []int64 // per block
}

const (
	field = 1_000_003 // numbers are below it, and a float32 has room for them
	stale = 60_000
)

func newCells(span protocol.Span, blocks int) *cells {
	return &cells{sums: &sums{span: span, blocks: blocks}}
}

func (e *cells) Remove(seq int, from int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var some []int
	for i, c := range e.all {
		if c.seqs>>seq&1 == 1 && c.pos >= int(from) {
			some = append(some, i)
		}
	}
	if from%protocol.PrefixBlock != 0 && len(some) > 0 { // else it may be for a prefix that is kept
		if e.removed++; e.removed == e.skip {
			return nil
		}
	}
	for _, i := range some {
		c := &e.all[i]
		if c.seqs &^= 1 << seq; c.seqs == 0 {
			for b := range c.x {
				c.x[b] = stale
			}
		}
	}
	return nil
}

func (e *cells) CopyPrefix(src, dst int, n int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.all {
		if c := &e.all[i]; c.seqs>>src&1 == 1 && c.pos < int(n) {
			c.seqs |= 1 << dst
		}
	}
	return nil
}

func (e *cells) Run(_ context.Context, p *engine.Batch) (*engine.Result, error) {
	e.mu.Lock()
	delay := e.delay
	if e.jitter != nil {
		delay += time.Duration(e.jitter.IntN(3000)) * time.Microsecond
	}
	e.mu.Unlock()
	time.Sleep(delay) // without the lock: in virtual time, who waits for one stops the clock
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken != nil {
		return nil, e.broken
	}
	outs := make([][width]int64, len(p.Rows))
	for i, row := range p.Rows {
		h := &outs[i]
		for j := range h {
			if e.span.From == 0 {
				h[j] = int64(p.Tokens[i]) * int64(j*j+3)
			} else {
				h[j] = int64(p.Hidden[i*width+j])
			}
		}
		e.row(h, row)
	}
	res := &engine.Result{}
	if e.span.To < e.blocks {
		for _, h := range outs {
			for _, v := range h {
				res.Hidden = append(res.Hidden, float32(v))
			}
		}
		return res, nil
	}
	for _, d := range p.Outputs {
		h := outs[d.Row]
		id := (h[0] + 3*h[1] + 7*h[2] + int64(len(d.Sampled))) % vocab
		res.Tokens = append(res.Tokens, sample.Token{ID: int32(id), Logprob: -float32(h[3])})
	}
	return res, nil
}

// row computes one row. Called with mu held.
func (e *cells) row(h *[width]int64, row engine.Row) {
	at := slices.IndexFunc(e.all, func(c cache) bool { return c.seqs == 0 })
	if at < 0 {
		at = len(e.all)
		e.all = append(e.all, cache{x: make([]int64, e.span.Len())})
	}
	own := &e.all[at]
	own.seqs, own.pos = 1<<row.Seq, int(row.Pos)
	for b := range own.x {
		own.x[b] = (h[0]*31 + h[1]*17 + int64(own.pos+1)*int64(e.span.From+b+1)) % field
		sum := int64(0)
		for _, c := range e.all {
			mask := int64(0)
			if c.seqs>>row.Seq&1 == 1 && c.pos <= own.pos {
				mask = 1
			}
			sum += mask * c.x[b] % field * int64(1+c.pos%7)
		}
		for j := range h {
			h[j] = (h[(j+1)%width]*5 + sum*int64(j+3)) % field
		}
	}
}

// drawn is a token as its stage drew it.
type drawn struct {
	id      int32
	logprob float32
}

// oneByOne computes an answer in one engine, row after row.
func oneByOne(prompt []int32, blocks, n int) (out []drawn) {
	e := newCells(protocol.Span{To: blocks}, blocks)
	for pos, id := range prompt {
		out = append(out[:0], e.next(pos, id, nil))
	}
	var ids []int32
	for len(out) < n {
		ids = append(ids, out[len(out)-1].id)
		out = append(out, e.next(len(prompt)+len(ids)-1, ids[len(ids)-1], ids))
	}
	return out
}

func (e *cells) next(pos int, id int32, before []int32) drawn {
	res, _ := e.Run(context.Background(), &engine.Batch{ // it fails only where it is told to
		Rows: []engine.Row{{Pos: int32(pos)}}, Tokens: []int32{id}, Outputs: []engine.Output{{Sampled: before}},
	})
	return drawn{res.Tokens[0].ID, res.Tokens[0].Logprob}
}

// seer guesses for whichever of some texts it recognizes, right with some chance.
type seer struct {
	texts [][]int32
	right float64
	most  int
	rng   *rand.Rand

	known, line []int32
}

func (s *seer) Prompt(tokens []int32) { s.known = append(s.known, tokens...) }
func (s *seer) Expect([]int32)        {}

func (s *seer) Token(id int32, _ time.Time, _ stage.Measures) {
	s.known = append(s.known, id)
	if len(s.line) > 0 && s.line[0] == id {
		s.line = s.line[1:]
	} else {
		s.line = nil
	}
}

func (s *seer) Next(_ time.Time, full bool) (int32, bool) {
	if full || len(s.line) >= s.most {
		return 0, false
	}
	id := s.rng.Int32N(vocab)
	if at := len(s.known) + len(s.line); s.rng.Float64() < s.right {
		for _, text := range s.texts {
			if len(text) > at && slices.Equal(text[:len(s.known)], s.known) {
				id = text[at]
			}
		}
	}
	s.line = append(s.line, id)
	return id, true
}

// tangle is one random network with its sessions and its faults.
type tangle struct {
	t       *testing.T
	rng     *rand.Rand
	f       *fleet
	engines []*cells
	prompts [][]int32
	want    [][]drawn
	skip    int // of the first engines' removals
}

const tangleBlocks = 6

func newTangle(t *testing.T, seed uint64, sessions, skip int) *tangle {
	g := &tangle{t: t, rng: rand.New(rand.NewPCG(seed, 17)), skip: skip}
	common := someTokens(seed, 70)
	for i := range sessions {
		ids := slices.Concat(common[:g.rng.IntN(70)], someTokens(seed<<8+uint64(i), 1+g.rng.IntN(20)))
		g.prompts = append(g.prompts, ids)
		g.want = append(g.want, oneByOne(ids, tangleBlocks, 5+g.rng.IntN(30)))
	}
	return g
}

// build makes the network.
func (g *tangle) build() {
	var texts [][]int32
	for i, ids := range g.prompts {
		text := slices.Clone(ids)
		for _, d := range g.want[i] {
			text = append(text, d.id)
		}
		texts = append(texts, text)
	}
	right, window := []float64{0, 0.3, 0.7, 0.95, 1}[g.rng.IntN(5)], 1+g.rng.IntN(32)
	var made atomic.Uint64
	p := &pipeline{inFlight: 32, delay: time.Duration(g.rng.IntN(2)) * time.Millisecond}
	p.guess = func(most int) stage.Guesser {
		return &seer{texts: texts, right: right, most: min(most, window), rng: rand.New(rand.NewPCG(made.Add(1), 9))}
	}
	p.wrap = func(e *sums) stage.Engine {
		c := &cells{sums: e, jitter: rand.New(rand.NewPCG(g.rng.Uint64(), 1)), skip: g.skip}
		g.engines = append(g.engines, c)
		return c
	}
	g.f = fleetOf(g.t, p, tangleBlocks, 3, [][]int{{3}, {2, 4}, {1, 3, 4}}[g.rng.IntN(3)]...)
	g.f.lag = time.Duration(g.rng.IntN(8)) * time.Millisecond
}

// fault has a stage of the route fail in some way, after a while.
func (g *tangle) fault() {
	f, i, kind := g.f, g.rng.IntN(len(g.f.spans)), g.rng.IntN(4)
	time.AfterFunc(time.Duration(100+g.rng.IntN(300))*time.Millisecond, func() { // all are open then: a stage that is lost before is the caller's affair
		switch kind {
		case 0:
			f.engines[i].breakNow()
		case 1:
			f.mu.Lock()
			f.cut[[2]peer.ID{nodeID(i), nodeID((i + 1) % len(f.spans))}] = true
			f.mu.Unlock()
			return
		case 2:
			go f.stages[i].Close(errors.New("killed"))
		case 3:
			f.stages[i].Drain(true)
		}
		f.set(f.down, nodeID(i), true)
	})
}

// ask is one of the sessions, which its client may give up in the middle. It returns what
// came.
func (g *tangle) ask(i, cancelAt int) (got []drawn, sum session.Ahead, err error) {
	ctx, cancel := context.WithCancel(g.t.Context())
	defer cancel()
	out, err := session.Run(ctx, sessionDialer{dialer{g.f.net, nodeID(-1)}}, &session.Request{
		Model: g.f.model, Route: g.f.route, Prompt: g.prompts[i], Chunk: 7, Step: time.Millisecond, Prefill: 10 * time.Millisecond,
		Sampling: &protocol.Sampling{MaxTokens: uint32(len(g.want[i]))}, Replan: g.f.replan, MaxInFlight: 32,
	}, func(tok *protocol.Token) error {
		if got = append(got, drawn{tok.Id, tok.Logprob}); len(got) == cancelAt {
			cancel()
		}
		return nil
	})
	return got, out.Ahead, err
}

// over ends the network.
func (g *tangle) over() {
	g.f.mu.Lock()
	clear(g.f.cut)
	g.f.mu.Unlock()
	for _, s := range g.f.stages {
		s.Close(nil)
	}
	time.Sleep(time.Minute) // all that waits gives up
}

// Rows of known tokens, right and wrong guesses, truncations, clients that leave, and
// stages that are lost: whatever the order, each token and its log probability are those
// of rows computed one by one, in the cells of caches with a past. SHOAL_TEST_AHEAD=100
// takes 10,000 networks.
func TestAheadTangles(t *testing.T) {
	networks := 150
	if n, err := strconv.Atoi(os.Getenv("SHOAL_TEST_AHEAD")); err == nil {
		networks = 100 * n
	}
	var mu sync.Mutex
	var sum session.Ahead
	tokens, left, faults, removed := 0, 0, 0, 0
	for seed := range uint64(networks) {
		synctest.Test(t, func(t *testing.T) {
			g := newTangle(t, seed, 1+int(seed%3), 0)
			g.build()
			for range g.rng.IntN(3) {
				g.fault()
				faults++
			}
			var wait sync.WaitGroup
			for i, want := range g.want {
				cancelAt := 0
				if g.rng.IntN(5) == 0 {
					cancelAt = 1 + g.rng.IntN(len(want))
				}
				pause := time.Duration(g.rng.IntN(20)) * time.Millisecond
				wait.Go(func() {
					time.Sleep(pause)
					got, ahead, err := g.ask(i, cancelAt)
					mu.Lock()
					defer mu.Unlock()
					tokens += len(got)
					sum.Sent, sum.Kept = sum.Sent+ahead.Sent, sum.Kept+ahead.Kept
					if cancelAt > 0 && errors.Is(err, context.Canceled) {
						left++
						err, want = nil, want[:min(len(got), len(want))]
					}
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("seed %d, session %d: %v\n%v\n%v", seed, i, err, got, want)
					}
				})
			}
			wait.Wait()
			g.over()
			for _, e := range g.engines {
				removed += e.removed
			}
		})
		if t.Failed() {
			break
		}
	}
	t.Logf("%d networks: %d tokens, %+v, %d removals, %d sessions left, %d faults", networks, tokens, sum, removed, left, faults)
	if sum.Sent == 0 || sum.Kept == 0 || sum.Kept == sum.Sent || removed == 0 {
		t.Error("something was not tested")
	}
}

// If one of the removals is left out, be it at whichever stage, the answer is another one:
// the test above would see it.
func TestAheadTanglesNotice(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newTangle(t, seed, 1, 1+int(seed%3))
				g.build()
				g.f.replicas = 1 // nothing is repaired
				got, _, err := g.ask(0, 0)
				g.over()
				for i, e := range g.engines {
					if e.removed >= g.skip && err == nil && slices.Equal(got, g.want[0]) {
						t.Errorf("stage %d left out removal %d of %d, and nothing shows it", i, g.skip, e.removed)
					}
				}
			})
		})
	}
}
