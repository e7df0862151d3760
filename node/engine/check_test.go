package engine

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

// metadata for tests.
type metadata map[string]any

func (m metadata) Value(key string) any { return m[key] }

// plain is the least that a model of an architecture says of itself.
func plain(arch string) metadata {
	md := metadata{
		"general.architecture": arch, "tokenizer.ggml.model": "gpt2",
		arch + ".block_count": uint32(7), arch + ".embedding_length": uint32(64),
		arch + ".attention.head_count": uint32(4), arch + ".attention.head_count_kv": uint32(2),
	}
	switch arch {
	case "qwen3moe", "gpt-oss", "gptoss":
		md[arch+".expert_count"] = uint32(4)
	case "deepseek2":
		md[arch+".expert_gating_func"] = uint32(2)
	}
	return md
}

func TestCheck(t *testing.T) {
	for _, arch := range append(Supported(), "gptoss") {
		if err := Check(plain(arch)); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	for name, md := range map[string]metadata{
		"linear scaling":        {"llama.rope.scaling.type": "linear"},
		"no scaling":            {"llama.rope.scaling.type": "none"},
		"a key length":          {"llama.attention.head_count": uint32(6), "llama.attention.key_length": uint32(16)},
		"heads of their own":    {"llama.attention.head_count_kv": nil},
		"no pooling":            {"llama.pooling_type": uint32(0)},
		"no experts":            {"llama.expert_count": uint32(0)},
		"SentencePiece's words": {"tokenizer.ggml.model": "llama"},
	} {
		full := plain("llama")
		maps.Copy(full, md)
		if err := Check(full); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		arch, key string
		value     any
		says      string
	}{
		{"llama", "general.architecture", nil, "no architecture"},
		{"llama", "general.architecture", uint32(1), "no architecture"},
		{"bert", "", nil, `architecture "bert"`},
		{"bert", "", nil, strings.Join(Supported(), ", ")},
		{"llama", "llama.block_count", nil, "llama.block_count is missing"},
		{"llama", "llama.block_count", uint32(0), "llama.block_count is missing or impossible"},
		{"llama", "llama.block_count", "7", `llama.block_count should be a whole number from 0 to 4294967295 and is "7" (string)`},
		{"llama", "llama.block_count", uint32(5000), "5000 blocks"},
		{"llama", "llama.embedding_length", nil, "llama.embedding_length is missing"},
		{"llama", "llama.embedding_length", uint32(1 << 31), "llama.embedding_length is missing or impossible"},
		{"llama", "llama.embedding_length", uint32(66), "4 heads do not divide a width of 66"},
		{"llama", "llama.attention.head_count", nil, "llama.attention.head_count is missing"},
		{"llama", "llama.attention.head_count", []uint32{4, 8}, "from block to block"},
		{"llama", "llama.attention.head_count_kv", []int32{4, 2}, "from block to block"},
		{"llama", "llama.attention.head_count_kv", uint32(0), "4 heads over 0"},
		{"llama", "llama.attention.head_count_kv", uint32(3), "4 heads over 3"},
		{"llama", "llama.attention.head_count_kv", "two", `llama.attention.head_count_kv should be a whole number from 0 to 4294967295 and is "two"`},
		{"qwen3", "qwen3.nextn_predict_layers", uint32(1), "predict further tokens"},
		{"llama", "llama.pooling_type", uint32(1), "embedding model"},
		{"qwen3", "qwen3.pooling_type", uint32(3), "embedding model"},
		{"llama", "llama.expert_count", uint32(8), "Mixtral"},
		{"llama", "llama.rope.scaling.type", "yarn", `rope scaling "yarn"`},
		{"llama", "tokenizer.ggml.model", "bert", `tokenizer "bert"`},
		{"qwen2", "qwen2.rope.scaling.type", "yarn", `rope scaling "yarn"`},
		{"qwen2", "general.name", "Qwen2-beta-7B-Chat", "Qwen 1.5"},
		{"qwen2", "tokenizer.ggml.model", "llama", "Qwen 1.5"},
		{"deepseek2", "deepseek2.expert_gating_func", nil, "DeepSeek V2"},
		{"deepseek2", "deepseek2.expert_gating_func", uint32(1), "DeepSeek V2"},
		{"qwen3moe", "qwen3moe.expert_count", nil, "qwen3moe without experts"},
		{"gpt-oss", "gpt-oss.expert_count", uint32(0), "gpt-oss without experts"},
		{"gptoss", "gptoss.expert_count", nil, "gptoss without experts"},
	} {
		md := plain(c.arch)
		md[c.key] = c.value
		if err := Check(md); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with %s = %v: %v, want %q", c.arch, c.key, c.value, err, c.says)
		}
	}
}
