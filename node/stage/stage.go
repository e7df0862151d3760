package stage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// Engine computes the span. Only the stage's loop calls it, one call at a time.
// An error that wraps engine.ErrLost ends the stage.
type Engine interface {
	Run(ctx context.Context, b *engine.Batch) (*engine.Result, error)
	Remove(seq int, from int32) error       // forget positions >= from
	CopyPrefix(src, dst int, n int32) error // dst, which is empty, shares src's positions < n
}

// Formats reads formats of answers.
type Formats interface {
	Compile(format []*protocol.Piece, stopIDs []int32) (Format, error)
}

// Format is what one answer must be.
type Format interface {
	// Allowed gives a bit for each token that may come next, the lowest of a
	// word first: a function of the tokens so far alone.
	Allowed(sampled []int32) ([]uint64, error)
}

// Stream is a stream between two nodes.
type Stream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
	Peer() peer.ID
	Protocol() string // protocol.StageID or an older one
}

// Dialer opens streams to successors. A client names them, so where they are is
// taken from their own signed offers and nowhere else.
type Dialer interface {
	// OpenStage opens a stream to a peer that is connected, known, or reached at
	// the addresses of its offer: an envelope that nobody has looked into yet,
	// empty if there is none.
	OpenStage(ctx context.Context, p peer.ID, offer []byte) (Stream, error)
}

// Config of one served span.
type Config struct {
	Model      cid.Cid
	Span       protocol.Span
	Blocks     int // of the model
	Width      int // of a hidden state
	Vocab      int
	KVTokens   int                  // KV cells, shared by all sessions
	MaxSeqs    int                  // sessions at once
	MaxBatch   int                  // rows per pass
	MaxContext int                  // longest session, tokens
	Row        time.Duration        // one row through the span in a full pass; 0: unknown
	Idle       time.Duration        // a session without a step for so long is freed; 0: two minutes
	Silence    time.Duration        // one whose client says nothing for so long, too; 0: a second
	Replay     int64                // bytes of memory for replay buffers; 0: 64 MiB
	Dir        string               // for what exceeds that; "": the system's temporary one
	Formats    Formats              // of answers; nil: sessions that ask for one are refused
	Group      func(peer.ID) string // names those who share with a peer what one peer may have; nil: nobody does
	Trusted    func(peer.ID) bool   // the operator's own; nil: nobody
	Observer   Observer             // may be nil
	Log        *slog.Logger
}

func (c *Config) first() bool { return c.Span.From == 0 }
func (c *Config) last() bool  { return c.Span.To == c.Blocks }

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
	budget budget // of all replay buffers

	mu       sync.Mutex
	sessions map[key]*session
	arrived  chan struct{} // closed and replaced whenever a Link may have found its session
	free     []int         // sequence slots
	kvUsed   int           // cells that sessions have taken
	kept     []*kept       // beginnings of sessions that have ended, the oldest first
	kvKept   int           // tokens in them
	ops      []op          // for the loop to do before the next pass, in this order
	draining bool
	turn     uint64               // steps queued so far: who waits longest comes first
	born     uint64               // sessions so far
	takes    uint64               // steps taken so far
	served   map[string]uint64    // by group of those that have sessions: the last of these
	struck   map[string]time.Time // groups that opened a session and did not begin, and when
	starved  bool                 // some session waits for cells
}

// op is something that only the loop may do, between two passes.
type op struct {
	run  func() error
	done chan error // may be nil
}

// do has the loop do something, and waits for it.
func (s *Stage) do(run func() error) error {
	done := make(chan error, 1)
	s.mu.Lock()
	s.ops = append(s.ops, op{run, done})
	s.mu.Unlock()
	s.poke()
	select {
	case err := <-done:
		return err
	case <-s.done:
		return s.Err()
	}
}

// key names a session at a stage; a peer may stand twice in a route.
type key struct {
	id    [16]byte
	index uint32
}

// New starts serving a span with an engine that has it loaded.
func New(cfg Config, e Engine, dial Dialer) *Stage {
	if cfg.Idle == 0 {
		cfg.Idle = 2 * time.Minute
	}
	if cfg.Silence == 0 {
		cfg.Silence = time.Second
	}
	if cfg.Replay == 0 {
		cfg.Replay = 64 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Stage{
		cfg: cfg, engine: e, dial: dial, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		sessions: map[key]*session{}, arrived: make(chan struct{}), served: map[string]uint64{}, struck: map[string]time.Time{},
	}
	s.budget.left.Store(cfg.Replay)
	s.budget.dir = cfg.Dir
	for i := range cfg.MaxSeqs {
		s.free = append(s.free, cfg.MaxSeqs-1-i)
	}
	go s.loop()
	go s.listen()
	return s
}

// listen ends the sessions whose client has fallen silent.
func (s *Stage) listen() {
	tick := time.NewTicker(s.cfg.Silence / 8)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-tick.C:
			s.meter(now)
			for _, sess := range s.all() {
				s.mu.Lock()
				overdue := sess.overdue(now)
				if overdue {
					s.strike(sess.group, now)
				}
				s.mu.Unlock()
				if now.Sub(sess.heard.Load().(time.Time)) > s.cfg.Silence {
					sess.endAs("silent", nil)
				} else if overdue {
					sess.fail(protocol.Errorf(protocol.Code_CODE_TIMEOUT, "the session was opened, and nothing came"))
				}
			}
			s.mu.Lock()
			starved := s.starved
			s.mu.Unlock()
			if starved { // who works may have become idle
				s.poke()
			}
		}
	}
}

