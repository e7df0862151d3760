package session

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

// Stream is a stream to a stage.
type Stream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
	Peer() peer.ID
}

// Dialer opens streams to stages.
type Dialer interface {
	OpenStage(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) (Stream, error)
	Self() peer.ID
}

// Hop is one stage of a route.
type Hop struct {
	Peer  peer.ID
	Addrs []multiaddr.Multiaddr
	Span  protocol.Span
}

// Request is what a session is to compute.
type Request struct {
	Model    cid.Cid
	Route    []Hop
	Prompt   []int32
	Sampling *protocol.Sampling // MaxTokens must be set; PromptTokens is filled in
	Codec    protocol.TensorCodec
	Chunk    int           // rows of a prefill chunk; 0: 64
	Step     time.Duration // predicted time of a decode step; 0: unknown
	Prefill  time.Duration // predicted time to the first token; 0: unknown
}

// Outcome is what came of a session.
type Outcome struct {
	Finish  protocol.Finish
	Tokens  int
	Opened  time.Duration // until every stage had accepted
	TTFT    time.Duration // until the first token, from the call
	Elapsed time.Duration // until the last token, from the first
}

// Rate is tokens a second after the first; 0 if there were fewer than two.
func (o *Outcome) Rate() float64 {
	if o.Tokens < 2 || o.Elapsed <= 0 {
		return 0
	}
	return float64(o.Tokens-1) / o.Elapsed.Seconds()
}

// StageError says which stage of the route refused or failed.
type StageError struct {
	Index int
	Hop   Hop
	Err   error // a *protocol.Error if the stage said why
}

func (e *StageError) Error() string {
	return fmt.Sprintf("stage %d (%s, blocks %s): %s", e.Index, short(e.Hop.Peer), e.Hop.Span, e.Err)
}

func (e *StageError) Unwrap() error { return e.Err }

// short is enough of a peer ID for people.
func short(p peer.ID) string {
	s := p.String()
	return "…" + s[max(0, len(s)-8):]
}

const (
	openTime = 10 * time.Second // a stage may take so long to be reached and accept
	minStall = 10 * time.Second // the shortest deadline for progress
	patience = 20               // deadlines are so many times the prediction
)

// Run drives a session to its end. emit gets each token in order; its error
// ends the session. When ctx ends, every stage is told and ctx's error comes
// back with what had been computed.
func Run(ctx context.Context, d Dialer, req *Request, emit func(*protocol.Token) error) (*Outcome, error) {
	if len(req.Prompt) == 0 || len(req.Route) == 0 || req.Sampling == nil || req.Sampling.MaxTokens == 0 {
		return &Outcome{}, errors.New("session: a request needs a prompt, a route, and the number of tokens wanted")
	}
	s := &session{req: req, dial: d, begin: time.Now(), stages: make([]*stage, len(req.Route))}
	if _, err := rand.Read(s.id[:]); err != nil {
		return &s.out, err
	}
	req.Sampling.PromptTokens = uint32(len(req.Prompt))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.close()
	if err := s.open(ctx); err != nil {
		return &s.out, err
	}
	s.out.Opened = time.Since(s.begin)
	return &s.out, s.run(ctx, cancel, emit)
}

type session struct {
	req    *Request
	dial   Dialer
	id     [16]byte
	begin  time.Time
	stages []*stage
	out    Outcome
}

// stage is the client's end of one stage's stream.
type stage struct {
	index int
	hop   Hop
	st    Stream
	r     *bufio.Reader
}

func (g *stage) fail(err error) error { return &StageError{Index: g.index, Hop: g.hop, Err: err} }

func (g *stage) send(f *protocol.Frame) error {
	b, err := protocol.AppendFrame(nil, f, nil)
	if err != nil {
		return err
	}
	if _, err := g.st.Write(b); err != nil {
		return g.fail(fmt.Errorf("the connection was lost: %w", err))
	}
	return nil
}

// read gives the next frame, turning what the stage says of its failure into
// an error.
func (g *stage) read() (*protocol.Frame, error) {
	f, _, err := protocol.ReadFrame(g.r, 0)
	if err != nil {
		return nil, g.fail(lost(err))
	}
	if k, ok := f.Kind.(*protocol.Frame_Fail); ok {
		return nil, g.fail(protocol.FailError(k.Fail))
	}
	return f, nil
}

func lost(err error) error {
	if errors.Is(err, protocol.ErrFrame) {
		return err
	}
	return &protocol.Error{Code: protocol.Code_CODE_PEER_LOST, Message: "the connection was lost: " + err.Error()}
}

