package convert

import (
	"encoding/json"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
)

// Encoders (BERT) as sentence-transformers saves them: modules.json says how the hidden
// states become an embedding.

const bert = "bert"

// GGUF's numbers of ways to pool.
const (
	poolMean = uint32(1)
	poolCLS  = uint32(2)
)

// bertBlock are the tensors in each of BERT's blocks.
var bertBlock = func() (out []string) {
	for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down", "layer_output_norm"} {
		out = append(out, name+".weight", name+".bias")
	}
	return out
}()

// unusedByBert are tensors that no embedding depends on: the positions' numbers, and the
// head of another task.
func unusedByBert(name string) bool {
	return strings.HasSuffix(name, "position_ids") || strings.Contains(name, "pooler.dense.")
}

// pooling reads how a directory's model pools: by the mean unless modules.json names
// something else.
func pooling(dir string) (uint32, error) {
	raw, err := readSmall(dir, "modules.json")
	if errors.Is(err, os.ErrNotExist) {
		return poolMean, nil
	}
	if err != nil {
		return 0, err
	}
	var modules []struct{ Type, Path string }
	if err := json.Unmarshal(raw, &modules); err != nil {
		return 0, errf("modules.json: %w", err)
	}
	out := poolMean
	for _, m := range modules {
		switch kind := m.Type[strings.LastIndex(m.Type, ".")+1:]; kind {
		case "Transformer", "Normalize":
		case "Pooling":
			if out, err = poolingIn(dir, m.Path); err != nil {
				return 0, err
			}
		default:
			return 0, errf("modules.json has a step %.40q behind the model, which the converter does not support", kind)
		}
	}
	return out, nil
}

// poolingIn reads the config of a step that pools.
func poolingIn(dir, sub string) (uint32, error) {
	file := path.Join(sub, "config.json")
	if file != path.Clean(file) || path.IsAbs(file) || strings.HasPrefix(file, "..") {
		return 0, errf("modules.json names the folder %.80q", sub)
	}
	raw, err := readSmall(dir, file)
	if err != nil {
		return 0, errf("%s: %w", file, err)
	}
	var c map[string]any
	if err := json.Unmarshal(raw, &c); err != nil {
		return 0, errf("%s: %w", file, err)
	}
	var modes []string
	for key, v := range c {
		if on, _ := v.(bool); on && strings.HasPrefix(key, "pooling_mode_") {
			modes = append(modes, strings.TrimPrefix(key, "pooling_mode_"))
		}
	}
	slices.Sort(modes)
	switch strings.Join(modes, ", ") {
	case "mean_tokens":
		return poolMean, nil
	case "cls_token":
		return poolCLS, nil
	}
	return 0, errf("%s pools by %.120q, which the converter does not support", file, strings.Join(modes, ", "))
}

// readBert reads what only BERT's configs have, and prepares what the library reads.
func (c *config) readBert(dir string, raw map[string]any) (err error) {
	if kind, ok := raw["position_embedding_type"].(string); ok && kind != "absolute" {
		return errf("BERT with positions %.40q, which the converter does not support", kind)
	}
	if act, ok := raw["hidden_act"].(string); ok && act != "gelu" {
		return errf("BERT with the activation %.40q, which the converter does not support", act)
	}
	c.files["modules.json"] = []byte("[]") // read here
	c.pool, err = pooling(dir)
	return err
}

// checkWordPiece refuses a tokenizer that splits texts in another way than BERT's.
func (t *tokenizerFile) checkWordPiece() error {
	if p := t.Model.Prefix; p != "##" {
		return errf("tokenizer.json marks pieces within a word by %.40q and not by ##", p)
	}
	if n := t.Normalizer; n == nil || n.Type != "BertNormalizer" || !n.Clean || !n.Chinese {
		return errf("tokenizer.json does not normalize text as BERT does, which shoal does not support")
	}
	if p := t.Pre; p == nil || p.Type != "BertPreTokenizer" {
		return errf("tokenizer.json does not split text as BERT does, which shoal does not support")
	}
	return nil
}

// mendWordPiece writes the vocabulary as GGUF has it: what begins a word begins with ▁,
// and what goes on in one is bare.
func (v *vocabulary) mendWordPiece(md *metadata) error {
	t := v.json
	old, _ := md.Value("tokenizer.ggml.tokens").([]string)
	size := len(old)
	for _, a := range t.Added {
		size = max(size, a.ID+1)
	}
	if size > 1<<24 {
		return errf("tokenizer.json has a token with the id %d", size-1)
	}
	tokens, types := make([]string, size), slices.Repeat([]int32{tokenUnused}, size)
	for text, id := range t.Model.Vocab {
		if id < 0 || id >= size {
			return errf("tokenizer.json gives %.40q the id %d but has %d tokens", text, id, size)
		}
		types[id] = tokenNormal
		if rest, inside := strings.CutPrefix(text, "##"); inside {
			tokens[id] = rest
		} else {
			tokens[id] = "▁" + text
		}
	}
	for _, a := range t.Added {
		if a.ID < 0 {
			return errf("tokenizer.json gives %.40q the id %d", a.Content, a.ID)
		}
		tokens[a.ID], types[a.ID] = a.Content, tokenControl
	}
	for _, kind := range []string{"cls", "seperator", "unknown", "padding", "mask"} { // GGUF's names, and its spelling
		text := map[string]string{"cls": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]", "padding": "[PAD]", "mask": "[MASK]"}[kind]
		if id := slices.Index(tokens, text); id >= 0 {
			md.set("tokenizer.ggml."+kind+"_token_id", uint32(id))
		}
	}
	md.set("tokenizer.ggml.tokens", tokens)
	md.set("tokenizer.ggml.token_type", types)
	md.remove("tokenizer.ggml.scores")
	lower := t.Normalizer.Lower
	md.set("tokenizer.ggml.normalizer.lowercase", lower)
	if a := t.Normalizer.Accents; a != nil {
		lower = *a
	}
	md.set("tokenizer.ggml.normalizer.strip_accents", lower)
	return nil
}
