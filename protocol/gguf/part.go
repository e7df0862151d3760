package gguf

import (
	"strconv"
	"strings"
)

// Part is the part of a model that a tensor belongs to.
type Part int

const (
	PartNone      Part = iota // none that a span takes
	PartHeader                // small ones that every block reads
	PartEmbedding             // before the first block
	PartBlock                 // a block
	PartOutput                // behind the last block
)

// PartOf returns the part of a model that a tensor belongs to by its name, and the
// number of its block. Blocks beyond the model's own, which predict further tokens,
// belong to none, and neither do tensors with other names.
func PartOf(name string, blocks int) (part Part, block int) {
	head, rest, _ := strings.Cut(name, ".")
	switch {
	case head == "blk":
		n, _, _ := strings.Cut(rest, ".")
		if i, err := strconv.ParseInt(n, 10, 32); err == nil && i >= 0 && int(i) < blocks {
			return PartBlock, int(i)
		}
	case strings.HasPrefix(head, "rope_f"): // rope_freqs, rope_factors_long, rope_factors_short
		return PartHeader, -1
	case strings.HasPrefix(head, "token_"), strings.HasPrefix(head, "per_layer_"), head == "position_embd", head == "altup_proj":
		return PartEmbedding, -1
	case head == "output", strings.HasPrefix(head, "output_"), head == "cls", strings.HasPrefix(head, "cls_"), strings.HasPrefix(head, "dense_"), head == "altup_unembd_proj":
		return PartOutput, -1
	}
	return PartNone, -1
}
