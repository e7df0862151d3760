package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	ollama "github.com/ollama/ollama/api"
)

// These tests run Ollama's own client against the API.

func newOllama(t testing.TB, base string) *ollama.Client {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return ollama.NewClient(u, http.DefaultClient)
}

func TestOllamaChat(t *testing.T) {
	c := newOllama(t, start(t, &speller{}, nil).URL)
	for _, stream := range []bool{true, false} {
		req := &ollama.ChatRequest{Model: "speller:latest", Stream: &stream, Think: &ollama.ThinkValue{Value: true}, KeepAlive: &ollama.Duration{Duration: time.Minute},
			Messages: []ollama.Message{{Role: "system", Content: "Spell."}, {Role: "user", Content: "smörgåsbord, twice"}},
			Options:  map[string]any{"num_predict": -1, "temperature": 0.5, "top_k": 40, "num_ctx": 8192.0, "stop": []string{","}, "seed": 7}}
		text, lines := "", 0
		var last ollama.ChatResponse
		if err := c.Chat(t.Context(), req, func(r ollama.ChatResponse) error {
			if last.Done || r.Model != "speller:latest" || r.Message.Role != "assistant" || r.CreatedAt.IsZero() {
				t.Errorf("got %+v", r)
			}
			text += r.Message.Content
			lines++
			last = r
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if text != "7:smörgåsbord" || !last.Done || last.DoneReason != "stop" || stream != (lines > 5) {
			t.Errorf("stream %v: %q in %d lines, %+v", stream, text, lines, last)
		}
		if last.EvalCount != 15 || last.PromptEvalCount == 0 || last.TotalDuration <= 0 || last.EvalDuration <= 0 || last.PromptEvalDuration != 1500*time.Microsecond {
			t.Errorf("stream %v: %+v", stream, last.Metrics)
		}
	}
}

func TestOllamaTools(t *testing.T) {
	c := newOllama(t, start(t, &speller{}, nil).URL)
	tools := ollama.Tools{{Type: "function", Function: ollama.ToolFunction{Name: "weather", Parameters: ollama.ToolFunctionParameters{Type: "object"}}}}
	for _, stream := range []bool{true, false} {
		req := &ollama.ChatRequest{Model: "speller", Stream: &stream, Tools: tools, Messages: []ollama.Message{{Role: "user", Content: "call weather"}}}
		var all ollama.Message
		if err := c.Chat(t.Context(), req, func(r ollama.ChatResponse) error {
			all.Thinking += r.Message.Thinking
			all.ToolCalls = append(all.ToolCalls, r.Message.ToolCalls...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if all.Thinking != "Hm. So." || len(all.ToolCalls) != 2 || all.ToolCalls[1].Function.Index != 1 || all.ToolCalls[1].Function.Arguments.String() != `{"z":1,"a":2}` {
			t.Fatalf("stream %v: %+v", stream, all)
		}
		all.Role = "assistant"
		req.Messages = append(req.Messages, all, ollama.Message{Role: "tool", ToolName: "weather", Content: "rain"})
		text := ""
		if err := c.Chat(t.Context(), req, func(r ollama.ChatResponse) error { text += r.Message.Content; return nil }); err != nil || text != "rain" {
			t.Errorf("%q, %v", text, err)
		}
	}
}

func TestOllamaGenerate(t *testing.T) {
	c := newOllama(t, start(t, &speller{}, nil).URL)
	for _, stream := range []bool{true, false} {
		for _, raw := range []bool{true, false} {
			req := &ollama.GenerateRequest{Model: "SPELLER:latest", Stream: &stream, Raw: raw, Prompt: "héllo", Options: map[string]any{"num_predict": 4}, Logprobs: true, TopLogprobs: 2}
			if !raw {
				req.System = "Spell."
			}
			text, logprobs := "", 0
			var last ollama.GenerateResponse
			if err := c.Generate(t.Context(), req, func(r ollama.GenerateResponse) error {
				text += r.Response
				logprobs += len(r.Logprobs)
				last = r
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			prompt := len("<system>Spell.<user>héllo")
			if raw {
				prompt = len("héllo")
			}
			if text != "hél" || last.DoneReason != "length" || last.PromptEvalCount != prompt || logprobs != 4 {
				t.Errorf("stream %v, raw %v: %q, %d log probabilities, %+v", stream, raw, text, logprobs, last)
			}
		}
	}
	loaded := false
	if err := c.Generate(t.Context(), &ollama.GenerateRequest{Model: "speller"}, func(r ollama.GenerateResponse) error {
		loaded = r.Done && r.DoneReason == "load"
		return nil
	}); err != nil || !loaded {
		t.Errorf("loading: %v", err)
	}
}

func TestOllamaModels(t *testing.T) {
	srv := start(t, &speller{}, nil)
	c := newOllama(t, srv.URL)
	list, err := c.List(t.Context())
	if err != nil || len(list.Models) != 2 || list.Models[0].Name != "speller:latest" || list.Models[0].Details.ParameterSize != "134.5M" || list.Models[0].ModifiedAt.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	running, err := c.ListRunning(t.Context())
	if err != nil || len(running.Models) != 1 || running.Models[0].ContextLength != spellerContext || running.Models[0].ExpiresAt.Before(time.Now()) ||
		running.Models[0].Size != 1<<20 || running.Models[0].SizeVRAM != 0 {
		t.Errorf("%+v, %v", running, err)
	}
	for _, name := range []string{"speller", "speller:latest", "org/other"} {
		shown, err := c.Show(t.Context(), &ollama.ShowRequest{Model: name})
		if err != nil || len(shown.Capabilities) == 0 || shown.Capabilities[0] != "completion" {
			t.Errorf("%s: %+v, %v", name, shown, err)
		}
		if strings.HasPrefix(name, "speller") && (shown.ModelInfo["llama.context_length"] != float64(spellerContext) || shown.Capabilities[1] != "tools") {
			t.Errorf("%s: %+v", name, shown)
		}
	}
	if v, err := c.Version(t.Context()); err != nil || v != ollamaVersion {
		t.Errorf("version %q, %v", v, err)
	}
	if err := c.Heartbeat(t.Context()); err != nil {
		t.Error(err)
	}
	if resp, body := do(t, http.MethodGet, srv.URL, ""); resp.StatusCode != 200 || body != "Ollama is running" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	for _, stream := range []bool{true, false} {
		var seen []ollama.ProgressResponse
		if err := c.Pull(t.Context(), &ollama.PullRequest{Model: "speller", Stream: &stream}, func(p ollama.ProgressResponse) error { seen = append(seen, p); return nil }); err != nil {
			t.Fatal(err)
		}
		if last := seen[len(seen)-1]; last.Status != "success" || stream != (len(seen) > 2) {
			t.Errorf("stream %v: %+v", stream, seen)
		}
		if stream && (seen[0].Status != "pulling manifest" || seen[len(seen)-2].Completed != 2 || seen[len(seen)-2].Digest != spellerID) {
			t.Errorf("%+v", seen)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	_ = c.Pull(ctx, &ollama.PullRequest{Model: "org/other"}, func(p ollama.ProgressResponse) error { // this client knows no error of a broken stream
		if p.Total > 0 {
			cancel()
		}
		ended = p.Status == "success"
		return nil
	})
	if ended || ctx.Err() == nil {
		t.Error("a pull that was cancelled came to its end")
	}
}

// TestOllamaErrors: each with its status, and in Ollama's shape.
func TestOllamaErrors(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Key = "right" })
	auth := []string{"Authorization", "Bearer right"}
	for _, test := range []struct {
		path, body string
		status     int
	}{
		{"/api/chat", `{"model":"gpt-9","messages":[{"role":"user","content":"x"}]}`, 404},
		{"/api/chat", `{"model":"../../etc/passwd","messages":[{"role":"user","content":"x"}]}`, 404},
		{"/api/chat", `{"model":"https://example.org/x.gguf","messages":[{"role":"user","content":"x"}]}`, 404},
		{"/api/chat", `{"model":"crash","messages":[{"role":"user","content":"x"}]}`, 500},
		{"/api/chat", `{"model":"split","messages":[{"role":"user","content":"x"}]}`, 503},
		{"/api/chat", `{"messages":[]}`, 400}, {"/api/chat", `[]`, 400}, {"/api/chat", `{"model":"gpt-9","messages":[]}`, 404},
		{"/api/chat", `{"model":"speller","messages":[{"role":"user","content":"x","images":["aGk="]}]}`, 400},
		{"/api/chat", `{"model":"speller","messages":[{"role":"user","content":"x"}],"think":"deep"}`, 400},
		{"/api/chat", `{"model":"speller","messages":[{"role":"user","content":"x"}],"format":"yaml"}`, 400},
		{"/api/chat", `{"model":"speller","messages":[{"role":"user","content":"x"}],"options":{"temperature":-1}}`, 400},
		{"/api/generate", `{"model":"speller","prompt":"x","template":"y"}`, 400}, {"/api/generate", `{"model":"speller","prompt":"x","suffix":"y"}`, 400},
		{"/api/generate", `{"model":"speller","prompt":"x","images":["aGk="]}`, 400}, {"/api/generate", `{"model":"speller","prompt":"x","context":[1]}`, 400},
		{"/api/generate", `{"model":"speller","prompt":"` + strings.Repeat("x", spellerContext) + `"}`, 400},
		{"/api/embed", `{"model":"speller","input":"x"}`, 400}, {"/api/embeddings", `{"model":"nope","prompt":"x"}`, 404},
		{"/api/show", `{"model":"nope"}`, 404}, {"/api/show", `{}`, 400}, {"/api/pull", `{"model":"hf.co/a/b"}`, 404},
		{"/api/create", `{}`, 403}, {"/api/nothing", `{}`, 404}, {"/api/tags", `{}`, 405},
	} {
		resp, body := post(t, srv.URL+test.path, test.body, auth...)
		var e map[string]any
		if err := json.Unmarshal([]byte(body), &e); err != nil || e["error"] == "" || len(e) != 1 {
			t.Errorf("%s %.60s: %q: %v", test.path, test.body, body, err)
		}
		if _, ok := e["error"].(string); !ok || resp.StatusCode != test.status {
			t.Errorf("%s %.60s: %d %s", test.path, test.body, resp.StatusCode, body)
		}
		if test.status == 503 && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s %.60s: no Retry-After", test.path, test.body)
		}
	}
	if err := newOllama(t, srv.URL).Chat(t.Context(), &ollama.ChatRequest{Model: "speller"}, func(ollama.ChatResponse) error { return nil }); !errors.As(err, &ollama.AuthorizationError{}) {
		t.Errorf("without the key: %v", err)
	}
}

// TestOllamaGuard: who may not use OpenAI's API may not use this one. Programs may call
// their JSON anything, and so may a page whose origin is allowed, but no page that hides
// its origin.
func TestOllamaGuard(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Origins = []string{"https://friend.example"} })
	const form = "application/x-www-form-urlencoded"
	for _, test := range []struct {
		name   string
		status int
		header []string
	}{
		{"curl", 200, []string{"Content-Type", form, "User-Agent", "curl/8.5.0"}},
		{"a page", 403, []string{"Content-Type", form, "Origin", "https://evil.example"}},
		{"an old browser's page", 415, []string{"Content-Type", form, "User-Agent", "Mozilla/5.0"}},
		{"one that hides its name", 415, []string{"Content-Type", form, "Referer", "https://evil.example"}},
		{"plain text", 200, []string{"Content-Type", "text/plain;charset=UTF-8"}},
		{"no type", 200, []string{"Content-Type", ""}},
		{"a type that is none", 200, []string{"Content-Type", ";;"}},
		{"an allowed page's text", 200, []string{"Content-Type", "text/plain", "Origin", "https://friend.example", "User-Agent", "Mozilla/5.0"}},
		{"this page's text", 200, []string{"Content-Type", "text/plain", "Origin", srv.URL}},
		{"a page's text", 403, []string{"Content-Type", "text/plain", "Origin", "https://evil.example"}},
		{"a page's text without origin", 403, []string{"Content-Type", "text/plain", "Sec-Fetch-Site", "cross-site"}},
		{"a browser's text", 415, []string{"Content-Type", "text/plain", "Sec-Fetch-Site", "none"}},
		{"a rebound name", 403, []string{"Host", "evil.example"}},
	} {
		for _, path := range []string{"/api/chat", "/api/generate", "/api/show", "/api/pull"} {
			body := `{"model":"speller","stream":false}`
			if resp, got := post(t, srv.URL+path, body, test.header...); resp.StatusCode != test.status {
				t.Errorf("%s, %s: %d %s", test.name, path, resp.StatusCode, got)
			}
		}
	}
	if resp, _ := do(t, http.MethodGet, srv.URL+"/api/tags", "", "Host", "evil.example"); resp.StatusCode != 403 {
		t.Errorf("a rebound name lists models: %d", resp.StatusCode)
	}
}

// TestOllamaCancel: who goes away ends the work.
func TestOllamaCancel(t *testing.T) {
	for _, stream := range []bool{true, false} {
		s := &speller{delay: 5 * time.Millisecond}
		c := newOllama(t, start(t, s, nil).URL)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			waitFor(t, "a generation under way", func() bool { return s.begun.Load() == 1 })
			cancel()
		}()
		err := c.Generate(ctx, &ollama.GenerateRequest{Model: "speller", Prompt: strings.Repeat("x", 4000), Stream: &stream}, func(ollama.GenerateResponse) error { return nil })
		if !stream && !errors.Is(err, context.Canceled) { // of a stream, this client tells no error
			t.Error(err)
		}
		waitFor(t, "the end of it", func() bool { return s.running.Load() == 0 && s.stopped.Load() == 1 })
	}
}

// FuzzDecodeOllama: whatever comes in, the answer is a usable request or an
// error of the caller's.
func FuzzDecodeOllama(f *testing.F) {
	for _, body := range []string{
		`{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}},{"function":{"name":"g"}}]},{"role":"tool","tool_name":"g","content":"x"}],"tools":[{"type":"function","function":{"name":"f"}}],"think":"low"}`,
		`{"model":"m","prompt":"a","system":"b","format":"json","options":{"seed":3,"stop":"x","num_predict":-2},"keep_alive":-1}`,
		`{"model":"m","raw":true,"prompt":"a","format":{"type":"object"},"think":false}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, decode := range []func([]byte) (*ollamaJob, error){decodeOllamaChat, decodeOllamaGenerate} {
			j, err := decode(body)
			if err != nil {
				if e := AsError(err); e.Kind != BadInput || e.Message == "" {
					t.Fatalf("%q: %#v", body, err)
				}
				continue
			}
			if !j.load && !j.req.Raw && len(j.req.Messages) == 0 {
				t.Fatalf("%q: %+v", body, j.req)
			}
			if last := len(j.req.Messages) - 1; j.req.Continue && (last < 0 || j.req.Messages[last].Role != "assistant") {
				t.Fatalf("%q continues %+v", body, j.req.Messages)
			}
		}
	})
}
