package exchange

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// The tests of this file run in virtual time, over simulated links between
// real hosts, so that what takes minutes takes none, and a limit is exact. What
// is still running when one ends would fail it.

// world is a simulated network with one node that fetches.
type world struct {
	t    *testing.T
	nw   *sim.Network
	r    *roster
	b    *node
	path string // of the model
}

// simulate runs a test in virtual time. The model has so many blocks of so many
// bytes.
func simulate(t *testing.T, p link.Params, blocks int, size uint64, test func(t *testing.T, w *world)) {
	t.Helper()
	path := writeModel(t, blocks, size)
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, nw: sim.New(p), r: &roster{}, path: path}
		t.Cleanup(func() { w.nw.Close() })
		w.b = newNode(t, w.host(), t.TempDir(), w.r)
		test(t, w)
	})
}

func (w *world) host() host.Host {
	w.t.Helper()
	h, err := w.nw.NewHost()
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) holder(keep func(shard int) bool) *node {
	w.t.Helper()
	return newHolder(w.t, w.host(), w.path, keep)
}

// fetch fetches all of the model, and returns how long that took.
func (w *world) fetch(id cid.Cid, progress func(Progress)) time.Duration {
	w.t.Helper()
	w.b.learn(w.t, id)
	start := time.Now()
	w.b.fetch(w.t, progress)
	took := time.Since(start)
	w.b.wantsEqual(w.t, w.path)
	return took
}

var home = link.Params{RTT: 40 * time.Millisecond, Rate: 20e6} // 2.5 MB/s up

