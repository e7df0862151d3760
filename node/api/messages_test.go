package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// withMessages makes the speller countable: its prompts have a token per byte.
func withMessages(c *Config) { c.Counter, c.Key = spellerCount{}, "secret" }

type spellerCount struct{}

func (spellerCount) Count(_ context.Context, req *GenerateRequest) (int, error) {
	n := 0
	for _, m := range req.Messages {
		n += len(m.Content)
	}
	return n, nil
}

// said is what the tests read of an answer, an event or an error.
type said struct {
	Type    string
	ID      string
	Model   string
	Content []struct{ Type, Text, Thinking, Signature, ID, Name string }
	Reason  string `json:"stop_reason"`
	Stop    string `json:"stop_sequence"`
	Usage   struct {
		Input  int `json:"input_tokens"`
		Cached int `json:"cache_read_input_tokens"`
		Output int `json:"output_tokens"`
	}
	Error     struct{ Type, Message string }
	RequestID string `json:"request_id"`
	Message   *said
	Index     int
	Delta     struct {
		Type, Text, Thinking, Signature string
		JSON                            string `json:"partial_json"`
		Reason                          string `json:"stop_reason"`
	}
	Data    []struct{ Type, ID string }
	LastID  string `json:"last_id"`
	HasMore bool   `json:"has_more"`
}

func saidOf(t *testing.T, text string) (out said) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

func TestMessages(t *testing.T) {
	url := start(t, &speller{}, withMessages).URL
	key := []string{"X-Api-Key", "secret", "Anthropic-Version", "2023-06-01"}
	resp, text := post(t, url+"/v1/messages", `{"model":"speller","max_tokens":99,"system":"Spell x.","messages":[{"role":"user","content":"smörgåsbord"}]}`, key...)
	got := saidOf(t, text)
	// The speller reports a token of the prompt as kept for each x in it.
	if resp.StatusCode != 200 || got.Type != "message" || !strings.HasPrefix(got.ID, "msg_") || got.Model != "speller" || got.Content[0].Text != "smörgåsbord" || got.Reason != "end_turn" ||
		got.Usage.Input != len("<system>Spell x.<user>smörgåsbord")-1 || got.Usage.Cached != 1 || got.Usage.Output != 13 || resp.Header.Get("Request-Id") == "" || resp.Header.Get("X-Shoal-Route") == "" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	_, text = post(t, url+"/v1/messages", `{"model":"speller","max_tokens":3,"messages":[{"role":"user","content":"hello"}]}`, key...)
	if got := saidOf(t, text); got.Reason != "max_tokens" || got.Content[0].Text != "hel" || !strings.Contains(text, `"stop_sequence":null`) {
		t.Error(text)
	}
	// No reasoning for those who did not ask for it; an empty answer has a block, too.
	const call = `{"model":"speller","max_tokens":99,"tools":[{"name":"weather","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":"call weather"}]`
	_, text = post(t, url+"/v1/messages", call+"}", key...)
	if got := saidOf(t, text); got.Reason != "tool_use" || len(got.Content) != 2 || got.Content[0].Type != "tool_use" || got.Content[0].ID != "toolu_1" || !strings.Contains(text, `"input":{"z":1,"a":2}`) {
		t.Error(text)
	}
	_, text = post(t, url+"/v1/messages", call+`,"thinking":{"type":"enabled","budget_tokens":1024}}`, key...)
	if got := saidOf(t, text); len(got.Content) != 4 || got.Content[0].Thinking != "Hm." || got.Content[0].Signature == "" || got.Content[2].Type != "thinking" {
		t.Error(text)
	}
	_, text = post(t, url+"/v1/messages", `{"model":"speller","max_tokens":9,"messages":[{"role":"user","content":""}]}`, key...)
	if got := saidOf(t, text); len(got.Content) != 1 || got.Content[0].Type != "text" || !strings.Contains(text, `"text":""`) {
		t.Error(text)
	}
	_, text = post(t, url+"/v1/messages/count_tokens", `{"model":"speller","system":[{"type":"text","text":"abc"}],"messages":[{"role":"user","content":"def"},{"role":"assistant","content":"g"}]}`, key...)
	if text != `{"input_tokens":7}`+"\n" {
		t.Error(text)
	}
	if _, text = post(t, url+"/v1/responses/input_tokens", `{"input":"def","instructions":"abc"}`, key[:2]...); text != `{"object":"response.input_tokens","input_tokens":6}`+"\n" {
		t.Error(text)
	}
	// Models.
	_, text = do(t, "GET", url+"/v1/models?limit=1", "", key...)
	list := saidOf(t, text)
	if len(list.Data) != 1 || list.Data[0].ID != "speller" || list.Data[0].Type != "model" || !list.HasMore || list.LastID != "speller" {
		t.Error(text)
	}
	_, text = do(t, "GET", url+"/v1/models?after_id=speller", "", key...)
	if list := saidOf(t, text); len(list.Data) != 1 || list.Data[0].ID != "org/other" || list.HasMore {
		t.Error(text)
	}
	if _, text = do(t, "GET", url+"/v1/models/org/other", "", key...); saidOf(t, text).Type != "model" {
		t.Error(text)
	}
	if _, text = do(t, "GET", url+"/v1/models", "", "X-Api-Key", "secret"); !strings.Contains(text, `"object":"list"`) {
		t.Error(text)
	}
}

