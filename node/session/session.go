package session

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Stream is a stream to a stage. Reading, writing and Reset may go on at once.
type Stream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
	Peer() peer.ID
	Relayed() bool // it crosses a relay

	// Better returns a channel that is closed once another stream to the peer would
	// take a better path: one without a relay, or over a circuit that will not be
	// cut soon. nil: there is none better.
	Better() <-chan struct{}
}

// Dialer opens streams to stages. It is safe for concurrent use.
type Dialer interface {
	// OpenStage opens a stream to a peer; offer is its signed offer, which has
	// its addresses, or empty if the peer is known or connected.
	OpenStage(ctx context.Context, p peer.ID, offer []byte) (Stream, error)
	Self() peer.ID
}

// Hop is one stage of a route.
type Hop struct {
	Peer  peer.ID
	Offer []byte // the peer's signed offer, from which its neighbour knows its addresses; empty: known or connected
	Span  protocol.Span
	Swarm string // ID of the private swarm in which the peer is; "": the open network
	Said  Said   // before the session is opened
}

// Request is what a session is to compute.
type Request struct {
	Model    cid.Cid
	Route    []Hop
	Prompt   []int32
	Vocab    int                  // number of tokens that the model has; 0: unknown
	Sampling *protocol.Sampling   // MaxTokens must be set; PromptTokens is filled in
	Codec    protocol.TensorCodec // of activations between stages
	Chunk    int                  // rows per prefill chunk; 0: 64
	Step     time.Duration        // predicted time of a decode step; 0: unknown
	Prefill  time.Duration        // predicted time to the first token; 0: unknown
	Trace    string               // W3C traceparent for the stages; "": none

	// SlowestRow is how long the slowest stage takes per row of a prompt. If it is known,
	// each stage may send the prompt's rows on in a codec of its choice, so that sending a
	// row takes no longer than that; 0: they are sent in Codec.
	SlowestRow time.Duration

	// MaxInFlight bounds the rows of guessed tokens that are on their way round the ring
	// at once (ahead.go); 0: there are none. Expected are tokens that the answer is
	// expected to repeat.
	MaxInFlight int
	Expected    []int32

	// Replan finds stages for the blocks of stages that were lost. nil: a lost
	// stage ends the session.
	Replan func(ctx context.Context, gap Gap) ([]Hop, error)

	// Second finds the best whole route without the peers in Gap.Avoid, for a
	// session that has waited too long for a token. nil: the session waits. It is
	// called on a goroutine of its own.
	Second func(ctx context.Context, gap Gap) (*Plan, error)

	// Scored is called once, before the first token, with the log probabilities of
	// the prompt's tokens from the second on, if Sampling asks for them. A stage that
	// is lost then ends the session: with nothing emitted yet, the caller begins again.
	Scored func([]*protocol.Score) error

	// Repair is called when a repair begins, without a route and with the stages
	// that seem lost, and again when tokens can flow. Its error ends the session.
	// It may be nil.
	Repair func(r Recovery, route []Hop) error
}

// Plan is a route and how long it is predicted to take.
type Plan struct {
	Route   []Hop
	Prefill time.Duration // to the next token, with all positions computed again
	Step    time.Duration // per token after that
}

// Gap is a part of a route for which stages are wanted.
type Gap struct {
	Span          protocol.Span
	Before, After peer.ID   // the neighbours in the ring
	Avoid         []peer.ID // peers that failed in this session
	Tokens        int       // positions for which to reserve KV cells
	Rows          int       // positions so far, which a new stage computes again
	Route         []Hop     // the whole route as it is now
}

// Outcome is the result of a session.
type Outcome struct {
	Finish     protocol.Finish
	Tokens     int           // of the answer
	Cached     int           // positions of the prompt that no stage had to compute
	Prefix     []uint64      // hashes of prefixes whose positions all stages of Route have computed
	Opened     time.Duration // until every stage had accepted
	Fed        time.Duration // until the first rows were sent: Opened, or sooner (early.go)
	TTFT       time.Duration // from the call of Run to the first token
	Elapsed    time.Duration // from the first token to the last
	Ahead      Ahead
	Recoveries []Recovery
	Moves      []Move
	Route      []Hop  // at the end
	Paths      []Path // of the stages of Route
}

