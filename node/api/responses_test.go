package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/responses"
)

func TestResponse(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	p := responses.ResponseNewParams{Model: "speller", Instructions: openai.String("Spell x."), Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("smörgåsbord")}}
	var raw *http.Response
	got, err := c.Responses.New(t.Context(), p, option.WithResponseInto(&raw))
	if err != nil {
		t.Fatal(err)
	}
	prompt := int64(len("<system>Spell x.<user>smörgåsbord"))
	if got.OutputText() != "smörgåsbord" || got.Status != "completed" || got.Model != "speller" || got.Object != "response" || !strings.HasPrefix(got.ID, "resp_") ||
		got.Instructions.OfString != "Spell x." || got.Usage.InputTokensDetails.CachedTokens != 1 || got.Usage.InputTokens != prompt || got.Usage.OutputTokens != 13 || got.Usage.TotalTokens != prompt+13 || !strings.Contains(got.RawJSON(), `"store":true`) {
		t.Errorf("got %s", got.RawJSON())
	}
	if raw.Header.Get("X-Shoal-Route") != "peerA:0-4,peerB:4-8" || !strings.HasPrefix(raw.Header.Get("Server-Timing"), "ttft;dur=1.5") {
		t.Errorf("header %v", raw.Header)
	}
	// Cut short, with log probabilities.
	p.MaxOutputTokens, p.Include = openai.Int(5), []responses.ResponseIncludable{"message.output_text.logprobs"}
	if got, err = c.Responses.New(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	part := got.Output[0].Content[0]
	if got.Status != "incomplete" || got.IncompleteDetails.Reason != "max_output_tokens" || got.Output[0].Status != "incomplete" || part.Text != "smör" ||
		!strings.Contains(part.RawJSON(), `"logprob":-0.25`) {
		t.Errorf("got %s", got.RawJSON())
	}
	// An answer of nothing is a message, too.
	p.Input.OfString = openai.String("")
	if got, err = c.Responses.New(t.Context(), p); err != nil || len(got.Output) != 1 || got.Output[0].Type != "message" || got.OutputText() != "" {
		t.Errorf("%v, %s", err, got.RawJSON())
	}
}

// TestResponseStream: what the events add up to is what the last one holds.
func TestResponseStream(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	for _, test := range []struct {
		name, input string
		items       []string
	}{
		{"text", "smörgåsbord <b>&amp;", []string{"message"}},
		{"calls", "call weather", []string{"reasoning", "function_call", "reasoning", "function_call"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var raw *http.Response
			stream := c.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{
				Model: "speller", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(test.input)},
				Tools: []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{Name: "weather", Parameters: map[string]any{"type": "object"}}}},
			}, option.WithResponseInto(&raw))
			var kinds []string
			var items []string // ids, in the order of the output
			grown, last := map[string]string{}, responses.Response{}
			for n := int64(0); stream.Next(); n++ {
				e := stream.Current()
				if e.SequenceNumber != n {
					t.Fatalf("event %d has the number %d", n, e.SequenceNumber)
				}
				var plain struct {
					Delta string
					Text  string
					Item  struct{ ID string }
				}
				if err := json.Unmarshal([]byte(e.RawJSON()), &plain); err != nil {
					t.Fatal(err)
				}
				kinds = append(kinds, e.Type)
				switch {
				case e.Type == "response.output_item.added":
					if int(e.OutputIndex) != len(items) {
						t.Errorf("item %d comes as %d", len(items), e.OutputIndex)
					}
					items = append(items, plain.Item.ID)
				case strings.HasSuffix(e.Type, ".delta"):
					if e.ItemID != items[e.OutputIndex] {
						t.Errorf("a delta of %s, whose index is that of %s", e.ItemID, items[e.OutputIndex])
					}
					grown[e.ItemID] += plain.Delta
				case strings.HasSuffix(e.Type, "text.done") && plain.Text != grown[e.ItemID], strings.HasSuffix(e.Type, "arguments.done") && e.Arguments != grown[e.ItemID]:
					t.Errorf("%s grew to %q, and is %s", e.ItemID, grown[e.ItemID], e.RawJSON())
				case e.Type == "response.completed":
					last = e.Response
				}
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(kinds[:2], []string{"response.created", "response.in_progress"}) || kinds[len(kinds)-1] != "response.completed" {
				t.Errorf("events %v", kinds)
			}
			var types []string
			for i, it := range last.Output {
				types = append(types, it.Type)
				if it.ID != items[i] || it.Status != "completed" {
					t.Errorf("item %d is %s", i, it.RawJSON())
				}
				want := grown[it.ID]
				if it.Type == "function_call" && (it.Arguments != want || it.Name != "weather" || !strings.HasPrefix(it.CallID, "call_")) || it.Type == "message" && it.Content[0].Text != want {
					t.Errorf("%q grew to %s", want, it.RawJSON())
				}
			}
			if !reflect.DeepEqual(types, test.items) || last.Usage.OutputTokens == 0 {
				t.Errorf("got %s", last.RawJSON())
			}
			if test.name == "text" && last.OutputText() != test.input {
				t.Errorf("got %q", last.OutputText())
			}
			if raw.Header.Get("X-Shoal-Route") == "" || !strings.HasPrefix(raw.Trailer.Get("Server-Timing"), "ttft;dur=") {
				t.Errorf("header %v, trailer %v", raw.Header, raw.Trailer)
			}
		})
	}
}

