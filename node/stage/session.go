package stage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
)

const (
	maxPending = 32                     // steps of a session queued for the loop
	dialTime   = 10 * time.Second       // to connect to the successor
	dialFor    = 500 * time.Millisecond // in which a failed dial is tried again
	dialAgain  = 50 * time.Millisecond
)

// step is a checked Step queued for the loop.
type step struct {
	epoch    uint64
	turn     uint64
	queued   time.Time
	base     int
	rows     int
	sample   bool
	link     *inflow // that it came on; nil: not on a link with credit
	truncate bool    // remove positions >= base first
	back     bool    // of a session of readings: it may begin before the session's end
	line     uint32  // of guesses, within the epoch
	tag      uint64  // of a guess that is not known to be right; else 0
	right    bool    // the guess was found to be right here
	void     bool    // a line that began while it was computed has taken its position
	settled  int     // as its frame said
	guesses  uint32  // likewise
	sums     sums    // likewise
	most     int     // to the first stage: guesses on their way at once
	expected []int32 // likewise: tokens that the answer is expected to repeat
	tokens   []int32
	hidden   []float32
	ends     []int // of a session of texts: after how many rows a text ends
}

// session is one sequence at one stage.
type session struct {
	stage    *Stage
	key      key
	open     *protocol.Open
	sampling *protocol.Sampling // the part that the engine reads
	peer     peer.ID            // the client
	swarm    string             // in which it came, and in which the successor is
	seq      int
	reserved int    // its maximum length, tokens
	born     uint64 // its number at the stage: the higher, the younger
	group    string
	seat     Seat
	expected int                  // cells that it will probably use
	promptIn protocol.TensorCodec // in which the prompt's rows are sent on
	ctx      context.Context
	cancel   context.CancelFunc
	gone     chan struct{} // closed when its KV is free again
	room     chan struct{} // capacity 1: a step was taken from pending
	endOnce  sync.Once
	idle     *time.Timer
	heard    atomic.Value // time.Time of the client's last frame
	tally    tally
	bill     bill

	// guarded by stage.mu
	stream    Stream // the client's current one
	client    *sender
	opening   bool      // Opened has not been sent on stream: what else is for the client waits
	begun     bool      // it has what was cached of its prefix: rows may come
	accepted  time.Time // when the first Opened was sent
	next      *sender   // nil if the route has one stage
	prev      []byte    // peer ID of the predecessor
	stages    int
	epoch     uint64
	linkEpoch uint64 // of the last Open or Resume: links of earlier ones are closed
	line      uint32 // of guesses; steps of lower ones in the same epoch are dropped
	dead      bool   // a guess of the line was wrong: the rest of it is dropped
	settled   int    // positions queued whose tokens are known to be final
	tagKey    []byte // of guesses' tags; first and last stage
	running   *step  // in the pass under way; nil: none
	lead      *lead  // at the first stage; nil: it does not run ahead
	linked    uint64 // 1 + the last epoch in which the predecessor has linked
	unlink    context.CancelFunc
	in        *inflow   // of the predecessor's link; nil: it has no credit, or there is none
	streamTo  *handover // the stream that continues the client's; nil: none
	linkTo    *handover // the stream that continues the predecessor's link; nil: none
	halted    bool      // nothing is computed until Resume
	length    int       // positions queued so far
	computed  int       // positions in the cache
	reach     int       // positions in the cache once the steps taken from pending are computed
	truncate  bool      // the next step truncates the cache to its base
	sound     int       // positions of the cache from here on are of an earlier line or epoch, until a step truncates it
	forward   int       // positions from here on are sent to the successor
	replaying bool      // the successor is being brought up to date
	pending   []*step
	grant     Grant
	barred    *protocol.Error // why its client may not have it any more; nil: it may
	cells     int             // KV cells taken, including those ahead of its positions
	stepped   bool            // a step has been received
	worked    time.Time       // when a step was last received or computed
	ended     bool
	given     []int32   // tokens of the answer from Resume, for the loop to append
	prefix    []uint64  // hashes of its prefix blocks
	buf       *replay   // rows sent to the successor; nil at the last stage
	text      *step     // of a session of texts: the rows of one that has not come whole yet
	texts     int       // received so far
	rows      int       // of a session of readings: received so far, those that were taken back included
	asked     int       // of a session of readings: readings whose step has come
	computing bool      // a pass with rows of it is running
	decoding  bool      // its last step was one row
	lap       time.Time // when its last decode was computed
	lapAt     int       // the position of that
	counted   int       // positions that were settled when its last decode was computed

	// used only by the loop
	sampled  []int32
	format   Format // of the answer; nil: any
	embedded int    // texts whose embeddings were sent
	read     int    // readings that were sent
}

