package stage

import (
	"bufio"
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// gated is an engine whose passes wait until they are let through.
type gated struct {
	idle
	pass chan struct{}
}

func (g gated) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	<-g.pass
	return &engine.Result{Tokens: make([]sample.Token, len(b.Outputs))}, nil
}

// linked is a session at a model's last stage with the predecessor's end of its
// link.
func linked(t *testing.T, width int) (s *Stage, client *talk, link net.Conn, pass chan struct{}) {
	pass = make(chan struct{})
	s = New(Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 2, To: 4}, Blocks: 4, Width: width, Vocab: 100,
		KVTokens: 1 << 16, MaxSeqs: 32, MaxBatch: 128, MaxContext: 1 << 16, Dir: t.TempDir(),
	}, gated{pass: pass}, nobody{})
	t.Cleanup(func() {
		close(pass)
		s.Close(errors.New("the test is over"))
		time.Sleep(time.Second) // the client notices
	})
	v := NewServer(nil, nil)
	v.Add(s)
	o := someOpen(s, 1<<16, 1)
	o.From, o.To, o.Stages, o.Index, o.Prev, o.Next = 2, 4, 2, 1, []byte("before"), &protocol.Hop{Peer: []byte("before")}
	client = begin(t, t.Context(), v, "client", o)
	if f := <-client.frames; f.GetOpened() == nil {
		t.Fatal(f)
	}
	link = dial(t, v, "before")
	if _, err := link.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session, Index: 1}}})); err != nil {
		t.Fatal(err)
	}
	return s, client, link, pass
}

// chunk is a step of 64 rows.
func chunk(t *testing.T, s *Stage, n int) []byte {
	t.Helper()
	const rows = protocol.MaxLinkRows
	b, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Base: uint32(n * rows), Rows: rows}}}, make([]byte, 4*rows*s.cfg.Width))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A predecessor gets credit for what there is room for, a new one as soon as a
// part of it is free, and no more than that waits; the link is always read.
func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, link, pass := linked(t, 4096)
		credit := make(chan uint64, 100)
		go func() {
			for r := bufio.NewReader(link); ; {
				f, _, err := protocol.ReadFrame(r, 0)
				if err != nil {
					return
				}
				credit <- f.GetCredit().GetRows()
			}
		}()
		granted, sent := <-credit, uint64(0)
		if granted != linkBytes/4/4096 {
			t.Fatalf("credit for %d rows at first", granted)
		}
		for n := range 40 {
			for sent+protocol.MaxLinkRows > granted {
				select {
				case granted = <-credit:
				case pass <- struct{}{}:
				}
			}
			if _, err := link.Write(chunk(t, s, n)); err != nil {
				t.Fatal(err)
			}
			sent += protocol.MaxLinkRows
			synctest.Wait()
			st := s.Status()
			if taken := uint64(st.Rows) + protocol.MaxLinkRows; st.QueuedRows > linkBytes/4/4096 || granted > taken+linkBytes/4/4096 {
				t.Fatalf("%d rows wait, and of %d granted at most %d were taken", st.QueuedRows, granted, taken)
			}
		}
		_ = link.Close()
	})
}

// Whoever sends more than he has credit for ends the session.
func TestBeyondCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client, link, _ := linked(t, 4096)
		go func() {
			for n := 0; ; n++ { // and reads nothing
				if _, err := link.Write(chunk(t, s, n)); err != nil {
					return
				}
			}
		}()
		for f := range client.frames {
			if f.GetFail() != nil {
				if f.GetFail().Code != protocol.Code_CODE_BAD_REQUEST {
					t.Errorf("told %v", f)
				}
				return
			}
		}
		t.Error("nothing was said")
	})
}

// A sender holds rows back that it has no credit for, and nothing else.
func TestSenderCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		var lost error
		s := newSender(nil, func(err error) { lost = err }, func() {}, func(Phase, time.Duration) {})
		for range 3 {
			s.push(outgoing{frame: []byte("rows"), rows: 10})
		}
		s.start(wire{near, peer.ID("p")}, []byte("link"), true)
		got := make(chan string, 10)
		go func() {
			b := make([]byte, 4)
			for {
				if _, err := far.Read(b); err != nil {
					close(got)
					return
				}
				got <- string(b)
			}
		}()
		for _, step := range []struct {
			credit uint64
			frames int
		}{{0, 1}, {9, 0}, {20, 2}, {10, 0}, {29, 0}} {
			s.grant(step.credit)
			synctest.Wait()
			if len(got) != step.frames {
				t.Errorf("with credit for %d rows %d frames were sent, not %d", step.credit, len(got), step.frames)
			}
			for range len(got) {
				<-got
			}
		}
		s.finish() // what nobody asked for goes with the session
		synctest.Wait()
		if _, open := <-got; open || lost != nil {
			t.Errorf("the stream is open: %v, and was lost: %v", open, lost)
		}
	})
}