// Recovery is one repair of the route.
type Recovery struct {
	Why      string        // the text of Err
	Err      error         // what failed
	Code     protocol.Code // of the failure; CODE_UNKNOWN: none
	Begin    time.Time     // when there was last progress
	Token    int           // tokens of the answer that the client had
	Lost     []Hop         // the stages that were replaced; none: only links were restored
	Replayed int           // positions that were computed again, added up over the stages
	Stall    time.Duration // from Begin until tokens could flow again, or the attempt ended
	Failed   bool          // the repair failed and ended the session
}

// Rate returns tokens per second after the first; 0 if there were fewer than two.
func (o *Outcome) Rate() float64 {
	if o.Tokens < 2 || o.Elapsed <= 0 {
		return 0
	}
	return float64(o.Tokens-1) / o.Elapsed.Seconds()
}

// StageError says which stage of the route refused or failed.
type StageError struct {
	Index int // from 0; the text counts from 1
	Hop   Hop
	Err   error // a *protocol.Error if the stage reported one
}

func (e *StageError) Error() string {
	return fmt.Sprintf("stage %d (%s, blocks %s): %s", e.Index+1, short(e.Hop.Peer), e.Hop.Span, e.Err)
}

// Unwrap returns Err.
func (e *StageError) Unwrap() error { return e.Err }

// short is the end of a peer ID, enough for people.
func short(p peer.ID) string {
	s := p.String()
	return "…" + s[max(0, len(s)-8):]
}

const (
	openTime = 10 * time.Second       // for a stage to be reached and to accept
	beat     = 250 * time.Millisecond // between two Pings

	// After the first stage accepts, the remaining stages get at least openSlack
	// more. Even a loaded stage reads its control streams promptly.
	openSlack = 800 * time.Millisecond
	lastWord  = 200 * time.Millisecond // for a stage's own error to arrive after its neighbours'
)

// errDone ends a session whose answer is complete.
var errDone = errors.New("session: done")