func newSession(s *Stage, k key, o *protocol.Open, client Stream, seq int) *session {
	ctx, cancel := context.WithCancel(s.ctx)
	sess := &session{
		stage: s, key: k, open: o, peer: client.Peer(), swarm: client.Swarm(), seq: seq, reserved: int(o.MaxTokensTotal), stages: int(o.Stages),
		stream: client, opening: true, epoch: o.Epoch, linkEpoch: o.Epoch, prev: o.Prev, halted: o.Wait, prefix: o.Prefix, unlink: func() {},
		ctx: ctx, cancel: cancel, gone: make(chan struct{}), room: make(chan struct{}, 1),
		tagKey: o.TagKey, lead: s.newLead(o), sound: math.MaxInt, promptIn: s.promptCodec(o, time.Now()),
		grant: everything, seat: freely{},
	}
	sess.tally.opened = time.Now()
	sess.worked = sess.tally.opened
	sess.heard.Store(sess.tally.opened)
	if o.Sampling != nil {
		sess.sampled = append(sess.sampled, o.Sampling.Sampled...)
		sess.sampling = forEngine(o.Sampling)
	}
	if !s.cfg.last() && !sess.embeds() {
		sess.buf = newReplay(&s.budget, s.cfg.Width)
	}
	sess.client = sess.newClient()
	sess.idle = time.AfterFunc(s.cfg.Idle, func() {
		sess.fail(protocol.Errorf(protocol.Code_CODE_TIMEOUT, "the session was idle for %s", s.cfg.Idle))
	})
	return sess
}

// newClient returns a sender to the client that accept starts. A client whose stream is
// lost may reconnect; listen ends the session if not.
func (sess *session) newClient() *sender {
	return newSender(nil, func(error) {}, sess.stage.poke, sess.sent)
}

// accept sends Opened on the client's stream, before all that has been queued for it
// since the session was admitted. If the session has ended since, the client gets only
// the reason.
func (sess *session) accept(st Stream, opened *protocol.Opened) {
	s, now := sess.stage, time.Now()
	s.mu.Lock()
	if sess.stream != st { // the client has come back on another one
		s.mu.Unlock()
		_ = st.Reset()
		return
	}
	opened.Floor = sess.floor()
	if sess.accepted.IsZero() { // rows may have come since that the client has sent early
		opened.Floor = sess.floorAt(int(opened.Cached))
	}
	client, ended := sess.client, sess.ended
	sess.opening = false
	sess.heard.Store(now)
	if sess.accepted.IsZero() {
		sess.accepted, sess.worked = now, now
	}
	s.mu.Unlock()
	var first []byte
	if !ended {
		first, _ = protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: opened}}, nil) // it is always encodable
	}
	client.start(st, first, false)
}

// forEngine returns the sampling parameters without the parts that the engine does
// not read: they may be large, and would be sent to its process with each pass.
func forEngine(p *protocol.Sampling) *protocol.Sampling {
	p = proto.CloneOf(p)
	p.StopIds, p.Sampled, p.Format, p.Scored, p.Readings = nil, nil, nil, nil, nil
	return p
}

// comeBack attaches the client's new stream to a session, which then waits for
// Resume.
func (sess *session) comeBack(o *protocol.Open, client Stream) (*session, int, *protocol.Error) {
	s := sess.stage
	if !o.Again || client.Peer() != sess.peer || client.Swarm() != sess.swarm {
		return nil, 0, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "session is open already")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.ended || o.Epoch <= sess.epoch {
		return nil, 0, protocol.Errorf(protocol.Code_CODE_STALE_EPOCH, "the session is in epoch %d", sess.epoch)
	}
	sess.client.drop()
	sess.streamTo.abandon()
	sess.stream, sess.streamTo, sess.opening = client, nil, true
	sess.client = sess.newClient()
	sess.heard.Store(time.Now())
	sess.halt(o.Epoch)
	n, again := sess.position()
	if sess.buf != nil && !again {
		n = 0
	}
	return sess, n, nil
}

