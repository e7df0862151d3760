package node_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// post sends a request to the API as a stranger on this machine does.
func post(t *testing.T, n *node.Node, path string, body any) (status int, answer string) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1"+path, bytes.NewReader(raw))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// Who only asks names what is known. A file or an address is none of it, in no
// dialect: nothing is read, nothing fetched, and no answer tells one from another.
func TestNamesAreNotSources(t *testing.T) {
	var asked atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(tinymodel.GGUF())
	}))
	t.Cleanup(origin.Close)
	t.Setenv("HF_ENDPOINT", origin.URL)
	dir := t.TempDir()
	file := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	n, _ := start(t, node.Config{}, false)
	names := []string{file, dir, filepath.Join(dir, "none.gguf"), "/etc/passwd", "../x.gguf", origin.URL + "/m.gguf", "http://127.0.0.1:1/x", "hf:o/r/m.gguf", "meta/llama",
		"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPBDG"}
	message := []any{map[string]string{"role": "user", "content": "x"}}
	for path, body := range map[string]map[string]any{
		"/v1/chat/completions": {"messages": message}, "/v1/completions": {"prompt": "x"}, "/v1/responses": {"input": "x"}, "/v1/embeddings": {"input": "x"},
		"/api/chat": {"messages": message}, "/api/generate": {"prompt": "x"}, "/api/show": {}, "/api/pull": {}, "/api/embed": {"input": "x"},
	} {
		seen := map[string]string{}
		for _, name := range names {
			body["model"] = name
			status, answer := post(t, n, path, body)
			if status != http.StatusNotFound || strings.HasPrefix(path, "/v1/") && !strings.Contains(answer, `"code":"model_not_found"`) {
				t.Errorf("%s %s: %d %s", path, name, status, answer)
			}
			seen[strings.ReplaceAll(answer, name, "NAME")] = name
		}
		if kinds := len(seen); kinds > 3 { // with a slash, a file's ending, or a CID's look
			t.Errorf("%s tells names apart: %v", path, seen)
		}
	}
	if list, err := n.Client().Models(t.Context()); err != nil || len(list) > 0 || asked.Load() > 0 {
		t.Errorf("left behind %+v, %v; asked %d times", list, err, asked.Load())
	}
	// The token's owner may, and tells strangers nothing of where it came from.
	if _, err := n.Client().Pull(t.Context(), api.PullRequest{Model: file}, nil); err != nil {
		t.Fatal(err)
	}
	if m, err := n.Client().Show(t.Context(), "model"); err != nil || len(m.Origins) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, path := range []string{"/v1/models", "/v1/models/model", "/api/tags"} {
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil)
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusOK || strings.Contains(w.Body.String(), dir) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
