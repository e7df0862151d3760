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
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// Engine computes the span. Only the stage's loop calls it, so it need not be safe for
// concurrent use. An error that wraps engine.ErrLost ends the stage.
type Engine interface {
	Run(ctx context.Context, b *engine.Batch) (*engine.Result, error)
	Remove(seq int, from int32) error       // removes positions >= from
	CopyPrefix(src, dst int, n int32) error // makes dst, an empty sequence, share src's positions < n
}

// Formats compiles formats of answers. It is safe for concurrent use.
type Formats interface {
	Compile(format []*protocol.Piece, stopIDs []int32) (Format, error)
}

// Format constrains one answer. It is safe for concurrent use.
type Format interface {
	// Allowed returns the tokens that may come next as a bit mask, one bit per token,
	// the lowest bit of each word first. It depends only on the tokens so far.
	Allowed(sampled []int32) ([]uint64, error)
}

// Stream is a stream between two nodes.
type Stream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
	Peer() peer.ID
	Protocol() string // protocol.StageID or protocol.StageID1
	Swarm() string    // ID of the private swarm in which the stream is; "": the open network
	Relayed() bool    // it crosses a relay

	// Better returns a channel that is closed once another stream to the peer would
	// take a better path: one without a relay, or over a circuit that will not be
	// cut soon. nil: there is none better.
	Better() <-chan struct{}
}

// Dialer opens streams to successors. Since clients name the successors, their
// addresses are taken only from their own signed offers.
type Dialer interface {
	// OpenStage opens a stream to a peer in the network of a swarm and in no other, over
	// an existing connection, at addresses already known, or at those in its offer: a
	// sealed envelope, not yet verified, or empty.
	OpenStage(ctx context.Context, swarm string, p peer.ID, offer []byte) (Stream, error)
}

// Config configures a stage: one served span.
type Config struct {
	Model      cid.Cid
	Span       protocol.Span
	Blocks     int                    // of the model
	Width      int                    // elements of a hidden state
	Vocab      int                    // tokens of the vocabulary
	KVTokens   int                    // KV cells, shared by all sessions
	MaxSeqs    int                    // concurrent sessions
	MaxBatch   int                    // rows per pass
	MaxContext int                    // longest session, tokens
	Pooling    engine.Pooling         // of the embeddings that the span makes; NoPooling: it draws tokens
	Embedded   int                    // numbers per embedding
	Back       int                    // positions by which a session can certainly be taken back; 0: all
	Texts      int                    // texts per pass of a span that makes embeddings: the engine's sequence slots, at least MaxSeqs
	Row        time.Duration          // time per row through the span in a full pass; 0: unknown
	Idle       time.Duration          // a session without a step for this long is ended; 0: two minutes
	Silence    time.Duration          // so is one whose client sends nothing for this long; 0: one second
	Replay     int64                  // bytes of memory for replay buffers; 0: 64 MiB
	Dir        string                 // directory for what exceeds Replay; "": the system's temporary directory
	Rollback   int                    // rows by which a session can be taken back at any time, at no cost; 0: none
	Guess      func(most int) Guesser // of a session with at most so many guesses on their way at once; nil: the stage never runs ahead
	Formats    Formats                // of answers; nil: sessions with a format are refused
	Group      func(peer.ID) string   // the group of peers whose share a peer is part of; nil: each peer alone
	Lending    Lending                // what clients may have; nil: everything
	Observer   Observer               // may be nil
	Log        *slog.Logger

	// Waken has the engine of a stage that sleeps (see Sleep) loaded, unless that is under
	// way. It returns a channel that is closed when it has, or has failed, and how long
	// that probably takes. nil: the stage never sleeps.
	Waken func() (over <-chan struct{}, left time.Duration)
}

func (c *Config) first() bool { return c.Span.From == 0 }
func (c *Config) last() bool  { return c.Span.To == c.Blocks }