// halt begins an epoch: it drops the queued steps and closes the links. Called with
// stage.mu held.
func (sess *session) halt(epoch uint64) {
	sess.epoch, sess.halted = epoch, true
	sess.drop()
	sess.firstLine(sess.length)
	sess.unlink()
	sess.in, sess.linkTo = nil, nil
	if sess.next != nil {
		sess.next.drop()
	}
	select {
	case sess.room <- struct{}{}:
	default:
	}
}

// position returns how many positions are computed, and whether they can be replayed.
// A computed position counts only once its rows are kept, a moment later. Called with
// stage.mu held.
func (sess *session) position() (n int, again bool) {
	if sess.buf == nil {
		return sess.computed, false
	}
	kept, ok := sess.buf.kept()
	if !ok {
		return sess.computed, false
	}
	return min(sess.computed, kept), true
}

// floor returns the lowest position, other than 0, from which the session can certainly
// go on. Called with stage.mu held.
func (sess *session) floor() uint32 { return sess.floorAt(sess.reach) }

// floorAt is floor for a session with so many positions in its cache.
func (sess *session) floorAt(reach int) uint32 {
	if back := sess.stage.cfg.Back; back > 0 {
		return uint32(max(0, reach-back))
	}
	return 0
}

// resume continues after a halt.
func (sess *session) resume(r *protocol.Resume) error {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	at, from := int(r.At), int(r.ForwardFrom)
	switch {
	case sess.ended || r.Epoch < sess.epoch:
		return nil // a Halt has overtaken it
	case r.Epoch != sess.epoch || !sess.halted:
		return fmt.Errorf("nothing to resume in epoch %d", r.Epoch)
	case at > sess.computed:
		return fmt.Errorf("resume at position %d, where %d are computed", at, sess.computed)
	case from < at && (sess.buf == nil || !sess.buf.has(at)):
		return fmt.Errorf("positions %d-%d cannot be replayed", from, at)
	case r.Stages < 1 || r.Stages > protocol.MaxStages || r.Stages > 1 && r.Next == nil:
		return errors.New("resume without a successor")
	case len(r.TagKey) != 0 && len(r.TagKey) != protocol.TagKeySize:
		return errTagKey
	case !inVocabulary(r.Sampled, s.cfg.Vocab):
		return errors.New("a token of the answer is not in the vocabulary")
	}
	if sess.computed == 0 { // else the client has reconnected, and they are known
		sess.given = r.Sampled
	}
	sess.halted, sess.linkEpoch, sess.prev, sess.stages = false, r.Epoch, r.Prev, int(r.Stages)
	sess.length, sess.truncate, sess.forward = at, true, from
	sess.firstLine(at)
	if len(r.TagKey) > 0 {
		sess.tagKey = r.TagKey
	}
	s.wakeLinks()
	if r.Stages > 1 {
		sess.connect(r.Next, from, at)
	}
	return nil
}

// connect connects to the successor while the client still opens other stages, so
// that the first step is not delayed, and replays the positions from..to-1 that
// it is missing. Called with stage.mu held.
func (sess *session) connect(next *protocol.Hop, from, to int) {
	if sess.ended {
		return
	}
	epoch := sess.linkEpoch
	out := sess.newLink(epoch, next)
	sess.next, sess.replaying = out, from < to
	go func() {
		st, err := sess.dialPatiently(next)
		if err != nil {
			out.lost(err)
			return
		}
		link, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{
			Session: sess.open.Session, Epoch: epoch, Index: next.Index,
		}}}, nil)
		if err != nil {
			out.lost(err)
			return
		}
		early := sess.stage.earlyRows(sess, peer.ID(next.Peer), time.Now())
		out.grant(uint64(early))
		out.start(st, link, withCredits(st))
		go readCredits(st, bufio.NewReaderSize(st, 64), out, func(credit uint64) {
			sess.stage.answered(sess, peer.ID(next.Peer), early > 0, credit)
		})
		if from < to {
			sess.replay(out, epoch, from, to)
		}
		sess.followPath(st, out, next, epoch)
	}()
}

