package convert

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/ollama/ollama/convert/sentencepiece"
	"google.golang.org/protobuf/proto"
)

// Token types of GGUF.
const (
	tokenNormal  = int32(1)
	tokenControl = int32(3)
	tokenUser    = int32(4)
	tokenUnused  = int32(5)
)

// Ways in which tokenizers split text into words, by their names in
// tokenizer.ggml.pre.
const (
	splitCase    = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	splitLetters = `[^\r\n\p{L}\p{N}]?\p{L}+`
	splitOthers  = ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	splitSlash   = ` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	splitUpper   = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	splitLower   = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	splitLlama3  = splitCase + `|` + splitLetters + `|\p{N}{1,3}|` + splitOthers
	splitQwen2   = splitCase + `|` + splitLetters + `|\p{N}|` + splitOthers
	splitGPT4o   = splitUpper + `*` + splitLower + `+` + splitCase + `?|` + splitUpper + `+` + splitLower + `*` + splitCase + `?|\p{N}{1,3}|` + splitSlash
	splitTekken  = splitUpper + `*` + splitLower + `+|` + splitUpper + `+` + splitLower + `*|\p{N}|` + splitSlash
	splitDeep    = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)

// splitters maps the steps of tokenizer.json's pre-tokenizer, joined, to its
// name in GGUF; "+" marks that words that are tokens need no merges.
var splitters = map[string]string{
	"bytes by words":                    "gpt-2",
	"digits, bytes by words":            "smollm",
	"split " + splitLlama3 + ", bytes":  "dbrx",
	"split " + splitLlama3 + ", bytes+": "llama-bpe",
	"split " + splitQwen2 + ", bytes":   "qwen2",
	"split " + splitGPT4o + ", bytes":   "gpt-4o",
	"split " + splitTekken + ", bytes+": "tekken",
	`split \p{N}{1,3}, split [一-龥぀-ゟ゠-ヿ]+, split ` + splitDeep + ", bytes": "deepseek-v3",
}

// tokenizerFile is the part of tokenizer.json that this package reads.
type tokenizerFile struct {
	Added      []addedToken `json:"added_tokens"`
	Normalizer *step        `json:"normalizer"`
	Pre        *step        `json:"pre_tokenizer"`
	Post       *step        `json:"post_processor"`
	Model      struct {
		Type         string         `json:"type"`
		ByteFallback bool           `json:"byte_fallback"`
		IgnoreMerges bool           `json:"ignore_merges"`
		Prefix       string         `json:"continuing_subword_prefix"`
		Vocab        map[string]int `json:"vocab"`
	} `json:"model"`
}

type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	Lstrip     bool   `json:"lstrip"`
	Rstrip     bool   `json:"rstrip"`
}

// step is one step of a tokenizer; each kind uses different fields.
type step struct {
	Type        string  `json:"type"`
	Normalizers []*step `json:"normalizers"`
	Steps       []*step `json:"pretokenizers"`
	Processors  []*step `json:"processors"`
	Pattern     struct {
		Regex string `json:"Regex"`
	} `json:"pattern"`
	Behavior    string `json:"behavior"`
	Invert      bool   `json:"invert"`
	Clean       bool   `json:"clean_text"`
	Chinese     bool   `json:"handle_chinese_chars"`
	Lower       bool   `json:"lowercase"`
	Accents     *bool  `json:"strip_accents"`
	Individual  bool   `json:"individual_digits"`
	PrefixSpace bool   `json:"add_prefix_space"`
	UseRegex    *bool  `json:"use_regex"`
	Single      []struct {
		Special *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
	} `json:"single"`
	Specials map[string]struct {
		IDs []int `json:"ids"`
	} `json:"special_tokens"`
}

// vocabulary is a directory's tokenizer, as far as the library does not handle
// it.
type vocabulary struct {
	json   *tokenizerFile            // nil: the directory has no tokenizer.json
	pieces *sentencepiece.ModelProto // nil: it is byte-level BPE
	pre    string

	wordPiece bool // it is BERT's
}

// readVocabulary reads the tokenizer, and refuses one whose conversion would
// result in different ids.
func readVocabulary(dir string) (*vocabulary, error) {
	v := &vocabulary{}
	raw, err := readSmall(dir, "tokenizer.json")
	switch {
	case err == nil:
		v.json = &tokenizerFile{}
		if err := json.Unmarshal(raw, v.json); err != nil {
			return nil, errf("tokenizer.json: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if t := v.json; t != nil {
		for _, a := range t.Added {
			if a.SingleWord || a.Lstrip || a.Rstrip {
				return nil, errf("in tokenizer.json the token %.40q absorbs blanks or words beside it, which shoal does not support", a.Content)
			}
		}
		if t.Model.Type == "WordPiece" {
			v.wordPiece = true
			return v, t.checkWordPiece()
		}
		if t.Model.Type == "BPE" && !t.Model.ByteFallback {
			v.pre, err = t.pre()
			return v, err
		}
	}
	raw, err = readSmall(dir, "tokenizer.model")
	if errors.Is(err, os.ErrNotExist) {
		if v.json == nil {
			return nil, errf("%s has neither tokenizer.json nor tokenizer.model", dir)
		}
		return nil, errf("tokenizer.json is of kind %.40q (SentencePiece's), which is converted from tokenizer.model, but that is missing; fetch it too", v.json.Model.Type)
	}
	if err != nil {
		return nil, err
	}
	v.pieces = &sentencepiece.ModelProto{}
	if err := proto.Unmarshal(raw, v.pieces); err != nil || len(v.pieces.GetPieces()) == 0 {
		return nil, errf("tokenizer.model is not a SentencePiece model")
	}
	if kind := v.pieces.GetTrainerSpec().GetModelType(); kind != sentencepiece.TrainerSpec_BPE {
		return nil, errf("tokenizer.model is of kind %s; only BPE is supported", kind)
	}
	return v, checkNormalizer(v.pieces)
}

// checkNormalizer refuses a tokenizer.model that changes a text, before splitting it,
// in a way that shoal does not follow. What it does with spaces is followed.
func checkNormalizer(m *sentencepiece.ModelProto) error {
	n := m.GetNormalizerSpec()
	switch {
	case len(n.GetPrecompiledCharsmap()) > 0:
		return errf("tokenizer.model normalizes text by %.40q before splitting it, which shoal does not support", n.GetName())
	case !n.GetEscapeWhitespaces():
		return errf("tokenizer.model keeps spaces as they are (escape_whitespaces), which shoal does not support")
	case m.GetTrainerSpec().GetTreatWhitespaceAsSuffix():
		return errf("tokenizer.model has spaces behind words (treat_whitespace_as_suffix), which shoal does not support")
	}
	return nil
}

// pre returns GGUF's name for how the tokenizer splits text into words.
func (t *tokenizerFile) pre() (string, error) {
	for _, n := range flatten(t.Normalizer, func(s *step) []*step { return s.Normalizers }) {
		if n.Type != "NFC" { // GGUF readers leave normalization to the text's author
			return "", errf("tokenizer.json normalizes text by %.40q before splitting it, which shoal does not support", n.Type)
		}
	}
	var parts []string
	for _, s := range flatten(t.Pre, func(s *step) []*step { return s.Steps }) {
		switch {
		case s.Type == "Split" && s.Pattern.Regex != "" && s.Behavior == "Isolated" && !s.Invert:
			parts = append(parts, "split "+s.Pattern.Regex)
		case s.Type == "Digits" && s.Individual:
			parts = append(parts, "digits")
		case s.Type == "ByteLevel" && !s.PrefixSpace && (s.UseRegex == nil || *s.UseRegex):
			parts = append(parts, "bytes by words")
		case s.Type == "ByteLevel" && !s.PrefixSpace:
			parts = append(parts, "bytes")
		default:
			parts = append(parts, s.Type+" in an unknown form")
		}
	}
	sign := strings.Join(parts, ", ")
	name, ok := splitters[sign]
	if t.Model.IgnoreMerges {
		name, ok = splitters[sign+"+"]
	}
	if !ok {
		return "", errf("tokenizer.json splits text in a way that shoal does not support: %.300s", sign)
	}
	return name, nil
}

// flatten returns the single steps of a step that may be a sequence.
func flatten(s *step, inner func(*step) []*step) (out []*step) {
	if s == nil {
		return nil
	}
	if s.Type != "Sequence" {
		return []*step{s}
	}
	for _, i := range inner(s) {
		if i != nil && i.Type != "Sequence" {
			out = append(out, i)
		}
	}
	return out
}

// around returns the tokens that are put before and after a text.
func (t *tokenizerFile) around() (before, behind []int) {
	for _, p := range flatten(t.Post, func(s *step) []*step { return s.Processors }) {
		if p.Type != "TemplateProcessing" {
			continue
		}
		to := &before
		for _, s := range p.Single {
			if s.Special == nil {
				to = &behind
				continue
			}
			*to = append(*to, p.Specials[s.Special.ID].IDs...)
		}
	}
	return before, behind
}

// mend corrects the tokenizer's metadata as written by the library.
func (v *vocabulary) mend(dir string, md *metadata) error {
	if v.wordPiece {
		return v.mendWordPiece(md)
	}
	tokens, _ := md.Value("tokenizer.ggml.tokens").([]string)
	types, _ := md.Value("tokenizer.ggml.token_type").([]int32)
	if len(tokens) == 0 || len(types) != len(tokens) {
		return errf("the tokenizer has no tokens")
	}
	if v.pieces != nil {
		md.set("tokenizer.ggml.add_space_prefix", v.pieces.GetNormalizerSpec().GetAddDummyPrefix())
		for i, p := range v.pieces.GetPieces() { // the library takes them for words
			if p.GetType() == sentencepiece.ModelProto_SentencePiece_USER_DEFINED && types[i] == tokenNormal {
				types[i] = tokenUser
			}
		}
		if v.pieces.GetNormalizerSpec().GetRemoveExtraWhitespaces() {
			md.set("tokenizer.ggml.remove_extra_whitespaces", true)
		}
		spec := v.pieces.GetTrainerSpec()
		for key, id := range map[string]int32{"bos": spec.GetBosId(), "eos": spec.GetEosId()} {
			if id >= 0 && int(id) < len(tokens) && md.Value("tokenizer.ggml."+key+"_token_id") == nil {
				md.set("tokenizer.ggml."+key+"_token_id", uint32(id))
			}
		}
	} else {
		md.set("tokenizer.ggml.pre", v.pre)
	}
	known := len(tokens)
	if t := v.json; t != nil && v.pieces == nil {
		last := -1
		for text, id := range t.Model.Vocab {
			if id < 0 || id >= len(tokens) {
				return errf("tokenizer.json gives %.40q the id %d but has %d tokens", text, id, len(tokens))
			}
			last = max(last, id)
			if tokens[id] != text && !slices.ContainsFunc(t.Added, func(a addedToken) bool { return a.ID == id }) {
				return errf("the ids of tokenizer.json have gaps: %d should be %.40q but is %.40q", id, tokens[id], text)
			}
		}
		for _, a := range t.Added {
			if a.ID < 0 || a.ID >= len(tokens) || tokens[a.ID] != a.Content {
				return errf("the ids of tokenizer.json have gaps: %d is %.40q", a.ID, a.Content)
			}
			last = max(last, a.ID)
		}
		known = last + 1
	}
	for i := known; i < len(types); i++ { // tokens that only fill the vocabulary up to the matrix's size are not text
		types[i] = tokenUnused
	}
	if v.json != nil {
		before, behind := v.json.around()
		for key, ids := range map[string][]int{"bos": before, "eos": behind} {
			if len(ids) > 1 {
				return errf("tokenizer.json puts %d tokens around a text, but GGUF allows one", len(ids))
			}
			md.set("tokenizer.ggml.add_"+key+"_token", len(ids) == 1)
			if len(ids) == 1 {
				if ids[0] < 0 || ids[0] >= len(tokens) {
					return errf("tokenizer.json puts token %d around a text but has only %d", ids[0], len(tokens))
				}
				md.set("tokenizer.ggml."+key+"_token_id", uint32(ids[0]))
			}
		}
	}
	mendEnds(dir, md, len(tokens))
	if md.Value("tokenizer.chat_template") == nil {
		if raw, err := readSmall(dir, "chat_template.jinja"); err == nil {
			md.set("tokenizer.chat_template", string(raw))
		}
	}
	return nil
}

// mendEnds adds the tokens that end an answer where the library finds none.
func mendEnds(dir string, md *metadata, tokens int) {
	for _, name := range []string{"generation_config.json", "config.json"} {
		raw, err := readSmall(dir, name)
		if err != nil {
			continue
		}
		var c struct {
			EOS json.RawMessage `json:"eos_token_id"`
		}
		if json.Unmarshal(raw, &c) != nil {
			continue
		}
		var ids []int32
		var one int32
		if json.Unmarshal(c.EOS, &one) == nil && len(c.EOS) > 0 && string(c.EOS) != "null" {
			ids = []int32{one}
		} else if json.Unmarshal(c.EOS, &ids) != nil {
			continue
		}
		ids = slices.DeleteFunc(ids, func(id int32) bool { return id < 0 || int(id) >= tokens })
		if len(ids) == 0 {
			continue
		}
		if md.Value("tokenizer.ggml.eos_token_id") == nil {
			md.set("tokenizer.ggml.eos_token_id", uint32(ids[0]))
		}
		if md.Value("tokenizer.ggml.eos_token_ids") == nil {
			md.set("tokenizer.ggml.eos_token_ids", ids)
		}
		return
	}
}
