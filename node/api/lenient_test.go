package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What clients send that other servers take.

const user = `{"role":"user","content":"hi"}`

func TestHistories(t *testing.T) {
	hi := Message{Role: "user", Content: "hi"}
	call := func(args string) Message {
		return Message{Role: "assistant", ToolCalls: []ToolCall{{"c1", "function", FunctionCall{"ls", args}}}}
	}
	const callOf = `{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"ls","arguments":%s}}]}`
	for name, c := range map[string]struct {
		messages string
		want     []Message
	}{
		"reasoning alone":         {`{"role":"assistant","content":null,"reasoning_content":"Done."},` + user, []Message{{Role: "assistant", Reasoning: "Done."}, hi}},
		"no content":              {`{"role":"assistant"},` + user, []Message{{Role: "assistant"}, hi}},
		"no calls":                {`{"role":"assistant","content":null,"tool_calls":[]},` + user, []Message{{Role: "assistant"}, hi}},
		"a refusal":               {`{"role":"assistant","content":null,"refusal":"No."},` + user, []Message{{Role: "assistant", Content: "No."}, hi}},
		"a refusal as a part":     {`{"role":"assistant","content":[{"type":"refusal","refusal":"No."}]}`, []Message{{Role: "assistant", Content: "No."}}},
		"null of the user":        {`{"role":"user","content":null}`, []Message{{Role: "user"}}},
		"null of the system":      {`{"role":"system","content":null},` + user, []Message{{Role: "system"}, hi}},
		"a tool without result":   {fmt.Sprintf(callOf, `"{}"`) + `,{"role":"tool","tool_call_id":"c1","content":null}`, []Message{call("{}"), {Role: "tool", ToolCallID: "c1", Name: "ls"}}},
		"a result without a call": {`{"role":"tool","tool_call_id":"gone","content":"21"},` + user, []Message{{Role: "tool", ToolCallID: "gone", Content: "21"}, hi}},
		"a result with a name":    {`{"role":"tool","tool_call_id":"gone","name":"weather","content":"21"}`, []Message{{Role: "tool", ToolCallID: "gone", Name: "weather", Content: "21"}}},
		"half a call":             {fmt.Sprintf(callOf, `"{\"path\": "`), []Message{call(`{"path": `)}},
		"a call that is a list":   {fmt.Sprintf(callOf, `[1]`), []Message{call(`[1]`)}},
		"a call that is words":    {fmt.Sprintf(callOf, `"the root"`), []Message{call(`the root`)}},
		"a call of nothing":       {fmt.Sprintf(callOf, `" "`), []Message{call(`{}`)}},
		"thinking, as text":       {`{"role":"assistant","content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"Yes."}]}`, []Message{{Role: "assistant", Content: "Yes.", Reasoning: "Hm."}}},
		"thinking, as Mistral's":  {`{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]}]}`, []Message{{Role: "assistant", Reasoning: "Hm."}}},
		"thinking, unreadable":    {`{"role":"assistant","content":[{"type":"redacted_thinking","data":"x"},{"type":"text","text":"Yes."}]}`, []Message{{Role: "assistant", Content: "Yes."}}},
		"a part of null":          {`{"role":"user","content":[{"type":"text","text":null}]}`, []Message{{Role: "user"}}},
	} {
		j, err := decodeChat([]byte(`{"messages":[` + c.messages + `]}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := j.reqs[0].Messages; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got  %+v\nwant %+v", name, got, c.want)
		}
	}
}

func TestOllamaHistories(t *testing.T) {
	hi := Message{Role: "user", Content: "hi"}
	for name, c := range map[string]struct {
		messages string
		want     []Message
		goesOn   bool
	}{
		"a result without a call": {`{"role":"tool","tool_name":"weather","content":"21"},` + user, []Message{{Role: "tool", Name: "weather", Content: "21"}, hi}, false},
		"one result too many": {`{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},{"role":"tool","content":"1"},{"role":"tool","content":"2"}`,
			[]Message{{Role: "assistant", ToolCalls: []ToolCall{{"call_0_0", "function", FunctionCall{"f", `{"a":1}`}}}}, {Role: "tool", ToolCallID: "call_0_0", Name: "f", Content: "1"}, {Role: "tool", Content: "2"}}, false},
		"a developer":           {`{"role":"developer","content":"be"},` + user, []Message{{Role: "system", Content: "be"}, hi}, false},
		"null":                  {`{"role":"assistant","content":null},` + user, []Message{{Role: "assistant"}, hi}, false},
		"arguments in a string": {`{"role":"assistant","tool_calls":[{"function":{"name":"mcp/x y","arguments":"{\"a\":1}"}}]},` + user, []Message{{Role: "assistant", ToolCalls: []ToolCall{{"call_0_0", "function", FunctionCall{"mcp/x y", `{"a":1}`}}}}, hi}, false},
		"arguments in words":    {`{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"go"}}]},` + user, []Message{{Role: "assistant", ToolCalls: []ToolCall{{"call_0_0", "function", FunctionCall{"f", `go`}}}}, hi}, false},
		"an answer begun":       {user + `,{"role":"assistant","content":"He"}`, []Message{hi, {Role: "assistant", Content: "He"}}, true},
		"an answer not begun":   {user + `,{"role":"assistant","content":""}`, []Message{hi}, false},
	} {
		j, err := decodeOllamaChat([]byte(`{"model":"m","messages":[` + c.messages + `]}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := j.req.Messages; !reflect.DeepEqual(got, c.want) || j.req.Continue != c.goesOn {
			t.Errorf("%s: got  %+v\nwant %+v", name, got, c.want)
		}
	}
}