// newLink returns a sender for the link to the successor.
func (sess *session) newLink(epoch uint64, next *protocol.Hop) *sender {
	out := newSender(nil, func(err error) { sess.linkLost(epoch, true, err) }, sess.stage.poke, func(phase Phase, took time.Duration) {
		sess.sent(phase, took)
		sess.guessOn()
	})
	out.onRow = sess.stage.stats.wrote
	out.onChunk = func(bytes int, took time.Duration) { sess.stage.wroteChunk(peer.ID(next.Peer), bytes, took) }
	return out
}

// dialPatiently dials the successor, and tries again for a moment: it may be on its
// way here, as when both have lost their relay.
func (sess *session) dialPatiently(next *protocol.Hop) (st Stream, err error) {
	again := backoff.Backoff{First: dialAgain, Most: dialAgain}
	for end := time.Now().Add(dialFor); ; {
		if st, err = sess.dial(next); err == nil || time.Now().After(end) || again.Wait(sess.ctx) != nil {
			return st, err
		}
	}
}

func (sess *session) dial(next *protocol.Hop) (Stream, error) {
	ctx, cancel := context.WithTimeout(sess.ctx, dialTime)
	defer cancel()
	id, err := peer.IDFromBytes(next.Peer)
	if err != nil {
		return nil, fmt.Errorf("the successor's peer ID: %w", err)
	}
	return sess.stage.dial.OpenStage(ctx, sess.swarm, id, next.Offer)
}

// replay sends positions again, as prefill chunks; the loop skips the session
// meanwhile.
func (sess *session) replay(out *sender, epoch uint64, from, to int) {
	s := sess.stage
	for at := from; at < to; {
		rows, err := sess.buf.read(at, to-at)
		if err != nil || !out.waitRoom(sess.ctx) {
			out.lost(errors.Join(errNoReplay, err))
			return
		}
		sess.send(out, &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{
			Epoch: epoch, Base: uint32(at), Rows: uint32(rows.end - at), Codec: rows.codec,
		}}}, rows.bytes, control)
		s.stats.replayed.Add(int64(len(rows.bytes)))
		at = rows.end
	}
	s.mu.Lock()
	if sess.next == out {
		sess.replaying = false
	}
	s.mu.Unlock()
	s.poke()
}

// linkLost reports a broken link of an epoch to the client, which decides what to
// do. A link that has been replaced is not reported: the client would take it for the
// new one.
func (sess *session) linkLost(epoch uint64, successor bool, err error) {
	s := sess.stage
	s.mu.Lock()
	over := sess.ended || sess.halted || sess.linkEpoch != epoch
	client, now := sess.client, sess.epoch
	s.mu.Unlock()
	if over {
		return
	}
	s.cfg.Log.Info("lost a link", "index", sess.open.Index, "successor", successor, "error", err)
	sess.trouble(client, &protocol.Trouble{Epoch: now, Code: protocol.Code_CODE_PEER_LOST, Successor: successor})
}

// drain notifies the client that the stage is leaving.
func (sess *session) drain() {
	s := sess.stage
	s.mu.Lock()
	client, epoch, ended := sess.client, sess.epoch, sess.ended
	s.mu.Unlock()
	if !ended {
		sess.trouble(client, &protocol.Trouble{Epoch: epoch, Code: protocol.Code_CODE_DRAINING})
	}
}

// trouble notifies the client of something that it may have to act on.
func (sess *session) trouble(client *sender, t *protocol.Trouble) {
	sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Trouble{Trouble: t}}, nil, control)
}

// fail ends the session with an error, which the client receives.
func (sess *session) fail(e *protocol.Error) { sess.end(e) }

// end ends the session; a nil error means that its client asked for it.
func (sess *session) end(e *protocol.Error) {
	if e == nil {
		sess.endAs("bye", nil)
		return
	}
	sess.endAs(e.Code.Name(), e)
}

