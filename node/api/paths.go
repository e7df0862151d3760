package api

import (
	"net/http"
	"net/url"
	"strings"
)

// Clients put paths together from a base that a person has typed: with a slash too many,
// or without the /v1. A redirect would lose the body of a POST with many of them, so such
// paths are served as what they mean.

// bare are OpenAI's endpoints that llama.cpp's server also has without /v1.
var bare = []string{"/chat/completions", "/completions", "/decisions", "/embeddings", "/messages", "/models", "/rerank", "/reranking", "/responses", "/systemone"}

// cleaned returns a request with the path that it means.
func cleaned(r *http.Request) *http.Request {
	path, raw := cleanPath(r.URL.Path), ""
	if r.URL.RawPath != "" && r.URL.RawPath == r.URL.EscapedPath() { // it has slashes that are part of a name
		var err error
		raw = cleanPath(r.URL.RawPath)
		if path, err = url.PathUnescape(raw); err != nil {
			return r
		}
	}
	if path == r.URL.Path && raw == r.URL.RawPath {
		return r
	}
	out := new(http.Request)
	*out = *r
	out.URL = new(url.URL)
	*out.URL = *r.URL
	out.URL.Path, out.URL.RawPath = path, raw
	return out
}

// cleanPath makes each run of slashes one, and removes those at the end but where a
// folder of pages is meant.
func cleanPath(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if trimmed := strings.TrimSuffix(path, "/"); trimmed != "" && trimmed != "/page" && trimmed != "/debug/pprof" {
		path = trimmed
	}
	for strings.HasPrefix(path, "/v1/v1/") {
		path = path[len("/v1"):]
	}
	for _, b := range bare {
		if rest, ok := strings.CutPrefix(path, b); ok && (rest == "" || rest[0] == '/') {
			return "/v1" + path
		}
	}
	return path
}
