package enginetest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Sizes of the random models.
const (
	Blocks = 7   // of one made with all of them; gemma3's sixth block is its first global one
	Vocab  = 160 // tokens
	Window = 12  // tokens that a block with a sliding window sees, its own included

	rWidth   = 64
	rHeads   = 4
	rKVHeads = 2
	rFF      = 96
	rExperts = 4
)

// Tensor types.
const (
	typeF32   = gguf.Type(0)
	typeMXFP4 = gguf.Type(39)
)

// Model is a small model of random weights, of one architecture.
type Model struct {
	Name, Arch string
	Windowed   bool // some blocks see only the last Window tokens
	make       func(m *maker)
}

// RandomModels lists them: one or more for each architecture.
func RandomModels() []Model {
	return []Model{
		{"llama", "llama", false, makeLlama},
		{"qwen2", "qwen2", false, makeQwen2},
		{"qwen3", "qwen3", false, makeQwen3},
		{"qwen3moe", "qwen3moe", false, makeQwen3},
		{"gemma2", "gemma2", true, makeGemma},
		{"gemma3", "gemma3", true, makeGemma},
		{"mistral3", "mistral3", false, makeMistral3},
		{"gpt-oss", "gpt-oss", true, makeGptOss},
		{"gptoss of Ollama", "gptoss", true, makeGptOss},
		{"deepseek2", "deepseek2", false, func(m *maker) { makeDeepseek2(m, false) }},
		{"deepseek2 with latent attention", "deepseek2", false, func(m *maker) { makeDeepseek2(m, true) }},
		{"olmo3", "olmo3", true, makeOlmo3},
	}
}

// maker collects a model's metadata and random weights.
type maker struct {
	arch   string
	blocks int
	rng    *rand.Rand
	h      gguf.Header
	data   []byte
}

