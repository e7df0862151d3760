package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// FuzzWhole: what encoding/json reads is read alike, and what it refuses becomes no
// number that is not written there.
func FuzzWhole(f *testing.F) {
	for _, body := range []string{`{"n":2.0}`, `{"n":1.5}`, `{"n":[1.0]}`, `{"list":[1.0,2e0,3]}`, `{"n":1e99}`, `{"n":-0.0}`, `{"n":9007199254740993.0}`} {
		f.Add([]byte(body))
	}
	type numbers struct {
		N    *int
		List []int32
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var exact, whole numbers
		first := json.Unmarshal(body, &exact)
		err := decodeWhole(body, func(b []byte) error { whole = numbers{}; return json.Unmarshal(b, &whole) })
		if first == nil && (err != nil || !reflect.DeepEqual(exact, whole)) {
			t.Errorf("%+v, %+v, %v", exact, whole, err)
		}
		var loose struct{ N float64 }
		if first != nil && err == nil && whole.N != nil && json.Unmarshal(body, &loose) == nil && loose.N != float64(*whole.N) {
			t.Errorf("%v became %v", loose.N, *whole.N)
		}
	})
}

// FuzzPaths: a cleaned path is clean, and is the path that is served: what its escaped
// form means.
func FuzzPaths(f *testing.F) {
	for _, p := range []string{"/v1//models/", "//", "/models/a%2F%2Fb", "/v1/v1/v1/chat", "/page/", "/a%2f/", "*", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse("http://x/" + strings.TrimPrefix(path, "/"))
		if err != nil {
			return
		}
		got := cleaned(&http.Request{URL: u}).URL
		if strings.Contains(got.EscapedPath(), "//") {
			t.Errorf("%q became %q", path, got.EscapedPath())
		}
		again := cleaned(&http.Request{URL: got}).URL
		if again.Path != got.Path && !strings.HasPrefix(got.Path, "/v1") {
			t.Errorf("%q, then %q", got.Path, again.Path)
		}
	})
}

// FuzzOrigins: what fits a pattern has its scheme, and its host is below the pattern's.
func FuzzOrigins(f *testing.F) {
	for _, o := range []string{"https://a.example.com", "https://evil.org#.example.com", "null", "https://a.example.com:1", "https://[::1]:1"} {
		f.Add(o)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		if !anyMatches([]string{"https://*.example.com:*"}, origin) {
			return
		}
		if u, err := url.Parse(strings.ToLower(origin)); err == nil && (u.Scheme != "https" || !strings.HasSuffix(u.Hostname(), ".example.com")) {
			t.Errorf("%q fits", origin)
		}
	})
}
