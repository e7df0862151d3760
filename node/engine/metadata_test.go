package engine

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
)

// everyWidth returns a whole number in all types that GGUF has for numbers.
func everyWidth(n uint32) []any {
	return []any{uint8(n), int8(n), uint16(n), int16(n), n, int32(n), uint64(n), int64(n), float32(n), float64(n)}
}

// Every key of every architecture comes to the engine with the same value,
// whatever its width in the file.
func TestWidths(t *testing.T) {
	for _, arch := range append(Supported(), "gptoss") {
		for name, f := range forms {
			key := arch + "." + name
			n := uint32(4) // fits every key: heads, blocks, lengths
			var values []any
			switch f {
			case aCount:
				switch name {
				case "pooling_type":
					n = 0
				case "expert_count":
					n = map[string]uint32{"qwen3moe": 4, "gpt-oss": 4, "gptoss": 4}[arch]
				case "expert_gating_func":
					n = 2
				}
				values = everyWidth(n)
			case aNumber:
				values = everyWidth(n)
			case aFlag:
				values = append(everyWidth(1), true)
			case aText:
				values = []any{"none"}
			case blockFlag:
				continue // see TestPatterns
			}
			for _, v := range values {
				md := plain(arch)
				md[key] = v
				if err := Check(md); err != nil {
					t.Errorf("%s = %v (%T): %v", key, v, v, err)
					continue
				}
				full := maps.Clone(md)
				maps.Copy(full, Defaults(md))
				var want any
				switch f {
				case aCount:
					want = n
				case aNumber:
					want = float32(n)
				case aFlag:
					want = true
				case aText:
					want = "none"
				}
				if full[key] != want {
					t.Errorf("%s = %v (%T) comes to the engine as %v (%T)", key, v, v, full[key], full[key])
				}
			}
		}
	}
}

// A value that cannot be converted is an error that names the key.
func TestWrongTypes(t *testing.T) {
	wrong := map[form][]any{
		aCount:  {"4", true, 4.5, float32(0.5), -1, int64(-1), uint64(1 << 40), 1e300, []string{"4"}, []uint32{}, []int32{4, 4, 4, 4, 4, 4, 3}, []uint8{4, 4}},
		aNumber: {"4", true, 1e300, 1e-300, math.NaN(), float32(math.Inf(1)), []float32{1, 2, 1, 1, 1, 1, 1}},
		aFlag:   {"true", uint8(2), 0.5, int64(-1)},
		aText:   {uint32(1), true, []string{"none"}},
	}
	for _, arch := range append(Supported(), "gptoss") {
		for name, f := range forms {
			for _, v := range wrong[f] {
				if n, ok := v.(int); ok { // GGUF has none
					v = int32(n)
				}
				md := plain(arch)
				key := arch + "." + name
				md[key] = v
				if err := Check(md); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), key+" ") {
					t.Errorf("%s = %v (%T): %v", key, v, v, err)
				}
			}
		}
	}
}

// A list of equal values, one per block, is the value; so for every key.
func TestEqualLists(t *testing.T) {
	for name, f := range forms {
		if f != aCount && f != aNumber || name == "block_count" {
			continue
		}
		key := "qwen3." + name
		n := uint32(4)
		if name == "pooling_type" {
			n = 0
		}
		for _, v := range everyWidth(n) {
			list := reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(v)), 7, 7)
			for i := range 7 {
				list.Index(i).Set(reflect.ValueOf(v))
			}
			md := plain("qwen3")
			md[key] = list.Interface()
			if err := Check(md); err != nil {
				t.Errorf("%s = %v (%T): %v", key, md[key], md[key], err)
				continue
			}
			if got := fmt.Sprint(Defaults(md)[key]); got != fmt.Sprint(n) {
				t.Errorf("%s = %v (%T) comes to the engine as %s", key, md[key], md[key], got)
			}
		}
	}
}

// Which blocks have a window may be told by a flag per block in any width, or by
// a single number.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		arch  string
		value any
		want  string // "": refused
	}{
		{"olmo3", nil, "[true true true false true true true]"},
		{"olmo3", uint32(4), "[true true true false true true true]"},
		{"olmo3", int64(3), "[true true false true true false true]"},
		{"olmo3", uint8(0), "[true true true true true true true]"},
		{"olmo3", uint8(1), "[false false false false false false false]"},
		{"olmo3", []bool{true, false, true, false, true, false, true}, "[true false true false true false true]"},
		{"olmo3", []uint8{1, 0, 1, 0, 1, 0, 1}, "[true false true false true false true]"},
		{"olmo3", []int32{1, 0, 1, 0, 1, 0, 1}, "[true false true false true false true]"},
		{"olmo3", []bool{true, false}, ""},
		{"olmo3", []int32{1, 2, 1, 0, 1, 0, 1}, ""},
		{"olmo3", "local", ""},
		{"gemma3", uint32(6), "[true true true true true false true]"},
		{"gemma3", []int32{1, 1, 1, 1, 1, 0, 1}, "[true true true true true false true]"},
		{"gemma3", uint32(4), ""}, // the engine has six
		{"gemma2", []bool{true, false, true, false, true, false, true}, "[true false true false true false true]"},
		{"gemma2", uint32(3), ""},
		{"gpt-oss", uint16(2), "[true false true false true false true]"},
	} {
		md := plain(c.arch)
		key := c.arch + "." + pattern
		md[key] = c.value
		if err := Check(md); (err == nil) != (c.want != "") {
			t.Errorf("%s = %v: %v", key, c.value, err)
		}
		if got := fmt.Sprint(Defaults(md)[key]); c.want != "" && got != c.want {
			t.Errorf("%s = %v comes to the engine as %s, want %s", key, c.value, got, c.want)
		}
	}
}

// Older names of the rope's scale, and none.
func TestRopeScale(t *testing.T) {
	for _, c := range []struct {
		md   metadata
		want any
	}{
		{metadata{}, float32(1)},
		{metadata{"llama.rope.scaling.factor": 4.0}, float32(4)},
		{metadata{"llama.rope.scale_linear": 4.0}, float32(4)},
		{metadata{"llama.rope.scale_linear": 4.0, "llama.rope.scaling.factor": 2.0}, float32(2)},
		{metadata{"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, float32(1)},
	} {
		md := plain("llama")
		maps.Copy(md, c.md)
		if got := Defaults(md)["llama.rope.scaling.factor"]; got != c.want {
			t.Errorf("%v: %v (%T), want %v", c.md, got, got, c.want)
		}
	}
}

// The library's tokenizers look at the first entries of these tables, whether the
// file has them or not.
func TestVocabularyStandsIn(t *testing.T) {
	for _, md := range []metadata{{}, {"tokenizer.ggml.scores": []int8{1}, "tokenizer.ggml.token_type": []uint64{1}, "tokenizer.ggml.tokens": []string{"a"}}} {
		full := plain("llama")
		maps.Copy(full, md)
		d := Defaults(full)
		scores, _ := d["tokenizer.ggml.scores"].([]float32)
		types, _ := d["tokenizer.ggml.token_type"].([]int32)
		tokens, _ := d["tokenizer.ggml.tokens"].([]string)
		if len(scores) < 5 || len(types) < 5 || len(tokens) < 5 {
			t.Errorf("%v: %v", md, d)
		}
	}
}
