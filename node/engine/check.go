package engine

import (
	"fmt"
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

// Check says whether a model with this metadata can be computed. Errors wrap
// ErrUnsupported and say what is supported.
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
	key := func(k string) any { return md.Value(arch + "." + k) }
	for _, k := range []string{"attention.head_count", "attention.head_count_kv"} {
		switch key(k).(type) {
		case []uint32, []int32:
			return no("head counts that differ from block to block (%s.%s)", arch, k)
		}
	}
	for _, k := range []string{"block_count", "embedding_length", "attention.head_count"} {
		if n, ok := key(k).(uint32); !ok || n == 0 || n > 1<<20 {
			return no("%s.%s is missing or impossible (%v); is the file complete?", arch, k, key(k))
		}
	}
	blocks, _ := key("block_count").(uint32)
	if blocks > 4096 {
		return no("%d blocks", blocks)
	}
	heads, _ := key("attention.head_count").(uint32)
	width, _ := key("embedding_length").(uint32)
	if v := key("attention.head_count_kv"); v != nil {
		if n, ok := v.(uint32); !ok || n == 0 || heads%n != 0 {
			return no("%d heads over %v key/value heads", heads, v)
		}
	}
	if key("attention.key_length") == nil && width%heads != 0 {
		return no("%d heads do not divide a width of %d", heads, width)
	}
	if n, _ := key("pooling_type").(uint32); n != 0 {
		return no("an embedding model; shoal runs models that generate text")
	}
	scaling, _ := key("rope.scaling.type").(string)
	tokenizer := text(md, "tokenizer.ggml.model") // not used here, but the library looks at it
	switch arch {
	case "llama":
		if n, _ := key("expert_count").(uint32); n > 0 {
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
		if n, _ := key("expert_gating_func").(uint32); n != 2 {
			return no("DeepSeek V2; V3, V3.1 and R1 are supported")
		}
	case "qwen3moe", "gpt-oss", "gptoss":
		if n, _ := key("expert_count").(uint32); n == 0 {
			return no("%s without experts", arch)
		}
	}
	return nil
}

func text(md Metadata, key string) string {
	s, _ := md.Value(key).(string)
	return s
}

// Defaults gives the metadata to write into a stage file's header for keys
// that are absent: the GGUF specification's values, where the library would
// assume others or none. Values have GGUF's types.
func Defaults(md Metadata) map[string]any {
	arch := text(md, "general.architecture")
	out := map[string]any{}
	set := func(k string, v any) {
		if k = arch + "." + k; md.Value(k) == nil {
			out[k] = v
		}
	}
	u := func(k string) uint32 { n, _ := md.Value(arch + "." + k).(uint32); return n }
	heads, width := u("attention.head_count"), u("embedding_length")
	if heads == 0 {
		return out
	}
	set("attention.head_count_kv", heads)
	if arch != "deepseek2" {
		if arch != "gemma3" || width%heads == 0 {
			set("attention.key_length", width/heads)
			set("attention.value_length", width/heads)
		}
		if n := u("attention.key_length"); n > 0 {
			set("rope.dimension_count", n)
		} else {
			set("rope.dimension_count", width/heads)
		}
	}
	if arch != "gemma3" {
		set("rope.freq_base", float32(10000))
	}
	set("rope.scaling.factor", float32(1))
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
		theirs := func(k string) (v float32, ok bool) { v, ok = md.Value(arch + "." + k).(float32); return }
		if v, ok := theirs("attention.temperature_scale"); ok {
			set("rope.scaling_beta", v)
		}
		if v, ok := theirs("rope.scaling.yarn_log_multiplier"); ok {
			set("rope.scaling.mscale", v)
			set("rope.scaling.mscale_all_dim", v)
			if _, ok := out[arch+".rope.scaling_beta"]; !ok {
				set("rope.scaling_beta", float32(0))
			}
		}
		for _, k := range []string{"beta_fast", "beta_slow"} {
			if v, ok := theirs("rope.scaling.yarn_" + k); ok {
				set("rope.scaling."+k, v)
			}
		}
	case "gpt-oss", "gptoss":
		set("attention.sliding_window", uint32(128))
	case "olmo3":
		set("attention.sliding_window", uint32(4096))
		pattern := make([]bool, u("block_count"))
		for i := range pattern {
			pattern[i] = i%4 != 3 // three local blocks, then a global one
		}
		set("attention.sliding_window_pattern", pattern)
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
