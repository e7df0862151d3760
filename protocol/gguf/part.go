package gguf

import (
	"slices"
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
	PartOther                 // of unknown place: whoever computes the whole model needs it
)

// apart are what the names of tensors begin with that belong to other models in the same
// file: those that see, hear, speak, or draft tokens.
var apart = []string{"", "a", "audio", "mm", "mtp", "nextn", "t", "v", "vision"}

// PartOf returns the part of a model that a tensor belongs to by its name, and the
// number of its block. Blocks beyond the model's own, which predict further tokens,
// belong to none, and neither do other models in the same file.
func PartOf(name string, blocks int) (part Part, block int) {
	head, rest, _ := strings.Cut(name, ".")
	switch {
	case head == "blk":
		n, _, _ := strings.Cut(rest, ".")
		if i, err := strconv.ParseInt(n, 10, 32); err == nil && i >= 0 && int(i) < blocks {
			return PartBlock, int(i)
		}
		return PartNone, -1
	case strings.HasPrefix(head, "rope_f"): // rope_freqs, rope_factors_long, rope_factors_short
		return PartHeader, -1
	case strings.HasPrefix(head, "token_"), strings.HasPrefix(head, "per_layer_"), head == "position_embd", head == "altup_proj":
		return PartEmbedding, -1
	case head == "output", strings.HasPrefix(head, "output_"), head == "cls", strings.HasPrefix(head, "cls_"), strings.HasPrefix(head, "dense_"), head == "altup_unembd_proj",
		name == "enc.output_norm.weight", name == "enc.output_norm.bias":
		return PartOutput, -1
	case !slices.Contains(apart, head):
		return PartOther, -1
	}
	return PartNone, -1
}