// endAs ends the session once; the loop then frees its KV.
func (sess *session) endAs(outcome string, e *protocol.Error) {
	sess.endOnce.Do(func() {
		defer func() {
			r := sess.report(outcome)
			sess.stage.cfg.Observer.Closed(r)
			sess.stage.say("a session has ended", "peer", sess.peer, "stage", r.Index+1, "of", r.Stages, "outcome", r.Outcome, "rows", r.Rows, "took", time.Since(r.Opened).Round(time.Millisecond))
		}()
		sess.idle.Stop()
		s := sess.stage
		sess.settleUp()
		sess.seat.Leave()
		s.mu.Lock()
		sess.ended = true
		sess.drop()
		client, next := sess.client, sess.next
		if old := sess.stream; sess.streamTo != nil { // no sender closes it, and its client may not
			time.AfterFunc(writeStall, func() { _ = old.Reset() })
		}
		sess.unlink()
		s.mu.Unlock()
		sess.lead.close()
		if e != nil {
			if b, err := protocol.AppendFrame(nil, e.Fail(), nil); err == nil {
				client.push(outgoing{frame: b})
			}
		}
		client.finish()
		if next != nil {
			next.finish()
			next.dropBefore()
		}
		sess.cancel()
		s.poke()
		go func() { // once the loop has ended, nothing else frees it
			select {
			case <-sess.gone:
			case <-s.done:
				s.mu.Lock()
				if s.sessions[sess.key] == sess {
					delete(s.sessions, sess.key)
					close(sess.gone)
				}
				s.mu.Unlock()
			}
		}()
	})
}

// queuedRows is called with stage.mu held.
func (sess *session) queuedRows() int {
	n := 0
	if sess.text != nil {
		n = sess.text.rows
	}
	for _, st := range sess.pending {
		n += st.rows
	}
	return n
}

// readClient serves the client's stream after its Open until it ends. A stream that
// breaks does not end the session: its client may reconnect within Config.Silence.
func (sess *session) readClient(st Stream, r *bufio.Reader) {
	limits := protocol.Limits{Header: sess.longestFrame()}
	for {
		f, _, err := protocol.ReadFrameWithin(r, limits)
		if errors.Is(err, protocol.ErrFrame) && sess.current(st) {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
			return // the stream is closed once the error is sent
		}
		if err != nil || !sess.current(st) {
			_ = st.Reset()
			return
		}
		sess.heard.Store(time.Now())
		switch k := f.Kind.(type) {
		case *protocol.Frame_Step:
			if !sess.stage.cfg.first() {
				err = errors.New("only the first stage takes steps from the client")
			} else if !sess.take(k.Step, nil, nil) {
				return
			}
		case *protocol.Frame_Ping:
			err = sess.learn(k.Ping.Prefix)
			sess.pong()
		case *protocol.Frame_Halt:
			if err = sess.resumable(); err == nil {
				err = sess.takeHalt(k.Halt)
			}
		case *protocol.Frame_Resume:
			if err = sess.resumable(); err == nil {
				err = sess.resume(k.Resume)
			}
		case *protocol.Frame_Bye:
			_ = sess.learn(k.Bye.Prefix)
			sess.end(nil)
			return
		case *protocol.Frame_Move:
			if sess.leaveStream(st) {
				drain(st, r)
				return
			}
			err = errNoMove
		default:
			err = errors.New("unexpected frame")
		}
		if err != nil {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
			return
		}
	}
}

// longestFrame returns the longest frame, in bytes, that the session's client may
// send: a step or an offer, and, in Ping and Resume, at most six bytes per token for
// its ID and its part of a prefix hash.
func (sess *session) longestFrame() int { return 16<<10 + 6*sess.reserved }

// current reports whether a stream is the one that the client uses now.
func (sess *session) current(st Stream) bool {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	return sess.stream == st
}

// learn appends prefix hashes. It returns an error if there are more than the session
// has tokens for.
func (sess *session) learn(prefix []uint64) error {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	if len(sess.prefix)+len(prefix) > sess.reserved/protocol.PrefixBlock {
		return errors.New("more prefix hashes than the session has tokens for")
	}
	sess.prefix = append(sess.prefix, prefix...)
	return nil
}

func (sess *session) pong() {
	s := sess.stage
	s.mu.Lock()
	length := sess.computed
	if sess.lead != nil { // the first stage alone knows which of its rows are right
		length = sess.sure()
	}
	p := &protocol.Pong{
		Epoch: sess.epoch, Line: sess.line, Length: uint32(length), Waiting: uint32(sess.queuedRows()), Computing: sess.computing,
		Passes: uint64(s.stats.passes.Load()), Relayed: sess.next != nil && sess.next.relayed(),
	}
	client := sess.client
	s.mu.Unlock()
	sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Pong{Pong: p}}, nil, control)
}

