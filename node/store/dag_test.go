package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/protocol"
)

// A shard whose leaves are all full is identical to the UnixFS file that any
// other implementation makes of the same bytes with the profile's settings.
func TestDAGIsUnixFS(t *testing.T) {
	for _, n := range []int{1, 2, 1023, 1024, 1025, 2048, 3000} {
		const leaf = 100 // the shape does not depend on it
		raw := make([]byte, n*leaf-30)
		for i := range raw {
			raw[i] = byte(i * i >> 8)
		}
		ds := merkledag.NewDAGService(blockservice.New(blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore())), offline.Exchange(nil)))
		params := helpers.DagBuilderParams{Maxlinks: dagWidth, RawLeaves: true, CidBuilder: nodePrefix, Dagserv: ds}
		db, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(raw), leaf))
		if err != nil {
			t.Fatal(err)
		}
		want, err := balanced.Layout(db)
		if err != nil {
			t.Fatal(err)
		}
		var links []link
		for b := range slices.Chunk(raw, leaf) {
			links = append(links, link{digest(sha256.Sum256(b)).cid(), uint64(len(b)), uint64(len(b))})
		}
		root, _, err := buildDAG(links)
		if err != nil {
			t.Fatal(err)
		}
		if root != want.Cid() {
			t.Errorf("%d leaves: root %s, others make it %s", n, root, want.Cid())
		}
	}
}

func randomLinks(rng *rand.Rand, n int) (links []link, digests []digest) {
	for range n {
		var d digest
		binary.LittleEndian.PutUint64(d[:], rng.Uint64())
		size := uint64(1 + rng.IntN(protocol.LeafSize))
		links = append(links, link{d.cid(), size, size})
		digests = append(digests, d)
	}
	return links, digests
}

// walkDAG reads what buildDAG makes, and asks for exactly the nodes that are
// missing.
func TestDAGRoundTrip(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 2, 5, 1024, 1025, 5000, dagWidth*dagWidth + 3} {
		links, want := randomLinks(rng, n)
		root, nodes, err := buildDAG(links)
		if err != nil {
			t.Fatal(err)
		}
		size := func(i int) int { return int(links[i].size) }
		known := map[cid.Cid][]byte{}
		rounds := 0
		for ; ; rounds++ {
			leaves, lacking, err := walkDAG(root, n, size, func(c cid.Cid) []byte { return known[c] })
			if err != nil {
				t.Fatalf("%d leaves: %v", n, err)
			}
			if len(lacking) == 0 {
				if !slices.Equal(leaves, want) {
					t.Errorf("%d leaves: others came back", n)
				}
				break
			}
			for _, c := range lacking {
				if known[c] != nil || nodes[c] == nil {
					t.Fatalf("%d leaves: asks for %s", n, c)
				}
				known[c] = nodes[c]
			}
		}
		if len(known) != len(nodes) {
			t.Errorf("%d leaves: asked for %d of %d nodes in %d rounds", n, len(known), len(nodes), rounds)
		}
	}
}

