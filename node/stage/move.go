package stage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
)

// A stream of a session continues on another connection without loss: both exist for
// a moment, each side ends what it sends on the old one with a Move, and what comes
// on the new one is read only after that. Nothing is halted, so a step that is under
// way arrives by the old path and the next one takes the new one.

const (
	moveTime  = 5 * time.Second        // for the other side to agree to a move
	moveAgain = 250 * time.Millisecond // between the first attempts to move
	moveMost  = 10 * time.Second       // between later ones
	moveAhead = 16                     // rows that a link may carry before its successor has read all of the old one's
)

// handover is a stream that is to continue another, once that has been read to its
// end.
type handover struct {
	st    Stream
	back  *sender       // of a link: to the predecessor
	leave func()        // of a link: ends the old one
	end   func()        // of a link: ends the new one
	ready chan struct{} // closed when the old stream has been read
	over  chan struct{} // closed when that will not happen any more
}

func newHandover(st Stream) *handover {
	return &handover{st: st, ready: make(chan struct{}), over: make(chan struct{})}
}

// abandon gives the handover up. It is called at most once, and h may be nil.
func (h *handover) abandon() {
	if h != nil {
		close(h.over)
	}
}

// moveFrame is the frame that ends the old stream, and agrees to the new one.
func moveFrame() *protocol.Frame {
	return &protocol.Frame{Kind: &protocol.Frame_Move{Move: &protocol.Move{}}}
}

var errNoMove = errors.New("a Move, where no stream is to continue this one")

// serveMove serves a stream that continues another one.
func (v *Server) serveMove(st Stream, r *bufio.Reader, m *protocol.Move, hold *hold) {
	sess := v.sessionOf(m)
	switch {
	case sess == nil:
		_ = st.Reset()
	case m.Link:
		sess.serveMovedLink(st, r, m.Epoch, hold)
	default:
		sess.serveMovedClient(st, r, hold)
	}
}

// sessionOf returns the session that a Move names, or nil.
func (v *Server) sessionOf(m *protocol.Move) *session {
	if len(m.Session) != 16 {
		return nil
	}
	for _, s := range v.Stages() {
		s.mu.Lock()
		sess := s.sessions[key{[16]byte(m.Session), m.Index}]
		s.mu.Unlock()
		if sess != nil {
			return sess
		}
	}
	return nil
}

func (sess *session) serveMovedClient(st Stream, r *bufio.Reader, hold *hold) {
	h := sess.moveClient(st)
	if h == nil {
		_ = st.Reset()
		return
	}
	hold.release()
	select {
	case <-h.ready:
		sess.readClient(st, r)
	case <-h.over:
		_ = st.Reset()
	case <-sess.ctx.Done(): // its sender closes it
	}
}

// moveClient makes a stream continue the client's, once that is read to its end. It
// returns nil if the stream is not the client's, or another is about to do so.
func (sess *session) moveClient(st Stream) *handover {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.ended || sess.opening || sess.streamTo != nil || sess.peer != st.Peer() || sess.swarm != st.Swarm() {
		return nil
	}
	old, fresh := sess.client, newSender(st, func(error) {}, s.poke, sess.sent)
	sess.send(fresh, moveFrame(), nil, control)
	sess.client, sess.streamTo = fresh, newHandover(st)
	sess.heard.Store(time.Now())
	sess.handOver(old, fresh)
	return sess.streamTo
}

// handOver makes a sender continue another one.
func (sess *session) handOver(old, fresh *sender) {
	if last, err := protocol.AppendFrame(nil, moveFrame(), nil); err == nil { // it is always encodable
		old.handOver(last, fresh)
	}
}

// leaveStream is called when the client has ended what it sends on a stream. It
// returns false if no other continues it.
func (sess *session) leaveStream(st Stream) bool {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	h := sess.streamTo
	if h == nil || sess.stream != st {
		return false
	}
	sess.stream, sess.streamTo = h.st, nil
	close(h.ready)
	return true
}

// drain waits for the client to close a stream that it has left, which it does when it
// has read all that was sent there.
func drain(st Stream, r io.Reader) {
	late := time.AfterFunc(writeStall, func() { _ = st.Reset() })
	defer late.Stop()
	_, _ = io.Copy(io.Discard, r)
	_ = st.Reset()
}

func (sess *session) serveMovedLink(st Stream, r *bufio.Reader, epoch uint64, hold *hold) {
	linked, in, h := sess.moveLinkIn(st, epoch)
	if h == nil {
		_ = st.Reset()
		return
	}
	hold.release()
	defer h.back.drop()
	select {
	case <-h.ready:
		sess.readLink(linked, epoch, in, r)
	case <-linked.Done():
	}
}

