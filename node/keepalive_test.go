package node_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
)

// Ollama's keep_alive unloads what a node serves of a model, or keeps it loaded, whatever
// the operator's default.
func TestKeepAlive(t *testing.T) {
	n, _ := start(t, node.Config{UnloadAfter: 20 * time.Minute, Serve: []node.ServeSpec{{Model: "tinytales", Span: "all"}}}, true)
	ask := func(path, body string) string {
		t.Helper()
		method := http.MethodPost
		if body == "" {
			method = http.MethodGet
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body)))
		if w.Code != http.StatusOK {
			t.Fatalf("%s %s: %d %s", path, body, w.Code, w.Body)
		}
		return w.Body.String()
	}
	// expires is when the model is unloaded; false: it is.
	expires := func() (at time.Duration, loaded bool) {
		t.Helper()
		var ps struct {
			Models []struct {
				Name      string
				ExpiresAt time.Time `json:"expires_at"`
			}
		}
		before := serving(t, n)
		if body := ask("/api/ps", ""); json.Unmarshal([]byte(body), &ps) != nil || len(ps.Models) > 1 {
			t.Fatal(body)
		}
		after := serving(t, n) // it may be unloaded just now
		if s := after; before.Unloaded == s.Unloaded && (len(ps.Models) == 0 && (!s.Unloaded || s.ExpiresAt != nil || s.Memory != 0) || len(ps.Models) == 1 && s.Unloaded) {
			t.Fatalf("/api/ps lists %+v of %+v", ps.Models, s)
		}
		if len(ps.Models) == 0 {
			return 0, false
		}
		return time.Until(ps.Models[0].ExpiresAt), true
	}
	unloaded := func() bool { _, loaded := expires(); return !loaded }
	const prompt, message = `{"model":"tinytales","prompt":"Once","stream":false,"options":{"num_predict":5},`, `{"model":"tinytales","messages":[{"role":"user","content":"Hi"}],"options":{"num_predict":5},`
	const hour, ever = time.Hour, 1000 * time.Hour
	for _, c := range []struct {
		path, body    string
		least, almost time.Duration // within which it is unloaded
	}{
		{"/api/generate", prompt + `"keep_alive":7200}`, hour, 2 * hour},
		{"/api/chat", message + `"keep_alive":"5m"}`, time.Minute, 5 * time.Minute},
		{"/api/generate", `{"model":"tinytales","keep_alive":"2h30m"}`, 2 * hour, 3 * hour},
		{"/api/generate", prompt + `"stream":true}`, 2 * hour, 3 * hour}, // as the last one that said
		{"/api/chat", `{"model":"tinytales","messages":[],"keep_alive":-1}`, ever, 1 << 62},
		{"/api/chat", message + `"keep_alive":"10m"}`, 5 * time.Minute, 10 * time.Minute},
	} {
		ask(c.path, c.body)
		if at, loaded := expires(); !loaded || at < c.least || at > c.almost {
			t.Errorf("%s %s: unloaded in %s, %v", c.path, c.body, at, loaded)
		}
	}
	if got := ask("/api/generate", `{"model":"tinytales","keep_alive":0}`); !strings.Contains(got, `"done_reason":"unload"`) {
		t.Error(got)
	}
	until(t, "it is unloaded", unloaded)
	if got := ask("/api/chat", `{"model":"tinytales"}`); !strings.Contains(got, `"done_reason":"load"`) {
		t.Error(got)
	}
	if at, loaded := expires(); !loaded || at < 15*time.Minute || at > 20*time.Minute { // the operator's
		t.Errorf("loaded again, it is unloaded in %s, %v", at, loaded)
	}
	for range 2 { // after an answer, again and again
		if got := ask("/api/generate", prompt+`"keep_alive":"0s"}`); !strings.Contains(got, `"done":true`) {
			t.Error(got)
		}
		until(t, "it is unloaded after an answer", unloaded)
	}
}
