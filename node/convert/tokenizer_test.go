package convert_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"

	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/text"
)

// Token ids equal those of tokenizer.json: testdata/tokenizers.json has small
// tokenizers of every supported kind, trained with the Python package
// tokenizers 0.23.3, and that package's ids for the texts. contrib/tinymodel's
// is a real one.
func TestTokenIDs(t *testing.T) {
	raw, err := os.ReadFile("testdata/tokenizers.json")
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Texts      []string
		Tinytales  [][]int32
		Tokenizers map[string]struct {
			Tokenizer json.RawMessage
			IDs       [][]int32
		}
	}
	if err := json.Unmarshal(raw, &data); err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, h *hf, pre string, want [][]int32) {
		_, head, err := run(t, t.Context(), h.write(t, 1), "q8_0")
		if err != nil {
			t.Fatal(err)
		}
		if got := head.String("tokenizer.ggml.pre"); got != pre {
			t.Errorf("the way of splitting is called %q, want %q", got, pre)
		}
		tok, err := text.New(head)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range data.Texts {
			if pre == "qwen2" && s != norm.NFC.String(s) { // Qwen composes characters first; a GGUF file cannot say so
				s = norm.NFC.String(s)
			}
			got, err := tok.Encode(t.Context(), s, text.EncodeOptions{AddSpecial: true, ParseSpecial: true})
			if err != nil || !slices.Equal(got, want[i]) {
				t.Errorf("%q: %v %v, want %v", s, got, err, want[i])
			}
		}
		// Ids that only fill the matrix up stand for no text.
		if got, err := tok.Encode(t.Context(), "[PAD600]", text.EncodeOptions{}); err != nil || len(got) < 3 {
			t.Errorf("a filler is a token: %v %v", got, err)
		}
	}
	t.Run("tinytales", func(t *testing.T) { check(t, random(t, "LlamaForCausalLM", vocab), "gpt-2", data.Tinytales) })
	for name, c := range data.Tokenizers {
		t.Run(name, func(t *testing.T) {
			h := random(t, "LlamaForCausalLM", 640)
			h.files["tokenizer.json"] = c.Tokenizer
			check(t, h, name, c.IDs)
		})
	}
}

// A tokenizer.model's ids are SentencePiece's own, or it is refused by what it would
// do otherwise: testdata/scripts/pieces.py.
func TestPieces(t *testing.T) {
	raw, err := os.ReadFile("testdata/pieces.json")
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Texts  []string
		Models map[string]struct {
			Model []byte
			IDs   [][]int32
		}
	}
	if err := json.Unmarshal(raw, &data); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{
		"composed": "normalizes text", "spaces not escaped": "escape_whitespaces", "spaces at the end": "treat_whitespace_as_suffix", "unigram": "UNIGRAM",
	}
	for name, m := range data.Models {
		h := random(t, "LlamaForCausalLM", 640)
		delete(h.files, "tokenizer.json")
		h.files["tokenizer.model"] = m.Model
		_, head, err := run(t, t.Context(), h.write(t, 1), "q8_0")
		if says := refused[name]; says != "" {
			if !errors.Is(err, convert.ErrDirectory) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v, want %q", name, err, says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tok, err := text.New(head)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range data.Texts {
			if got, err := tok.Encode(t.Context(), s, text.EncodeOptions{}); err != nil || !slices.Equal(got, m.IDs[i]) {
				t.Errorf("%s, %q: %v %v, want %v", name, s, got, err, m.IDs[i])
			}
		}
	}
}