// moveLinkIn makes a stream continue the predecessor's link, once that is read to its
// end. Until then it has credit for a few rows, which must have room in the queue, or many
// moves would add up to any number of rows. It returns a nil handover if they have none, if
// the stream is not the predecessor's or not of this epoch, or if another is about to do so.
func (sess *session) moveLinkIn(st Stream, epoch uint64) (linked context.Context, in *inflow, h *handover) {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.ended || sess.halted || sess.in == nil || sess.in.full() || sess.linkTo != nil || !withCredits(st) ||
		sess.linkEpoch != epoch || sess.linked != epoch+1 || sess.swarm != st.Swarm() || !bytes.Equal(sess.prev, []byte(st.Peer())) {
		return nil, nil, nil
	}
	h = newHandover(st)
	linked, h.end = context.WithCancel(sess.ctx)
	context.AfterFunc(linked, func() { _ = st.Reset() })
	h.leave = sess.unlink
	sess.unlink = func() { h.leave(); h.end() }
	h.back = newSender(st, func(error) {}, func() {}, sess.sent)
	sess.send(h.back, moveFrame(), nil, control)
	sess.send(h.back, &protocol.Frame{Kind: &protocol.Frame_Credit{Credit: &protocol.Credit{Rows: moveAhead}}}, nil, control)
	sess.linkTo = h
	return linked, sess.in, h
}

// leaveLink is called when the predecessor has ended what it sends on a link. It
// returns false if no other stream continues it.
func (sess *session) leaveLink(in *inflow) bool {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	h := sess.linkTo
	if h == nil || in == nil || sess.in != in {
		return false
	}
	in.base, in.back = in.arrived, h.back
	in.granted = max(in.granted, in.arrived+moveAhead)
	sess.send(in.back, &protocol.Frame{Kind: &protocol.Frame_Credit{Credit: &protocol.Credit{Rows: in.granted - in.base}}}, nil, control)
	h.leave()
	sess.unlink, sess.linkTo = h.end, nil
	close(h.ready)
	return true
}

// followPath moves the link to the successor whenever there is a better path, until
// the link is replaced or the session ends.
func (sess *session) followPath(st Stream, out *sender, next *protocol.Hop, epoch uint64) {
	again := backoff.Backoff{First: moveAgain, Most: moveMost}
	for better := st.Better(); better != nil && withCredits(st); better = st.Better() {
		select {
		case <-better:
		case <-out.over: // else each repair of a relayed link would leave one of these behind
			return
		case <-sess.ctx.Done():
			return
		}
		if !sess.uses(out) {
			return
		}
		newer, moved, err := sess.moveLinkOut(out, next, epoch)
		if err == nil {
			st, out = newer, moved
			again.Reset()
		}
		if again.Wait(sess.ctx) != nil {
			return
		}
	}
}

// uses reports whether a sender is the one to the successor, so that it may be moved.
func (sess *session) uses(out *sender) bool {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	return sess.mayMove(out)
}

// mayMove is called with stage.mu held.
func (sess *session) mayMove(out *sender) bool {
	return !sess.ended && !sess.halted && sess.next == out
}

var errSuperseded = errors.New("stage: the link has been replaced")

// moveLinkOut makes a new stream to the successor continue the link.
func (sess *session) moveLinkOut(old *sender, next *protocol.Hop, epoch uint64) (Stream, *sender, error) {
	st, err := sess.dial(next)
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(st, 64)
	if err := sess.askToMove(st, r, next, epoch); err != nil {
		_ = st.Reset()
		return nil, nil, err
	}
	s := sess.stage
	out := sess.newLink(epoch, next)
	s.mu.Lock()
	if !sess.mayMove(old) {
		s.mu.Unlock()
		_ = st.Reset()
		return nil, nil, errSuperseded
	}
	sess.next = out
	sess.handOver(old, out)
	s.mu.Unlock()
	out.start(st, nil, true)
	go readCredits(st, r, out, nil)
	s.cfg.Log.Info("a link has moved", "index", sess.open.Index, "relayed", st.Relayed())
	return st, out, nil
}

// askToMove asks the successor to let a stream continue the link.
func (sess *session) askToMove(st Stream, r *bufio.Reader, next *protocol.Hop, epoch uint64) error {
	if !withCredits(st) {
		return errors.New("the successor is of an older version")
	}
	ask, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Move{Move: &protocol.Move{
		Session: sess.open.Session, Index: next.Index, Link: true, Epoch: epoch,
	}}}, nil)
	if err != nil {
		return err
	}
	_ = st.SetDeadline(time.Now().Add(moveTime))
	if _, err := st.Write(ask); err != nil {
		return err
	}
	f, _, err := protocol.ReadFrameWithin(r, protocol.Limits{Header: 32})
	if err == nil && f.GetMove() == nil {
		err = errors.New("unexpected frame from the successor")
	}
	return errors.Join(err, st.SetDeadline(time.Time{}))
}