// File writes a model of so many blocks and returns its path. Edits of its metadata
// come last; a nil value removes an entry.
func (r Model) File(t testing.TB, blocks int, edits ...gguf.KV) string {
	t.Helper()
	m := &maker{arch: r.Arch, blocks: blocks, rng: rand.New(rand.NewPCG(1, 3)), h: gguf.Header{Version: 3}}
	tokens := make([]string, Vocab)
	for i := range tokens {
		tokens[i] = string(rune('A' + i))
	}
	m.h.KVs = []gguf.KV{
		{Key: "general.architecture", Value: r.Arch},
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.scores", Value: make([]float32, Vocab)}, // gemma2's tokenizer looks at them
		{Key: "tokenizer.ggml.token_type", Value: make([]int32, Vocab)},
	}
	m.set("block_count", uint32(blocks))
	m.set("context_length", uint32(4096))
	m.set("embedding_length", uint32(rWidth))
	m.set("feed_forward_length", uint32(rFF))
	m.set("attention.head_count", uint32(rHeads))
	m.set("attention.head_count_kv", uint32(rKVHeads))
	m.set("attention.layer_norm_rms_epsilon", float32(1e-6))
	m.set("rope.freq_base", float32(10000))
	m.weight("token_embd.weight", rWidth, Vocab)
	// Large, so that logits are not flat, and of both signs, so that a tied
	// output matrix does not repeat its input.
	m.add("output_norm.weight", []uint64{rWidth}, func() float64 { return 3 * m.rng.NormFloat64() })
	r.make(m)
	for _, kv := range edits {
		m.h.KVs = slices.DeleteFunc(m.h.KVs, func(old gguf.KV) bool { return old.Key == kv.Key })
		if kv.Value != nil {
			m.h.KVs = append(m.h.KVs, kv)
		}
	}
	raw, err := m.h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for len(raw)%int(m.h.Alignment()) != 0 {
		raw = append(raw, 0)
	}
	path := filepath.Join(t.TempDir(), "random.gguf")
	if err := os.WriteFile(path, append(raw, m.data...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// set writes a key of the architecture's own.
func (m *maker) set(key string, v any) {
	m.h.KVs = append(m.h.KVs, gguf.KV{Key: m.arch + "." + key, Value: v})
}

func (m *maker) tensor(name string, kind gguf.Type, shape []uint64, data []byte) {
	m.h.Tensors = append(m.h.Tensors, gguf.Tensor{Name: name, Type: kind, Shape: shape, Offset: uint64(len(m.data))})
	m.data = append(m.data, data...)
	for len(m.data)%32 != 0 {
		m.data = append(m.data, 0)
	}
}

func (m *maker) add(name string, shape []uint64, draw func() float64) {
	var data []byte
	for range (gguf.Tensor{Shape: shape}).Elements() {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(draw())))
	}
	m.tensor(name, typeF32, shape, data)
}

// weight adds a matrix (or one for each expert) that somewhat more than keeps
// its input's scale: a block must weigh against what it is added to, or the
// answers repeat one token.
func (m *maker) weight(name string, shape ...uint64) {
	scale := 1.5 / math.Sqrt(float64(shape[0]))
	m.add(name, shape, func() float64 { return scale * m.rng.NormFloat64() })
}

func (m *maker) norm(name string, n uint64) {
	m.add(name, []uint64{n}, func() float64 { return 1 + 0.2*m.rng.NormFloat64() })
}

func (m *maker) bias(name string, shape ...uint64) {
	m.add(name, shape, func() float64 { return 0.3 * m.rng.NormFloat64() })
}

// mxfp4 adds matrices in blocks of 32 4-bit numbers behind an exponent.
func (m *maker) mxfp4(name string, shape ...uint64) {
	var data []byte
	for range (gguf.Tensor{Shape: shape}).Elements() / 32 {
		data = append(data, 122) // 2^-5: the numbers' mean square is about 3 squared
		for range 16 {
			data = append(data, byte(m.rng.Uint32()))
		}
	}
	m.tensor(name, typeMXFP4, shape, data)
}

// untied gives the model an output matrix of its own.
func (m *maker) untied() { m.weight("output.weight", rWidth, Vocab) }

// each makes every block; b is the prefix of its tensors' names.
func (m *maker) each(block func(i int, b string)) {
	for i := range m.blocks {
		block(i, "blk."+string(rune('0'+i))+".")
	}
}

// attention adds the four projections for heads of so many numbers.
func (m *maker) attention(b string, head uint64) {
	m.weight(b+"attn_q.weight", rWidth, rHeads*head)
	m.weight(b+"attn_k.weight", rWidth, rKVHeads*head)
	m.weight(b+"attn_v.weight", rWidth, rKVHeads*head)
	m.weight(b+"attn_output.weight", rHeads*head, rWidth)
}

func (m *maker) attentionBias(b string, head uint64) {
	m.bias(b+"attn_q.bias", rHeads*head)
	m.bias(b+"attn_k.bias", rKVHeads*head)
	m.bias(b+"attn_v.bias", rKVHeads*head)
}

// mlp adds a feed-forward part; suffix names a kind of it.
func (m *maker) mlp(b, suffix string) {
	m.weight(b+"ffn_gate"+suffix+".weight", rWidth, rFF)
	m.weight(b+"ffn_up"+suffix+".weight", rWidth, rFF)
	m.weight(b+"ffn_down"+suffix+".weight", rFF, rWidth)
}

func (m *maker) experts(b string, weight func(name string, shape ...uint64)) {
	m.weight(b+"ffn_gate_inp.weight", rWidth, rExperts)
	weight(b+"ffn_gate_exps.weight", rWidth, rFF, rExperts)
	weight(b+"ffn_up_exps.weight", rWidth, rFF, rExperts)
	weight(b+"ffn_down_exps.weight", rFF, rWidth, rExperts)
}

func (m *maker) setExperts() {
	m.set("expert_count", uint32(rExperts))
	m.set("expert_used_count", uint32(2))
	m.set("expert_feed_forward_length", uint32(rFF))
}

func (m *maker) setHead(n uint32) { //nolint:unparam // each model has its own
	m.set("attention.key_length", n)
	m.set("attention.value_length", n)
}

// makeLlama leaves the size of a head to the defaults.
func makeLlama(m *maker) {
	m.untied()
	m.add("rope_freqs.weight", []uint64{rWidth / rHeads / 2}, func() float64 { return 1 + m.rng.Float64() })
	m.each(func(_ int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		m.attention(b, rWidth/rHeads)
		m.norm(b+"ffn_norm.weight", rWidth)
		m.mlp(b, "")
	})
}

func makeQwen2(m *maker) {
	m.each(func(_ int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		m.attention(b, rWidth/rHeads)
		m.attentionBias(b, rWidth/rHeads)
		m.norm(b+"ffn_norm.weight", rWidth)
		m.mlp(b, "")
	})
}

// makeQwen3 makes either of qwen3 and qwen3moe.
func makeQwen3(m *maker) {
	const head = 24 // other than the width over the heads
	m.untied()
	m.setHead(head)
	if m.arch == "qwen3moe" {
		m.setExperts()
	}
	m.each(func(_ int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		m.attention(b, head)
		m.norm(b+"attn_q_norm.weight", head)
		m.norm(b+"attn_k_norm.weight", head)
		m.norm(b+"ffn_norm.weight", rWidth)
		if m.arch == "qwen3moe" {
			m.experts(b, m.weight)
		} else {
			m.mlp(b, "")
		}
	})
}

// makeGemma makes either of gemma2 and gemma3.
func makeGemma(m *maker) {
	const head = 24
	m.setHead(head)
	m.set("attention.sliding_window", uint32(Window))
	m.set("final_logit_softcapping", float32(20))
	if m.arch == "gemma3" {
		m.set("rope.local.freq_base", float32(500))
		m.set("rope.scaling.factor", float32(2))
	}
	m.each(func(_ int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		m.attention(b, head)
		if m.arch == "gemma3" {
			m.norm(b+"attn_q_norm.weight", head)
			m.norm(b+"attn_k_norm.weight", head)
		}
		m.norm(b+"post_attention_norm.weight", rWidth)
		m.norm(b+"ffn_norm.weight", rWidth)
		m.mlp(b, "")
		m.norm(b+"post_ffw_norm.weight", rWidth)
	})
}

// makeMistral3 names its keys as Ollama's converter does, and comes to where
// queries are scaled by their position.
func makeMistral3(m *maker) {
	const head = 24
	m.untied()
	m.setHead(head)
	m.set("rope.dimension_count", uint32(head))
	m.set("rope.scaling.type", "yarn")
	m.set("rope.scaling.factor", float32(4))
	m.set("rope.scaling.original_context_length", uint32(16))
	m.set("rope.scaling.beta_fast", float32(2))
	m.set("rope.scaling.beta_slow", float32(0.5))
	m.set("rope.scaling.mscale", float32(1))
	m.set("rope.scaling.mscale_all_dim", float32(1))
	m.set("rope.scaling_beta", float32(0.2))
	m.each(func(_ int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		m.attention(b, head)
		m.norm(b+"ffn_norm.weight", rWidth)
		m.mlp(b, "")
	})
}

// makeGptOss names its tensors as llama.cpp's converter does, with experts in
// MXFP4, or as Ollama's does, with them in one matrix.
func makeGptOss(m *maker) {
	const head = 24
	ollama := m.arch == "gptoss"
	m.untied()
	m.setHead(head)
	m.setExperts()
	m.set("attention.sliding_window", uint32(Window))
	m.set("rope.scaling.factor", float32(4))
	m.set("rope.scaling.original_context_length", uint32(16))
	m.each(func(_ int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		if ollama {
			m.weight(b+"attn_qkv.weight", rWidth, (rHeads+2*rKVHeads)*head)
			m.bias(b+"attn_qkv.bias", (rHeads+2*rKVHeads)*head)
			m.weight(b+"attn_out.weight", rHeads*head, rWidth)
			m.bias(b+"attn_out.bias", rWidth)
			m.bias(b+"attn_sinks", rHeads)
			m.norm(b+"ffn_norm.weight", rWidth)
			m.weight(b+"ffn_gate_inp.weight", rWidth, rExperts)
			m.weight(b+"ffn_gate_up_exps.weight", rWidth, 2*rFF, rExperts)
			m.bias(b+"ffn_gate_up_exps.bias", 2*rFF, rExperts)
			m.weight(b+"ffn_down_exps.weight", rFF, rWidth, rExperts)
		} else {
			m.attention(b, head)
			m.attentionBias(b, head)
			m.bias(b+"attn_output.bias", rWidth)
			m.bias(b+"attn_sinks.weight", rHeads)
			m.norm(b+"post_attention_norm.weight", rWidth)
			m.experts(b, m.mxfp4)
			m.bias(b+"ffn_gate_exps.bias", rFF, rExperts)
			m.bias(b+"ffn_up_exps.bias", rFF, rExperts)
		}
		m.bias(b+"ffn_gate_inp.bias", rExperts)
		m.bias(b+"ffn_down_exps.bias", rWidth, rExperts)
	})
}

// makeDeepseek2 makes a model in the older form, where keys and values are
// expanded from their latent form, or in the newer one (latent), where queries
// are taken into it. The same weights come out of both.
func makeDeepseek2(m *maker, latent bool) {
	const rank, nope, turned, value = 32, 16, 8, 20
	m.untied()
	m.setExperts()
	m.h.KVs = append(m.h.KVs, gguf.KV{Key: "tokenizer.ggml.pre", Value: "deepseek-v3"})
	m.set("leading_dense_block_count", uint32(1))
	m.set("expert_gating_func", uint32(2))
	m.set("expert_weights_norm", true)
	m.set("expert_weights_scale", float32(1.5))
	m.set("expert_shared_count", uint32(1))
	m.set("attention.q_lora_rank", uint32(rank))
	m.set("attention.kv_lora_rank", uint32(rank))
	m.set("rope.dimension_count", uint32(turned))
	m.set("rope.scaling.type", "yarn")
	m.set("rope.scaling.factor", float32(4))
	m.set("rope.scaling.original_context_length", uint32(16))
	m.set("rope.scaling.yarn_log_multiplier", float32(0.1))
	key := func(k string, v uint32) { // instead of what is set
		m.h.KVs = slices.DeleteFunc(m.h.KVs, func(kv gguf.KV) bool { return kv.Key == m.arch+"."+k })
		m.set(k, v)
	}
	if latent {
		key("attention.head_count_kv", 1)
		m.set("attention.key_length", uint32(rank+turned))
		m.set("attention.value_length", uint32(rank))
		m.set("attention.key_length_mla", uint32(nope+turned))
		m.set("attention.value_length_mla", uint32(value))
	} else {
		key("attention.head_count_kv", rHeads)
		m.set("attention.key_length", uint32(nope+turned))
		m.set("attention.value_length", uint32(value))
	}
	m.each(func(i int, b string) {
		m.norm(b+"attn_norm.weight", rWidth)
		m.weight(b+"attn_q_a.weight", rWidth, rank)
		m.norm(b+"attn_q_a_norm.weight", rank)
		m.weight(b+"attn_q_b.weight", rank, rHeads*(nope+turned))
		m.weight(b+"attn_kv_a_mqa.weight", rWidth, rank+turned)
		m.norm(b+"attn_kv_a_norm.weight", rank)
		var kv [rHeads][nope + value][rank]float64
		for h := range kv {
			for i := range kv[h] {
				for j := range kv[h][i] {
					kv[h][i][j] = m.rng.NormFloat64() / math.Sqrt(rank)
				}
			}
		}
		// at draws what f finds for the n-th number.
		at := func(f func(n int) float64) func() float64 {
			n := -1
			return func() float64 { n++; return f(n) }
		}
		if latent {
			m.add(b+"attn_k_b.weight", []uint64{nope, rank, rHeads}, at(func(n int) float64 { return kv[n/nope/rank][n%nope][n/nope%rank] }))
			m.add(b+"attn_v_b.weight", []uint64{rank, value, rHeads}, at(func(n int) float64 { return kv[n/rank/value][nope+n/rank%value][n%rank] }))
		} else {
			m.add(b+"attn_kv_b.weight", []uint64{rank, rHeads * (nope + value)}, at(func(n int) float64 {
				return kv[n/rank/(nope+value)][n/rank%(nope+value)][n%rank]
			}))
		}
		m.weight(b+"attn_output.weight", rHeads*value, rWidth)
		m.norm(b+"ffn_norm.weight", rWidth)
		if i == 0 {
			m.mlp(b, "")
			return
		}
		m.experts(b, m.weight)
		m.mlp(b, "_shexp")
		m.bias(b+"exp_probs_b.bias", rExperts)
	})
}

// makeOlmo3 leaves the pattern of windows to the defaults.
func makeOlmo3(m *maker) {
	const head = rWidth / rHeads
	m.untied()
	m.set("attention.sliding_window", uint32(Window))
	m.set("rope.scaling.type", "yarn")
	m.set("rope.scaling.factor", float32(4))
	m.set("rope.scaling.original_context_length", uint32(16))
	m.each(func(_ int, b string) {
		m.attention(b, head)
		m.norm(b+"attn_q_norm.weight", rHeads*head)
		m.norm(b+"attn_k_norm.weight", rKVHeads*head)
		m.norm(b+"post_attention_norm.weight", rWidth)
		m.mlp(b, "")
		m.norm(b+"post_ffw_norm.weight", rWidth)
	})
}

// randomModel finds one by its name; a test of one that the back end lacks is skipped.
func (b Backend) randomModel(t *testing.T, name string) Model {
	t.Helper()
	all := RandomModels()
	i := slices.IndexFunc(all, func(r Model) bool { return r.Name == name })
	if i < 0 {
		t.Fatal("no random model ", name)
	}
	if slices.Contains(b.Lacks, name) {
		t.Skip("this back end does not compute it")
	}
	return all[i]
}

// RandomPrompt returns n tokens of the random models' vocabulary that do not repeat
// soon.
func RandomPrompt(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((i*i*7 + i*31 + 5) % Vocab)
	}
	return out
}
