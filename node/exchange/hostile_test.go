package exchange

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	bsmsg "github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/testnet/link"
)

const bitswapID = protocol.ID("/shoal/ipfs/bitswap/1.2.0")

// villain speaks bitswap by hand: answer is called with what it is asked for.
type villain struct {
	host.Host

	mu   sync.Mutex
	seen map[cid.Cid]int // how often a block was asked for
}

func newVillain(h host.Host, answer func(v *villain, from peer.ID, wants []bsmsg.Entry)) *villain {
	v := &villain{Host: h, seen: map[cid.Cid]int{}}
	h.SetStreamHandler(bitswapID, func(s network.Stream) {
		defer s.Reset()
		r := msgio.NewVarintReaderSize(s, network.MessageSizeMax)
		for {
			m, _, err := bsmsg.FromMsgReader(r)
			if err != nil {
				return
			}
			wants := slices.DeleteFunc(m.Wantlist(), func(e bsmsg.Entry) bool { return e.Cancel })
			v.mu.Lock()
			for _, e := range wants {
				if e.WantType == pb.Message_Wantlist_Block {
					v.seen[e.Cid]++
				}
			}
			v.mu.Unlock()
			if len(wants) > 0 {
				answer(v, s.Conn().RemotePeer(), wants)
			}
		}
	})
	return v
}

