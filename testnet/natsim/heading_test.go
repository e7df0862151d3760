package natsim

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
	"github.com/shoalnet/shoal/testnet/nat"
)

// TestHeadingOverRelay: a client that has nothing of a model gets what a prompt needs of it
// from a node to which only a relay leads, in the open network and in a private swarm, and
// no weights.
func TestHeadingOverRelay(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, private := range []bool{false, true} {
		t.Run(fmt.Sprintf("private=%t", private), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { headingOverRelay(t, private) })
		})
	}
}

func headingOverRelay(t *testing.T, private bool) {
	internet := New()
	var relays []*Host
	var nodes []*network.Network
	for i := range 3 {
		h := addHost(t, internet, fmt.Sprintf("5.%d.0.1", i))
		nodes = append(nodes, start(t, h, true, relays))
		relays = append(relays, h)
	}
	at := func(outside, inside string) *Host {
		return addHost(t, behind(internet, nat.Symmetric, outside), inside)
	}
	var s *privateSwarm
	if private {
		s = newSwarm(t)
	}
	begin := func(h *Host, known []peer.AddrInfo) *network.Network {
		if private {
			return s.start(t, h, relays, known)
		}
		return start(t, h, false, relays)
	}
	serves := begin(at("6.2.0.1", "10.2.0.2"), nil)
	has, giver := exchanging(t, serves)
	m, err := has.Add(t.Context(), smallModel(t), store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	held := &protocol.HeldShards{Model: m.ID().Bytes(), Bitmap: []byte{0xff}}
	if err := serves.SetOffer(&protocol.OfferBody{Shards: []*protocol.HeldShards{held}}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second)
	asks := begin(at("6.1.0.1", "10.1.0.2"), []peer.AddrInfo{outside(serves)})
	lacks, taker := exchanging(t, asks)

	began := time.Now()
	for len(asks.Offers(t.Context(), m.ID(), func(o []*protocol.Offer) bool { return len(o) > 0 })) == 0 { // as a prompt does first
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("an offer after %v", time.Since(began))
	raw, err := taker.Manifest(t.Context(), m.ID())
	if err != nil {
		t.Fatal(err)
	}
	got, err := lacks.AddManifest(raw, m.ID(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := taker.Fetch(t.Context(), m.ID(), wanted{got, got.Manifest().ShardsFor(protocol.Span{}), true}, nil); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("manifest and header after %v", took)
	if h, err := got.Header(); err != nil || len(h.KVs) == 0 || took > 3*time.Second {
		t.Errorf("a header after %v: %v", took, err)
	}
	if path, ok := asks.PathTo(serves.Self()); !ok || path.Direct {
		t.Errorf("%+v: it is to be relayed", path)
	}
	given := giver.Stats().Given
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	err = taker.Fetch(ctx, m.ID(), wanted{got, got.Shards(), false}, nil)
	cancel()
	t.Log("weights:", err)
	if err == nil || giver.Stats().Given != given {
		t.Errorf("%d bytes of weights, %v", giver.Stats().Given-given, err)
	}
	for _, x := range []*exchange.Exchange{taker, giver} {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, st := range []*store.Store{has, lacks} {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, n := range append(nodes, serves, asks) {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(10 * time.Minute)
}

// exchanging has a node exchange the models of a new store.
func exchanging(t *testing.T, n *network.Network) (*store.Store, *exchange.Exchange) {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all := func(cid.Cid) bool { return true }
	leaves := func(model cid.Cid) exchange.Leaves {
		if m, err := s.Model(model); err == nil {
			return m
		}
		return nil
	}
	return s, exchange.New(s, exchange.Options{Leaves: leaves}, exchange.Net{
		Host: n.Host(), Find: n, Known: n.KnownHolders, Headings: s.Headings(all), Room: n.Room, Believable: n.Believable, Dialling: n.Dialling(),
	})
}

// wanted is shards of a model.
type wanted struct {
	m       *store.Model
	shards  []int
	heading bool
}

func (w wanted) Next(context.Context) (out []exchange.Need, err error) {
	nodes, err := w.m.NeedNodes(w.shards)
	for _, c := range nodes {
		out = append(out, exchange.Need{CID: c, Number: -1, Heading: w.heading})
	}
	if err != nil || len(nodes) > 0 {
		return out, err
	}
	leaves, err := w.m.Missing(w.shards)
	for _, l := range leaves {
		out = append(out, exchange.Need{CID: l.CID, Number: l.Number, Size: l.Size, File: l.File, Offset: l.Offset, Heading: w.heading})
	}
	return out, err
}

func (w wanted) Put(_ context.Context, c cid.Cid, data []byte) error { return w.m.PutVerified(c, data) }

// smallModel writes a GGUF file with a vocabulary of some hundred KiB and one block.
func smallModel(t *testing.T) (path string) {
	t.Helper()
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.embedding_length", Value: uint32(64)},
		{Key: "tokenizer.ggml.tokens", Value: slices.Repeat([]string{"token"}, 50_000)},
	}}
	var end uint64
	for _, name := range []string{"token_embd.weight", "output_norm.weight", "blk.0.ffn_up.weight"} {
		tensor := gguf.Tensor{Name: name, Shape: []uint64{64, 5000}, Offset: end}
		h.Tensors = append(h.Tensors, tensor)
		end += tensor.Bytes()
	}
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "model.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	_, _ = w.Write(raw)
	_, _ = w.Write(make([]byte, -len(raw)&31+int(end)))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return path
}