// Run drives a session to its end. emit is called with each token once, in order;
// its error ends the session. Run fails with a *StageError or *protocol.Error if a
// stage failed and could not be replaced, with the error of emit or Request.Repair,
// or, when ctx ends, with ctx's error. The Outcome is never nil, and has what was
// computed until then.
func Run(ctx context.Context, d Dialer, req *Request, emit func(*protocol.Token) error) (*Outcome, error) {
	if len(req.Prompt) == 0 || len(req.Route) == 0 || req.Sampling == nil || req.Sampling.MaxTokens == 0 {
		return &Outcome{}, errors.New("session: a request needs a prompt, a route, and the number of tokens wanted")
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &session{
		req: req, dial: d, emit: emit, begin: time.Now(), ring: ring{epoch: 1}, events: make(chan event, 64), prepared: make(chan prepared),
		over: ctx.Done(), ids: append([]int32(nil), req.Prompt...), deadline: newDeadline(req), avoid: map[peer.ID]time.Time{},
	}
	defer s.close()
	defer cancel()
	if _, err := rand.Read(s.id[:]); err != nil {
		return &s.out, err
	}
	req.Sampling.PromptTokens = uint32(len(req.Prompt))
	if len(req.Sampling.Scored) == 0 { // else every position is to be computed
		s.chain = protocol.AppendPrefix(nil, req.Prompt)
	}
	if err := s.start(ctx); err != nil {
		return &s.out, err
	}
	err := s.run(ctx)
	if errors.Is(err, errDone) {
		err = nil
	}
	s.out.Route, s.out.Paths = hopsOf(s.stages), pathsOf(s.stages)
	s.out.Prefix = s.chain[:min(len(s.chain), (len(s.ids)-1)/protocol.PrefixBlock)]
	return &s.out, err
}

// session is one call of Run. What is not under mu belongs to Run's goroutine.
type session struct {
	req           *Request
	dial          Dialer
	emit          func(*protocol.Token) error
	begin         time.Time
	events        chan event
	over          <-chan struct{}
	out           Outcome
	avoid         map[peer.ID]time.Time // peers that failed, and when
	deadline      deadline
	failedRepairs int  // repairs since the last token
	ended         bool // the answer is complete, or its caller wants no more of it
	scored        []*protocol.Score
	trips         trips
	payload       int                             // bytes of a frame's payload, at most
	codecs        map[uint32]protocol.TensorCodec // in which links send prompts; not written once the first route is open

	second     *second // a route beside the first, which keeps the session waiting; nil: none
	prepared   chan prepared
	nextSecond time.Time // when another second route may be sought
	seconds    int       // second routes sought since the last token
	noSecond   bool      // the last attempt to open one failed

	mu sync.Mutex // guards what follows, which heartbeat reads
	ring
	beside    []*stage // of the second route, once it is open
	nextIndex uint32   // of the next stage to be opened
	ids       []int32  // prompt and answer
	chain     []uint64 // prefix hashes of ids
}

// ring is a route that is open, with the session's ID on it.
type ring struct {
	id     [16]byte
	epoch  uint64
	since  uint64   // the lowest epoch of the same links: a stage that no row has reached is still in that
	stages []*stage // in the order of the ring
	tagKey []byte   // of the tags of guesses; nil: there are none
}

// event is a frame of a stage, or the end of its stream.
type event struct {
	g       *stage
	f       *protocol.Frame
	payload []byte // of Embeddings
	moved   *Move  // the stage's stream has moved
	err     error
}

// stage is the client's end of one stage's stream.
type stage struct {
	index       uint32
	hop         Hop
	r           *bufio.Reader
	write       sync.Mutex
	prefixSent  int     // prefix hashes that the stage has; guarded by write
	sampledOwed []int32 // tokens of the answer for which Open had no room; Resume has them

	// As last reported by the stage:
	cached   int                  // positions of the prompt that it had computed before
	halted   bool                 // it has stopped in this epoch
	length   int                  // positions computed
	line     uint32               // of guesses, which length is of
	waiting  int                  // chunks in its queue
	passes   uint64               // finished
	busy     bool                 // a pass with rows of this session is running
	replays  bool                 // it can send its rows again
	floor    int                  // the lowest position, other than 0, from which it can go on
	back     int                  // of a session of readings: rows by which it can be taken back; 0: all
	rollback int                  // rows that it can take back at any time
	promptIn protocol.TensorCodec // in which it sends the prompt's rows on
	leaving  bool                 // it has asked to be replaced
	epoch    uint64               // of the last Pong
	relayed  bool                 // its link to its successor crosses a relay

	heard      time.Time // when it last sent anything
	progressed time.Time // when length or passes last changed
	relinks    int       // times that a neighbour reported the link to it as broken

	at     sync.Mutex // guards what follows
	of     []byte     // the ID of its session
	st     Stream     // replaced with write held
	moving *moving    // the last move of st; nil: none
	left   bool       // the stage has no part in the session any more
}

// backTo returns where a stage goes on that is to be taken back to a position: there, or
// at 0 where it is not certain that it can.
func (g *stage) backTo(at int) int {
	if at < g.floor {
		return 0
	}
	return at
}

// fail wraps an error of a stage at a position of the ring.
func (g *stage) fail(pos int, err error) error { return &StageError{Index: pos, Hop: g.hop, Err: err} }

// send writes a frame.
func (g *stage) send(f *protocol.Frame) error {
	b, err := protocol.AppendFrame(nil, f, nil)
	if err != nil {
		return err
	}
	g.write.Lock()
	defer g.write.Unlock()
	_, err = g.stream().Write(b)
	return err
}

// stream is the stage's present stream; nil: it was not reached.
func (g *stage) stream() Stream {
	g.at.Lock()
	defer g.at.Unlock()
	return g.st
}

// ping writes a Ping, unless something is being written anyway: a stage that reads
// nothing must not delay the others' Pings.
func (g *stage) ping(chain []uint64) {
	if g.write.TryLock() {
		defer g.write.Unlock()
		g.sendPing(chain, false)
	}
}

// sendPing writes a Ping or Bye with the prefix hashes that are new to the stage.
// Called with write held.
func (g *stage) sendPing(chain []uint64, bye bool) {
	more := chain[min(g.prefixSent, len(chain)):]
	f := &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{Prefix: more}}}
	if bye {
		f = &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{Prefix: more}}}
	}
	b, err := protocol.AppendFrame(nil, f, nil)
	if err != nil {
		return
	}
	g.prefixSent = len(chain)
	_, _ = g.stream().Write(b) // if the stream is lost, read fails
}

