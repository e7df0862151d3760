package stage

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// till is rules that count rows, and let everybody have all.
type till struct{ rows *atomic.Int64 }

func (t till) Grant(Client, Want) (Grant, *protocol.Error) { return everything, nil }
func (t till) Leave()                                      {}

func (t till) Seat(Client, Want, [16]byte) (Seat, Grant, *protocol.Error) { return t, everything, nil }

func (t till) Spend(rows int) *protocol.Error {
	t.rows.Add(int64(rows))
	return nil
}

// blank is an engine that computes zeros.
type blank struct{ idle }

func (blank) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	return &engine.Result{Hidden: make([]float32, 8*len(b.Rows))}, nil
}

// anybody opens streams to successors that take everything.
type anybody struct{ t *testing.T }

func (a anybody) OpenStage(context.Context, string, peer.ID, []byte) (Stream, error) {
	here, there := net.Pipe()
	a.t.Cleanup(func() { here.Close() })
	go discard(there)
	return older{wire{here, "after"}}, nil
}

// older is a stream of a version without credit.
type older struct{ wire }

func (older) Protocol() string { return protocol.StageID1 }

// between is a session at a stage between the first and the last, whose rows are counted
// by its seat and by the stage's Charge. say has its predecessor send a step of one row.
func between(t *testing.T) (seat, guest *atomic.Int64, s *Stage, client *talk, say func(line uint32, base, settled int, tag uint64)) {
	seat, guest = new(atomic.Int64), new(atomic.Int64)
	s = New(Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 2, To: 4}, Blocks: 8, Width: 8, Vocab: 100,
		KVTokens: 4096, MaxSeqs: 4, MaxBatch: 128, MaxContext: 1024, Silence: time.Hour, Rollback: 64, Dir: t.TempDir(), Lending: till{seat},
	}, blank{}, anybody{t})
	t.Cleanup(func() {
		s.Close(errors.New("the test is over"))
		time.Sleep(time.Minute)
	})
	v := NewServer(nil, nil)
	v.Charge(func(_ string, rows, blocks, of int) *protocol.Error {
		if blocks != 2 || of != 8 {
			t.Errorf("%d blocks of %d", blocks, of)
		}
		guest.Add(int64(rows))
		return nil
	})
	v.Add(s)
	o := someOpen(s, 1000, 1)
	o.From, o.To, o.Stages, o.Index, o.Sampling = 2, 4, 3, 1, nil
	after, err := multihash.Sum([]byte("after"), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	o.Prev, o.Next = []byte("before"), &protocol.Hop{Peer: after, Index: 2}
	client = begin(t, t.Context(), v, "client", o)
	<-client.frames
	link := dial(t, v, "before")
	go discard(link)
	_, _ = link.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session, Index: 1}}}))
	write := func(st *protocol.Step) {
		b, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Step{Step: st}}, make([]byte, 4*8*st.Rows))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = link.Write(b)
		synctest.Wait()
	}
	write(&protocol.Step{Rows: 10, Sample: true})
	return seat, guest, s, client, func(line uint32, base, settled int, tag uint64) {
		write(&protocol.Step{Line: line, Base: uint32(base), Rows: 1, Sample: true, Tag: tag, Settled: uint32(settled)})
	}
}

// Nobody is charged for guesses in vain, and everybody for those that were right.
func TestGuessesInVainAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seat, guest, s, client, say := between(t)
		due := func(n int64) {
			t.Helper()
			if a, b := seat.Load(), guest.Load(); a != n || b != n {
				t.Errorf("%d and %d rows are charged, where %d are due", a, b, n)
			}
		}
		due(10)
		say(0, 10, 10, 1)
		say(0, 11, 10, 1)
		say(0, 12, 10, 1)
		due(10)
		say(0, 13, 12, 1) // 10 and 11 were right
		due(12)
		say(1, 12, 12, 0) // 12 and 13 were wrong
		due(13)
		say(1, 13, 13, 1)
		say(1, 14, 13, 1)
		client.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{}}})
		time.Sleep(time.Minute)
		due(13)
		if n := s.Status().Rows; n != 17 {
			t.Errorf("%d rows were computed", n)
		}
	})
}

// Calling rows guesses saves nobody much: neither if it is never said that they were
// right, nor if they are taken back again and again.
func TestGuessesAreNoLoophole(t *testing.T) {
	for name, row := range map[string]func(i int, say func(line uint32, base, settled int, tag uint64)){
		"never settled": func(i int, say func(line uint32, base, settled int, tag uint64)) { say(0, 10+i, 10, 1) },
		"taken back":    func(i int, say func(line uint32, base, settled int, tag uint64)) { say(uint32(i), 10, 10, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seat, guest, s, client, say := between(t)
				for i := range 700 {
					row(i, say)
				}
				client.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{}}})
				time.Sleep(time.Minute)
				if a, b, all := seat.Load(), guest.Load(), s.Status().Rows; all != 710 || a < all/2 || b != a || a > all {
					t.Errorf("of %d rows %d and %d are charged", all, a, b)
				}
			})
		})
	}
}
