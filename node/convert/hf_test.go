package convert_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/convert/sentencepiece"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
)

func TestMain(m *testing.M) {
	convert.ChildMain(func(md interface{ Value(key string) any }) error { return engine.Check(md) })
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the libraries log there
	os.Exit(m.Run())
}

// Sizes of the random models.
const (
	width, heads, kvHeads, headDim, inner, blocks = 256, 4, 2, 64, 512, 3
)

const tinyTokenizer = "../../contrib/tinymodel/tokenizer.json"

// hf is a Hugging Face directory under construction.
type hf struct {
	config  map[string]any
	names   []string // in the order in which they are drawn
	tensors map[string]weight
	files   map[string][]byte
	rng     *rand.Rand
}

// weight is a tensor of a directory: its type and numbers, in the order of
// PyTorch's shape.
type weight struct {
	dtype string
	shape []int
	data  []float32
}

func (h *hf) draw(name string, around float64, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]float32, n)
	scale := 1.5 / math.Sqrt(float64(shape[len(shape)-1]))
	for i := range data {
		if around != 0 {
			data[i] = float32(around + 0.2*h.rng.NormFloat64())
		} else {
			data[i] = float32(scale * h.rng.NormFloat64())
		}
	}
	h.names = append(h.names, name)
	h.tensors[name] = weight{"BF16", shape, data}
}

// random makes a model of a class with random weights and tinytales' tokenizer.
func random(t testing.TB, class string, vocab int) *hf {
	t.Helper()
	switch class {
	case "Gemma3ForConditionalGeneration":
		return seeing(random(t, "Gemma3ForCausalLM", vocab), class)
	case "Mistral3ForConditionalGeneration":
		return seeing(random(t, "Ministral3ForCausalLM", vocab), class)
	case "GptOssForCausalLM":
		return randomGptOss(t, vocab)
	}
	h := &hf{tensors: map[string]weight{}, files: map[string][]byte{}, rng: rand.New(rand.NewPCG(7, uint64(len(class))))}
	h.config = map[string]any{
		"architectures": []string{class}, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": blocks,
		"num_attention_heads": heads, "num_key_value_heads": kvHeads, "head_dim": headDim, "max_position_embeddings": 512,
		"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": vocab, "tie_word_embeddings": true, "eos_token_id": 2,
	}
	raw, err := os.ReadFile(tinyTokenizer)
	if err != nil {
		t.Fatal(err)
	}
	h.files["tokenizer.json"] = raw
	gemma := strings.HasPrefix(class, "Gemma")
	norm := 1.0
	if gemma { // whose norms are one more than they say
		norm = 0.001
	}
	h.draw("model.embed_tokens.weight", 0, vocab, width)
	h.draw("model.norm.weight", norm, width)
	for i := range blocks {
		at := func(s string) string { return fmt.Sprintf("model.layers.%d.%s.weight", i, s) }
		for _, s := range []string{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"} {
			pre := strings.HasPrefix(s, "pre_") || strings.HasPrefix(s, "post_feed")
			if pre && !gemma && class != "Olmo3ForCausalLM" || class == "Olmo3ForCausalLM" && (s == "input_layernorm" || strings.HasPrefix(s, "pre_")) {
				continue
			}
			h.draw(at(s), norm, width)
		}
		h.draw(at("self_attn.q_proj"), 0, heads*headDim, width)
		h.draw(at("self_attn.k_proj"), 0, kvHeads*headDim, width)
		h.draw(at("self_attn.v_proj"), 0, kvHeads*headDim, width)
		h.draw(at("self_attn.o_proj"), 0, width, heads*headDim)
		switch class {
		case "Qwen2ForCausalLM":
			for s, n := range map[string]int{"q": heads, "k": kvHeads, "v": kvHeads} {
				h.draw(fmt.Sprintf("model.layers.%d.self_attn.%s_proj.bias", i, s), 0.1, n*headDim)
			}
		case "Qwen3ForCausalLM", "Gemma3ForCausalLM":
			h.draw(at("self_attn.q_norm"), norm, headDim)
			h.draw(at("self_attn.k_norm"), norm, headDim)
		case "Olmo3ForCausalLM":
			h.draw(at("self_attn.q_norm"), norm, heads*headDim)
			h.draw(at("self_attn.k_norm"), norm, kvHeads*headDim)
		}
		h.draw(at("mlp.gate_proj"), 0, inner, width)
		h.draw(at("mlp.up_proj"), 0, inner, width)
		h.draw(at("mlp.down_proj"), 0, width, inner)
	}
	switch class {
	case "Gemma2ForCausalLM":
		h.config["sliding_window"], h.config["attn_logit_softcapping"], h.config["final_logit_softcapping"] = 64, 50.0, 30.0
	case "Gemma3ForCausalLM":
		h.config["sliding_window"], h.config["sliding_window_pattern"], h.config["rope_local_base_freq"] = 64, 6, 10000.0
	case "Olmo3ForCausalLM":
		h.config["sliding_window"], h.config["tie_word_embeddings"] = 64, false
		h.config["layer_types"] = []string{"sliding_attention", "sliding_attention", "full_attention"}
		h.draw("lm_head.weight", 0, vocab, width)
	case "Ministral3ForCausalLM":
		delete(h.config, "rope_theta")
		h.config["rope_parameters"] = map[string]any{
			"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 128,
			"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
		}
	}
	if gemma {
		delete(h.files, "tokenizer.json")
		h.files["tokenizer.model"] = pieces(t, vocab)
	}
	return h
}