// read turns a stage's frames into events until its stream ends.
func (s *session) read(g *stage) {
	go s.followPath(g)
	r := g.r
	for {
		f, payload, err := protocol.ReadFrame(r, s.payload)
		if err == nil && f.GetMove() != nil {
			if r, err = s.leaveStream(g); err == nil {
				continue
			}
		}
		if err == nil {
			if k, ok := f.Kind.(*protocol.Frame_Fail); ok {
				err = protocol.FailError(k.Fail)
			}
		} else if !errors.Is(err, protocol.ErrFrame) {
			err = &protocol.Error{Code: protocol.Code_CODE_PEER_LOST, Message: "the connection was lost: " + err.Error()}
		}
		select {
		case s.events <- event{g: g, f: f, payload: payload, err: err}:
		case <-s.over:
			return
		}
		if err != nil {
			return
		}
	}
}

// start opens all stages of the route at once; the first that fails ends the
// others.
func (s *session) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, errors.New("no answer in time"))
	defer cancel()
	for _, h := range s.req.Route {
		s.stages = append(s.stages, s.newStage(h))
	}
	s.tagKey = s.newTagKey()
	h := s.head()
	err := s.openAll(ctx, cancel, s.stages, h, func(i int) *protocol.Open {
		o := s.openFrame(&s.ring, i, s.chain)
		o.Early = h != nil
		return o
	})
	if err != nil {
		return err
	}
	s.keepCodecs()
	s.out.Opened = time.Since(s.begin)
	s.out.Fed = s.out.Opened
	s.deadline.opened(s.out.Opened)
	s.out.Cached = s.assignRing(&s.ring, s.ids, h)
	go s.heartbeat()
	return nil
}

// assignRing makes the stages of an open ring compute the tokens so far, and returns
// how many positions all of them have cached. h is what the first stage has got of them
// already; nil: nothing.
func (s *session) assignRing(r *ring, ids []int32, h *head) (from int) {
	now := time.Now()
	from, some := len(ids)-1, h != nil
	for _, g := range r.stages {
		from, some = min(from, g.cached), some || g.cached > 0
		g.heard, g.progressed = now, now
	}
	if from > 0 && some { // to the start of a block: shared blocks are never written to
		from -= from % protocol.PrefixBlock
	}
	if slices.ContainsFunc(r.stages, func(g *stage) bool { return g.backTo(from) == 0 }) {
		from = 0
	}
	if some {
		r.epoch++ // takes all stages back to the same position
	}
	if h != nil {
		if h.holds(r.stages, s.inFlight(r.stages)) {
			from, s.out.Fed = h.from, h.at.Sub(s.begin)
		} else { // what was sent is void
			h = nil
			r.epoch++
		}
	}
	for _, g := range r.stages {
		go s.read(g)
	}
	if h != nil {
		go h.rest(r.stages[0])
	} else {
		go s.feed(r.stages, r.epoch, ids, from)
	}
	return from
}

func (s *session) newStage(h Hop) *stage {
	s.nextIndex++
	return &stage{index: s.nextIndex - 1, hop: h, rollback: min(h.Said.Rollback, protocol.MaxInFlight), back: h.Said.Back}
}