func TestOllamaTakesAnyTool(t *testing.T) {
	long := strings.Repeat("n", 65)
	j, err := decodeOllamaChat([]byte(`{"model":"m","messages":[` + user + `],"tools":[{"function":{"name":"a"}},{"type":"function","function":{"name":"mcp/ctx7/query"}},
		{"type":"web_search"},{"type":"function","function":{"name":"` + long + `"}},{"type":"function","function":{"name":"天气"}},{"type":"function","function":{"name":"a"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, raw := range j.req.Tools {
		got = append(got, string(raw))
	}
	want := []string{`{"type":"function","function":{"name":"a"}}`, `{"type":"function","function":{"name":"mcp/ctx7/query"}}`, `{"type":"function","function":{"name":"` + long + `"}}`, `{"type":"function","function":{"name":"天气"}}`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for body, param := range map[string]string{`{"type":"function"}`: "tools[0].function", `{"function":{}}`: "tools[0].function.name", `7`: "tools[0]", `{"function":{"name":"f","parameters":[]}}`: "tools[0].function.parameters"} {
		_, err := decodeOllamaChat([]byte(`{"model":"m","messages":[` + user + `],"tools":[` + body + `]}`))
		checkRefusal(t, body, param, err)
	}
}

func TestToolChoices(t *testing.T) {
	for choice, want := range map[string]struct {
		must  bool
		tools string
	}{
		`"any"`: {true, "f g"}, `"required"`: {true, "f g"}, `"auto"`: {false, "f g"}, `"none"`: {false, ""}, `{"type":"any"}`: {true, "f g"}, `{"type":"none"}`: {false, ""},
		`{"type":"function","function":{"name":"g"}}`:                                                                                {true, "g"},
		`{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"g"}}]}}`:             {false, "g"},
		`{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"function":{"name":"g"}},{"function":{"name":"f"}}]}}`: {true, "f g"},
	} {
		j, err := decodeChat([]byte(`{"messages":[` + user + `],"tools":[{"type":"function","function":{"name":"f"}},{"function":{"name":"g"}}],"tool_choice":` + choice + `}`))
		if err != nil {
			t.Errorf("%s: %v", choice, err)
			continue
		}
		var names []string
		for _, raw := range j.reqs[0].Tools {
			var tool struct{ Function struct{ Name string } }
			if err := json.Unmarshal(raw, &tool); err != nil {
				t.Fatal(err)
			}
			names = append(names, tool.Function.Name)
		}
		if got := strings.Join(names, " "); got != want.tools || j.reqs[0].MustCall != want.must {
			t.Errorf("%s: %q, must %v", choice, got, j.reqs[0].MustCall)
		}
	}
}

// TestIdle: what changes nothing is taken.
func TestIdle(t *testing.T) {
	for _, extra := range []string{`"top_logprobs":0`, `"stop":""`, `"stop":["",""]`, `"reasoning_effort":"default"`, `"store":true`, `"seed":-1`, `"seed":-1.0`, `"logit_bias":{}`, `"min_tokens":0`,
		`"ignore_eos":false`, `"stop_token_ids":[]`, `"best_of":1`, `"echo":false`, `"add_generation_prompt":true`, `"suffix":null`} {
		j, err := decodeChat([]byte(`{"messages":[` + user + `],` + extra + `}`))
		if err != nil {
			t.Errorf("%s: %v", extra, err)
		} else if want := (GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}}}); !reflect.DeepEqual(stripped(*j.reqs[0]), want) {
			t.Errorf("%s: %+v", extra, *j.reqs[0])
		}
	}
}

// stripped is a request whose empty lists are none.
func stripped(r GenerateRequest) GenerateRequest {
	if len(r.Stop) == 0 {
		r.Stop = nil
	}
	return r
}

// TestWholeNumbers writes every integer of every body as a fraction, and TestNoGoNames
// gives every field a wrong type: no error names a type or a field of Go's.
func TestWholeNumbers(t *testing.T) {
	seven := uint64(7)
	j, err := decodeChat([]byte(`{"messages":[` + user + `],"max_tokens":16.0,"n":2e0,"top_k":40.0,"seed":7.0,"logprobs":true,"top_logprobs":3.0,"max_completion_tokens":1.6e1,"shoal":{"max_stages":3.0}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := j.reqs[0]; r.MaxTokens != 16 || j.n != 2 || r.Sampling.TopK != 40 || *r.Sampling.Seed != seven || r.Sampling.TopLogprobs != 3 || r.MaxStages != 3 {
		t.Errorf("chat: %+v", r)
	}
	j, err = decodeCompletion([]byte(`{"prompt":[1.0,2.0,3],"max_tokens":4.0,"logprobs":2.0,"best_of":1.0}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := j.reqs[0]; !slices.Equal(r.PromptIDs, []int32{1, 2, 3}) || r.MaxTokens != 4 || r.Sampling.TopLogprobs != 2 {
		t.Errorf("completion: %+v", r)
	}
	o, err := decodeOllamaGenerate([]byte(`{"model":"m","prompt":"x","logprobs":true,"top_logprobs":2.0,"options":{"num_predict":4.0,"top_k":40.0,"seed":7.0}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := o.req; r.MaxTokens != 4 || r.Sampling.TopK != 40 || *r.Sampling.Seed != seven || r.Sampling.TopLogprobs != 2 {
		t.Errorf("Ollama: %+v", r)
	}
	for _, bad := range []string{"1.5", "1e99", "-1e400", "9007199254740993.5", `"7"`} {
		if _, err := decodeChat([]byte(`{"messages":[` + user + `],"max_tokens":` + bad + `}`)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	// A schema's numbers are the caller's.
	j, err = decodeChat([]byte(`{"n":1.0,"messages":[` + user + `],"tools":[{"type":"function","function":{"name":"f","parameters":{"minimum":1.0}}}]}`))
	if err != nil || !strings.Contains(string(j.reqs[0].Tools[0]), "1.0") {
		t.Errorf("%v", err)
	}
}

func TestNoGoNames(t *testing.T) {
	type body struct {
		of     reflect.Type
		decode func([]byte) error
	}
	for _, b := range []body{
		{reflect.TypeFor[chatRequest](), func(raw []byte) error { _, err := decodeChat(raw); return err }},
		{reflect.TypeFor[completionRequest](), func(raw []byte) error { _, err := decodeCompletion(raw); return err }},
		{reflect.TypeFor[ollamaChatRequest](), func(raw []byte) error { _, err := decodeOllamaChat(raw); return err }},
		{reflect.TypeFor[ollamaGenerateRequest](), func(raw []byte) error { _, err := decodeOllamaGenerate(raw); return err }},
	} {
		for _, path := range paths(b.of, "") {
			for _, wrong := range []string{`"SECRET"`, `[[]]`, `{"SECRET":1}`, `1.5`, `true`} {
				raw := wrong
				for _, part := range slices.Backward(strings.Split(path, ".")) {
					raw = fmt.Sprintf("{%q:%s}", part, raw)
				}
				var e *Error
				err := b.decode([]byte(raw))
				if !errors.As(err, &e) || e.Kind != BadInput {
					continue // some other fault, or none
				}
				if strings.ContainsFunc(e.Param, func(r rune) bool { return 'A' <= r && r <= 'Z' }) || strings.Contains(e.Message, "  ") || strings.Contains(e.Message, "a array") ||
					strings.Contains(e.Message, "a object") || strings.Contains(e.Message, "a bool") || strings.Contains(e.Message, "of  bits") || strings.Contains(e.Message, "json.") {
					t.Errorf("%s: at %q: %s", raw, e.Param, e.Message)
				}
				if head, _, _ := strings.Cut(e.Param, "."); strings.HasSuffix(e.Message, "must be an integer") && !strings.HasPrefix(path, head) {
					t.Errorf("%s: at %q: %s", raw, e.Param, e.Message)
				}
			}
		}
	}
}

// paths returns the JSON names of a type's fields, with those of its objects.
func paths(of reflect.Type, before string) (out []string) {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct {
		return nil
	}
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			out = append(out, paths(f.Type, before)...)
		case name != "" && name != "-":
			out = append(out, before+name)
			out = append(out, paths(f.Type, before+name+".")...)
		}
	}
	return out
}

// TestPaths: paths that a person has put together wrongly are served as they are meant,
// without a redirect, and a byte order mark is no fault.
func TestPaths(t *testing.T) {
	srv := start(t, &speller{}, nil)
	noRedirect := *http.DefaultClient
	noRedirect.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("a redirect") }
	for _, path := range []string{"//v1/chat/completions", "/v1//chat/completions", "/v1/chat//completions/", "/v1/chat/completions/", "/chat/completions", "/v1/v1/chat/completions", "/chat/completions/", "//api/chat", "/api/chat/"} {
		body := "\xef\xbb\xbf" + `{"model":"speller","stream":false,"messages":[{"role":"user","content":"héllo"}]}`
		resp, err := noRedirect.Post(srv.URL+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	for path, status := range map[string]int{"/models": 200, "/models/": 200, "/v1/models/speller:latest": 200, "/models/org%2Fother": 200, "/v1/models/a%2F%2Fb": 404, "//": 404, "/health": 200, "/v1/health": 200,
		"/v1": 404, "/modelsx": 404, "/api/tags/": 200, "/api//ps": 200, "/v1/chat/completions/": 405} {
		resp, err := noRedirect.Get(srv.URL + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		resp.Body.Close()
		if path == "//" {
			status = 200 // what Ollama's clients look for
		}
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
}

// TestHealthIsOpen: whether the node lives is no secret, and nothing else is said.
func TestHealthIsOpen(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Key = "k" })
	if resp, body := do(t, http.MethodGet, srv.URL+"/health", ""); resp.StatusCode != 200 || strings.TrimSpace(body) != `{"status":"ok"}` {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, _ := do(t, http.MethodGet, srv.URL+"/models", ""); resp.StatusCode != 401 {
		t.Errorf("models without the key: %d", resp.StatusCode)
	}
}

func TestOriginPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, origin string
		fits            bool
	}{
		{"https://chat.example", "https://chat.example", true}, {"https://chat.example", "https://chat.example:8443", false}, {"https://chat.example", "https://CHAT.example", true},
		{"chrome-extension://*", "chrome-extension://abcdefghijklmnop", true}, {"chrome-extension://*", "moz-extension://x", false}, {"chrome-extension://*", "https://chrome-extension", false},
		{"app://*", "app://obsidian.md", true}, {"file://*", "file://", true}, {"tauri://localhost", "tauri://localhost", true}, {"vscode-webview://*", "vscode-webview://1abc", true},
		{"https://*.example.com", "https://a.example.com", true}, {"https://*.example.com", "https://a.b.example.com", true}, {"https://*.example.com", "https://example.com", false},
		{"https://*.example.com", "https://evilexample.com", false}, {"https://*.example.com", "https://example.com.evil.org", false}, {"https://*.example.com", "http://a.example.com", false},
		{"https://*.example.com", "https://a.example.com:444", false}, {"https://*.example.com:*", "https://a.example.com:444", true},
		{"http://localhost:*", "http://localhost:3000", true}, {"http://localhost:*", "http://localhost", true}, {"http://localhost:*", "http://localhost.evil.org:3000", false}, {"http://localhost:*", "https://localhost", false},
		{"http://[::1]:*", "http://[::1]:80", true}, {"https://*.", "https://evil.", false}, {"*", "https://anything", false}, {"null", "null", false}, {"https://*", "null", false},
		{"https://*.example.com", "https://evil.org#.example.com", false}, {"https://*.example.com", "https://evil.org/.example.com", false}, {"https://*.example.com", "https://u@a.example.com", false},
	} {
		if got := anyMatches([]string{c.pattern}, c.origin); got != c.fits {
			t.Errorf("%s, %s: %v", c.pattern, c.origin, got)
		}
	}
	srv := start(t, &speller{}, func(c *Config) { c.Origins, c.Hosts = []string{"chrome-extension://*"}, []string{"*.internal"} })
	if resp, _ := post(t, srv.URL+"/v1/chat/completions", hello, "Origin", "chrome-extension://x", "Host", "host.docker.internal:11500"); resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "chrome-extension://x" {
		t.Errorf("an extension: %d %v", resp.StatusCode, resp.Header)
	}
	resp, _ := do(t, http.MethodOptions, srv.URL+"/api/chat", "", "Origin", "chrome-extension://x", "Access-Control-Request-Method", "POST", "Access-Control-Request-Private-Network", "true")
	if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Private-Network") != "true" {
		t.Errorf("its preflight: %d %v", resp.StatusCode, resp.Header)
	}
}

// TestOllamaUnknownFacts: what nobody knows of a model is left out, and a model that the
// network serves runs.
func TestOllamaUnknownFacts(t *testing.T) {
	shelf := newShelf()
	shelf.models["org/other"].Served = true
	srv := start(t, &speller{}, func(c *Config) { c.Library, c.Observer = shelf, shelf })
	_, body := post(t, srv.URL+"/api/show", `{"model":"org/other"}`)
	var shown struct {
		Details      map[string]any
		ModelInfo    map[string]any `json:"model_info"`
		Capabilities []string
		Template     *string
	}
	if err := json.Unmarshal([]byte(body), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.ModelInfo) != 1 || len(shown.Details) != 2 || !slices.Equal(shown.Capabilities, []string{"completion", "tools"}) || shown.Template != nil {
		t.Errorf("%s", body)
	}
	_, body = do(t, http.MethodGet, srv.URL+"/api/ps", "")
	var running ollamaModels
	if err := json.Unmarshal([]byte(body), &running); err != nil || len(running.Models) != 2 || running.Models[1].Name != "org/other:latest" || running.Models[1].ExpiresAt == nil || running.Models[1].SizeVRAM == nil {
		t.Errorf("%s, %v", body, err)
	}
	shelf.models["speller"].Template, shelf.models["speller"].Abilities = "{{ messages }}", []string{"thinking"}
	shelf.models["speller"].Facts = map[string]any{"llama.attention.head_count": 9}
	_, body = post(t, srv.URL+"/api/show", `{"name":"speller:latest"}`)
	for _, want := range []string{`"thinking"`, `tools are described`, `FROM speller:latest`, `"llama.attention.head_count":9`, `PARAMETER num_ctx 4096`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	if _, body = do(t, http.MethodGet, srv.URL+"/v1/models/speller", ""); strings.Contains(body, "messages") || strings.Contains(body, "head_count") {
		t.Errorf("%s", body)
	}
	delete(shelf.models, "org/other")
	for path, body := range map[string]string{"/api/show": `{}`, "/api/chat": `{"stream":false,"messages":[` + user + `]}`, "/api/generate": `{"keep_alive":0.0}`, "/v1/chat/completions": `{"messages":[` + user + `]}`} {
		if resp, got := post(t, srv.URL+path, body); resp.StatusCode != 200 || strings.Contains(path, "chat") && !strings.Contains(got, `"speller`) || strings.Contains(path, "generate") && !strings.Contains(got, `"unload"`) {
			t.Errorf("the only model at %s: %d %s", path, resp.StatusCode, got)
		}
	}
}

// words is a Vocabulary whose tokens are bytes.
type words struct{}

func (words) Split(_ context.Context, model, text string, add, _ bool) (*Split, error) {
	if model == "nope" {
		return nil, Errorf(UnknownModel, "no model %q", model)
	}
	s := &Split{Context: 9}
	if add {
		s.IDs, s.Pieces = []int32{1}, []string{"[s]"}
	}
	for _, b := range []byte(text) {
		s.IDs, s.Pieces = append(s.IDs, int32(b)), append(s.Pieces, string(rune(b)))
	}
	return s, nil
}

func (words) Join(_ context.Context, _ string, ids []int32) (text string, _ error) {
	for _, id := range ids {
		text += string(id)
	}
	return text, nil
}

func (words) Special(context.Context, string) (*Special, error) { return &Special{EOS: "[/s]"}, nil }

func TestTokenize(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Vocabulary = words{} })
	for _, c := range []struct{ path, body, want string }{
		{"/tokenize", `{"content":"ab"}`, `{"tokens":[97,98]}`},
		{"/tokenize", `{"content":"a","add_special":true,"with_pieces":true}`, `{"tokens":[{"id":1,"piece":"[s]"},{"id":97,"piece":"a"}]}`},
		{"/v1/tokenize", `{"model":"m","prompt":"a"}`, `{"count":2,"max_model_len":9,"tokens":[1,97],"token_strs":null}`},
		{"/tokenize", `{"prompt":"a","add_special_tokens":false,"return_token_strs":true}`, `{"count":1,"max_model_len":9,"tokens":[97],"token_strs":["a"]}`},
		{"/detokenize", `{"tokens":[97,98.0]}`, `{"content":"ab","prompt":"ab"}`},
	} {
		if resp, body := post(t, srv.URL+c.path, c.body); resp.StatusCode != 200 || strings.TrimSpace(body) != c.want {
			t.Errorf("%s %s: %d %s", c.path, c.body, resp.StatusCode, body)
		}
	}
	for body, status := range map[string]int{`{}`: 400, `{"messages":[]}`: 400, `{"content":7}`: 400, `{"model":"nope","prompt":"x"}`: 404} {
		if resp, got := post(t, srv.URL+"/tokenize", body); resp.StatusCode != status {
			t.Errorf("%s: %d %s", body, resp.StatusCode, got)
		}
	}
	if _, body := do(t, http.MethodGet, srv.URL+"/tokenizer_info", ""); strings.TrimSpace(body) != `{"eos_token":"[/s]","tokenizer_class":"PreTrainedTokenizerFast"}` {
		t.Errorf("%s", body)
	}
}
