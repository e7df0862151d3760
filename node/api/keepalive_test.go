package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// forOne has a key for the model speller alone.
type forOne struct{ keyring }

func (k *forOne) Caller(secret string) Caller {
	if c := k.keyring.Caller(secret); c != nil {
		return toSpeller{c}
	}
	return nil
}

type toSpeller struct{ Caller }

func (toSpeller) Model() string { return "speller" }
func (toSpeller) MayUse(model string) error {
	if model != "speller" {
		return Errorf(Forbidden, "not for %q", model)
	}
	return nil
}

// loader notes which models it is to load and unload.
type loader struct {
	Controller // never asked for the rest
	seen       []string
}

func (l *loader) Keep(string, time.Duration)          {}
func (l *loader) Unload(_ context.Context, id string) { l.seen = append(l.seen, "unload "+id) }
func (l *loader) Load(_ context.Context, id string) error {
	l.seen = append(l.seen, "load "+id)
	return nil
}

// A key that is for one model neither loads nor unloads others.
func TestKeyLoadsItsModelsAlone(t *testing.T) {
	l, shelf := &loader{}, newShelf()
	h := New(Config{Generator: &speller{}, Library: shelf, Observer: shelf, Controller: l, Keys: &forOne{}, Token: testToken})
	ask := func(path, model, more string) int {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"model":"`+model+`"`+more+`}`))
		r.Host = "127.0.0.1"
		r.Header.Set("Authorization", "Bearer alice")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for path, more := range map[string]string{"/api/generate": "", "/api/chat": "", "/api/embed": `,"input":[]`, "/api/embeddings": ""} {
		l.seen = nil
		for _, kept := range []string{"", `,"keep_alive":0`} {
			if code := ask(path, "org/other", more+kept); code != http.StatusForbidden {
				t.Errorf("%s of another model: %d", path, code)
			}
			if code := ask(path, "speller", more+kept); code != http.StatusOK {
				t.Errorf("%s: %d", path, code)
			}
		}
		if want := []string{"load " + spellerID, "unload " + spellerID}; !slices.Equal(l.seen, want) {
			t.Errorf("%s: %q, want %q", path, l.seen, want)
		}
	}
}

// How long a model is kept is read as Ollama reads it; what is no time is refused.
func TestKeepAlive(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`0`: 0, `0.0`: 0, `-0`: 0, `"0"`: 0, `"0s"`: 0, `"0h0m"`: 0, ` 5`: 5 * time.Second, `1.5`: 1500 * time.Millisecond,
		`"1h30m"`: 90 * time.Minute, `"90"`: 90 * time.Second, `"5m"`: 5 * time.Minute, `"100ms"`: 100 * time.Millisecond,
		`-1`: -1, `"-1"`: -1, `"-5m"`: -5 * time.Minute, `-0.5`: -1, `1e300`: -1, `9223372037`: -1,
	} {
		if got, err := keepAlive(json.RawMessage(text)); err != nil || got == nil || *got != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{``, `null`, `""`} {
		if got, err := keepAlive(json.RawMessage(text)); got != nil || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`true`, `"soon"`, `"5 m"`, `[5]`, `{"s":5}`, `"nan"`} {
		if got, err := keepAlive(json.RawMessage(text)); got != nil || err == nil || AsError(err).Kind != BadInput || !strings.Contains(err.Error(), "keep_alive") {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// FuzzKeepAlive: any JSON is a time or is refused.
func FuzzKeepAlive(f *testing.F) {
	for _, s := range []string{`0`, `"5m"`, `-1`, `null`, `"1e400"`, `1e400`, `true`, `"-9223372036854775808ns"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !json.Valid([]byte(s)) {
			return
		}
		if d, err := keepAlive(json.RawMessage(s)); err != nil && (d != nil || AsError(err).Kind != BadInput) {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	})
}
