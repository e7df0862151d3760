package exchange

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/exchange/bitswap"
	"github.com/shoalnet/shoal/protocol"
)

// await waits for what happens soon; the deadline is only for when it does not.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

// One node fetches a model from another: manifest, nodes, leaves.
func TestFetch(t *testing.T) {
	path := writeModel(t, 4, 2_500_000)
	for name, listen := range map[string]string{"tcp": overTCP, "quic": overQUIC} {
		t.Run(name, func(t *testing.T) {
			a := newHolder(t, newHost(t, listen), path, nil)
			r := &roster{}
			r.add(a.h)
			b := newNode(t, newHost(t, listen), t.TempDir(), r)
			b.learn(t, a.m.ID())
			b.fetch(t, nil)
			b.wantsEqual(t, path)
			if size := uint64(b.m.Manifest().Size()); a.given() < size || b.taken() < size {
				t.Errorf("given %d, taken %d bytes of a model of %d", a.given(), b.taken(), size)
			}
			before := b.taken()
			b.fetch(t, func(Progress) { t.Error("fetched something of a model that is whole") })
			if b.taken() != before {
				t.Error("took bytes of a model that is whole")
			}
		})
	}
}

// A span's shards are fetched and nothing else.
func TestSpan(t *testing.T) {
	path := writeModel(t, 6, 2_500_000)
	a := newHolder(t, newHost(t, overQUIC), path, nil)
	r := &roster{}
	r.add(a.h)
	b := newNode(t, newHost(t, overQUIC), t.TempDir(), r)
	b.learn(t, a.m.ID())
	span := protocol.Span{From: 2, To: 4}
	need := b.m.Manifest().ShardsFor(span)
	if err := b.x.Fetch(t.Context(), b.m.ID(), shards{t, b.m, need}, nil); err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, i := range need {
		size += b.m.Manifest().Shards[i].Size
	}
	if !b.m.Whole(need) || b.m.Held() != size {
		t.Errorf("whole: %v; it holds %d bytes of %d", b.m.Whole(need), b.m.Held(), size)
	}
}

// Holders of different parts are all used, and what is told of progress holds.
func TestHolders(t *testing.T) {
	takesSeconds(t)
	path := writeModel(t, 12, 2_500_000)
	for _, n := range []int{2, 3} {
		r := &roster{}
		var holders []*node
		for i := range n {
			h := newHolder(t, newHost(t, overQUIC), path, func(shard int) bool { return shard%n == i })
			holders = append(holders, h)
			r.add(h.h)
		}
		b := newNode(t, newHost(t, overQUIC), t.TempDir(), r)
		b.learn(t, holders[0].m.ID())
		var last Progress
		most := 0
		b.fetch(t, func(p Progress) {
			if p.Blocks != last.Blocks+1 || p.Bytes <= last.Bytes || p.Holders > n {
				t.Errorf("%+v after %+v", p, last)
			}
			last, most = p, max(most, p.Holders)
		})
		b.wantsEqual(t, path)
		if last.Bytes < b.m.Manifest().Size() || most != n {
			t.Errorf("%d bytes of %d told, from at most %d holders of %d", last.Bytes, b.m.Manifest().Size(), most, n)
		}
		for i, h := range holders {
			if h.given() < 5<<20 {
				t.Errorf("holder %d gave %d bytes", i, h.given())
			}
		}
	}
}

