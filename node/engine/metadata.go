package engine

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// form is the type in which the engine reads a key.
type form int

const (
	aCount    form = iota + 1 // uint32
	aNumber                   // float32
	aFlag                     // bool
	aText                     // string
	blockFlag                 // []bool, one per block
)

// forms lists the keys that the engine reads, without the architecture's name
// before them. Files hold them in other types too, and the library replaces a
// value whose type it does not expect by a default of its own.
var forms = map[string]form{
	"block_count": aCount, "embedding_length": aCount, "context_length": aCount, "leading_dense_block_count": aCount, "pooling_type": aCount, "embedding_length_out": aCount,
	"attention.head_count": aCount, "attention.head_count_kv": aCount,
	"attention.key_length": aCount, "attention.value_length": aCount, "attention.key_length_mla": aCount, "attention.value_length_mla": aCount,
	"attention.q_lora_rank": aCount, "attention.kv_lora_rank": aCount, "attention.sliding_window": aCount,
	"expert_count": aCount, "expert_used_count": aCount, "expert_gating_func": aCount,
	"rope.dimension_count": aCount, "rope.scaling.original_context_length": aCount,

	"attention.layer_norm_rms_epsilon": aNumber, "attention.temperature_scale": aNumber,
	"attn_logit_softcapping": aNumber, "final_logit_softcapping": aNumber, "expert_weights_scale": aNumber,
	"rope.freq_base": aNumber, "rope.local.freq_base": aNumber, "rope.scale_linear": aNumber,
	"rope.scaling.factor": aNumber, "rope.scaling.attn_factor": aNumber, "rope.scaling.extrapolation_factor": aNumber,
	"rope.scaling.beta_fast": aNumber, "rope.scaling.beta_slow": aNumber, "rope.scaling.yarn_beta_fast": aNumber, "rope.scaling.yarn_beta_slow": aNumber,
	"rope.scaling.mscale": aNumber, "rope.scaling.mscale_all_dim": aNumber, "rope.scaling.yarn_log_multiplier": aNumber, "rope.scaling_beta": aNumber,

	"expert_weights_norm": aFlag, "norm_top_k_prob": aFlag,
	"rope.scaling.type":                aText,
	"attention.sliding_window_pattern": blockFlag,
}

// typed is a file's metadata with the engine's keys in the types in which it
// reads them.
type typed struct {
	Metadata
	arch      string
	converted map[string]any // values whose type is another in the file
}

// Value returns a metadata value, or nil.
func (t *typed) Value(key string) any {
	if v, ok := t.converted[key]; ok {
		return v
	}
	return t.Metadata.Value(key)
}

// own returns the value of a key of the architecture's, or nil.
func (t *typed) own(key string) any { return t.Value(t.arch + "." + key) }

// count returns a number of a key of the architecture's, or 0.
func (t *typed) count(key string) uint32 {
	n, _ := t.own(key).(uint32)
	return n
}

// typedOf converts the engine's keys. The error names a key whose value cannot
// be converted without a loss; the metadata that is returned beside it lacks
// that key.
func typedOf(md Metadata) (*typed, error) {
	t := &typed{Metadata: md, arch: text(md, "general.architecture"), converted: map[string]any{}}
	var wrong error
	convert := func(name string, f form) {
		key := t.arch + "." + name
		v := md.Value(key)
		if v == nil {
			return
		}
		as, err := t.as(f, v)
		if err != nil {
			if wrong == nil {
				wrong = fmt.Errorf("%s %w", key, err)
			}
			as = nil
		}
		if f == blockFlag || as != v {
			t.converted[key] = as
		}
	}
	convert("block_count", aCount) // the lists' lengths depend on it
	for _, name := range names {
		convert(name, forms[name])
	}
	return t, wrong
}

