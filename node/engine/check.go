package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Metadata of a GGUF file.
type Metadata interface {
	Value(key string) any // nil if there is none
}

// Supported lists the architectures, as GGUF names them.
func Supported() []string {
	return []string{"deepseek2", "gemma2", "gemma3", "gpt-oss", "llama", "mistral3", "olmo3", "qwen2", "qwen3", "qwen3moe"}
}

// Check returns an error if a model with this metadata cannot be computed. It
// takes numbers of any width; one that the engine cannot read is an error that
// names its key. Errors wrap ErrUnsupported and say what is supported.
func Check(md Metadata) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
	}
	arch := text(md, "general.architecture")
	if arch == "" {
		return no("the file names no architecture (general.architecture)")
	}
	if arch != "gptoss" && !slices.Contains(Supported(), arch) {
		return no("architecture %q; supported are %s", arch, strings.Join(Supported(), ", "))
	}
	t, err := typedOf(md)
	if err != nil {
		return no("%s", err)
	}
	for _, k := range []string{"block_count", "embedding_length", "attention.head_count"} {
		if n := t.count(k); n == 0 || n > 1<<20 {
			return no("%s.%s is missing or impossible (%v); is the file complete?", arch, k, md.Value(arch+"."+k))
		}
	}
	if n := t.count("block_count"); n > maxBlocks {
		return no("%d blocks", n)
	}
	heads, width := t.count("attention.head_count"), t.count("embedding_length")
	if v := t.own("attention.head_count_kv"); v != nil {
		if n := t.count("attention.head_count_kv"); n == 0 || heads%n != 0 {
			return no("%d heads over %v key/value heads", heads, v)
		}
	}
	if t.own("attention.key_length") == nil && width%heads != 0 {
		return no("%d heads do not divide a width of %d", heads, width)
	}
	if n, ok := number(t.own("nextn_predict_layers")); ok && n != 0 { // they would be computed like the others
		return no("%s with blocks that predict further tokens", arch)
	}
	if t.count("pooling_type") != 0 {
		return no("an embedding model; shoal runs models that generate text")
	}
	if n, ok := period[arch]; ok && t.own(pattern) != nil && !slices.Equal(t.own(pattern).([]bool), everyNth(t.count("block_count"), n)) {
		return no("%s with another order of blocks than %d with a window and one without (%s.%s)", arch, n-1, arch, pattern)
	}
	scaling, _ := t.own("rope.scaling.type").(string)
	tokenizer := text(md, "tokenizer.ggml.model") // not used here, but the library looks at it
	switch arch {
	case "llama":
		if t.count("expert_count") > 0 {
			return no("llama with experts (Mixtral)")
		}
		if scaling != "" && scaling != "none" && scaling != "linear" {
			return no("llama with rope scaling %q", scaling)
		}
		if tokenizer != "gpt2" && tokenizer != "llama" {
			return no("llama with a tokenizer %q", tokenizer)
		}
	case "qwen2":
		if scaling != "" && scaling != "none" && scaling != "linear" {
			return no("qwen2 with rope scaling %q", scaling)
		}
		if strings.HasPrefix(text(md, "general.name"), "Qwen2-beta") || tokenizer == "llama" {
			return no("qwen2 in a form before its release (Qwen 1.5)")
		}
	case "deepseek2":
		// 2 is the sigmoid of DeepSeek V3; V2 gates by softmax, which the layers lack.
		if t.count("expert_gating_func") != 2 {
			return no("DeepSeek V2; V3, V3.1 and R1 are supported")
		}
	case "qwen3moe", "gpt-oss", "gptoss":
		if t.count("expert_count") == 0 {
			return no("%s without experts", arch)
		}
	}
	return nil
}

func text(md Metadata, key string) string {
	s, _ := md.Value(key).(string)
	return s
}

// pattern names the key that says which blocks see a window only.
const pattern = "attention.sliding_window_pattern"

