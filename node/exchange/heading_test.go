package exchange

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	wire "github.com/shoalnet/shoal/protocol"
)

// halves are a node without models and a holder of one, between which only a relay leads.
func halves(t *testing.T) (a, b *node) {
	t.Helper()
	find := &roster{}
	a = newNode(t, hostWith(t, libp2p.NoListenAddrs, libp2p.EnableRelay()), t.TempDir(), find)
	b = newHolder(t, hostWith(t, libp2p.NoListenAddrs, libp2p.EnableRelay()), writeModel(t, 2, 1<<20), nil)
	overCircuit(t, a.h, b.h)
	find.list = []peer.AddrInfo{{ID: b.h.ID()}}
	return a, b
}

// What a prompt needs of a model comes over a relay, also one that carries 128 KiB; no
// weights do.
func TestHeadingOverRelay(t *testing.T) {
	takesSeconds(t)
	a, b := halves(t)
	a.learn(t, b.m.ID())
	header := shards{t: t, m: a.m, list: a.m.Manifest().ShardsFor(wire.Span{})}
	if err := a.x.Fetch(t.Context(), a.m.ID(), header, nil); err != nil {
		t.Fatal(err)
	}
	if h, err := a.m.Header(); err != nil || len(h.Tensors) != 4 {
		t.Errorf("the header: %v", err)
	}
	given := b.given()
	if most := uint64(a.m.Manifest().Shards[0].Size) + 2*wire.MaxManifest; given == 0 || given > most {
		t.Errorf("%d bytes were served", given)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := a.x.Fetch(ctx, a.m.ID(), every(t, a.m), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("weights over a relay: %v", err)
	}
	if b.given() != given {
		t.Errorf("%d bytes of weights, or of what lists them, were served", b.given()-given)
	}
}

// askOver has a ask b for blocks over a relay.
func askOver(a, b *node, list ...cid.Cid) error {
	f := &fetch{x: a.x, buffers: make(chan []byte, 1)}
	f.buffers <- nil
	f.scheduler = newScheduler(f)
	m := &relayedPeer{f: f, in: a.x.lanes()[0], id: b.h.ID()}
	var need []Need
	for _, c := range list {
		need = append(need, Need{CID: c})
	}
	return m.ask(a.x.ctx, need, func(i int, data []byte) error {
		if sum, err := list[i].Prefix().Sum(data); err != nil || sum != list[i] {
			return errBad
		}
		return nil
	})
}

// Whoever asks for weights, more than the relay carries, or more than its share gets
// nothing, and is told why.
func TestHeadingRefused(t *testing.T) {
	takesSeconds(t)
	a, b := halves(t)
	if err := askOver(a, b, b.m.ID()); err != nil {
		t.Fatal("the manifest: ", err)
	}
	given := b.given()
	if err := askOver(a, b, b.m.Manifest().Shards[1].Root, cid.Undef); err == nil {
		t.Error("no CID is answered")
	}
	weights := weightsOf(t, b)
	if err := askOver(a, b, weights); err == nil || b.given() != given {
		t.Errorf("weights: %v, %d bytes", err, b.given()-given)
	}
	var p permanent
	b.x.lanes()[0].Sends = func(to peer.ID, _ cid.Cid) bool { return to != a.h.ID() }
	if err := askOver(a, b, b.m.ID()); !errors.As(err, &p) {
		t.Errorf("what is not lent to the peer: %v", err)
	}
	b.x.lanes()[0].Sends = nil
	b.x.lanes()[0].Room = func(network.Conn) uint64 { return 100 }
	if err := askOver(a, b, b.m.ID()); !errors.As(err, &p) {
		t.Errorf("more than the relay carries: %v", err)
	}
	a.x.lanes()[0].Room = func(network.Conn) uint64 { return 100 << 10 }
	if err := askOver(a, b, b.m.ID()); err == nil || !strings.Contains(err.Error(), "100 KiB") {
		t.Errorf("more than the relay carries: %v", err)
	}
	b.x.lanes()[0].Room = nil
	for b.x.headings.take(a.h.ID(), 100, time.Now()) { // less than a manifest has
	}
	if err := askOver(a, b, b.m.ID()); !errors.As(err, &p) {
		t.Errorf("more than the peer may have: %v", err)
	}
	b.h.RemoveStreamHandler(wire.HeadingID)
	if err := a.h.Peerstore().RemoveProtocols(b.h.ID(), wire.HeadingID); err != nil { // as if it had never had it
		t.Fatal(err)
	}
	if err := askOver(a, b, b.m.ID()); !errors.Is(err, errTooOld) {
		t.Errorf("a peer that does not know the protocol: %v", err)
	}
	if b.given() != given {
		t.Errorf("%d bytes were served though they were refused", b.given()-given)
	}
}

// weightsOf returns a leaf of weights.
func weightsOf(t *testing.T, n *node) cid.Cid {
	t.Helper()
	buf := make([]byte, wire.LeafSize)
	raw, err := n.m.ReadLeaf(n.m.LeafCount()-1, buf)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cid.V1Builder{Codec: cid.Raw, MhType: n.m.ID().Prefix().MhType}.Sum(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A peer that answers with something else over a relay is dropped.
func TestHeadingLies(t *testing.T) {
	takesSeconds(t)
	for name, answer := range map[string][]byte{
		"another block":  append(wire.LeafHead{Size: 3}.Append(nil), "abc"...),
		"another number": wire.LeafHead{Leaf: 1, Size: 3}.Append(nil),
		"too much":       wire.LeafHead{Size: wire.LeafSize + 1}.Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := halves(t)
			lies(b.h, answer)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			go func() {
				for ctx.Err() == nil && !a.x.ledger.Bad(b.h.ID().String()) {
					time.Sleep(10 * time.Millisecond)
				}
				cancel()
			}()
			if _, err := a.x.Manifest(ctx, b.m.ID()); err == nil {
				t.Error("a manifest came")
			}
			if !a.x.ledger.Bad(b.h.ID().String()) {
				t.Error("the peer is not dropped")
			}
		})
	}
}

func lies(h host.Host, answer []byte) {
	h.SetStreamHandler(wire.HeadingID, func(s network.Stream) {
		if _, err := wire.ReadHeadingRequest(bufio.NewReader(s)); err == nil {
			_, _ = s.Write(answer)
		}
		_ = s.Close()
	})
}

func TestAllowances(t *testing.T) {
	var a allowances
	now := time.Now()
	if !a.take("a", allowance, now) || a.take("a", 1, now) || !a.take("b", 1, now) {
		t.Error("each peer has its own")
	}
	if a.take("a", 1, now.Add(allowanceTime-1)) || !a.take("a", allowance, now.Add(allowanceTime)) {
		t.Error("after its time it is whole again")
	}
	for i := range 3 * mostAllowances {
		a.take(peer.ID(string(rune(i+100000))), 1, now)
		if len(a.spent) > mostAllowances {
			t.Fatalf("%d peers are counted", len(a.spent))
		}
	}
}

// A header that is larger than relays are to carry fails at once, and says so.
func TestHeadingTooLarge(t *testing.T) {
	f := &fetch{relayed: map[peer.ID]*relayedPeer{}}
	f.relayed["a"] = &relayedPeer{f: f, id: "a"}
	f.noteNeed([]Need{{Size: wire.MaxHeading, Heading: true}})
	if why := f.relaysFail(); why != "" {
		t.Error(why)
	}
	f.noteNeed([]Need{{Size: wire.MaxHeading, Heading: true}, {Size: 1, Heading: true}})
	if why := f.relaysFail(); !strings.Contains(why, "32 MiB") {
		t.Errorf("%q", why)
	}
	f.noteNeed([]Need{{Size: 1}})
	if why := f.relaysFail(); why != "" || !strings.Contains(f.noWeights(), "no weights") {
		t.Errorf("%q, %q", why, f.noWeights())
	}
	f.noteNeed(nil)
	f.overRelays = wire.MaxHeading
	if !f.tooMuch(1) {
		t.Error("what has come is not counted")
	}
}