// Stage serves one span. New makes it, and a Server hands streams to it. It is safe
// for concurrent use.
type Stage struct {
	cfg    Config
	engine Engine
	dial   Dialer
	ctx    context.Context
	cancel context.CancelCauseFunc
	wake   chan struct{} // capacity 1: there may be work for the loop
	done   chan struct{} // closed when the loop has ended
	stats  stats
	budget budget        // of all replay buffers
	lines  *rate.Limiter // of the log that clients cause

	mu       sync.Mutex
	sessions map[key]*session
	rates    map[peer.ID]linkRate // of links to successors
	consents map[ends]consent     // of successors to rows ahead of their credit
	arrived  chan struct{}        // closed and replaced whenever a Link may have found its session
	free     []int                // sequence slots
	withheld int                  // of them: Config.MaxSeqs less the present limit
	kvUsed   int                  // cells that sessions have taken
	kept     []*kept              // prefixes of ended sessions, the oldest first
	kvKept   int                  // tokens in them
	ops      []op                 // for the loop to run before the next pass, in order
	draining bool
	asleep   bool                 // it has no engine; see Sleep
	used     time.Time            // when a session that counts as use was last open
	may      func(peer.ID) bool   // whose sessions are served; nil: anybody's. It takes no lock of the caller's
	turn     uint64               // steps queued so far: the lowest number has waited longest
	born     uint64               // sessions so far
	takes    uint64               // steps taken so far
	served   map[string]uint64    // per group with sessions: the value of takes when it was last served
	struck   map[string]time.Time // when groups opened a session that they did not begin
	starved  bool                 // some session waits for cells
	spares   bool                 // some guess waits for cells that nobody has or wants
	classes  map[string]*class    // with sessions, or whose cap holds
	clock    float64              // where the pass in service began, on the clock of its class
	alarm    *time.Timer          // wakes the loop when a cap allows the next pass
	charger  Charge               // nil: nobody counts
}

// op is an engine operation for the loop to run between two passes.
type op struct {
	run  func() error
	done chan error // may be nil
}

// do has the loop run an operation, and waits for it. It returns the operation's
// error, or the stage's if that ends first.
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

// key identifies a session at a stage; the same peer may appear twice in a route.
type key struct {
	id    [16]byte
	index uint32
}

