package engine

import (
	"errors"
	"strings"
	"testing"
)

// A node keeps and passes on models that no engine of it computes, but nothing that is
// no model.
func TestPlausible(t *testing.T) {
	for name, c := range map[string]struct {
		md   metadata
		says string // "": it is one
	}{
		"an architecture of tomorrow": {metadata{"general.architecture": "qwen9", "qwen9.block_count": uint32(3), "qwen9.embedding_length": uint64(64)}, ""},
		"heads per block":             {metadata{"general.architecture": "gemma4", "gemma4.block_count": uint32(2), "gemma4.embedding_length": uint32(64), "gemma4.attention.head_count_kv": []uint32{1, 2}}, ""},
		"nothing":                     {metadata{}, "names no architecture"},
		"no blocks":                   {metadata{"general.architecture": "a", "a.block_count": uint32(0), "a.embedding_length": uint32(8)}, "a.block_count"},
		"too many":                    {metadata{"general.architecture": "a", "a.block_count": uint64(1 << 40), "a.embedding_length": uint32(8)}, "a.block_count"},
		"half a block":                {metadata{"general.architecture": "a", "a.block_count": 1.5, "a.embedding_length": uint32(8)}, "a.block_count"},
		"no width":                    {metadata{"general.architecture": "a", "a.block_count": uint32(1), "a.embedding_length": "wide"}, "a.embedding_length"},
		"a very long name":            {metadata{"general.architecture": strings.Repeat("a", 65)}, "names no architecture"},
	} {
		err := Plausible(c.md)
		if (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
