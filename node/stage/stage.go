package stage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

// Row is one position of one sequence slot.
type Row struct {
	Seq int
	Pos int32
}

// Draw asks for a token after a row of a pass.
type Draw struct {
	Row      int
	Sampling *protocol.Sampling
	Sampled  []int32 // the answer so far
	Position uint64  // absolute position of the token to be drawn
}

// Pass is one forward pass: Tokens if the span begins the model, else Hidden,
// row-major [rows, width].
type Pass struct {
	Rows   []Row
	Tokens []int32
	Hidden []float32
	Draws  []Draw
}

// Drawn is a token with its log probability, and the best alternatives.
type Drawn struct {
	ID      int32
	Logprob float32
	Top     []*protocol.TopToken
}

// Result of a pass: Hidden, row-major [rows, width], unless the span ends the
// model; then one Drawn for each Draw.
type Result struct {
	Hidden  []float32
	Drawn   []Drawn
	Compute time.Duration
}

// Engine computes the span.
type Engine interface {
	Run(ctx context.Context, p *Pass) (*Result, error)
	Remove(seq int, from int32) error // forget positions >= from
}

// Stream is a stream between two nodes.
type Stream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
	Peer() peer.ID
}

// Dialer opens streams to successors.
type Dialer interface {
	OpenStage(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) (Stream, error)
}

// Config of one served span.
type Config struct {
	Model      cid.Cid
	Span       protocol.Span
	Blocks     int // of the model
	Width      int // of a hidden state
	Vocab      int
	KVTokens   int           // KV cells, shared by all sessions
	MaxSeqs    int           // sessions at once
	MaxBatch   int           // rows a pass
	MaxContext int           // longest session, tokens
	Idle       time.Duration // a session without a step for so long is freed; 0: two minutes
	Log        *slog.Logger
}

func (c *Config) first() bool { return c.Span.From == 0 }
func (c *Config) last() bool  { return c.Span.To == c.Blocks }

// ErrEngineLost is what an Engine's error wraps when no later pass can work.
var ErrEngineLost = errors.New("the engine was lost")

// Stage serves one span. It is made with New and handed streams by a Server.
type Stage struct {
	cfg    Config
	engine Engine
	dial   Dialer
	ctx    context.Context
	cancel context.CancelCauseFunc
	wake   chan struct{} // capacity 1: there may be work for the loop
	done   chan struct{} // the loop has ended
	stats  stats

	mu       sync.Mutex
	sessions map[key]*session
	arrived  chan struct{} // closed and replaced whenever a session is added
	free     []int         // sequence slots
	kvUsed   int           // tokens reserved
	draining bool
	turn     int // rotates who comes first among prefills
}

// key names a session at a stage; a peer may stand twice in a route.
type key struct {
	id    [16]byte
	index uint32
}

// New starts serving a span with an engine that has it loaded.
func New(cfg Config, engine Engine, dial Dialer) *Stage {
	if cfg.Idle == 0 {
		cfg.Idle = 2 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Stage{
		cfg: cfg, engine: engine, dial: dial, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		sessions: map[key]*session{}, arrived: make(chan struct{}),
	}
	for i := range cfg.MaxSeqs {
		s.free = append(s.free, cfg.MaxSeqs-1-i)
	}
	go s.loop()
	return s
}

// Config tells what is served.
func (s *Stage) Config() Config { return s.cfg }

// Drain refuses new sessions from now on.
func (s *Stage) Drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
}

// Close ends all sessions with the given reason and waits for the loop.
func (s *Stage) Close(reason error) {
	s.cancel(reason)
	<-s.done
	s.mu.Lock()
	all := make([]*session, 0, len(s.sessions))
	for _, sess := range s.sessions {
		all = append(all, sess)
	}
	s.mu.Unlock()
	for _, sess := range all {
		sess.fail(asError(reason))
	}
	for _, sess := range all {
		<-sess.gone
	}
}

// Done is closed when the stage can serve no more, because it was closed or
// its engine was lost; Err then says why.
func (s *Stage) Done() <-chan struct{} { return s.ctx.Done() }

// Err is why the stage ended.
func (s *Stage) Err() error { return context.Cause(s.ctx) }

// poke tells the loop that there may be work.
func (s *Stage) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// admit makes a session of an Open, or says why not.
func (s *Stage) admit(o *protocol.Open, client Stream) (*session, *protocol.Error) {
	if err := s.check(o); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{[16]byte(o.Session), o.Index}
	total := int(o.MaxTokensTotal)
	switch {
	case s.ctx.Err() != nil:
		return nil, protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "this span is no longer served here")
	case s.draining:
		return nil, protocol.Errorf(protocol.Code_CODE_DRAINING, "this node is leaving; ask another")
	case s.sessions[k] != nil:
		return nil, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "session is open already")
	case len(s.free) == 0 || s.kvUsed+total > s.cfg.KVTokens:
		return nil, &protocol.Error{Code: protocol.Code_CODE_BUSY, RetryAfter: s.stats.retryAfter(),
			Message: "no room for this session: all KV tokens are reserved"}
	}
	seq := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.kvUsed += total
	sess := newSession(s, k, o, client, seq)
	s.sessions[k] = sess
	close(s.arrived)
	s.arrived = make(chan struct{})
	s.stats.opened.Add(1)
	return sess, nil
}

