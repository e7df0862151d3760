package generate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// toolsOf are the tools of a model by its metadata.
func toolsOf(t *testing.T, md text.Metadata) *Tools {
	t.Helper()
	tok, err := text.New(md)
	if err != nil {
		t.Fatal(err)
	}
	tools := &Tools{Tokenizer: tok, Compile: func(_ context.Context, format []*protocol.Piece) (*constrain.Machine, error) {
		return constrain.Compile(constrain.NewVocab(tok), format)
	}}
	if tools.Template, tools.TemplateErr = text.NewTemplate(md); tools.TemplateErr == nil {
		tools.Syntax = answer.Detect(tools.Template.Source())
	}
	return tools
}

// observed adds metrics, and traces that go nowhere.
func observed(cfg Config) Config {
	cfg.Metrics = metrics.New("test", func() metrics.State { return metrics.State{} })
	cfg.Tracer = noop.NewTracerProvider().Tracer("")
	return cfg
}

// withTemplate is a model's metadata with another chat template.
type withTemplate struct {
	text.Metadata
	template string
}

func (m withTemplate) Value(key string) any {
	if key == "tokenizer.chat_template" {
		return m.template
	}
	return m.Metadata.Value(key)
}

// chatOf returns a generation with the tiny model's tokenizer and a template, and the
// events that it emits.
func chatOf(t *testing.T, template string, req *api.GenerateRequest) (*generation, *[]api.Event) {
	t.Helper()
	raw := tinymodel.GGUF()
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	tools := toolsOf(t, withTemplate{h, template})
	events := &[]api.Event{}
	_, trace := New(observed(Config{})).observe(t.Context(), req)
	return &generation{prompt: prompt{tools: tools}, req: req, trace: trace, emit: func(e api.Event) error { *events = append(*events, e); return nil }}, events
}

