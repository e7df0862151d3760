package convert_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/protocol/gguf"
)

const bertWidth, bertInner = 64, 96

const bertWords = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat ##s sleep on so ##fa . a b ##c"

// randomBert is a directory of sentence-transformers with random weights.
func randomBert(t testing.TB) *hf {
	t.Helper()
	h := &hf{tensors: map[string]weight{}, files: map[string][]byte{}, rng: rand.New(rand.NewPCG(7, 3))}
	words := strings.Fields(bertWords)
	h.config = map[string]any{
		"architectures": []string{"BertModel"}, "model_type": "bert", "hidden_size": bertWidth, "intermediate_size": bertInner, "num_hidden_layers": blocks,
		"num_attention_heads": heads, "max_position_embeddings": 64, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "vocab_size": len(words), "type_vocab_size": 2,
	}
	vocab, added := map[string]int{}, []map[string]any{}
	for i, w := range words {
		vocab[w] = i
		if i < 5 {
			added = append(added, map[string]any{"id": i, "content": w, "special": true})
		}
	}
	h.file(t, "tokenizer.json", map[string]any{
		"added_tokens":   added,
		"normalizer":     map[string]any{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": nil, "lowercase": true},
		"pre_tokenizer":  map[string]any{"type": "BertPreTokenizer"},
		"post_processor": map[string]any{"type": "BertProcessing", "sep": []any{"[SEP]", 3}, "cls": []any{"[CLS]", 2}},
		"model":          map[string]any{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
	})
	h.file(t, "modules.json", []map[string]any{
		{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
	})
	h.file(t, "1_Pooling/config.json", map[string]any{"pooling_mode_mean_tokens": true})
	h.draw("embeddings.word_embeddings.weight", 0, len(words), bertWidth)
	h.draw("embeddings.position_embeddings.weight", 0, 64, bertWidth)
	h.draw("embeddings.token_type_embeddings.weight", 0, 2, bertWidth)
	norm := func(name string) {
		h.draw(name+".weight", 1, bertWidth)
		h.draw(name+".bias", 0, bertWidth)
	}
	linear := func(name string, in, out int) {
		h.draw(name+".weight", 0, out, in)
		h.draw(name+".bias", 0, out)
	}
	norm("embeddings.LayerNorm")
	for i := range blocks {
		block := "encoder.layer." + string(rune('0'+i)) + "."
		for _, name := range []string{"query", "key", "value"} {
			linear(block+"attention.self."+name, bertWidth, bertWidth)
		}
		linear(block+"attention.output.dense", bertWidth, bertWidth)
		norm(block + "attention.output.LayerNorm")
		linear(block+"intermediate.dense", bertWidth, bertInner)
		linear(block+"output.dense", bertInner, bertWidth)
		norm(block + "output.LayerNorm")
	}
	linear("pooler.dense", bertWidth, bertWidth) // the head of another task
	return h
}

// file adds a file with JSON.
func (h *hf) file(t testing.TB, name string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	h.files[name] = raw
}

// convertBert converts a directory of an encoder, which the built-in engine does not
// compute, and returns the header.
func convertBert(t testing.TB, h *hf) (*gguf.Header, error) {
	t.Helper()
	dir := h.write(t, 1)
	out, err := os.Create(filepath.Join(t.TempDir(), "out.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := convert.Directory(t.Context(), dir, out, convert.Options{
		Temp: t.TempDir(), Check: func(md interface{ Value(key string) any }) error { return engine.Plausible(md) },
	}); err != nil {
		return nil, err
	}
	st, err := out.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return gguf.Read(io.NewSectionReader(out, 0, st.Size()), st.Size())
}

func TestBert(t *testing.T) {
	head, err := convertBert(t, randomBert(t))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"general.architecture": "bert", "bert.pooling_type": uint32(1), "bert.attention.causal": false, "bert.context_length": uint32(64), "bert.block_count": uint32(blocks),
		"tokenizer.ggml.model": "bert", "tokenizer.ggml.cls_token_id": uint32(2), "tokenizer.ggml.seperator_token_id": uint32(3),
		"tokenizer.ggml.unknown_token_id": uint32(1), "tokenizer.ggml.padding_token_id": uint32(0), "tokenizer.ggml.mask_token_id": uint32(4),
		"tokenizer.ggml.token_type_count": uint32(2),
	} {
		if got := head.Value(key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	tokens, _ := head.Value("tokenizer.ggml.tokens").([]string)
	if got, want := strings.Join(tokens, " "), "[PAD] [UNK] [CLS] [SEP] [MASK] ▁the ▁cat s ▁sleep ▁on ▁so fa ▁. ▁a ▁b c"; got != want {
		t.Errorf("the tokens are %s, want %s", got, want)
	}
	names := map[string]bool{}
	for _, x := range head.Tensors {
		names[x.Name] = true
	}
	if len(names) != 5+16*blocks || !names["blk.2.layer_output_norm.bias"] || !names["token_embd_norm.weight"] {
		t.Errorf("%d tensors: %v", len(names), names)
	}
}

func TestBertPools(t *testing.T) {
	modules := func(kinds ...string) (list []map[string]string) {
		for _, k := range kinds {
			list = append(list, map[string]string{"type": "sentence_transformers.models." + k, "path": "1_Pooling"})
		}
		return list
	}
	for name, c := range map[string]struct {
		modules, pooling any
		want             uint32
		says             string
	}{
		"first":        {modules("Transformer", "Pooling", "Normalize"), map[string]any{"pooling_mode_cls_token": true}, 2, ""},
		"no pooling":   {modules("Transformer"), nil, 1, ""},
		"maximum":      {modules("Pooling"), map[string]any{"pooling_mode_max_tokens": true}, 0, "max_tokens"},
		"two":          {modules("Pooling"), map[string]any{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}, 0, "max_tokens, mean_tokens"},
		"dense":        {modules("Transformer", "Pooling", "Dense"), map[string]any{"pooling_mode_mean_tokens": true}, 0, "Dense"},
		"outside":      {[]map[string]string{{"type": "a.Pooling", "path": "../other"}}, nil, 0, "names the folder"},
		"not a list":   {map[string]any{}, nil, 0, "modules.json"},
		"not a number": {modules("Pooling"), []int{1}, 0, "1_Pooling/config.json"},
	} {
		h := randomBert(t)
		h.file(t, "modules.json", c.modules)
		if c.pooling != nil {
			h.file(t, "1_Pooling/config.json", c.pooling)
		}
		head, err := convertBert(t, h)
		switch {
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want a word on %s", name, err, c.says)
		case c.says == "" && (err != nil || head.Value("bert.pooling_type") != c.want):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBertRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *hf)
		says   string
	}{
		"relative positions":  {func(h *hf) { h.config["position_embedding_type"] = "relative_key" }, "relative_key"},
		"another activation":  {func(h *hf) { h.config["hidden_act"] = "relu" }, "relu"},
		"a tensor is missing": {func(h *hf) { h.names = h.names[1:] }, "token_embd.weight"},
		"another normalizer": {func(h *hf) {
			h.files["tokenizer.json"] = []byte(strings.Replace(string(h.files["tokenizer.json"]), "BertNormalizer", "Lowercase", 1))
		}, "normalize"},
		"another prefix": {func(h *hf) {
			h.files["tokenizer.json"] = []byte(strings.Replace(string(h.files["tokenizer.json"]), `"continuing_subword_prefix":"##"`, `"continuing_subword_prefix":"@@"`, 1))
		}, "@@"},
	} {
		h := randomBert(t)
		c.change(h)
		if _, err := convertBert(t, h); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want a word on %s", name, err, c.says)
		}
	}
}

// TestMiniLM holds the embeddings of all-MiniLM-L6-v2, converted from its directory, to
// those that ONNX Runtime computes of the model's own export (testdata/scripts/minilm.py).
// SHOAL_MINILM names the directory.
func TestMiniLM(t *testing.T) {
	dir, lib := os.Getenv("SHOAL_MINILM"), os.Getenv(llama.Variable)
	if dir == "" || lib == "" {
		t.Skip("SHOAL_MINILM names no directory of all-MiniLM-L6-v2, or SHOAL_LIBLLAMA no library")
	}
	var cases []struct {
		Text      string
		Tokens    int
		Embedding string
	}
	raw, err := os.ReadFile("testdata/minilm.json")
	if err == nil {
		err = json.Unmarshal(raw, &cases)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, _ := start(t, node.Config{Engines: serve.Engines{Library: func() (serve.Library, error) { return serve.Library{Dir: lib, ID: lib}, nil }}})
	if _, err := n.Client().Add(t.Context(), api.AddRequest{Source: dir, Name: "minilm"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Client().Serve(t.Context(), api.ServeRequest{Model: "minilm", Span: "all"}, nil); err != nil {
		t.Fatal(err)
	}
	var texts []string
	tokens := 0
	for _, c := range cases {
		texts, tokens = append(texts, c.Text), tokens+c.Tokens
	}
	out, err := n.Client().Embeddings(t.Context(), "minilm", texts, 0)
	if err != nil {
		t.Fatal(err)
	}
	if out.Tokens != tokens {
		t.Errorf("%d tokens, want %d", out.Tokens, tokens)
	}
	for i, c := range cases {
		want, err := base64.StdEncoding.DecodeString(c.Embedding)
		if err != nil || len(want) != 4*len(out.Embeddings[i]) {
			t.Fatal(len(out.Embeddings[i]), len(want), err)
		}
		var cos float64
		for k, x := range out.Embeddings[i] {
			cos += float64(x) * float64(math.Float32frombits(binary.LittleEndian.Uint32(want[4*k:])))
		}
		if cos < 0.9999 {
			t.Errorf("text %d has cosine %v", i, cos)
		}
	}
}
