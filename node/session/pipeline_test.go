package session_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// sums is an engine whose numbers depend on every earlier position of the
// sequence, as attention's do, and that notices any disorder: a position
// computed out of turn, a slot not forgotten.
type sums struct {
	span   protocol.Span
	blocks int
	broken error                       // returned by Run if set
	delay  time.Duration               // of each pass
	more   time.Duration               // of each further row in it
	says   func(position uint64) int32 // what the last stage draws; nil: what it computes
	wide   int                         // numbers per hidden state, of which all but the first few are 0
	back   int                         // positions that a slot can be taken back, as with recurrent blocks; 0: all

	mu      sync.Mutex
	kv      map[int][][]float64 // slot -> position -> block -> sum of its values up to there
	refused int                 // calls of Remove
	stall   time.Duration       // of the next call of Remove
}

const width, vocab = 4, 97

func (e *sums) slow(d time.Duration) {
	e.mu.Lock()
	e.delay = d
	e.mu.Unlock()
}

func (e *sums) breakNow() {
	e.mu.Lock()
	e.broken = engine.ErrLost
	e.mu.Unlock()
}

func (e *sums) refusals() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused
}

func (e *sums) Remove(seq int, from int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	time.Sleep(e.stall)
	e.stall = 0
	if had := len(e.kv[seq]); int(from) < had {
		if e.back > 0 && from > 0 && had-int(from) > e.back {
			delete(e.kv, seq)
			e.refused++
			return fmt.Errorf("%w: %d of %d positions", engine.ErrBatch, from, had)
		}
		e.kv[seq] = e.kv[seq][:from]
	}
	return nil
}

func (e *sums) CopyPrefix(src, dst int, n int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.kv[src]) < int(n) || len(e.kv[dst]) > 0 {
		return fmt.Errorf("prefix of %d from slot %d with %d to slot %d with %d", n, src, len(e.kv[src]), dst, len(e.kv[dst]))
	}
	e.kv[dst] = slices.Clone(e.kv[src][:n])
	return nil
}

func (e *sums) Run(_ context.Context, p *engine.Batch) (*engine.Result, error) {
	e.mu.Lock()
	delay := e.delay + time.Duration(len(p.Rows)-1)*e.more
	e.mu.Unlock()
	time.Sleep(delay) // without the lock: in virtual time, who waits for one stops the clock
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken != nil {
		return nil, e.broken
	}
	res, wide := &engine.Result{}, max(e.wide, width)
	outs := make([][]float32, len(p.Rows))
	for i, row := range p.Rows {
		if len(e.kv[row.Seq]) != int(row.Pos) {
			return nil, fmt.Errorf("position %d of slot %d, which holds %d", row.Pos, row.Seq, len(e.kv[row.Seq]))
		}
		h := make([]float32, width)
		if e.span.From == 0 {
			for j := range h {
				h[j] = float32((int(p.Tokens[i])*(j+3))%11) / 11
			}
		} else {
			copy(h, p.Hidden[i*wide:][:width])
		}
		cells := make([]float64, e.span.Len())
		if row.Pos > 0 {
			copy(cells, e.kv[row.Seq][row.Pos-1])
		}
		e.kv[row.Seq] = append(e.kv[row.Seq], cells)
		for b := range cells {
			cells[b] += float64(h[0]) + float64(e.span.From+b)/7
			mean := cells[b] / float64(len(e.kv[row.Seq]))
			for j := range h {
				h[j] = h[(j+1)%width]*0.7 + float32(mean)*0.3 + h[j]*0.1
				h[j] -= float32(int(h[j]))
			}
		}
		outs[i] = h
	}
	if e.span.To < e.blocks {
		for _, h := range outs {
			res.Hidden = append(append(res.Hidden, h...), make([]float32, wide-width)...)
		}
		return res, nil
	}
	for _, d := range p.Outputs {
		sum := float32(0)
		for j, v := range outs[d.Row] {
			sum += v * float32(j*j*100+17)
		}
		id := (int(sum*31) + len(d.Sampled)) % vocab
		id = max(id, -id)
		if e.says != nil {
			id = int(e.says(d.Position))
		}
		for d.Allowed != nil && d.Allowed[id>>6]>>(id&63)&1 == 0 {
			id = (id + 1) % vocab
		}
		res.Tokens = append(res.Tokens, sample.Token{ID: int32(id), Logprob: -1})
	}
	return res, nil
}

