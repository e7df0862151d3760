package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/remedy"
)

// eachTransport runs a test over a socket and within the process.
func eachTransport(t *testing.T, s *speller, test func(t *testing.T, c *Client)) {
	t.Run("loopback", func(t *testing.T) {
		test(t, &Client{Base: start(t, s, func(c *Config) { c.Key = "k" }).URL, Token: testToken, HTTP: &http.Client{Transport: &http.Transport{}}})
	})
	t.Run("in process", func(t *testing.T) {
		shelf := newShelf()
		test(t, InProcess(New(Config{Generator: s, Library: shelf, Observer: shelf, Token: testToken}), testToken))
	})
}

func events(t *testing.T, g Generator, req *GenerateRequest) []Event {
	t.Helper()
	var out []Event
	if err := g.Generate(t.Context(), req, func(e Event) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestClientGenerate: who asks through the API hears what the generator said,
// to the last bit.
func TestClientGenerate(t *testing.T) {
	s := &speller{}
	cold := 0.0
	for name, req := range map[string]*GenerateRequest{
		"chat":     {Model: "speller", Messages: []Message{{Role: "system", Content: "be"}, {Role: "user", Content: "smörgåsbord"}}, Stop: []string{"bord"}, Sampling: Sampling{Temperature: &cold}},
		"raw":      {Raw: true, Prompt: strings.Repeat("no limit of 16 tokens ", 9)},
		"cut":      {Raw: true, Prompt: "ååå", MaxTokens: 3},
		"ids":      {Raw: true, PromptIDs: []int32{200, 65}, Sampling: Sampling{Logprobs: true, TopLogprobs: 3}},
		"seed":     {Messages: []Message{{Role: "user", Content: "x"}}, Sampling: Sampling{Seed: new(uint64(math.MaxUint64)), Logprobs: true}},
		"forced":   {Messages: []Message{{Role: "user", Content: "x"}}, Route: []Hop{{Peer: "z", From: 0, To: 8}}},
		"tools":    {Messages: []Message{{Role: "user", Content: "call weather"}}, Tools: []json.RawMessage{json.RawMessage(`{"type":"function","function":{"name":"weather"}}`)}, MustCall: true, OneCall: true, Think: "off"},
		"no token": {Raw: true, Prompt: "x", Stop: []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := events(t, s, req)
			eachTransport(t, s, func(t *testing.T, c *Client) {
				if got := events(t, c, req); !reflect.DeepEqual(got, want) {
					t.Errorf("got  %s\nwant %s", show(got), show(want))
				}
			})
		})
	}
}

func show(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		switch {
		case e.Start != nil:
			b.WriteString("start ")
		case e.Token != nil:
			b.WriteString(e.Token.Text + "|")
		case e.Done != nil:
			b.WriteString("done " + e.Done.FinishReason)
		}
	}
	return b.String()
}

// odd is a Generator that says what no model should.
type odd func(emit func(Event) error) error

func (o odd) Generate(_ context.Context, _ *GenerateRequest, emit func(Event) error) error {
	return o(emit)
}

func TestOddGenerators(t *testing.T) {
	begin := Event{Start: &Start{Model: "m"}}
	end := Event{Done: &Done{FinishReason: "stop"}}
	for name, test := range map[string]struct {
		g    odd
		kind Kind
	}{
		"no end":         {func(emit func(Event) error) error { return emit(begin) }, Internal},
		"no start":       {func(emit func(Event) error) error { return emit(end) }, Internal},
		"two starts":     {func(emit func(Event) error) error { return errors.Join(emit(begin), emit(begin), emit(end)) }, Internal},
		"nothing said":   {func(emit func(Event) error) error { return errors.Join(emit(begin), emit(Event{})) }, Internal},
		"fails late":     {func(emit func(Event) error) error { _ = emit(begin); return Errorf(Refused, "peer lost") }, Refused},
		"node stops":     {func(emit func(Event) error) error { _ = emit(begin); return context.Canceled }, Refused},
		"panics late":    {func(emit func(Event) error) error { _ = emit(begin); panic("a bug") }, Internal},
		"another prompt": {func(emit func(Event) error) error { return errors.Join(emit(begin), emit(end)) }, Internal},
		"infinities": {func(emit func(Event) error) error {
			return errors.Join(emit(Event{Start: &Start{PredictedRate: math.Inf(1)}}),
				emit(Event{Token: &Token{Logprob: math.Inf(-1), Top: []Top{{Logprob: math.NaN()}}}}), emit(Event{Done: &Done{TokensPerS: math.NaN()}}))
		}, ""},
	} {
		for _, stream := range []string{"true", "false"} {
			h := New(Config{Generator: test.g})
			prompt := `"x"`
			if name == "another prompt" {
				prompt = `[1,2]`
			}
			c := InProcess(h, "")
			resp, err := c.do(t.Context(), http.MethodPost, "/v1/completions", map[string]any{"prompt": jsonRaw(prompt), "stream": stream == "true", "logprobs": 1, "shoal": Extension{Details: true}})
			if stream == "true" && err == nil {
				// Through the client, which must find the error in the stream.
				resp.Body.Close()
				req := &GenerateRequest{Raw: true, Prompt: "x"}
				if name == "another prompt" {
					req = &GenerateRequest{Raw: true, PromptIDs: []int32{1, 2}}
				}
				err = c.Generate(t.Context(), req, func(Event) error { return nil })
			}
			if test.kind == "" && err != nil || test.kind != "" && (err == nil || AsError(err).Kind != test.kind) {
				t.Errorf("%s, stream %s: %v", name, stream, err)
			}
		}
	}
}