// New starts serving a span with an engine that has it loaded. Close must be called.
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
	if cfg.embeds() {
		cfg.MaxContext = min(cfg.MaxContext, cfg.MaxBatch) // a text takes one pass
	}
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	if cfg.Lending == nil {
		cfg.Lending = freely{}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Stage{
		used: time.Now(),
		cfg:  cfg, engine: e, dial: dial, ctx: ctx, cancel: cancel, lines: rate.NewLimiter(10, 100),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		sessions: map[key]*session{}, rates: map[peer.ID]linkRate{}, consents: map[ends]consent{}, arrived: make(chan struct{}), served: map[string]uint64{}, struck: map[string]time.Time{}, classes: map[string]*class{},
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

// listen ends the sessions whose client has gone silent or has not begun.
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
				silent := !sess.opening && now.Sub(sess.heard.Load().(time.Time)) > s.cfg.Silence
				overdue := sess.overdue(now)
				if overdue {
					s.strike(sess.group, now)
				}
				s.mu.Unlock()
				if silent {
					sess.endAs("silent", nil)
				} else if overdue {
					sess.fail(protocol.Errorf(protocol.Code_CODE_TIMEOUT, "the session was opened, and nothing came"))
				}
			}
			s.mu.Lock()
			due := s.forgetOld(now) || s.starved || s.spares // in which case a session may have become idle, or a guess old
			s.mu.Unlock()
			if due {
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

// Config returns the stage's configuration, with its defaults filled in.
func (s *Stage) Config() Config { return s.cfg }

// Drain makes the stage refuse new sessions and notifies the clients of running ones,
// so that they move to other stages. With on false, new sessions are accepted again.
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

// Close ends all sessions with the given reason, which their clients receive, and
// waits for the loop.
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

// Done returns a channel that is closed when the stage has stopped serving, because it
// was closed or its engine was lost; Err then returns why.
func (s *Stage) Done() <-chan struct{} { return s.ctx.Done() }

// Err returns why the stage ended: Close's reason, or the engine's error. It returns nil
// while the stage serves.
func (s *Stage) Err() error { return context.Cause(s.ctx) }

// poke wakes the loop.
func (s *Stage) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// admit returns the session for an Open, or why it is refused. kept is how many of its
// positions are cached already.
func (s *Stage) admit(o *protocol.Open, client Stream) (sess *session, kept int, refused *protocol.Error) {
	defer func() {
		if refused != nil {
			s.cfg.Observer.Asked(refused.Code)
			s.say("a session was refused", "peer", client.Peer(), "reason", refused.Code.Name())
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
	s.mu.Lock()
	old := s.sessions[k]
	s.mu.Unlock()
	if old != nil {
		return old.comeBack(o, client)
	}
	seat, grant, refused := s.cfg.Lending.Seat(clientOf(client), s.want(o), k.id)
	if refused != nil {
		return nil, 0, refused
	}
	defer func() {
		if sess == nil || sess.seat != seat {
			seat.Leave()
		}
	}()
	a := s.applicant(client.Peer(), grant)
	s.mu.Lock()
	if old := s.sessions[k]; old != nil {
		s.mu.Unlock()
		return old.comeBack(o, client)
	}
	a.slots, a.need, a.first = 1, expected(o), cellsAt(o, 0)
	if refused = s.closed(client.Peer()); refused == nil && !s.makeRoom(a) {
		s.stats.refused.Add(1)
		refused = s.busy("no room for this session: its KV, or the number of sessions, is taken")
	}
	if refused == nil { // the stage may have closed while mu was released
		refused = s.closed(client.Peer())
	}
	if old := s.sessions[k]; old != nil {
		s.mu.Unlock()
		return old.comeBack(o, client)
	}
	if refused != nil {
		s.mu.Unlock()
		return nil, 0, refused
	}
	from := s.findPrefix(client.Peer(), roundingOf(o), o.Prefix, int(o.MaxTokensTotal)-1)
	if from.ended != nil { // taken off the list so that it is not evicted for the session that reuses it
		s.take(from.ended)
		s.free = append(s.free, from.ended.seq)
	}
	a.first = cellsAt(o, from.tokens)
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
	if from.ended != nil { // the session takes the kept prefix's slot, whatever was freed since
		i := slices.Index(s.free, from.ended.seq)
		s.free = append(slices.Delete(s.free, i, i+1), from.ended.seq)
	}
	seq := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	sess = newSession(s, k, o, client, seq)
	sess.group, sess.grant, sess.seat, sess.expected, sess.cells = a.group, grant, seat, a.need, a.first
	s.kvUsed += sess.cells
	s.born++
	sess.born = s.born
	sess.format = format
	s.sessions[k] = sess
	s.mu.Unlock()
	s.stats.opened.Add(1)
	s.cfg.Observer.Asked(protocol.Code_CODE_UNKNOWN)
	s.say("a session was opened", "peer", client.Peer(), "stage", o.Index+1, "of", o.Stages)
	kept = s.begin(sess, from)
	s.mu.Lock()
	sess.length, sess.computed, sess.reach, sess.settled, sess.truncate, sess.begun = kept, kept, kept, kept, kept > 0, true
	sess.bill.upto = kept
	s.wakeLinks()
	if o.Next != nil && o.Stages > 1 && !o.Wait { // at once, or rows that come early would find no successor
		sess.connect(o.Next, 0, 0)
	}
	s.mu.Unlock()
	return sess, kept, nil
}

// closed returns why the stage accepts no sessions of a client, or nil. Called with mu
// held.
func (s *Stage) closed(client peer.ID) *protocol.Error {
	switch {
	case s.ctx.Err() != nil:
		return protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "this span is no longer served here")
	case s.draining:
		return protocol.Errorf(protocol.Code_CODE_DRAINING, "this node is leaving; ask another")
	case s.may != nil && !s.may(client):
		return protocol.Errorf(protocol.Code_CODE_DRAINING, "this node lends nothing now; ask another")
	case s.asleep:
		return loading(time.Second)
	}
	return nil
}

// wakeLinks makes those that wait for a Link's session look again. Called with mu
// held.
func (s *Stage) wakeLinks() {
	close(s.arrived)
	s.arrived = make(chan struct{})
}

// check checks an Open against the protocol and this span.
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
	case protocol.TensorCodec_name[int32(o.Codec)] == "":
		return bad("unknown tensor codec %d", o.Codec)
	case protocol.TensorCodec_name[int32(o.PromptCodec)] == "":
		return bad("unknown tensor codec %d", o.PromptCodec)
	case s.cfg.Width%q8Block != 0 && (o.Codec == protocol.TensorCodec_TENSOR_CODEC_Q8_0 || o.PromptCodec == protocol.TensorCodec_TENSOR_CODEC_Q8_0):
		return bad("Q8_0 is for rows of whole blocks of %d numbers, and this model's have %d", q8Block, s.cfg.Width)
	case o.PromptRows > o.MaxTokensTotal:
		return bad("a prompt of %d rows in a session of %d tokens", o.PromptRows, o.MaxTokensTotal)
	case len(o.TagKey) != 0 && len(o.TagKey) != protocol.TagKeySize:
		return bad("%s", errTagKey)
	case len(o.Trace) > protocol.MaxTrace:
		return bad("a trace context of %d bytes", len(o.Trace))
	case o.Embed > 0 || s.cfg.embeds():
		return s.checkTexts(o)
	case int64(o.MaxTokensTotal) > int64(s.cfg.MaxContext):
		return protocol.Errorf(protocol.Code_CODE_TOO_LONG, "a session of %d tokens, where %d are accepted", o.MaxTokensTotal, s.cfg.MaxContext)
	case o.Stages > 1 && o.Next == nil && !(o.Readings > 0 && s.cfg.last()):
		return bad("no successor named")
	case len(o.Prefix) > int(o.MaxTokensTotal)/protocol.PrefixBlock:
		return bad("more prefix hashes than the session has tokens for")
	case s.cfg.last() && o.Sampling == nil:
		return bad("the last stage needs to know how to sample")
	}
	if s.cfg.last() {
		if err := checkSampling(o.Sampling, s.cfg.Vocab); err != nil {
			return bad("%s", err)
		}
	}
	if s.cfg.first() && o.Draws != nil {
		if err := checkDraws(o.Draws, s.cfg.Vocab); err != nil {
			return bad("%s", err)
		}
	}
	if err := s.checkReadings(o); err != nil {
		return bad("%s", err)
	}
	return nil
}

// format compiles the format of an Open's answer. It returns nil if it has none.
func (s *Stage) format(o *protocol.Open) (Format, *protocol.Error) {
	if !s.cfg.last() || len(o.Sampling.GetFormat()) == 0 {
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
	if !inVocabulary(p.History, vocab) || !inVocabulary(p.Sampled, vocab) || !inVocabulary(p.Scored, vocab) {
		return errors.New("a token of the history is not in the vocabulary")
	}
	return nil
}

// checkDraws checks how the first stage is told that tokens are drawn.
func checkDraws(p *protocol.Sampling, vocab int) error {
	if len(p.Format)+len(p.Scored)+len(p.Readings)+len(p.Sampled) > 0 {
		return errors.New("more than a first stage is to know of how tokens are drawn")
	}
	return checkSampling(p, vocab)
}

func inVocabulary(ids []int32, vocab int) bool {
	return !slices.ContainsFunc(ids, func(id int32) bool { return id < 0 || int(id) >= vocab })
}

// release frees a session's KV, once; a prefix worth keeping stays until its cells are
// needed. Only the loop calls it.
func (s *Stage) release(sess *session) {
	kept := s.keep(sess)
	var err error
	if !kept { // the slot is not reused before the engine has removed the sequence
		err = s.engine.Remove(sess.seq, 0)
		if sess.buf != nil {
			sess.buf.close()
		}
	}
	s.mu.Lock()
	delete(s.sessions, sess.key)
	if sess.counts() {
		s.used = time.Now()
	}
	s.kvUsed -= sess.cells
	if !slices.ContainsFunc(slices.Collect(maps.Values(s.sessions)), func(x *session) bool { return x.group == sess.group }) {
		delete(s.served, sess.group)
	}
	s.forgetClasses(time.Now())
	if !kept {
		s.free = append(s.free, sess.seq)
	}
	s.mu.Unlock()
	s.stats.closed.Add(1)
	if err != nil && s.ctx.Err() == nil {
		s.cancel(err)
	}
}

// find waits for a Link's session to reach the Link's epoch, since a Link may arrive
// before the client's Open or Resume. It returns nil if ctx or the stage ends first.
func (s *Stage) find(ctx context.Context, l *protocol.Link) *session {
	k := key{[16]byte(l.Session), l.Index}
	for {
		s.mu.Lock()
		arrived := s.arrived
		if sess := s.sessions[k]; sess != nil && sess.begun && sess.linkEpoch >= l.Epoch && !sess.halted {
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