// TestMessagesStop: the sequence that ended the answer is named.
func TestMessagesStop(t *testing.T) {
	srv := httptest.NewServer(New(Config{Generator: odd(func(emit func(Event) error) error {
		return errors.Join(emit(Event{Start: &Start{Model: "m"}}), emit(Event{Done: &Done{FinishReason: "stop", StopSequence: "END"}}))
	})}))
	defer srv.Close()
	_, text := post(t, srv.URL+"/v1/messages", `{"max_tokens":9,"stop_sequences":["END"],"messages":[{"role":"user","content":"x"}]}`)
	if got := saidOf(t, text); got.Reason != "stop_sequence" || got.Stop != "END" {
		t.Error(text)
	}
}

// streamed returns the events of a stream.
func streamed(t *testing.T, text string) (out []said) {
	t.Helper()
	kind := ""
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			kind = name
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			e := saidOf(t, data)
			if e.Type != kind {
				t.Errorf("event %s holds %s", kind, data)
			}
			out = append(out, e)
		}
	}
	return out
}

// TestMessagesStream: the order of events, and that the deltas are the answer.
func TestMessagesStream(t *testing.T) {
	url := start(t, &speller{}, nil).URL + "/v1/messages"
	for _, test := range []struct{ request, want string }{
		{`"max_tokens":5,"messages":[{"role":"user","content":"ab"}]`,
			"message_start content_block_start ping content_block_delta:a content_block_delta:b content_block_stop message_delta:end_turn message_stop"},
		{`"max_tokens":5,"thinking":{"type":"adaptive"},"tools":[{"name":"f","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":"call f"}]`,
			"message_start content_block_start ping content_block_delta:Hm. content_block_delta:shoal content_block_stop " +
				`content_block_start content_block_delta:{"z": 1, "a": 2} content_block_stop ` +
				"content_block_start content_block_delta: So. content_block_delta:shoal content_block_stop " +
				`content_block_start content_block_delta:{"z": 1, "a": 2} content_block_stop message_delta:tool_use message_stop`},
		{`"max_tokens":5,"thinking":{"type":"enabled","budget_tokens":2000,"display":"omitted"},"tools":[{"name":"f","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":"call f"}]`,
			`message_start content_block_start ping content_block_delta:{"z": 1, "a": 2} content_block_stop content_block_start content_block_delta:{"z": 1, "a": 2} content_block_stop message_delta:tool_use message_stop`},
	} {
		resp, text := post(t, url, `{"stream":true,`+test.request+`}`)
		var got []string
		index := -1
		for _, e := range streamed(t, text) {
			line := e.Type
			switch e.Type {
			case "content_block_start":
				index++
			case "content_block_delta":
				line += ":" + e.Delta.Text + e.Delta.Thinking + e.Delta.Signature + e.Delta.JSON
			case "message_delta":
				line += ":" + e.Delta.Reason
				if e.Usage.Output == 0 {
					t.Errorf("usage %+v", e.Usage)
				}
			case "message_start":
				if e.Message == nil || e.Message.Usage.Input == 0 || !strings.HasPrefix(e.Message.ID, "msg_") || len(e.Message.Content) != 0 {
					t.Errorf("begins with %+v", e.Message)
				}
			}
			if strings.HasPrefix(e.Type, "content") && e.Index != index {
				t.Errorf("%s of block %d, at %d", e.Type, e.Index, index)
			}
			got = append(got, line)
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("got  %s\nwant %s", s, test.want)
		}
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") || !strings.HasPrefix(resp.Trailer.Get("Server-Timing"), "ttft;dur=") {
			t.Errorf("header %v, trailer %v", resp.Header, resp.Trailer)
		}
	}
}

