package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
)

// These tests run OpenAI's own client against the API.

func newOpenAI(url string, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{option.WithBaseURL(url + "/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0)}, opts...)...)
}

func ask(text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: "speller", Messages: []openai.ChatCompletionMessageParamUnion{
		openai.SystemMessage("Spell."), openai.UserMessage(text),
	}}
}

func TestOpenAIModels(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	page, err := c.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Data) != 2 || page.Data[0].ID != "speller" || page.Data[1].ID != "org/other" || page.Data[0].Object != "model" {
		t.Fatalf("listed %+v", page.Data)
	}
	for _, name := range []string{"speller", "org/other", spellerID} {
		if m, err := c.Models.Get(t.Context(), name); err != nil || m.ID != name {
			t.Errorf("%s: got %+v, %v", name, m, err)
		}
	}
}

func TestOpenAIChat(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	var raw *http.Response
	got, err := c.Chat.Completions.New(t.Context(), ask("smörgåsbord"), option.WithResponseInto(&raw))
	if err != nil {
		t.Fatal(err)
	}
	ch := got.Choices[0]
	if ch.Message.Content != "smörgåsbord" || ch.Message.Role != "assistant" || ch.FinishReason != "stop" || got.Model != "speller" {
		t.Errorf("got %s", got.RawJSON())
	}
	if got.Object != "chat.completion" || got.Usage.CompletionTokens != 13 || got.Usage.PromptTokens != int64(len("<system>Spell.<user>smörgåsbord")) ||
		got.Usage.TotalTokens != got.Usage.PromptTokens+13 || got.SystemFingerprint == "" || !strings.HasPrefix(got.ID, "chatcmpl-") {
		t.Errorf("got %s", got.RawJSON())
	}
	if route := raw.Header.Get("X-Shoal-Route"); route != "peerA:0-4,peerB:4-8" {
		t.Errorf("route %q", route)
	}
	if st := raw.Header.Get("Server-Timing"); !strings.HasPrefix(st, "ttft;dur=1.5") {
		t.Errorf("Server-Timing %q", st)
	}
	if strings.Contains(got.RawJSON(), `"shoal"`) {
		t.Error("details that were not asked for")
	}
}

func TestOpenAIChatChoices(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	p := ask("abc def")
	p.N, p.Seed = openai.Int(3), openai.Int(-7)
	p.Stop = openai.ChatCompletionNewParamsStopUnion{OfString: openai.String("def")}
	got, err := c.Chat.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"18446744073709551609:abc ", "18446744073709551610:abc ", "18446744073709551611:abc "}
	for i, w := range want {
		if ch := got.Choices[i]; ch.Message.Content != w || ch.Index != int64(i) {
			t.Errorf("choice %d is %q, want %q", i, ch.Message.Content, w)
		}
	}
	if got.Usage.PromptTokens != int64(len("<system>Spell.<user>abc def")) {
		t.Errorf("the prompt counts %d tokens", got.Usage.PromptTokens)
	}
}

func TestOpenAIChatLogprobs(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	p := ask("né")
	p.Logprobs, p.TopLogprobs = openai.Bool(true), openai.Int(2)
	got, err := c.Chat.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	lp := got.Choices[0].Logprobs.Content
	if len(lp) != 3 || lp[0].Token != "n" || lp[0].Logprob != -0.25 || len(lp[0].TopLogprobs) != 2 || lp[0].TopLogprobs[1].Token != "b" {
		t.Fatalf("got %s", got.RawJSON())
	}
	if lp[1].Token != "\uFFFD" || lp[1].Bytes[0] != 0xc3 || lp[2].Bytes[0] != 0xa9 {
		t.Errorf("half characters are %+v", lp[1:])
	}
}