// takeHalt answers a Halt.
func (sess *session) takeHalt(h *protocol.Halt) error {
	s := sess.stage
	s.mu.Lock()
	if h.Epoch < sess.epoch {
		s.mu.Unlock()
		return nil // overtaken by a later one
	}
	if h.Epoch == sess.epoch {
		s.mu.Unlock()
		return fmt.Errorf("epoch %d after epoch %d", h.Epoch, sess.epoch)
	}
	sess.halt(h.Epoch)
	n, again := sess.position()
	a := &protocol.Halted{Epoch: h.Epoch, Length: uint32(n), CanReplay: again, Floor: sess.floor()}
	client := sess.client
	s.mu.Unlock()
	sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Halted{Halted: a}}, nil, control)
	return nil
}

// link attaches a predecessor's stream to the session. It returns false if the Link
// is not from its predecessor, or not of its current epoch.
func (sess *session) link(ctx context.Context, st Stream, l *protocol.Link) (linked context.Context, in *inflow, ok bool) {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.embeds() && !withCredits(st) || sess.ended || sess.halted || sess.linkEpoch != l.Epoch || sess.linked > l.Epoch || st.Swarm() != sess.swarm || !bytes.Equal(sess.prev, []byte(st.Peer())) {
		return nil, nil, false
	}
	sess.linked = l.Epoch + 1 // no second link in this epoch
	ctx, unlink := context.WithCancel(ctx)
	sess.unlink = unlink
	context.AfterFunc(ctx, func() { _ = st.Reset() })
	if withCredits(st) {
		in = &inflow{sess: sess, back: newSender(st, func(error) {}, func() {}, sess.sent)}
		s.credit(in)
	}
	sess.in = in
	return ctx, in, true
}

// readLink serves the predecessor's stream after its Link. A link with credit is
// always read: there is space for every row granted.
func (sess *session) readLink(linked context.Context, epoch uint64, in *inflow, r *bufio.Reader) {
	rows := protocol.MaxRows
	if in != nil {
		rows = protocol.MaxLinkRows
		defer in.back.drop()
	}
	limits := protocol.Limits{Header: 8 << 10, Payload: 4 * rows * sess.stage.cfg.Width}
	for {
		f, payload, err := protocol.ReadFrameWithin(r, limits)
		if err != nil {
			if linked.Err() != nil {
				return
			}
			if errors.Is(err, protocol.ErrFrame) {
				sess.stage.cfg.Log.Info("a predecessor sent an invalid frame", "index", sess.open.Index, "error", err)
			}
			sess.linkLost(epoch, false, err)
			return
		}
		if f.GetMove() != nil && sess.leaveLink(in) {
			return
		}
		k, ok := f.Kind.(*protocol.Frame_Step)
		if !ok {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "unexpected frame from the predecessor"))
			return
		}
		if !sess.take(k.Step, payload, in) {
			return
		}
	}
}

// take checks a step and queues it; on a link without credit it waits for space in
// the queue. It returns false once the session has ended.
func (sess *session) take(p *protocol.Step, payload []byte, in *inflow) bool {
	st, err := sess.parse(p, payload)
	if err == nil && in != nil {
		st.link = in
		err = sess.stage.came(in, st.rows)
	}
	if err != nil {
		sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
		return false
	}
	for {
		queued, err := true, error(nil)
		switch {
		case sess.embeds():
			err = sess.queueTexts(st)
		case sess.lead != nil:
			err = sess.takeKnown(st)
		default:
			queued, err = sess.queue(st)
		}
		if err != nil {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
			return false
		}
		if queued {
			sess.idle.Reset(sess.stage.cfg.Idle)
			sess.stage.poke()
			return true
		}
		select {
		case <-sess.room:
		case <-sess.ctx.Done():
			return false
		}
	}
}

