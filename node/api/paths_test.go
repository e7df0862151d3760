package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// However a path is written, what it leads to asks for the key, the token or the owner.
func TestNoWayAround(t *testing.T) {
	shelf := newShelf()
	h := New(Config{
		Generator: &speller{}, Library: shelf, Observer: shelf, Token: testToken, Key: "hush",
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics")) }),
	})
	ask := func(method, target, secret string) int {
		at, err := url.ParseRequestURI(target) // as the server does
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), method, "/", nil)
		r.URL = at
		r.Host, r.RemoteAddr = "localhost", "127.0.0.1:9"
		r.Header.Set("Content-Type", "application/json")
		if secret != "" {
			r.Header.Set("Authorization", "Bearer "+secret)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for path, needs := range map[string]string{
		"/metrics": "hush", "/v1/models": "hush", "/api/tags": "hush", "/v1/responses/resp_1": "hush",
		"/debug/pprof/cmdline": testToken, "/debug/pprof/": testToken, "/shoal/v1/status": testToken, "/shoal/v1/models": testToken, "/shoal/v1/health": testToken,
	} {
		if code := ask(http.MethodGet, path, needs); code != 200 && code != 404 {
			t.Errorf("%s with what it needs: %d", path, code)
		}
		for _, how := range []string{
			path, "/" + path, path + "/", path + "//", "/v1/v1" + path, "/v1/v1" + strings.TrimPrefix(path, "/v1"), "/models/../.." + path, "/models/.." + path, "/v1/." + path, "/api/.." + path,
			"/page/.." + path, "/health/.." + path, "/healthz/../" + path, strings.ReplaceAll(path, "/", "//"), "/page//.." + path, "/" + strings.ReplaceAll(path[1:], "/", "%2F"),
			"/%2e%2e" + path, "/models%2F..%2F.." + path, "/./" + path, strings.ToUpper(path), path + "%00", path + ";x=/health", path + "/../../health" + path, "/health" + path, "/%2F" + path,
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodOptions} {
				if code := ask(method, how, ""); code < 300 {
					t.Errorf("%s %s without anything: %d", method, how, code)
				}
				if code := ask(method, how, "hush"); needs == testToken && code < 300 {
					t.Errorf("%s %s with the key alone: %d", method, how, code)
				}
			}
		}
	}
}
