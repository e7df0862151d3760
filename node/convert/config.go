package convert

import (
	"encoding/json"
	"errors"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// family is an architecture that can be converted.
type family struct {
	arch   string   // its name in GGUF
	blocks []string // tensors in every block
}

var (
	attention = []string{"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"}
	mlp       = []string{"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}
	norms     = []string{"attn_norm.weight", "ffn_norm.weight"}
	qkNorms   = []string{"attn_q_norm.weight", "attn_k_norm.weight"}
	postNorms = []string{"post_attention_norm.weight", "post_ffw_norm.weight"}
	biases    = []string{"attn_q.bias", "attn_k.bias", "attn_v.bias"}
)

// families are keyed by their names in config.json. Two are missing: DeepSeek
// V3, whose weights are published in eight bits, which the library does not
// read; and Qwen3 with experts, which the library does not assemble.
var families = map[string]family{
	"LlamaForCausalLM":                 {arch: "llama", blocks: slices.Concat(norms, attention, mlp)},
	"Qwen2ForCausalLM":                 {arch: "qwen2", blocks: slices.Concat(norms, attention, biases, mlp)},
	"Qwen3ForCausalLM":                 {arch: "qwen3", blocks: slices.Concat(norms, attention, qkNorms, mlp)},
	"Gemma2ForCausalLM":                {arch: "gemma2", blocks: slices.Concat(norms, attention, postNorms, mlp)},
	"Gemma3ForCausalLM":                {arch: "gemma3", blocks: slices.Concat(norms, attention, qkNorms, postNorms, mlp)},
	"Gemma3ForConditionalGeneration":   {arch: "gemma3", blocks: slices.Concat(norms, attention, qkNorms, postNorms, mlp)},
	"Mistral3ForConditionalGeneration": {arch: "mistral3", blocks: slices.Concat(norms, attention, mlp)},
	"Ministral3ForCausalLM":            {arch: "mistral3", blocks: slices.Concat(norms, attention, mlp)},
	"Olmo3ForCausalLM":                 {arch: "olmo3", blocks: slices.Concat(attention, qkNorms, postNorms, mlp)},
	"BertModel":                        {arch: bert, blocks: bertBlock},
	"GptOssForCausalLM": {arch: "gptoss", blocks: slices.Concat(norms, biases, []string{
		"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_out.weight", "attn_sinks", "ffn_gate_inp.weight", "ffn_gate_inp.bias",
		"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight", "ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias",
	})},
}

// config is the part of config.json that this package reads; the library reads
// the rest.
type config struct {
	class string
	family
	name   string // of the model, if config.json has it
	tied   bool   // the output head shares the embedding's weights, or there is none
	pool   uint32 // how the model pools, in GGUF's numbers; 0: it generates text
	prefix string // of the library's metadata keys, if they differ from GGUF's
	files  map[string][]byte
}

// ropes lists the kinds of rope scaling that the library supports.
var ropes = map[string][]string{
	"llama": {"linear", "llama3"}, "gemma3": {"linear", "yarn"}, "olmo3": {"yarn"}, "gptoss": {"yarn"}, "mistral3": {"yarn"},
}

// readConfig reads config.json, and prepares the version that the library reads
// in its place.
func readConfig(dir string) (*config, error) {
	raw, err := readSmall(dir, "config.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, errf("%s has no config.json; name a GGUF file, or a Hugging Face directory of a model", dir)
	}
	if err != nil {
		return nil, err
	}
	var c map[string]any
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, errf("config.json: %w", err)
	}
	classes, _ := c["architectures"].([]any)
	if len(classes) == 0 {
		return nil, errf("config.json names no architecture (architectures)")
	}
	out := &config{files: map[string][]byte{}}
	out.class, _ = classes[0].(string)
	var known bool
	if out.family, known = families[out.class]; !known {
		return nil, errf("architecture %.80q; those that can be converted are %s. Others may be available as GGUF files", out.class, strings.Join(Supported(), ", "))
	}
	out.prefix = out.arch
	if _, quantized := c["quantization_config"]; quantized && out.arch != "gptoss" {
		return nil, errf("its weights are quantized already (quantization_config); take the model's unquantized files")
	}
	inner, _ := c["text_config"].(map[string]any)
	for _, key := range []string{"hidden_size", "num_hidden_layers", "num_attention_heads"} {
		n, _ := c[key].(float64)
		if v, ok := inner[key].(float64); ok && n == 0 {
			n = v
		}
		if n == 0 && key == "num_attention_heads" && out.class == "Gemma3ForConditionalGeneration" {
			continue // the library knows Gemma's by the number of blocks
		}
		if n < 1 || n > 1<<20 || n != float64(int(n)) {
			return nil, errf("config.json has the number %s missing or impossible", key)
		}
	}
	if out.arch == bert {
		if err := out.readBert(dir, c); err != nil {
			return nil, err
		}
	}
	tied := strings.HasPrefix(out.arch, "gemma")
	for _, m := range []map[string]any{inner, c} {
		if v, ok := m["tie_word_embeddings"].(bool); ok {
			tied = v
		}
	}
	out.tied = tied || out.arch == bert
	// A directory saved from elsewhere has a path here, which must not be
	// published.
	if name, _ := c["_name_or_path"].(string); repoForm.MatchString(name) {
		out.name = path.Base(name)
	}
	if out.arch != "mistral3" { // the library's converter reads the newer form
		modernRope(c)
	}
	if err := checkRope(out.arch, c); err != nil {
		return nil, err
	}
	if out.arch == "qwen3" { // the library supports it only as the language half of Qwen3-VL
		out.prefix = "qwen3vl"
		c = map[string]any{"architectures": []string{"Qwen3VLForConditionalGeneration"}, "text_config": c, "vocab_size": c["vocab_size"]}
		out.files["preprocessor_config.json"] = []byte("{}")
	}
	if out.files["config.json"], err = json.Marshal(c); err != nil {
		return nil, errf("config.json: %w", err)
	}
	return out, nil
}

var repoForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]{0,100}$`)

// modernRope rewrites rope parameters in the form of older configs, which the
// library reads.
func modernRope(c map[string]any) {
	p, ok := c["rope_parameters"].(map[string]any)
	if !ok {
		return
	}
	if _, ok := c["rope_theta"]; !ok && p["rope_theta"] != nil {
		c["rope_theta"] = p["rope_theta"]
	}
	if kind, _ := p["rope_type"].(string); c["rope_scaling"] == nil && kind != "" && kind != "default" {
		c["rope_scaling"] = p
	}
}

// checkRope refuses rope scaling that the library would silently ignore.
func checkRope(arch string, c map[string]any) error {
	s, ok := c["rope_scaling"].(map[string]any)
	if !ok {
		return nil
	}
	kind, _ := s["rope_type"].(string)
	if old, _ := s["type"].(string); old != "" {
		kind = old
	}
	if kind == "" || kind == "default" || slices.Contains(ropes[arch], kind) {
		if kind == "linear" && s["type"] == nil {
			s["type"] = kind // where the library looks for it
		}
		return nil
	}
	return errf("%s with rope scaling %.40q, which the converter does not support", arch, kind)
}

// Supported returns the architectures that can be converted, by their names in
// config.json.
func Supported() []string {
	var out []string
	for name := range families {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

var licenceLine = regexp.MustCompile(`(?m)^license: *["']?([A-Za-z0-9][A-Za-z0-9._-]{0,60})["']? *\r?$`)

// licence returns the licence named in the model card, or "".
func licence(dir string) string {
	raw, err := readSmall(dir, "README.md")
	if err != nil || !strings.HasPrefix(string(raw), "---") {
		return ""
	}
	head, _, _ := strings.Cut(string(raw[3:]), "\n---")
	if m := licenceLine.FindStringSubmatch(head); m != nil {
		return m[1]
	}
	return ""
}
