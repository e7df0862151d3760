package gguf

import "testing"

func TestPartOf(t *testing.T) {
	for name, want := range map[string]struct {
		part  Part
		block int
	}{
		"token_embd.weight": {PartEmbedding, -1}, "token_embd_norm.bias": {PartEmbedding, -1}, "position_embd.weight": {PartEmbedding, -1},
		"per_layer_token_embd.weight": {PartEmbedding, -1}, "rope_freqs.weight": {PartHeader, -1}, "rope_factors_long.weight": {PartHeader, -1},
		"blk.0.attn_q.weight": {PartBlock, 0}, "blk.11.ffn_up.weight.lora_a": {PartBlock, 11}, "blk.12.attn_q.weight": {PartNone, -1},
		"blk.x.attn_q.weight": {PartNone, -1}, "blk.-1.attn_q.weight": {PartNone, -1}, "blk": {PartNone, -1},
		"output.weight": {PartOutput, -1}, "output_norm.weight": {PartOutput, -1}, "cls.output.weight": {PartOutput, -1}, "dense_2.weight": {PartOutput, -1},
		"v.blk.0.attn_q.weight": {PartNone, -1}, "": {PartNone, -1}, "mm.0.bias": {PartNone, -1},
		"enc.output_norm.weight": {PartOutput, -1}, "enc.blk.0.attn_q.weight": {PartOther, -1}, "altup_proj.weight": {PartEmbedding, -1}, "altup_unembd_proj.weight": {PartOutput, -1},
		"mystery.weight": {PartOther, -1}, "norm": {PartOther, -1},
	} {
		if part, block := PartOf(name, 12); part != want.part || block != want.block {
			t.Errorf("%q: part %d, block %d", name, part, block)
		}
	}
}
