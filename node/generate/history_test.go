package generate

import (
	"reflect"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
)

// strictLike is a template that refuses results without a call, and calls whose arguments
// are no objects, as many do.
const strictLike = `{% set ns = namespace(called=false) %}{% for m in messages %}{% if m.role == 'tool' and not ns.called %}{{ raise_exception('a result of no call') }}{% endif %}` +
	`<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls %}{% set ns.called = true %}<call>{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}</call>{% endfor %}{% endfor %}<assistant>`

// TestOddHistories: what a template refuses is told to the model in words.
func TestOddHistories(t *testing.T) {
	orphan := api.Message{Role: "tool", Name: "weather", ToolCallID: "gone", Content: "21 C"}
	odd := func(args string) api.Message {
		return api.Message{Role: "assistant", ToolCalls: []api.ToolCall{{ID: "c", Function: api.FunctionCall{Name: "weather", Arguments: args}}}}
	}
	result := api.Message{Role: "tool", Name: "weather", ToolCallID: "c", Content: "rain"}
	for _, c := range []struct {
		name, template string
		messages       []api.Message
		has            string
	}{
		{"a result of no call", strictLike, []api.Message{orphan, asked}, "<user>The function weather gave: 21 C<user>How is it?"},
		{"a result of no function", strictLike, []api.Message{{Role: "tool", Content: "21 C"}, asked}, "<user>A function gave: 21 C"},
		{"a result of no call, where that is taken", qwenLike, []api.Message{orphan, asked}, "<tool>21 C<user>"},
		{"half a call", strictLike, []api.Message{asked, odd(`{"z": `), result}, `{"name": "weather", "arguments": "{\"z\": "}<user>The function weather gave: rain`},
		{"half a call, where that is taken", qwenLike, []api.Message{asked, odd(`{"z": `), result}, `"arguments": "{\"z\": "}</tool_call><tool>rain`},
		{"a list", strictLike, []api.Message{asked, odd(`[1]`), result}, `"arguments": [1]}`},
		{"half a call, in words", bareLike, []api.Message{asked, odd("go"), result}, `{"name": "weather", "arguments": "go"}`},
	} {
		g, _ := chatOf(t, c.template, &api.GenerateRequest{Messages: c.messages})
		prompt, err := g.render()
		if err != nil || !strings.Contains(prompt, c.has) {
			t.Errorf("%s: %q, %v: want %q", c.name, prompt, err, c.has)
		}
	}
}

// TestContinue: the prompt ends with the last message, as the template writes it.
func TestContinue(t *testing.T) {
	const trims = `{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`
	const drops = `{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}`
	for _, c := range []struct{ template, said, ends string }{
		{qwenLike, "It is ", "<assistant>It is "}, {trims, " It is ", "<assistant>It is"}, {qwenLike, "How is it?", "<user>How is it?<assistant>How is it?"}, {drops, "It is", ""},
	} {
		g, _ := chatOf(t, c.template, &api.GenerateRequest{Continue: true, Messages: []api.Message{asked, {Role: "assistant", Content: c.said}}})
		prompt, err := g.render()
		if (err != nil) != (c.ends == "") || !strings.HasSuffix(prompt, c.ends) {
			t.Errorf("%q: %q, %v", c.said, prompt, err)
		}
	}
}

// TestCutCall: a call that must come and is cut off comes as a call.
func TestCutCall(t *testing.T) {
	for _, c := range []struct {
		said  string
		calls []api.FunctionCall
	}{
		{"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"z\": \"Os", []api.FunctionCall{{Name: "weather", Arguments: `{"z": "Os`}}},
		{"<tool_call>\n{\"na", []api.FunctionCall{{Name: "weather"}}},
		{"<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"z", []api.FunctionCall{{Name: "weather", Arguments: "{}"}, {Name: "weather", Arguments: `{"z`}}},
		{"<think>\nI call weather", nil},
	} {
		g, events := chatOf(t, qwenLike, &api.GenerateRequest{Tools: weather, MustCall: true, Messages: []api.Message{asked}})
		if _, err := g.render(); err != nil {
			t.Fatal(err)
		}
		ids, err := g.tools.Encode(t.Context(), c.said, text.EncodeOptions{ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		g.beginReading()
		for i, id := range ids {
			if err := g.token(&protocol.Token{Index: uint32(i), Id: id}); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.done(&session.Outcome{Tokens: len(ids), Finish: protocol.Finish_FINISH_LENGTH}, route.Prediction{}); err != nil {
			t.Fatal(err)
		}
		shown, _, calls, finish := heard(*events)
		if strings.TrimSpace(shown) != "" || finish != "length" || !reflect.DeepEqual(calls, c.calls) {
			t.Errorf("%q: %q, %q, %s", c.said, shown, calls, finish)
		}
	}
}

// TestTooLongWords: clients look for OpenAI's words.
func TestTooLongWords(t *testing.T) {
	err := tooLong(512, "the prompt has %d tokens", 600)
	if api.AsError(err).Kind != api.TooLong || !strings.HasPrefix(err.Error(), "This model's maximum context length is 512 tokens. However, the prompt has 600 tokens") {
		t.Error(err)
	}
	if e := explain(protocol.Errorf(protocol.Code_CODE_TOO_LONG, "a session of 9 tokens")); !strings.Contains(e.Error(), "maximum context length") {
		t.Error(e)
	}
}
