package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// strangers are peers that say to a stage what a list of bytes has them say, in
// any order that a protocol forbids.
type strangers struct {
	t     *testing.T
	s     *Stage
	v     *Server
	conns []net.Conn
}

// frames that strangers choose from; a and b are drawn, too.
func (x *strangers) frame(kind, a, b byte) (*protocol.Frame, []byte) {
	session := append(make([]byte, 15), a%3)
	epoch := uint64(b % 8)
	next := &protocol.Hop{Peer: []byte(peer.ID(fmt.Sprint("peer ", a%4))), Index: uint32(b % 2)}
	switch kind % 9 {
	case 0:
		o := someOpen(x.s, int(b)*4, uint16(a%3))
		o.From, o.To, o.Stages, o.Index, o.Epoch = uint32(x.s.cfg.Span.From), uint32(x.s.cfg.Span.To), 2, uint32(b%2), epoch
		o.Next, o.Prev, o.Wait, o.Again = next, next.Peer, a&16 > 0, a&32 > 0
		return &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}}, nil
	case 1:
		return &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: session, Epoch: epoch, Index: uint32(b % 2)}}}, nil
	case 2, 3:
		rows := 1 + int(b%70)
		st := &protocol.Step{Epoch: epoch, Base: uint32(a), Rows: uint32(rows), Sample: a&1 > 0}
		if x.s.cfg.first() {
			st.Tokens = make([]int32, rows)
			return &protocol.Frame{Kind: &protocol.Frame_Step{Step: st}}, nil
		}
		return &protocol.Frame{Kind: &protocol.Frame_Step{Step: st}}, make([]byte, 4*rows*x.s.cfg.Width)
	case 4:
		return &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: epoch}}}, nil
	case 5:
		return &protocol.Frame{Kind: &protocol.Frame_Resume{Resume: &protocol.Resume{
			Epoch: epoch, At: uint32(a), ForwardFrom: uint32(a / 2), Next: next, Prev: next.Peer, Stages: 2, Sampled: []int32{int32(b)},
		}}}, nil
	case 6:
		return &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{Prefix: make([]uint64, b%4)}}}, nil
	case 7:
		return &protocol.Frame{Kind: &protocol.Frame_Credit{Credit: &protocol.Credit{Rows: uint64(a)}}}, nil
	}
	return &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{}}}, nil
}

// say has one of the strangers open a stream, or say something on one.
func (x *strangers) say(op, a, b byte) {
	if op&0x0f == 0 || len(x.conns) == 0 {
		if len(x.conns) < 12 {
			c := dial(x.t, x.v, peer.ID(fmt.Sprint("peer ", a%4)))
			x.conns = append(x.conns, c)
			if a&64 == 0 { // others do not read
				go func() { _, _ = io.Copy(io.Discard, bufio.NewReader(c)) }()
			}
		}
		return
	}
	f, payload := x.frame(op>>4, a, b)
	raw, err := protocol.AppendFrame(nil, f, payload)
	if err != nil {
		x.t.Fatal(err)
	}
	c := x.conns[int(op&0x0f)%len(x.conns)]
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(raw)
}

// check holds the stage's books against its sessions.
func (x *strangers) check() {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	cells, slots := 0, len(s.free)+len(s.kept)
	for _, sess := range s.sessions {
		cells += sess.cells
		slots++
		if sess.computed > sess.cells {
			x.t.Errorf("%d positions in %d cells", sess.computed, sess.cells)
		}
	}
	if cells != s.kvUsed || cells+s.kvKept > s.cfg.KVTokens || slots != s.cfg.MaxSeqs {
		x.t.Errorf("%d cells of sessions, %d counted, %d kept; %d slots", cells, s.kvUsed, s.kvKept, slots)
	}
}

// both is an engine of either half of a model.
type both struct{ counting }

func (e both) Run(ctx context.Context, b *engine.Batch) (*engine.Result, error) {
	res, err := e.counting.Run(ctx, b)
	res.Hidden = make([]float32, 4*len(b.Rows)) // wide as the rows are
	return res, err
}

// FuzzSession: whatever strangers say, in whatever order, the stage goes on, its
// books are right, and when they have gone nothing of theirs is left.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 2, 0, 0x01, 0x11, 100, 0x12, 2, 1, 0x22, 0, 9, 0x42, 3, 3, 0x52, 0, 3})
	f.Add([]byte{0, 1, 0, 0x01, 1, 200, 0, 1, 0, 0x12, 1, 0, 0x22, 0, 63, 0x22, 64, 63, 0x61, 0, 1, 0x81, 0, 0})
	f.Fuzz(sessionScript)
}

func sessionScript(t *testing.T, script []byte) {
	synctest.Test(t, func(t *testing.T) {
		span := protocol.Span{From: 2, To: 4}
		if len(script)%2 == 0 {
			span = protocol.Span{From: 0, To: 2}
		}
		s := New(Config{
			Model: protocol.ModelKey(cid.Undef), Span: span, Blocks: 4, Width: 4, Vocab: 100,
			KVTokens: 512, MaxSeqs: 3, MaxBatch: 128, MaxContext: 512, Dir: os.TempDir(),
		}, both{}, nobody{})
		v := NewServer(nil, nil)
		v.Add(s)
		x := &strangers{t: t, s: s, v: v}
		for script = script[:min(len(script), 3*50)]; len(script) >= 3; script = script[3:] {
			x.say(script[0], script[1], script[2])
			if script[0]&3 == 0 {
				synctest.Wait()
				x.check()
			}
		}
		for _, c := range x.conns {
			_ = c.Close()
		}
		time.Sleep(time.Minute)
		x.check()
		if st := s.Status(); st.Sessions != 0 {
			t.Errorf("%+v", st)
		}
		v.held.mu.Lock()
		if v.held.total != 0 {
			t.Errorf("%d bytes are held", v.held.total)
		}
		v.held.mu.Unlock()
		s.Close(errors.New("the test is over"))
	})
}
