package random

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"path/filepath"
	"unsafe"
)

// Embedders returns models that make embeddings, or scores.
func Embedders() []Model {
	encoder := func(name, arch string, more keys, with ...string) Model {
		return Model{Name: name, Arch: arch, Blocks: 2, With: with, Keys: all(keys{
			"attention.causal": false, "attention.head_count_kv": uint32(heads), "pooling_type": uint32(1), "tokenizer.ggml.token_type_count": uint32(2),
		}, more)}
	}
	biases := []string{
		"token_types.weight", "blk.%.attn_q.bias", "blk.%.attn_k.bias", "blk.%.attn_v.bias", "blk.%.attn_output.bias", "blk.%.ffn_up.bias", "blk.%.ffn_down.bias",
	}
	head := append([]string{"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"}, biases...)
	gemma := all(pattern(6, 6), keys{"attention.key_length": uint32(width / heads), "attention.value_length": uint32(width / heads), "rope.freq_base_swa": float32(10000)})
	six := func(m Model) Model { m.Blocks = 6; return m }
	return []Model{
		encoder("bert mean", "bert", nil, biases...),
		encoder("bert first", "bert", keys{"pooling_type": uint32(2)}, biases...),
		encoder("bert ranking", "bert", keys{"pooling_type": uint32(4)}, head...),
		encoder("nomic-bert", "nomic-bert", nil, "token_types.weight"),
		encoder("nomic-bert-moe", "nomic-bert-moe", all(moe(nil), keys{"moe_every_n_layers": uint32(2)}), "token_types.weight"),
		encoder("jina-bert-v2", "jina-bert-v2", keys{"attention.max_alibi_bias": float32(8)}, biases...),
		encoder("neo-bert", "neo-bert", keys{"pooling_type": uint32(2)}),
		encoder("modern-bert", "modern-bert", window(keys{"rope.freq_base_swa": float32(10000)})),
		six(encoder("gemma-embedding", "gemma-embedding", gemma)),
		six(encoder("gemma-embedding dense", "gemma-embedding", all(gemma, keys{
			"dense_2_feat_in": uint32(width), "dense_2_feat_out": uint32(ff), "dense_3_feat_in": uint32(ff), "dense_3_feat_out": uint32(width),
		}), "dense_2.weight", "dense_3.weight")),
		{Name: "qwen3 last", Arch: "qwen3", Blocks: 4, Keys: keys{"pooling_type": uint32(3)}},
		{Name: "llama mean", Arch: "llama", Blocks: 4, Keys: keys{"pooling_type": uint32(1)}, With: []string{"output.weight"}},
	}
}

// Embed has the library compute a whole model by itself. It returns the n numbers of a
// text's embedding, which is not normalized; a model that ranks has one.
func Embed(lib, path string, text []int32, n int) ([]float32, error) {
	if err := open(lib); err != nil {
		return nil, err
	}
	file := C.CString(path)
	defer C.free(unsafe.Pointer(file))
	out := make([]float32, n)
	if !C.random_embed(file, (*C.int32_t)(&text[0]), C.int(len(text)), (*C.float)(&out[0]), C.int(n)) {
		return nil, fmt.Errorf("libllama does not compute %s", filepath.Base(path))
	}
	return out, nil
}
