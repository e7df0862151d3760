package text

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// byteTokens are the tokens of single bytes of each kind of vocabulary.
func byteTokens(model string) []string {
	out := make([]string, 256)
	for i := range out {
		out[i] = byteText[i]
		if model == "llama" {
			out[i] = fmt.Sprintf("<0x%02X>", i)
		}
	}
	return out
}

// splitting makes a tokenizer that is used only for splitting into words.
func splitting(t testing.TB, pre string) *bpe {
	t.Helper()
	tok, err := New(md{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": byteTokens("gpt2"), "tokenizer.ggml.merges": []string{"a b"}})
	if err != nil {
		t.Fatalf("%s: %v", pre, err)
	}
	return tok.algorithm.(*bpe)
}

// quoted parses a line of quoted texts.
func quoted(t *testing.T, line string) (out []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		q, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatal(err)
		}
		s, err := strconv.Unquote(q)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
		line = line[len(q):]
	}
	return out
}

func TestWords(t *testing.T) {
	f, err := os.Open("testdata/words.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]bool{"": true} // the same as "default"
	var names []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] != '\t' {
			names = strings.Fields(line)
			continue
		}
		want := quoted(t, line)
		for _, pre := range names {
			seen[pre] = true
			got, err := splitting(t, pre).words(strings.Join(want, ""), &patience{ctx: t.Context()})
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v\n got %q\nwant %q", pre, err, got, want)
			}
		}
	}
	for pre := range preTypes {
		if !seen[pre] {
			t.Errorf("no words are known of %q", pre)
		}
	}
}