// A fetch that was cancelled fetches only what is missing when it is repeated.
func TestResume(t *testing.T) {
	takesSeconds(t)
	path := writeModel(t, 10, 5_000_000)
	a := newHolder(t, newHost(t, overQUIC), path, nil)
	r := &roster{}
	r.add(a.h)
	dir := t.TempDir()
	b := newNode(t, newHost(t, overQUIC), dir, r)
	b.learn(t, a.m.ID())
	ctx, cancel := context.WithCancel(t.Context())
	err := b.x.Fetch(ctx, b.m.ID(), every(t, b.m), func(p Progress) {
		if p.Bytes > 20<<20 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := errors.Join(b.x.Close(), b.s.Close()); err != nil {
		t.Fatal(err)
	}
	again := newNode(t, newHost(t, overQUIC), dir, r)
	if again.m, err = again.s.Model(a.m.ID()); err != nil {
		t.Fatal(err)
	}
	lacks := missing(t, again.m)
	if held := uint64(again.m.Manifest().Size()) - lacks; held < 20<<20 {
		t.Errorf("%d bytes are left of what was fetched", held)
	}
	again.fetch(t, nil)
	again.wantsEqual(t, path)
	if n := again.taken(); n < lacks || n > lacks+bitswap.PerPeer { // a busy machine may ask twice
		t.Errorf("took %d bytes where %d were lacking", n, lacks)
	}
}

// A holder that goes away in the middle is replaced by another.
func TestHolderGoes(t *testing.T) {
	takesSeconds(t)
	path := writeModel(t, 10, 5_000_000)
	for name, listen := range map[string]string{"tcp": overTCP, "quic": overQUIC} {
		t.Run(name, func(t *testing.T) {
			r := &roster{}
			a, c := newHolder(t, newHost(t, listen), path, nil), newHolder(t, newHost(t, listen), path, nil)
			r.add(a.h)
			b := newNode(t, newHost(t, listen), t.TempDir(), r)
			b.learn(t, a.m.ID())
			b.fetch(t, func(p Progress) {
				if p.Blocks == 25 {
					r.add(c.h)
					a.h.Close()
				}
			})
			b.wantsEqual(t, path)
			if c.given() == 0 {
				t.Error("the other gave nothing")
			}
		})
	}
}

// A peer that comes to the network before its exchange has started is asked
// when it has.
func TestLateExchange(t *testing.T) {
	takesSeconds(t)
	path := writeModel(t, 2, 2_500_000)
	h := newHost(t, overQUIC)
	r := &roster{}
	r.add(h)
	b := newNode(t, newHost(t, overQUIC), t.TempDir(), r)
	first := make(chan error, 1)
	made := newHolder(t, newHost(t, overQUIC), path, nil) // for its CID; nobody knows it
	go func() {
		_, err := b.x.Manifest(t.Context(), made.m.ID())
		first <- err
	}()
	await(t, "a connection", func() bool { return len(b.h.Network().Peers()) > 0 })
	time.Sleep(100 * time.Millisecond) // it is asked in vain
	newHolder(t, h, path, nil)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
}

func TestClose(t *testing.T) {
	path := writeModel(t, 4, 5_000_000)
	a := newHolder(t, newHost(t, overQUIC), path, nil)
	r := &roster{}
	r.add(a.h)
	b := newNode(t, newHost(t, overQUIC), t.TempDir(), r)
	b.learn(t, a.m.ID())
	under := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- b.x.Fetch(t.Context(), b.m.ID(), every(t, b.m), func(p Progress) {
			if p.Blocks == 8 {
				close(under)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}()
	<-under
	if err := b.x.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Error("a fetch under way: ", err)
	}
	if _, err := b.x.Manifest(t.Context(), a.m.ID()); !errors.Is(err, ErrClosed) {
		t.Error("a fetch afterwards: ", err)
	}
	if err := b.x.Close(); err != nil {
		t.Error("closed twice: ", err)
	}
}

// Close ends all that New and fetches began, also while the host lives.
func TestNoLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("nodes", func(t *testing.T) {
		path := writeModel(t, 4, 2_500_000)
		a := newHolder(t, newHost(t, overTCP), path, nil)
		r := &roster{}
		r.add(a.h)
		b := newNode(t, newHost(t, overTCP), t.TempDir(), r)
		b.learn(t, a.m.ID())
		ctx, cancel := context.WithCancel(t.Context())
		_ = b.x.Fetch(ctx, b.m.ID(), every(t, b.m), func(Progress) { cancel() })
		b.fetch(t, nil)
		c := newHost(t, overTCP) // speaks and does not listen
		if err := c.Connect(t.Context(), peer.AddrInfo{ID: a.h.ID(), Addrs: a.h.Addrs()}); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{nil, {10}} {
			s, err := c.NewStream(t.Context(), a.h.ID(), bitswapID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		await(t, "its streams", func() bool { return running("bsnet.(*impl).handleNewStream") })
		b.x.Close()
		a.x.Close()
		await(t, "that bitswap ends", func() bool { return !running("boxo/bitswap") && !running("exchange.(*") })
	})
	await(t, "that all ends", func() bool { return runtime.NumGoroutine() <= before })
}

// running says whether some goroutine is in, or was started by, a function.
func running(what string) bool {
	buf := make([]byte, 4<<20)
	return strings.Contains(string(buf[:runtime.Stack(buf, true)]), what)
}