func jsonRaw(s string) any {
	if s[0] == '[' {
		return []int{1, 2}
	}
	return strings.Trim(s, `"`)
}

// TestErrorRemedy: whatever is wrapped around what, an Error has the outermost
// remedy, and one that came over the wire has it, too.
func TestErrorRemedy(t *testing.T) {
	inner := remedy.For(io.ErrNoProgress, remedy.FreeSpace)
	for name, err := range map[string]error{
		"a cause":          Errorf(Refused, "late: %w", inner),
		"two causes":       Errorf(Refused, "%w: %w", io.EOF, inner),
		"around":           remedy.For(Errorf(Refused, "late"), remedy.FreeSpace),
		"around the other": remedy.For(Errorf(Refused, "%w", remedy.For(io.EOF, remedy.OtherPeer)), remedy.FreeSpace),
		"no Error":         inner,
	} {
		e := AsError(err)
		for range 2 {
			if r := remedy.Of(e); r == nil || r.Kind != remedy.FreeSpace || e.Error() != err.Error() {
				t.Errorf("%s: %+v of %v", name, r, e)
			}
			raw, err := json.Marshal(e.body())
			var b errorBody
			if err = errors.Join(err, json.Unmarshal(raw, &b)); err != nil || !strings.Contains(string(raw), `"remedy":{"kind":"free_space"}`) {
				t.Fatalf("%s, %v", raw, err)
			}
			e = b.Error.failure()
		}
	}
	if raw, err := json.Marshal(Errorf(Refused, "late").body()); err != nil || strings.Contains(string(raw), "remedy") {
		t.Errorf("%s, %v: a remedy where none is", raw, err)
	}
}

func TestClientErrors(t *testing.T) {
	eachTransport(t, &speller{}, func(t *testing.T, c *Client) {
		none := func(Event) error { t.Error("an event"); return nil }
		err := c.Generate(t.Context(), &GenerateRequest{Model: "split", Raw: true}, none)
		var e *Error
		if !errors.As(err, &e) || e.Kind != NoRoute || e.RetryAfter != 1500*time.Millisecond || !strings.Contains(e.Message, "10-20") {
			t.Errorf("no route: %#v", err)
		}
		err = c.Generate(t.Context(), &GenerateRequest{Model: "nope", Raw: true}, none)
		if !errors.Is(err, &Error{Kind: UnknownModel}) || !strings.HasPrefix(err.Error(), "looking for it: ") {
			t.Errorf("unknown model: %v", err)
		}
		if r := remedy.Of(err); r == nil || r.Kind != remedy.ServeModel || !slices.Equal(r.Args, []string{"nope"}) {
			t.Errorf("unknown model: its remedy is %+v", r)
		}
		err = c.Generate(t.Context(), &GenerateRequest{Model: "speller"}, none)
		if e := AsError(orNil(err)); e.Kind != BadInput || e.Param != "messages" {
			t.Errorf("no messages: %v", err)
		}
		stop := errors.New("enough")
		if err := c.Generate(t.Context(), &GenerateRequest{Raw: true, Prompt: "abc"}, func(Event) error { return stop }); err != stop {
			t.Errorf("emit's error: %v", err)
		}
		if _, err := c.Show(t.Context(), "nope"); !errors.Is(err, &Error{Kind: UnknownModel}) {
			t.Errorf("show: %v", err)
		}
	})
	shut := start(t, &speller{}, nil)
	shut.Close()
	if _, err := (&Client{Base: shut.URL}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("no node: %v", err)
	}
}