// period is how often a block without a window comes, in architectures where the
// engine follows no pattern of the file's own.
var period = map[string]uint32{"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "gptoss": 2}

// everyNth is a pattern in which every n-th block has no window.
func everyNth(blocks, n uint32) []bool {
	out := make([]bool, blocks)
	for i := range out {
		out[i] = (uint32(i)+1)%n != 0
	}
	return out
}

// maxBlocks is how many blocks a model may have.
const maxBlocks = 4096

// vocabulary stands for the tokenizer's tables in a stage file: the engine reads
// no text, but the library's tokenizers look at the first entries of each,
// whether a file has it or not, and in one type only.
var vocabulary = map[string]any{
	"tokenizer.ggml.tokens":     []string{"a", "b", "c", "d", "e", "f", "g", "h"},
	"tokenizer.ggml.scores":     make([]float32, 8),
	"tokenizer.ggml.token_type": []int32{1, 1, 1, 1, 1, 1, 1, 1},
}

// Defaults returns the metadata to write into a stage file's header, beside or in
// place of the file's own: the GGUF specification's values for keys that are
// absent, where the library would assume others or none; the values of keys that
// the library reads in one type only, in that type; and what stands for the
// tokenizer's tables. The values have GGUF's types. It expects metadata that
// Check accepts.
func Defaults(md Metadata) map[string]any {
	t, _ := typedOf(md) // Check refuses what cannot be converted
	arch := t.arch
	out := maps.Clone(vocabulary)
	for k, v := range t.converted {
		if v != nil {
			out[k] = v
		}
	}
	set := func(k string, v any) {
		if t.own(k) == nil {
			out[arch+"."+k] = v
		}
	}
	heads, width := t.count("attention.head_count"), t.count("embedding_length")
	if heads == 0 {
		return out
	}
	set("attention.head_count_kv", heads)
	if arch != "deepseek2" {
		if arch != "gemma3" || width%heads == 0 {
			set("attention.key_length", width/heads)
			set("attention.value_length", width/heads)
		}
		if n := t.count("attention.key_length"); n > 0 {
			set("rope.dimension_count", n)
		} else {
			set("rope.dimension_count", width/heads)
		}
	}
	if arch != "gemma3" {
		set("rope.freq_base", float32(10000))
	}
	if v := t.own("rope.scale_linear"); v != nil { // the factor's name in older files
		set("rope.scaling.factor", v)
	} else {
		set("rope.scaling.factor", float32(1))
	}
	if t.own("rope.scaling.type") == "none" {
		out[arch+".rope.scaling.factor"] = float32(1)
	}
	switch arch {
	case "gemma2":
		set("attention.sliding_window", uint32(4096))
		set("attn_logit_softcapping", float32(50))
		set("final_logit_softcapping", float32(30))
	case "gemma3":
		set("attention.sliding_window", uint32(1024))
		set("attention.layer_norm_rms_epsilon", float32(1e-6))
	case "mistral3":
		// llama.cpp's converter has other names for what the library reads, and
		// leaves the queries alone unless it names a scale for them.
		if v := t.own("attention.temperature_scale"); v != nil {
			set("rope.scaling_beta", v)
		}
		if v := t.own("rope.scaling.yarn_log_multiplier"); v != nil {
			set("rope.scaling.mscale", v)
			set("rope.scaling.mscale_all_dim", v)
			if _, ok := out[arch+".rope.scaling_beta"]; !ok {
				set("rope.scaling_beta", float32(0))
			}
		}
		for _, k := range []string{"beta_fast", "beta_slow"} {
			if v := t.own("rope.scaling.yarn_" + k); v != nil {
				set("rope.scaling."+k, v)
			}
		}
	case "gpt-oss", "gptoss":
		set("attention.sliding_window", uint32(128))
	case "olmo3":
		set("attention.sliding_window", uint32(4096))
		set(pattern, everyNth(t.count("block_count"), 4))
	case "deepseek2":
		set("expert_weights_norm", false)
		set("expert_weights_scale", float32(1))
		if text(md, "tokenizer.ggml.pre") != "deepseek-v3" {
			// The library refuses any other tokenizer, which the engine does not use.
			out["tokenizer.ggml.pre"] = "deepseek-v3"
		}
	}
	return out
}
