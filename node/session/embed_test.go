package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// lastRow is an engine of an embedding model: sums, whose last row of a text is pooled,
// and which forgets each text with its pass.
type lastRow struct {
	sums
	batches [][]int // texts' lengths per pass
	wrong   func([][]float32) [][]float32
}

func (e *lastRow) Run(ctx context.Context, p *engine.Batch) (*engine.Result, error) {
	info := engine.Info{From: e.span.From, To: e.span.To, Blocks: e.blocks, Width: width, Vocab: vocab, MaxBatch: 128, MaxSeqs: 16, Pooling: engine.PoolLast}
	if err := p.Check(&info); err != nil {
		return nil, err
	}
	last := e.span.To == e.blocks
	if last { // to have its hidden states
		e.blocks++
		defer func() { e.blocks-- }()
	}
	res, err := e.sums.Run(ctx, p)
	if err != nil {
		return nil, err
	}
	var lengths []int
	for i, r := range p.Rows {
		if r.Pos == 0 {
			lengths = append(lengths, 0)
		}
		lengths[len(lengths)-1]++
		if last && (i+1 == len(p.Rows) || p.Rows[i+1].Seq != r.Seq) {
			res.Embeddings = append(res.Embeddings, slices.Clone(res.Hidden[i*width:(i+1)*width]))
		}
		_ = e.Remove(r.Seq, 0)
	}
	e.batches = append(e.batches, lengths)
	if last {
		res.Hidden = nil
		if e.wrong != nil {
			res.Embeddings = e.wrong(res.Embeddings)
		}
	}
	return res, nil
}

// embedders are stages of an embedding model.
type embedders struct {
	net     *pipes
	model   cid.Cid
	route   []session.Hop
	stages  []*stage.Stage
	engines []*lastRow
}

func newEmbedders(t testing.TB, blocks int, cuts ...int) *embedders {
	t.Helper()
	p := &embedders{net: &pipes{servers: map[peer.ID]*stage.Server{}}, model: protocol.ModelKey(cid.Undef)}
	cuts = append(append([]int{0}, cuts...), blocks)
	for i := range len(cuts) - 1 {
		span := protocol.Span{From: cuts[i], To: cuts[i+1]}
		e := &lastRow{sums: sums{span: span, blocks: blocks, kv: map[int][][]float64{}}}
		s := stage.New(stage.Config{
			Model: p.model, Span: span, Blocks: blocks, Width: width, Vocab: vocab, KVTokens: 128, MaxSeqs: 4, MaxBatch: 128, MaxContext: 1024,
			Pooling: engine.PoolLast, Embedded: width, Texts: 16,
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

// embed returns the texts' embeddings as far as they came.
func (p *embedders) embed(ctx context.Context, d session.Dialer, texts [][]int32) ([][]float32, error) {
	var got [][]float32
	err := session.Embed(ctx, d, &session.EmbedRequest{
		Model: p.model, Route: p.route, Texts: texts, Width: width, Unit: true, Wait: 20 * time.Second,
	}, func(first int, list [][]float32) error {
		if first != len(got) {
			return fmt.Errorf("embeddings from %d on, after %d", first, len(got))
		}
		got = append(got, list...)
		return nil
	})
	return got, err
}

func (p *embedders) client() session.Dialer { return sessionDialer{dialer{p.net, nodeID(-1)}} }

func someTexts(n int) (texts [][]int32) {
	for i := range n {
		length := 1 + i%13
		if i%50 == 7 {
			length = 100 // over two steps of a link
		}
		texts = append(texts, someTokens(uint64(i), length))
	}
	return texts
}

func sameRows(a, b [][]float32) bool {
	return slices.EqualFunc(a, b, func(x, y []float32) bool { return slices.Equal(x, y) })
}

// The embeddings of many texts, through one and three stages and from clients at the
// same time, are those of each text alone, in order, and passes are full of texts.
func TestEmbedSame(t *testing.T) {
	texts := someTexts(300)
	one, three := newEmbedders(t, 6), newEmbedders(t, 6, 1, 3)
	var want [][]float32
	for _, text := range texts {
		e, err := one.embed(t.Context(), one.client(), [][]int32{text})
		if err != nil || len(e) != 1 {
			t.Fatal(len(e), err)
		}
		want = append(want, e...)
	}
	for name, p := range map[string]*embedders{"one stage": one, "three stages": three} {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got, err := p.embed(t.Context(), p.client(), texts); err != nil || !sameRows(got, want) {
					t.Errorf("%s: %d embeddings, %v", name, len(got), err)
				}
			})
		}
		wg.Wait()
		for i, s := range p.stages {
			for end := time.Now().Add(5 * time.Second); s.Status().Sessions > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: stage %d still has sessions", name, i)
				}
			}
		}
	}
	if passes := len(three.engines[0].batches); passes > 3*len(texts)/4 {
		t.Errorf("%d passes for three times %d texts", passes, len(texts))
	}
}

// What a session has delivered before it fails in the middle is right, and it names the
// stage. The other stage may tell of the loss before anything has come.
func TestEmbedBroken(t *testing.T) {
	texts := someTexts(200)
	good := newEmbedders(t, 4)
	want, err := good.embed(t.Context(), good.client(), texts)
	if err != nil {
		t.Fatal(err)
	}
	p := newEmbedders(t, 4, 2)
	p.engines[1].wrong = func(e [][]float32) [][]float32 {
		if len(p.engines[1].batches) > 3 {
			p.engines[1].breakNow()
		}
		return e
	}
	got, err := p.embed(t.Context(), p.client(), texts)
	var where *session.StageError
	if !errors.As(err, &where) || where.Index != 1 || len(got) == len(texts) || !sameRows(got, want[:len(got)]) {
		t.Errorf("%d embeddings, %v", len(got), err)
	}
}

