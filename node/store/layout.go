package store

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// layout assigns every byte of a model's files to a shard, using the headers
// alone.
type layout struct {
	files  []protocol.File
	blocks int64
	shards map[shardKey]*protocol.Shard
	seen   map[string]bool   // tensor names in all files
	types  map[string]uint64 // weights in block matrices, by type
	params int64
	vocab  int64
	tied   bool
	to     *Model // what an adapter adds to; nil: it is a model
}

type shardKey struct {
	kind  string
	block int64
}

func (k shardKey) String() string {
	if k.kind == protocol.ShardBlock {
		return fmt.Sprintf("block %d", k.block)
	}
	return k.kind
}

func newLayout(blocks int64) *layout {
	return &layout{blocks: blocks, shards: map[shardKey]*protocol.Shard{}, seen: map[string]bool{}, tied: true, types: map[string]uint64{}}
}

// shardOf returns the shard that a tensor belongs to.
func shardOf(name string, blocks int64) shardKey {
	switch part, n := gguf.PartOf(name, int(blocks)); part {
	case gguf.PartBlock:
		return shardKey{protocol.ShardBlock, int64(n)}
	case gguf.PartHeader:
		return shardKey{protocol.ShardHeader, -1}
	case gguf.PartEmbedding:
		return shardKey{protocol.ShardEmbedding, -1}
	case gguf.PartOutput, gguf.PartOther: // whoever has all blocks has it then
		return shardKey{protocol.ShardOutput, -1}
	}
	return shardKey{protocol.ShardOther, -1}
}

func (l *layout) shard(k shardKey) *protocol.Shard {
	if l.shards[k] == nil {
		l.shards[k] = &protocol.Shard{Kind: k.kind, Block: k.block}
	}
	return l.shards[k]
}

// grow adds a range of a file to a shard, extending the previous range if they
// are adjacent.
func grow(s *protocol.Shard, e protocol.Extent) {
	s.Size += e.Length
	if n := len(s.Extents); n > 0 {
		if last := &s.Extents[n-1]; last.File == e.File && last.Offset+last.Length == e.Offset {
			last.Length += e.Length
			return
		}
	}
	s.Extents = append(s.Extents, e)
}

// file lays out one file: the header up to the first tensor, then each tensor
// with the padding after it. Files are passed in order.
func (l *layout) file(size int64, h *gguf.Header) error {
	i := int64(len(l.files))
	l.files = append(l.files, protocol.File{Size: size})
	ts := slices.Clone(h.Tensors)
	slices.SortFunc(ts, func(a, b gguf.Tensor) int { // Check has verified that none overlap
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	start := func(n int) int64 {
		if n < len(ts) {
			return h.DataOffset + int64(ts[n].Offset)
		}
		return size
	}
	grow(l.shard(shardKey{protocol.ShardHeader, -1}), protocol.Extent{File: i, Length: start(0)})
	for n, t := range ts {
		if l.seen[t.Name] {
			return fmt.Errorf("%w: tensor %q is in two of its parts", gguf.ErrFormat, t.Name)
		}
		l.seen[t.Name] = true
		k := shardOf(t.Name, l.blocks)
		s := l.shard(k)
		grow(s, protocol.Extent{File: i, Offset: start(n), Length: start(n+1) - start(n)})
		info := protocol.TensorInfo{Name: t.Name, Type: int64(t.Type), File: i, Offset: start(n), Length: int64(t.Bytes())}
		for _, d := range t.Shape {
			info.Shape = append(info.Shape, int64(d))
		}
		s.Tensors = append(s.Tensors, info)
		l.params += int64(t.Elements())
		switch {
		case t.Name == "output.weight":
			l.tied = false
		case t.Name == "token_embd.weight" && len(t.Shape) == 2:
			l.vocab = int64(t.Shape[1])
		}
		if k.kind == protocol.ShardBlock && len(t.Shape) > 1 {
			l.types[t.Type.String()] += t.Elements()
		}
	}
	return nil
}

// manifest puts the shards in order and checks the whole. Roots and file hashes
// are placeholders until the bytes have been read.
func (l *layout) manifest(h *gguf.Header) (*protocol.Manifest, error) {
	m := &protocol.Manifest{
		Format: protocol.ManifestFormat, Name: clipText(h.String("general.name"), 200), Architecture: h.Architecture(),
		Licence: clipText(h.String("general.license"), 200), Parameters: l.params, Context: int64(h.Context()),
		Blocks: l.blocks, Width: int64(h.Width()), Vocab: l.vocab, TiedOutput: l.tied, Files: l.files,
	}
	if l.to != nil {
		l.adapts(m)
	}
	if tokens, ok := h.Value("tokenizer.ggml.tokens").([]string); ok && l.to == nil {
		m.Vocab = int64(len(tokens))
	}
	var most uint64
	for name, n := range l.types {
		if n > most || n == most && name < m.Quantization {
			most, m.Quantization = n, name
		}
	}
	order := []shardKey{{protocol.ShardHeader, -1}, {protocol.ShardEmbedding, -1}}
	for i := range l.blocks {
		order = append(order, shardKey{protocol.ShardBlock, i})
	}
	if out := (shardKey{protocol.ShardOutput, -1}); l.shards[out] != nil || !l.endsNormed() {
		order = append(order, out)
	}
	if other := (shardKey{protocol.ShardOther, -1}); l.shards[other] != nil {
		order = append(order, other)
	}
	for _, k := range order {
		s := l.shards[k]
		if s == nil && l.to != nil && k.kind != protocol.ShardHeader { // it adds nothing there
			continue
		}
		if s == nil {
			return nil, fmt.Errorf("%w: the tensors of the %s are missing; is it a whole language model?", gguf.ErrFormat, k)
		}
		m.Shards = append(m.Shards, *s)
	}
	for i := range m.Files {
		m.Files[i].Sha256 = make([]byte, sha256.Size)
	}
	for i := range m.Shards {
		m.Shards[i].Root = digest{}.cid()
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", gguf.ErrFormat, err)
	}
	return m, nil
}

// endsNormed reports whether the last block ends with a norm of its own, as encoders'
// blocks do: such a model may have no output.
func (l *layout) endsNormed() bool {
	return l.seen[fmt.Sprintf("blk.%d.layer_output_norm.weight", l.blocks-1)]
}

func clipText(s string, n int) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
