package text

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// small makes a vocabulary small enough for a fuzzer to cover.
func small(t testing.TB, model, pre string) *Tokenizer {
	t.Helper()
	tokens := append(byteTokens(model), "▁", "a", "b", "ab", "▁a", "▁▁", "abab", "Ġa", "<s>", "</s>", "<|x|>", "  ")
	types := make([]int32, len(tokens))
	scores := make([]float32, len(tokens))
	for i := range types {
		types[i], scores[i] = typeNormal, float32(-i)
		if model == "llama" && i < 256 {
			types[i] = typeByte
		}
	}
	n := len(tokens)
	types[n-4], types[n-3], types[n-2] = typeControl, typeControl, typeControl
	if model != "llama" { // where it makes a further space, as in llama.cpp
		types[n-1] = typeUser
	}
	tok, err := New(md{
		"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
		"tokenizer.ggml.scores": scores, "tokenizer.ggml.merges": []string{"a b", "ab ab", "Ġ a"},
		"tokenizer.ggml.bos_token_id": uint32(n - 4), "tokenizer.ggml.eos_token_id": uint32(n - 3),
	})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// With a vocabulary that has all bytes, encoding and decoding returns the same
// text, at once or token by token.
func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"ab a\n\nb", " <s>x</s>", "héllo 你好 🦙", "\xff\xf0\x9f", "▁a", "  a   b", "'s 123", "\xe2\x96", "a\xf0\x9f\x98b"} {
		f.Add(s)
	}
	toks := []*Tokenizer{small(f, "llama", "")}
	for _, pre := range []string{"gpt-2", "llama-bpe", "gpt-4o", "deepseek-llm", "tekken", "superbpe"} {
		toks = append(toks, small(f, "gpt2", pre))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			want := valid(text)
			if tok.escape {
				want = valid(strings.ReplaceAll(text, "▁", " ")) // which is how such tokens write a space
			}
			ids, err := tok.Encode(t.Context(), text, EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Decode(ids, false); got != want {
				t.Errorf("%q came back as %q", want, got)
			}
			d := tok.NewDecoder()
			var pieces strings.Builder
			for _, id := range ids {
				piece := d.Push(id)
				if !utf8.ValidString(piece) {
					t.Errorf("%q is no text", piece)
				}
				pieces.WriteString(piece)
			}
			pieces.WriteString(d.Flush())
			got := pieces.String()
			if tok.addSpace && text != "" {
				got = strings.TrimPrefix(got, " ")
			}
			if got != want {
				t.Errorf("in pieces, %q came back as %q", want, got)
			}
			if _, err := tok.Encode(t.Context(), text, EncodeOptions{AddSpecial: true, ParseSpecial: true}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Any tokens in any order decode to a text, the same in pieces as at once.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0xf0, 0x9f, 0x98, 0x80, 'a', 0xf0, 0x9f, 'b', 0xe4})
	f.Add([]byte("  "))
	toks := []*Tokenizer{small(f, "llama", ""), small(f, "gpt2", "gpt-2")}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, tok := range toks {
			d := tok.NewDecoder()
			var pieces strings.Builder
			ids := make([]int32, len(raw))
			for i, c := range raw {
				ids[i] = int32(c)
				if i%3 == 2 {
					ids[i] = int32(c) - 10 // some are no token at all
				}
				piece := d.Push(ids[i])
				if !utf8.ValidString(piece) {
					t.Errorf("%q is no text", piece)
				}
				pieces.WriteString(piece)
			}
			pieces.WriteString(d.Flush())
			got, want := pieces.String(), tok.Decode(ids, false)
			if tok.addSpace {
				got = strings.TrimPrefix(got, " ")
			}
			if got != want {
				t.Errorf("%v in pieces %q, at once %q", ids, got, want)
			}
		}
	})
}

// Metadata comes from strangers.
func FuzzNew(f *testing.F) {
	f.Add("gpt2", "llama-bpe", "a b\nb\nab", "a b\n b", []byte{1, 3, 4, 6, 0, 255}, int64(1), "ab a")
	f.Add("llama", "", "<unk>\n<s>\n</s>\n▁\n<0x41>", "", []byte{2, 3, 3, 1, 6}, int64(-1), " A")
	f.Add("bert", "", "[UNK]\n▁a\nb\n▁", "", []byte{3, 1, 1, 1}, int64(0), "ab É")
	f.Add("t5", "", "<pad>\n</s>\n<unk>\n▁a\nb", "", []byte{3, 3, 2, 1, 1}, int64(1), " a b")
	f.Add("rwkv", "", "<s>\na\n\\x41\n\\n", "", []byte{3, 1, 1, 1}, int64(0), "aA\n")
	f.Add("whitespace", "whitespace", "a\nb\nab", "a b", []byte{1, 1, 1}, int64(0), "ab  a")
	f.Add("hybriddna", "gpt-2", "<dna>\n</dna>\n<oov>\nACGTAC\ue000", "a b", []byte{1, 1, 1, 1}, int64(0), "x<dna>acgtacg</dna>")
	f.Add("gpt2", "mmbert", "▁a\n▁\na", "▁ a", []byte{1, 1, 1}, int64(0), "a a\n\na")
	f.Add("gemma4", "", "a\n▁a\n<0x0A>\n\n", "▁ a", []byte{}, int64(1<<40), "a\na")
	f.Fuzz(func(t *testing.T, model, pre, tokens, merges string, kinds []byte, id int64, text string) {
		types := make([]int32, len(kinds))
		scores := make([]float32, len(kinds))
		for i, k := range kinds {
			types[i], scores[i] = int32(int8(k)), float32(k)
		}
		m := md{
			"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": strings.Split(tokens, "\n"),
			"tokenizer.ggml.merges": strings.Split(merges, "\n"), "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": scores,
			"tokenizer.ggml.bos_token_id": id, "tokenizer.ggml.eos_token_id": id + 1, "tokenizer.ggml.eos_token_ids": []int64{id, -id},
			"tokenizer.ggml.precompiled_charsmap": kinds, "tokenizer.ggml.unknown_token_id": id,
			"general.name": pre, "tokenizer.ggml.add_bos_token": true, "tokenizer.chat_template": merges,
		}
		tok, err := New(m)
		if err != nil {
			return
		}
		ids, err := tok.Encode(t.Context(), text+tokens, EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("token %d of %d", id, tok.VocabSize())
			}
		}
		if s := tok.Decode(append(ids, -1, 1<<30), true); !utf8.ValidString(s) {
			t.Errorf("%q is no text", s)
		}
	})
}