// Small vocabularies whose special tokens overlap, with llama.cpp's tokens of
// texts that are full of them.
func TestSmallVocabularies(t *testing.T) {
	raw, err := os.ReadFile("testdata/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Model, Pre, Name string
		Tokens           []string
		Types            []int32
		Scores           []float32
		Merges           []string
		BOS, EOS         uint32
		Space, ABOS      *bool
		AEOS             *bool
		Cases            []struct {
			Text    string
			Special bool
			IDs     []int32
		}
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for i, v := range all {
		at := slices.Index(v.Tokens, "BYTES")
		m := md{
			"tokenizer.ggml.model": v.Model, "tokenizer.ggml.pre": v.Pre, "general.name": v.Name,
			"tokenizer.ggml.tokens":     slices.Concat(v.Tokens[:at], byteTokens(v.Model), v.Tokens[at+1:]),
			"tokenizer.ggml.token_type": slices.Concat(v.Types[:at], slices.Repeat(v.Types[at:at+1], 256), v.Types[at+1:]),
			"tokenizer.ggml.merges":     v.Merges, "tokenizer.ggml.bos_token_id": v.BOS, "tokenizer.ggml.eos_token_id": v.EOS,
		}
		if v.Scores != nil {
			m["tokenizer.ggml.scores"] = slices.Concat(v.Scores[:at], make([]float32, 256), v.Scores[at+1:])
		}
		for key, flag := range map[string]*bool{"add_space_prefix": v.Space, "add_bos_token": v.ABOS, "add_eos_token": v.AEOS} {
			if flag != nil {
				m["tokenizer.ggml."+key] = *flag
			}
		}
		tok, err := New(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range v.Cases {
			got, err := tok.Encode(t.Context(), c.Text, EncodeOptions{AddSpecial: c.Special, ParseSpecial: c.Special})
			if err != nil || !slices.Equal(got, c.IDs) {
				t.Errorf("vocabulary %d, %q, special %v: %v\n got %d\nwant %d", i, c.Text, c.Special, err, got, c.IDs)
			}
		}
	}
}

// longRuns are texts that make expressions backtrack. Where that takes
// quadratic time, they take minutes; what takes long is refused (matchTime).
func longRuns(n int) map[string]string {
	runs := map[string]string{"spaces before a letter": strings.Repeat(" ", n) + "\u4e00", "lines": strings.Repeat("\r\n ", n/3) + "x"}
	for _, s := range []string{" ", "\t", "\n", "a", "A", "aA", "1", "\u00bd", "!", "'", ". ", "\u0301", "\u4e00", "A\u0301", "a ", "\u00a0", "\U0001f600", "\xff", "<sentinel:1"} {
		runs[fmt.Sprintf("%q", s)] = strings.Repeat(s, n/len(s))
	}
	return runs
}

func TestLongRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	n := 1 << 15
	if testing.Short() {
		n = 1 << 12
	}
	done := map[string]bool{}
	for pre, kind := range preTypes {
		if key := fmt.Sprint(kind.exprs); done[key] {
			continue
		} else {
			done[key] = true
		}
		b := splitting(t, pre)
		for name, text := range longRuns(n) {
			words, err := b.words(text, &patience{ctx: t.Context()})
			if err != nil || strings.Join(words, "") != text {
				t.Errorf("%s: %s: %v", pre, name, err)
			}
		}
	}
}

// One special token everywhere, and one in the other, must not cost more than
// linear time.
func TestManySpecialTokens(t *testing.T) {
	tokens := byteTokens("gpt2")
	types := make([]int32, len(tokens))
	for n := 2; n < 40; n++ {
		tokens, types = append(tokens, strings.Repeat(" ", n)), append(types, typeUser)
	}
	tok, err := New(md{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": []string{"a b"}})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(t.Context(), strings.Repeat(" ", 39*10_000)+"x"+strings.Repeat(" ", 41), EncodeOptions{})
	if err != nil || len(ids) != 10_000+1+2 || ids[0] != 256+37 || ids[10_002] != 256 {
		t.Errorf("%d tokens, %v", len(ids), err)
	}
}

// Gemma 4's kind: a list of merges over text in which ▁ stands for spaces.
func TestRawMerges(t *testing.T) {
	tok, err := New(md{
		"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": []string{"▁ a"}, "tokenizer.ggml.bos_token_id": uint32(0),
		"tokenizer.ggml.tokens":     []string{"<bos>", "▁", "a", "▁a", "\n", "\n\n", "<0xC3>", "<0xA9>"},
		"tokenizer.ggml.token_type": []int32{3, 1, 1, 1, 1, 1, 6, 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	const text = "a a\n\né a"
	ids, err := tok.Encode(t.Context(), text, EncodeOptions{AddSpecial: true})
	if err != nil || !slices.Equal(ids, []int32{0, 2, 3, 5, 6, 7, 3}) {
		t.Errorf("%v %v", ids, err)
	}
	if got := tok.Decode(ids, false); got != text {
		t.Errorf("%q came back as %q", text, got)
	}
}

// A template receives the beginning-of-sequence token that the tokenizer
// assumes.
func TestTemplateTokens(t *testing.T) {
	for model, want := range map[string]string{"llama": "<s></s>", "gpt2": ""} {
		tpl, err := NewTemplate(md{"tokenizer.chat_template": "{{ bos_token + eos_token }}", "tokenizer.ggml.model": model, "tokenizer.ggml.tokens": []string{"<unk>", "<s>", "</s>"}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tpl.Render(RenderInput{}); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", model, got, err, want)
		}
	}
}

func TestEndings(t *testing.T) {
	tokens := []string{"<s>", "</s>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|fim_pad|>", "x", "<|fim_prefix|>", "<eos>"}
	tok, err := New(md{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": []string{"a b"},
		"tokenizer.ggml.token_type": []int32{3, 1, 4, 3, 3, 3, 1, 1, 1, 3}, "tokenizer.ggml.eot_token_id": uint32(7),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.EOG(); !slices.Equal(got, []int32{2, 4, 5, 6, 7, 9}) {
		t.Errorf("an answer ends at %v", got)
	}
	for id, want := range []bool{true, false, true, true, true, true, true, false, true, true} {
		if tok.IsControl(int32(id)) != want {
			t.Errorf("%s is a control token: %v", tokens[id], !want)
		}
	}
}

func BenchmarkWords(b *testing.B) {
	english := strings.Repeat("Once upon a time, there was 1 fox; it's said.\n", 1<<20/46)
	for _, pre := range []string{"llama-bpe", "qwen2", "smollm", "gpt-2", "gpt-4o", "tekken", "deepseek-llm", "deepseek-v3"} {
		b.Run(pre, func(b *testing.B) {
			s := splitting(b, pre)
			b.SetBytes(int64(len(english)))
			for b.Loop() {
				if _, err := s.words(english, &patience{ctx: b.Context()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