// thirds takes a format that is a number: a token may come if it is so much more
// than the sum of those before, divided by three.
type thirds struct{}

type third int32

func (thirds) Compile(format []*protocol.Piece, _ []int32) (stage.Format, error) {
	n, err := strconv.Atoi(format[0].GetText())
	return third(n), err
}

func (n third) Allowed(sampled []int32) ([]uint64, error) {
	sum := int32(n)
	for _, id := range sampled {
		sum += id
	}
	out := make([]uint64, vocab/64+1)
	for id := range int32(vocab) {
		if id%3 == sum%3 {
			out[id>>6] |= 1 << (id & 63)
		}
	}
	return out, nil
}

// inThirds is the sampling of such an answer; "": of any.
func inThirds(n int, format string) *protocol.Sampling {
	s := &protocol.Sampling{MaxTokens: uint32(n)}
	if format != "" {
		s.StopIds, s.Format = []int32{vocab}, []*protocol.Piece{{Kind: &protocol.Piece_Text{Text: format}}}
	}
	return s
}

// pipes is a network of stage servers in one process.
type pipes struct {
	servers map[peer.ID]*stage.Server
	wrap    func(from, to peer.ID) (client, server end) // nil: plain pipes
	proto   string                                      // of its streams; "": the newest
}

type end struct {
	net.Conn
	peer  peer.ID
	proto string
	path  *path // nil: direct
}

func (e end) Reset() error {
	if c, ok := e.Conn.(interface{ Reset() error }); ok {
		return c.Reset()
	}
	return e.Close()
}

func (e end) Peer() peer.ID { return e.peer }

func (e end) Relayed() bool           { return e.path != nil && e.path.relayed }
func (e end) Better() <-chan struct{} { return e.path.closesAt() }
func (end) Swarm() string             { return "" }

// Protocol is the newest if none is set.
func (e end) Protocol() string { return cmp.Or(e.proto, protocol.StageID) }

type dialer struct {
	*pipes
	self peer.ID
}

func (d dialer) Self() peer.ID { return d.self }

func (d dialer) dial(p peer.ID) (end, error) {
	srv := d.servers[p]
	if srv == nil {
		return end{}, errors.New("nobody there")
	}
	if d.wrap != nil {
		a, b := d.wrap(d.self, p)
		go srv.Serve(b)
		return a, nil
	}
	a, b := net.Pipe()
	go srv.Serve(end{b, d.self, d.proto, nil})
	return end{a, p, d.proto, nil}, nil
}

type stageDialer struct{ dialer }

func (d stageDialer) OpenStage(_ context.Context, _ string, p peer.ID, _ []byte) (stage.Stream, error) {
	return d.dial(p)
}

type sessionDialer struct{ dialer }

func (d sessionDialer) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	return d.dial(p)
}