func TestNobody(t *testing.T) {
	t.Parallel()
	for _, has := range []string{"no holder", "none that holds it", "none that is there"} {
		t.Run(has, func(t *testing.T) {
			simulate(t, home, 2, 2_500_000, func(t *testing.T, w *world) {
				a := w.holder(func(shard int) bool { return shard < 2 })
				if has != "no holder" {
					w.r.add(a.h)
				}
				want := Want(&one{c: a.m.ID()})
				switch has {
				case "none that holds it":
					w.b.learn(t, a.m.ID())
					want = every(t, w.b.m)
				case "none that is there":
					a.h.Close()
				}
				start := time.Now()
				err := w.b.x.Fetch(t.Context(), a.m.ID(), want, nil)
				if took := time.Since(start); !errors.Is(err, ErrNotFound) || took < giveUp || took > giveUp+10*time.Second {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	simulate(t, home, 2, 2_500_000, func(t *testing.T, w *world) {
		a := w.holder(func(shard int) bool { return shard < 2 })
		w.r.add(a.h)
		w.b.learn(t, a.m.ID())
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Second, func() { cancel(cause) })
		start := time.Now()
		err := w.b.x.Fetch(ctx, a.m.ID(), every(t, w.b.m), nil)
		if took := time.Since(start); err != cause || took > 21*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// A holder that appears while another gives is used too.
func TestJoin(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	simulate(t, link.Params{RTT: 40 * time.Millisecond, Rate: 5e6}, 4, 10<<20, func(t *testing.T, w *world) {
		a, c := w.holder(nil), w.holder(nil)
		w.r.add(a.h)
		most := 0
		w.fetch(a.m.ID(), func(p Progress) {
			if p.Blocks == 15 {
				w.r.add(c.h)
			}
			most = max(most, p.Holders)
		})
		if n := c.given(); n < 1<<20 || most != 2 {
			t.Errorf("it gave %d bytes; at most %d holders were told of", n, most)
		}
	})
}

// Holders with slow uplinks add up, and nothing much comes twice.
func TestShare(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	took := map[int]time.Duration{}
	for _, n := range []int{1, 4} {
		simulate(t, home, 6, 5<<20, func(t *testing.T, w *world) {
			var a *node
			for range n {
				a = w.holder(nil)
				w.r.add(a.h)
			}
			took[n] = w.fetch(a.m.ID(), nil)
			size := uint64(w.b.m.Manifest().Size())
			if twice := int64(w.b.taken() - size); twice > int64(size/5) {
				t.Errorf("from %d holders, %d bytes of %d came twice", n, twice, size)
			}
		})
	}
	if took[4] > took[1]/2 {
		t.Errorf("%s from one holder, %s from four", took[1], took[4])
	}
}

// Holders of different parts are asked at once, not one part after the other.
func TestShareParts(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	ofRates(t)
	simulate(t, home, 2, 40<<20, func(t *testing.T, w *world) {
		var a *node
		for i := range 2 {
			a = w.holder(func(shard int) bool { return shard%2 == i })
			w.r.add(a.h)
		}
		took := w.fetch(a.m.ID(), nil)
		if alone := time.Duration(float64(w.b.taken()) * 8 / home.Rate * float64(time.Second)); took > alone*3/4 {
			t.Errorf("%s; one after the other would take %s", took, alone)
		}
	})
}

// Nodes that fetch the same at once give each other what they have already.
func TestSwarm(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	simulate(t, home, 5, 5<<20, func(t *testing.T, w *world) {
		a := w.holder(nil)
		w.r.add(a.h)
		swarm := w.swarm(a, 4)
		var wg sync.WaitGroup
		for _, n := range swarm {
			wg.Go(func() { n.fetch(t, nil) })
		}
		wg.Wait()
		size := uint64(a.m.Manifest().Size())
		if n := a.given(); n > 37*size/10 {
			t.Errorf("the holder gave %d bytes to four nodes that fetched %d each", n, size)
		} else {
			t.Log(n * 100 / size)
		}
	})
}

// swarm are nodes that know a holder and each other, and lack the model.
func (w *world) swarm(a *node, size int) []*node {
	w.t.Helper()
	nodes := []*node{w.b}
	for len(nodes) < size {
		nodes = append(nodes, newNode(w.t, w.host(), w.t.TempDir(), w.r))
	}
	for i, n := range nodes {
		n.learn(w.t, a.m.ID())
		for _, m := range nodes[:i] {
			if err := n.h.Connect(w.t.Context(), peer.AddrInfo{ID: m.h.ID(), Addrs: m.h.Addrs()}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return nodes
}

// A link on which a leaf takes most of a minute still serves.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	simulate(t, link.Params{RTT: 40 * time.Millisecond, Rate: 0.5e6}, 2, 4<<20, func(t *testing.T, w *world) {
		a := w.holder(nil)
		w.r.add(a.h)
		w.fetch(a.m.ID(), nil)
		if size, n := uint64(w.b.m.Manifest().Size()), w.b.taken(); n > size+4<<20 {
			t.Errorf("took %d bytes for %d", n, size)
		}
	})
}

// Several nodes that fetch from one all get their part of its uplink.
func TestFair(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	simulate(t, home, 3, 5<<20, func(t *testing.T, w *world) {
		a := w.holder(nil)
		w.r.add(a.h)
		nodes := w.swarm(a, 3)
		took := make([]time.Duration, len(nodes))
		start := time.Now()
		var wg sync.WaitGroup
		for i, n := range nodes {
			wg.Go(func() {
				if err := n.x.Fetch(t.Context(), a.m.ID(), every(t, n.m), nil); err != nil {
					t.Error(err)
				}
				took[i] = time.Since(start)
			})
		}
		wg.Wait()
		if most := max(took[0], took[1], took[2]); min(took[0], took[1], took[2]) < most/2 {
			t.Errorf("they took %v", took)
		}
	})
}

// slowly keeps blocks on a disk that hangs now and then.
type slowly struct{ shards }

func (w slowly) Put(ctx context.Context, c cid.Cid, data []byte) error {
	if c.Hash()[5]%4 == 0 {
		time.Sleep(giveUp * 3 / 2)
	}
	return w.shards.Put(ctx, c, data)
}

// A slow disk is not taken for peers that send nothing.
func TestSlowDisk(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	simulate(t, home, 4, 4<<20, func(t *testing.T, w *world) {
		a := w.holder(nil)
		w.r.add(a.h)
		w.b.learn(t, a.m.ID())
		var log bytes.Buffer // is used by one goroutine: the one that asks
		w.b.x.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if err := w.b.x.Fetch(t.Context(), a.m.ID(), slowly{every(t, w.b.m)}, nil); err != nil {
			t.Fatal(err)
		}
		w.b.wantsEqual(t, w.path)
		if log.Len() > 0 {
			t.Error(log.String())
		}
	})
}

// Two fetches of one model do not take each other's holders away.
func TestTwoFetches(t *testing.T) {
	t.Parallel()
	simulate(t, home, 4, 4<<20, func(t *testing.T, w *world) {
		a := w.holder(nil)
		w.r.add(a.h)
		w.b.learn(t, a.m.ID())
		whole := make(chan struct{})
		go func() {
			defer close(whole)
			w.b.fetch(t, nil)
		}()
		time.Sleep(time.Second)
		if _, err := w.b.x.Manifest(t.Context(), a.m.ID()); err != nil {
			t.Error(err)
		}
		if w.b.m.Held() == w.b.m.Manifest().Size() || len(w.b.x.holders(w.b.x.lanes()[0])) != 1 {
			t.Error("the holder is forgotten, or the fetch was over already")
		}
		<-whole
		w.b.wantsEqual(t, w.path)
	})
}

// A leaf that is damaged on a holder's disk is not given, and comes from
// another holder.
func TestDamaged(t *testing.T) {
	t.Parallel()
	simulate(t, home, 2, 2_500_000, func(t *testing.T, w *world) {
		dir := t.TempDir()
		a := newNode(t, w.host(), dir, w.r)
		c := w.holder(nil)
		w.r.add(c.h)
		a.learn(t, c.m.ID())
		a.fetch(t, nil)
		w.r.list = nil

		w.r.add(a.h)
		w.b.learn(t, a.m.ID())
		if err := w.b.x.Fetch(t.Context(), a.m.ID(), nodes{every(t, w.b.m)}, nil); err != nil {
			t.Fatal(err)
		}
		leaves, err := w.b.m.Missing(every(t, w.b.m).list)
		if err != nil {
			t.Fatal(err)
		}
		bad := leaves[len(leaves)/2]
		flip(t, filepath.Join(dir, "models", a.m.ID().String(), "data.gguf"), a.m.Manifest().Size(), bad.Offset+int64(bad.Size)/2)
		if has, _ := a.s.Has(t.Context(), bad.CID); !has {
			t.Fatal("the holder knows before it has looked")
		}
		want := &one{c: bad.CID}
		if err := w.b.x.Fetch(t.Context(), a.m.ID(), want, nil); !errors.Is(err, ErrNotFound) || want.data != nil {
			t.Errorf("%d bytes of a damaged leaf, %v", len(want.data), err)
		}
		if has, _ := a.s.Has(t.Context(), bad.CID); has {
			t.Error("the holder still says that it has the leaf")
		}
		w.r.add(c.h)
		w.b.fetch(t, nil)
		w.b.wantsEqual(t, w.path)
	})
}

// nodes wants what lists the leaves, and no leaves.
type nodes struct{ shards }

func (w nodes) Next(context.Context) ([]Need, error) {
	list, err := w.m.NeedNodes(w.list)
	return bare(list), err
}

// flip damages a model's data file, which ends in the model.
func flip(t testing.TB, path string, size, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	at += st.Size() - size
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}
