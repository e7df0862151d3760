package session_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// These tests run in virtual time: stages and clients give each other up after a second or
// two of silence, which a busy machine may take to compute.

// voter is sums with logits of its own, from which the sampler of the real engines reads.
type voter struct {
	sums
	counting sync.Mutex
	rows     int // computed
	passes   int
	dies     int // the pass at which it is lost; 0: never
}

func (e *voter) Run(ctx context.Context, p *engine.Batch) (*engine.Result, error) {
	e.counting.Lock()
	e.rows += len(p.Rows)
	e.passes++
	lost := e.passes == e.dies
	e.counting.Unlock()
	if lost {
		return nil, engine.ErrLost
	}
	if e.span.To < e.blocks {
		return e.sums.Run(ctx, p)
	}
	hidden := *p
	hidden.Outputs = nil
	e.blocks++ // to have its hidden states
	res, err := e.sums.Run(ctx, &hidden)
	e.blocks--
	if err != nil {
		return nil, err
	}
	for _, o := range p.Outputs {
		logits := make([]float32, vocab)
		for id := range logits {
			for j, v := range res.Hidden[o.Row*width:][:width] {
				logits[id] += float32(math.Sin(float64(v) * float64((id+3)*(j+1))))
			}
		}
		res.Tokens = append(res.Tokens, sample.Sample(logits, o.Sampling, o.Sampled, o.Position, o.Allowed))
	}
	res.Hidden = nil
	return res, nil
}

func (e *voter) computed() int {
	e.counting.Lock()
	defer e.counting.Unlock()
	return e.rows
}

// voters are stages of one model.
type voters struct {
	net     *pipes
	model   cid.Cid
	route   []session.Hop
	stages  []*stage.Stage
	engines []*voter
}

// newVoters starts stages; back is by how many positions they can be taken back, 0: all.
func newVoters(t testing.TB, back, blocks int, cuts ...int) *voters {
	t.Helper()
	p := &voters{net: &pipes{servers: map[peer.ID]*stage.Server{}}, model: protocol.ModelKey(cid.Undef)}
	cuts = append(append([]int{0}, cuts...), blocks)
	for i := range len(cuts) - 1 {
		span := protocol.Span{From: cuts[i], To: cuts[i+1]}
		e := &voter{sums: sums{span: span, blocks: blocks, kv: map[int][][]float64{}, back: back}}
		s := stage.New(stage.Config{
			Model: p.model, Span: span, Blocks: blocks, Width: width, Vocab: vocab, KVTokens: 8192, MaxSeqs: 16, MaxBatch: 128, MaxContext: 4096, Back: back,
		}, e, stageDialer{dialer{p.net, nodeID(i)}})
		t.Cleanup(func() { s.Close(nil) })
		srv := stage.NewServer(nil, nil)
		srv.Add(s)
		p.net.servers[nodeID(i)] = srv
		p.stages, p.engines = append(p.stages, s), append(p.engines, e)
		p.route = append(p.route, session.Hop{Peer: nodeID(i), Span: span})
	}
	return p
}

func (p *voters) client() session.Dialer { return sessionDialer{dialer{p.net, nodeID(-1)}} }

// read returns the readings as far as they came.
func (p *voters) read(ctx context.Context, d session.Dialer, asks []session.Ask) (got []session.Reading, cached int, err error) {
	cached, err = session.Read(ctx, d, &session.ReadRequest{
		Model: p.model, Route: p.route, Asks: asks, Vocab: vocab, Wait: 20 * time.Second,
	}, func(i int, r session.Reading) error {
		if i != len(got) {
			return fmt.Errorf("reading %d, after %d", i, len(got))
		}
		got = append(got, r)
		return nil
	})
	return got, cached, err
}

// asksOf are n sequences that share their first tokens.
func asksOf(shared, n, own int) (asks []session.Ask) {
	for i := range n {
		a := session.Ask{Keep: shared, Tokens: someTokens(uint64(1000+i), own), Labels: []int32{int32(i % vocab), int32((i + 7) % vocab), 90}}
		if i == 0 {
			a.Keep, a.Tokens = 0, append(someTokens(1, shared), a.Tokens...)
		}
		asks = append(asks, a)
	}
	return asks
}