// nodeID is the peer ID of node i: a valid one, though of no key.
func nodeID(i int) peer.ID {
	mh, err := multihash.Sum(fmt.Appendf(nil, "node %d", i), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return peer.ID(mh)
}

type pipeline struct {
	net     *pipes
	model   cid.Cid
	route   []session.Hop
	stages  []*stage.Stage
	engines []*sums
	format  string                      // of answers; "": any
	back    int                         // positions that the engines can take a slot back; 0: all
	silent  bool                        // and the stages do not say so
	says    func(position uint64) int32 // what is drawn; nil: what is computed
	wide    int                         // numbers per hidden state; 0: width
	wrap    func(*sums) stage.Engine    // what computes instead; nil: the engines themselves

	guess       func(most int) stage.Guesser
	inFlight    int           // of a fleet's sessions
	delay, more time.Duration // of each pass, and of each further row in it
	slowLink    int           // in a virtual network: the stage, from 1, whose uplink has slowRate; 0: none
}

func newPipeline(t testing.TB, blocks int, cuts ...int) *pipeline {
	t.Helper()
	return new(pipeline).build(t, blocks, cuts...)
}

func (p *pipeline) build(t testing.TB, blocks int, cuts ...int) *pipeline {
	p.net, p.model = &pipes{servers: map[peer.ID]*stage.Server{}}, protocol.ModelKey(cid.Undef)
	cuts = append(append([]int{0}, cuts...), blocks)
	for i := range len(cuts) - 1 {
		p.addStage(t, nodeID(i), protocol.Span{From: cuts[i], To: cuts[i+1]}, blocks)
		p.route = append(p.route, session.Hop{Peer: nodeID(i), Span: p.stages[i].Config().Span})
	}
	return p
}

func (p *pipeline) addStage(t testing.TB, id peer.ID, span protocol.Span, blocks int) {
	e := &sums{span: span, blocks: blocks, kv: map[int][][]float64{}, back: p.back, delay: p.delay, more: p.more, says: p.says, wide: p.wide}
	back := p.back
	if p.silent {
		back = 0
	}
	s := stage.New(stage.Config{
		Model: p.model, Span: span, Blocks: blocks, Width: max(p.wide, width), Vocab: vocab, Formats: thirds{},
		KVTokens: 4096, MaxSeqs: 16, MaxBatch: 128, MaxContext: 1024, Back: back, Rollback: p.rollback(), Guess: p.guess,
	}, p.computes(e), stageDialer{dialer{p.net, id}})
	t.Cleanup(func() { s.Close(nil) })
	srv := stage.NewServer(nil, nil)
	srv.Add(s)
	p.net.servers[id] = srv
	p.stages, p.engines = append(p.stages, s), append(p.engines, e)
}

// computes is what computes in place of an engine.
func (p *pipeline) computes(e *sums) stage.Engine {
	if p.wrap == nil {
		return e
	}
	return p.wrap(e)
}

// rollback is how many rows the engines can take back.
func (p *pipeline) rollback() int {
	if p.back > 0 {
		return 0
	}
	return 64
}

func (p *pipeline) ask(ctx context.Context, prompt []int32, n int) ([]int32, error) {
	var got []int32
	_, err := session.Run(ctx, sessionDialer{dialer{p.net, nodeID(-1)}}, &session.Request{
		Model: p.model, Route: p.route, Prompt: prompt, Chunk: 7,
		Sampling: inThirds(n, p.format),
	}, func(tok *protocol.Token) error {
		got = append(got, tok.Id)
		return nil
	})
	return got, err
}

func someTokens(seed uint64, n int) []int32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]int32, n)
	for i := range out {
		out[i] = rng.Int32N(vocab)
	}
	return out
}

func (p *pipeline) empty(t *testing.T) {
	t.Helper()
	for i, s := range p.stages {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if st := s.Status(); st.Sessions == 0 && st.KVFree == s.Config().KVTokens {
				break
			} else if time.Now().After(end) {
				t.Fatalf("stage %d still holds %+v", i, st)
			}
		}
	}
}

func TestPipelineSameTokens(t *testing.T) {
	one := newPipeline(t, 10)
	for _, cuts := range [][]int{{3, 7}, {1}, {2, 4, 6, 8}} {
		many := newPipeline(t, 10, cuts...)
		for n := range 5 {
			prompt := someTokens(uint64(n), 1+n*9)
			want, err := one.ask(t.Context(), prompt, 30)
			if err != nil {
				t.Fatal(err)
			}
			got, err := many.ask(t.Context(), prompt, 30)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("cuts %v: %v %v, want %v", cuts, got, err, want)
			}
		}
		many.empty(t)
	}
}

