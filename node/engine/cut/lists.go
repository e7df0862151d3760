package cut

import (
	"math"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// lists cuts those that have an element per block.
func (c *cutter) lists(set map[string]any) error {
	h := c.h
	all, _ := h.Uint(h.Arch("block_count")) // some lists have an element for the blocks that are left out, too
	for _, kv := range h.KVs {
		name, ours := strings.CutPrefix(kv.Key, h.Architecture()+".")
		n, isList := length(kv.Value)
		known := ours && slices.Contains(perBlock, name) || slices.Contains(perBlockBare, kv.Key)
		switch {
		case !isList || !ours && !known || slices.Contains(notPerBlock, name):
		case uint64(n) == all || n == h.Blocks() || known && n >= c.span.To:
			set[kv.Key] = part(kv.Value, c.span.From, c.span.To)
		case known:
			return errf("%s has %d elements for %d blocks; is the file complete?", kv.Key, n, h.Blocks())
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
		part, n := gguf.PartOf(name, c.h.Blocks())
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
	h := c.h
	w, assumed := windows[h.Architecture()]
	if v := h.Value(h.Arch("attention.sliding_window_pattern")); assumed && !isList(v) {
		if n, ok := h.Uint(h.Arch("attention.sliding_window_pattern")); ok {
			w.every = n
		}
		own("attention.sliding_window_pattern", c.flags(func(i uint64) bool {
			switch {
			case w.every == 0:
				return true
			case w.first:
				return i%w.every != 0
			}
			return i%w.every < w.every-1
		}))
	}
	every, assumed := attends[h.Architecture()]
	if assumed && !isList(h.Value(h.Arch("attention.recurrent_layers"))) {
		if n, ok := h.Uint(h.Arch("full_attention_interval")); ok && n > 0 {
			every = n
		}
		own("attention.recurrent_layers", c.flags(func(i uint64) bool { return (i+1)%every != 0 }))
	}
}

// flags is a list of one element per block of the span.
func (c *cutter) flags(of func(block uint64) bool) (out []bool) {
	for i := c.span.From; i < c.span.To; i++ {
		out = append(out, of(uint64(i)))
	}
	return out
}

// residualScale is what the library assumes for MiniCPM.
func residualScale(blocks int) float32 { return float32(1.4) / float32(math.Sqrt(float64(blocks))) }

func isList(v any) bool {
	_, ok := length(v)
	return ok
}

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
