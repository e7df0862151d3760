package ggml

import (
	"bytes"
	"os"
	"reflect"
	"testing"

	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// A model whose numbers are stored in other widths, or as lists of equal ones, and
// whose tokenizer's tables are absent or in other types, computes what the plain
// one does, to the last bit.
func TestWidthsComputeTheSame(t *testing.T) {
	for _, m := range enginetest.RandomModels() {
		t.Run(m.Name, func(t *testing.T) {
			prompt := enginetest.RandomPrompt(12)
			p := &protocol.Sampling{TopLogprobs: 20}
			first := func(edits []gguf.KV) any {
				path := m.File(t, enginetest.Blocks, edits...)
				return enginetest.Cut(t, path, 1, Load, nil).First(t, prompt, len(prompt), p)
			}
			want := first(nil)
			for name, as := range map[string]func(v any) any{"wide": wide, "narrow": narrow, "lists": lists} {
				if got := first(edited(t, m, as)); !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %v, want %v", name, got, want)
				}
			}
		})
	}
}

// edited changes a model's numbers, and its tokenizer's tables.
func edited(t *testing.T, m enginetest.Model, as func(v any) any) (edits []gguf.KV) {
	t.Helper()
	raw, err := os.ReadFile(m.File(t, enginetest.Blocks))
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range h.KVs {
		if v := as(kv.Value); v != nil && kv.Key != h.Arch("block_count") {
			edits = append(edits, gguf.KV{Key: kv.Key, Value: v})
		}
	}
	return append(edits, gguf.KV{Key: h.Arch("block_count"), Value: uint64(enginetest.Blocks)},
		gguf.KV{Key: "tokenizer.ggml.scores"}, gguf.KV{Key: "tokenizer.ggml.token_type", Value: make([]int8, enginetest.Vocab)})
}

func wide(v any) any {
	switch v := v.(type) {
	case uint32:
		return int64(v)
	case float32:
		return float64(v)
	case bool:
		return map[bool]uint32{true: 1}[v]
	}
	return nil
}

func narrow(v any) any {
	switch v := v.(type) {
	case uint32:
		return float32(v)
	case float32:
		if v == float32(int8(v)) {
			return int8(v)
		}
	}
	return nil
}

func lists(v any) any {
	switch v := v.(type) {
	case uint32:
		return repeated(int32(v))
	case float32:
		return repeated(float64(v))
	}
	return nil
}

func repeated[T any](v T) []T {
	out := make([]T, enginetest.Blocks)
	for i := range out {
		out[i] = v
	}
	return out
}