func TestOpenAIChatStream(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	p := ask("smörgåsbord <b>&amp;")
	p.N = openai.Int(2)
	p.Logprobs = openai.Bool(true)
	p.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	var raw *http.Response
	stream := c.Chat.Completions.NewStreaming(t.Context(), p, option.WithResponseInto(&raw))
	var acc openai.ChatCompletionAccumulator
	n, roles := 0, map[int64]int{}
	var usage int64
	for stream.Next() {
		chunk := stream.Current()
		if !acc.AddChunk(chunk) {
			t.Fatal("a chunk that does not belong")
		}
		n++
		for _, ch := range chunk.Choices {
			if ch.Delta.Role != "" {
				roles[ch.Index]++
			}
			if chunk.Usage.TotalTokens != 0 || !strings.Contains(chunk.RawJSON(), `"usage":null`) {
				t.Errorf("usage of a chunk that is not the last: %s", chunk.RawJSON())
			}
		}
		if len(chunk.Choices) == 0 {
			usage = chunk.Usage.CompletionTokens
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	const text = "smörgåsbord <b>&amp;"
	for i := range 2 {
		ch := acc.Choices[i]
		if ch.Message.Content != text || ch.FinishReason != "stop" || len(ch.Logprobs.Content) != len(text) {
			t.Errorf("choice %d: %q, %s, %d log probabilities", i, ch.Message.Content, ch.FinishReason, len(ch.Logprobs.Content))
		}
	}
	if usage != 2*int64(len(text)) || roles[0] != 1 || roles[1] != 1 {
		t.Errorf("usage %d, roles %v", usage, roles)
	}
	if n < 2*len(text) {
		t.Errorf("%d chunks only", n)
	}
	if raw.Header.Get("X-Shoal-Route") == "" || !strings.HasPrefix(raw.Trailer.Get("Server-Timing"), "ttft;dur=1.5") {
		t.Errorf("header %v, trailer %v", raw.Header, raw.Trailer)
	}
}

// TestOpenAITools: calls and reasoning, whole and streamed, and the way back.
func TestOpenAITools(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	p := ask("call weather")
	p.Tools = []openai.ChatCompletionToolParam{{Function: openai.FunctionDefinitionParam{Name: "weather", Parameters: openai.FunctionParameters{"type": "object"}}}}
	got, err := c.Chat.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	check := func(how string, m openai.ChatCompletionMessage, finish string) {
		t.Helper()
		if len(m.ToolCalls) != 2 || m.ToolCalls[0].ID != "call_1" || m.ToolCalls[1].ID != "call_2" || finish != "tool_calls" || m.Content != "" {
			t.Fatalf("%s: %s, %s", how, m.RawJSON(), finish)
		}
		if f := m.ToolCalls[1].Function; f.Name != "weather" || f.Arguments != `{"z": 1, "a": 2}` {
			t.Errorf("%s: %+v", how, f)
		}
	}
	check("whole", got.Choices[0].Message, got.Choices[0].FinishReason)
	if raw := got.RawJSON(); !strings.Contains(raw, `"content":null`) || !strings.Contains(raw, `"reasoning_content":"Hm. So.","reasoning":"Hm. So."`) {
		t.Errorf("got %s", raw)
	}
	stream := c.Chat.Completions.NewStreaming(t.Context(), p)
	var acc openai.ChatCompletionAccumulator
	thought := ""
	for stream.Next() {
		chunk := stream.Current()
		acc.AddChunk(chunk)
		thought += chunk.Choices[0].Delta.JSON.ExtraFields["reasoning"].Raw()
	}
	if stream.Err() != nil || thought != `"Hm."" So."` {
		t.Errorf("%v, reasoning %s", stream.Err(), thought)
	}
	check("streamed", acc.Choices[0].Message, acc.Choices[0].FinishReason)
	p.Messages = append(p.Messages, got.Choices[0].Message.ToParam(), openai.ToolMessage("rain", "call_1"), openai.ToolMessage("sun", "call_2"))
	if got, err = c.Chat.Completions.New(t.Context(), p); err != nil || got.Choices[0].Message.Content != "sun" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestOpenAICompletions(t *testing.T) {
	c := newOpenAI(start(t, &speller{}, nil).URL)
	long := strings.Repeat("x", 40)
	got, err := c.Completions.New(t.Context(), openai.CompletionNewParams{Model: "speller",
		Prompt: openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"one", long}}, N: openai.Int(2), Echo: openai.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Choices) != 4 || got.Choices[1].Text != "oneone" || got.Choices[3].Text != long+long[:completionTokens] || got.Choices[3].FinishReason != "length" {
		t.Errorf("got %s", got.RawJSON())
	}
	if got.Usage.PromptTokens != 43 || got.Usage.CompletionTokens != 2*3+2*completionTokens || got.Usage.PromptTokensDetails.CachedTokens != 40 || got.Object != "text_completion" {
		t.Errorf("got %s", got.RawJSON())
	}
	got, err = c.Completions.New(t.Context(), openai.CompletionNewParams{Model: "speller",
		Prompt: openai.CompletionNewParamsPromptUnion{OfArrayOfTokens: []int64{'h', 0xc3, 0xa9}}, Logprobs: openai.Int(2)})
	if err != nil {
		t.Fatal(err)
	}
	lp := got.Choices[0].Logprobs
	if got.Choices[0].Text != "hé" || len(lp.Tokens) != 3 || lp.TextOffset[2] != 2 || lp.TokenLogprobs[0] != -0.25 || lp.TopLogprobs[0]["b"] != -1.25 {
		t.Errorf("got %s", got.RawJSON())
	}
	stream := c.Completions.NewStreaming(t.Context(), openai.CompletionNewParams{Model: "speller", MaxTokens: openai.Int(100),
		Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("ab")}, Echo: openai.Bool(true)})
	text, finish := "", openai.CompletionChoiceFinishReason("")
	for stream.Next() {
		ch := stream.Current().Choices[0]
		text += ch.Text
		finish = ch.FinishReason
	}
	if stream.Err() != nil || text != "abab" || finish != "stop" {
		t.Errorf("streamed %q, %q, %v", text, finish, stream.Err())
	}
}

func TestOpenAIErrors(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Key = "right" })
	for _, test := range []struct {
		name    string
		change  func(*openai.ChatCompletionNewParams)
		key     string
		status  int
		code    string
		typ     string
		param   string
		headers string
	}{
		{"unknown model", func(p *openai.ChatCompletionNewParams) { p.Model = "gpt-9" }, "right", 404, "model_not_found", "invalid_request_error", "", ""},
		{"no route", func(p *openai.ChatCompletionNewParams) { p.Model = "split" }, "right", 503, "no_route", "service_unavailable", "", "Retry-After"},
		{"panic", func(p *openai.ChatCompletionNewParams) { p.Model = "crash" }, "right", 500, "internal_error", "server_error", "", ""},
		{"bad key", func(*openai.ChatCompletionNewParams) {}, "wrong", 401, "invalid_api_key", "authentication_error", "", "WWW-Authenticate"},
		{"too long", func(p *openai.ChatCompletionNewParams) {
			p.Messages = append(p.Messages, openai.UserMessage(strings.Repeat("x", spellerContext)))
		}, "right", 400, "context_length_exceeded", "invalid_request_error", "", ""},
		{"bad parameter", func(p *openai.ChatCompletionNewParams) { p.TopP = openai.Float(2) }, "right", 400, "invalid_request", "invalid_request_error", "top_p", ""},
		{"tools", func(p *openai.ChatCompletionNewParams) {
			p.Tools = []openai.ChatCompletionToolParam{{Function: openai.FunctionDefinitionParam{Name: "not a name"}}}
		}, "right", 400, "invalid_request", "invalid_request_error", "tools[0].function.name", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newOpenAI(srv.URL, option.WithAPIKey(test.key))
			p := ask("x")
			test.change(&p)
			check := func(err error) {
				var e *openai.Error
				if !errors.As(err, &e) {
					t.Fatalf("got %v", err)
				}
				if e.StatusCode != test.status || e.Code != test.code || e.Type != test.typ || e.Param != test.param || e.Message == "" {
					t.Errorf("got %d %s", e.StatusCode, e.RawJSON())
				}
				if test.headers != "" && e.Response.Header.Get(test.headers) == "" {
					t.Errorf("no %s: %v", test.headers, e.Response.Header)
				}
			}
			_, err := c.Chat.Completions.New(t.Context(), p)
			check(err)
			stream := c.Chat.Completions.NewStreaming(t.Context(), p)
			if stream.Next() {
				t.Error("a stream began")
			}
			check(stream.Err())
		})
	}
}

// waitFor gives what other goroutines do the time they need.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s did not come true", what)
}

func TestOpenAICancel(t *testing.T) {
	for _, stream := range []bool{true, false} {
		s := &speller{delay: 5 * time.Millisecond}
		c := newOpenAI(start(t, s, nil).URL)
		ctx, cancel := context.WithCancel(t.Context())
		p := ask(strings.Repeat("x", 4000))
		p.N = openai.Int(2)
		var err error
		if stream {
			st := c.Chat.Completions.NewStreaming(ctx, p)
			for i := 0; st.Next(); i++ {
				if i == 5 {
					cancel()
				}
			}
			err = st.Err()
		} else {
			go func() {
				waitFor(t, "two generations under way", func() bool { return s.begun.Load() == 2 })
				cancel()
			}()
			_, err = c.Chat.Completions.New(ctx, p)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("stream %v: %v", stream, err)
		}
		waitFor(t, "the end of both generations", func() bool { return s.running.Load() == 0 && s.stopped.Load() == 2 })
		cancel()
	}
}