// What the engine gives and no embedding can be reaches no client.
func TestEmbedEngineWrong(t *testing.T) {
	for name, wrong := range map[string]func([][]float32) [][]float32{
		"NaN":      func(e [][]float32) [][]float32 { e[0][1] = float32(math.NaN()); return e },
		"infinite": func(e [][]float32) [][]float32 { e[0][1] = float32(math.Inf(1)); return e },
		"narrow":   func(e [][]float32) [][]float32 { e[0] = e[0][:2]; return e },
		"few":      func(e [][]float32) [][]float32 { return e[1:] },
		"all 0":    func(e [][]float32) [][]float32 { clear(e[0]); return e },
	} {
		p := newEmbedders(t, 2)
		p.engines[0].wrong = wrong
		var e *session.StageError
		if got, err := p.embed(t.Context(), p.client(), someTexts(3)); len(got) > 0 || !errors.As(err, &e) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// liar answers a session of texts with what it likes.
type liar struct {
	dialer
	frame   *protocol.Frame
	payload []byte
}

func (l liar) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	client, server := net.Pipe()
	go func() {
		r := bufio.NewReader(server)
		if _, _, err := protocol.ReadFrame(r, 0); err != nil {
			return
		}
		b, _ := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{Embeds: true, Readings: true}}}, nil)
		b, _ = protocol.AppendFrame(b, l.frame, l.payload)
		go func() { _, _ = server.Write(b) }()
		for {
			if _, _, err := protocol.ReadFrame(r, 0); err != nil {
				return
			}
		}
	}()
	return end{Conn: client, peer: p}, nil
}

// What a peer sends in place of embeddings ends the session as that peer's fault.
func TestEmbedHostile(t *testing.T) {
	vector := func(x ...float32) []byte { return protocol.AppendTensor(nil, protocol.TensorCodec_TENSOR_CODEC_F32, x) }
	of := func(first, count, wide uint32) *protocol.Frame {
		return &protocol.Frame{Kind: &protocol.Frame_Embeddings{Embeddings: &protocol.Embeddings{First: first, Count: count, Width: wide}}}
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	unit := vector(1, 0, 0, 0)
	p := newEmbedders(t, 2)
	for name, c := range map[string]struct {
		f       *protocol.Frame
		payload []byte
	}{
		"NaN":          {of(0, 1, 4), vector(nan, 0, 0, 0)},
		"infinite":     {of(0, 1, 4), vector(inf, 0, 0, 0)},
		"not a unit":   {of(0, 1, 4), vector(1, 1, 0, 0)},
		"all 0":        {of(0, 1, 4), vector(0, 0, 0, 0)},
		"narrow":       {of(0, 1, 3), vector(1, 0, 0)},
		"short":        {of(0, 1, 4), vector(1, 0, 0)},
		"long":         {of(0, 1, 4), vector(1, 0, 0, 0, 0)},
		"skipped":      {of(1, 1, 4), unit},
		"too many":     {of(0, 4, 4), slices.Repeat(unit, 4)},
		"none":         {of(0, 0, 4), nil},
		"absurd count": {of(0, math.MaxUint32, 4), unit},
		"huge":         {of(0, 3, 4), make([]byte, 1<<20)},
		"a token":      {&protocol.Frame{Kind: &protocol.Frame_Token{Token: &protocol.Token{}}}, nil},
		"trouble":      {&protocol.Frame{Kind: &protocol.Frame_Trouble{Trouble: &protocol.Trouble{Code: protocol.Code_CODE_PEER_LOST, Successor: true}}}, nil},
	} {
		got, err := p.embed(t.Context(), liar{dialer{p.net, nodeID(-2)}, c.f, c.payload}, someTexts(3))
		var where *session.StageError
		if len(got) > 0 || !errors.As(err, &where) || !errors.Is(err, protocol.ErrFrame) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// A stage of an older version accepts what it does not know.
	_, err := p.embed(t.Context(), pretender{dialer{p.net, nodeID(-3)}}, someTexts(1))
	var why *protocol.Error
	if !errors.As(err, &why) || why.Code != protocol.Code_CODE_NOT_SERVING {
		t.Errorf("an old stage: %v", err)
	}
}

// Sessions of texts are refused where tokens are drawn, and the other way around; a
// text that is too long is refused with its length.
func TestEmbedRefused(t *testing.T) {
	p, chat := newEmbedders(t, 4), newPipeline(t, 4)
	code := func(err error) protocol.Code {
		var e *protocol.Error
		errors.As(err, &e)
		if e == nil {
			return 0
		}
		return e.Code
	}
	if _, err := p.embed(t.Context(), p.client(), [][]int32{someTokens(1, 129)}); code(err) != protocol.Code_CODE_TOO_LONG || !strings.Contains(err.Error(), "129") {
		t.Errorf("a long text: %v", err)
	}
	wrong := *p
	wrong.net = chat.net
	if _, err := wrong.embed(t.Context(), wrong.client(), someTexts(1)); code(err) != protocol.Code_CODE_BAD_REQUEST || !strings.Contains(err.Error(), "makes no embeddings") {
		t.Errorf("embeddings of a model that draws tokens: %v", err)
	}
	chat.net = p.net
	if _, err := chat.ask(t.Context(), someTokens(1, 5), 5); code(err) != protocol.Code_CODE_BAD_REQUEST || !strings.Contains(err.Error(), "draws no tokens") {
		t.Errorf("tokens of a model that makes embeddings: %v", err)
	}
}
