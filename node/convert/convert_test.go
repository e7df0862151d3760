package convert_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// classes are the architectures that the engine runs and random models use.
var classes = []string{
	"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Ministral3ForCausalLM", "Olmo3ForCausalLM",
	"Gemma3ForConditionalGeneration", "Mistral3ForConditionalGeneration", "GptOssForCausalLM",
}

const vocab = 2048 // tinytales'

// run converts a directory, and returns the file and its header.
func run(t testing.TB, ctx context.Context, dir, quantize string) (string, *gguf.Header, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	temp := t.TempDir()
	err = convert.Directory(ctx, dir, out, convert.Options{
		Quantize: quantize, Temp: temp, Check: func(md interface{ Value(key string) any }) error { return engine.Check(md) },
	})
	if l := left(t, temp); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
	if err != nil {
		return "", nil, err
	}
	st, err := out.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(io.NewSectionReader(out, 0, st.Size()), st.Size())
	if err == nil {
		err = h.Check(st.Size())
	}
	return out.Name(), h, err
}

func fileSum(t testing.TB, path string) (sum [32]byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(raw)
}

// The types of Q4_K_M are a mixture; one file or several result in the same model.
func TestTypes(t *testing.T) {
	h := random(t, "LlamaForCausalLM", vocab)
	one, several := h.write(t, 1), h.write(t, 3)
	for quantize, want := range map[string]map[string]string{
		"":       {"token_embd.weight": "BF16", "blk.0.attn_q.weight": "BF16", "blk.1.ffn_norm.weight": "F32"},
		"f16":    {"token_embd.weight": "F16", "blk.0.attn_q.weight": "F16", "output_norm.weight": "F32"},
		"q8_0":   {"token_embd.weight": "Q8_0", "blk.0.attn_v.weight": "Q8_0", "blk.2.attn_norm.weight": "F32"},
		"q4_K_M": {"token_embd.weight": "Q6_K", "blk.0.attn_q.weight": "Q4_K", "blk.2.attn_v.weight": "Q6_K", "blk.2.ffn_down.weight": "Q6_K", "blk.0.ffn_down.weight": "Q4_K", "blk.1.ffn_norm.weight": "F32"},
	} {
		path, head, err := run(t, t.Context(), one, quantize)
		if err != nil {
			t.Fatal(err)
		}
		for _, ten := range head.Tensors {
			if w := want[ten.Name]; w != "" && ten.Type.String() != w {
				t.Errorf("%s: %s is %s, want %s", quantize, ten.Name, ten.Type, w)
			}
		}
		other, _, err := run(t, t.Context(), several, quantize)
		if err != nil {
			t.Fatal(err)
		}
		if fileSum(t, path) != fileSum(t, other) {
			t.Errorf("%s: several files give another model than one", quantize)
		}
		if again, _, err := run(t, t.Context(), one, quantize); err != nil || fileSum(t, path) != fileSum(t, again) {
			t.Errorf("%s: converted again it is another model: %v", quantize, err)
		}
	}
}

// Rows that are not a multiple of any block keep f16.
func TestOddRows(t *testing.T) {
	h := random(t, "LlamaForCausalLM", vocab)
	for i, name := range h.names {
		if w := h.tensors[name]; strings.Contains(name, "down_proj") { // [width, inner]
			_ = i
			h.tensors[name] = weight{w.dtype, []int{width, 500}, w.data[:width*500]}
		} else if strings.Contains(name, "gate_proj") || strings.Contains(name, "up_proj") {
			h.tensors[name] = weight{w.dtype, []int{500, width}, w.data[:500*width]}
		}
	}
	h.config["intermediate_size"] = 500
	_, head, err := run(t, t.Context(), h.write(t, 1), "q4_K_M")
	if err != nil {
		t.Fatal(err)
	}
	for _, ten := range head.Tensors {
		if want := "F16"; strings.Contains(ten.Name, "ffn_down") && ten.Type.String() != want {
			t.Errorf("%s is %s, want %s", ten.Name, ten.Type, want)
		}
	}
}

