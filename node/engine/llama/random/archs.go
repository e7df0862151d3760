package random

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Model is a small model of random weights, of one architecture.
type Model struct {
	Name   string // architecture, and what distinguishes the model from others of it
	Arch   string // as GGUF names it
	Blocks int
	Keys   map[string]any // metadata beyond base's, without the architecture's name; nil values remove
	Draft  bool           // a further block drafts tokens (multi-token prediction)
	With   []string       // tensors that it has although it need not; % stands for each block's number
}

// keys is metadata of a model, without the architecture's name.
type keys = map[string]any

// base is what every model says of itself; most read little of it.
func base(blocks int) keys {
	return keys{
		"vocab_size":                       uint32(Vocab),
		"context_length":                   uint32(Context),
		"embedding_length":                 uint32(width),
		"block_count":                      uint32(blocks),
		"feed_forward_length":              uint32(ff),
		"attention.head_count":             uint32(heads),
		"attention.head_count_kv":          uint32(kvHeads),
		"attention.layer_norm_epsilon":     float32(1e-5),
		"attention.layer_norm_rms_epsilon": float32(1e-5),
		"rope.freq_base":                   float32(10000),
	}
}

// metadata is the model's, with a tokenizer.
func (m Model) metadata() []gguf.KV {
	all := base(m.Blocks)
	maps.Copy(all, m.Keys)
	kvs := []gguf.KV{{Key: "general.architecture", Value: m.Arch}, {Key: "general.name", Value: m.Name}}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if all[key] == nil {
			continue
		}
		full := m.Arch + "." + key
		if strings.HasPrefix(key, "xielu.") || strings.HasPrefix(key, "tokenizer.") {
			full = key
		}
		kvs = append(kvs, gguf.KV{Key: full, Value: all[key]})
	}
	return append(kvs, tokenizer()...)
}

