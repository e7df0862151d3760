package cut

import (
	"math"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol/blocks"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// lists cuts those that have an element per block.
func (c *cutter) lists(set map[string]any) error {
	h := c.h
	all := len(c.m.Blocks) // some lists have elements for the blocks that are not run, others not
	for _, kv := range h.KVs {
		name, ours := strings.CutPrefix(kv.Key, h.Architecture()+".")
		n, isList := length(kv.Value)
		known := ours && slices.Contains(perBlock, name) || slices.Contains(perBlockBare, kv.Key)
		switch {
		case !isList || !ours && !known || slices.Contains(notPerBlock, name):
		case n == all || n == c.run || known && n >= c.span.To:
			set[kv.Key] = part(kv.Value, c.span.From, c.span.To)
		case known:
			return errf("%s has %d elements for %d blocks; is the file complete?", kv.Key, n, all)
		}
	}
	return c.extra(set)
}

// extra cuts the list of tensors that need more exact activations.
func (c *cutter) extra(set map[string]any) error {
	const key, flags = "general.tensor_extra.name", "general.tensor_extra.prec_a4"
	names, ok := c.h.Value(key).([]string)
	if !ok {
		return nil
	}
	exact, _ := c.h.Value(flags).([]bool)
	if len(exact) != len(names) {
		return errf("%s has %d elements and %s has %d", key, len(names), flags, len(exact))
	}
	var newNames []string
	var newExact []bool
	for i, name := range names {
		part, n := gguf.PartOf(name, c.run)
		if part == gguf.PartBlock {
			if n < c.span.From || n >= c.span.To {
				continue
			}
			name = renamed(name, n-c.span.From)
		}
		newNames, newExact = append(newNames, name), append(newExact, exact[i])
	}
	set[key], set[flags] = newNames, newExact
	return nil
}

// patterns writes lists in place of intervals, and of those that the library assumes.
func (c *cutter) patterns(own func(key string, v any)) {
	list := func(key string, of func(b blocks.Block) bool) {
		if _, there := length(c.h.Value(c.h.Arch(key))); there || !slices.ContainsFunc(c.m.Blocks, of) {
			return
		}
		var flags []bool
		for _, b := range c.m.Blocks[c.span.From:c.span.To] {
			flags = append(flags, of(b))
		}
		own(key, flags)
	}
	list("attention.sliding_window_pattern", func(b blocks.Block) bool { return b.Window })
	list("attention.recurrent_layers", func(b blocks.Block) bool { return b.Recurrent })
}

// residualScale is what the library assumes for MiniCPM.
func residualScale(blocks int) float32 { return float32(1.4) / float32(math.Sqrt(float64(blocks))) }

// length returns the number of a list's elements.
func length(v any) (n int, ok bool) {
	switch v := v.(type) {
	case []uint8:
		return len(v), true
	case []int8:
		return len(v), true
	case []uint16:
		return len(v), true
	case []int16:
		return len(v), true
	case []uint32:
		return len(v), true
	case []int32:
		return len(v), true
	case []uint64:
		return len(v), true
	case []int64:
		return len(v), true
	case []float32:
		return len(v), true
	case []float64:
		return len(v), true
	case []bool:
		return len(v), true
	case []string:
		return len(v), true
	}
	return 0, false
}

// part returns elements [from, to) of a list.
func part(v any, from, to int) any {
	switch v := v.(type) {
	case []uint8:
		return v[from:to]
	case []int8:
		return v[from:to]
	case []uint16:
		return v[from:to]
	case []int16:
		return v[from:to]
	case []uint32:
		return v[from:to]
	case []int32:
		return v[from:to]
	case []uint64:
		return v[from:to]
	case []int64:
		return v[from:to]
	case []float32:
		return v[from:to]
	case []float64:
		return v[from:to]
	case []bool:
		return v[from:to]
	case []string:
		return v[from:to]
	}
	return v
}
