package api

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecodeChat(t *testing.T) {
	zero, one := 0.0, 1.0
	for _, test := range []struct {
		name, body string
		want       GenerateRequest
	}{
		{"plain", `{"messages":[{"role":"user","content":"hi"}]}`,
			GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}}}},
		{"all", `{"model":"m","messages":[{"role":"developer","content":"be"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"eve"},{"role":"assistant","content":""}],
			"max_tokens":5,"max_completion_tokens":7,"temperature":0,"top_p":0.5,"top_k":-1,"min_p":0.1,"repetition_penalty":1.1,"presence_penalty":-1,"frequency_penalty":2,
			"seed":-2,"stop":["x","y"],"logprobs":true,"top_logprobs":20,"shoal":{"route":[{"peer":"p","from":0,"to":3},{"peer":"q","from":3,"to":9}],"max_stages":2}}`,
			GenerateRequest{Model: "m", Messages: []Message{{Role: "system", Content: "be"}, {Role: "user", Content: "ab", Name: "eve"}, {Role: "assistant"}},
				MaxTokens: 7, Stop: []string{"x", "y"}, Route: []Hop{{Peer: "p", From: 0, To: 3}, {Peer: "q", From: 3, To: 9}}, MaxStages: 2,
				Sampling: Sampling{Temperature: &zero, TopP: new(0.5), MinP: 0.1, RepeatPenalty: 1.1, PresencePenalty: -1, FrequencyPenalty: 2,
					Seed: new(uint64(math.MaxUint64 - 1)), Logprobs: true, TopLogprobs: 20}}},
		{"what clients send for nothing", `{"messages":[{"role":"user","content":"hi","tool_calls":[]}],"tools":[],"tool_choice":"auto","response_format":{"type":"text"},"logit_bias":{},
			"modalities":["text"],"store":false,"stop":null,"seed":null,"n":null,"max_tokens":null,"user":"u","metadata":{"a":"b"},"parallel_tool_calls":true,"chat_template_kwargs":{},"temperature":1,"stream_options":null}`,
			GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}}, Sampling: Sampling{Temperature: &one}}},
		{"other runners' words", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":-1,"repeat_penalty":1.3,"top_p":0,"seed":18446744073709551615,"stop":"s"}`,
			GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}}, Stop: []string{"s"}, Sampling: Sampling{RepeatPenalty: 1.3, TopP: &zero, Seed: new(uint64(math.MaxUint64))}}},
		{"tools", `{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":null,"reasoning":"hm","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},{"id":"2","function":{"name":"g","arguments":{"b":2}}}]},
			{"role":"tool","tool_call_id":"2","content":"two"}],"tools":[{"type":"function","function":{"name":"f"}}, {"type":"function","function":{"name":"g"}}],"tool_choice":{"type":"function","function":{"name":"g"}},"parallel_tool_calls":false,"reasoning_effort":"minimal"}`,
			GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}, {Role: "assistant", Reasoning: "hm", ToolCalls: []ToolCall{{"1", "function", FunctionCall{"f", `{"a": 1}`}}, {"2", "function", FunctionCall{"g", `{"b":2}`}}}},
				{Role: "tool", Content: "two", Name: "g", ToolCallID: "2"}}, Tools: []json.RawMessage{json.RawMessage(`{"type":"function","function":{"name":"g"}}`)}, MustCall: true, OneCall: true, Think: "low"}},
		{"a schema", `{"messages":[{"role":"user","content":"hi"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type": "object"}}},"chat_template_kwargs":{"enable_thinking":false}}`,
			GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}}, Format: json.RawMessage(`{"type":"object"}`), Think: "off"}},
	} {
		j, err := decodeChat([]byte(test.body))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if len(j.reqs) != 1 || !reflect.DeepEqual(*j.reqs[0], test.want) {
			t.Errorf("%s: got  %+v\nwant %+v", test.name, *j.reqs[0], test.want)
		}
	}
}

