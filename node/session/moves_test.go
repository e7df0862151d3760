package session

import (
	"bufio"
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// piped is a client's end of a stream.
type piped struct{ net.Conn }

func (p piped) Reset() error          { return p.Close() }
func (piped) Peer() peer.ID           { return "stage" }
func (piped) Relayed() bool           { return true }
func (piped) Better() <-chan struct{} { return nil }

// agreeing is a stage that agrees to every move, and takes what else is sent.
type agreeing struct{ opened []net.Conn }

func (*agreeing) Self() peer.ID { return "client" }

func (a *agreeing) OpenStage(context.Context, peer.ID, []byte) (Stream, error) {
	client, server := net.Pipe()
	a.opened = append(a.opened, server)
	go func() {
		agreed := false
		for r := bufio.NewReader(server); ; {
			if _, _, err := protocol.ReadFrame(r, 0); err != nil {
				return
			}
			if agreed {
				continue
			}
			agreed = true
			b, _ := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Move{Move: &protocol.Move{}}}, nil)
			_, _ = server.Write(b)
		}
	}()
	return piped{client}, nil
}

// movable is a session with one stage, which agrees to moves.
func movable(t *testing.T) (*session, *stage, *agreeing) {
	t.Helper()
	a := &agreeing{}
	st, _ := a.OpenStage(t.Context(), "stage", nil)
	return &session{dial: a, over: make(chan struct{})}, &stage{st: st, of: make([]byte, 16)}, a
}

// A stream is not moved again before what came on the one before it has been read: what
// is read after that is the stream in between, and not the last.
func TestOneMoveAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g, a := movable(t)
		if err := s.move(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		between := g.stream()
		if err := s.move(t.Context(), g); !errors.Is(err, errUnread) || g.stream() != between {
			t.Errorf("moved again before the end of the first stream was read: %v", err)
		}
		r, err := s.leaveStream(g)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = a.opened[1].Write([]byte{7}) }()
		if b, err := r.ReadByte(); err != nil || b != 7 {
			t.Errorf("after the first stream: %d, %v", b, err)
		}
		if err := s.move(t.Context(), g); err != nil {
			t.Errorf("it moves no more: %v", err)
		}
		g.leave(nil)
	})
}

// A stage that leaves while its stream moves leaves neither stream open.
func TestLeaveWhileMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g, _ := movable(t)
		old := g.stream()
		if err := s.move(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		fresh := g.stream()
		g.leave(nil)
		for name, st := range map[string]Stream{"old": old, "new": fresh} {
			if _, err := st.Write([]byte{1}); err == nil {
				t.Errorf("the %s stream is still open", name)
			}
			_ = st.Reset()
		}
	})
}