// raw sends bytes on a stream of their own.
func (v *villain) raw(to peer.ID, b []byte) {
	s, err := v.NewStream(context.Background(), to, bitswapID)
	if err != nil {
		return
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = s.Write(b)
	_ = s.CloseWrite()
}

// framed sends a message of any content.
func (v *villain) framed(to peer.ID, m *pb.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	v.raw(to, append(binary.AppendUvarint(nil, uint64(len(b))), b...))
}

func (v *villain) send(to peer.ID, m bsmsg.BitSwapMessage) {
	if !m.Empty() {
		v.framed(to, m.ToProtoV1())
	}
}

// have says of everything that it is here.
func (v *villain) have(to peer.ID, wants []bsmsg.Entry) {
	out := bsmsg.New(false)
	for _, e := range wants {
		if e.WantType == pb.Message_Wantlist_Have {
			out.AddHave(e.Cid)
		}
	}
	v.send(to, out)
}

// junk is what is sent instead of a block.
func junk(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// villains are the ways to be one.
var villains = map[string]func(v *villain, from peer.ID, wants []bsmsg.Entry){
	"sends nothing": (*villain).have,
	"sends other bytes": func(v *villain, from peer.ID, wants []bsmsg.Entry) {
		v.have(from, wants)
		out := bsmsg.New(false)
		for _, e := range wants {
			if b, err := blocks.NewBlockWithCid(junk(1000), e.Cid); err == nil && e.WantType == pb.Message_Wantlist_Block {
				out.AddBlock(b)
			}
		}
		v.send(from, out)
	},
	"sends too much": func(v *villain, from peer.ID, wants []bsmsg.Entry) {
		v.have(from, wants)
		for _, e := range wants {
			if b, err := blocks.NewBlockWithCid(junk(4<<20-1000), e.Cid); err == nil && e.WantType == pb.Message_Wantlist_Block {
				out := bsmsg.New(false)
				out.AddBlock(b)
				v.send(from, out)
			}
		}
		v.raw(from, append(binary.AppendUvarint(nil, 5<<20), junk(1000)...))
		v.raw(from, append(binary.AppendUvarint(nil, 1<<62), junk(1000)...))
		v.raw(from, []byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	},
	"sends garbage": func(v *villain, from peer.ID, wants []bsmsg.Entry) {
		v.have(from, wants)
		v.raw(from, junk(5000))
		v.raw(from, append(binary.AppendUvarint(nil, 5000), junk(5000)...))
		v.raw(from, append(binary.AppendUvarint(nil, 5000), junk(10)...))
		for _, prefix := range [][]byte{nil, {1}, {1, 0x55, 0, 8}, {1, 0x55, 0x12, 0xff, 0xff, 0xff, 0xff, 0x7f}, {1, 0x55, 0xff, 0x7f, 32}, {9, 9, 9, 9}, junk(40)} {
			v.framed(from, &pb.Message{Payload: []*pb.Message_Block{{Prefix: prefix, Data: junk(100)}}})
		}
		v.framed(from, &pb.Message{BlockPresences: []*pb.Message_BlockPresence{{Cid: junk(30)}, {}}, PendingBytes: -1})
		v.framed(from, &pb.Message{Wantlist: &pb.Message_Wantlist{Entries: []*pb.Message_Wantlist_Entry{{Block: junk(30)}}}})
		v.framed(from, &pb.Message{Wantlist: &pb.Message_Wantlist{Full: true, Entries: []*pb.Message_Wantlist_Entry{{Block: cid.NewCidV1(cid.Raw, wants[0].Cid.Hash()).Bytes(), WantType: 77, Priority: -5}}}})
	},
}

// Whatever some of the holders send, the model comes from the honest one: Put
// is called with nothing else (see shards), and it ends soon.
func TestHostileHolders(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	for name, answer := range villains {
		t.Run(name, func(t *testing.T) {
			for _, many := range []int{1, 5} {
				simulate(t, link.Params{RTT: 40 * time.Millisecond, Rate: 50e6}, 2, 2<<20, func(t *testing.T, w *world) {
					for range many {
						w.r.add(newVillain(w.host(), answer))
					}
					a := w.holder(nil)
					w.r.add(a.h)
					if took := w.fetch(a.m.ID(), nil); took > giveUp {
						t.Errorf("it took %s beside %d villains", took, many)
					}
				})
			}
		})
	}
}

// A holder that has begun to give and then sends nothing, without going away,
// is not waited for.
func TestFallsSilent(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	simulate(t, home, 4, 5<<20, func(t *testing.T, w *world) {
		a, c := w.holder(nil), w.holder(nil)
		left := 8
		var mu sync.Mutex
		v := newVillain(w.host(), func(v *villain, from peer.ID, wants []bsmsg.Entry) {
			out := bsmsg.New(false)
			for _, e := range wants {
				raw, err := c.s.Get(t.Context(), e.Cid)
				b, _ := blocks.NewBlockWithCid(raw, e.Cid)
				mu.Lock()
				switch {
				case err != nil:
				case e.WantType == pb.Message_Wantlist_Have:
					out.AddHave(e.Cid)
				case left > 0:
					left--
					out.AddBlock(b)
				}
				mu.Unlock()
			}
			v.send(from, out)
		})
		w.r.add(v)
		w.b.learn(t, a.m.ID())
		start := time.Now()
		w.b.fetch(t, func(p Progress) {
			if p.Blocks == 6 {
				w.r.add(a.h)
			}
		})
		w.b.wantsEqual(t, w.path)
		if took := time.Since(start); took > giveUp {
			t.Errorf("it took %s", took)
		}
	})
}

// A holder that lost what it was asked for is asked again, and soon.
func TestAskAgain(t *testing.T) {
	t.Parallel()
	simulate(t, home, 2, 2_500_000, func(t *testing.T, w *world) {
		c := w.holder(nil)
		w.r.add(newVillain(w.host(), func(v *villain, from peer.ID, wants []bsmsg.Entry) {
			v.have(from, wants)
			out := bsmsg.New(false)
			for _, e := range wants {
				v.mu.Lock()
				again := v.seen[e.Cid] > 1
				v.mu.Unlock()
				if raw, err := c.s.Get(t.Context(), e.Cid); err == nil && again && e.WantType == pb.Message_Wantlist_Block {
					b, _ := blocks.NewBlockWithCid(raw, e.Cid)
					out.AddBlock(b)
				}
			}
			v.send(from, out)
		}))
		start := time.Now()
		if _, err := w.b.x.Manifest(t.Context(), c.m.ID()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*impatient {
			t.Errorf("it took %s", took)
		}
		w.fetch(c.m.ID(), nil)
	})
}

// Peers that ask for all there is and then read nothing keep a holder from
// giving to others for a short while, and only if they are many.
func TestUnread(t *testing.T) {
	takesSeconds(t)
	t.Parallel()
	for many, limit := range map[int]time.Duration{3: 9 * time.Second, 6: 30 * time.Second} {
		simulate(t, link.Params{RTT: 40 * time.Millisecond, Rate: 50e6}, 3, 10<<20, func(t *testing.T, w *world) {
			a := w.holder(nil)
			w.r.add(a.h)
			w.b.learn(t, a.m.ID())
			if err := w.b.x.Fetch(t.Context(), a.m.ID(), nodes{every(t, w.b.m)}, nil); err != nil {
				t.Fatal(err)
			}
			leaves, err := w.b.m.Missing(every(t, w.b.m).list)
			if err != nil {
				t.Fatal(err)
			}
			all := bsmsg.New(true)
			for _, l := range leaves {
				all.AddEntry(l.CID, 1, pb.Message_Wantlist_Block, true)
			}
			for range many {
				v := w.host()
				v.SetStreamHandler(bitswapID, func(network.Stream) {}) // neither reads nor closes
				if err := v.Connect(t.Context(), peer.AddrInfo{ID: a.h.ID(), Addrs: a.h.Addrs()}); err != nil {
					t.Fatal(err)
				}
				ask := func() { (&villain{Host: v}).framed(a.h.ID(), all.ToProtoV1()) }
				ask()
				if many == 3 { // these insist
					go func() {
						for {
							select {
							case <-t.Context().Done():
								return
							case <-time.After(4 * time.Second):
								ask()
							}
						}
					}()
				}
			}
			time.Sleep(11 * time.Second) // bitswap favours those who got nothing for ten
			if took := w.fetch(a.m.ID(), nil); took > limit {
				t.Errorf("it took %s beside %d", took, many)
			} else {
				t.Log(many, took)
			}
		})
	}
}

// A peer that announces large messages on many streams and does not end them
// takes a bounded part of the memory, and others are served meanwhile.
func TestFlood(t *testing.T) {
	path := writeModel(t, 4, 2_500_000)
	noLimits := libp2p.ResourceManager(&network.NullResourceManager{})
	a := newHolder(t, newHost(t, overQUIC, noLimits), path, nil)
	v := newHost(t, overQUIC, noLimits)
	if err := v.Connect(t.Context(), peer.AddrInfo{ID: a.h.ID(), Addrs: a.h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	before := heap()
	msg := append(binary.AppendUvarint(nil, 4<<20), make([]byte, 4<<20-1)...) // all but the last byte
	var streams []network.Stream
	var wg sync.WaitGroup
	for range 100 {
		s, err := v.NewStream(t.Context(), a.h.ID(), bitswapID)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
		wg.Go(func() { _, _ = s.Write(msg) })
	}
	held := func() int {
		a.x.lanes()[0].inbound.mu.Lock()
		defer a.x.lanes()[0].inbound.mu.Unlock()
		return len(a.x.lanes()[0].inbound.open)
	}
	await(t, "many streams", func() bool { return held() > 50 })
	r := &roster{}
	r.add(a.h)
	b := newNode(t, newHost(t, overQUIC), t.TempDir(), r)
	b.learn(t, a.m.ID())
	b.fetch(t, nil)
	b.wantsEqual(t, path)
	if n := heap() - before; n > 200<<20 {
		t.Errorf("%d MiB of memory", n>>20)
	} else {
		t.Logf("%d MiB of memory, %d streams", n>>20, held())
	}
	for _, s := range streams {
		_ = s.Reset()
	}
	wg.Wait()
	await(t, "that the streams are gone", func() bool { return held() <= 2 })
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