// seeing turns a language model into the language half of a vision model.
func seeing(h *hf, class string) *hf {
	inner := maps.Clone(h.config)
	delete(inner, "architectures")
	h.config = map[string]any{"architectures": []string{class}, "text_config": inner, "vocab_size": h.config["vocab_size"], "vision_config": map[string]any{
		"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "image_size": 28, "patch_size": 14,
	}}
	if class == "Gemma3ForConditionalGeneration" { // which tells its heads by its number of blocks, or here
		h.config["num_attention_heads"], h.config["num_key_value_heads"] = heads, kvHeads
	}
	for i, name := range h.names {
		w := h.tensors[name]
		delete(h.tensors, name)
		h.names[i] = "language_model." + name
		h.tensors[h.names[i]] = w
	}
	h.draw("multi_modal_projector.mm_soft_emb_norm.weight", 1, 32)
	h.draw("vision_tower.vision_model.encoder.layers.0.layer_norm1.weight", 1, 32)
	return h
}

// randomGptOss makes a model with experts, whose weights are blocks of 4-bit
// numbers that share a scale.
func randomGptOss(t testing.TB, vocab int) *hf {
	const experts = 4
	h := random(t, "Qwen2ForCausalLM", vocab)
	h.config["architectures"] = []string{"GptOssForCausalLM"}
	h.config["tie_word_embeddings"], h.config["num_local_experts"], h.config["experts_per_token"] = false, experts, 2
	h.config["sliding_window"], h.config["initial_context_length"] = 64, 128
	h.config["rope_scaling"] = map[string]any{"rope_type": "yarn", "factor": 4.0}
	h.config["quantization_config"] = map[string]any{"quant_method": "mxfp4"}
	h.draw("lm_head.weight", 0, vocab, width)
	for i := range blocks {
		at := fmt.Sprintf("model.layers.%d.", i)
		h.names = slices.DeleteFunc(h.names, func(n string) bool { return strings.HasPrefix(n, at+"mlp.") })
		h.draw(at+"self_attn.sinks", 0.1, heads)
		h.draw(at+"self_attn.o_proj.bias", 0.1, width)
		h.draw(at+"mlp.router.weight", 0, experts, width)
		h.draw(at+"mlp.router.bias", 0.1, experts)
		for name, shape := range map[string][2]int{"gate_up": {2 * inner, width}, "down": {width, inner}} {
			h.draw(at+"mlp.experts."+name+"_proj_bias", 0.1, experts, shape[0])
			for suffix, s := range map[string][]int{"_blocks": {experts, shape[0], shape[1] / 32, 16}, "_scales": {experts, shape[0], shape[1] / 32}} {
				n := 1
				for _, d := range s {
					n *= d
				}
				data := make([]float32, n)
				for j := range data {
					data[j] = float32(h.rng.IntN(256))
					if suffix == "_scales" {
						data[j] = 124 // an eighth
					}
				}
				h.names = append(h.names, at+"mlp.experts."+name+"_proj"+suffix)
				h.tensors[h.names[len(h.names)-1]] = weight{"U8", s, data}
			}
		}
	}
	return h
}

