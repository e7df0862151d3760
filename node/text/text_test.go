package text

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/text/jinja"
	"github.com/shoalnet/shoal/protocol/gguf"
)

const tiny = "../../contrib/tinymodel/tinytales.gguf"

func header(t testing.TB, path string) *gguf.Header {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Skip("no reference files beside this clone: ", err)
	}
	defer f.Close()
	st, _ := f.Stat()
	h, err := gguf.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tokenizer(t testing.TB, path string) *Tokenizer {
	t.Helper()
	tok, err := New(header(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// vocabularies is the folder of llama.cpp's vocabularies (ggml-vocab-*.gguf) with its
// test cases beside them (.inp and .out).
func vocabularies() string {
	return cmp.Or(os.Getenv("SHOAL_VOCABULARIES"), "../../../shared/vocab")
}

// llama.cpp's own test cases.
func TestVocabularies(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(vocabularies(), "ggml-vocab-*.gguf"))
	if err != nil || len(paths) == 0 {
		t.Skip("no vocabularies of llama.cpp in ", vocabularies(), "; SHOAL_VOCABULARIES names their folder")
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			tok := tokenizer(t, path)
			in, err := os.ReadFile(path + ".inp")
			if err != nil {
				t.Skip("no test cases of this one")
			}
			out, err := os.ReadFile(path + ".out")
			if err != nil {
				t.Fatal(err)
			}
			texts := strings.Split(string(in), "\n__ggml_vocab_test__\n")
			wants := strings.Split(string(out), "\n")
			wants = wants[:min(len(wants), len(texts))]
			if len(texts) != len(wants) || len(texts) < 40 {
				t.Fatalf("%d texts, %d results", len(texts), len(wants))
			}
			_, back := tok.algorithm.(*wpm)
			for i, text := range texts {
				ids, err := tok.Encode(t.Context(), text, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Trim(fmt.Sprint(ids), "[]"); got != strings.TrimSpace(wants[i]) {
					t.Errorf("%q:\n  %s\n want %s", text, got, wants[i])
				}
				if got := tok.Decode(ids, false); !back && got != text {
					t.Errorf("%q came back as %q", text, got)
				}
			}
		})
	}
}

func TestTinytales(t *testing.T) {
	tok := tokenizer(t, tiny)
	if got := tok.EOG(); !slices.Equal(got, []int32{0, 2}) {
		t.Errorf("an answer ends at %v", got)
	}
	tpl, err := NewTemplate(header(t, tiny))
	if err != nil {
		t.Fatal(err)
	}
	text, err := tpl.Render(RenderInput{Messages: []Message{{Role: "user", Content: "Hello!"}}, AddGenerationPrompt: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"; text != want {
		t.Errorf("rendered %q", text)
	}
	ids, _ := tok.Encode(t.Context(), text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
	if ids[0] != 1 || slices.Index(ids, 2) < 0 {
		t.Errorf("special tokens were not found in %v", ids)
	}
	plain, _ := tok.Encode(t.Context(), text, EncodeOptions{})
	if slices.Contains(plain, 1) {
		t.Error("a control token was taken from plain text")
	}
}

// The text does not depend on the pieces, and no part of a character is
// returned.
func TestDecoder(t *testing.T) {
	for _, path := range []string{tiny, "../../../shared/vocab/ggml-vocab-llama-spm.gguf"} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			tok := tokenizer(t, path)
			text := "Führer 🚀 ½ 哈哈\nthe end \xff\xfe."
			ids, _ := tok.Encode(t.Context(), text, EncodeOptions{})
			d := tok.NewDecoder()
			var b strings.Builder
			for _, id := range ids {
				b.WriteString(d.Push(id))
			}
			b.WriteString(d.Flush())
			want := strings.ToValidUTF8(text, "�")
			if got := strings.TrimPrefix(b.String(), " "); strings.ReplaceAll(got, "��", "�") != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func TestStops(t *testing.T) {
	for _, c := range []struct {
		stops  []string
		pieces []string
		want   string
		found  bool
	}{
		{[]string{"END"}, []string{"abc E", "N", "D def"}, "abc ", true},
		{[]string{"END"}, []string{"abc E", "N", "x"}, "abc ENx", false},
		{[]string{"\n\n", "User:"}, []string{"a\n", "b\nUs", "er", ": c"}, "a\nb\n", true},
		{[]string{"aab"}, []string{"a", "a", "a", "b"}, "a", true},
		{nil, []string{"x", "y"}, "xy", false},
	} {
		s := NewStops(c.stops)
		got, found := "", false
		for _, p := range c.pieces {
			out, stop := s.Push(p)
			got += out
			found = found || stop
		}
		if got += s.Flush(); got != c.want || found != c.found {
			t.Errorf("%q in %q: %q %v", c.stops, c.pieces, got, found)
		}
	}
}

type md map[string]any

func (m md) Value(key string) any { return m[key] }

func TestRefusals(t *testing.T) {
	for name, m := range map[string]md{
		"nothing":       {},
		"no merges":     {"tokenizer.ggml.tokens": []string{"a"}, "tokenizer.ggml.model": "gpt2"},
		"another kind":  {"tokenizer.ggml.tokens": []string{"a"}, "tokenizer.ggml.model": "wordlevel"},
		"no vocabulary": {"tokenizer.ggml.model": "no_vocab"},
		"tokens a text": {"tokenizer.ggml.tokens": "abc", "tokenizer.ggml.model": "gpt2"},
	} {
		if _, err := New(m); !errors.Is(err, ErrVocabulary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewTemplate(md{}); !errors.Is(err, ErrNoTemplate) {
		t.Error(err)
	}
	for name, src := range map[string]string{"raises": "{{ raise_exception('System role not supported') }}", "unfinished": "{% if", "reads files": "{% include '/etc/passwd' %}"} {
		tpl, err := NewTemplate(md{"tokenizer.chat_template": src})
		if err == nil {
			_, err = tpl.Render(RenderInput{})
		}
		if !errors.Is(err, jinja.ErrTemplate) || name == "raises" && !strings.Contains(err.Error(), "System role not supported") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Templates as models ship them, compared with the output of Jinja2 in Hugging
// Face's settings.
func TestTemplates(t *testing.T) {
	chat := []Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: "Hi"}, {Role: "assistant", Content: " Hello "}, {Role: "user", Content: "Bye"}}
	for name, c := range map[string]struct {
		src, want string
		messages  []Message
	}{
		"llama3": {
			"{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
			"<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", chat,
		},
		"namespace and blocks": {
			"{%- set ns = namespace(last=-1) %}\n{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {%- set ns.last = loop.index0 %}\n    {%- endif %}\n{%- endfor %}\n{%- for m in messages[::-1] %}\n{{ m.content.strip() }}|{{ loop.last }}\n{%- endfor %}\n{{ ns.last }}\n",
			"Bye|FalseHello|FalseHi|FalseBe brief.|True3", chat,
		},
		"blocks on lines": {
			"{% for m in messages %}\n  {% if m.role=='user' %}\n  U: {{ m.content }}\n  {% else %}\nx {% if true %} y {% endif %}\n {# c #}\n  {%- endif %}\n{% endfor %}\nend",
			"x  y   U: Hi\nx  y   U: Bye\nend", chat,
		},
		"slices and methods": {
			"{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ sys.upper() }} {{ rest|length }} {{ 'a,b'.split(',')[-1] }} {{ sys.startswith('Be') }} {% for k, v in {'x': 1}.items() %}{{ k }}={{ v }}{% endfor %} {{ tools is defined and tools is not none }} {{ enable_thinking is defined }}",
			"BE BRIEF. 3 b True x=1 False False", chat,
		},
		"gemma": {
			"{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
			"<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n", chat[1:],
		},
		"macro and json": {
			"{% macro say(m, tail='!') %}{{ m.role }}: {{ m | tojson }}{{ tail }}{% endmacro %}{{ say(messages[1]) }} {{ say(messages[1], tail='?') }}",
			"user: {\"role\": \"user\", \"content\": \"Hi\"}! user: {\"role\": \"user\", \"content\": \"Hi\"}?", chat,
		},
		"dates": {"{{ strftime_now('%d %b %Y') }}", "02 Jan 2026", nil},
	} {
		tpl, err := NewTemplate(md{"tokenizer.chat_template": c.src, "tokenizer.ggml.tokens": []string{"<s>"}, "tokenizer.ggml.bos_token_id": uint32(0)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := tpl.Render(RenderInput{Messages: c.messages, AddGenerationPrompt: true, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
		if err != nil || got != c.want {
			t.Errorf("%s: %v\n got %q\nwant %q", name, err, got, c.want)
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("a b\xff", "ab", uint32(1), "gpt2")
	f.Fuzz(func(t *testing.T, text, vocab string, bos uint32, model string) {
		var tokens, merges []string
		for i := range vocab {
			tokens = append(tokens, vocab[:i+1], vocab[i:i+1])
			merges = append(merges, vocab[:i]+" "+vocab[i:])
		}
		tok, err := New(md{
			"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
			"tokenizer.ggml.scores": make([]float32, len(tokens)), "tokenizer.ggml.bos_token_id": bos,
			"tokenizer.ggml.token_type": []int32{4, 3, 1, 6},
		})
		if err != nil {
			return
		}
		ids, err := tok.Encode(t.Context(), text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("token %d of %d", id, tok.VocabSize())
			}
		}
		tok.Decode(append(ids, -1, 1<<30), true)
	})
}

func BenchmarkEncode(b *testing.B) {
	tok := tokenizer(b, tiny)
	for name, text := range map[string]string{"english": strings.Repeat("Once upon a time, there was a fox. ", 30_000), "one letter": strings.Repeat("a", 1<<20)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := tok.Encode(b.Context(), text, EncodeOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// impatient is a context that ends after being checked a number of times.
type impatient struct {
	context.Context
	left, asked int
}

func (i *impatient) Err() error {
	if i.asked++; i.asked > i.left {
		return context.Canceled
	}
	return nil
}

// Work stops when the context ends, in whatever phase it is.
func TestEncodeStops(t *testing.T) {
	text := strings.Repeat("Once upon a time, in 1999, thère was a fox!\n", 1<<12)
	toks := []*Tokenizer{tokenizer(t, tiny), small(t, "llama", "")}
	for _, pre := range []string{"gpt-2", "deepseek-llm", "gemma4"} {
		toks = append(toks, small(t, "gpt2", pre))
	}
	for i, tok := range toks {
		want := &impatient{Context: t.Context(), left: 1 << 30}
		if _, err := tok.Encode(want, text, EncodeOptions{}); err != nil || want.asked < 8 {
			t.Fatalf("tokenizer %d: asked %d times, %v", i, want.asked, err)
		}
		for left := range 8 {
			who := &impatient{Context: t.Context(), left: left}
			if _, err := tok.Encode(who, text, EncodeOptions{}); !errors.Is(err, context.Canceled) || who.asked != left+1 {
				t.Errorf("tokenizer %d: asked %d times of %d, %v", i, who.asked, left, err)
			}
		}
	}
}

// TestStopsMet: of several sequences, the one that ended the text is named.
func TestStopsMet(t *testing.T) {
	s := NewStops([]string{"###", "END", ""})
	if _, stopped := s.Push("so EN"); stopped || s.Met() != "" {
		t.Errorf("met %q too early", s.Met())
	}
	if out, stopped := s.Push("D ###"); out != "" || !stopped || s.Met() != "END" {
		t.Errorf("got %q, %v, met %q", out, stopped, s.Met())
	}
}