// Sessions side by side in the same passes do not touch each other.
func TestPipelineManySessions(t *testing.T) {
	one, many := newPipeline(t, 6), newPipeline(t, 6, 2, 4)
	var wg sync.WaitGroup
	for i := range 12 {
		want, err := one.ask(t.Context(), someTokens(uint64(i), 20+i), 40)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if got, err := many.ask(t.Context(), someTokens(uint64(i), 20+i), 40); err != nil || !slices.Equal(got, want) {
				t.Errorf("session %d: %v, %v, want %v", i, got, err, want)
			}
		})
	}
	wg.Wait()
	many.empty(t)
}

// Sessions in the same passes have each their own format, or none.
func TestPipelineFormats(t *testing.T) {
	many := newPipeline(t, 6, 2, 4)
	var wg sync.WaitGroup
	for i := range 12 {
		format := []string{"", "0", "1", "2"}[i%4]
		ask := func(p *pipeline) ([]int32, error) {
			own := *p // no other field changes
			own.format = format
			return own.ask(t.Context(), someTokens(uint64(i), 20+i), 40)
		}
		want, err := ask(newPipeline(t, 6))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(format); err == nil {
			for k, id := range want {
				if mask, _ := third(n).Allowed(want[:k]); mask[id>>6]>>(id&63)&1 == 0 {
					t.Fatalf("format %s: token %d of %v", format, k, want)
				}
			}
		}
		wg.Go(func() {
			if got, err := ask(many); err != nil || !slices.Equal(got, want) {
				t.Errorf("session %d: %v, %v, want %v", i, got, err, want)
			}
		})
	}
	wg.Wait()
	many.empty(t)
	// One that takes no notice of formats is not asked.
	old := pretender{dialer{many.net, nodeID(-3)}}
	_, err := session.Run(t.Context(), old, &session.Request{Model: many.model, Route: many.route, Prompt: someTokens(1, 5), Sampling: inThirds(5, "1")}, func(*protocol.Token) error { return nil })
	var where *session.StageError
	var why *protocol.Error
	if !errors.As(err, &where) || where.Index != 2 || !errors.As(err, &why) || why.Code != protocol.Code_CODE_NOT_SERVING {
		t.Errorf("an old stage: %v", err)
	}
	many.format = "x"
	if _, err := many.ask(t.Context(), someTokens(1, 5), 5); err == nil || !strings.Contains(err.Error(), "x") {
		t.Errorf("a format that cannot be read: %v", err)
	}
}

// pretender opens streams to stages that say yes to whatever they are asked.
type pretender struct{ dialer }

func (pretender) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	client, server := net.Pipe()
	go func() {
		r := bufio.NewReader(server)
		if _, _, err := protocol.ReadFrame(r, 0); err == nil {
			b, _ := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{}}}, nil)
			_, _ = server.Write(b)
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	return end{Conn: client, peer: p}, nil
}

func TestPipelineRefusals(t *testing.T) {
	p := newPipeline(t, 4, 2)
	code := func(err error) protocol.Code {
		var e *protocol.Error
		if !errors.As(err, &e) {
			t.Fatalf("not a protocol error: %v", err)
		}
		return e.Code
	}
	if _, err := p.ask(t.Context(), someTokens(1, 1000), 100); code(err) != protocol.Code_CODE_TOO_LONG {
		t.Errorf("too long: %v", err)
	}
	if _, err := p.ask(t.Context(), []int32{5, vocab}, 5); code(err) != protocol.Code_CODE_BAD_REQUEST {
		t.Errorf("a token outside the vocabulary: %v", err)
	}
	wrong := *p
	wrong.route = slices.Clone(p.route)
	wrong.route[1].Span.From = 3
	if _, err := wrong.ask(t.Context(), someTokens(1, 5), 5); code(err) != protocol.Code_CODE_NOT_SERVING {
		t.Errorf("a span not served: %v", err)
	}
	p.stages[1].Drain(true)
	var where *session.StageError
	if _, err := p.ask(t.Context(), someTokens(1, 5), 5); code(err) != protocol.Code_CODE_DRAINING || !errors.As(err, &where) || where.Index != 1 {
		t.Errorf("draining: %v", err)
	}
	p.empty(t)
}

