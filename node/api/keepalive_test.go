package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

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
