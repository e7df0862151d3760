package text

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// textsIn encodes texts and compares the tokens, written out.
func textsIn(t *testing.T, tok *Tokenizer, opt EncodeOptions, want map[string]string) {
	t.Helper()
	for text, tokens := range want {
		ids, err := tok.Encode(t.Context(), text, opt)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, id := range ids {
			got = append(got, tok.tokens[id])
		}
		if g := strings.Join(got, " "); g != tokens {
			t.Errorf("%q is %s\nwant %s", text, g, tokens)
		}
	}
}

func bert(t *testing.T, more md) *Tokenizer {
	t.Helper()
	tokens := []string{"[UNK]", "[CLS]", "[SEP]", "▁hello", "▁h", "ello", "▁,", "▁é", "▁e", "▁中", "▁É", "▁ᄒ", "ᅡ", "ᆫ"}
	m := md{"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": []int32{2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		"tokenizer.ggml.unknown_token_id": uint32(0), "tokenizer.ggml.cls_token_id": uint32(1), "tokenizer.ggml.seperator_token_id": uint32(2), "tokenizer.ggml.add_bos_token": false}
	for k, v := range more {
		m["tokenizer.ggml."+k] = v
	}
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestWordPiece(t *testing.T) {
	textsIn(t, bert(t, nil), EncodeOptions{AddSpecial: true}, map[string]string{
		"Hello, hhello":   "[CLS] ▁hello ▁, [UNK] [SEP]", // no token continues a word with h
		"中中":              "[CLS] ▁中 ▁中 [SEP]",
		"É e\u0301":       "[CLS] ▁e ▁e [SEP]",
		"한":               "[CLS] ▁ᄒ ᅡ ᆫ [SEP]", // taken apart, as in BERT's own normalization
		"":                "[CLS] [SEP]",
		"[SEP]":           "[CLS] [UNK] [UNK] [UNK] [SEP]",
		"h\x00ello\u200b": "[CLS] ▁hello [SEP]",
	})
	textsIn(t, bert(t, md{"normalizer.lowercase": false}), EncodeOptions{}, map[string]string{"Hello É é": "[UNK] ▁É ▁é"})
	textsIn(t, bert(t, md{"normalizer.strip_accents": false}), EncodeOptions{}, map[string]string{"Hello É é": "▁hello ▁é ▁é"})
	textsIn(t, bert(t, nil), EncodeOptions{ParseSpecial: true}, map[string]string{"h[SEP]h": "▁h [SEP] ▁h"})
	tok := bert(t, nil)
	if got := tok.Decode([]int32{1, 3, 6, 2}, false); got != "hello ," {
		t.Errorf("decoded %q", got)
	}
}

// table makes a charsmap: pairs of what is replaced and what by. Each node of the trie
// has a run of 256 entries of its own.
func table(pairs ...string) []uint8 {
	nodes := make([]uint32, 512)
	nodes[0] = 256 << 10
	var texts []byte
	for i := 0; i < len(pairs); i += 2 {
		at := uint32(256)
		for k, c := range []byte(pairs[i]) {
			slot := at ^ uint32(c)
			if nodes[slot] == 0 {
				next := uint32(len(nodes))
				nodes = append(nodes, make([]uint32, 256)...)
				nodes[slot] = uint32(c) | (slot^next)<<10
			}
			at = slot ^ nodes[slot]>>10
			if k == len(pairs[i])-1 {
				nodes[slot] |= 1 << 8
				nodes[at] = uint32(len(texts)) | 1<<31
			}
		}
		texts = append(append(texts, pairs[i+1]...), 0)
	}
	out := binary.LittleEndian.AppendUint32(nil, uint32(4*len(nodes)))
	for _, n := range nodes {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	return append(out, texts...)
}

func unigrams(t *testing.T, more md) *Tokenizer {
	t.Helper()
	m := md{"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": []string{"<pad>", "</s>", "<unk>", "▁", "a", "b", "ab", "▁a", "<x>", "<0x41>"},
		"tokenizer.ggml.token_type": []int32{3, 3, 2, 1, 1, 1, 1, 1, 4, 6}, "tokenizer.ggml.scores": []float32{0, 0, 0, -2, -3, -3, -4, -4, 0, 0}}
	for k, v := range more {
		m["tokenizer.ggml."+k] = v
	}
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestUnigrams(t *testing.T) {
	textsIn(t, unigrams(t, nil), EncodeOptions{AddSpecial: true}, map[string]string{
		"ab": "ab </s>", "a ab": "a ▁ ab </s>", "azzb": "a <unk> b </s>", "a  b": "a ▁ ▁ b </s>", "a<x>b": "a <x> b </s>", "": "</s>",
	})
	textsIn(t, unigrams(t, md{"add_space_prefix": true}), EncodeOptions{}, map[string]string{"a  b": "▁a ▁ ▁ b", " a": "▁ ▁a", "a<x>a": "▁a <x> ▁a"})
	textsIn(t, unigrams(t, md{"add_space_prefix": true, "remove_extra_whitespaces": true}), EncodeOptions{}, map[string]string{" a  b ": "▁a ▁ b", "  ": ""})
	textsIn(t, unigrams(t, md{"precompiled_charsmap": table("Ａ", "a", "Ａ\u0300", "b", "½", "a b", "\t", " ")}), EncodeOptions{}, map[string]string{
		"Ａb": "ab", "Ａ\u0300": "b", "½": "a ▁ b", "a\ta": "a ▁a", "Ａ\u0301": "a <unk>",
	})
	for name, bad := range map[string]md{
		"no scores":        {"scores": nil},
		"a short table":    {"precompiled_charsmap": []uint8{200, 0, 0, 0, 1}},
		"a table of words": {"precompiled_charsmap": []string{"a"}},
	} {
		m := md{"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": []string{"a", "b", "c"}, "tokenizer.ggml.scores": []float32{0, 0, 0}}
		for k, v := range bad {
			m["tokenizer.ggml."+k] = v
		}
		if _, err := New(m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	grows := unigrams(t, md{"precompiled_charsmap": table("a", strings.Repeat("b", 1000))})
	if _, err := grows.Encode(t.Context(), strings.Repeat("a", 1<<16), EncodeOptions{}); err == nil {
		t.Error("64 KiB became 64 MiB")
	}
	// Tables that lead nowhere replace nothing.
	for _, node := range []uint32{0, 1 << 31, 0xffffffff, 97 | 1<<8, 97 | 1<<8 | 1<<30} {
		raw := table("a", "b")
		for i := range 512 {
			binary.LittleEndian.PutUint32(raw[4+4*i:], node)
		}
		textsIn(t, unigrams(t, md{"precompiled_charsmap": raw}), EncodeOptions{}, map[string]string{"ab": "ab"})
	}
}

func TestWorld(t *testing.T) {
	tok, err := New(md{"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": []string{"<s>", "a", "ab", `\n`, `\xe4\xbd`, `\xa0`, `\x`, "abcd"},
		"tokenizer.ggml.token_type": []int32{3, 1, 1, 1, 1, 1, 1, 1}, "tokenizer.ggml.eos_token_id": uint32(0)})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(t.Context(), "abc\n你<s>abcd", EncodeOptions{AddSpecial: true, ParseSpecial: true})
	if err != nil || !slices.Equal(ids, []int32{2, 3, 4, 5, 0, 7}) {
		t.Errorf("%v %v", ids, err)
	}
	if got := tok.Decode([]int32{2, 3, 4, 5}, false); got != "ab\n你" {
		t.Errorf("decoded %q", got)
	}
	if plain, _ := tok.Encode(t.Context(), "<s>", EncodeOptions{}); len(plain) > 0 {
		t.Errorf("a control token from plain text: %v", plain)
	}
}

func TestPlamo(t *testing.T) {
	tokens := []string{"<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "a", "b", "ab", "aba", " "}
	types := []int32{2, 3, 3, 1, 1, 1, 1, 1}
	scores := []float32{0, 0, 0, -1, -1, -1.5, -2.5, -1}
	for i := range 256 {
		tokens, types, scores = append(tokens, fmt.Sprintf("<0x%02X>", i)), append(types, typeByte), append(scores, 0)
	}
	m := md{"tokenizer.ggml.model": "plamo2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": scores, "tokenizer.ggml.add_bos_token": true}
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	textsIn(t, tok, EncodeOptions{AddSpecial: true}, map[string]string{
		"aba": "<|plamo:bos|> aba", "abab": "<|plamo:bos|> ab ab", "a c": "<|plamo:bos|> a   <0x63>", "é": "<|plamo:bos|> <0xC3> <0xA9>", "\ufeffa": "<|plamo:bos|> a",
		"<0x41>"[:3]: "<|plamo:bos|> <0x3C> <0x30> <0x78>",
	})
	if got := tok.Decode([]int32{5, 7, 8 + 0xc3, 8 + 0xa9}, false); got != "ab é" {
		t.Errorf("decoded %q", got)
	}
	m["tokenizer.ggml.tokens"] = slices.Concat(tokens[:8], []string{"x"}, tokens[9:])
	if _, err := New(m); err == nil {
		t.Error("a vocabulary without all bytes is taken")
	}
}

func TestOtherBPE(t *testing.T) {
	bytes := byteTokens("gpt2")
	tok, err := New(md{"tokenizer.ggml.model": "hybriddna", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": []string{"a b"},
		"tokenizer.ggml.tokens": slices.Concat(bytes, []string{"ab", "<dna>", "</dna>", "<oov>", "ACGTAC\ue000", "GAAAAA\ue000"})})
	if err != nil {
		t.Fatal(err)
	}
	textsIn(t, tok, EncodeOptions{}, map[string]string{"ab<dna>acgtacg</dna>b": "ab <dna> ACGTAC GAAAAA </dna> b", "<dna>xxxxxx": "<dna> <oov>", "</dna>"[:2]: "< /"})
	tok, err = New(md{"tokenizer.ggml.model": "whitespace", "tokenizer.ggml.pre": "whitespace", "tokenizer.ggml.merges": []string{"你 好"},
		"tokenizer.ggml.normalizer.lowercase": true, "tokenizer.ggml.tokens": []string{"你", "好", "你好", "a", "<0xC3>", "<0xA9>"}})
	if err != nil {
		t.Fatal(err)
	}
	textsIn(t, tok, EncodeOptions{}, map[string]string{" 你好 A\né": "你好 a <0xC3> <0xA9>"})
	if got := tok.Decode([]int32{2, 3}, false); got != "你好a" {
		t.Errorf("decoded %q", got)
	}
	tok, err = New(md{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "mmbert", "tokenizer.ggml.merges": []string{"▁ a", "a ▁", "a b"},
		"tokenizer.ggml.tokens": []string{"▁", "a", "b", "▁a", "ab", "a▁", "\n\n"}})
	if err != nil {
		t.Fatal(err)
	}
	textsIn(t, tok, EncodeOptions{}, map[string]string{"a a\n\nab": "▁a ▁a \n\n ▁a b", "  a": "▁ ▁a"})
}

// A pair's texts are parted as RoBERTa's are where the pre-tokenizer is one of its.
func TestSeparator(t *testing.T) {
	m := md{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "roberta-bpe", "tokenizer.ggml.tokens": byteTokens("gpt2"), "tokenizer.ggml.merges": []string{"a b"},
		"tokenizer.ggml.seperator_token_id": uint32(2)}
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tok.SEP(); !ok || id != 2 {
		t.Errorf("%d %v", id, ok)
	}
	m["tokenizer.ggml.add_sep_token"] = false
	if tok, err = New(m); err != nil {
		t.Fatal(err)
	}
	if _, ok := tok.SEP(); ok {
		t.Error("a separator that the file forbids")
	}
}

// Long words and texts of one token take time in proportion to their length.
func TestLongTexts(t *testing.T) {
	for _, tok := range []*Tokenizer{bert(t, nil), unigrams(t, nil)} {
		for _, s := range []string{"h", "a", " ", "中", "\xff", "é", "[SEP]"} {
			if _, err := tok.Encode(t.Context(), strings.Repeat(s, 1<<18), EncodeOptions{ParseSpecial: true}); err != nil {
				t.Error(err)
			}
		}
	}
}

func BenchmarkKinds(b *testing.B) {
	english := strings.Repeat("Once upon a time, there was 1 fox; it's said.\n", 1<<18/46)
	for _, name := range []string{"bert-bge", "nomic-bert-moe", "llama-spm", "gpt-2"} {
		tok := tokenizer(b, filepath.Join(vocabularies(), "ggml-vocab-"+name+".gguf"))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(english)))
			for b.Loop() {
				if _, err := tok.Encode(b.Context(), english, EncodeOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