// A full stage refuses, says when to come back, and has room again later.
func TestPipelineBusy(t *testing.T) {
	p := newPipeline(t, 4, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const full = 7 // of 4,096 cells, each a block and half of what may follow
	for range full {
		wg.Go(func() { _, _ = p.ask(ctx, someTokens(1, 24), 1000) })
	}
	for p.stages[0].Status().Sessions < full || p.stages[1].Status().Sessions < full {
		time.Sleep(time.Millisecond)
	}
	_, err := p.ask(t.Context(), someTokens(1, 24), 1000)
	var e *protocol.Error
	if !errors.As(err, &e) || e.Code != protocol.Code_CODE_BUSY || e.RetryAfter == 0 {
		t.Errorf("a full stage: %v", err)
	}
	cancel()
	wg.Wait()
	p.empty(t)
}

func TestPipelineEngineFails(t *testing.T) {
	p := newPipeline(t, 6, 2, 4)
	for _, broken := range []error{errors.New("bad numbers"), fmt.Errorf("%w: killed", engine.ErrLost)} {
		p.engines[1].mu.Lock()
		p.engines[1].broken = broken
		p.engines[1].mu.Unlock()
		_, err := p.ask(t.Context(), someTokens(1, 5), 50)
		var e *protocol.Error
		var where *session.StageError
		if !errors.As(err, &e) || e.Code != protocol.Code_CODE_ENGINE || !errors.As(err, &where) || where.Index != 1 {
			t.Errorf("%v: %v", broken, err)
		}
	}
	select {
	case <-p.stages[1].Done():
	case <-time.After(5 * time.Second):
		t.Error("the stage whose engine was lost goes on")
	}
	p.stages = []*stage.Stage{p.stages[0], p.stages[2]}
	p.empty(t)
}

func TestPipelineCancel(t *testing.T) {
	p := newPipeline(t, 6, 3)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := session.Run(ctx, sessionDialer{dialer{p.net, nodeID(-1)}}, &session.Request{
			Model: p.model, Route: p.route, Prompt: someTokens(2, 30), Sampling: &protocol.Sampling{MaxTokens: 900},
		}, func(*protocol.Token) error {
			if n++; n == 5 {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v", err)
		}
	}
	p.empty(t)
}

// Whatever a stranger says on a stage stream, the stage survives and keeps
// nothing.
func TestPipelineGarbage(t *testing.T) {
	p := newPipeline(t, 4, 2)
	rng := rand.New(rand.NewPCG(3, 4))
	d := dialer{p.net, nodeID(-2)}
	frame := func(f *protocol.Frame) []byte { b, _ := protocol.AppendFrame(nil, f, nil); return b }
	open := &protocol.Open{Session: make([]byte, 16), Model: p.model.Bytes(), To: 2, Stages: 2, MaxTokensTotal: 9, Next: &protocol.Hop{Peer: []byte(nodeID(1))}}
	random := make([]byte, 4096)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	for _, b := range [][]byte{
		random, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, {},
		frame(&protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: []byte("short")}}}),
		frame(&protocol.Frame{Kind: &protocol.Frame_Open{Open: &protocol.Open{}}}),
		append(frame(&protocol.Frame{Kind: &protocol.Frame_Open{Open: open}}), random...),
	} {
		st, _ := d.dial(nodeID(0))
		go func() { _, _ = io.Copy(io.Discard, st) }()
		_ = st.SetDeadline(time.Now().Add(time.Second))
		_, _ = st.Write(b)
		_ = st.Close()
	}
	if _, err := p.ask(t.Context(), someTokens(1, 5), 5); err != nil {
		t.Fatal(err)
	}
	p.empty(t)
}
