package api

import (
	"net/http"
	"strings"
	"testing"
)

// TestProfiles: profiles are for whoever has the token, and for no web page.
func TestProfiles(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Token, c.Key = "secret", "key" })
	const token = "Bearer secret"
	for path, want := range map[string]string{
		"/debug/pprof/":                  "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile:",
		"/debug/pprof/heap?debug=1":      "heap profile:",
		"/debug/pprof/cmdline":           "api.test",
	} {
		if resp, body := do(t, http.MethodGet, srv.URL+path, "", "Authorization", token); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %.200s", path, resp.StatusCode, body)
		}
		for name, header := range map[string][]string{
			"nothing": nil, "the key": {"Authorization", "Bearer key"}, "another token": {"Authorization", "Bearer other"},
			"a page": {"Authorization", token, "Sec-Fetch-Site", "same-origin"},
		} {
			if resp, body := do(t, http.MethodGet, srv.URL+path, "", header...); resp.StatusCode != 401 && resp.StatusCode != 403 || strings.Contains(body, want) {
				t.Errorf("%s with %s: %d, %.200s", path, name, resp.StatusCode, body)
			}
		}
	}
}