// alone are the same sequences, each with all of its tokens.
func alone(asks []session.Ask) (out []session.Ask) {
	var all []int32
	for _, a := range asks {
		all = append(all[:a.Keep], a.Tokens...)
		out = append(out, session.Ask{Tokens: slices.Clone(all), Labels: a.Labels})
	}
	return out
}

func sameReadings(a, b []session.Reading) bool {
	return slices.EqualFunc(a, b, func(x, y session.Reading) bool { return x.Top == y.Top && slices.Equal(x.Logprobs, y.Logprobs) })
}

// Readings are the same to the last bit alone, in company, over one and three stages, and
// where stages cannot be taken back.
func TestReadSame(t *testing.T) { synctest.Test(t, readSame) }

func readSame(t *testing.T) {
	asks := asksOf(200, 40, 11)
	asks = append(asks, session.Ask{Keep: 205, Tokens: someTokens(7, 150), Labels: []int32{3}}, session.Ask{Keep: 20, Tokens: someTokens(8, 1), Labels: []int32{3, 4}})
	one := newVoters(t, 0, 6)
	var want []session.Reading
	for _, a := range alone(asks) {
		got, _, err := one.read(t.Context(), one.client(), []session.Ask{a})
		if err != nil || len(got) != 1 {
			t.Fatal(len(got), err)
		}
		want = append(want, got...)
	}
	for name, p := range map[string]*voters{"one stage": one, "three stages": newVoters(t, 0, 6, 1, 3), "that cannot go back": newVoters(t, 16, 6, 2)} {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got, _, err := p.read(t.Context(), p.client(), asks); err != nil || !sameReadings(got, want) {
					t.Errorf("%s: %d readings, %v", name, len(got), err)
				}
			})
		}
		wg.Wait()
		for i, e := range p.engines {
			if n := e.refusals(); n > 0 {
				t.Errorf("%s: stage %d was taken back further than it can be, %d times", name, i, n)
			}
		}
	}
}

// Many questions on one state cost little more than one, and a second request on the same
// state only what is its own.
func TestReadShares(t *testing.T) { synctest.Test(t, readShares) }

func readShares(t *testing.T) {
	const state, question = 2000, 50
	first := newVoters(t, 0, 2, 1)
	if _, _, err := first.read(t.Context(), first.client(), asksOf(state, 1, question)); err != nil {
		t.Fatal(err)
	}
	p := newVoters(t, 0, 2, 1)
	if _, cached, err := p.read(t.Context(), p.client(), asksOf(state, 32, question)); err != nil || cached > 0 {
		t.Fatal(cached, err)
	}
	for i := range p.engines {
		one, many := first.engines[i].computed(), p.engines[i].computed()
		if many > 2*one {
			t.Errorf("stage %d computed %d rows for 32 questions and %d for one", i, many, one)
		}
	}
	synctest.Wait() // until the first session has ended
	_, cached, err := p.read(t.Context(), p.client(), asksOf(state, 1, question))
	if err != nil {
		t.Fatal(err)
	}
	if cached < state-protocol.PrefixBlock {
		t.Errorf("%d of %d rows were cached", cached, state)
	}
}

// What a session has delivered before it fails in the middle is right, and it names the
// stage.
func TestReadBroken(t *testing.T) { synctest.Test(t, readBroken) }

func readBroken(t *testing.T) {
	asks := asksOf(100, 60, 20)
	good := newVoters(t, 0, 4)
	want, _, err := good.read(t.Context(), good.client(), asks)
	if err != nil {
		t.Fatal(err)
	}
	p := newVoters(t, 0, 4, 2)
	p.engines[1].dies = 20
	got, _, err := p.read(t.Context(), p.client(), asks)
	var where *session.StageError
	if !errors.As(err, &where) || where.Index != 1 || len(got) == len(asks) || !sameReadings(got, want[:len(got)]) {
		t.Errorf("%d readings, %v", len(got), err)
	}
}

