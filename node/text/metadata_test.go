package text

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// as converts a list of whole numbers to another type of GGUF's.
func as[T any](list []int32, convert func(int32) T) []T {
	out := make([]T, len(list))
	for i, x := range list {
		out[i] = convert(x)
	}
	return out
}

// everyList returns whole numbers in every type that GGUF has for them.
func everyList(list []int32) []any {
	return []any{
		list, as(list, func(x int32) int8 { return int8(x) }), as(list, func(x int32) uint8 { return uint8(x) }),
		as(list, func(x int32) int16 { return int16(x) }), as(list, func(x int32) uint16 { return uint16(x) }),
		as(list, func(x int32) uint32 { return uint32(x) }), as(list, func(x int32) int64 { return int64(x) }),
		as(list, func(x int32) uint64 { return uint64(x) }), as(list, func(x int32) float32 { return float32(x) }),
		as(list, func(x int32) float64 { return float64(x) }),
	}
}

// pieces is a small vocabulary of SentencePiece's kind.
func pieces() md {
	tokens := []string{"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab", "c", "abc"}
	return md{
		"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
		"tokenizer.ggml.scores":     []float32{0, 0, 0, 1, 1, 1, 4, 5, 1, 9},
		"tokenizer.ggml.token_type": []int32{2, 3, 3, 1, 1, 1, 1, 1, 1, 4},
	}
}

func with(m md, key string, v any) md {
	m = maps.Clone(m)
	if m[key] = v; v == nil {
		delete(m, key)
	}
	return m
}

