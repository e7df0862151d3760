package exchange

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// writeModel writes a GGUF file of random weights: an embedding, a norm, and
// blocks of about the given size in bytes, which is no multiple of a leaf's.
func writeModel(t testing.TB, blocks int, size uint64) (path string) {
	t.Helper()
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: "Synth Model"},
		{Key: "llama.block_count", Value: uint32(blocks)},
		{Key: "llama.embedding_length", Value: uint32(64)},
		{Key: "llama.context_length", Value: uint32(128)},
		{Key: "tokenizer.ggml.tokens", Value: slices.Repeat([]string{"token"}, 1000)},
	}}
	var end uint64
	add := func(name string, rows uint64) {
		t := gguf.Tensor{Name: name, Type: 0, Shape: []uint64{64, rows}, Offset: end}
		h.Tensors = append(h.Tensors, t)
		end += t.Bytes() // rows of 256 bytes: aligned
	}
	add("token_embd.weight", 5000)
	add("output_norm.weight", 1)
	for i := range blocks {
		add(fmt.Sprintf("blk.%d.ffn_up.weight", i), size/256)
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
	w := bufio.NewWriterSize(f, 1<<20)
	_, _ = w.Write(raw)
	_, _ = w.Write(make([]byte, -len(raw)&31))
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{byte(blocks)}), int64(end)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return path
}

func openStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newHost(t testing.TB, listen string, opts ...libp2p.Option) host.Host {
	t.Helper()
	return newHostOn(t, []string{listen}, opts...)
}

func newHostOn(t testing.TB, listen []string, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append(opts, libp2p.ListenAddrStrings(listen...), libp2p.DisableMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

const (
	overTCP  = "/ip4/127.0.0.1/tcp/0"
	overQUIC = "/ip4/127.0.0.1/udp/0/quic-v1"
)

var silent = slog.New(slog.DiscardHandler)

// roster is a Finder that knows whom it is told of.
type roster struct {
	mu   sync.Mutex
	list []peer.AddrInfo
}

func (r *roster) add(hosts ...host.Host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range hosts {
		r.list = append(r.list, peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	}
}

func (r *roster) Holders(context.Context, cid.Cid) ([]peer.AddrInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list), nil
}

// shelves are the models of a store, for bulk.
func shelves(s *store.Store) func(cid.Cid) Leaves {
	return func(model cid.Cid) Leaves {
		if m, err := s.Model(model); err == nil {
			return m
		}
		return nil
	}
}

// node is what of a node has to do with exchange.
type node struct {
	h host.Host
	s *store.Store
	m *store.Model
	x *Exchange
}

func newNode(t testing.TB, h host.Host, dir string, find Finder) *node {
	t.Helper()
	n := &node{h: h, s: openStore(t, dir)}
	n.x = New(n.s, Options{Leaves: shelves(n.s)}, Net{Host: h, Find: find, Headings: n.s.Headings(func(cid.Cid) bool { return true })})
	t.Cleanup(func() { n.x.Close() })
	return n
}

// newHolder makes a node that holds a model's header and the shards that keep
// names; nil: all.
func newHolder(t testing.TB, h host.Host, path string, keep func(shard int) bool) *node {
	t.Helper()
	n := newNode(t, h, t.TempDir(), &roster{})
	var err error
	if n.m, err = n.s.Add(t.Context(), path, store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	var drop []int
	for i := 1; i < len(n.m.Manifest().Shards); i++ {
		if keep != nil && !keep(i) {
			drop = append(drop, i)
		}
	}
	if err := n.m.DropShards(drop); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) given() uint64 { return n.x.Stats().Given }

func (n *node) taken() uint64 { return n.x.Stats().Taken }

// learn fetches a model's manifest.
func (n *node) learn(t testing.TB, id cid.Cid) {
	t.Helper()
	raw, err := n.x.Manifest(t.Context(), id)
	if err != nil {
		t.Fatal("manifest: ", err)
	}
	if n.m, err = n.s.AddManifest(raw, id, ""); err != nil {
		t.Fatal(err)
	}
}

// fetch fetches all of a model that has been learnt.
func (n *node) fetch(t testing.TB, progress func(Progress)) {
	t.Helper()
	if err := n.x.Fetch(t.Context(), n.m.ID(), every(t, n.m), progress); err != nil {
		t.Fatal(err)
	}
}

// wantsEqual checks that the model is whole and the file that it was.
func (n *node) wantsEqual(t testing.TB, path string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.gguf")
	if err := n.m.Export(t.Context(), out, nil); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it is another file: %v", err)
	}
}

// shards wants some of a model's shards, as a node does, and checks what it is
// given.
type shards struct {
	t    testing.TB
	m    *store.Model
	list []int
}

func every(t testing.TB, m *store.Model) shards {
	w := shards{t: t, m: m}
	for i := range m.Manifest().Shards {
		w.list = append(w.list, i)
	}
	return w
}

func (w shards) Next(context.Context) ([]Need, error) {
	header := func(shard int) bool { return w.m.Manifest().Shards[shard].Kind == protocol.ShardHeader }
	nodes, err := w.m.NeedNodes(w.list)
	if err != nil || len(nodes) > 0 {
		need := bare(nodes)
		for i := range need {
			need[i].Heading = len(w.list) == 1 && header(w.list[0])
		}
		return need, err
	}
	leaves, err := w.m.Missing(w.list)
	var out []Need
	for _, l := range leaves {
		out = append(out, Need{CID: l.CID, Number: l.Number, Size: l.Size, File: l.File, Offset: l.Offset, Heading: header(l.Shard)})
	}
	return out, err
}

// bare are blocks of which nothing but the CID is known.
func bare(list []cid.Cid) (out []Need) {
	for _, c := range list {
		out = append(out, Need{CID: c, Number: -1})
	}
	return out
}

func (w shards) Put(_ context.Context, c cid.Cid, data []byte) error {
	if sum, err := c.Prefix().Sum(data); err != nil || sum != c {
		w.t.Errorf("Put got %d bytes that are not %s", len(data), c)
	}
	return w.m.Put(c, data)
}

// missing counts the bytes of leaves that a model lacks.
func missing(t testing.TB, m *store.Model) (n uint64) {
	t.Helper()
	leaves, err := m.Missing(every(t, m).list)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leaves {
		n += uint64(l.Size)
	}
	return n
}

// ofRates skips a test of how fast things are, whose parts others have, too.
func ofRates(t *testing.T) {
	t.Helper()
	if underRace {
		t.Skip("the race detector makes this machine slower than the lines that are emulated")
	}
}

// takesSeconds skips a test that takes over a second, where only short ones are
// wanted.
func takesSeconds(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes seconds")
	}
}