// openAll opens stages at once. cancel ends the attempts. A stage that has accepted is
// pinged while others have not, or it would take the client to be gone. The first stage
// gets the early rows of h behind its Open; nil: there are none.
func (s *session) openAll(ctx context.Context, cancel func(), stages []*stage, h *head, frame func(i int) *protocol.Open) error {
	type answer struct {
		g      *stage
		prefix []uint64
		err    error
	}
	answers := make(chan answer, len(stages))
	for i, g := range stages {
		go func() {
			o, early := frame(i), h
			if i > 0 {
				early = nil
			}
			answers <- answer{g, o.Prefix, s.openStage(ctx, i, g, o, early)}
		}()
	}
	var first error
	var late <-chan time.Time
	var accepted []answer
	begin, tick := time.Now(), time.NewTicker(beat)
	defer tick.Stop()
	for left := len(stages); left > 0; {
		select {
		case a := <-answers:
			left--
			if a.err == nil {
				accepted = append(accepted, a)
			} else if first == nil {
				first = a.err
				cancel()
			}
			if late == nil { // a stage that is gone must not cost a full dial timeout
				late = time.After(openSlack + 4*time.Since(begin))
			}
		case <-tick.C:
			for _, a := range accepted {
				go a.g.ping(a.prefix)
			}
		case <-late:
			cancel()
		}
	}
	return first
}

// openStage opens one stage, sends it the early rows of h unless that is nil, and waits
// until it accepts. It fails with a *StageError.
func (s *session) openStage(ctx context.Context, pos int, g *stage, o *protocol.Open, h *head) error {
	st, err := s.dial.OpenStage(ctx, g.hop.Peer, g.hop.Offer)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return g.fail(pos, &protocol.Error{Code: protocol.Code_CODE_PEER_LOST, Message: "cannot be reached: " + err.Error()})
	}
	g.at.Lock()
	g.of, g.st, g.r = o.Session, st, bufio.NewReader(st)
	g.at.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	err = g.send(&protocol.Frame{Kind: &protocol.Frame_Open{Open: o}})
	var f *protocol.Frame
	if err == nil {
		if h != nil {
			h.begin(g)
		}
		f, _, err = protocol.ReadFrame(g.r, 0)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return g.fail(pos, &protocol.Error{Code: protocol.Code_CODE_PEER_LOST, Message: "the connection was lost: " + err.Error()})
	}
	switch k := f.Kind.(type) {
	case *protocol.Frame_Opened:
		if o.Sampling != nil && len(o.Sampling.Format) > 0 && !k.Opened.Format {
			err = protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "is of an older version, which cannot give answers a format")
			break
		}
		if o.Sampling != nil && len(o.Sampling.Scored) > 0 && !k.Opened.Scores {
			err = protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "is of an older version, which computes no log probabilities of a prompt")
			break
		}
		if o.Embed > 0 && !k.Opened.Embeds {
			err = protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "is of an older version, which makes no embeddings")
			break
		}
		if o.Readings > 0 && !k.Opened.Readings {
			err = ErrNoReadings
			break
		}
		g.back = int(k.Opened.Back)
		g.cached, g.floor, g.prefixSent = int(k.Opened.Cached), int(k.Opened.Floor), len(o.Prefix)
		g.promptIn = promptIn(o, k.Opened)
		g.rollback = int(min(k.Opened.RollbackRows, protocol.MaxInFlight))
		return nil
	case *protocol.Frame_Fail:
		err = protocol.FailError(k.Fail)
	default:
		err = fmt.Errorf("%w: neither accepted nor refused", protocol.ErrFrame)
	}
	_ = st.Reset()
	return g.fail(pos, err)
}

// openFrame is the Open for the stage at a position of a ring, with the prefix
// hashes of the tokens so far.
func (s *session) openFrame(r *ring, pos int, chain []uint64) *protocol.Open {
	n := len(r.stages)
	g := r.stages[pos]
	o := &protocol.Open{
		Session: r.id[:], Model: s.req.Model.Bytes(),
		From: uint32(g.hop.Span.From), To: uint32(g.hop.Span.To),
		Index: g.index, Stages: uint32(n), Epoch: r.epoch,
		MaxTokensTotal: uint32(s.maxTokens()), Codec: s.req.Codec, Prefix: chain[:min(len(chain), protocol.MaxOpenPrefix)], Trace: s.req.Trace,
		Prev: []byte(r.stages[(pos+n-1)%n].hop.Peer), Next: nextHop(r.stages, pos),
	}
	if pos == n-1 {
		o.Sampling = s.req.Sampling
	}
	if pos == 0 || pos == n-1 {
		o.TagKey = r.tagKey
	}
	if pos == 0 && n > 1 && len(r.tagKey) > 0 {
		o.Draws = drawsOf(s.req.Sampling)
	}
	s.chooseCodec(o, len(s.req.Prompt))
	return o
}

