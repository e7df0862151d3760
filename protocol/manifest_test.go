package protocol

import (
	"crypto/sha256"
	"errors"
	"flag"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// aManifest is of a two-block model whose file is 1000 bytes.
func aManifest() *Manifest {
	root := func(s string) cid.Cid {
		c, _ := cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}.Sum([]byte(s))
		return c
	}
	sum := sha256.Sum256([]byte("file"))
	shard := func(kind string, block, at, n int64, tensors ...TensorInfo) Shard {
		return Shard{Kind: kind, Block: block, Root: root(kind), Size: n, Extents: []Extent{{0, at, n}}, Tensors: tensors}
	}
	return &Manifest{
		Format: ManifestFormat, Name: "two blocks", Architecture: "llama", Quantization: "F32",
		Parameters: 100, Context: 64, Blocks: 2, Width: 8, Vocab: 10,
		Files: []File{{1000, sum[:]}},
		Shards: []Shard{
			shard(ShardHeader, -1, 0, 200), shard(ShardEmbedding, -1, 200, 100, TensorInfo{"token_embd.weight", 0, []int64{8, 3}, 0, 200, 96}),
			shard(ShardBlock, 0, 300, 300), shard(ShardBlock, 1, 600, 300), shard(ShardOutput, -1, 900, 100),
		},
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := aManifest()
	raw, id, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	again, id2, err := back.Encode()
	if err != nil || string(again) != string(raw) || id != id2 {
		t.Fatalf("not the same after a round trip: %v %s %s", err, id, id2)
	}
	// A vector: any implementation must find this identity.
	const want = "bafyreiei6lsopevluo2t5rsun6hbmwkhjso6ae2xoxehkyelvjhgu36lqm"
	if id.String() != want {
		t.Errorf("CID %s, want %s", id, want)
	}
}

func TestManifestCheck(t *testing.T) {
	for name, breakIt := range map[string]func(*Manifest){
		"gap":           func(m *Manifest) { m.Shards[2].Extents[0].Offset++ },
		"overlap":       func(m *Manifest) { m.Shards[2].Extents[0].Length++; m.Shards[2].Size++ },
		"short":         func(m *Manifest) { m.Files[0].Size++ },
		"outside":       func(m *Manifest) { m.Shards[4].Extents[0].Length = 1 << 62 },
		"block twice":   func(m *Manifest) { m.Shards[3].Block = 0 },
		"block missing": func(m *Manifest) { m.Blocks = 3 },
		"tensor":        func(m *Manifest) { m.Shards[1].Tensors[0].Offset = 250 },
		"kind":          func(m *Manifest) { m.Shards[1].Kind = "rumour" },
		"no root":       func(m *Manifest) { m.Shards[1].Root = cid.Undef },
		"format":        func(m *Manifest) { m.Format = "shoal/9" },
		"tensor's file": func(m *Manifest) { m.Shards[1].Tensors[0].File = 1 },
		"before all":    func(m *Manifest) { m.Shards[1].Tensors[0].Offset = 0 },
		"no length":     func(m *Manifest) { m.Shards[1].Tensors[0].Length = 0 },
		"huge":          func(m *Manifest) { m.Shards[1].Tensors[0].Length = 1 << 62 },
		"many tensors":  func(m *Manifest) { m.Shards[1].Tensors = make([]TensorInfo, MaxTensors+1) },
		"many extents":  func(m *Manifest) { m.Shards[1].Extents = make([]Extent, MaxExtents+1) },
		"negative":      func(m *Manifest) { m.Width = -1 },
	} {
		m := aManifest()
		breakIt(m)
		if err := m.Check(); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// inPieces is a manifest as unkind as it can be: its first block's shard lies in
// so many pieces, in no order, and has so many tensors.
func inPieces(extents, tensors int) *Manifest {
	m := aManifest()
	s := &m.Shards[2]
	s.Extents, s.Tensors = nil, nil
	end := m.Files[0].Size
	for i := range extents {
		s.Extents = append(s.Extents, Extent{0, end + int64((i*7919)%extents), 1})
	}
	for i := range tensors {
		s.Tensors = append(s.Tensors, TensorInfo{"", 0, nil, 0, end + int64((extents-1-i%5000)*7919%extents), 1}) // in the last pieces: whoever searches from the first finds them last
	}
	m.Shards[4].Extents = append(m.Shards[4].Extents, Extent{0, 300, 300})
	m.Shards[4].Size += 300
	s.Size = int64(extents)
	m.Files[0].Size += int64(extents)
	return m
}

// TestManifestPieces: tensors of a shard in pieces are found wherever they lie,
// and one that lies in two pieces is in none.
func TestManifestPieces(t *testing.T) {
	m := inPieces(60_000, 13_000)
	raw, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeManifest(raw); err != nil {
		t.Fatal(err)
	}
	m.Shards[2].Tensors[6000].Length = 2
	if err := m.Check(); !errors.Is(err, ErrManifest) {
		t.Errorf("a tensor over two pieces: %v", err)
	}
}

func BenchmarkDecodeManifest(b *testing.B) {
	raw, _, err := inPieces(60_000, 13_000).Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := DecodeManifest(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func TestShardsFor(t *testing.T) {
	m := aManifest()
	for _, c := range []struct {
		span Span
		tied bool
		want []int
	}{
		{Span{0, 1}, false, []int{0, 1, 2}},
		{Span{1, 2}, false, []int{0, 3, 4}},
		{Span{1, 2}, true, []int{0, 1, 3, 4}},
		{Span{0, 2}, false, []int{0, 1, 2, 3, 4}},
		{Span{}, true, []int{0}},
	} {
		m.TiedOutput = c.tied
		got := m.ShardsFor(c.span)
		if len(got) != len(c.want) {
			t.Fatalf("%v: %v, want %v", c.span, got, c.want)
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Fatalf("%v: %v, want %v", c.span, got, c.want)
			}
		}
	}
}

func FuzzManifest(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	raw, _, _ := aManifest().Encode()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		m.ShardsFor(Span{0, 1})
	})
}
