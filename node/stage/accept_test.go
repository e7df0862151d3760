package stage

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// turnstile is an engine that removes and computes only when it is let.
type turnstile struct {
	counting
	remove, run chan struct{} // nil: at once
}

func (e *turnstile) Remove(int, int32) error {
	if e.remove != nil {
		<-e.remove
	}
	return nil
}

func (e *turnstile) Run(ctx context.Context, b *engine.Batch) (*engine.Result, error) {
	if e.run != nil {
		<-e.run
	}
	return e.counting.Run(ctx, b)
}

// keeping is a stage that has kept the first 128 tokens of ids for a client, and can be
// taken back 40 positions.
func keeping(t *testing.T) (s *Stage, v *Server, e *turnstile, ids []int32) {
	t.Helper()
	e = &turnstile{}
	s = New(Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
		KVTokens: 4096, MaxSeqs: 8, MaxBatch: 128, MaxContext: 512, Back: 40, Dir: t.TempDir(),
	}, e, nobody{})
	v = NewServer(nil, nil)
	v.Add(s)
	for i := range int32(128) {
		ids = append(ids, i%97)
	}
	k := begin(t, t.Context(), v, "client", someOpen(s, 300, 1))
	if f := <-k.frames; f.GetOpened() == nil || f.GetOpened().Floor != 0 {
		t.Fatal(f)
	}
	k.say(t, stepOf(0, ids))
	time.Sleep(time.Second)
	k.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{Prefix: protocol.AppendPrefix(nil, ids)}}})
	for range k.frames {
	}
	synctest.Wait()
	if st := s.Status(); st.KVKept != len(ids) {
		t.Fatalf("%+v", st)
	}
	return s, v, e, ids
}

func stepOf(base int, ids []int32) *protocol.Frame {
	return &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Base: uint32(base), Rows: uint32(len(ids)), Tokens: ids}}}
}

// Whatever a stage has to say to a client that it is about to accept comes after Opened;
// and if it ends the session instead, the client gets only the reason. Time that the
// stage takes itself is not held against the client.
func TestOpenedFirst(t *testing.T) {
	trouble := func(f *protocol.Frame) bool { return f.GetTrouble() != nil }
	for name, c := range map[string]struct {
		event func(*session)
		gets  []func(*protocol.Frame) bool // after Opened; nil: a refusal instead
	}{
		"it leaves":               {func(sess *session) { sess.stage.Drain(true) }, []func(*protocol.Frame) bool{trouble}},
		"its predecessor is lost": {func(sess *session) { sess.linkLost(0, false, io.EOF) }, []func(*protocol.Frame) bool{trouble}},
		"its successor is lost":   {func(sess *session) { sess.linkLost(0, true, io.EOF) }, []func(*protocol.Frame) bool{trouble}},
		"it is evicted":           {func(sess *session) { sess.fail(sess.stage.busy("others need the room")) }, nil},
		"it takes long":           {func(*session) { time.Sleep(2 * firstStep) }, []func(*protocol.Frame) bool{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, v, e, ids := keeping(t)
				e.remove = make(chan struct{})
				o := someOpen(s, 300, 2)
				o.Prefix = protocol.AppendPrefix(nil, ids)
				client, server := net.Pipe()
				go v.Serve(wire{server, "client"})
				if _, err := client.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}})); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				c.event(s.all()[0])
				synctest.Wait()
				close(e.remove)
				r := bufio.NewReader(client)
				f, _, err := protocol.ReadFrame(r, 0)
				switch {
				case err != nil:
					t.Error(err)
				case c.gets == nil && f.GetFail().GetCode() != protocol.Code_CODE_BUSY:
					t.Errorf("not refused: %v", f)
				case c.gets != nil && f.GetOpened().GetCached() != 128:
					t.Errorf("not accepted: %v", f)
				}
				for range 20 {
					_, _ = client.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{}}}))
				}
				for _, right := range append(c.gets, func(f *protocol.Frame) bool { return f.GetPong() != nil }) {
					if c.gets == nil {
						break
					}
					if f, _, err := protocol.ReadFrame(r, 0); err != nil || !right(f) {
						t.Errorf("after Opened: %v, %v", f, err)
					}
				}
				_ = client.Close()
				s.Close(errors.New("the test is over"))
				time.Sleep(time.Second) // the first client notices
			})
		})
	}
}

// A Ping on the stream that a client has left is not answered on the one on which it
// comes back before that is accepted, and nothing is sent on a stream that was replaced
// before it was.
func TestComeBackOpenedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		o := open(100, 1)
		sess, _, refused := s.admit(o, sink{"a"})
		if refused != nil {
			t.Fatal(refused)
		}
		sess.accept(sess.stream, &protocol.Opened{})
		back := func(epoch uint64) (net.Conn, wire) {
			o := open(100, 1)
			o.Again, o.Epoch = true, epoch
			client, server := net.Pipe()
			st := wire{server, "a"}
			if _, _, refused := s.admit(o, st); refused != nil {
				t.Fatal(refused)
			}
			return client, st
		}
		left, early := back(1)
		client, st := back(2)
		sess.pong()
		sess.accept(early, &protocol.Opened{})
		if _, _, err := protocol.ReadFrame(bufio.NewReader(left), 0); !errors.Is(err, io.EOF) {
			t.Errorf("on the stream that was replaced: %v", err)
		}
		sess.accept(st, &protocol.Opened{Cached: 7})
		r := bufio.NewReader(client)
		f, _, err := protocol.ReadFrame(r, 0)
		if err != nil || f.GetOpened().GetCached() != 7 {
			t.Errorf("the first frame: %v, %v", f, err)
		}
		if f, _, err = protocol.ReadFrame(r, 0); err != nil || f.GetPong() == nil {
			t.Errorf("the second frame: %v, %v", f, err)
		}
		_ = client.Close()
		s.Close(errors.New("the test is over"))
	})
}

// A stage says from which position it can certainly go on: as far back as its engine can
// be taken, from where that will be once the pass that runs is over.
func TestBackFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v, e, ids := keeping(t)
		o := someOpen(s, 300, 2)
		o.Prefix = protocol.AppendPrefix(nil, ids)
		k := begin(t, t.Context(), v, "client", o)
		if f := <-k.frames; f.GetOpened().GetCached() != 128 || f.GetOpened().GetFloor() != 128-40 {
			t.Fatalf("with 128 positions kept, of which 40 can be taken back: %v", f)
		}
		halt := func(epoch uint64) *protocol.Halted {
			k.say(t, &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: epoch}}})
			return (<-k.frames).GetHalted()
		}
		e.run = make(chan struct{})
		k.say(t, stepOf(128, ids[:64]))
		synctest.Wait()
		if h := halt(1); h.GetLength() != 128 || h.GetFloor() != 192-40 {
			t.Errorf("while 64 rows after 128 are computed: %v", h)
		}
		close(e.run)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if h := halt(2); h.GetLength() != 192 || h.GetFloor() != 192-40 {
			t.Errorf("once they are: %v", h)
		}
		k.say(t, &protocol.Frame{Kind: &protocol.Frame_Resume{Resume: &protocol.Resume{Epoch: 2, At: 10, ForwardFrom: 10, Stages: 1}}})
		step := stepOf(10, ids[:20])
		step.GetStep().Epoch = 2
		k.say(t, step)
		time.Sleep(time.Second)
		if h := halt(3); h.GetLength() != 30 || h.GetFloor() != 0 {
			t.Errorf("with fewer positions than can be taken back: %v", h)
		}
		_ = k.Close()
		time.Sleep(2 * time.Second)
		s.Close(errors.New("the test is over"))
	})
}