// maxTokens is the session's maximum length in tokens.
func (s *session) maxTokens() int { return len(s.req.Prompt) + int(s.req.Sampling.MaxTokens) }

// nextHop is the hop after a position of a ring; nil: there is only one.
func nextHop(ring []*stage, pos int) *protocol.Hop {
	if len(ring) == 1 {
		return nil
	}
	next := ring[(pos+1)%len(ring)]
	return &protocol.Hop{Peer: []byte(next.hop.Peer), Index: next.index, Offer: next.hop.Offer}
}

// feed sends the first stage the tokens from a position on.
func (s *session) feed(stages []*stage, epoch uint64, ids []int32, from int) {
	stages[0].sendSteps(s.steps(s.inFlight(stages), epoch, ids, from))
}

// steps returns the steps of the tokens from a position on, in chunks. The last one asks
// for the next token. ahead is how many guesses may be on their way at once.
func (s *session) steps(ahead int, epoch uint64, ids []int32, from int) (steps []*protocol.Step) {
	expected := s.req.Expected
	if ahead == 0 {
		expected = nil
	}
	for at := from; at < len(ids); {
		rows := ids[at:min(at+s.chunk(at-from, len(ids)-from), len(ids))]
		steps = append(steps, &protocol.Step{
			Epoch: epoch, Base: uint32(at), Rows: uint32(len(rows)), Tokens: rows, Sample: at+len(rows) == len(ids),
			MaxInFlight: uint32(ahead), Expected: expected,
		})
		expected = nil
		at += len(rows)
	}
	return steps
}

// chunk returns how many rows are fed at once after so many of all. The first chunks of a
// long prompt are shorter, so that the stages behind the first have something to compute
// while connections that have carried little gain speed.
func (s *session) chunk(fed, all int) int {
	chunk := cmp.Or(max(0, s.req.Chunk), 64)
	switch short := chunk / 4; {
	case all < 8*chunk || fed >= 3*short || short == 0:
		return chunk
	case fed == 0:
		return short
	default:
		return 2 * short
	}
}

// heartbeat pings all stages until the session is over.
func (s *session) heartbeat() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-s.over:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		stages, chain := slices.Concat(s.stages, s.beside), s.chain
		s.mu.Unlock()
		for _, g := range stages {
			go g.ping(chain)
		}
	}
}

// run handles events until the answer is complete (errDone), and repairs the route
// when it breaks.
func (s *session) run(ctx context.Context) error {
	s.deadline.expect(time.Now(), s.req.Prefill, len(s.ids))
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		var b breakdown
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev := <-s.events:
			var err error
			if b, err = s.handleEvent(ev); err != nil {
				return err
			}
		case p := <-s.prepared:
			s.startSecond(p)
		case now := <-look.C:
			if b = s.inspect(now); b.why == nil || b.hangs {
				b = s.hedge(ctx, now, b)
			}
		}
		if b.why == nil {
			continue
		}
		if over, err := s.switchOver(b); err != nil {
			return err
		} else if over {
			continue
		}
		if s.req.Replan == nil {
			return s.finalWord(ctx, b)
		}
		if err := s.recover(ctx, b); err != nil {
			return err
		}
	}
}

// finalWord is the error of a session that cannot be repaired. When a stage in the
// middle fails, its neighbours fail too; its own error, which has the reason, may
// come a moment after theirs.
func (s *session) finalWord(ctx context.Context, b breakdown) error {
	wait := time.NewTimer(lastWord)
	defer wait.Stop()
	for best := b.why; ; {
		var e *protocol.Error
		if errors.As(best, &e) && e.Code != protocol.Code_CODE_PEER_LOST {
			return best
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
			return best
		case ev := <-s.events:
			if ev.err != nil {
				best = ev.g.fail(s.position(ev.g), ev.err)
			}
		}
	}
}

// position returns a stage's position in the ring; -1: it is no longer in it.
func (s *session) position(g *stage) int {
	for i, x := range s.stages {
		if x == g {
			return i
		}
	}
	return -1
}

