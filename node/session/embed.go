package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// EmbedRequest is what a session of texts is to compute.
type EmbedRequest struct {
	Model cid.Cid
	Route []Hop
	Texts [][]int32 // none empty; protocol.MaxEmbedTexts of protocol.MaxEmbedRows tokens together at most
	Width int       // numbers per embedding
	Unit  bool      // embeddings have the length 1
	Codec protocol.TensorCodec
	Trace string // W3C traceparent for the stages; "": none

	// Wait is how long no embedding may come before a stage is taken to hang.
	Wait time.Duration
}

const (
	embedChunk = protocol.MaxLinkRows // rows of a step to the first stage
	unitError  = 1e-3                 // by which a length may differ from 1
)

// Embed has a session compute the embeddings of texts. emit gets them in the order of
// the texts, each once: those of the texts from first on. Its error ends the session.
//
// Embed fails with a *StageError if a stage failed, or sent what an embedding cannot be,
// with emit's error, or with ctx's. What was emitted until then is right; a session is
// not repaired, since the caller can have the texts that are missing computed on another
// route.
func Embed(ctx context.Context, d Dialer, req *EmbedRequest, emit func(first int, embeddings [][]float32) error) error {
	s := &textSession{req: req, emit: emit}
	if err := s.measure(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.session = session{
		req: &Request{Model: req.Model, Codec: req.Codec}, dial: d, begin: time.Now(), ring: ring{epoch: 1}, events: make(chan event, 64),
		over: ctx.Done(), avoid: map[peer.ID]time.Time{}, payload: min(protocol.MaxPayload, 4*req.Width*len(req.Texts)),
	}
	s.wait = req.Wait
	for _, h := range req.Route {
		s.stages = append(s.stages, s.newStage(h))
	}
	defer s.close()
	defer cancel()
	steps := s.textSteps()
	var h *head
	if _, ok := expected(req.Route, 0, nil); ok { // nothing of a text is ever cached
		h = newHead(steps, 0, 0)
	}
	if err := s.open(ctx, h, s.textFrame); err != nil {
		return err
	}
	if h != nil {
		go h.rest(s.stages[0])
	} else {
		go s.stages[0].sendSteps(steps)
	}
	return s.run(ctx, s)
}

// textSession is one call of Embed.
type textSession struct {
	oneWay
	req     *EmbedRequest
	emit    func(int, [][]float32) error
	longest int // tokens of the longest text
	have    int // texts whose embeddings have come
}

// measure counts the tokens.
func (s *textSession) measure() error {
	for _, t := range s.req.Texts {
		if len(t) == 0 {
			return errors.New("session: a text without tokens")
		}
		s.rows += len(t)
		s.longest = max(s.longest, len(t))
	}
	if n := len(s.req.Texts); n == 0 || n > protocol.MaxEmbedTexts || s.rows > protocol.MaxEmbedRows || len(s.req.Route) == 0 || s.req.Width <= 0 {
		return fmt.Errorf("session: %d texts of %d tokens over a route of %d stages", n, s.rows, len(s.req.Route))
	}
	return nil
}

// textFrame is the Open for the stage at a position.
func (s *textSession) textFrame(pos int) *protocol.Open {
	g, n := s.stages[pos], len(s.stages)
	o := &protocol.Open{
		Session: s.id[:], Model: s.req.Model.Bytes(), From: uint32(g.hop.Span.From), To: uint32(g.hop.Span.To),
		Index: g.index, Stages: uint32(n), Epoch: s.epoch, MaxTokensTotal: uint32(s.rows), Embed: uint32(s.longest),
		Codec: s.req.Codec, Trace: s.req.Trace,
	}
	if pos > 0 {
		o.Prev = []byte(s.stages[pos-1].hop.Peer)
	}
	if pos < n-1 {
		o.Next = nextHop(s.stages, pos)
	}
	return o
}

// textSteps returns the steps of all texts, each of which may hold several, or a part of
// one.
func (s *textSession) textSteps() (steps []*protocol.Step) {
	st := &protocol.Step{Epoch: s.epoch}
	flush := func() {
		st.Rows = uint32(len(st.Tokens))
		steps = append(steps, st)
		st = &protocol.Step{Epoch: s.epoch, Base: st.Base + st.Rows}
	}
	for _, text := range s.req.Texts {
		for len(text) > 0 {
			n := min(len(text), embedChunk-len(st.Tokens))
			st.Tokens, text = append(st.Tokens, text[:n]...), text[n:]
			if len(text) == 0 {
				st.Ends = append(st.Ends, uint32(len(st.Tokens)))
			}
			if len(st.Tokens) == embedChunk {
				flush()
			}
		}
	}
	if len(st.Tokens) > 0 {
		flush()
	}
	return steps
}

// finished reports whether all embeddings have come.
func (s *textSession) finished() bool { return s.have == len(s.req.Texts) }

// reply takes embeddings.
func (s *textSession) reply(pos int, ev event) error {
	k, ok := ev.f.Kind.(*protocol.Frame_Embeddings)
	if !ok {
		return s.stages[pos].fail(pos, errNotDue)
	}
	list, err := s.check(pos, k.Embeddings, ev.payload)
	if err != nil {
		return s.stages[pos].fail(pos, err)
	}
	first := s.have
	s.have += len(list)
	return s.emit(first, list)
}

// check reads embeddings. Errors wrap protocol.ErrFrame: no honest stage causes them.
func (s *textSession) check(pos int, f *protocol.Embeddings, payload []byte) ([][]float32, error) {
	bad := func(format string, args ...any) ([][]float32, error) {
		return nil, fmt.Errorf("%w: %s", protocol.ErrFrame, fmt.Sprintf(format, args...))
	}
	n, width := int(f.Count), s.req.Width
	switch {
	case pos != len(s.stages)-1:
		return bad("embeddings from the middle of the route")
	case int(f.First) != s.have || n < 1 || n > len(s.req.Texts)-s.have:
		return bad("%d embeddings from number %d on, where number %d of %d was due", f.Count, f.First, s.have, len(s.req.Texts))
	case int(f.Width) != width:
		return bad("embeddings of %d numbers, where the model's have %d", f.Width, width)
	}
	all, err := protocol.Tensor(protocol.TensorCodec_TENSOR_CODEC_F32, payload, n*width)
	if err != nil {
		return nil, err
	}
	list := make([][]float32, n)
	for i := range list {
		list[i] = all[i*width : (i+1)*width : (i+1)*width]
		if s.req.Unit && !isUnit(list[i]) {
			return bad("an embedding whose length is not 1")
		}
	}
	return list, nil
}

// isUnit reports whether a vector has the length 1.
func isUnit(x []float32) bool {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return math.Abs(math.Sqrt(sum)-1) <= unitError
}
