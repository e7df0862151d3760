package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	ollama "github.com/ollama/ollama/api"
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/openai/openai-go/responses"

	"github.com/shoalnet/shoal/testnet"
)

// step of the script that both official clients take.
type step struct {
	Step      string         `json:"step"`
	Request   map[string]any `json:"request,omitempty"`
	Key       string         `json:"key,omitempty"`
	StopAfter int            `json:"stop_after,omitempty"` // chunks

	check func(*testing.T, outcome)
}

// outcome of a step, as a client sees it.
type outcome struct {
	Step      string   `json:"step"`
	Models    []string `json:"models"`
	Text      string   `json:"text"`
	Calls     []called `json:"calls"`
	Finish    string   `json:"finish"`
	Tokens    int64    `json:"tokens"`
	Chunks    int      `json:"chunks"`
	Route     string   `json:"route"`
	Timing    string   `json:"timing"`
	Cancelled bool     `json:"cancelled"`
	Status    int      `json:"status"`
	Code      string   `json:"code"`
	Type      string   `json:"type"`
	Param     string   `json:"param"`
}

type called struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

const apiKey = "right"

// script of steps. Answers are greedy: both clients must see the same.
func script() []step {
	ask := func(text string, more map[string]any) map[string]any {
		r := map[string]any{"model": "tinytales", "temperature": 0, "max_completion_tokens": 40, "messages": []any{map[string]any{"role": "user", "content": text}}}
		for k, v := range more {
			r[k] = v
		}
		return r
	}
	fails := func(status int, code, kind, param string) func(*testing.T, outcome) {
		return func(t *testing.T, o outcome) {
			if o.Status != status || o.Code != code || o.Type != kind || o.Param != param {
				t.Errorf("got %+v", o)
			}
		}
	}
	const story = "Tell me a story about a fox and a drum."
	schema := map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string", "enum": []string{"Oslo", "Rome"}}}, "required": []string{"city"}, "additionalProperties": false}
	tools := []any{map[string]any{"type": "function", "function": map[string]any{"name": "weather", "description": "The weather of a city", "parameters": schema}}}
	isCity := func(t *testing.T, text string) {
		var v struct{ City string }
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil || v.City != "Oslo" && v.City != "Rome" {
			t.Errorf("%q is no city: %v", text, err)
		}
	}
	var whole string
	return []step{
		{Step: "list", check: func(t *testing.T, o outcome) {
			if !reflect.DeepEqual(o.Models, []string{"tinytales"}) {
				t.Errorf("models %v", o.Models)
			}
		}},
		{Step: "chat", Request: ask(story, nil), check: func(t *testing.T, o outcome) {
			whole = o.Text
			if len(o.Text) < 40 || o.Finish != "length" || o.Tokens != 40 || strings.Count(o.Route, ":") != 3 || !strings.HasPrefix(o.Timing, "ttft;dur=") {
				t.Errorf("got %+v", o)
			}
		}},
		{Step: "stream", Request: ask(story, nil), check: func(t *testing.T, o outcome) {
			if o.Text != whole || o.Finish != "length" || o.Tokens != 40 || o.Chunks < 20 {
				t.Errorf("got %+v, want the text %q", o, whole)
			}
		}},
		{Step: "tools", Request: ask("What is the weather in Oslo?", map[string]any{"tools": tools}), check: func(t *testing.T, o outcome) {
			if o.Status != 0 || o.Tokens == 0 { // whether to call is the model's choice
				t.Errorf("got %+v", o)
			}
		}},
		{Step: "tools, required", Request: ask("What is the weather in Oslo?", map[string]any{"max_completion_tokens": 100, "tools": tools, "tool_choice": "required"}), check: func(t *testing.T, o outcome) {
			if len(o.Calls) != 1 || o.Calls[0].Name != "weather" || o.Finish != "tool_calls" {
				t.Fatalf("got %+v", o)
			}
			isCity(t, o.Calls[0].Arguments)
		}},
		{Step: "stream of tools", Request: ask("What is the weather in Oslo?", map[string]any{"max_completion_tokens": 100, "tools": tools, "tool_choice": map[string]any{"type": "function", "function": map[string]any{"name": "weather"}}}), check: func(t *testing.T, o outcome) {
			if len(o.Calls) != 1 || o.Calls[0].Name != "weather" || o.Finish != "tool_calls" || o.Text != "" {
				t.Fatalf("got %+v", o)
			}
			isCity(t, o.Calls[0].Arguments)
		}},
		{Step: "tools, the way back", Request: ask("", map[string]any{"tools": tools, "messages": []any{
			map[string]any{"role": "user", "content": "What is the weather in Oslo?"},
			map[string]any{"role": "assistant", "content": nil, "tool_calls": []any{map[string]any{"id": "call_1", "type": "function", "function": map[string]any{"name": "weather", "arguments": `{"city": "Oslo"}`}}}},
			map[string]any{"role": "tool", "tool_call_id": "call_1", "content": "rain"},
		}}), check: func(t *testing.T, o outcome) {
			if o.Status != 0 || o.Tokens == 0 {
				t.Errorf("got %+v", o)
			}
		}},
		{Step: "JSON schema", Request: ask("Name a city.", map[string]any{"response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "city", "strict": true, "schema": schema}}}), check: func(t *testing.T, o outcome) {
			if o.Finish != "stop" {
				t.Errorf("got %+v", o)
			}
			isCity(t, o.Text)
		}},
		{Step: "response", Request: map[string]any{"model": "tinytales", "input": story, "temperature": 0, "max_output_tokens": 40}, check: func(t *testing.T, o outcome) {
			if o.Text != whole || o.Finish != "incomplete" || o.Tokens != 40 || strings.Count(o.Route, ":") != 3 {
				t.Errorf("got %+v, want the text %q", o, whole)
			}
		}},
		{Step: "response-stream", Request: map[string]any{"model": "tinytales", "input": story, "temperature": 0, "max_output_tokens": 40}, check: func(t *testing.T, o outcome) {
			if o.Text != whole || o.Finish != "incomplete" || o.Tokens != 40 || o.Chunks < 20 {
				t.Errorf("got %+v, want the text %q", o, whole)
			}
		}},
		{Step: "stream of JSON", Request: ask("Name a city.", map[string]any{"temperature": 1.2, "seed": 3, "response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "city", "schema": schema}}}), check: func(t *testing.T, o outcome) {
			if o.Chunks < 3 {
				t.Errorf("got %+v", o)
			}
			isCity(t, o.Text)
		}},
		{Step: "JSON schema that cannot be followed", Request: ask("Name a city.", map[string]any{"response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "city", "schema": map[string]any{"not": map[string]any{"uniqueItems": true}}}}}), check: fails(400, "invalid_request", "invalid_request_error", "response_format")},
		{Step: "embeddings", Request: map[string]any{"model": "tinytales", "input": "x"}, check: fails(400, "invalid_request", "invalid_request_error", "model")},
		{Step: "cancel", StopAfter: 5, Request: ask(story, map[string]any{"max_completion_tokens": 400, "stop": []string{"never said"}}), check: func(t *testing.T, o outcome) {
			if !o.Cancelled || o.Finish != "" {
				t.Errorf("got %+v", o)
			}
		}},
		{Step: "bad key", Key: "wrong", Request: ask(story, nil), check: fails(401, "invalid_api_key", "authentication_error", "")},
		{Step: "unknown model", Request: ask(story, map[string]any{"model": "gpt-9"}), check: fails(404, "model_not_found", "invalid_request_error", "")},
		{Step: "over-long prompt", Request: ask(strings.Repeat("A very long story. ", 400), nil), check: fails(400, "context_length_exceeded", "invalid_request_error", "")},
		{Step: "bad parameter", Request: ask(story, map[string]any{"top_p": 7}), check: fails(400, "invalid_request", "invalid_request_error", "top_p")},
	}
}

// TestClients has the official clients of Go and Node take the same steps against
// three nodes.
func TestClients(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 3, Args: []string{"--api-key", apiKey}})
	base := "http://" + net.Nodes()[0].API + "/v1"
	idle := func(t *testing.T) {
		eventually(t, 20*time.Second, "all sessions are freed", func() bool {
			sessions := 0
			for _, n := range net.Nodes() {
				for _, s := range statusOf(t, n).Serving {
					sessions += s.Sessions
				}
			}
			return sessions == 0
		})
	}
	t.Run("Go", func(t *testing.T) {
		for _, s := range script() {
			t.Run(s.Step, func(t *testing.T) { s.check(t, goStep(t, base, s)) })
		}
		idle(t)
	})
	t.Run("Node", func(t *testing.T) {
		steps := script()
		for i, o := range nodeSteps(t, base, steps) {
			t.Run(steps[i].Step, func(t *testing.T) { steps[i].check(t, o) })
		}
		idle(t)
	})
}

// goStep takes a step with the official Go client.
func goStep(t *testing.T, base string, s step) (out outcome) {
	t.Helper()
	key := s.Key
	if key == "" {
		key = apiKey
	}
	c := openai.NewClient(option.WithBaseURL(base), option.WithAPIKey(key), option.WithMaxRetries(0))
	raw, err := json.Marshal(s.Request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var p openai.ChatCompletionNewParams
	kind, _, _ := strings.Cut(s.Step, " ")
	if s.Request["messages"] != nil {
		if err := json.Unmarshal(raw, &p); err != nil {
			t.Fatal(err)
		}
		if f, ok := s.Request["response_format"].(map[string]any); ok { // which the client's types write, and do not read
			schema := f["json_schema"].(map[string]any)
			p.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &openai.ResponseFormatJSONSchemaParam{
				JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{Name: schema["name"].(string), Schema: schema["schema"]},
			}}
		}
	}
	var asked responses.ResponseNewParams
	if strings.HasPrefix(kind, "response") {
		if err := json.Unmarshal(raw, &asked); err != nil {
			t.Fatal(err)
		}
	}
	switch kind {
	case "list":
		list, e := c.Models.List(ctx)
		if err = e; err == nil {
			for _, m := range list.Data {
				out.Models = append(out.Models, m.ID)
			}
		}
	case "embeddings":
		_, err = c.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "tinytales", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("x")}})
	case "response":
		var resp *http.Response
		got, e := c.Responses.New(ctx, asked, option.WithResponseInto(&resp))
		if err = e; err == nil {
			out.Text, out.Finish, out.Tokens, out.Route = got.OutputText(), string(got.Status), got.Usage.OutputTokens, resp.Header.Get("X-Shoal-Route")
		}
	case "response-stream":
		stream := c.Responses.NewStreaming(ctx, asked)
		defer stream.Close()
		for ; stream.Next(); out.Chunks++ {
			switch e := stream.Current(); e.Type {
			case "response.output_text.delta":
				out.Text += e.Delta.OfString
			case "response.completed", "response.incomplete":
				out.Finish, out.Tokens = string(e.Response.Status), e.Response.Usage.OutputTokens
			}
		}
		err = stream.Err()
	case "stream", "cancel":
		p.StreamOptions.IncludeUsage = openai.Bool(true)
		stream := c.Chat.Completions.NewStreaming(ctx, p)
		defer stream.Close()
		for stream.Next() {
			chunk := stream.Current()
			for _, ch := range chunk.Choices {
				out.Text += ch.Delta.Content
				for _, call := range ch.Delta.ToolCalls {
					out.Calls = append(out.Calls, called{call.Function.Name, call.Function.Arguments})
				}
				if ch.FinishReason != "" {
					out.Finish = ch.FinishReason
				}
			}
			out.Tokens = max(out.Tokens, chunk.Usage.CompletionTokens)
			if out.Chunks++; s.StopAfter > 0 && out.Chunks >= s.StopAfter {
				out.Cancelled = true
				return out
			}
		}
		err = stream.Err()
	default:
		var resp *http.Response
		got, e := c.Chat.Completions.New(ctx, p, option.WithResponseInto(&resp))
		if err = e; err == nil {
			ch := got.Choices[0]
			out.Text, out.Finish, out.Tokens = ch.Message.Content, ch.FinishReason, got.Usage.CompletionTokens
			for _, call := range ch.Message.ToolCalls {
				out.Calls = append(out.Calls, called{call.Function.Name, call.Function.Arguments})
			}
			out.Route, out.Timing = resp.Header.Get("X-Shoal-Route"), resp.Header.Get("Server-Timing")
		}
	}
	var e *openai.Error
	if errors.As(err, &e) {
		out.Status, out.Code, out.Type, out.Param = e.StatusCode, e.Code, e.Type, e.Param
	} else if err != nil {
		t.Fatal(err)
	}
	return out
}