// TestResponseInput: items become the chat that they were.
func TestResponseInput(t *testing.T) {
	j, err := decodeResponse([]byte(`{"model":"m","instructions":"Be brief.","input":[
		{"role":"developer","content":"Really."},
		{"role":"user","content":[{"type":"input_text","text":"Weather in "},{"type":"input_text","text":"Rome?"}]},
		{"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"Call both."}]},
		{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"I look.","annotations":[]}]},
		{"type":"function_call","id":"fc_1","call_id":"c1","name":"weather","arguments":"{\"city\":\"Rome\"}"},
		{"type":"function_call","call_id":"c2","name":"clock","arguments":""},
		{"type":"function_call_output","call_id":"c2","output":"noon"},
		{"type":"function_call_output","call_id":"c1","output":[{"type":"input_text","text":"sun"}]},
		{"type":"reasoning","summary":[{"type":"summary_text","text":"hidden"}],"encrypted_content":"x"},
		{"type":"function_call","call_id":"c3","name":"clock","arguments":"{}"},
		{"type":"function_call_output","call_id":"c3","output":"one"}],
		"tools":[{"type":"function","name":"weather","description":"d","parameters":{"type":"object"},"strict":true},{"type":"function","name":"clock"}],
		"tool_choice":{"type":"function","name":"clock"},"parallel_tool_calls":false,"reasoning":{"effort":"low","summary":"auto"},
		"max_output_tokens":9,"temperature":0,"top_logprobs":2,"store":true,"metadata":{"a":"b"}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	call := func(id, name, args string) ToolCall {
		return ToolCall{ID: id, Type: "function", Function: FunctionCall{Name: name, Arguments: args}}
	}
	want := []Message{
		{Role: "system", Content: "Be brief."}, {Role: "system", Content: "Really."}, {Role: "user", Content: "Weather in Rome?"},
		{Role: "assistant", Content: "I look.", Reasoning: "Call both.", ToolCalls: []ToolCall{call("c1", "weather", `{"city":"Rome"}`), call("c2", "clock", "{}")}},
		{Role: "tool", Content: "noon", ToolCallID: "c2", Name: "clock"}, {Role: "tool", Content: "sun", ToolCallID: "c1", Name: "weather"},
		{Role: "assistant", ToolCalls: []ToolCall{call("c3", "clock", "{}")}}, {Role: "tool", Content: "one", ToolCallID: "c3", Name: "clock"},
	}
	g := j.reqs[0]
	if !reflect.DeepEqual(g.Messages, want) {
		t.Errorf("got  %+v\nwant %+v", g.Messages, want)
	}
	if !g.MustCall || !g.OneCall || len(g.Tools) != 1 || !strings.Contains(string(g.Tools[0]), `"function":{"name":"clock"}`) || g.Think != "low" || g.MaxTokens != 9 ||
		*g.Sampling.Temperature != 0 || !g.Sampling.Logprobs || g.Sampling.TopLogprobs != 2 {
		t.Errorf("got %+v", g)
	}
	j, err = decodeResponse([]byte(`{"input":"x","text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true},"verbosity":"low"}}`), nil)
	if err != nil || string(j.reqs[0].Format) != `{"type":"object"}` {
		t.Errorf("%v, %+v", err, j)
	}
}

// TestResponseRefuses: errors name fields as the caller knows them.
func TestResponseRefuses(t *testing.T) {
	for body, param := range map[string]string{
		`{}`:           "input",
		`{"input":[]}`: "input",
		`{"input":7}`:  "input",
		`{"input":"x","previous_response_id":"resp_1"}`:                                     "previous_response_id",
		`{"input":"x","background":true}`:                                                   "background",
		`{"input":"x","truncation":"some"}`:                                                 "truncation",
		`{"input":"x","conversation":"c"}`:                                                  "conversation",
		`{"input":"x","max_output_tokens":0}`:                                               "max_output_tokens",
		`{"input":"x","temperature":-1}`:                                                    "temperature",
		`{"input":"x","reasoning":{"effort":"so so"}}`:                                      "reasoning.effort",
		`{"input":"x","tools":[{"type":"web_search"}],"tool_choice":"required"}`:            "tool_choice",
		`{"input":"x","tools":[{"type":"web_search"}],"tool_choice":{"type":"web_search"}}`: "tool_choice",
		`{"input":"x","tools":[{"type":"mcp"}],"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"mcp"}]}}`:        "tool_choice.tools",
		`{"input":"x","tools":[{"type":"function","name":"a"},{"type":"namespace","name":"n","tools":[{"type":"custom","name":"a b"}]}]}`: "tools[1].tools[0].name",
		`{"input":"x","tools":[{"type":"namespace","name":"n","tools":[{"type":"namespace","name":"m"}]}]}`:                               "tools[0].tools[0].type",
		`{"input":"x","tools":[{"type":7}]}`:                                                                  "tools[0].type",
		`{"input":"x","tools":[{}]}`:                                                                          "tools[0].type",
		`{"input":"x","tools":[{"type":"function","name":"a b"}]}`:                                            "tools[0].name",
		`{"input":"x","tools":[{"type":"function","name":"a","parameters":3}]}`:                               "tools[0].parameters",
		`{"input":"x","tools":[{"type":"function","name":"a"}],"tool_choice":{"type":"function","name":"b"}}`: "tool_choice.name",
		`{"input":"x","text":{"format":{"type":"xml"}}}`:                                                      "text.format.type",
		`{"input":"x","text":{"format":{"type":"json_schema"}}}`:                                              "text.format.schema",
		`{"instructions":"x","input":[{"role":"user","content":[{"type":"input_image"}]}]}`:                   "input[0].content[0].type",
		`{"instructions":"x","input":[{"role":"king","content":"x"}]}`:                                        "input[0].role",
		`{"input":[{"type":"item_reference","id":"x"}]}`:                                                      "input[0]",
		`{"input":[{"type":"mesage"}]}`:                                                                       "input[0].type",
		`{"input":[7]}`:                                                                                       "input[0]",
		`{"input":[{"type":"function_call","call_id":"c","name":"f"},{"type":"function_call_output","call_id":"c","output":[{"type":"input_image"}]}]}`: "input[1].output[0].type",
		`{"input":[{"type":"web_search_call","id":"ws_1"}]}`: "input",
	} {
		_, err := decodeResponse([]byte(body), nil)
		if err == nil {
			t.Errorf("%s is taken", body)
			continue
		}
		if e := AsError(err); (e.Kind != BadInput || !strings.HasPrefix(e.Message, param+" ")) && e.status() == http.StatusBadRequest && e.Kind != NoPrevious || e.Param != param {
			t.Errorf("%s: %+v, want one of %s", body, e, param)
		}
	}
}

// TestResponseFails: before the first event an error is a status, after it an
// event that the official client takes for an error.
func TestResponseFails(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	p := responses.ResponseNewParams{Model: "split", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("x")}}
	var e *openai.Error
	if _, err := c.Responses.New(t.Context(), p); !errors.As(err, &e) || e.StatusCode != http.StatusServiceUnavailable {
		t.Error(err)
	}
	srv := httptest.NewServer(New(Config{Generator: odd(func(emit func(Event) error) error {
		return errors.Join(emit(Event{Start: &Start{Model: "m"}}), emit(Event{Token: &Token{Text: "so"}}))
	})}))
	defer srv.Close()
	c = newOpenAI(srv.URL)
	stream := c.Responses.NewStreaming(t.Context(), p)
	for stream.Next() {
		if stream.Current().Type == "response.completed" {
			t.Error("it is called complete")
		}
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "without saying why") {
		t.Errorf("the client was told %v", err)
	}
}

// FuzzDecodeResponse: as FuzzDecode.
func FuzzDecodeResponse(f *testing.F) {
	for _, body := range []string{
		`{"input":"hi","stream":true,"instructions":"\ud800"}`,
		`{"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]},{"type":"reasoning","content":[{"text":"t"}]},{"type":"function_call","call_id":"c","name":"f","arguments":{"a":1}},{"type":"function_call_output","call_id":"c","output":"o"}]}`,
		`{"input":"x","tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"f"},"text":{"format":{"type":"json_object"}}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		j, err := decodeResponse(body, nil)
		if err != nil {
			if e := AsError(err); e.Kind != BadInput && e.Kind != NotFound && e.Kind != NoPrevious || e.Message == "" || strings.Contains(e.Param, "messages[") {
				t.Fatalf("%q: %#v", body, err)
			}
			return
		}
		if len(j.reqs) != 1 || j.reqs[0].Messages == nil {
			t.Fatalf("%q: %+v", body, j.reqs)
		}
		for _, m := range j.reqs[0].Messages {
			if !utf8.ValidString(m.Content) {
				t.Fatalf("%q: content is no UTF-8", body)
			}
		}
		again(t, j.reqs[0])
		if _, err := json.Marshal((&responseWriter{responseJob: j}).begun(time.Time{})); err != nil {
			t.Fatal(err)
		}
	})
}