// names are the keys of forms, sorted, so that the same one is named of several
// that are wrong.
var names = func() (out []string) {
	for name := range forms {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}()

// as converts a value to a form. A list of equal values, one per block, stands
// for the value.
func (t *typed) as(f form, v any) (any, error) {
	if f == blockFlag {
		return t.perBlock(v)
	}
	if list, ok := listOf(v); ok {
		switch {
		case len(list) == 0:
			return nil, errors.New("is an empty list")
		case slices.ContainsFunc(list, func(x any) bool { return x != list[0] }):
			return nil, fmt.Errorf("differs from block to block (%s); the engine takes one value for all", shortly(v))
		case len(list) < int(t.count("block_count")):
			return nil, fmt.Errorf("has %d values for %d blocks", len(list), t.count("block_count"))
		}
		v = list[0]
	}
	switch f {
	case aCount:
		if n, ok := number(v); ok && n >= 0 && n <= math.MaxUint32 && n == math.Trunc(n) {
			return uint32(n), nil
		}
		return nil, notA("a whole number from 0 to 4294967295", v)
	case aNumber:
		n, ok := number(v)
		if as := float32(n); ok && as-as == 0 && (as == 0) == (n == 0) {
			return as, nil
		}
		return nil, notA("a number that 32 bits hold", v)
	case aFlag:
		if on, ok := flag(v); ok {
			return on, nil
		}
		return nil, notA("true or false", v)
	}
	if s, ok := v.(string); ok {
		return s, nil
	}
	return nil, notA("a text", v)
}

// perBlock converts a flag per block. A single number n stands for n-1 blocks
// that have the flag, then one that does not, and so on.
func (t *typed) perBlock(v any) (any, error) {
	blocks := int(min(t.count("block_count"), maxBlocks))
	out := make([]bool, blocks)
	list, isList := listOf(v)
	if !isList {
		n, ok := number(v)
		if !ok || n < 0 || n > math.MaxUint32 || n != math.Trunc(n) {
			return nil, notA("a whole number, or true or false per block", v)
		}
		if n == 0 { // no block is without it
			n = math.MaxUint32
		}
		return everyNth(uint32(blocks), uint32(n)), nil
	}
	if len(list) < blocks {
		return nil, fmt.Errorf("has %d values for %d blocks", len(list), blocks)
	}
	for i := range out {
		on, ok := flag(list[i])
		if !ok {
			return nil, notA("true or false per block", v)
		}
		out[i] = on
	}
	return out, nil
}

func notA(want string, v any) error {
	return fmt.Errorf("should be %s and is %s (%T)", want, shortly(v), v)
}

// shortly writes a value for a message.
func shortly(v any) string {
	s := fmt.Sprint(v)
	if text, ok := v.(string); ok {
		s = fmt.Sprintf("%q", text)
	}
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// number returns a number of any width. Those of 64 bits that a float64 does not
// hold are beyond every key's range.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case uint8:
		return float64(v), true
	case int8:
		return float64(v), true
	case uint16:
		return float64(v), true
	case int16:
		return float64(v), true
	case uint32:
		return float64(v), true
	case int32:
		return float64(v), true
	case uint64:
		return float64(v), true
	case int64:
		return float64(v), true
	case float32:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// flag returns a value of true or false, which a number may stand for.
func flag(v any) (on, ok bool) {
	if on, ok := v.(bool); ok {
		return on, true
	}
	n, ok := number(v)
	return n == 1, ok && (n == 0 || n == 1)
}

// listOf returns the elements of a list of any type.
func listOf(v any) ([]any, bool) {
	switch v := v.(type) {
	case []uint8:
		return anys(v), true
	case []int8:
		return anys(v), true
	case []uint16:
		return anys(v), true
	case []int16:
		return anys(v), true
	case []uint32:
		return anys(v), true
	case []int32:
		return anys(v), true
	case []uint64:
		return anys(v), true
	case []int64:
		return anys(v), true
	case []float32:
		return anys(v), true
	case []float64:
		return anys(v), true
	case []bool:
		return anys(v), true
	case []string:
		return anys(v), true
	}
	return nil, false
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, x := range list {
		out[i] = x
	}
	return out
}