// A session takes as many sequences as it may have rows, and at least one.
func TestReadInParts(t *testing.T) { synctest.Test(t, readInParts) }

func readInParts(t *testing.T) {
	asks := alone(asksOf(290, protocol.MaxReadings, 10))
	p := newVoters(t, 0, 1)
	got, _, err := p.read(t.Context(), p.client(), asks)
	if err != nil || len(got) == 0 || len(got) == len(asks) {
		t.Errorf("%d of %d readings of 300 rows each, %v", len(got), len(asks), err)
	}
}

// What a peer sends in place of a reading ends the session as that peer's fault.
func TestReadHostile(t *testing.T) { synctest.Test(t, readHostile) }

func readHostile(t *testing.T) {
	of := func(index uint32, top int32, p ...float32) *protocol.Frame {
		return &protocol.Frame{Kind: &protocol.Frame_Reading{Reading: &protocol.Reading{Index: index, Top: top, Logprobs: p}}}
	}
	p := newVoters(t, 0, 2)
	for name, f := range map[string]*protocol.Frame{
		"NaN":             of(0, 1, float32(math.NaN()), -3, -3),
		"infinite":        of(0, 1, float32(math.Inf(1)), -3, -3),
		"more than 1":     of(0, 1, 0.5, -3, -3),
		"more than 1 all": of(0, 1, -0.1, -0.2, -0.3),
		"few":             of(0, 1, -3, -3),
		"many":            of(0, 1, -3, -3, -3, -3),
		"skipped":         of(1, 1, -3, -3, -3),
		"no such token":   of(0, vocab, -3, -3, -3),
		"before all":      of(0, -1, -3, -3, -3),
		"a token":         {Kind: &protocol.Frame_Token{Token: &protocol.Token{}}},
		"embeddings":      {Kind: &protocol.Frame_Embeddings{Embeddings: &protocol.Embeddings{}}},
	} {
		got, _, err := p.read(t.Context(), liar{dialer{p.net, nodeID(-2)}, f, nil}, asksOf(5, 2, 3))
		var where *session.StageError
		if len(got) > 0 || !errors.As(err, &where) || !errors.Is(err, protocol.ErrFrame) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// A stage of an older version accepts what it does not know.
	if _, _, err := p.read(t.Context(), pretender{dialer{p.net, nodeID(-3)}}, asksOf(5, 1, 3)); !errors.Is(err, session.ErrNoReadings) {
		t.Errorf("an old stage: %v", err)
	}
}

// Requests that no session could serve are refused before anything is sent.
func TestReadRefused(t *testing.T) { synctest.Test(t, readRefused) }

func readRefused(t *testing.T) {
	p := newVoters(t, 0, 2)
	for name, asks := range map[string][]session.Ask{
		"nothing":     nil,
		"no tokens":   {{Labels: []int32{1}}},
		"no labels":   {{Tokens: []int32{1}}},
		"many labels": {{Tokens: []int32{1}, Labels: make([]int32, protocol.MaxLabels+1)}},
		"kept alone":  {{Keep: 1, Tokens: []int32{1}, Labels: []int32{1}}},
		"kept beyond": append(asksOf(5, 1, 1), session.Ask{Keep: 7, Tokens: []int32{1}, Labels: []int32{1}}),
		"too many":    make([]session.Ask, protocol.MaxReadings+1),
	} {
		if _, _, err := p.read(t.Context(), p.client(), asks); err == nil || !strings.HasPrefix(err.Error(), "session: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A stage believes no client: of a label that the model does not have, it tells.
	_, _, err := p.read(t.Context(), p.client(), []session.Ask{{Tokens: []int32{1}, Labels: []int32{vocab}}})
	var why *protocol.Error
	if !errors.As(err, &why) || why.Code != protocol.Code_CODE_BAD_REQUEST {
		t.Errorf("a label beyond the vocabulary: %v", err)
	}
}