func (sess *session) parse(p *protocol.Step, payload []byte) (*step, error) {
	cfg := &sess.stage.cfg
	st := &step{epoch: p.Epoch, base: int(p.Base), rows: int(p.Rows), sample: p.Sample, back: p.Back}
	most := min(protocol.MaxRows, cfg.MaxBatch)
	switch {
	case sess.embeds(): // it may be of many texts, which take passes of their own
		most = protocol.MaxLinkRows
	case sess.scores():
		most = min(most, maxScoredRows)
	case p.Back && !sess.reads():
		return nil, errors.New("a step that takes back, in a session that draws tokens")
	}
	if st.rows < 1 || st.rows > most {
		return nil, fmt.Errorf("a step of %d rows, where up to %d are taken", st.rows, most)
	}
	if p.Base > uint32(sess.reserved) || st.base+st.rows > sess.reserved {
		return nil, fmt.Errorf("a step to position %d of a session of %d tokens", uint64(p.Base)+uint64(p.Rows), sess.reserved)
	}
	if err := sess.parseEnds(p, st); err != nil {
		return nil, err
	}
	if err := sess.parseLine(p, st); err != nil {
		return nil, err
	}
	if cfg.first() {
		if len(p.Tokens) != st.rows {
			return nil, fmt.Errorf("%d tokens for %d rows", len(p.Tokens), st.rows)
		}
		for _, id := range p.Tokens {
			if id < 0 || int(id) >= cfg.Vocab {
				return nil, fmt.Errorf("token %d is not in the vocabulary of %d", id, cfg.Vocab)
			}
		}
		st.tokens = p.Tokens
		return st, nil
	}
	x, err := protocol.Tensor(p.Codec, payload, st.rows*cfg.Width)
	st.hidden = x
	return st, err
}

// queue appends a step to the session. It returns false if the queue is full, and an
// error if the step does not fit the session's position.
func (sess *session) queue(st *step) (bool, error) {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	return sess.queueLocked(st)
}

// full reports whether a step must wait for space. Tokens are small and their number is
// bounded, so a client never waits. Called with stage.mu held.
func (sess *session) full(st *step) bool {
	s := sess.stage
	return st.link == nil && !s.cfg.first() && (len(sess.pending) >= maxPending || sess.queuedRows() >= s.window())
}

// queueLocked is called with stage.mu held.
func (sess *session) queueLocked(st *step) (bool, error) {
	s := sess.stage
	switch {
	case sess.ended || st.epoch < sess.epoch || sess.halted:
		s.left(st)
		return true, nil // of a past epoch: dropped
	case st.epoch > sess.epoch:
		if sess.tooEarly(st) {
			s.left(st)
			return true, nil
		}
		if st.base > sess.length {
			return false, fmt.Errorf("epoch %d begins at position %d, where the session has %d", st.epoch, st.base, sess.length)
		}
		sess.drop()
		sess.epoch, sess.length, sess.truncate = st.epoch, st.base, true
		sess.firstLine(st.base)
		if !s.cfg.last() { // which has taken nothing that comes again
			sess.asked, sess.rows = 0, 0
		}
	}
	if s.cfg.first() { // which counts the lines
		st.line = sess.line
	}
	switch {
	case st.line < sess.line || st.line == sess.line && sess.dead:
		s.left(st)
		return true, nil // of guesses that were wrong: dropped
	case st.line > sess.line:
		if st.base > sess.length {
			return false, fmt.Errorf("line %d begins at position %d, where the session has %d", st.line, st.base, sess.length)
		}
		if sess.full(st) { // or as many rows as there are positions would wait, of a line each
			return false, nil
		}
		sess.beginLine(st.line, st.base)
	case st.base != sess.length && !(st.back && st.base < sess.length):
		return false, wrongBase(st.base, sess.length)
	case sess.full(st):
		return false, nil
	}
	if err := sess.countReading(st); err != nil {
		return false, err
	}
	st.truncate, sess.truncate = sess.truncate || st.base < sess.length, false
	s.turn++
	st.turn, st.queued = s.turn, time.Now()
	sess.stepped, sess.worked = true, st.queued
	sess.length = st.base + st.rows
	if st.guessed() {
		sess.settle(min(st.settled, st.base))
	} else {
		sess.settle(sess.length)
	}
	sess.pending = append(sess.pending, st.chunks(s.cfg.Width)...)
	return true, nil
}

// chunks cuts a step into such of at most mixedRows: no pass is longer for one session's
// sake, and each finds a pass even where decodes are always ready.
func (st *step) chunks(width int) (out []*step) {
	if st.rows <= mixedRows {
		return []*step{st}
	}
	for at := 0; at < st.rows; at += mixedRows {
		p, first := st.part(at, min(at+mixedRows, st.rows), width), at == 0
		c := *st
		c.base, c.rows, c.tokens, c.hidden = p.base, p.rows, p.tokens, p.hidden
		c.truncate, c.back = st.truncate && first, st.back && first
		c.sample = st.sample && at+p.rows == st.rows
		out = append(out, &c)
	}
	return out
}
