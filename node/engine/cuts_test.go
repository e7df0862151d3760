package engine

import (
	"bytes"
	"testing"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// headerOf returns the header of a model with some tensors.
func headerOf(t *testing.T, md metadata, tensors ...string) *gguf.Header {
	t.Helper()
	h := &gguf.Header{Version: 3}
	for k, v := range md {
		h.KVs = append(h.KVs, gguf.KV{Key: k, Value: v})
	}
	for _, name := range tensors {
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: name, Shape: []uint64{64}})
	}
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if h, err = gguf.Read(bytes.NewReader(raw), int64(len(raw))+4096); err != nil {
		t.Fatal(err)
	}
	return h
}

// Gemma 3 can be cut anywhere by the built-in engine, and not by the library; a hybrid
// is the library's alone. What has a tensor of unknown place is not cut by the library.
func TestCutsFor(t *testing.T) {
	gemma := metadata{
		"general.architecture": "gemma3", "gemma3.block_count": uint32(18), "gemma3.embedding_length": uint32(640), "gemma3.attention.head_count": uint32(4),
		"gemma3.attention.sliding_window": uint32(512),
	}
	hybrid := metadata{"general.architecture": "qwen35", "qwen35.block_count": uint32(8), "qwen35.attention.head_count": uint32(4)}
	plain := metadata{"general.architecture": "seed_oss", "seed_oss.block_count": uint32(8)}
	lfm2 := metadata{"general.architecture": "lfm2", "lfm2.block_count": uint32(4), "lfm2.attention.head_count_kv": []uint32{0, 4, 0, 4}}
	for _, c := range []struct {
		backend string
		h       *gguf.Header
		span    protocol.Span
		want    bool
	}{
		{"", headerOf(t, gemma), protocol.Span{From: 0, To: 3}, true}, {BuiltIn, headerOf(t, gemma), protocol.Span{From: 0, To: 3}, true},
		{"auto", headerOf(t, gemma), protocol.Span{From: 0, To: 3}, true}, {Llama, headerOf(t, gemma), protocol.Span{From: 5, To: 6}, false},
		{Llama, headerOf(t, gemma), protocol.Span{From: 0, To: 6}, true}, {"", headerOf(t, gemma), protocol.Span{From: 5, To: 6}, true},
		{"auto", headerOf(t, hybrid), protocol.Span{From: 0, To: 3}, false}, {"", headerOf(t, hybrid), protocol.Span{From: 0, To: 4}, true},
		{Llama, headerOf(t, plain), protocol.Span{From: 2, To: 3}, true}, {Llama, headerOf(t, nil), protocol.Span{From: 2, To: 3}, true},
		{Llama, headerOf(t, plain, "token_embd.weight", "blk.2.attn_q.weight"), protocol.Span{From: 2, To: 3}, true},
		{Llama, headerOf(t, plain, "somewhere.weight"), protocol.Span{From: 2, To: 3}, false},
		{Llama, headerOf(t, plain, "somewhere.weight"), protocol.Span{From: 0, To: 8}, true},
		{BuiltIn, headerOf(t, gemma, "somewhere.weight"), protocol.Span{From: 5, To: 6}, true},
		{"", headerOf(t, lfm2), protocol.Span{From: 0, To: 2}, true}, {"", headerOf(t, lfm2, "output.weight"), protocol.Span{From: 0, To: 2}, false},
	} {
		if got := CutsFor(c.backend, c.h).Allows(c.span); got != c.want {
			t.Errorf("%q of %v %v: %s is allowed: %v", c.backend, c.h.KVs, c.h.Tensors, c.span, got)
		}
	}
}