// nodeSteps takes the steps with the official Node client, which is installed if
// SHOAL_NPM or CI asks for it.
func nodeSteps(t *testing.T, base string, steps []step) []outcome {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("without %s: %v", name, err)
		}
	}
	dir, err := filepath.Abs("../../contrib/clients")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "openai")); err != nil {
		if os.Getenv("SHOAL_NPM") == "" && os.Getenv("CI") == "" {
			t.Skip("the Node client is not installed: SHOAL_NPM=1 has this test run `npm ci` in contrib/clients")
		}
		cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("the Node client could not be installed: npm ci: %v\n%s", err, out)
		}
	}
	in, err := json.Marshal(map[string]any{"base": base, "key": apiKey, "steps": steps})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "openai.mjs"))
	var errOut bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, &errOut)
	}
	var list []outcome
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		list = append(list, o)
	}
	if len(list) != len(steps) {
		t.Fatalf("%d of %d steps were taken:\n%s%s", len(list), len(steps), out, &errOut)
	}
	return list
}

// TestOllamaClient has Ollama's own client use a network.
func TestOllamaClient(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 3})
	at := func(i int) *ollama.Client {
		return ollama.NewClient(&url.URL{Scheme: "http", Host: net.Nodes()[i].API}, http.DefaultClient)
	}
	c := at(0)
	if err := c.Heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list.Models) != 1 || list.Models[0].Name != "tinytales:latest" {
		t.Fatalf("%+v, %v", list, err)
	}
	name := list.Models[0].Name
	shown, err := c.Show(t.Context(), &ollama.ShowRequest{Model: name})
	if err != nil || shown.Details.Family != "llama" || shown.ModelInfo["llama.context_length"] != 512.0 {
		t.Errorf("%+v, %v", shown, err)
	}
	running, err := c.ListRunning(t.Context())
	if err != nil || len(running.Models) != 1 || running.Models[0].Name != name || running.Models[0].Size == 0 {
		t.Errorf("%+v, %v", running, err)
	}
	cold := map[string]any{"temperature": 0, "num_predict": 30}
	var texts []string
	for _, stream := range []bool{true, false} {
		text, lines := "", 0
		var last ollama.ChatResponse
		err := c.Chat(t.Context(), &ollama.ChatRequest{Model: name, Stream: &stream, Options: cold, Messages: []ollama.Message{{Role: "user", Content: "Tell me a story."}}}, func(r ollama.ChatResponse) error {
			text += r.Message.Content
			lines++
			last = r
			return nil
		})
		if err != nil || last.DoneReason != "length" || last.EvalCount != 30 || last.EvalDuration <= 0 || last.TotalDuration < last.EvalDuration || (lines > 10) != stream {
			t.Errorf("stream %v: %q, %+v, %v", stream, text, last, err)
		}
		texts = append(texts, text)
	}
	text := ""
	if err := c.Generate(t.Context(), &ollama.GenerateRequest{Model: name, Options: cold, Prompt: "Tell me a story."}, func(r ollama.GenerateResponse) error { text += r.Response; return nil }); err != nil || text != texts[0] || text != texts[1] {
		t.Errorf("%q, %q, %v", text, texts, err)
	}
	for _, format := range []string{`"json"`, `{"type":"object","properties":{"sky":{"enum":["blue","grey"]}},"required":["sky"]}`} {
		text := ""
		if err := c.Chat(t.Context(), &ollama.ChatRequest{Model: name, Format: json.RawMessage(format), Options: cold, Messages: []ollama.Message{{Role: "user", Content: "What colour is the sky?"}}}, func(r ollama.ChatResponse) error {
			text += r.Message.Content
			return nil
		}); err != nil || !strings.HasPrefix(text, "{") || format != `"json"` && text != `{"sky":"blue"}` && text != `{"sky":"grey"}` && text != `{"sky": "blue"}` && text != `{"sky": "grey"}` {
			t.Errorf("format %s: %q, %v", format, text, err)
		}
	}
	// A node that serves a third fetches the rest from its peers.
	var last ollama.ProgressResponse
	if err := at(2).Pull(t.Context(), &ollama.PullRequest{Model: name}, func(p ollama.ProgressResponse) error { last = p; return nil }); err != nil || last.Status != "success" {
		t.Errorf("%+v, %v", last, err)
	}
	home := &client{t: t, env: append(os.Environ(), "SHOAL_QUIET_BUILD=1")}
	if out, _, code := home.run("model", "show", "--home", net.Nodes()[2].Dir, "--json", "tinytales"); code != 0 || !strings.Contains(out, `"complete":true`) {
		t.Errorf("after the pull: %d %s", code, out)
	}
	var status ollama.StatusError
	if err := c.Chat(t.Context(), &ollama.ChatRequest{Model: "llama3.2:3b", Messages: []ollama.Message{{Role: "user", Content: "x"}}}, func(ollama.ChatResponse) error { return nil }); !errors.As(err, &status) || status.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown model: %v", err)
	}
	if _, err := c.Embed(t.Context(), &ollama.EmbedRequest{Model: name, Input: "x"}); !errors.As(err, &status) || status.StatusCode != http.StatusBadRequest || !strings.Contains(status.ErrorMessage, "embeddings") {
		t.Errorf("embeddings: %v", err)
	}
}