// A peer's nodes match their hashes but may have any content.
func TestDAGRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	links, _ := randomLinks(rng, 5)
	size := func(i int) int { return int(links[i].size) }
	identity, _ := multihash.Sum([]byte("x"), multihash.IDENTITY, -1)
	node := func(change func(fsn *unixfs.FSNode, nd *merkledag.ProtoNode)) []byte {
		fsn, nd := unixfs.NewFSNode(unixfs.TFile), new(merkledag.ProtoNode)
		for _, l := range links {
			fsn.AddBlockSize(l.size)
			_ = nd.AddRawLink("", &ipld.Link{Size: l.tree, Cid: l.c})
		}
		change(fsn, nd)
		data, _ := fsn.GetBytes()
		nd.SetData(data)
		return nd.RawData()
	}
	cases := map[string][]byte{
		"garbage": []byte("garbage"),
		"empty":   {},
		"one link more": node(func(f *unixfs.FSNode, n *merkledag.ProtoNode) {
			f.AddBlockSize(1)
			_ = n.AddRawLink("", &ipld.Link{Cid: links[0].c})
		}),
		"a size more":       node(func(f *unixfs.FSNode, _ *merkledag.ProtoNode) { f.AddBlockSize(1) }),
		"another size":      node(func(f *unixfs.FSNode, _ *merkledag.ProtoNode) { f.RemoveAllBlockSizes(); f.AddBlockSize(7) }),
		"inline data":       node(func(f *unixfs.FSNode, _ *merkledag.ProtoNode) { f.SetData([]byte("x")) }),
		"a leaf in the CID": node(func(_ *unixfs.FSNode, n *merkledag.ProtoNode) { n.Links()[2].Cid = cid.NewCidV1(cid.Raw, identity) }),
		"a node as a leaf": node(func(_ *unixfs.FSNode, n *merkledag.ProtoNode) {
			n.Links()[2].Cid = cid.NewCidV1(cid.DagProtobuf, n.Links()[2].Cid.Hash())
		}),
	}
	good := node(func(*unixfs.FSNode, *merkledag.ProtoNode) {})
	root := func(raw []byte) cid.Cid { c, _ := nodePrefix.Sum(raw); return c }
	if _, _, err := walkDAG(root(good), 5, size, func(cid.Cid) []byte { return good }); err != nil {
		t.Fatal(err)
	}
	for name, raw := range cases {
		if _, _, err := walkDAG(root(raw), 5, size, func(cid.Cid) []byte { return raw }); !errors.Is(err, protocol.ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzWalkDAG(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	links, _ := randomLinks(rng, 3)
	_, nodes, err := buildDAG(links)
	if err != nil {
		f.Fatal(err)
	}
	for _, raw := range nodes {
		f.Add(raw, 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		n = 1 + n&0xfffff
		c, err := nodePrefix.Sum(raw)
		if err != nil {
			t.Fatal(err)
		}
		leaves, lacking, err := walkDAG(c, n, func(int) int { return 7 }, func(want cid.Cid) []byte {
			if want == c {
				return raw
			}
			return nil
		})
		if err == nil && len(lacking) == 0 && len(leaves) != n {
			t.Errorf("%d leaves where %d were due", len(leaves), n)
		}
	})
}

// A model's directory as a corrupted disk may leave it.
func FuzzJournal(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	dir := f.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	m, err := s.Add(context.Background(), smallFile(f), AddOptions{})
	if err != nil {
		f.Fatal(err)
	}
	journal := heldRecords(m.shards)
	nodes := appendNode(nil, []byte("node"))
	f.Add(journal, nodes)
	f.Add(journal[:100], nodes[:5])
	f.Add(appendRecord(appendRecord(nil, opDamaged, 1, 0), opHeld, 1, 0), nodes)
	f.Add(append(bytes.Clone(journal), journal...), []byte{255, 255, 255, 255, 0, 0, 0, 0})
	again := f.TempDir()
	f.Fuzz(func(t *testing.T, journal, nodes []byte) {
		at := scanJournal(bytes.NewReader(journal), func(int64, uint32, uint32, uint32) {})
		if at > int64(len(journal)) || at%recordSize != 0 {
			t.Fatalf("%d of %d bytes are good", at, len(journal))
		}
		_, shards := layShards(m.man)
		fresh := &Model{id: m.id, man: m.man, raw: m.raw, dir: again, log: m.log, base: m.base, shards: shards,
			nodes: map[cid.Cid][]byte{}, wanted: map[cid.Cid]bool{}, where: map[digest]place{}, twins: map[digest][]place{}}
		writeInto(t, fresh.dir, "journal", journal)
		writeInto(t, fresh.dir, "nodes", nodes)
		if err := fresh.openFiles(); err != nil {
			t.Fatal(err)
		}
		for i := range fresh.shards {
			s := &fresh.shards[i]
			count, sum := 0, int64(0)
			for n, h := range s.held {
				if h {
					count++
					sum += int64(s.size(n))
				}
			}
			if count != s.count || sum != s.bytes {
				t.Fatalf("shard %d: counts %d leaves and %d bytes, holds %d and %d", i, s.count, s.bytes, count, sum)
			}
		}
		if err := fresh.closeFiles(); err != nil { // without waiting for the disk
			t.Fatal(err)
		}
	})
}

// smallFile is a small model for tests that read it many times.
func smallFile(f *testing.F) string {
	return writeFile(f, "small.gguf", synth(rand.New(rand.NewPCG(8, 8)), 1, 0.01))
}

// record.json may contain anything; none of it loses data of the model.
func FuzzRecord(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	s, err := Open(f.TempDir(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	m, err := s.Add(context.Background(), smallFile(f), AddOptions{Pin: true})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(m.dir, "record.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"names": ["", "../../x\n"], "pinned": 1, "used": {"x": "y"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		writeInto(t, m.dir, "record.json", raw)
		got, err := peek(m.dir) // which opens for reading: nothing waits for the disk
		if err != nil {
			t.Fatal(err)
		}
		if !got.Whole(got.Shards()) {
			t.Error("it is not whole any more")
		}
		if name := slug(got.Name()); strings.ContainsAny(name, "/\n\x00") {
			t.Errorf("%q would be a file's name", name)
		}
		if n := len(got.PinnedShards()); n > len(got.shards) {
			t.Errorf("%d shards are pinned", n)
		}
		if err := got.closeFiles(); err != nil {
			t.Error(err)
		}
	})
}