// check holds an Open against the protocol and this span.
func (s *Stage) check(o *protocol.Open) *protocol.Error {
	bad := func(format string, args ...any) *protocol.Error {
		return protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, format, args...)
	}
	first, last := o.Index == 0, o.Index+1 == o.Stages
	switch {
	case len(o.Session) != 16:
		return bad("a session ID has 16 bytes")
	case o.Stages < 1 || o.Stages > protocol.MaxStages || o.Index >= o.Stages:
		return bad("stage %d of %d", o.Index, o.Stages)
	case (protocol.Span{From: int(o.From), To: int(o.To)}) != s.cfg.Span:
		return protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "blocks %d-%d are not served here, %s are", o.From, o.To, s.cfg.Span)
	case first != s.cfg.first() || last != s.cfg.last():
		return bad("a span of blocks %s cannot be stage %d of %d", s.cfg.Span, o.Index, o.Stages)
	case o.MaxTokensTotal < 1:
		return bad("a session of no tokens")
	case int64(o.MaxTokensTotal) > int64(s.cfg.MaxContext):
		return protocol.Errorf(protocol.Code_CODE_TOO_LONG, "a session of %d tokens, where %d are accepted", o.MaxTokensTotal, s.cfg.MaxContext)
	case o.Stages > 1 && o.Next == nil:
		return bad("no successor named")
	case protocol.TensorCodec_name[int32(o.Codec)] == "":
		return bad("unknown tensor codec %d", o.Codec)
	case last && o.Sampling == nil:
		return bad("the last stage needs to know how to sample")
	}
	if last {
		if err := checkSampling(o.Sampling, s.cfg.Vocab); err != nil {
			return bad("%s", err)
		}
	}
	return nil
}

func checkSampling(p *protocol.Sampling, vocab int) error {
	finite := func(x float32) bool { return x-x == 0 }
	switch {
	case !finite(p.Temperature) || p.Temperature < 0 || p.Temperature > 100,
		!finite(p.TopP) || p.TopP < 0 || p.TopP > 1,
		!finite(p.MinP) || p.MinP < 0 || p.MinP > 1,
		!finite(p.RepeatPenalty) || p.RepeatPenalty < 0 || p.RepeatPenalty > 100,
		!finite(p.PresencePenalty) || !finite(p.FrequencyPenalty):
		return errors.New("sampling parameters are out of range")
	case p.TopLogprobs > 64:
		return errors.New("more than 64 alternatives a token were asked for")
	case len(p.StopIds) > 1024 || len(p.History) > 4096:
		return errors.New("too many stop tokens, or too long a history")
	}
	for _, list := range [][]int32{p.History, p.Sampled} {
		for _, id := range list {
			if id < 0 || int(id) >= vocab {
				return errors.New("a token of the history is not in the vocabulary")
			}
		}
	}
	return nil
}

// release gives a session's KV back. It must run on no path twice.
func (s *Stage) release(sess *session) {
	// The slot is not reused before the engine has forgotten it.
	err := s.engine.Remove(sess.seq, 0)
	s.mu.Lock()
	delete(s.sessions, sess.key)
	s.kvUsed -= sess.reserved
	s.free = append(s.free, sess.seq)
	s.mu.Unlock()
	s.stats.closed.Add(1)
	if err != nil && s.ctx.Err() == nil {
		s.cancel(err)
	}
}

// find waits for the session whose predecessor in the ring has index prev: a
// Link may overtake its Open.
func (s *Stage) find(ctx context.Context, id [16]byte, prev uint32) *session {
	for {
		s.mu.Lock()
		arrived := s.arrived
		for k, sess := range s.sessions {
			if k.id == id && (prev+1)%sess.open.Stages == k.index {
				s.mu.Unlock()
				return sess
			}
		}
		s.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return nil
		}
	}
}

func asError(err error) *protocol.Error {
	var e *protocol.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, ErrEngineLost):
		return protocol.Errorf(protocol.Code_CODE_ENGINE, "the engine of this stage was lost; it is being restarted")
	case err == nil:
		return protocol.Errorf(protocol.Code_CODE_INTERNAL, "the session was ended")
	}
	return protocol.Errorf(protocol.Code_CODE_INTERNAL, "%s", err)
}