// TestReadmeCurl runs the examples of README.md that call curl, against a network.
func TestReadmeCurl(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip(err)
	}
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := curlExamples(string(raw))
	if len(examples) < 4 {
		t.Fatalf("README.md has %d examples with curl", len(examples))
	}
	net := processes(t, testnet.Config{Nodes: 3})
	api := net.Nodes()[1].API
	for _, e := range examples {
		t.Run(e.command[:min(40, len(e.command))], func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(e.command, "127.0.0.1:11500", api)+" --fail-with-body --silent --show-error")
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s\n%v\n%s", e.command, err, out)
			}
			if want := e.shape(); !want.Match(out) {
				t.Errorf("%s\ngave\n%s\nwhich is not as README.md has it:\n%s", e.command, out, e.output)
			}
		})
	}
}

// example is a command with the lines that README.md shows below it.
type example struct{ command, output string }

// shape is the output with anything in the place of each ellipsis.
func (e example) shape() *regexp.Regexp {
	parts := strings.Split(strings.TrimSpace(e.output), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)` + strings.Join(parts, ".*"))
}

// curlExamples are the commands with curl in the console blocks, with the lines
// that they go on over.
func curlExamples(readme string) (out []example) {
	for i, block := range strings.Split(readme, "```") {
		text, console := strings.CutPrefix(block, "console\n")
		if i%2 == 0 || !console {
			continue
		}
		open := false // a quotation mark
		for line := range strings.Lines(text) {
			command, begins := strings.CutPrefix(line, "$ ")
			switch {
			case begins && strings.HasPrefix(command, "curl "):
				out = append(out, example{command: command})
			case begins:
				out = append(out, example{})
				continue
			case len(out) == 0 || out[len(out)-1].command == "":
				continue
			case open:
				out[len(out)-1].command += line
			default:
				out[len(out)-1].output += line
				continue
			}
			open = strings.Count(out[len(out)-1].command, "'")%2 == 1
		}
	}
	kept := out[:0]
	for _, e := range out {
		if e.command = strings.TrimSpace(e.command); e.command != "" {
			kept = append(kept, e)
		}
	}
	return kept
}
