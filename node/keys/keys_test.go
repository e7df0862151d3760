package keys

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

func open(t *testing.T, path string) *Book {
	t.Helper()
	b, err := Open(path, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func kindOf(err error) api.Kind {
	if err == nil {
		return ""
	}
	return api.AsError(err).Kind
}

// TestBook: keys are found by what they are, survive a restart without being in the
// file, and are gone at once when they are removed.
func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	b := open(t, path)
	if b.Any() || b.Caller("") != nil {
		t.Error("an empty book has a key")
	}
	alice, err := b.AddKey("alice", api.KeyLimits{Models: []string{"tales"}})
	if err != nil {
		t.Fatal(err)
	}
	bob, err := b.AddKey("bob", api.KeyLimits{})
	if err != nil || alice == bob || len(alice) < 50 {
		t.Fatal(alice, bob, err)
	}
	for name, want := range map[string]api.Kind{"alice": api.BadInput, "default": api.BadInput, "": api.BadInput, "a b": api.BadInput, strings.Repeat("a", 65): api.BadInput, "-x": api.BadInput} {
		if _, err := b.AddKey(name, api.KeyLimits{}); kindOf(err) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := b.AddKey("carol", api.KeyLimits{Sessions: -1}); kindOf(err) != api.BadInput {
		t.Error(err)
	}
	if err := b.Caller(bob).Admit(); err != nil {
		t.Error(err)
	}
	end, err := b.Caller(alice).Begin()
	if err != nil {
		t.Fatal(err)
	}
	end(5, 7)
	if err := b.Caller(alice).MayUse("Tales:latest"); err != nil {
		t.Error(err)
	}
	if err := b.Caller(alice).MayUse("other"); kindOf(err) != api.Forbidden || !strings.Contains(err.Error(), "tales") {
		t.Error(err)
	}
	b.Close()
	raw, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(raw), alice) || strings.Contains(string(raw), bob) {
		t.Errorf("%v\n%s", err, raw)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	b = open(t, path)
	if c := b.Caller(alice); c == nil || c.Name() != "alice" || b.Caller(alice+"x") != nil || b.Caller(alice[1:]) != nil {
		t.Error("alice's key is not hers")
	}
	list := b.Keys()
	if len(list) != 2 || list[0].Name != "alice" || list[0].Total != (api.KeyUsage{PromptTokens: 5, AnswerTokens: 7}) || list[0].LastUsed == nil || list[1].Today.Requests != 1 {
		t.Errorf("%+v", list)
	}
	if err := b.RemoveKey("alice"); err != nil || b.Caller(alice) != nil || kindOf(b.RemoveKey("alice")) != api.NotFound {
		t.Error("alice's key is still there", err)
	}
	if open(t, path).Caller(alice) != nil {
		t.Error("it comes back at the next start")
	}
	b.SetDefault("hush")
	if c := b.Caller("hush"); c == nil || c.Name() != Default || b.Keys()[0].Name != Default {
		t.Errorf("%+v", b.Keys())
	}
	b.SetDefault("")
	if b.Caller("hush") != nil || b.Caller("") != nil || len(b.Keys()) != 1 {
		t.Errorf("%+v", b.Keys())
	}
	// A change that cannot be written is none.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddKey("dave", api.KeyLimits{}); err == nil || len(b.Keys()) != 1 {
		t.Error("a key that is not in the file is there", err)
	}
}

// TestLimits: each limit refuses what is beyond it, says when to come again, and no
// longer.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at midnight UTC
		b := open(t, filepath.Join(t.TempDir(), "keys.json"))
		defer b.Close()
		week := time.Now().Add(7 * 24 * time.Hour)
		secret, err := b.AddKey("alice", api.KeyLimits{RequestsPerMinute: 2, TokensPerDay: 100, Sessions: 1, Expires: &week})
		if err != nil {
			t.Fatal(err)
		}
		c := b.Caller(secret)
		limited := func(err error, wait time.Duration) {
			t.Helper()
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.RateLimited || e.RetryAfter != wait {
				t.Errorf("%v (%+v), want to wait %s", err, e, wait)
			}
		}
		for range 2 {
			if err := c.Admit(); err != nil {
				t.Error("two requests of a minute: ", err)
			}
		}
		limited(c.Admit(), 30*time.Second)
		limited(c.Admit(), 30*time.Second) // a refused one takes nothing
		time.Sleep(30 * time.Second)
		if err := c.Admit(); err != nil {
			t.Error(err)
		}
		end, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Begin()
		limited(err, time.Second)
		end(60, 50)
		_, err = c.Begin()
		limited(err, 24*time.Hour-30*time.Second)
		time.Sleep(24 * time.Hour)
		if end, err = c.Begin(); err != nil {
			t.Fatal(err)
		}
		end(1, 2)
		if k := b.Keys()[0]; k.Today != (api.KeyUsage{PromptTokens: 1, AnswerTokens: 2}) || k.Total != (api.KeyUsage{Requests: 3, PromptTokens: 61, AnswerTokens: 52}) {
			t.Errorf("%+v", k)
		}
		time.Sleep(6 * 24 * time.Hour)
		if b.Caller(secret) != nil || !b.Keys()[0].Expired || !b.Any() {
			t.Error("an expired key opens, or leaves the door open")
		}
	})
}