// tokenizer is one of words with a token for each byte.
func tokenizer() []gguf.KV {
	tokens, scores, types := []string{"<unk>", "<s>", "</s>"}, []float32{0, 0, 0}, []int32{2, 3, 3}
	for i := range 256 {
		tokens, scores, types = append(tokens, fmt.Sprintf("<0x%02X>", i)), append(scores, 0), append(types, 6)
	}
	for i := len(tokens); i < Vocab; i++ {
		tokens, scores, types = append(tokens, fmt.Sprintf("▁w%d", i)), append(scores, float32(-i)), append(types, 1)
	}
	tokens[Vocab-1] = "<|endoftext|>" // a model called phi3 must have it
	return []gguf.KV{
		{Key: "tokenizer.ggml.model", Value: "llama"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.scores", Value: scores},
		{Key: "tokenizer.ggml.token_type", Value: types},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
	}
}

// all joins metadata; later entries win.
func all(ks ...keys) keys {
	out := keys{}
	for _, k := range ks {
		maps.Copy(out, k)
	}
	return out
}

// each makes an array with an entry per block.
func each[T any](blocks int, of func(i int) T) []T {
	out := make([]T, blocks)
	for i := range out {
		out[i] = of(i)
	}
	return out
}

func window(more keys) keys {
	return all(keys{"attention.sliding_window": uint32(Window)}, more)
}

// pattern marks the blocks with a sliding window: all but each nth.
func pattern(blocks, nth int) keys {
	return window(keys{"attention.sliding_window_pattern": each(blocks, func(i int) bool { return (i+1)%nth != 0 })})
}

func moe(more keys) keys {
	return all(keys{
		"expert_count": uint32(experts), "expert_used_count": uint32(2), "expert_feed_forward_length": uint32(ff / 2),
		"expert_shared_feed_forward_length": uint32(ff / 4), "expert_shared_count": uint32(1),
		"expert_gating_func": uint32(2), "expert_weights_norm": true, "expert_weights_scale": float32(1.5),
		"leading_dense_block_count": uint32(1), "interleave_moe_layer_step": uint32(1),
	}, more)
}

// mla is attention over compressed keys and values.
func mla(more keys) keys {
	return all(keys{
		"attention.head_count_kv": uint32(1), "attention.q_lora_rank": uint32(24), "attention.kv_lora_rank": uint32(32),
		"attention.key_length": uint32(32 + 8), "attention.value_length": uint32(32),
		"attention.key_length_mla": uint32(24), "attention.value_length_mla": uint32(16), "rope.dimension_count": uint32(8),
	}, more)
}

// ssm is a state-space part.
func ssm(more keys) keys {
	return all(keys{
		"ssm.conv_kernel": uint32(4), "ssm.inner_size": uint32(2 * width), "ssm.state_size": uint32(16),
		"ssm.time_step_rank": uint32(heads), "ssm.group_count": uint32(2),
	}, more)
}

// recurrent gives each fourth block attention, and the others none, by the number of its KV heads.
func recurrent(more keys) keys {
	kv := each(n, func(i int) uint32 {
		if (i+1)%4 == 0 {
			return kvHeads
		}
		return 0
	})
	return all(keys{"attention.head_count_kv": kv}, more)
}

var sections = []uint32{3, 3, 2, 0}

// deltaNet is the recurrent part of Qwen3.5's family.
func deltaNet(more keys) keys {
	return all(ssm(keys{
		"ssm.inner_size": uint32(64), "ssm.state_size": uint32(16), "full_attention_interval": uint32(4),
		"rope.dimension_sections": []uint32{2, 1, 1, 0}, "rope.dimension_count": uint32(8),
	}), more)
}

// kda is Kimi's recurrent attention, with compressed attention in each fourth block.
func kda(more keys) keys {
	return all(mla(keys{
		"ssm.conv_kernel": uint32(4), "kda.head_dim": uint32(16), "kda.safe_gate": true, "kda.gate_lower_bound": float32(-5),
		"attention.head_count_kv": each(n, func(i int) uint32 {
			if (i+1)%4 == 0 {
				return 1
			}
			return 0
		}),
	}), more)
}

// gemma4 has blocks with windows, whose heads are smaller, and each fourth without.
func gemma4(blocks int, more keys) keys {
	return all(pattern(blocks, 4), keys{
		"embedding_length_per_layer_input": uint32(0), "attention.key_length": uint32(32), "attention.value_length": uint32(32),
		"attention.key_length_swa": uint32(16), "attention.value_length_swa": uint32(16), "rope.freq_base_swa": float32(10000),
		"attention.head_count_kv": each(blocks, func(i int) uint32 {
			if (i+1)%4 == 0 {
				return 1
			}
			return kvHeads
		}),
		"final_logit_softcapping": float32(30), "rope.dimension_count": uint32(32), "rope.dimension_count_swa": uint32(16),
	}, more)
}

// rwkv has no attention.
func rwkv(more keys) keys {
	return all(keys{
		"wkv.head_size": uint32(16), "time_mix_extra_dim": uint32(8), "time_decay_extra_dim": uint32(8), "token_shift_count": uint32(2),
		"attention.decay_lora_rank": uint32(8), "attention.iclr_lora_rank": uint32(8), "attention.value_residual_mix_lora_rank": uint32(8),
		"attention.gate_lora_rank": uint32(8), "attention.head_count": uint32(0), "attention.head_count_kv": uint32(0),
	}, more)
}

// rwkv7 has heads of the one size that its models have: with others the library reads and
// writes beside them.
var rwkv7 = keys{"wkv.head_size": uint32(64)}

// nemotronH has blocks of one kind each: recurrent, feed-forward, recurrent, attention.
func nemotronH(blocks int, more keys) keys {
	of := func(kind int, then uint32) []uint32 {
		return each(blocks, func(i int) uint32 {
			if i%4 == kind {
				return then
			}
			return 0
		})
	}
	return all(ssm(keys{"feed_forward_length": of(1, ff), "attention.head_count_kv": of(3, kvHeads)}), more)
}

// indexer chooses which positions attention sees.
func indexer(more keys) keys {
	return all(keys{
		"attention.indexer.head_count": uint32(64), "attention.indexer.key_length": uint32(128), "attention.indexer.top_k": uint32(1 << 16),
		"attention.indexer.block_size": uint32(4), "attention.indexer.local_blocks": uint32(1),
	}, more)
}

var granite = keys{"logit_scale": float32(2), "residual_scale": float32(0.5), "embedding_scale": float32(3), "attention.scale": float32(0.3)}

const n = 12

// Models lists them.
func Models() []Model {
	plain := func(arch string, k keys, with ...string) Model {
		return Model{Name: arch, Arch: arch, Blocks: n, Keys: k, With: with}
	}
	named := func(name string, m Model) Model { m.Name = name; return m }
	linear := []string{"blk.%.attn_qkv.weight", "blk.%.attn_gate.weight"} // of recurrent blocks
	draft := func(m Model) Model { m.Draft = true; return m }
	sized := func(blocks int, m Model) Model { m.Blocks = blocks; return m }
	none := keys{}
	list := []Model{
		plain("llama", none, "output.weight", "rope_freqs.weight"),
		named("llama tied", plain("llama", none)),
		named("llama moe", plain("llama", moe(none))),
		plain("llama4", moe(keys{"interleave_moe_layer_step": uint32(2)})),
		plain("deci", none),
		plain("falcon", none),
		plain("grok", moe(none)),
		plain("gpt2", none),
		plain("gptneox", keys{"use_parallel_residual": false, "rope.dimension_count": uint32(8)}),
		named("gptneox parallel", plain("gptneox", keys{"use_parallel_residual": true, "rope.dimension_count": uint32(8)})),
		plain("mpt", keys{"attention.max_alibi_bias": float32(8), "attention.clamp_kqv": float32(4)}),
		plain("baichuan", none),
		plain("starcoder", keys{"attention.head_count_kv": uint32(1)}),
		plain("starcoder2", none, "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias"),
		plain("refact", none),
		plain("bloom", keys{"attention.max_alibi_bias": float32(8), "attention.head_count_kv": uint32(heads)}),
		plain("stablelm", keys{"rope.dimension_count": uint32(8)}, "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias"),
		plain("qwen", keys{"attention.head_count_kv": uint32(heads)}),
		plain("qwen2", none, "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias"),
		plain("qwen2moe", moe(none), "output.weight", "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias"),
		plain("qwen2vl", keys{"rope.dimension_sections": sections}, "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias"),
		plain("qwen3", none),
		plain("qwen3moe", moe(none)),
		plain("qwen3next", deltaNet(moe(none)), linear...),
		plain("qwen3vl", keys{"rope.dimension_sections": sections, "n_deepstack_layers": uint32(3)}),
		plain("qwen3vlmoe", moe(keys{"rope.dimension_sections": sections, "n_deepstack_layers": uint32(3)})),
		plain("qwen35", deltaNet(none), linear...),
		draft(named("qwen35 mtp", plain("qwen35", deltaNet(none), linear...))),
		plain("qwen35moe", deltaNet(moe(none)), linear...),
		plain("phi2", keys{"attention.head_count_kv": uint32(heads), "rope.dimension_count": uint32(8)}),
		plain("phi3", none, "output.weight", "blk.%.attn_qkv.weight"),
		named("phi3 with windows", plain("phi3", window(none), "blk.%.attn_qkv.weight")),
		plain("phimoe", moe(none)),
		plain("plamo", none),
		plain("plamo2", ssm(recurrent(keys{"ssm.group_count": uint32(0)}))),
		plain("plamo3", pattern(n, 4)),
		plain("codeshell", none, "token_embd.weight"),
		plain("orion", none),
		plain("internlm2", none),
		plain("minicpm", keys{"residual_scale": float32(0.4), "embedding_scale": float32(12), "logit_scale": float32(0.25)}),
		plain("minicpm3", mla(keys{"attention.key_length": uint32(24), "attention.value_length": uint32(16), "attention.key_length_mla": nil, "attention.value_length_mla": nil, "attention.head_count_kv": uint32(heads)})),
		plain("gemma", none),
		plain("gemma2", window(none)),
		sized(18, plain("gemma3", window(none))),
		sized(30, plain("gemma3n", window(keys{"feed_forward_length": uint32(1024)}))),
		plain("gemma4", gemma4(n, none)),
		named("gemma4 moe", plain("gemma4", gemma4(n, moe(none)), "blk.%.ffn_gate_inp.weight", "blk.%.layer_output_scale.weight")),
		named("gemma4 per layer", plain("gemma4", gemma4(n, keys{"embedding_length_per_layer_input": uint32(8), "attention.shared_kv_layers": uint32(4)}))),
		plain("mamba", ssm(keys{"attention.head_count": uint32(0), "attention.head_count_kv": uint32(0)})),
		plain("mamba2", ssm(keys{"attention.head_count": uint32(0), "attention.head_count_kv": uint32(0)})),
		plain("jamba", ssm(recurrent(moe(none)))),
		plain("falcon-h1", ssm(none), "blk.%.ssm_conv1d.bias"),
		plain("xverse", keys{"attention.head_count_kv": uint32(heads)}),
		plain("command-r", keys{"logit_scale": float32(0.5)}),
		plain("cohere2", window(keys{"logit_scale": float32(0.5)})),
		plain("cohere2moe", window(moe(keys{"logit_scale": float32(0.5)}))),
		plain("dbrx", moe(keys{"attention.clamp_kqv": float32(8)})),
		plain("olmo", keys{"attention.clamp_kqv": float32(8)}),
		plain("olmo2", none),
		named("olmo2 with windows", plain("olmo2", window(none))),
		plain("olmoe", moe(keys{"attention.head_count_kv": uint32(heads)})),
		plain("openelm", none),
		plain("arctic", moe(none)),
		plain("deepseek", moe(none)),
		plain("deepseek2", mla(moe(none))),
		named("deepseek2 lite", sized(26, plain("deepseek2", mla(moe(keys{"attention.q_lora_rank": nil}))))),
		named("deepseek2 softmax", plain("deepseek2", mla(moe(keys{"expert_gating_func": uint32(1), "leading_dense_block_count": uint32(3)})))),
		draft(named("deepseek2 mtp", plain("deepseek2", mla(moe(none))))),
		plain("chatglm", keys{"rope.dimension_count": uint32(8)}),
		plain("glm4", keys{"rope.dimension_count": uint32(8)}),
		plain("glm4moe", moe(keys{"rope.dimension_count": uint32(8)})),
		draft(named("glm4moe mtp", plain("glm4moe", moe(keys{"rope.dimension_count": uint32(8)})))),
		plain("glm-dsa", indexer(mla(moe(none))), "blk.%.indexer.k_norm.weight", "blk.%.indexer.k_norm.bias", "blk.%.indexer.proj.weight", "blk.%.indexer.attn_k.weight", "blk.%.indexer.attn_q_b.weight"),
		plain("bitnet", none),
		plain("jais", keys{"attention.head_count_kv": uint32(heads), "attention.max_alibi_bias": float32(8)}),
		plain("jais2", none),
		plain("nemotron", keys{"rope.dimension_count": uint32(8)}),
		plain("exaone", none),
		plain("exaone4", none),
		plain("exaone-moe", moe(pattern(n, 4))),
		plain("rwkv6", rwkv(none), "blk.%.time_mix_lerp_fused.weight"),
		plain("rwkv6qwen2", rwkv(keys{"token_shift_count": uint32(1)}), "blk.%.time_mix_lerp_fused.weight"),
		plain("rwkv7", rwkv(rwkv7)),
		plain("arwkv7", rwkv(all(rwkv7, keys{"token_shift_count": uint32(1)})), "blk.%.time_mix_g1.weight", "blk.%.time_mix_g2.weight"),
		plain("granite", granite),
		plain("granitemoe", moe(granite)),
		plain("granitehybrid", ssm(recurrent(granite)), "blk.%.ssm_conv1d.bias"),
		named("granitehybrid moe", plain("granitehybrid", ssm(recurrent(moe(granite))), "blk.%.ssm_conv1d.bias")),
		plain("granite_swa", all(pattern(n, 4), granite)),
		plain("bailingmoe", moe(none)),
		plain("bailingmoe2", moe(none)),
		plain("bailingmoe3", kda(moe(none))),
		plain("dots1", moe(keys{"attention.head_count_kv": uint32(heads)})),
		plain("arcee", none),
		plain("afmoe", window(moe(none))),
		plain("laguna", window(moe(none))),
		plain("ernie4_5", none),
		plain("ernie4_5-moe", moe(none)),
		named("ernie4_5-moe interleaved", plain("ernie4_5-moe", moe(keys{"interleave_moe_layer_step": uint32(2)}))),
		plain("hunyuan-moe", moe(none)),
		plain("hunyuan-dense", none),
		plain("hunyuan_vl", keys{"rope.dimension_sections": sections}),
		plain("hy_v3", moe(none)),
		plain("smollm3", none),
		plain("gpt-oss", window(moe(none))),
		plain("lfm2", recurrent(keys{"shortconv.l_cache": uint32(3)})),
		plain("lfm2moe", recurrent(moe(keys{"shortconv.l_cache": uint32(3)}))),
		plain("smallthinker", moe(none)),
		named("smallthinker with windows", plain("smallthinker", moe(window(none)))),
		plain("seed_oss", none, "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias"),
		plain("grovemoe", moe(keys{"expert_group_scale": float32(1), "experts_per_group": uint32(2), "expert_chunk_feed_forward_length": uint32(16)})),
		plain("apertus", keys{"xielu.alpha_n": each(n, func(i int) float32 { return 0.5 + float32(i)/8 }), "xielu.alpha_p": each(n, func(i int) float32 { return 1 - float32(i)/16 }), "xielu.beta": float32(0.5), "xielu.eps": float32(-1e-6)}),
		plain("minimax-m2", moe(none)),
		plain("minimax-m3", all(indexer(moe(none)), keys{"attention.indexer.head_count": uint32(kvHeads), "attention.indexer.key_length": uint32(32)})),
		plain("minimax-01", moe(keys{"residual_scale": float32(3.5), "full_attention_interval": uint32(4), "attention.head_count_kv": uint32(heads)})),
		plain("cogvlm", keys{"attention.head_count_kv": uint32(heads)}),
		plain("pangu-embedded", none),
		plain("mistral3", none),
		plain("mistral4", mla(moe(none))),
		plain("paddleocr", keys{"rope.dimension_sections": sections}),
		plain("mimo2", moe(pattern(n, 4))),
		plain("step35", moe(pattern(n, 4))),
		plain("spark2_5", pattern(n, 4)),
		plain("maincoder", none),
		plain("kimi-linear", kda(moe(none))),
		plain("talkie", keys{"logit_scale": float32(1)}),
		plain("mellum", window(moe(none))),
		plain("muse-glimmer", window(keys{"logit_scale": float32(1)})),
		plain("nanbeige", none),
		plain("maple", moe(all(pattern(n, 4), keys{"swiglu_clamp_exp": float32(7)}))),
		plain("nemotron_h", nemotronH(n, none), "blk.%.ssm_conv1d.bias"),
		plain("nemotron_h_moe", nemotronH(n, moe(none)), "blk.%.ssm_conv1d.bias"),
		plain("deepseek32", indexer(mla(moe(none)))),
		plain("plm", mla(keys{"attention.key_length": uint32(24), "attention.value_length": uint32(16), "attention.key_length_mla": nil, "attention.value_length_mla": nil, "attention.head_count_kv": uint32(heads)})),
	}
	return list
}