func encoded(t *testing.T, m md, text string) string {
	t.Helper()
	tok, err := New(m)
	if err != nil {
		t.Errorf("%v: %v", m, err)
		return ""
	}
	ids, err := tok.Encode(t.Context(), text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(ids, tok.EOG())
}

// The tokenizer's values mean the same in every type.
func TestTableWidths(t *testing.T) {
	const text = "ab abc</s>a"
	want := encoded(t, pieces(), text)
	for key, list := range map[string][]int32{"scores": {0, 0, 0, 1, 1, 1, 4, 5, 1, 9}, "token_type": {2, 3, 3, 1, 1, 1, 1, 1, 1, 4}} {
		for _, v := range everyList(list) {
			if got := encoded(t, with(pieces(), "tokenizer.ggml."+key, v), text); got != want {
				t.Errorf("%s as %T: %s, want %s", key, v, got, want)
			}
		}
		longer := append(slices.Clone(list), 1, 1)
		if got := encoded(t, with(pieces(), "tokenizer.ggml."+key, longer), text); got != want {
			t.Errorf("%s of more than the tokens: %s, want %s", key, got, want)
		}
	}
	for key, n := range map[string]int32{"bos_token_id": 5, "eos_token_id": 8, "eot_token_id": 4, "eos_token_ids": 6, "add_bos_token": 0, "add_eos_token": 1, "add_space_prefix": 0} {
		key = "tokenizer.ggml." + key
		want := encoded(t, with(pieces(), key, n), text)
		if want == encoded(t, pieces(), text) {
			t.Errorf("%s = %d has no effect", key, n)
		}
		for _, list := range everyList([]int32{n}) {
			one := reflect.ValueOf(list).Index(0).Interface()
			if got := encoded(t, with(pieces(), key, one), text); got != want {
				t.Errorf("%s as %T: %s, want %s", key, one, got, want)
			}
			if !strings.Contains(key, "token_id") {
				continue
			}
			if got := encoded(t, with(pieces(), key, list), text); got != want {
				t.Errorf("%s as %T: %s, want %s", key, list, got, want)
			}
		}
	}
}

// Tables that llama.cpp does not need may be absent or empty.
func TestTablesAbsent(t *testing.T) {
	for _, key := range []string{"scores", "token_type"} {
		for _, v := range []any{nil, []float32{}, []int32{}, []string{}} {
			m := with(pieces(), "tokenizer.ggml."+key, v)
			if err := Check(m); err != nil {
				t.Errorf("%s = %v: %v", key, v, err)
			}
			if doubts := Doubts(m); (len(doubts) == 1) != (key == "scores") {
				t.Errorf("%s = %v: %q", key, v, doubts)
			}
		}
	}
	if d := Doubts(pieces()); d != nil {
		t.Error(d)
	}
}

// What has another type than the key can have is refused by the key's name.
func TestTablesRefused(t *testing.T) {
	for key, values := range map[string][]any{
		"model": {uint32(1), []string{"llama"}}, "pre": {uint32(1)}, "tokens": {"abc", []uint8{1}},
		"scores":       {"high", []string{"1", "2"}, []bool{true}, make([]float32, 3), uint32(1)},
		"token_type":   {"normal", []string{"1"}, make([]int32, 9), []float32{0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
		"bos_token_id": {"1", true, 1.5, []string{"<s>"}}, "eos_token_id": {"</s>", false}, "eos_token_ids": {"2", []string{"2"}}, "eot_token_id": {"2"},
		"add_bos_token": {"true", uint8(2), []bool{true}}, "add_eos_token": {"false"}, "add_space_prefix": {"yes", 0.5},
	} {
		for _, v := range values {
			if err := Check(with(pieces(), "tokenizer.ggml."+key, v)); !errors.Is(err, ErrVocabulary) || !strings.Contains(err.Error(), "tokenizer.ggml."+key) {
				t.Errorf("%s = %v (%T): %v", key, v, v, err)
			}
		}
	}
	bpe := md{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": []string{"a", "b", "ab"}, "tokenizer.ggml.merges": []string{"a b"}}
	if err := Check(bpe); err != nil {
		t.Error(err)
	}
	for _, v := range []any{nil, "a b", []string{}, []uint8{1}} {
		if err := Check(with(bpe, "tokenizer.ggml.merges", v)); !errors.Is(err, ErrVocabulary) || !strings.Contains(err.Error(), "tokenizer.ggml.merges") {
			t.Errorf("merges %v: %v", v, err)
		}
	}
	for _, v := range []any{uint32(1), []string{"{{ x }}"}} {
		for _, key := range []string{"tokenizer.chat_template", "tokenizer.chat_template.tool_use"} {
			if err := Check(with(bpe, key, v)); !errors.Is(err, ErrVocabulary) || !strings.Contains(err.Error(), key) {
				t.Errorf("%s = %v: %v", key, v, err)
			}
		}
	}
}

// A token id outside the vocabulary is one of writers who have no such token.
func TestNoSuchToken(t *testing.T) {
	want := encoded(t, pieces(), "ab")
	for _, v := range []any{int32(-1), uint32(1<<32 - 1), uint64(1<<64 - 1), int64(-1 << 63), uint32(10)} {
		for _, key := range []string{"bos_token_id", "eos_token_id", "eot_token_id"} {
			if got := encoded(t, with(pieces(), "tokenizer.ggml."+key, v), "ab"); got != want {
				t.Errorf("%s = %v: %s, want %s", key, v, got, want)
			}
		}
	}
}

func TestUnknownPre(t *testing.T) {
	m := md{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": []string{"a", "b", "ab"}, "tokenizer.ggml.merges": []string{"a b"}}
	for pre := range preTypes {
		if d := Doubts(with(m, "tokenizer.ggml.pre", pre)); (len(d) == 0) != (pre != "") {
			t.Errorf("%q: %q", pre, d)
		}
	}
	for _, v := range []any{nil, "never-heard-of", "qwen9"} {
		m := with(m, "tokenizer.ggml.pre", v)
		if err := Check(m); err != nil {
			t.Error(err)
		}
		if d := Doubts(m); len(d) != 1 || v != nil && !strings.Contains(d[0], v.(string)) {
			t.Errorf("%v: %q", v, d)
		}
	}
	if d := Doubts(with(pieces(), "tokenizer.ggml.pre", "default")); d != nil {
		t.Error("SentencePiece does not split by words:", d)
	}
}

// A file may have a template for chats with tools, and further ones.
func TestNamedTemplates(t *testing.T) {
	const (
		plain = "DEFAULT {% for m in messages %}{{ m.content }}{% endfor %}"
		tools = "TOOLUSE {% for t in tools %}{{ t.function.name }}:{{ t.function.parameters | tojson }} {% endfor %}{% for m in messages %}{{ m.content }}" +
			"{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
		rag = "RAG {{ documents }}"
	)
	hi := []Message{{Role: "user", Content: "hi"}}
	called := append(slices.Clone(hi), Message{Role: "assistant", ToolCalls: []ToolCall{{Name: "f", Arguments: `{"x": 1}`}}}, Message{Role: "tool", Content: "3"})
	f := []json.RawMessage{json.RawMessage(`{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}`)}
	for name, c := range map[string]struct {
		templates            md
		noTools, tools, past string // how texts begin; "": there is none
	}{
		"default alone":              {md{"": plain}, "DEFAULT hi", "DEFAULT hi", "DEFAULT hi3"},
		"both":                       {md{"": plain, "s": []string{"tool_use"}, ".tool_use": tools}, "DEFAULT hi", `TOOLUSE f:{"a": 1} hi`, `TOOLUSE hif{"x": 1}3`},
		"both, not listed":           {md{"": plain, ".tool_use": tools}, "DEFAULT hi", `TOOLUSE f:{"a": 1} hi`, `TOOLUSE hif{"x": 1}3`},
		"three":                      {md{"": plain, "s": []string{"rag", "tool_use"}, ".tool_use": tools, ".rag": rag}, "DEFAULT hi", `TOOLUSE f:{"a": 1} hi`, `TOOLUSE hif{"x": 1}3`},
		"the default named so":       {md{"s": []string{"tool_use", "default"}, ".default": plain, ".tool_use": tools}, "DEFAULT hi", `TOOLUSE f:{"a": 1} hi`, `TOOLUSE hif{"x": 1}3`},
		"for tools alone":            {md{"s": []string{"rag", "tool_use"}, ".tool_use": tools, ".rag": rag}, "TOOLUSE hi", `TOOLUSE f:{"a": 1} hi`, `TOOLUSE hif{"x": 1}3`},
		"another name":               {md{"s": []string{"tool_use", "chat"}, ".tool_use": tools, ".chat": plain}, "DEFAULT hi", `TOOLUSE f:{"a": 1} hi`, `TOOLUSE hif{"x": 1}3`},
		"for search alone":           {md{"s": []string{"rag"}, ".rag": rag}, "", "", ""},
		"one for tools without them": {md{"": plain, ".tool_use": "TOOLUSE"}, "DEFAULT hi", "DEFAULT hi", "DEFAULT hi3"},
	} {
		m := md{}
		for k, v := range c.templates {
			m["tokenizer.chat_template"+k] = v
		}
		tpl, err := NewTemplate(m)
		if c.noTools == "" {
			if !errors.Is(err, ErrNoTemplate) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for what, in := range map[string]struct {
			RenderInput
			want string
		}{"no tools": {RenderInput{Messages: hi}, c.noTools}, "tools": {RenderInput{Messages: hi, Tools: f}, c.tools}, "calls": {RenderInput{Messages: called}, c.past}} {
			if got, err := tpl.Render(in.RenderInput); err != nil || got != in.want {
				t.Errorf("%s, %s: %q (%v), want %q", name, what, got, err, in.want)
			}
		}
		if got := tpl.Traits().Tools; got != strings.HasPrefix(c.tools, "TOOLUSE") {
			t.Errorf("%s: tools %v", name, got)
		}
	}
	broken := md{"tokenizer.chat_template": plain, "tokenizer.chat_template.tool_use": "{% if"}
	tpl, err := NewTemplate(broken)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tpl.Render(RenderInput{Messages: hi, Tools: f}); err != nil || got != "DEFAULT hi" {
		t.Errorf("beside a broken one: %q, %v", got, err)
	}
	if d := Doubts(broken); len(d) != 1 || !strings.Contains(d[0], "tools") {
		t.Error(d)
	}
	if d := Doubts(md{"tokenizer.chat_template": "{{ x"}); len(d) != 1 || !strings.Contains(d[0], "chats") {
		t.Error(d)
	}
}