// TestWritten: usage reaches the file a minute later, once.
func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.json")
		b := open(t, path)
		defer b.Close()
		secret, err := b.AddKey("alice", api.KeyLimits{})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			_ = b.Caller(secret).Admit()
		}
		if n := open(t, path).Keys()[0].Total.Requests; n != 0 {
			t.Errorf("%d requests are in the file at once", n)
		}
		time.Sleep(writeLag + time.Second)
		if n := open(t, path).Keys()[0].Total.Requests; n != 100 {
			t.Errorf("%d requests are in the file", n)
		}
	})
}

// parrot answers in two tokens.
type parrot struct{}

func (parrot) Generate(_ context.Context, req *api.GenerateRequest, emit func(api.Event) error) error {
	return errors.Join(emit(api.Event{Start: &api.Start{Name: req.Model, PromptTokens: []int32{1, 2, 3}}}), emit(api.Event{Token: &api.Token{Text: "a"}}),
		emit(api.Event{Token: &api.Token{Text: "b"}}), emit(api.Event{Done: &api.Done{FinishReason: "stop", Tokens: 2}}))
}

// TestAPI: what keys may do holds at the endpoints, and refusals have each API's shape.
func TestAPI(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "keys.json"))
	defer b.Close()
	open := true
	srv := httptest.NewServer(api.New(api.Config{Generator: parrot{}, Keys: b, Token: "sesame", Access: func() api.Access { return api.Access{Open: open, Hosts: []string{"*"}} }}))
	defer srv.Close()
	ask := func(path, key, body string, header ...string) (*http.Response, string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return resp, string(raw)
	}
	const chat = `{"model":"tales","messages":[{"role":"user","content":"hello"}],"n":2}`
	if resp, body := ask("/v1/chat/completions", "", chat); resp.StatusCode != 200 {
		t.Errorf("without any key: %d %s", resp.StatusCode, body)
	}
	open = false
	if resp, body := ask("/v1/chat/completions", "", chat); resp.StatusCode != 200 {
		t.Errorf("this machine without any key: %d %s", resp.StatusCode, body)
	}
	for _, from := range []string{"203.0.113.5", "127.0.0.1, 203.0.113.5", "127.0.0.1,127.0.0.1"} {
		if resp, body := ask("/v1/chat/completions", "", chat, "X-Forwarded-For", from); resp.StatusCode != 401 || !strings.Contains(body, "has no key yet") {
			t.Errorf("forwarded for %s without any key: %d %s", from, resp.StatusCode, body)
		}
	}
	alice, err := b.AddKey("alice", api.KeyLimits{TokensPerDay: 8})
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", alice + "x", "sk-shoal-"} {
		if resp, body := ask("/v1/chat/completions", wrong, chat); resp.StatusCode != 401 || !strings.Contains(body, "invalid_api_key") {
			t.Errorf("with the key %q: %d %s", wrong, resp.StatusCode, body)
		}
	}
	if resp, body := ask("/v1/chat/completions", "", chat, "X-Api-Key", alice); resp.StatusCode != 200 {
		t.Errorf("with the key as Anthropic's clients send it: %d %s", resp.StatusCode, body)
	}
	if k := b.Keys()[0]; k.Today != (api.KeyUsage{Requests: 1, PromptTokens: 3, AnswerTokens: 4}) {
		t.Errorf("two choices of one prompt count as %+v", k.Today)
	}
	if resp, _ := ask("/api/generate", alice, `{"model":"tales","prompt":"x","stream":false}`); resp.StatusCode != 200 {
		t.Errorf("%d within the limit", resp.StatusCode)
	}
	resp, body := ask("/v1/chat/completions", alice, chat)
	var openAI struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &openAI); err != nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || openAI.Error.Code != "rate_limit_exceeded" {
		t.Errorf("beyond the limit: %d %s %v", resp.StatusCode, body, resp.Header)
	}
	resp, body = ask("/api/generate", alice, `{"model":"tales","prompt":"x","stream":false}`)
	var ollama struct{ Error string }
	if err := json.Unmarshal([]byte(body), &ollama); err != nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(ollama.Error, "8") {
		t.Errorf("beyond the limit: %d %s", resp.StatusCode, body)
	}
	if resp, body := ask("/v1/chat/completions", "sesame", chat); resp.StatusCode != 200 {
		t.Errorf("with the token: %d %s", resp.StatusCode, body)
	}
	// The operator's own endpoints.
	cl := &api.Client{Base: srv.URL, Token: "sesame"}
	made, err := cl.AddKey(t.Context(), api.AddKeyRequest{Name: "bob", KeyLimits: api.KeyLimits{Sessions: 2}})
	if err != nil || b.Caller(made.Key) == nil {
		t.Error(made, err)
	}
	if list, err := cl.Keys(t.Context()); err != nil || len(list) != 2 || list[1].Sessions != 2 {
		t.Error(list, err)
	}
	if err := cl.RemoveKey(t.Context(), "bob"); err != nil || b.Caller(made.Key) != nil {
		t.Error(err)
	}
	if _, err := (&api.Client{Base: srv.URL, Token: alice}).Keys(t.Context()); kindOf(err) != api.Unauthorized {
		t.Errorf("a caller lists the keys: %v", err)
	}
}