func (s *Stage) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.sessions))
	for _, sess := range s.sessions {
		out = append(out, sess)
	}
	return out
}

// Config tells what is served.
func (s *Stage) Config() Config { return s.cfg }

// Drain refuses new sessions from now on, or no longer, and asks the clients of
// those under way to take another stage.
func (s *Stage) Drain(on bool) {
	s.mu.Lock()
	s.draining = on
	s.mu.Unlock()
	if on {
		for _, sess := range s.all() {
			sess.drain()
		}
	}
}

// Close ends all sessions with the given reason and waits for the loop.
func (s *Stage) Close(reason error) {
	s.cancel(reason)
	<-s.done
	all := s.all()
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

// admit makes a session of an Open, or says why not. kept is how many positions
// of it are here already.
func (s *Stage) admit(o *protocol.Open, client Stream) (sess *session, kept int, refused *protocol.Error) {
	defer func() {
		if refused != nil {
			s.cfg.Observer.Asked(refused.Code)
		}
	}()
	if err := s.check(o); err != nil {
		return nil, 0, err
	}
	format, refused := s.format(o)
	if refused != nil {
		return nil, 0, refused
	}
	k := key{[16]byte(o.Session), o.Index}
	a := s.applicant(client.Peer())
	s.mu.Lock()
	if old := s.sessions[k]; old != nil {
		s.mu.Unlock()
		return old.comeBack(o, client)
	}
	a.slots, a.need, a.first = 1, expected(o), min(int(o.MaxTokensTotal), ahead)
	if refused = s.closed(); refused == nil && !s.makeRoom(a) {
		s.stats.refused.Add(1)
		refused = s.busy("no room for this session: its KV, or the number of sessions, is taken")
	}
	if refused == nil { // others may have come meanwhile
		refused = s.closed()
	}
	if old := s.sessions[k]; old != nil {
		s.mu.Unlock()
		return old.comeBack(o, client)
	}
	if refused != nil {
		s.mu.Unlock()
		return nil, 0, refused
	}
	from := s.findPrefix(client.Peer(), o.Codec, o.Prefix, int(o.MaxTokensTotal)-1)
	if from.ended != nil { // so that it is not given up for its own successor
		s.take(from.ended)
		s.free = append(s.free, from.ended.seq)
	}
	a.first = min(int(o.MaxTokensTotal), from.tokens+ahead)
	if !s.evict(a, time.Now()) {
		if from.ended != nil {
			s.free = s.free[:len(s.free)-1]
			s.kept = append(s.kept, from.ended)
			s.kvKept += from.ended.tokens
		}
		s.mu.Unlock()
		s.stats.refused.Add(1)
		return nil, 0, s.busy("no room for this session: all KV is taken")
	}
	if from.ended != nil { // its own slot, whatever was freed since
		i := slices.Index(s.free, from.ended.seq)
		s.free = append(slices.Delete(s.free, i, i+1), from.ended.seq)
	}
	seq := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	sess = newSession(s, k, o, client, seq)
	sess.group, sess.trusted, sess.expected, sess.cells = a.group, a.trusted, a.need, a.first
	s.kvUsed += sess.cells
	s.born++
	sess.born = s.born
	sess.format = format
	s.sessions[k] = sess
	s.mu.Unlock()
	s.stats.opened.Add(1)
	s.cfg.Observer.Asked(protocol.Code_CODE_UNKNOWN)
	kept = s.begin(sess, from)
	s.mu.Lock()
	sess.length, sess.computed, sess.truncate = kept, kept, kept > 0
	s.wakeLinks()
	s.mu.Unlock()
	if o.Stages > 1 && !o.Wait {
		sess.connect(o.Next, 0, 0)
	}
	return sess, kept, nil
}

// closed says why no session is taken. Called with mu held.
func (s *Stage) closed() *protocol.Error {
	switch {
	case s.ctx.Err() != nil:
		return protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "this span is no longer served here")
	case s.draining:
		return protocol.Errorf(protocol.Code_CODE_DRAINING, "this node is leaving; ask another")
	}
	return nil
}

// wakeLinks has those look again who wait for the session of their Link.
// Called with mu held.
func (s *Stage) wakeLinks() {
	close(s.arrived)
	s.arrived = make(chan struct{})
}

