package llama

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// writeLayout writes a file as a store would.
func writeLayout(t testing.TB, raw []byte, l *gguf.Layout) string {
	t.Helper()
	out := make([]byte, l.Size)
	copy(out, l.Header)
	for _, p := range l.Pieces {
		copy(out[p.At:p.At+p.Length], raw[p.From:])
	}
	path := filepath.Join(t.TempDir(), "laid.gguf")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// randomLora writes an adapter of random numbers for the matrices of all blocks.
func randomLora(t testing.TB, of *gguf.Header, rank uint64) string {
	t.Helper()
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.type", Value: "adapter"}, {Key: "general.architecture", Value: of.Architecture()},
		{Key: "adapter.type", Value: "lora"}, {Key: "adapter.lora.alpha", Value: float32(16)},
	}}
	rng := rand.New(rand.NewPCG(7, 7))
	var data []byte
	add := func(name string, in, out uint64) {
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: name, Shape: []uint64{in, out}, Offset: uint64(len(data))})
		for range in * out {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(rng.NormFloat64()/math.Sqrt(float64(in)))))
		}
		data = append(data, make([]byte, (32-len(data)%32)%32)...)
	}
	for _, x := range of.Tensors {
		if strings.HasPrefix(x.Name, "blk.") && len(x.Shape) == 2 {
			add(x.Name+".lora_a", x.Shape[0], rank)
			add(x.Name+".lora_b", rank, x.Shape[1])
		}
	}
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, make([]byte, (32-len(raw)%32)%32)...)
	path := filepath.Join(t.TempDir(), "lora.gguf")
	if err := os.WriteFile(path, append(raw, data...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An adapter that is cut by span gives the tokens that the library gives with the whole
// model and the whole adapter.
func TestLora(t *testing.T) {
	library(t)
	model := enginetest.Tiny(t)
	h, raw := enginetest.ReadHeader(t, model)
	lora := randomLora(t, h, 8)
	own, rawLora := enginetest.ReadHeader(t, lora)
	blocks := h.Blocks()
	chain := func(cfgs ...engine.Config) enginetest.Chain {
		var c enginetest.Chain
		for _, cfg := range cfgs {
			cfg.Engine, cfg.KVTokens, cfg.MaxSeqs, cfg.MaxBatch, cfg.Threads = engine.Llama, 512, 2, 64, 1
			e, err := Backend{}.Load(t.Context(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			c = append(c, e)
		}
		return c
	}
	laid := func(from, to int) engine.Config {
		span := protocol.Span{From: from, To: to}
		file, err := cut.Of(h, span)
		if err != nil {
			t.Fatal(err)
		}
		adds, err := cut.Adapter(own, h, span)
		if err != nil {
			t.Fatal(err)
		}
		return engine.Config{Path: writeLayout(t, raw, file), From: from, To: to, Adapters: []string{writeLayout(t, rawLora, adds)}}
	}
	prompt := []int32{1, 40, 70, 33, 90, 12}
	answer := func(cfgs ...engine.Config) []int32 {
		return enginetest.IDs(chain(cfgs...).Generate(t, 0, slices.Clone(prompt), 24, 64, nil))
	}
	whole := engine.Config{Path: model, To: blocks}
	plain := answer(whole)
	whole.Adapters = []string{lora}
	want := answer(whole)
	if slices.Equal(plain, want) {
		t.Fatal("the adapter changes nothing: the test shows nothing")
	}
	for name, got := range map[string][]int32{
		"one stage":    answer(laid(0, blocks)),
		"three stages": answer(laid(0, blocks/3), laid(blocks/3, blocks-1), laid(blocks-1, blocks)),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