// say feeds the tokens of a text as if a model had written it.
func say(t *testing.T, g *generation, s string) {
	t.Helper()
	ids, err := g.tools.Encode(t.Context(), s, text.EncodeOptions{ParseSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	g.beginReading()
	for i, id := range ids {
		if err := g.token(&protocol.Token{Index: uint32(i), Id: id}); err != nil {
			break
		}
	}
	if err := g.done(&session.Outcome{Tokens: len(ids)}, route.Prediction{}); err != nil {
		t.Fatal(err)
	}
}

// heard puts an answer together again.
func heard(events []api.Event) (shown, reasoning string, calls []api.FunctionCall, finish string) {
	for _, e := range events {
		list := []api.ToolCall(nil)
		switch {
		case e.Token != nil:
			shown, reasoning, list = shown+e.Token.Text, reasoning+e.Token.Reasoning, e.Token.Calls
		case e.Done != nil:
			shown, reasoning, list, finish = shown+e.Done.Text, reasoning+e.Done.Reasoning, e.Done.Calls, e.Done.FinishReason
		}
		for _, c := range list {
			calls = append(calls, c.Function)
		}
	}
	return shown, reasoning, calls, finish
}

// Small templates in the manner of Qwen's, and one that knows neither tools nor
// system messages.
const (
	qwenLike = `{%- if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls %}
<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}`
	thinkLike = `{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant><think>
`
	bareLike = `{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}`
	pickyIDs = `{% for m in messages %}{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('bad id') }}{% endif %}({{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}{% if m.role == 'tool' %}({{ m.tool_call_id }}){% endif %}{{ m.content }}{% endfor %}`
)

var (
	weather = []json.RawMessage{json.RawMessage(`{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"integer"}}}}}`)}
	asked   = api.Message{Role: "user", Content: "How is it?"}
	call    = api.ToolCall{ID: "call_1", Type: "function", Function: api.FunctionCall{Name: "weather", Arguments: `{"z": "x", "a": 1}`}}
)

func TestChatCalls(t *testing.T) {
	const said = "<think>\nHm, stop.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"z\": \"stop\", \"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>"
	first, second := api.FunctionCall{Name: "weather", Arguments: `{"z":"stop","a":1}`}, api.FunctionCall{Name: "weather", Arguments: "{}"}
	for _, test := range []struct {
		name                   string
		req                    api.GenerateRequest
		said                   string
		shown, thought, finish string
		calls                  []api.FunctionCall
	}{
		{"both", api.GenerateRequest{Tools: weather, Stop: []string{"stop"}}, said, "I look.", "Hm, stop.", "tool_calls", []api.FunctionCall{first, second}},
		{"the first alone", api.GenerateRequest{Tools: weather, OneCall: true}, said, "I look.", "Hm, stop.", "tool_calls", []api.FunctionCall{first}},
		{"stopped before", api.GenerateRequest{Tools: weather, Stop: []string{"look"}}, said, "I ", "Hm, stop.", "stop", nil},
		{"nothing on offer", api.GenerateRequest{}, "<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", "", "stop", nil},
		{"forced", api.GenerateRequest{Tools: weather, MustCall: true}, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>", "", "", "tool_calls", []api.FunctionCall{second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.req.Messages = []api.Message{asked}
			g, events := chatOf(t, qwenLike, &test.req)
			prompt, err := g.render()
			if err != nil {
				t.Fatal(err)
			}
			if offered := strings.Contains(prompt, `"z": {"type": "string"}, "a"`); offered != (test.req.Tools != nil) {
				t.Errorf("the prompt is %q", prompt)
			}
			say(t, g, test.said)
			shown, thought, calls, finish := heard(*events)
			if shown != test.shown || thought != test.thought || finish != test.finish || !reflect.DeepEqual(calls, test.calls) {
				t.Errorf("%q, reasoning %q, %+v, %s", shown, thought, calls, finish)
			}
		})
	}
}

func TestChatPrompts(t *testing.T) {
	past := []api.Message{asked, {Role: "assistant", ToolCalls: []api.ToolCall{call}}, {Role: "tool", Name: "weather", ToolCallID: "call_1", Content: "rain"}}
	for _, test := range []struct {
		name, template string
		req            api.GenerateRequest
		has            []string
		hasNot         string
	}{
		{"calls as the template has them", qwenLike, api.GenerateRequest{Messages: past}, []string{"<user>How is it?<assistant><tool_call>{\"name\": \"weather\", \"arguments\": {\"z\": \"x\", \"a\": 1}}</tool_call><tool>rain<assistant>"}, "<tools>"},
		{"no thinking", qwenLike, api.GenerateRequest{Messages: past, Think: "off"}, []string{"</think>"}, "<tools>"},
		{"thinking that was begun", thinkLike, api.GenerateRequest{Messages: []api.Message{asked}}, []string{"<assistant><think>"}, "</think>"},
		{"tools in words", thinkLike, api.GenerateRequest{Messages: past, Tools: weather}, []string{"<system>These functions can be called:\n{\"type\":\"function\"", "<assistant>{\"name\": \"weather\", \"arguments\": {\"z\": \"x\", \"a\": 1}}", "<user>The function weather gave: rain"}, "<tool>"},
		{"tools in words, where system messages are unknown", bareLike, api.GenerateRequest{Messages: past, Tools: weather}, []string{"[user]These functions", "How is it?[assistant]", "[user]The function weather gave: rain"}, "[tool]"},
		{"ids of nine letters", pickyIDs, api.GenerateRequest{Messages: past}, []string{` weather {"z": "x", "a": 1})`}, "call_1"},
	} {
		g, _ := chatOf(t, test.template, &test.req)
		prompt, err := g.render()
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		for _, s := range test.has {
			if !strings.Contains(prompt, s) {
				t.Errorf("%s: %q is not in %q", test.name, s, prompt)
			}
		}
		if strings.Contains(prompt, test.hasNot) {
			t.Errorf("%s: %q is in %q", test.name, test.hasNot, prompt)
		}
	}
}

// TestChatFormat: the model is told the schema, unless the caller has told it, or there is
// no room for it.
func TestChatFormat(t *testing.T) {
	schema := json.RawMessage(`{"type":"object","properties":{"a":{"description":"\u003cb>"}}}`)
	for name, test := range map[string]struct {
		template string
		req      api.GenerateRequest
		told     bool
		has      string
	}{
		"a system message":     {qwenLike, api.GenerateRequest{}, true, "<system>Answer with JSON that follows this schema"},
		"beside tools":         {qwenLike, api.GenerateRequest{Tools: weather}, true, "<system>Unless you call a function, answer with JSON"},
		"no system messages":   {bareLike, api.GenerateRequest{}, true, "[user]Answer with JSON"},
		"a call is demanded":   {qwenLike, api.GenerateRequest{Tools: weather, MustCall: true}, false, ""},
		"told by the caller":   {qwenLike, api.GenerateRequest{Messages: []api.Message{{Role: "user", Content: "Use { \"type\": \"object\",\n \"properties\": {\"a\": {\"description\": \"<b>\"}}}"}}}, false, ""},
		"a template's own way": {`{{ response_format.type }}` + qwenLike, api.GenerateRequest{}, false, "json_schema"},
	} {
		test.req.Format = schema
		if test.req.Messages == nil {
			test.req.Messages = []api.Message{asked}
		}
		g, _ := chatOf(t, test.template, &test.req)
		prompt, err := g.render()
		if err != nil || g.told != test.told || strings.Contains(prompt, string(schema)) != test.told || !strings.Contains(prompt, test.has) {
			t.Errorf("%s: told %v, %q, %v", name, g.told, prompt, err)
		}
	}
}

// TestLooseTools: a tool that the model is free to call, and whose parameters cannot be
// followed, does not keep it from answering in a format.
func TestLooseTools(t *testing.T) {
	odd := json.RawMessage(`{"type":"function","function":{"name":"odd","parameters":{"type":"object","properties":{"a":{"pattern":"x(?=y)"}}}}}`)
	req := &api.GenerateRequest{Messages: []api.Message{asked}, Tools: []json.RawMessage{weather[0], odd}, Format: json.RawMessage(`{"type":"object"}`)}
	g, _ := chatOf(t, qwenLike, req)
	if _, err := g.render(); err != nil {
		t.Fatal(err)
	}
	if err := g.compileFormat(t.Context()); err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]bool{"<tool_call>\n{\"name\": \"odd\", \"arguments\": {\"b\": 1}}": true, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"b\": 1}}": false} {
		ids, err := g.tools.Encode(t.Context(), said, text.EncodeOptions{ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.machine.Start(g.stopIDs()).Allowed(ids); (err == nil) != want {
			t.Errorf("%q: %v", said, err)
		}
	}
	req.MustCall = true
	g, _ = chatOf(t, qwenLike, req)
	if _, err := g.render(); err != nil {
		t.Fatal(err)
	}
	if err := g.compileFormat(t.Context()); err == nil || api.AsError(err).Param != "tools" || !strings.Contains(err.Error(), "odd") {
		t.Errorf("a demanded call: %v", err)
	}
}

// TestChatHostile: JSON that nests too deep is the caller's error.
func TestChatHostile(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	req := &api.GenerateRequest{Messages: []api.Message{asked, {Role: "assistant", ToolCalls: []api.ToolCall{{ID: "1", Function: api.FunctionCall{Name: "f", Arguments: deep}}}}}}
	g, _ := chatOf(t, qwenLike, req)
	if _, err := g.render(); err == nil || api.AsError(err).Kind != api.BadInput {
		t.Errorf("deep arguments: %v", err)
	}
	g, _ = chatOf(t, qwenLike, &api.GenerateRequest{Messages: []api.Message{asked}, Tools: []json.RawMessage{json.RawMessage(`{"type":"function","function":{"name":"f","parameters":` + deep + `}}`)}})
	if _, err := g.render(); err == nil || api.AsError(err).Kind != api.BadInput {
		t.Errorf("deep parameters: %v", err)
	}
}

// TestBrokenFormat: the client notices that a stage breaks the format that it has
// accepted, also after the reasoning.
func TestBrokenFormat(t *testing.T) {
	for _, test := range []struct {
		name, template, good, bad string
		req                       api.GenerateRequest
	}{
		{"a value", bareLike, `{"a": 1`, `x`, api.GenerateRequest{}},
		{"a value behind reasoning", thinkLike, "Well, {\n</think>\n\n" + `{"a": 1`, `x`, api.GenerateRequest{}},
		{"reasoning that is off", thinkLike, "\n\n</think>\n\n", `W`, api.GenerateRequest{Think: "off"}},
		{"a value beside tools", qwenLike, `{"a": 1`, `x`, api.GenerateRequest{Tools: weather}},
		{"a call beside a format", qwenLike, "<tool_call>\n" + `{"name": "weather", "arguments": {"z": "`, "\n", api.GenerateRequest{Tools: weather}},
		{"a call", qwenLike, "<think>I call.</think>\n<tool_call>\n" + `{"name": "weather", "arguments": {"z": "`, "\n", api.GenerateRequest{Tools: weather, MustCall: true}},
	} {
		test.req.Messages = []api.Message{asked}
		if !test.req.MustCall {
			test.req.Format = json.RawMessage(`{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`)
		}
		g, _ := chatOf(t, test.template, &test.req)
		if _, err := g.render(); err != nil {
			t.Fatal(err)
		}
		if err := g.compileFormat(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.format = g.machine.Start(g.tools.EOG())
		g.hops = []session.Hop{{Peer: "first"}, {Peer: "last"}}
		ids, err := g.tools.Encode(t.Context(), test.good, text.EncodeOptions{ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if err := g.checkFormat(id); err != nil {
				t.Fatalf("%s: %q: %v", test.name, g.tools.Token(id), err)
			}
		}
		wrong, err := g.tools.Encode(t.Context(), test.bad, text.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var where *session.StageError
		if err := g.checkFormat(wrong[0]); !errors.As(err, &where) || where.Index != 1 || where.Hop.Peer != "last" {
			t.Errorf("%s: %v", test.name, err)
		}
		if err := g.checkFormat(g.tools.EOG()[0]); err == nil {
			t.Errorf("%s: an end in the middle", test.name)
		}
	}
}