// TestMessagesErrors: in Anthropic's shape, with its types and statuses.
func TestMessagesErrors(t *testing.T) {
	srv := start(t, &speller{}, withMessages)
	full := start(t, &speller{}, func(c *Config) { c.MaxBodies = 10 })
	const ask = `{"max_tokens":9,"messages":[{"role":"user","content":"x"}],"model":`
	for _, test := range []struct {
		url, key, body string
		status         int
		kind           string
	}{
		{srv.URL, "wrong", ask + `"speller"}`, 401, "authentication_error"},
		{srv.URL, "", ask + `"speller"}`, 401, "authentication_error"},
		{srv.URL, "secret", ask + `"claude-opus-5"}`, 404, "not_found_error"},
		{srv.URL, "secret", ask + `"split"}`, 503, "overloaded_error"},
		{srv.URL, "secret", ask + `"crash"}`, 500, "api_error"},
		{full.URL, "", ask + `"speller"}`, 529, "overloaded_error"},
		{srv.URL, "secret", `{"max_tokens":9,"messages":[{"role":"user","content":"` + strings.Repeat("x", 5000) + `"}]}`, 400, "invalid_request_error"},
		{srv.URL, "secret", strings.Repeat(" ", maxBody+1), 413, "request_too_large"},
		{srv.URL, "secret", `{`, 400, "invalid_request_error"},
	} {
		resp, text := post(t, test.url+"/v1/messages", test.body, "X-Api-Key", test.key)
		got := saidOf(t, text)
		if resp.StatusCode != test.status || got.Type != "error" || got.Error.Type != test.kind || got.Error.Message == "" || got.RequestID == "" || got.RequestID != resp.Header.Get("Request-Id") {
			t.Errorf("%.80s: %d %s", test.body, resp.StatusCode, text)
		}
		if len(test.body) > 5000 && test.status == 400 && !strings.HasPrefix(got.Error.Message, "prompt is too long: ") {
			t.Error(text)
		}
	}
	for _, path := range []string{"/v1/messages/batches", "/v1/models/nothing"} {
		resp, text := do(t, "GET", srv.URL+path, "", "X-Api-Key", "secret", "Anthropic-Version", "2023-06-01")
		if resp.StatusCode != 404 || saidOf(t, text).Error.Type != "not_found_error" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	broken := httptest.NewServer(New(Config{Generator: odd(func(emit func(Event) error) error {
		return errors.Join(emit(Event{Start: &Start{Model: "m"}}), emit(Event{Token: &Token{Text: "so"}}))
	})}))
	defer broken.Close()
	_, text := post(t, broken.URL+"/v1/messages", `{"stream":true,"max_tokens":9,"messages":[{"role":"user","content":"x"}]}`)
	list := streamed(t, text)
	if last := list[len(list)-1]; last.Type != "error" || last.Error.Type != "api_error" || last.RequestID == "" {
		t.Error(text)
	}
}

// TestMessagesInput: what the model reads of a conversation.
func TestMessagesInput(t *testing.T) {
	j, err := decodeMessages([]byte(`{"model":"m","max_tokens":9,"temperature":0.5,"top_k":3,"top_p":0.9,"stop_sequences":["a","b"],"metadata":{"user_id":"u"},"service_tier":"auto",
		"system":[{"type":"text","text":"Be","cache_control":{"type":"ephemeral"}},{"type":"text","text":"brief."}],
		"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5},{"name":"weather","description":"d","input_schema":{"type":"object"},"cache_control":{"type":"ephemeral"}},{"type":"custom","name":"clock","input_schema":{"type":"object"}}],
		"tool_choice":{"type":"auto","disable_parallel_tool_use":true},"thinking":{"type":"adaptive"},"output_config":{"effort":"low"},
		"messages":[{"role":"user","content":"Hi"},{"role":"user","content":[{"type":"text","text":"Weather?"},{"type":"document","title":"T","source":{"type":"text","media_type":"text/plain","data":"D"}}]},
		{"role":"assistant","content":[{"type":"thinking","thinking":"Hm.","signature":"s"},{"type":"redacted_thinking","data":"x"},{"type":"text","text":"I look."},{"type":"server_tool_use","id":"s","name":"web_search","input":{}},{"type":"web_search_tool_result","tool_use_id":"s","content":[]},
			{"type":"tool_use","id":"t1","name":"weather","input":{"city":"Rome"}},{"type":"tool_use","id":"t2","name":"clock","input":{}}]},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"t2","is_error":true,"content":"late"},{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"sun"},{"type":"search_result","title":"S","source":"u","content":[{"type":"text","text":"c"}]}]},{"type":"text","text":"Go on."}]},
		{"role":"system","content":"Now short."},{"role":"user","content":"ok"}]}`), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []Message{
		{Role: "system", Content: "Be\nbrief."}, {Role: "user", Content: "Hi\nWeather?\nT\nD"},
		{Role: "assistant", Content: "I look.", Reasoning: "Hm.", ToolCalls: []ToolCall{
			{ID: "t1", Type: "function", Function: FunctionCall{"weather", `{"city":"Rome"}`}}, {ID: "t2", Type: "function", Function: FunctionCall{"clock", "{}"}}}},
		{Role: "tool", Name: "clock", ToolCallID: "t2", Content: "Error:\nlate"}, {Role: "tool", Name: "weather", ToolCallID: "t1", Content: "sun\nS\nc"},
		{Role: "user", Content: "Go on."}, {Role: "system", Content: "Now short."}, {Role: "user", Content: "ok"},
	}
	g := j.reqs[0]
	if !reflect.DeepEqual(g.Messages, want) {
		t.Errorf("got  %+v\nwant %+v", g.Messages, want)
	}
	if len(g.Tools) != 2 || string(g.Tools[0]) != `{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object"}}}` || !g.OneCall || g.MustCall || g.Think != "low" || !j.thoughts ||
		g.MaxTokens != 9 || *g.Sampling.Temperature != 0.5 || g.Sampling.TopK != 3 || *g.Sampling.TopP != 0.9 || !reflect.DeepEqual(g.Stop, []string{"a", "b"}) {
		t.Errorf("got %+v", g)
	}
	for part, check := range map[string]func(*GenerateRequest) bool{
		``: func(g *GenerateRequest) bool { return g.Think == "off" },
		`,"thinking":{"type":"enabled","budget_tokens":1024}`:                                                func(g *GenerateRequest) bool { return g.Think == "on" },
		`,"thinking":{"type":"disabled"},"tool_choice":null`:                                                 func(g *GenerateRequest) bool { return g.Think == "off" && !g.MustCall },
		`,"tool_choice":{"type":"any"}`:                                                                      func(g *GenerateRequest) bool { return g.MustCall && !g.OneCall && len(g.Tools) == 2 },
		`,"tool_choice":{"type":"tool","name":"b"}`:                                                          func(g *GenerateRequest) bool { return g.MustCall && len(g.Tools) == 1 },
		`,"tool_choice":{"type":"none"}`:                                                                     func(g *GenerateRequest) bool { return len(g.Tools) == 0 },
		`,"tools":[],"output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}}`:           func(g *GenerateRequest) bool { return string(g.Format) == `{"type":"object"}` },
		`,"tools":null,"output_format":{"type":"json_schema","schema":{"type":"object"}},"mcp_servers":[{}]`: func(g *GenerateRequest) bool { return string(g.Format) == `{"type":"object"}` },
	} {
		j, err := decodeMessages([]byte(`{"max_tokens":9,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"a","input_schema":{}},{"name":"b","input_schema":{}}]`+part+`}`), nil, false)
		if err != nil || !check(j.reqs[0]) {
			t.Errorf("%s: %v %+v", part, err, j)
		}
	}
}

// TestMessagesRefuses: errors name fields as the caller knows them.
func TestMessagesRefuses(t *testing.T) {
	const x = `"max_tokens":9,"messages":[{"role":"user","content":"x"}]`
	for body, param := range map[string]string{
		`{"messages":[{"role":"user","content":"x"}]}`:                "max_tokens",
		`{"max_tokens":0,"messages":[{"role":"user","content":"x"}]}`: "max_tokens",
		`{"max_tokens":9}`:               "messages",
		`{"max_tokens":9,"messages":[]}`: "messages",
		`{"max_tokens":9,"messages":[{"role":"king","content":"x"}]}`:                                                      "messages.0.role",
		`{"max_tokens":9,"messages":[{"role":"user"}]}`:                                                                    "messages.0.content",
		`{"max_tokens":9,"messages":[{"role":"user","content":[]}]}`:                                                       "messages.0.content",
		`{"max_tokens":9,"messages":[{"role":"user","content":[{"type":"image"}]}]}`:                                       "messages.0.content.0.type",
		`{"max_tokens":9,"messages":[{"role":"user","content":[{"type":"song"}]}]}`:                                        "messages.0.content.0.type",
		`{"max_tokens":9,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"x"}]}]}`: "messages.0.content.0",
		`{"max_tokens":9,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"image"}]}]}]}`: "messages.1.content.0.content.0.type",
		`{"max_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}`:                                                                                                                      "messages",
		`{"max_tokens":9,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64"}}]}]}`:                                                                                                            "messages.0.content.0.source.type",
		`{` + x + `,"tools":[{"name":"a"}]}`: "tools.0.input_schema",
		`{` + x + `,"tools":[{"type":"bash_20250124","name":"bash"},{"name":"a b","input_schema":{}}]}`:     "tools.1.name",
		`{` + x + `,"tools":[{"name":"a","input_schema":7}]}`:                                               "tools.0.input_schema",
		`{` + x + `,"tools":[{"type":"web_search_1","name":"w"}],"tool_choice":{"type":"tool","name":"w"}}`: "tool_choice",
		`{` + x + `,"tools":[{"type":"web_search_1","name":"w"}],"tool_choice":{"type":"any"}}`:             "tool_choice",
		`{` + x + `,"tools":[{"name":"a","input_schema":{}}],"tool_choice":{"type":"tool","name":"w"}}`:     "tool_choice.name",
		`{` + x + `,"tool_choice":{"type":"some"}}`:                                                         "tool_choice.type",
		`{` + x + `,"temperature":-1}`:                                                                      "temperature",
		`{` + x + `,"thinking":{"type":"deep"}}`:                                                            "thinking.type",
		`{` + x + `,"output_config":{"effort":"so so"}}`:                                                    "output_config.effort",
		`{` + x + `,"output_config":{"format":{"type":"xml"}}}`:                                             "output_config.format.type",
		`{` + x + `,"output_config":{"format":{"type":"json_schema"}}}`:                                     "output_config.format.schema",
		`{` + x + `,"thread":{"type":"continue","previous_message_id":"msg_1"}}`:                            "thread.previous_message_id",
		`{` + x + `,"thread":{"type":"x"}}`:                                                                 "thread.type",
	} {
		_, err := decodeMessages([]byte(body), nil, false)
		if err == nil {
			t.Errorf("%s is taken", body)
			continue
		}
		if e := AsError(err); e.Kind != BadInput && e.Kind != NoThread || e.Param != param {
			t.Errorf("%s: %+v, want one of %s", body, e, param)
		}
	}
}

// TestMessagesBig: the work grows as the request does, and blocks lie in few others.
func TestMessagesBig(t *testing.T) {
	blocks := strings.Repeat(`{"type":"text","text":"x"},`, 100_000)
	turns := strings.Repeat(`{"role":"user","content":"xxxxxxxx"},`, maxMessages)
	for _, body := range []string{
		`{"max_tokens":9,"messages":[{"role":"user","content":[` + strings.TrimSuffix(blocks, ",") + `]}]}`,
		`{"max_tokens":9,"messages":[` + strings.TrimSuffix(turns, ",") + `]}`,
	} {
		j, err := decodeMessages([]byte(body), nil, false)
		if err != nil || len(j.reqs[0].Messages) != 1 {
			t.Errorf("%.80s: %v", body, err)
		}
	}
	const deep = 4000
	body := `{"max_tokens":9,"messages":[{"role":"user","content":` + strings.Repeat(`[{"type":"search_result","content":`, deep) + `"x"` + strings.Repeat("}]", deep) + `}]}`
	if _, err := decodeMessages([]byte(body), nil, false); err == nil || !strings.HasSuffix(err.Error(), "lies too deep within other blocks") {
		t.Error(err)
	}
}

// TestMessagesThread: a conversation that is held here needs only what is new.
func TestMessagesThread(t *testing.T) {
	url := start(t, &speller{}, nil).URL + "/v1/messages"
	ada := []string{"X-Api-Key", "ada"}
	_, text := post(t, url, `{"max_tokens":9,"system":"S","tools":[{"name":"f","input_schema":{"type":"object"}}],"thread":{"type":"create"},"messages":[{"role":"user","content":"call f"}]}`, ada...)
	first := saidOf(t, text)
	next := `{"max_tokens":9,"thread":{"type":"continue","previous_message_id":"` + first.ID + `"},"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"` + first.Content[0].ID + `","content":"ok"}]}]}`
	_, text = post(t, url, next, ada...)
	if got := saidOf(t, text); got.Usage.Input+got.Usage.Cached != len("<system>S<user>call f<assistant><tool>ok") {
		t.Error(text)
	}
	if resp, text := post(t, url, next, "X-Api-Key", "bob"); resp.StatusCode != http.StatusNotFound || !strings.Contains(text, `"details":{"error_code":"thread_not_found"}`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// FuzzDecodeMessages: as FuzzDecode.
func FuzzDecodeMessages(f *testing.F) {
	for _, body := range []string{
		`{"max_tokens":5,"stream":true,"system":"\ud800","messages":[{"role":"user","content":"hi"}]}`,
		`{"max_tokens":5,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"tool_use","id":"c","name":"f","input":{"a":1}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":[{"type":"text","text":"o"}]}]}]}`,
		`{"max_tokens":5,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":"x"}}]}],"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"},"output_config":{"format":{"type":"json_schema","schema":{}}}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, count := range []bool{false, true} {
			j, err := decodeMessages(body, nil, count)
			if err != nil {
				if e := AsError(err); e.Kind != BadInput && e.Kind != NoThread || e.Message == "" || strings.Contains(e.Param, "messages[") {
					t.Fatalf("%q: %#v", body, err)
				}
				continue
			}
			if len(j.reqs) != 1 || j.reqs[0].Messages == nil || len(j.from) != len(j.reqs[0].Messages) {
				t.Fatalf("%q: %+v", body, j.reqs)
			}
			for _, m := range j.reqs[0].Messages {
				if !utf8.ValidString(m.Content) {
					t.Fatalf("%q: content is no UTF-8", body)
				}
			}
			again(t, j.reqs[0])
		}
	})
}