// TestDecodeRefuses: what is wrong is refused with the field's name, and
// nothing of the request's text is in the error.
func TestDecodeRefuses(t *testing.T) {
	const ok = `"messages":[{"role":"user","content":"x"}]`
	for _, test := range []struct{ body, param string }{
		{``, ""}, {`[]`, ""}, {`null`, ""}, {`"SECRET"`, ""}, {`{"messages":`, ""}, {`{` + ok + `}{}`, ""}, {`{SECRET}`, ""},
		{`{}`, "messages"}, {`{"messages":[]}`, "messages"}, {`{"messages":"SECRET"}`, "messages"}, {`{"messages":[1]}`, "messages"},
		{`{"messages":[{"role":"user"}]}`, "messages[0].content"},
		{`{"messages":[{"role":"user","content":7}]}`, "messages[0].content"},
		{`{"messages":[{"role":"assistant","content":{}}]}`, "messages[0].content"},
		{`{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":5}]}]}`, "messages[0].content[0].thinking"},
		{`{"messages":[{"role":"user","content":"a"},{"role":"SECRETS","content":"b"}]}`, "messages[1].role"},
		{`{"messages":[{"role":"function","content":"b"}]}`, "messages[0].role"},
		{`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"SECRET"}}]}]}`, "messages[0].content[1].type"},
		{`{"messages":[{"role":"user","content":["SECRET"]}]}`, "messages[0].content[0]"},
		{`{"messages":[{"role":"user","content":[{"type":"text","text":5}]}]}`, "messages[0].content[0].text"},
		{`{"messages":[{"role":"assistant","content":"","tool_calls":[{"id":"SECRET"}]}]}`, "messages[0].tool_calls[0].function.name"},
		{`{"messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"custom"}]}]}`, "messages[0].tool_calls[0].type"},
		{`{"messages":[{"role":"user","content":"","tool_calls":[{"id":"1"}]}]}`, "messages[0].tool_calls"},
		{`{"messages":[{"role":"assistant","content":"","function_call":{"name":"f"}}]}`, "messages[0].function_call"},
		{`{` + ok + `,"temperature":-1}`, "temperature"}, {`{` + ok + `,"temperature":"hot"}`, "temperature"}, {`{` + ok + `,"temperature":1e999}`, "temperature"},
		{`{` + ok + `,"top_p":1.01}`, "top_p"}, {`{` + ok + `,"top_p":"x"}`, "top_p"}, {`{` + ok + `,"top_k":4294967297}`, "top_k"}, {`{` + ok + `,"min_p":-0.1}`, "min_p"}, {`{` + ok + `,"top_k":-2}`, "top_k"},
		{`{` + ok + `,"repetition_penalty":-1}`, "repetition_penalty"}, {`{` + ok + `,"repeat_penalty":-1}`, "repeat_penalty"},
		{`{` + ok + `,"presence_penalty":1000}`, "presence_penalty"}, {`{` + ok + `,"frequency_penalty":"x"}`, "frequency_penalty"},
		{`{` + ok + `,"max_tokens":0}`, "max_tokens"}, {`{` + ok + `,"max_tokens":1.5}`, "max_tokens"}, {`{` + ok + `,"max_completion_tokens":-2}`, "max_completion_tokens"},
		{`{` + ok + `,"n":0}`, "n"}, {`{` + ok + `,"n":129}`, "n"}, {`{` + ok + `,"seed":1.5}`, "seed"}, {`{` + ok + `,"seed":"SECRET"}`, "seed"},
		{`{` + ok + `,"seed":99999999999999999999}`, "seed"},
		{`{` + ok + `,"stop":5}`, "stop"}, {`{` + ok + `,"stop":["` + strings.Repeat("x", 1025) + `"]}`, "stop[0]"}, {`{` + ok + `,"stop":["a",7]}`, "stop"},
		{`{` + ok + `,"stop":["1"` + strings.Repeat(`,"2"`, 128) + `]}`, "stop"},
		{`{` + ok + `,"top_logprobs":1}`, "top_logprobs"}, {`{` + ok + `,"logprobs":true,"top_logprobs":21}`, "top_logprobs"}, {`{` + ok + `,"logprobs":3}`, "logprobs"},
		{`{` + ok + `,"stream_options":{"include_usage":true}}`, "stream_options"}, {`{` + ok + `,"stream":"yes"}`, "stream"},
		{`{` + ok + `,"tools":[{"type":"function"}]}`, "tools[0].function.name"}, {`{` + ok + `,"tools":{}}`, "tools"}, {`{` + ok + `,"tools":["x"]}`, "tools[0]"},
		{`{` + ok + `,"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]}`, "tools[1].function.name"},
		{`{` + ok + `,"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]}`, "tools[0].function.parameters"}, {`{` + ok + `,"tools":[{"type":"web_search"}]}`, "tools[0].type"},
		{`{` + ok + `,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"SECRET"}}}`, "tool_choice.function.name"},
		{`{` + ok + `,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"some"}`, "tool_choice"},
		{`{` + ok + `,"reasoning_effort":"SECRET"}`, "reasoning_effort"},
		{`{` + ok + `,"tool_choice":"required"}`, "tool_choice"}, {`{` + ok + `,"functions":[{}]}`, "functions"},
		{`{` + ok + `,"response_format":{"type":"xml"}}`, "response_format.type"}, {`{` + ok + `,"response_format":{"type":"json_schema"}}`, "response_format.json_schema.schema"},
		{`{` + ok + `,"response_format":{"type":"json_schema","json_schema":{"schema":true}}}`, "response_format.json_schema.schema"}, {`{` + ok + `,"logit_bias":{"1":2}}`, "logit_bias"},
		{`{` + ok + `,"modalities":["text","audio"]}`, "modalities"}, {`{` + ok + `,"audio":{"voice":"SECRET"}}`, "audio"},
		{`{` + ok + `,"web_search_options":{}}`, "web_search_options"}, {`{` + ok + `,"min_tokens":3}`, "min_tokens"}, {`{` + ok + `,"use_beam_search":true}`, "use_beam_search"}, {`{` + ok + `,"truncate_prompt_tokens":9}`, "truncate_prompt_tokens"},
		{`{` + ok + `,"echo":true}`, "echo"}, {`{` + ok + `,"best_of":2}`, "best_of"},
		{`{` + ok + `,"continue_final_message":true}`, "continue_final_message"}, {`{` + ok + `,"add_generation_prompt":false}`, "add_generation_prompt"},
		{`{` + ok + `,"tools":[{"function":{"name":"f"}}],"tool_choice":{"type":"function","name":"f"}}`, "tool_choice.function.name"},
		{`{` + ok + `,"tools":[{"function":{"name":"f"}}],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"g"}}]}}}`, "tool_choice.allowed_tools.tools[0].function.name"},
		{`{` + ok + `,"shoal":{"details":true},"n":2}`, "shoal.details"}, {`{` + ok + `,"shoal":{"max_stages":65}}`, "shoal.max_stages"},
		{`{` + ok + `,"shoal":{"route":[{"peer":"p","from":1,"to":3}]}}`, "shoal.route[0]"},
		{`{` + ok + `,"shoal":{"route":[{"peer":"p","from":0,"to":3},{"peer":"q","from":4,"to":5}]}}`, "shoal.route[1]"},
		{`{` + ok + `,"shoal":{"route":[{"from":0,"to":3}]}}`, "shoal.route[0]"}, {`{` + ok + `,"shoal":{"route":[{"peer":"p","from":0,"to":0}]}}`, "shoal.route[0]"},
	} {
		_, err := decodeChat([]byte(test.body))
		checkRefusal(t, test.body, test.param, err)
	}
	for _, test := range []struct{ body, param string }{
		{`{}`, "prompt"}, {`{"prompt":null}`, "prompt"}, {`{"prompt":[]}`, "prompt"}, {`{"prompt":{}}`, "prompt"}, {`{"prompt":[true]}`, "prompt[0]"},
		{`{"prompt":[[]]}`, "prompt[0]"}, {`{"prompt":[1,-2]}`, "prompt[1]"}, {`{"prompt":[1,"SECRET"]}`, "prompt"}, {`{"prompt":["a",5]}`, "prompt[1]"}, {`{"prompt":[1,5000000000]}`, "prompt"},
		{`{"prompt":"a","logprobs":21}`, "logprobs"}, {`{"prompt":"a","logprobs":true}`, "logprobs"},
		{`{"prompt":"a","best_of":1,"n":2}`, "best_of"}, {`{"prompt":"a","best_of":2,"stream":true}`, "best_of"}, {`{"prompt":"a","best_of":200}`, "best_of"}, {`{"prompt":"a","suffix":"SECRET"}`, "suffix"}, {`{"prompt":["a","b"],"n":65}`, "n"},
	} {
		_, err := decodeCompletion([]byte(test.body))
		checkRefusal(t, test.body, test.param, err)
	}
}