// handleEvent handles a frame of a stage, or the end of its stream. The route needs
// repair if the breakdown has a reason; an error ends the session.
func (s *session) handleEvent(ev event) (b breakdown, err error) {
	g, pos := ev.g, s.position(ev.g)
	if pos < 0 {
		return b, s.handleSecondEvent(ev) // or the stage was replaced
	}
	if ev.moved != nil {
		s.moved(ev.moved)
		return b, nil
	}
	if ev.err != nil {
		var e *protocol.Error
		broken := errors.As(ev.err, &e) && e.Code == protocol.Code_CODE_PEER_LOST
		return breakdown{why: g.fail(pos, ev.err), lost: []*stage{g}, broken: broken}, nil
	}
	now := time.Now()
	g.heard = now
	switch k := ev.f.Kind.(type) {
	case *protocol.Frame_Token:
		if pos != len(s.stages)-1 {
			return breakdown{why: g.fail(pos, fmt.Errorf("%w: a token from the middle of the route", protocol.ErrFrame)), lost: []*stage{g}}, nil
		}
		return s.token(g, pos, k.Token, now)
	case *protocol.Frame_Scores:
		g.progressed = now
		return s.takeScores(g, pos, k.Scores)
	case *protocol.Frame_Pong:
		s.linkMoved(g, k.Pong)
		g.pong(k.Pong, now)
	case *protocol.Frame_Halted:
		if k.Halted.Epoch == s.epoch {
			g.halted, g.length, g.replays, g.floor = true, int(k.Halted.Length), k.Halted.CanReplay, int(k.Halted.Floor)
		}
	case *protocol.Frame_Trouble:
		return s.trouble(g, pos, k.Trouble), nil
	default:
		return breakdown{why: g.fail(pos, fmt.Errorf("%w: not due", protocol.ErrFrame)), lost: []*stage{g}}, nil
	}
	return b, nil
}

// pong takes a stage's report.
func (g *stage) pong(p *protocol.Pong, now time.Time) {
	if int(p.Length) != g.length || p.Passes != g.passes {
		g.progressed = now
	}
	g.length, g.waiting, g.busy, g.passes, g.relayed = int(p.Length), int(p.Waiting), p.Computing, p.Passes, p.Relayed
	g.epoch, g.line = p.Epoch, p.Line
}

// trouble handles a stage's report about a neighbour, or that it is leaving.
func (s *session) trouble(g *stage, pos int, t *protocol.Trouble) breakdown {
	switch {
	case t.Epoch < s.since || t.Epoch > s.epoch || g.leaving:
		return breakdown{}
	case t.Code == protocol.Code_CODE_DRAINING:
		g.leaving = true
		if s.req.Replan == nil {
			return breakdown{} // it stays for as long as it can
		}
		return breakdown{why: g.fail(pos, protocol.Errorf(t.Code, "it is leaving")), lost: []*stage{g}, optional: true}
	}
	// The neighbour may be lost, or only the link to it. The first repair only
	// restores links.
	n, which := len(s.stages), "predecessor"
	other := s.stages[(pos+n-1)%n]
	if t.Successor {
		which, other = "successor", s.stages[(pos+1)%n]
	}
	b := breakdown{why: g.fail(pos, protocol.Errorf(t.Code, "it lost its %s", which))}
	if other.relinks++; other.relinks > 1 {
		b.suspect = other
	}
	return b
}

// takeScores takes log probabilities of the prompt's tokens, which come in order.
func (s *session) takeScores(g *stage, pos int, f *protocol.Scores) (b breakdown, err error) {
	have, wanted := len(s.scored), len(s.req.Sampling.Scored)
	if pos != len(s.stages)-1 || int(f.Base) != have+1 || len(f.Scores) == 0 || len(f.Scores) > wanted-have || !s.plausible(f.Scores) {
		err := fmt.Errorf("%w: log probabilities that are not due, after those of %d of %d tokens", protocol.ErrFrame, have, wanted)
		return breakdown{why: g.fail(pos, err), lost: []*stage{g}}, nil
	}
	s.scored = append(s.scored, f.Scores...)
	if len(s.scored) == wanted && s.req.Scored != nil {
		return b, s.req.Scored(s.scored)
	}
	return b, nil
}