// TestDisconnect: who goes away stops the work, whatever the way.
func TestDisconnect(t *testing.T) {
	s := &speller{delay: 2 * time.Millisecond}
	eachTransport(t, s, func(t *testing.T, c *Client) {
		for name, leave := range map[string]func(cancel func()) error{
			"cancel":     func(cancel func()) error { cancel(); return nil },
			"emit fails": func(func()) error { return errors.New("enough") },
		} {
			before := s.stopped.Load()
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			err := c.Generate(ctx, &GenerateRequest{Raw: true, Prompt: strings.Repeat("x", 4000)}, func(Event) error {
				if n++; n == 5 {
					return leave(cancel)
				}
				return nil
			})
			cancel()
			if err == nil || name == "cancel" && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			waitFor(t, "the generation's end by "+name, func() bool { return s.running.Load() == 0 && s.stopped.Load() == before+1 })
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.Pull(ctx, PullRequest{Model: "m"}, func(Progress) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("pull: %v", err)
		}
	})
}

func TestClientModels(t *testing.T) {
	eachTransport(t, &speller{}, func(t *testing.T, c *Client) {
		ctx := t.Context()
		if st, err := c.Status(ctx); err != nil || st.Peer != "peerA" || len(st.Serving) != 1 {
			t.Errorf("status %+v, %v", st, err)
		}
		if p, err := c.Peers(ctx); err != nil || p == nil || len(p) != 0 {
			t.Errorf("peers %v, %v", p, err)
		}
		if m, err := c.Models(ctx); err != nil || len(m) != 2 || m[1].Name != "org/other" {
			t.Errorf("models %v, %v", m, err)
		}
		if m, err := c.Show(ctx, "org/other"); err != nil || m.ID != "bafyother" {
			t.Errorf("show %v, %v", m, err)
		}
		if err := c.Remove(ctx, "org/other"); err != nil {
			t.Error(err)
		}
		if m, err := c.Models(ctx); err != nil || len(m) != 1 {
			t.Errorf("after the removal: %v, %v", m, err)
		}
		dir := t.TempDir()
		t.Chdir(dir)
		if err := os.WriteFile("file.gguf", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var seen []Progress
		m, err := c.Add(ctx, AddRequest{Source: "file.gguf", Name: "new"}, func(p Progress) { seen = append(seen, p) })
		if err != nil || m.ID != "bafynew" || len(seen) < 2 || seen[len(seen)-1].Done != 4 {
			t.Errorf("add: %v, %v, progress %v", m, err, seen)
		}
		if _, err := c.Add(ctx, AddRequest{Source: "file.gguf", Name: "broken"}, nil); !errors.Is(err, &Error{Kind: BadInput}) {
			t.Errorf("a late error: %v", err)
		}
		if _, err := c.Add(ctx, AddRequest{Source: "missing.gguf"}, nil); !errors.Is(err, &Error{Kind: BadInput}) {
			t.Errorf("an early error: %v", err)
		}
		export := ExportRequest{Model: "speller", Path: filepath.Join("a", "out.gguf"), Fetch: true}
		if err := c.Export(ctx, export, nil); err != nil {
			t.Errorf("export: %v", err)
		}
		export.Fetch = false
		if e := AsError(orNil(c.Export(ctx, export, nil))); e.Lack == nil || e.Lack.Bytes != 7<<20 || len(e.Lack.Shards) != 2 {
			t.Errorf("what is missing does not come over: %+v", e)
		}
		ids, err := c.Tokenize(ctx, "speller", "a\x00é", true)
		if err != nil || !slices.Equal(ids, []int32{-1, 'a', 0, 0xc3, 0xa9}) {
			t.Errorf("tokenized %v, %v", ids, err)
		}
		if ids, err := c.Tokenize(ctx, "speller", "", false); err != nil || ids == nil {
			t.Errorf("tokenized nothing as %v, %v", ids, err)
		}
	})
}

// TestManyStreams: hundreds at once all end well, those over the limit are told
// to come back, and nothing stays behind.
func TestManyStreams(t *testing.T) {
	s := &speller{delay: time.Millisecond, gate: make(chan struct{})}
	transport := &http.Transport{}
	srv := start(t, s, func(c *Config) { c.MaxAnswers = 200 })
	c := &Client{Base: srv.URL, HTTP: &http.Client{Transport: transport}}
	before := runtime.NumGoroutine()
	req := &GenerateRequest{Raw: true, Prompt: strings.Repeat("smörgåsbord ", 10)}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			text := ""
			err := c.Generate(t.Context(), req, func(e Event) error {
				if e.Token != nil {
					text += e.Token.Text
				}
				return nil
			})
			if err != nil || text != req.Prompt {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	waitFor(t, "200 answers under way", func() bool { return s.running.Load() == 200 })
	resp, body := post(t, srv.URL+"/v1/completions", `{"prompt":"x"}`)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d %s", resp.StatusCode, body)
	}
	close(s.gate)
	wg.Wait()
	if resp, body := post(t, srv.URL+"/v1/completions", `{"prompt":"x"}`); resp.StatusCode != 200 {
		t.Errorf("afterwards: %d %s", resp.StatusCode, body)
	}
	transport.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	waitFor(t, "the end of all goroutines", func() bool { return s.running.Load() == 0 && runtime.NumGoroutine() <= before+5 })
}

func BenchmarkStream(b *testing.B) {
	srv := start(b, &speller{}, nil)
	c := &Client{Base: srv.URL, HTTP: &http.Client{Transport: &http.Transport{}}}
	req := &GenerateRequest{Raw: true, Prompt: strings.Repeat("x", 4000)}
	n := 0
	for b.Loop() {
		if err := c.Generate(b.Context(), req, func(Event) error { n++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/token")
}