func checkRefusal(t *testing.T, body, param string, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != BadInput || e.Param != param {
		t.Errorf("%s: got %#v, want an error at %q", body, err, param)
		return
	}
	if strings.Contains(e.Message, "SECRET") && !strings.HasSuffix(param, ".role") && param != "reasoning_effort" {
		t.Errorf("%s: the error repeats it: %s", body, e.Message)
	}
}

func TestDecodeCompletion(t *testing.T) {
	j, err := decodeCompletion([]byte(`{"prompt":["a",[1,2]],"n":2,"seed":5,"logprobs":0}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(j.reqs) != 4 || j.reqs[1].Prompt != "a" || *j.reqs[1].Sampling.Seed != 6 || *j.reqs[2].Sampling.Seed != 5 || !reflect.DeepEqual(j.reqs[3].PromptIDs, []int32{1, 2}) {
		t.Errorf("got %+v", j.reqs)
	}
	for _, r := range j.reqs {
		if !r.Raw || !r.Sampling.Logprobs || r.Sampling.TopLogprobs != 0 || r.MaxTokens != completionTokens {
			t.Errorf("got %+v", r)
		}
	}
}

// FuzzDecode: whatever comes in, the answer is a usable request or an error of
// the caller's; and what is accepted survives being sent on by a Client.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		`{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true},"n":2,"seed":3,"stop":["a"],"top_p":0}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"\ud800"}]}],"logprobs":true,"top_logprobs":3,"shoal":{"details":true,"route":[{"peer":"p","from":0,"to":1}]}}`,
		`{"messages":[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":{"b":2}}}]},{"role":"tool","tool_call_id":"1","content":"two"}],"tools":[{"type":"function","function":{"name":"f","parameters":{ "a":"<"}}}],"tool_choice":"required"}`,
		`{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"},"reasoning_effort":"none"}`,
		`{"prompt":"a","max_tokens":3,"echo":true}`, `{"prompt":[[1,2],"b"],"max_tokens":0,"echo":true,"logprobs":1}`, `{"prompt":[[1,2],"b"],"logprobs":2,"best_of":1,"seed":-9223372036854775808}`,
		`{"prompt":[1,2],"temperature":1e38,"tools":[],"suffix":""}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, decode := range []func([]byte) (*job, error){decodeChat, decodeCompletion} {
			j, err := decode(body)
			if err != nil {
				if e := AsError(err); e.Kind != BadInput || e.Message == "" {
					t.Fatalf("%q: %#v", body, err)
				}
				continue
			}
			if len(j.reqs) < 1 || len(j.reqs) > maxChoices || j.echo != nil && len(j.echo) != len(j.reqs) {
				t.Fatalf("%q: %d choices", body, len(j.reqs))
			}
			for _, r := range j.reqs {
				s := r.Sampling
				if s.TopP != nil && !(*s.TopP >= 0 && *s.TopP <= 1) || s.MinP < 0 || s.MinP > 1 || s.TopK < 0 || r.MaxTokens < 0 || s.TopLogprobs > maxTopLogprobs || s.Temperature != nil && !(*s.Temperature >= 0) {
					t.Fatalf("%q: got %+v", body, r)
				}
				if r.Raw == (r.Messages != nil) {
					t.Fatalf("%q: neither messages nor a prompt, or both", body)
				}
				for _, m := range r.Messages {
					if !utf8.ValidString(m.Content) {
						t.Fatalf("%q: content is no UTF-8", body)
					}
				}
				r.Shared = nil // by its choices, and with no other request
				again(t, r)
			}
		}
	})
}

func again(t *testing.T, r *GenerateRequest) {
	t.Helper()
	path, body, err := wireRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	decode := decodeChat
	if path == "/v1/completions" {
		decode = decodeCompletion
	}
	j, err := decode(raw)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	if got := j.reqs[0]; !reflect.DeepEqual(got, r) {
		t.Fatalf("sent on it became %+v, and was %+v", got, r)
	}
}

// The choices of a prompt share what is made of it, and those of another do not.
func TestChoicesShare(t *testing.T) {
	j, err := decodeCompletion([]byte(`{"prompt": ["a", "b"], "n": 8}`))
	if err != nil {
		t.Fatal(err)
	}
	for i, req := range j.reqs {
		if first := j.reqs[i/8*8]; req.Shared == nil || req.Shared != first.Shared || req.Prompt != first.Prompt {
			t.Errorf("choice %d: %+v", i, req)
		}
	}
	if j.reqs[0].Shared == j.reqs[8].Shared {
		t.Error("two prompts share")
	}
	made := 0
	for range 3 {
		if v, err := j.reqs[0].Shared.Do(func() (any, error) { made++; return made, nil }); err != nil || v != 1 {
			t.Errorf("%v, %v", v, err)
		}
	}
}
