package api

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/shoalnet/shoal/node/remedy"
)

// speller is a Generator whose "model" has bytes as tokens and answers with what
// it was asked, spelled once more. It keeps the whole contract: held-back
// characters and stop sequences, lengths, seeds, log probabilities, cancelling.
type speller struct {
	delay   time.Duration // a token
	gate    chan struct{} // if any: no token before it is closed
	running atomic.Int64
	begun   atomic.Int64
	stopped atomic.Int64 // ended by the context
}

const (
	spellerID      = "bafyreispeller000000000000000000000000000000000000000000000"
	spellerContext = 4096
)

func (s *speller) Generate(ctx context.Context, req *GenerateRequest, emit func(Event) error) error {
	s.running.Add(1)
	defer s.running.Add(-1)
	s.begun.Add(1)
	defer func() { // wherever it was, in emit too
		if ctx.Err() != nil {
			s.stopped.Add(1)
		}
	}()
	switch strings.TrimSuffix(strings.ToLower(req.Model), ":latest") {
	case "speller", spellerID, "":
	case "split":
		return &Error{Kind: NoRoute, Message: "blocks 10-20 of split are served by nobody", RetryAfter: 1500 * time.Millisecond}
	case "crash":
		panic("a bug")
	default:
		return fmt.Errorf("looking for it: %w", remedy.For(Errorf(UnknownModel, "no model %q", req.Model), remedy.ServeModel, req.Model))
	}
	prompt, answer := req.Prompt, req.Prompt
	if req.PromptIDs != nil {
		b := make([]byte, len(req.PromptIDs))
		for i, id := range req.PromptIDs {
			b[i] = byte(id)
		}
		prompt, answer = string(b), string(b)
	}
	if !req.Raw {
		prompt = ""
		for _, m := range req.Messages {
			prompt += "<" + m.Role + ">" + m.Content
			answer = m.Content
		}
	}
	if req.Sampling.Seed != nil {
		answer = fmt.Sprintf("%d:%s", *req.Sampling.Seed, answer)
	}
	if len(prompt) > spellerContext {
		return Errorf(TooLong, "the prompt has %d tokens: the model's context holds %d", len(prompt), spellerContext)
	}
	start := &Start{Model: spellerID, Name: "speller", PredictedRate: 100, PredictedTTFTMs: 2, Route: []Hop{{Peer: "peerA", From: 0, To: 4}, {Peer: "peerB", From: 4, To: 8}}}
	if req.Route != nil {
		start.Route, start.Note = req.Route, "this route was forced"
	}
	for _, b := range []byte(prompt) {
		start.PromptTokens = append(start.PromptTokens, int32(b))
	}
	if err := emit(Event{Start: start}); err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(answer, "call "); ok && len(req.Tools) > 0 {
		call := func(id string) []ToolCall {
			return []ToolCall{{id, "function", FunctionCall{name, `{"z": 1, "a": 2}`}}}
		}
		for _, t := range []Token{{ID: 1, Reasoning: "Hm."}, {ID: 2, Calls: call("call_1")}, {ID: 3}} {
			if err := emit(Event{Token: &t}); err != nil {
				return err
			}
		}
		return emit(Event{Done: &Done{Calls: call("call_2"), Reasoning: " So.", FinishReason: "tool_calls", Tokens: 3}})
	}
	text, finish := answer, "stop"
	for _, stop := range req.Stop {
		if i := strings.Index(text, stop); i >= 0 {
			text = text[:i]
		}
	}
	tokens := len(text)
	if req.MaxTokens > 0 && tokens > req.MaxTokens {
		tokens, finish = req.MaxTokens, "length"
	}
	held := ""
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
		}
	}
	for i := range tokens {
		if s.delay > 0 {
			select {
			case <-time.After(s.delay):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t := &Token{ID: int32(text[i])}
		if held += text[i : i+1]; utf8.ValidString(held) {
			t.Text, held = held, ""
		}
		if req.Sampling.Logprobs {
			t.Bytes, t.Logprob = []byte{text[i]}, -0.25
			for k := range req.Sampling.TopLogprobs {
				t.Top = append(t.Top, Top{ID: int32(text[i]) + int32(k), Text: string(rune('a' + k)), Logprob: -0.25 - float64(k)})
			}
		}
		if err := emit(Event{Token: t}); err != nil {
			return err
		}
	}
	return emit(Event{Done: &Done{Text: strings.ToValidUTF8(held, "\uFFFD"), FinishReason: finish, Tokens: tokens, Cached: strings.Count(prompt, "x"), TokensPerS: 99, TTFTMs: 1.5}})
}

// shelf is a Library and an Observer over a map.
type shelf struct{ models map[string]*Model }

func newShelf() *shelf {
	return &shelf{map[string]*Model{"speller": {ID: spellerID, Name: "speller", Blocks: 8, Complete: true, Architecture: "llama", Parameters: 134515008, Context: spellerContext, Quantization: "Q8_0", Abilities: []string{"tools"}},
		"org/other": {ID: "bafyother", Name: "org/other", Blocks: 2}}}
}

func (s *shelf) List(context.Context) (out []Model, err error) {
	for _, name := range []string{"speller", "org/other"} {
		if m := s.models[name]; m != nil {
			out = append(out, *m)
		}
	}
	return out, nil
}

func (s *shelf) Show(_ context.Context, name string) (*Model, error) {
	for m := range maps.Values(s.models) {
		if strings.EqualFold(m.Name, strings.TrimSuffix(name, ":latest")) || m.ID == name {
			return m, nil
		}
	}
	return nil, Errorf(UnknownModel, "no model %q", name)
}

func (s *shelf) Remove(ctx context.Context, name string) error {
	m, err := s.Show(ctx, name)
	if err == nil {
		delete(s.models, m.Name)
	}
	return err
}

func (s *shelf) Add(ctx context.Context, req AddRequest, progress func(Progress)) (*Model, error) {
	if !filepath.IsAbs(req.Source) {
		return nil, &Error{Kind: BadInput, Param: "source", Message: "no file of that name"}
	}
	for i := range 5 {
		progress(Progress{Done: int64(i), Total: 4, What: "reading"})
	}
	if req.Name == "broken" {
		return nil, Errorf(BadInput, "the file is no GGUF file")
	}
	return &Model{ID: "bafynew", Name: req.Name}, nil
}

// Pull of anything but the speller never ends by itself.
func (s *shelf) Pull(ctx context.Context, req PullRequest, progress func(Progress)) (*Model, error) {
	if req.Model == "speller" {
		progress(Progress{Done: 1, Total: 2})
		progress(Progress{Done: 2, Total: 2})
		return s.Show(ctx, req.Model)
	}
	if strings.HasPrefix(req.Model, "hf.co/") {
		return nil, Errorf(UnknownModel, "no model %q", req.Model)
	}
	progress(Progress{Done: 1, Total: 1})
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *shelf) Export(_ context.Context, req ExportRequest, _ func(Progress)) error {
	switch {
	case req.Model != "speller" || !filepath.IsAbs(req.Path):
		return Errorf(UnknownModel, "no model %q", req.Model)
	case !req.Fetch:
		return &Error{Kind: BadInput, Message: "not whole here", Lack: &Lack{Shards: []string{"blocks 2-8", "output"}, Leaves: 7, Bytes: 7 << 20}}
	}
	return nil
}

func (s *shelf) Tokenize(_ context.Context, name, text string, special bool) ([]int32, error) {
	var ids []int32
	if special {
		ids = append(ids, -1)
	}
	for _, b := range []byte(text) {
		ids = append(ids, int32(b))
	}
	return ids, nil
}

func (s *shelf) Status(context.Context) (*Status, error) {
	return &Status{Peer: "peerA", Serving: []Serving{{Model: spellerID, From: 0, To: 4, Ready: true, Memory: 1 << 20, Devices: []string{"CPU CPU"}}}}, nil
}

func (s *shelf) Peers(context.Context) ([]Peer, error) { return nil, nil }
func (s *shelf) Health(context.Context) (*Health, error) {
	return &Health{Reach: "local"}, nil
}
func (s *shelf) Drain(context.Context) error { return nil }

const testToken = "test-token"

// start serves a speller on loopback.
func start(t testing.TB, s *speller, change func(*Config)) *httptest.Server {
	t.Helper()
	shelf := newShelf()
	cfg := Config{Generator: s, Embedder: letters{}, Library: shelf, Observer: shelf, Token: testToken}
	if change != nil {
		change(&cfg)
	}
	srv := httptest.NewServer(New(cfg))
	t.Cleanup(srv.Close)
	return srv
}

// post sends JSON and gives the answer with its body read.
func post(t testing.TB, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	return do(t, http.MethodPost, url, body, append([]string{"Content-Type", "application/json"}, header...)...)
}

func do(t testing.TB, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}