// scribe counts and splits for the model tales alone.
type scribe struct {
	api.Vocabulary
	t *testing.T
}

func (s scribe) Count(_ context.Context, req *api.GenerateRequest) (int, error) {
	s.got(req.Model)
	return 3, nil
}

func (s scribe) Split(_ context.Context, model, _ string, _, _ bool) (*api.Split, error) {
	s.got(model)
	return &api.Split{IDs: []int32{1}, Pieces: []string{"a"}}, nil
}

func (s scribe) Join(_ context.Context, model string, _ []int32) (string, error) {
	s.got(model)
	return "a", nil
}

func (s scribe) got(model string) {
	if model != "tales" {
		s.t.Errorf("the model %q was used", model)
	}
}

// TestOneModel: a key for one model gets nothing of another at any endpoint, and need not
// name its own; what it has sent is its own in whichever header it comes.
func TestOneModel(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "keys.json"))
	defer b.Close()
	alice, err := b.AddKey("alice", api.KeyLimits{Models: []string{"tales"}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(api.New(api.Config{Generator: parrot{}, Counter: scribe{t: t}, Vocabulary: scribe{t: t}, Library: struct{ api.Library }{}, Keys: b, Token: "sesame"}))
	defer srv.Close()
	ask := func(method, path, body string, header ...string) (int, string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(raw)
	}
	key := []string{"Authorization", "Bearer " + alice}
	const talk = `"messages":[{"role":"user","content":"hello"}]}`
	for path, rest := range map[string]string{
		"/v1/chat/completions": talk, "/v1/completions": `"prompt":"a"}`, "/v1/responses": `"input":"a"}`, "/v1/responses/input_tokens": `"input":"a"}`,
		"/v1/messages": `"max_tokens":9,` + talk, "/v1/messages/count_tokens": talk, "/api/chat": talk, "/api/generate": `"prompt":"a"}`,
		"/tokenize": `"content":"a"}`, "/v1/tokenize": `"prompt":"a"}`, "/v1//detokenize/": `"tokens":[1]}`, "/api/pull": `"stream":false}`,
	} {
		if code, body := ask(http.MethodPost, path, `{"model":"other",`+rest, key...); code != 403 {
			t.Errorf("%s of another model: %d %s", path, code, body)
		}
		if path == "/api/pull" {
			continue
		}
		if code, body := ask(http.MethodPost, path, `{"model":"tales",`+rest, key...); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body := ask(http.MethodGet, "/tokenizer_info?model=other", "", key...); code != 403 {
		t.Errorf("the tokenizer of another model: %d %s", code, body)
	}
	_, body := ask(http.MethodPost, "/v1/responses", `{"model":"tales","input":"a"}`, key...)
	var kept struct{ ID string }
	if err := json.Unmarshal([]byte(body), &kept); err != nil {
		t.Fatal(err, body)
	}
	if code, body := ask(http.MethodGet, "/v1/responses/"+kept.ID, "", "Authorization", "Bearer unused", "X-Api-Key", alice); code != 200 {
		t.Errorf("with the same key in another header: %d %s", code, body)
	}
	if code, _ := ask(http.MethodGet, "/v1/responses/"+kept.ID, "", "Authorization", "Bearer sesame"); code != 404 {
		t.Errorf("another's answer: %d", code)
	}
}

// FuzzFile: a file of keys is read, or refused as a whole; what is read can be written
// and read again.
func FuzzFile(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	f.Add([]byte(`{"keys":[{"name":"alice","sha256":"` + strings.Repeat("ab", 32) + `","requests_per_minute":3}],"usage":{"alice":{"day":"2026-01-02","today":{"requests":1}},"default":null}}`))
	f.Add([]byte(`{"keys":[{"name":"a"},{"name":"a"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := &Book{count: func(string, api.KeyUsage) {}}
		if b.parse(raw) != nil {
			return
		}
		b.SetDefault("hush")
		again := &Book{count: b.count}
		b.mu.Lock()
		text := b.encode()
		b.mu.Unlock()
		if err := again.parse(text); err != nil || len(again.keys) != len(b.keys) {
			t.Fatalf("%q became %q: %v", raw, text, err)
		}
		again.Keys()
		b.Caller(string(raw))
	})
}
