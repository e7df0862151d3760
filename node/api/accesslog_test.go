package api

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// linesOf returns the lines of a log in JSON, at info and above.
func linesOf(t *testing.T, do func(log *slog.Logger)) (out []map[string]any) {
	t.Helper()
	var b bytes.Buffer
	do(slog.New(slog.NewJSONHandler(&b, nil)))
	for d := json.NewDecoder(&b); ; {
		var line map[string]any
		if err := d.Decode(&line); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
}

// TestAccessLog: a request has one line with who asked for what, and nothing of what was
// said; what is asked again and again has none.
func TestAccessLog(t *testing.T) {
	lines := linesOf(t, func(log *slog.Logger) {
		h := New(Config{Generator: &speller{}, Library: newShelf(), Observer: newShelf(), Token: testToken, Key: "k", Log: log})
		ask := func(method, path, body string, header ...string) {
			r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body))
			r.RemoteAddr = "127.0.0.1:1"
			r.Header.Set("Content-Type", "application/json")
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		ask("POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"hidden"}]}`, "Authorization", "Bearer k")
		ask("GET", "/v1/models/secret-name", "", "Authorization", "Bearer k")
		ask("GET", "/no/such/secret-path", "", "Authorization", "Bearer k")
		ask("GET", "/shoal/v1/status", "", "Authorization", "Bearer "+testToken)
		ask("GET", "/healthz", "")
		for range 3 {
			ask("GET", "/v1/models", "", "Authorization", "Bearer hush")
		}
	})
	var text []string
	for _, l := range lines {
		raw, _ := json.Marshal(l)
		text = append(text, string(raw))
		for _, secret := range []string{"hidden", "secret", "hush", testToken} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s is in the log: %s", secret, raw)
			}
		}
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), strings.Join(text, "\n"))
	}
	if l := lines[0]; l["endpoint"] != "/v1/chat/completions" || l["method"] != "POST" || l["status"] != 200.0 || l["model"] == nil || l["prompt_tokens"] == 0.0 || l["answer_tokens"] == 0.0 {
		t.Error(text[0])
	}
	if l := lines[1]; l["endpoint"] != "/v1/models/{model...}" {
		t.Error(text[1])
	}
	if l := lines[2]; l["level"] != "WARN" || l["from"] != "127.0.0.1" {
		t.Error(text[2])
	}
}

// TestRefusalsLogged: callers without a key cannot fill the log.
func TestRefusalsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := linesOf(t, func(log *slog.Logger) {
			l := accessLog{Logger: log}
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/models", nil)
			time.Sleep(time.Hour)
			for range 100 {
				l.refusal(r)
			}
			time.Sleep(refusalEvery)
			l.refusal(r)
		})
		if len(lines) != 2 || lines[1]["others_since_last"] != 99.0 {
			t.Error(lines)
		}
	})
}

// TestProbes: balancers learn whether the node lives and is ready, without a key.
func TestProbes(t *testing.T) {
	var why []string
	srv := start(t, &speller{}, func(c *Config) { c.Key, c.Unready = "k", func() []string { return why } })
	get := func(path string) (int, string) {
		resp, body := do(t, http.MethodGet, srv.URL+path, "")
		return resp.StatusCode, strings.TrimSpace(body)
	}
	if code, body := get("/healthz"); code != 200 || body != `{"alive":true}` {
		t.Error(code, body)
	}
	if code, body := get("/readyz"); code != 200 || body != `{"ready":true}` {
		t.Error(code, body)
	}
	why = []string{"tales: loading"}
	if code, body := get("/readyz"); code != 503 || body != `{"ready":false,"reasons":["tales: loading"]}` {
		t.Error(code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Error(code)
	}
}