// Whatever is wrong with a directory is reported, before a load would fail or,
// worse, succeed.
func TestRefuses(t *testing.T) {
	drop := func(name string) func(h *hf, dir string) {
		return func(h *hf, _ string) {
			for i, n := range h.names {
				if n == name {
					h.names = append(h.names[:i], h.names[i+1:]...)
					break
				}
			}
		}
	}
	file := func(name string, edit func(raw []byte) []byte) func(h *hf, dir string) {
		return func(_ *hf, dir string) {
			if dir == "" {
				return
			}
			path := filepath.Join(dir, name)
			raw, err := os.ReadFile(path)
			if edit == nil {
				err = errors.Join(err, os.Remove(path))
			} else {
				err = errors.Join(err, os.WriteFile(path, edit(raw), 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	set := func(key string, v any) func(h *hf, dir string) {
		return func(h *hf, dir string) { h.config[key] = v }
	}
	shape := func(name string, s ...int) func(h *hf, dir string) {
		return func(h *hf, dir string) {
			n := 1
			for _, d := range s {
				n *= d
			}
			h.tensors[name] = weight{"BF16", s, make([]float32, n)}
		}
	}
	cut := func(n int) func([]byte) []byte { return func(raw []byte) []byte { return raw[:max(0, len(raw)-n)] } }
	text := func(s string) func([]byte) []byte { return func([]byte) []byte { return []byte(s) } }
	change := func(from, to string) func([]byte) []byte {
		return func(raw []byte) []byte { return []byte(strings.Replace(string(raw), from, to, 1)) }
	}
	for name, c := range map[string]struct {
		shards   int
		quantize string
		edit     func(h *hf, dir string) // with dir "": before the directory is written, then after
		fails    string
	}{
		"a tensor is missing":              {1, "", drop("model.layers.1.mlp.up_proj.weight"), "blk.1.ffn_up.weight is missing"},
		"the head is missing":              {1, "", set("tie_word_embeddings", false), "output.weight is missing"},
		"a file is missing":                {3, "", file("model-00002-of-00003.safetensors", nil), "model-00002-of-00003.safetensors: it cannot be read"},
		"the index is missing":             {3, "", file("model.safetensors.index.json", nil), "no model.safetensors.index.json"},
		"the index names more":             {3, "", file("model.safetensors.index.json", change(`"weight_map":{`, `"weight_map":{"other":"model-00001-of-00003.safetensors",`)), `"other" is missing`},
		"the index leads out":              {3, "", file("model.safetensors.index.json", change(`"model-00001`, `"../model-00001`)), "names the file"},
		"an index of nothing":              {3, "", file("model.safetensors.index.json", text("{}")), "lists no tensors"},
		"truncated":                        {1, "", file("model.safetensors", cut(1000)), "truncated"},
		"truncated in its header":          {1, "", file("model.safetensors", func(raw []byte) []byte { return raw[:100] }), "incomplete"},
		"too short":                        {1, "", file("model.safetensors", text("abc")), "too short"},
		"an absurd header":                 {1, "", file("model.safetensors", text("\xff\xff\xff\xff\xff\xff\xff\x7f{}")), "claims a header of"},
		"a header that is not JSON":        {1, "", file("model.safetensors", text("\x02\x00\x00\x00\x00\x00\x00\x00]]")), "not JSON"},
		"no weights":                       {1, "", file("model.safetensors", nil), "no *.safetensors"},
		"no config":                        {1, "", file("config.json", nil), "no config.json"},
		"a config that is not JSON":        {1, "", file("config.json", text("]")), "config.json"},
		"an architecture unknown":          {1, "", set("architectures", []string{"Mamba2ForCausalLM"}), `architecture "Mamba2ForCausalLM"`},
		"no architecture":                  {1, "", set("architectures", []string{}), "names no architecture"},
		"quantized already":                {1, "", set("quantization_config", map[string]any{}), "quantized already"},
		"rope scaling unknown":             {1, "", set("rope_scaling", map[string]any{"rope_type": "longrope"}), `rope scaling "longrope"`},
		"no tokenizer":                     {1, "", file("tokenizer.json", nil), "neither tokenizer.json nor tokenizer.model"},
		"a tokenizer that is not JSON":     {1, "", file("tokenizer.json", text("{")), "tokenizer.json"},
		"a tokenizer of another kind":      {1, "", file("tokenizer.json", change(`"BPE"`, `"Unigram"`)), "tokenizer.model"},
		"words split in another way":       {1, "", file("tokenizer.json", change(`"use_regex": true`, `"use_regex": false`)), "splits text in a way"},
		"a matrix of another shape":        {1, "", shape("model.layers.0.mlp.up_proj.weight", inner, width/2), "has shape"},
		"heads that do not fit":            {1, "", set("num_attention_heads", 8), "has shape"},
		"fewer rows than tokens":           {1, "", shape("model.embed_tokens.weight", 1000, width), "the embedding has shape"},
		"no heads":                         {1, "", set("num_attention_heads", 0), "num_attention_heads missing or impossible"},
		"more blocks than there are":       {1, "", set("num_hidden_layers", blocks+1), "blk.3.attn_norm.weight is missing"},
		"a quantization unknown":           {1, "q3_K", func(*hf, string) {}, "q8_0, q4_K_M and f16 are supported"},
		"numbers that are not finite":      {1, "q8_0", func(h *hf, _ string) { h.tensors["model.layers.0.mlp.up_proj.weight"].data[5] = float32(inf()) }, "not finite"},
		"numbers too large for f16":        {1, "f16", func(h *hf, _ string) { h.tensors["model.layers.0.mlp.up_proj.weight"].data[5] = 1e9 }, "too large for f16"},
		"numbers of another type":          {1, "", file("model.safetensors", change(`"BF16"`, `"I16" `)), `numbers of type "I16"`},
		"fewer bytes than the shape takes": {1, "", file("model.safetensors", change(`"shape":[256]`, `"shape":[255]`)), "its offsets are"},
	} {
		t.Run(name, func(t *testing.T) {
			h := random(t, "LlamaForCausalLM", vocab)
			c.edit(h, "")
			dir := h.write(t, c.shards)
			c.edit(h, dir)
			_, _, err := run(t, t.Context(), dir, c.quantize)
			if !errors.Is(err, convert.ErrDirectory) && !errors.Is(err, convert.ErrUnsupported) || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
}

func inf() float64 { x := 0.0; return 1 / x }

// A cancelled conversion ends.
func TestCancel(t *testing.T) {
	dir := random(t, "LlamaForCausalLM", vocab).write(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := run(t, ctx, dir, "q4_K_M"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// The work is done in a child process, which may die of input that the library
// does not expect.
func TestChild(t *testing.T) {
	in := func(ctx context.Context, dir, quantize string) (string, int, error) {
		temp := t.TempDir()
		out := filepath.Join(temp, "out.gguf")
		if err := os.WriteFile(out, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		reports := 0
		err := convert.InChild(ctx, nil, dir, out, convert.Options{Quantize: quantize, Temp: temp, Progress: func(done, total int64) {
			if reports++; done < 0 || done > total {
				t.Errorf("%d of %d", done, total)
			}
		}})
		return out, reports, err
	}
	h := random(t, "LlamaForCausalLM", vocab)
	dir := h.write(t, 2)
	want, _, err := run(t, t.Context(), dir, "q8_0")
	if err != nil {
		t.Fatal(err)
	}
	got, reports, err := in(t.Context(), dir, "q8_0")
	if err != nil || reports == 0 || fileSum(t, got) != fileSum(t, want) {
		t.Errorf("%d reports, another file, or %v", reports, err)
	}
	links := t.TempDir() // as in Hugging Face's cache, where a model's files lie elsewhere
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if err := os.Symlink(f, filepath.Join(links, filepath.Base(f))); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := in(t.Context(), links, "q8_0"); err != nil || fileSum(t, got) != fileSum(t, want) {
		t.Errorf("a directory of links: another file, or %v", err)
	}
	if _, _, err := in(t.Context(), t.TempDir(), ""); !errors.Is(err, convert.ErrDirectory) || !strings.Contains(err.Error(), "no config.json") {
		t.Errorf("an empty directory: %v", err)
	}
	h.tensors["model.layers.0.self_attn.q_proj.weight"] = weight{"BF16", []int{width}, make([]float32, width)}
	if _, _, err := in(t.Context(), h.write(t, 1), ""); !errors.Is(err, convert.ErrDirectory) {
		t.Errorf("a vector for a matrix: %v", err)
	} else {
		t.Log(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := in(ctx, dir, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := convert.InChild(t.Context(), []string{"/nonexistent/shoal"}, dir, got, convert.Options{}); err == nil {
		t.Error("no child, no error")
	}
	other := []string{"/bin/sh", "-c", "exit 3"} // a program that does not call ChildMain
	if err := convert.InChild(t.Context(), other, dir, got, convert.Options{}); !errors.Is(err, engine.ErrNoChild) || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a program that is no converter: %v", err)
	}
}
