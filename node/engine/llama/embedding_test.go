package llama

import (
	"os"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Tokens that the engine looks up have the bits that they have where the library does.
func TestEmbeddingApart(t *testing.T) {
	library(t)
	paths := map[string]string{"tiny": enginetest.Tiny(t)}
	for _, m := range enginetest.RandomModels() {
		if slices.Contains([]string{"llama", "qwen3", "gemma3"}, m.Name) {
			paths[m.Name] = m.File(t, 3)
		}
	}
	adapter := &gguf.Header{Tensors: []gguf.Tensor{{Name: "token_embd.weight.lora_a"}}}
	for name, path := range paths {
		h, raw := enginetest.ReadHeader(t, path)
		span := protocol.Span{From: 0, To: h.Blocks() - 1}
		hidden := func(lay func(*gguf.Header, protocol.Span, int64) (*cut.Stage, error), apart bool) []float32 {
			layout, err := lay(h, span, 0)
			if err != nil {
				t.Fatal(err)
			}
			e, err := Load(t.Context(), engine.Config{Path: writeLayout(t, raw, layout), To: span.To, KVTokens: 256, MaxSeqs: 2, MaxBatch: 64, Threads: 1}, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			defer e.Close()
			if got := e.(*local).embedding != nil; got != apart {
				t.Fatalf("%s: the engine looks tokens up: %v", name, got)
			}
			b := &engine.Batch{Tokens: enginetest.RandomPrompt(40)}
			for i := range b.Tokens {
				b.Rows = append(b.Rows, engine.Row{Pos: int32(i)})
			}
			b.Tokens[3] = int32(e.Info().Vocab - 1)
			res, err := e.Run(t.Context(), b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return res.Hidden
		}
		if !slices.Equal(hidden(cut.Lay, true), hidden(cut.LayFor(adapter), false)) {
			t.Errorf("%s: other hidden states than with the embedding among the library's tensors", name)
		}
	}
}

// A file that does not hold the embedding that it claims is refused.
func TestEmbeddingOutside(t *testing.T) {
	h, raw := enginetest.ReadHeader(t, enginetest.Tiny(t))
	layout, err := cut.Of(h, protocol.Span{From: 0, To: 1})
	if err != nil {
		t.Fatal(err)
	}
	path := writeLayout(t, raw, layout)
	if err := os.Truncate(path, layout.Size-1000); err != nil {
		t.Fatal(err)
	}
	width, _ := h.Uint(h.Arch("embedding_length"))
	if e, err := openEmbedding(path, int(width)); err == nil {
		e.close()
		t.Error("an embedding that is cut short was taken")
	}
}