// pieces is a small SentencePiece model like Gemma's.
func pieces(t testing.TB, vocab int) []byte {
	t.Helper()
	m := &sentencepiece.ModelProto{
		TrainerSpec:    &sentencepiece.TrainerSpec{ModelType: sentencepiece.TrainerSpec_BPE.Enum(), BosId: proto.Int32(2), EosId: proto.Int32(1)},
		NormalizerSpec: &sentencepiece.NormalizerSpec{AddDummyPrefix: proto.Bool(false)},
	}
	add := func(s string, kind sentencepiece.ModelProto_SentencePiece_Type) {
		m.Pieces = append(m.Pieces, &sentencepiece.ModelProto_SentencePiece{Piece: proto.String(s), Score: proto.Float32(-float32(len(m.Pieces))), Type: kind.Enum()})
	}
	for _, s := range []string{"<pad>", "<eos>", "<bos>"} {
		add(s, sentencepiece.ModelProto_SentencePiece_CONTROL)
	}
	add("<unk>", sentencepiece.ModelProto_SentencePiece_UNKNOWN)
	for i := range 256 {
		add(fmt.Sprintf("<0x%02X>", i), sentencepiece.ModelProto_SentencePiece_BYTE)
	}
	for _, s := range []string{"th", "the", "▁the", "▁o", "on"} {
		add(s, sentencepiece.ModelProto_SentencePiece_NORMAL)
	}
	for r := 'a'; r <= 'z'; r++ {
		add(string(r), sentencepiece.ModelProto_SentencePiece_NORMAL)
	}
	add("▁", sentencepiece.ModelProto_SentencePiece_NORMAL)
	for i := len(m.Pieces); i < vocab; i++ {
		add(fmt.Sprintf("x%dx", i), sentencepiece.ModelProto_SentencePiece_NORMAL)
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// write writes the directory, with its weights in the given number of files.
func (h *hf) write(t testing.TB, shards int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "Tiny-Model")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, raw []byte) {
		err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	conf, err := json.Marshal(h.config)
	if err != nil {
		t.Fatal(err)
	}
	put("config.json", conf)
	for name, raw := range h.files {
		put(name, raw)
	}
	index := map[string]string{}
	for i := range shards {
		name := "model.safetensors"
		if shards > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards)
		}
		part := map[string]weight{}
		for n, t := range h.names {
			if n%shards == i {
				part[t] = h.tensors[t]
				index[t] = name
			}
		}
		put(name, safetensors(t, part))
	}
	if shards > 1 {
		raw, err := json.Marshal(map[string]any{"metadata": map[string]any{}, "weight_map": index})
		if err != nil {
			t.Fatal(err)
		}
		put("model.safetensors.index.json", raw)
	}
	return dir
}

// safetensors writes a file in that format.
func safetensors(t testing.TB, ts map[string]weight) []byte {
	t.Helper()
	head := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data []byte
	for _, name := range slices.Sorted(maps.Keys(ts)) {
		w := ts[name]
		from := len(data)
		for _, x := range w.data {
			bits := math.Float32bits(x)
			switch w.dtype {
			case "BF16":
				data = binary.LittleEndian.AppendUint16(data, uint16(bits>>16))
			case "U8":
				data = append(data, byte(x))
			case "F32":
				data = binary.LittleEndian.AppendUint32(data, bits)
			default:
				t.Fatal(w.dtype)
			}
		}
		head[name] = map[string]any{"dtype": w.dtype, "shape": w.shape, "data_offsets": []int{from, len(data)}}
	}
	raw, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(raw)))
	return append(append(out, raw...), data...)
}

// left returns what is in a directory.
func left(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