// check holds an Open against the protocol and this span.
func (s *Stage) check(o *protocol.Open) *protocol.Error {
	bad := func(format string, args ...any) *protocol.Error {
		return protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, format, args...)
	}
	switch {
	case len(o.Session) != 16:
		return bad("a session ID has 16 bytes")
	case o.Stages < 1 || o.Stages > protocol.MaxStages:
		return bad("a route of %d stages", o.Stages)
	case (protocol.Span{From: int(o.From), To: int(o.To)}) != s.cfg.Span:
		return protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "blocks %d-%d are not served here, %s are", o.From, o.To, s.cfg.Span)
	case o.Stages == 1 && !(s.cfg.first() && s.cfg.last()):
		return bad("a span of blocks %s cannot be a route of its own", s.cfg.Span)
	case o.MaxTokensTotal < 1:
		return bad("a session of no tokens")
	case int64(o.MaxTokensTotal) > int64(s.cfg.MaxContext):
		return protocol.Errorf(protocol.Code_CODE_TOO_LONG, "a session of %d tokens, where %d are accepted", o.MaxTokensTotal, s.cfg.MaxContext)
	case o.Stages > 1 && o.Next == nil:
		return bad("no successor named")
	case protocol.TensorCodec_name[int32(o.Codec)] == "":
		return bad("unknown tensor codec %d", o.Codec)
	case len(o.Prefix) > int(o.MaxTokensTotal)/protocol.PrefixBlock:
		return bad("more prefix hashes than the session has tokens for")
	case len(o.Trace) > protocol.MaxTrace:
		return bad("a trace context of %d bytes", len(o.Trace))
	case s.cfg.last() && o.Sampling == nil:
		return bad("the last stage needs to know how to sample")
	}
	if s.cfg.last() {
		if err := checkSampling(o.Sampling, s.cfg.Vocab); err != nil {
			return bad("%s", err)
		}
	}
	return nil
}

// format reads what the answer is to be; nil: nothing is asked for.
func (s *Stage) format(o *protocol.Open) (Format, *protocol.Error) {
	if !s.cfg.last() || len(o.Sampling.Format) == 0 {
		return nil, nil
	}
	bad := func(format string, args ...any) (Format, *protocol.Error) {
		return nil, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, format, args...)
	}
	size := 0
	for _, p := range o.Sampling.Format {
		size += proto.Size(p)
	}
	switch {
	case s.cfg.Formats == nil:
		return nil, protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "answers of a given format are not served here")
	case size > protocol.MaxFormat:
		return bad("a format of %d KiB, where %d are accepted", size>>10, protocol.MaxFormat>>10)
	case len(o.Sampling.StopIds) == 0:
		return bad("a format needs tokens that end the answer")
	}
	f, err := s.cfg.Formats.Compile(o.Sampling.Format, o.Sampling.StopIds)
	if err != nil {
		return bad("%s", err)
	}
	if _, err := f.Allowed(o.Sampling.Sampled); err != nil {
		return bad("%s", err)
	}
	return f, nil
}

func checkSampling(p *protocol.Sampling, vocab int) error {
	if err := protocol.CheckSampling(p); err != nil {
		return err
	}
	if !inVocabulary(p.History, vocab) || !inVocabulary(p.Sampled, vocab) {
		return errors.New("a token of the history is not in the vocabulary")
	}
	return nil
}

func inVocabulary(ids []int32, vocab int) bool {
	return !slices.ContainsFunc(ids, func(id int32) bool { return id < 0 || int(id) >= vocab })
}

// release gives a session's KV back, once; what is worth keeping of it stays
// for as long as nobody else needs the room. Only the loop calls it.
func (s *Stage) release(sess *session) {
	kept := s.keep(sess)
	var err error
	if !kept { // the slot is not used again before the engine has forgotten it
		err = s.engine.Remove(sess.seq, 0)
		if sess.buf != nil {
			sess.buf.close()
		}
	}
	s.mu.Lock()
	delete(s.sessions, sess.key)
	s.kvUsed -= sess.cells
	if !slices.ContainsFunc(slices.Collect(maps.Values(s.sessions)), func(x *session) bool { return x.group == sess.group }) {
		delete(s.served, sess.group)
	}
	if !kept {
		s.free = append(s.free, sess.seq)
	}
	s.mu.Unlock()
	s.stats.closed.Add(1)
	if err != nil && s.ctx.Err() == nil {
		s.cancel(err)
	}
}

// find waits for the session that a Link means, in the Link's epoch: it may
// overtake the client's word.
func (s *Stage) find(ctx context.Context, l *protocol.Link) *session {
	k := key{[16]byte(l.Session), l.Index}
	for {
		s.mu.Lock()
		arrived := s.arrived
		if sess := s.sessions[k]; sess != nil && sess.linkEpoch >= l.Epoch && !sess.halted {
			s.mu.Unlock()
			return sess
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
	case errors.Is(err, engine.ErrLost):
		return protocol.Errorf(protocol.Code_CODE_ENGINE, "the engine of this stage was lost; it is being restarted")
	case err == nil:
		return protocol.Errorf(protocol.Code_CODE_INTERNAL, "the session was ended")
	}
	return protocol.Errorf(protocol.Code_CODE_INTERNAL, "%s", err)
}
