package stage

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// elsewhere is a stream in some swarm, over a relay for as long as no other path is named.
type elsewhere struct {
	sink
	swarm  string
	better chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newElsewhere(from peer.ID, swarm string) *elsewhere {
	return &elsewhere{sink: sink{from}, swarm: swarm, better: make(chan struct{}), closed: make(chan struct{})}
}

func (e *elsewhere) Swarm() string            { return e.swarm }
func (e *elsewhere) Relayed() bool            { return true }
func (e *elsewhere) Better() <-chan struct{}  { return e.better }
func (e *elsewhere) Read([]byte) (int, error) { <-e.closed; return 0, errors.New("reset") }
func (e *elsewhere) Reset() error             { e.once.Do(func() { close(e.closed) }); return nil }
func (e *elsewhere) Close() error             { return e.Reset() }

// A session stays in the swarm in which it was opened, also if its client has the same ID
// in another.
func TestMoveStaysInSwarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		sess, _, refused := s.admit(open(100, 1), newElsewhere("a", "lab"))
		if refused != nil {
			t.Fatal(refused)
		}
		sess.accept(sess.stream, &protocol.Opened{})
		for _, swarm := range []string{"", "other"} {
			if sess.moveClient(newElsewhere("a", swarm)) != nil {
				t.Errorf("the client's stream goes on in swarm %q", swarm)
			}
		}
		if sess.moveClient(newElsewhere("b", "lab")) != nil {
			t.Error("another peer's stream goes on with it")
		}
		if sess.moveClient(newElsewhere("a", "lab")) == nil {
			t.Error("the client's stream cannot move in its own swarm")
		}
	})
}

// A stream that its client was about to leave when the session ended does not stay open,
// whether or not the client ends it.
func TestEndWhileMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		old := newElsewhere("a", "")
		sess, _, refused := s.admit(open(100, 1), old)
		if refused != nil {
			t.Fatal(refused)
		}
		sess.accept(old, &protocol.Opened{})
		if sess.moveClient(newElsewhere("a", "")) == nil {
			t.Fatal("the client's stream cannot move")
		}
		sess.end(nil)
		time.Sleep(writeStall)
		synctest.Wait()
		select {
		case <-old.closed:
		default:
			t.Error("the old stream is still open")
			_ = old.Reset()
		}
	})
}

// A link that moves again and again gets no more credit than there is room for, but for
// the few rows that may come ahead.
func TestMovesAddNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, link, _ := linked(t, 4096)
		synctest.Wait()
		sess := s.all()[0]
		for range 100 {
			_, in, h := sess.moveLinkIn(newElsewhere("before", ""), 0)
			if h == nil {
				break
			}
			defer h.back.drop()
			s.mu.Lock()
			rest, waiting := int(in.granted-in.arrived), in.granted-in.gone
			s.mu.Unlock()
			if most := linkBytes/4/4096 + moveAhead; waiting > uint64(most) {
				t.Fatalf("credit for %d rows, where there is room for %d", waiting, most)
			}
			if err := s.came(in, rest); err != nil {
				t.Fatal(err)
			}
			if !sess.leaveLink(in) {
				t.Fatal("the link has not moved")
			}
		}
		_ = link.Close()
	})
}

// relayedPath dials successors over a relay, and counts the streams that are open.
type relayedPath struct {
	mu   sync.Mutex
	open []*elsewhere
}

func (d *relayedPath) OpenStage(context.Context, string, peer.ID, []byte) (Stream, error) {
	st := newElsewhere("b", "")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(d.open, st)
	return st, nil
}

// Repairs of a link that crosses a relay leave nothing behind: what waits for a better path
// ends with the link, as synctest finds when the test returns.
func TestRelayedLinksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := &relayedPath{}
		s := New(Config{
			Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
			KVTokens: 1000, MaxSeqs: 3, MaxBatch: 128, MaxContext: 600, Silence: time.Minute, Dir: t.TempDir(),
		}, idle{}, path)
		defer s.Close(errors.New("over"))
		sess, _, refused := s.admit(open(100, 1), sink{"a"})
		if refused != nil {
			t.Fatal(refused)
		}
		next := &protocol.Hop{Peer: []byte("\x00\x24\x08\x01\x12\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), Index: 1}
		const repairs = 20
		for epoch := uint64(1); epoch <= repairs; epoch++ {
			if err := sess.takeHalt(&protocol.Halt{Epoch: epoch}); err != nil {
				t.Fatal(err)
			}
			if err := sess.resume(&protocol.Resume{Epoch: epoch, Stages: 2, Next: next}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		path.mu.Lock()
		defer path.mu.Unlock()
		if len(path.open) != repairs {
			t.Fatalf("%d links", len(path.open))
		}
		for i, st := range path.open {
			select {
			case <-st.closed:
			default:
				if i < repairs-1 {
					t.Errorf("link %d is still open", i)
				}
			}
		}
		if n := waiting(); n != 1 {
			t.Errorf("%d wait for a better path of one link", n)
		}
	})
}

// waiting counts the goroutines that wait for a better path.
func waiting() int {
	buf := make([]byte, 1<<20)
	return bytes.Count(buf[:runtime.Stack(buf, true)], []byte("stage.(*session).followPath("))
}
