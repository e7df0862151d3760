package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// synth makes a GGUF file of random weights: tensors in random order with
// random gaps between them, so that shards have several extents and leaves of
// all sizes. scale 1 makes a few MiB.
func synth(rng *rand.Rand, blocks int, scale float64) []byte {
	align := uint32(32) << rng.IntN(3)
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: "Synth Model"},
		{Key: "general.alignment", Value: align},
		{Key: "llama.block_count", Value: uint32(blocks)},
		{Key: "llama.embedding_length", Value: uint32(64)},
		{Key: "llama.context_length", Value: uint32(128)},
		{Key: "tokenizer.ggml.tokens", Value: slices.Repeat([]string{"token"}, 1000)},
	}}
	add := func(name string, kind gguf.Type, rows int) {
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: name, Type: kind, Shape: []uint64{64, uint64(rows)}})
	}
	rows := func(most int) int { return 1 + int(float64(rng.IntN(most))*scale) }
	add("token_embd.weight", 1, rows(20_000))
	add("output_norm.weight", 0, 1)
	if rng.IntN(2) == 0 {
		add("output.weight", 8, rows(20_000))
	}
	if rng.IntN(2) == 0 {
		add("rope_freqs.weight", 0, 1)
		add("v.blk.0.attn.weight", 1, rows(5_000))
	}
	for i := range blocks {
		add(fmt.Sprintf("blk.%d.attn_q.weight", i), 8, rows(10_000))
		add(fmt.Sprintf("blk.%d.ffn_up.weight", i), 0, rows(10_000))
	}
	if rng.IntN(2) == 0 { // a block's tensors apart from each other
		rng.Shuffle(len(h.Tensors), func(i, j int) { h.Tensors[i], h.Tensors[j] = h.Tensors[j], h.Tensors[i] })
	}
	var end uint64
	for i := range h.Tensors {
		h.Tensors[i].Offset = end
		end += (h.Tensors[i].Bytes() + uint64(align) - 1) / uint64(align) * uint64(align)
		end += uint64(rng.IntN(3)) * uint64(align)
	}
	raw, err := h.Append(nil)
	if err != nil {
		panic(err)
	}
	raw = append(raw, make([]byte, (int(align)-len(raw)%int(align))%int(align))...)
	body := make([]byte, end)
	for i := 0; i+8 <= len(body); i += 8 {
		binary.LittleEndian.PutUint64(body[i:], rng.Uint64())
	}
	if len(body) > 3<<20 { // leaves with the same content
		copy(body[2<<20:], make([]byte, min(len(body)-2<<20, 5<<20)))
	}
	return append(raw, body...)
}

func writeFile(t testing.TB, name string, raw []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// split splits a GGUF file into parts as llama.cpp does: each has a header for
// its own tensors, and the first has all the metadata.
func split(t testing.TB, raw []byte, parts int, name string) (dir string) {
	t.Helper()
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	align := int(h.Alignment())
	pad := func(b []byte) []byte { return append(b, make([]byte, (align-len(b)%align)%align)...) }
	dir = t.TempDir()
	for i := range parts {
		part := gguf.Header{Version: 3}
		if i == 0 {
			part.KVs = slices.Clone(h.KVs)
		} else if align != 32 {
			part.KVs = []gguf.KV{{Key: "general.alignment", Value: uint32(align)}}
		}
		part.KVs = append(part.KVs, gguf.KV{Key: "split.no", Value: uint16(i)}, gguf.KV{Key: "split.count", Value: uint16(parts)})
		var data []byte
		for n, tn := range h.Tensors {
			if n*parts/len(h.Tensors) == i {
				src := raw[h.DataOffset+int64(tn.Offset):][:tn.Bytes()]
				tn.Offset = uint64(len(data))
				part.Tensors = append(part.Tensors, tn)
				data = pad(append(data, src...))
			}
		}
		b, err := part.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%05d-of-%05d.gguf", name, i+1, parts)), append(pad(b), data...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
