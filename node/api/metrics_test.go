package api

import (
	"io"
	"net/http"
	"testing"
)

// /metrics is guarded as /v1 is: by the host's name, against pages elsewhere,
// and by the key if there is one.
func TestMetricsEndpoint(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) {
		c.Key = "sesame"
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	})
	for _, test := range []struct {
		name, method string
		status       int
		header       []string
	}{
		{"the key", http.MethodGet, 200, []string{"Authorization", "Bearer sesame"}},
		{"no key", http.MethodGet, 401, nil},
		{"another key", http.MethodGet, 401, []string{"Authorization", "Bearer open"}},
		{"a rebound name", http.MethodGet, 403, []string{"Host", "evil.example", "Authorization", "Bearer sesame"}},
		{"a page elsewhere", http.MethodGet, 403, []string{"Origin", "https://evil.example", "Authorization", "Bearer sesame"}},
		{"another method", http.MethodPost, 405, []string{"Authorization", "Bearer sesame"}},
	} {
		resp, body := do(t, test.method, srv.URL+"/metrics", "{}", append([]string{"Content-Type", "application/json"}, test.header...)...)
		if resp.StatusCode != test.status || test.status == 200 && body != "up 1\n" {
			t.Errorf("%s: %d %s", test.name, resp.StatusCode, body)
		}
	}
	open := start(t, &speller{}, func(c *Config) { c.Metrics = http.NotFoundHandler() })
	if resp, _ := do(t, http.MethodGet, open.URL+"/metrics", ""); resp.StatusCode != 404 { // asked, without a key
		t.Errorf("%d", resp.StatusCode)
	}
}
