package scriptmodel

import (
	"errors"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Dictation is a model that prefers longer tokens to shorter ones, whatever came before.
// An answer that must have a certain text comes out in one sequence of tokens then: at
// each place the longest that fits. So a network can be measured, and tested, with a text
// that the last stage wants and no other node knows, while all of them really compute.
type Dictation struct {
	Name   string
	Pieces []string // by token, no two the same
	Blocks int
}

// GGUF returns the model's file. Behind the pieces there is one more token, which ends an
// answer.
func (d Dictation) GGUF() ([]byte, error) {
	if len(d.Pieces) == 0 || d.Blocks < 1 {
		return nil, errors.New("a model has tokens and blocks")
	}
	const normal, control = 1, 3
	var tokens []string
	var kinds []int32
	longest := 0
	for _, p := range d.Pieces {
		tokens, kinds = append(tokens, spelled(p)), append(kinds, normal)
		longest = max(longest, len(p))
	}
	last := len(tokens)
	tokens, kinds = append(tokens, "<|end|>"), append(kinds, control)

	// The last norm makes of a unit vector one of length 16: a token's logit is 16 times
	// what its row of the output says.
	embedding, output := make([]float32, len(tokens)*width), make([]float32, len(tokens)*width)
	for t := range tokens {
		embedding[t*width] = 1
		if t < last {
			output[t*width] = 8 * float32(len(d.Pieces[t])) / float32(longest)
		}
	}
	return assemble(header(d.Name, d.Blocks, tokens, kinds, last, dictated), embedding, output, d.Blocks)
}

// dictated is the chat template of a model that heeds no prompt.
const dictated = `{%- for m in messages -%}{{- m.role + ': ' + m.content + '\n' -}}{%- endfor -%}`

// header describes a model of the width and the other sizes that all models here have.
func header(name string, blocks int, tokens []string, kinds []int32, end int, template string) *gguf.Header {
	return &gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: name},
		{Key: "general.alignment", Value: uint32(32)},
		{Key: "llama.block_count", Value: uint32(blocks)},
		{Key: "llama.context_length", Value: uint32(context)},
		{Key: "llama.embedding_length", Value: uint32(width)},
		{Key: "llama.feed_forward_length", Value: uint32(forward)},
		{Key: "llama.attention.head_count", Value: uint32(heads)},
		{Key: "llama.attention.head_count_kv", Value: uint32(heads)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "llama.rope.dimension_count", Value: uint32(width / heads)},
		{Key: "llama.vocab_size", Value: uint32(len(tokens))},
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.pre", Value: "gpt-2"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.token_type", Value: kinds},
		{Key: "tokenizer.ggml.merges", Value: []string{"Ġ Ġ"}},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(end)},
		{Key: "tokenizer.ggml.add_bos_token", Value: false},
		{Key: "tokenizer.chat_template", Value: template},
	}}
}