// open reaches all stages at once; the first that fails ends the others.
func (s *session) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, errors.New("no answer in time"))
	defer cancel()
	errs := make(chan error, len(s.stages))
	for i := range s.stages {
		go func() { errs <- s.openStage(ctx, i) }()
	}
	var first error
	for range s.stages {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

func (s *session) openStage(ctx context.Context, i int) error {
	g := &stage{index: i, hop: s.req.Route[i]}
	st, err := s.dial.OpenStage(ctx, g.hop.Peer, g.hop.Addrs)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return g.fail(&protocol.Error{Code: protocol.Code_CODE_PEER_LOST, Message: "cannot be reached: " + err.Error()})
	}
	g.st, g.r = st, bufio.NewReader(st)
	s.stages[i] = g
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	if err := g.send(&protocol.Frame{Kind: &protocol.Frame_Open{Open: s.openFrame(i)}}); err != nil {
		return err
	}
	f, err := g.read()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.As(err, new(*protocol.Error)) {
			return g.fail(cause)
		}
		return err
	}
	if _, ok := f.Kind.(*protocol.Frame_Opened); !ok {
		return g.fail(fmt.Errorf("%w: neither accepted nor refused", protocol.ErrFrame))
	}
	return nil
}

func (s *session) openFrame(i int) *protocol.Open {
	n := len(s.req.Route)
	hop, next, prev := s.req.Route[i], s.req.Route[(i+1)%n], s.req.Route[(i+n-1)%n]
	o := &protocol.Open{
		Session: s.id[:], Model: s.req.Model.Bytes(),
		From: uint32(hop.Span.From), To: uint32(hop.Span.To),
		Index: uint32(i), Stages: uint32(n),
		MaxTokensTotal: uint32(len(s.req.Prompt)) + s.req.Sampling.MaxTokens,
		Codec:          s.req.Codec, Prev: []byte(prev.Peer),
	}
	if n > 1 {
		o.Next = &protocol.Hop{Peer: []byte(next.Peer)}
		for _, a := range next.Addrs {
			o.Next.Addrs = append(o.Next.Addrs, a.Bytes())
		}
	}
	if i == n-1 {
		o.Sampling = s.req.Sampling
	}
	return o
}

// run sends the prompt and reads tokens until the answer is finished.
func (s *session) run(ctx context.Context, cancel context.CancelCauseFunc, emit func(*protocol.Token) error) error {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer s.close() // ends the watchers' reads
	last := s.stages[len(s.stages)-1]
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	for _, g := range s.stages[:len(s.stages)-1] {
		watchers.Add(1)
		go func() {
			defer watchers.Done()
			_, err := g.read() // a stage in the middle says nothing unless it fails
			if err == nil {
				err = g.fail(fmt.Errorf("%w: not due", protocol.ErrFrame))
			}
			cancel(err)
		}()
	}
	watchers.Add(1)
	go func() {
		defer watchers.Done()
		if err := s.prefill(); err != nil {
			cancel(err)
		}
	}()
	stall := time.AfterFunc(s.deadline(s.req.Prefill), func() {
		cancel(&protocol.Error{Code: protocol.Code_CODE_TIMEOUT, Message: "no progress in time; a stage of the route hangs"})
	})
	defer stall.Stop()
	err := s.tokens(last, stall, emit)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	// A stage in the middle that fails takes its neighbours along: give its
	// own word a moment to arrive, for it says what happened.
	var e *protocol.Error
	if errors.As(err, &e) && e.Code == protocol.Code_CODE_PEER_LOST && len(s.stages) > 1 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return err
}

func (s *session) deadline(predicted time.Duration) time.Duration {
	return max(minStall, patience*predicted)
}

func (s *session) prefill() error {
	chunk := s.req.Chunk
	if chunk <= 0 {
		chunk = 64
	}
	for at := 0; at < len(s.req.Prompt); at += chunk {
		rows := s.req.Prompt[at:min(at+chunk, len(s.req.Prompt))]
		err := s.stages[0].send(&protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{
			Base: uint32(at), Rows: uint32(len(rows)), Tokens: rows, Sample: at+len(rows) == len(s.req.Prompt),
		}}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) tokens(last *stage, stall *time.Timer, emit func(*protocol.Token) error) error {
	for {
		f, err := last.read()
		if err != nil {
			return err
		}
		k, ok := f.Kind.(*protocol.Frame_Token)
		if !ok {
			return last.fail(fmt.Errorf("%w: a token was due", protocol.ErrFrame))
		}
		tok := k.Token
		if int(tok.Index) != s.out.Tokens {
			return last.fail(fmt.Errorf("%w: token %d, where %d was due", protocol.ErrFrame, tok.Index, s.out.Tokens))
		}
		stall.Reset(s.deadline(s.req.Step))
		now := time.Since(s.begin)
		if s.out.Tokens++; s.out.Tokens == 1 {
			s.out.TTFT = now
		}
		s.out.Elapsed = now - s.out.TTFT
		s.out.Finish = tok.Finish
		if err := emit(tok); err != nil {
			return err
		}
		if tok.Finish != protocol.Finish_FINISH_NONE {
			return nil
		}
		if s.out.Tokens >= int(s.req.Sampling.MaxTokens) {
			return last.fail(fmt.Errorf("%w: more tokens than were asked for", protocol.ErrFrame))
		}
	}
}

// close ends the session at every stage: a stage frees its KV when its
// client's stream ends.
func (s *session) close() {
	for _, g := range s.stages {
		if g != nil && g.st != nil {
			_ = g.st.Reset()
		}
	}
}
