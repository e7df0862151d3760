package engine

import (
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// Gemma 3 can be cut anywhere by the built-in engine, and not by the library; a hybrid
// is the library's alone.
func TestCutsFor(t *testing.T) {
	gemma := metadata{
		"general.architecture": "gemma3", "gemma3.block_count": uint32(18), "gemma3.embedding_length": uint32(640), "gemma3.attention.head_count": uint32(4),
		"gemma3.attention.sliding_window": uint32(512),
	}
	hybrid := metadata{"general.architecture": "qwen35", "qwen35.block_count": uint32(8), "qwen35.attention.head_count": uint32(4)}
	plain := metadata{"general.architecture": "seed_oss", "seed_oss.block_count": uint32(8)}
	for _, c := range []struct {
		backend string
		md      metadata
		span    protocol.Span
		want    bool
	}{
		{"", gemma, protocol.Span{From: 0, To: 3}, true}, {BuiltIn, gemma, protocol.Span{From: 0, To: 3}, true}, {"auto", gemma, protocol.Span{From: 0, To: 3}, true},
		{Llama, gemma, protocol.Span{From: 5, To: 6}, false}, {Llama, gemma, protocol.Span{From: 0, To: 6}, true}, {"", gemma, protocol.Span{From: 5, To: 6}, true},
		{"auto", hybrid, protocol.Span{From: 0, To: 3}, false}, {"", hybrid, protocol.Span{From: 0, To: 4}, true}, {Llama, plain, protocol.Span{From: 2, To: 3}, true},
		{Llama, metadata{}, protocol.Span{From: 2, To: 3}, true},
	} {
		if got := CutsFor(c.backend, c.md).Allows(c.span); got != c.want {
			t.Errorf("%q of %v: %s is allowed: %v", c.backend, c.md["general.architecture"], c.span, got)
		}
	}
}
