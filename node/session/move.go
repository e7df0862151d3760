package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
)

// A stage's stream moves to a better path without loss, while tokens flow: from a
// relay to a direct connection, or to another circuit before this one is cut. The
// client asks on the new stream; once the stage has agreed, each side ends what it
// sends on the old stream with a Move, and continues on the new one. What comes on the
// new one is read after that, so nothing is lost, doubled or out of order. A move that
// fails halfway is a stream that broke: the repair opens the stage again.

// Move is a change of the path of a stage's stream, or of its link to its successor,
// without a repair.
type Move struct {
	Hop     Hop
	Link    bool          // of the link, which the stage itself has moved
	Token   int           // tokens of the answer that the client had
	Relayed bool          // the new path crosses a relay, too
	Took    time.Duration // until the new stream was in use; 0: not known, as of a link
}

// Path is how a stage was reached.
type Path struct {
	Relayed     bool // the client's stream crosses a relay
	LinkRelayed bool // the stage's link to its successor does

	// Codec is that of the rows of the prompt that the stage sends on; F32 at the last.
	Codec protocol.TensorCodec
}

// pathsOf lists the paths of stages.
func pathsOf(stages []*stage) (paths []Path) {
	for _, g := range stages {
		st := g.stream()
		paths = append(paths, Path{Relayed: st != nil && st.Relayed(), LinkRelayed: g.relayed, Codec: g.promptIn})
	}
	return paths
}

const (
	handOverTime = 2 * time.Second // for the last of what was sent on the old stream to arrive
	moveAgain    = 250 * time.Millisecond
	moveMost     = 10 * time.Second
)

// moving is an attempt to move a stage's stream.
type moving struct {
	done chan struct{} // closed when it has succeeded or failed
	old  Stream
	r    *bufio.Reader // of the new stream
	err  error
}

// followPath moves a stage's stream whenever there is a better path, until the session
// is over or the stage has left it.
func (s *session) followPath(g *stage) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	again := backoff.Backoff{First: moveAgain, Most: moveMost}
	for better := g.stream().Better(); better != nil; better = g.stream().Better() {
		select {
		case <-better:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		switch err := s.move(ctx, g); {
		case errors.Is(err, errLeft):
			return
		case err == nil:
			again.Reset()
			select {
			case s.events <- event{g: g, moved: &Move{Hop: g.hop, Relayed: g.stream().Relayed(), Took: time.Since(began)}}:
			case <-ctx.Done():
				return
			}
		}
		if again.Wait(ctx) != nil {
			return
		}
	}
}

var (
	errLeft   = errors.New("session: the stage has no part in the session any more")
	errUnread = errors.New("session: the stage's last stream has not been read to its end")
)

// move makes a new stream continue the stage's.
func (s *session) move(ctx context.Context, g *stage) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	m, err := g.beginMove()
	if err != nil {
		return err
	}
	defer close(m.done)
	st, err := s.dial.OpenStage(ctx, g.hop.Peer, g.hop.Offer)
	if err != nil {
		m.err = err
		return err
	}
	m.r = bufio.NewReader(st)
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	if m.err = g.askToMove(st, m.r); m.err == nil {
		m.err = g.switchTo(st, m)
	}
	if !stop() && m.err == nil {
		m.err = ctx.Err() // the new stream was reset
	}
	if m.err != nil {
		_ = st.Reset()
	}
	return m.err
}

// beginMove notes an attempt to move. There is none while the stream before the present
// one has not been read to its end: that is continued by the present one, not by a third.
func (g *stage) beginMove() (*moving, error) {
	g.at.Lock()
	defer g.at.Unlock()
	switch {
	case g.left:
		return nil, errLeft
	case g.moving != nil && g.moving.err == nil: // err was written by this goroutine
		return nil, errUnread
	}
	g.moving = &moving{done: make(chan struct{})}
	return g.moving, nil
}

// askToMove asks a stage to let a stream continue its present one.
func (g *stage) askToMove(st Stream, r *bufio.Reader) error {
	ask, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Move{Move: &protocol.Move{Session: g.of, Index: g.index}}}, nil)
	if err != nil {
		return err
	}
	if _, err := st.Write(ask); err != nil {
		return err
	}
	f, _, err := protocol.ReadFrameWithin(r, protocol.Limits{Header: 32})
	if err == nil && f.GetMove() == nil {
		err = fmt.Errorf("%w: a move neither accepted nor refused", protocol.ErrFrame)
	}
	return err
}

// switchTo ends what is sent on the present stream, and sends on another from now on.
func (g *stage) switchTo(st Stream, m *moving) error {
	last, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Move{Move: &protocol.Move{}}}, nil)
	if err != nil {
		return err
	}
	g.write.Lock()
	defer g.write.Unlock()
	g.at.Lock()
	left := g.left
	if !left {
		m.old, g.st = g.st, st
	}
	g.at.Unlock()
	if left {
		return errLeft
	}
	_ = m.old.SetDeadline(time.Now().Add(handOverTime))
	_, err = m.old.Write(last)
	return err
}

// leaveStream is called when a stage has ended what it sends on its stream. It returns
// the reader of the stream that continues it.
func (s *session) leaveStream(g *stage) (*bufio.Reader, error) {
	g.at.Lock()
	m := g.moving
	g.at.Unlock()
	if m == nil {
		return nil, fmt.Errorf("%w: the end of a stream, where none continues it", protocol.ErrFrame)
	}
	select {
	case <-m.done:
	case <-s.over:
		return nil, context.Canceled
	}
	if m.err != nil {
		return nil, fmt.Errorf("its stream has not moved: %w", m.err)
	}
	g.at.Lock()
	if g.moving == m { // one Move ends a stream
		g.moving = nil
	}
	g.at.Unlock()
	_ = m.old.Close()
	return m.r, nil
}

// moved records that a stage's stream has moved.
func (s *session) moved(m *Move) {
	m.Token = s.out.Tokens
	s.out.Moves = append(s.out.Moves, *m)
}

// linkMoved records that a stage reports its link as direct, which crossed a relay.
func (s *session) linkMoved(g *stage, p *protocol.Pong) {
	if g.relayed && !p.Relayed && p.Epoch == g.epoch {
		s.moved(&Move{Hop: g.hop, Link: true})
	}
}