// plausible reports whether scores have only alternatives that were asked for and that
// the model has.
func (s *session) plausible(scores []*protocol.Score) bool {
	for _, x := range scores {
		if len(x.Top) > int(s.req.Sampling.TopLogprobs) || slices.ContainsFunc(x.Top, func(t *protocol.TopToken) bool { return !s.drawable(t.Id) }) {
			return false
		}
	}
	return true
}

// drawable reports whether the model has a token.
func (s *session) drawable(id int32) bool {
	return id >= 0 && (s.req.Vocab == 0 || int(id) < s.req.Vocab)
}

// token emits a token. Tokens that come twice, after a repair, are dropped by their
// index.
func (s *session) token(g *stage, pos int, tok *protocol.Token, now time.Time) (b breakdown, err error) {
	switch {
	case len(s.scored) < len(s.req.Sampling.Scored):
		return breakdown{why: g.fail(pos, fmt.Errorf("%w: a token before the prompt's log probabilities", protocol.ErrFrame)), lost: []*stage{g}}, nil
	case int(tok.Index) < s.out.Tokens, int(tok.Index) > s.out.Tokens && tok.Epoch < s.epoch:
		return b, nil // those in between may be lost with a stream that broke
	case int(tok.Index) > s.out.Tokens:
		return breakdown{why: g.fail(pos, fmt.Errorf("%w: token %d, where %d was due", protocol.ErrFrame, tok.Index, s.out.Tokens)), lost: []*stage{g}}, nil
	case !s.drawable(tok.Id):
		return breakdown{why: g.fail(pos, fmt.Errorf("%w: a token that the model does not have", protocol.ErrFrame)), lost: []*stage{g}}, nil
	}
	s.dropSecond() // the route that brings the token first wins
	since := now.Sub(s.begin)
	if s.out.Tokens++; s.out.Tokens == 1 {
		s.out.TTFT = since
	}
	s.tally(tok, since-s.out.TTFT-s.out.Elapsed)
	s.out.Elapsed = since - s.out.TTFT
	s.out.Finish = tok.Finish
	s.mu.Lock()
	s.ids = append(s.ids, tok.Id)
	if len(s.req.Sampling.Scored) == 0 {
		s.chain = protocol.AppendPrefix(s.chain, s.ids)
	}
	s.mu.Unlock()
	s.deadline.token(now, tok.Guessed)
	s.failedRepairs, s.seconds, s.nextSecond, s.noSecond = 0, 0, time.Time{}, false
	s.ended = tok.Finish != protocol.Finish_FINISH_NONE
	if err := s.emit(tok); err != nil {
		s.ended = true
		return b, err
	}
	if tok.Finish != protocol.Finish_FINISH_NONE {
		return b, errDone
	}
	if s.out.Tokens >= int(s.req.Sampling.MaxTokens) {
		return b, g.fail(pos, fmt.Errorf("%w: more tokens than were asked for", protocol.ErrFrame))
	}
	return b, nil
}

// close sends Bye to all stages, which then free the session's KV cells.
func (s *session) close() {
	s.dropSecond()
	s.mu.Lock()
	stages, chain := s.stages, s.chain
	s.mu.Unlock()
	for _, g := range stages {
		g.leave(chain)
	}
}

// leave ends a stage's part in the session. If Bye cannot be written within
// lastWord, the stream is reset.
func (g *stage) leave(chain []uint64) {
	g.at.Lock()
	st := g.st
	g.left = true // it does not move any more
	g.at.Unlock()
	if st == nil {
		return
	}
	_ = st.SetDeadline(time.Now().Add(lastWord))
	g.write.Lock()
	g.sendPing(chain, true)
	g.write.Unlock()
	closeStream(st)
	g.at.Lock()
	var old Stream
	if g.moving != nil {
		old = g.moving.old
	}
	g.at.Unlock()
	if old != nil { // nothing that still comes there is of use
		closeStream(old)
	}
}

func closeStream(st Stream) {
	if st.Close() != nil {
		_ = st.Reset()
	}
}
