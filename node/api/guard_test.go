package api

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const hello = `{"messages":[{"role":"user","content":"hello"}]}`

// TestGuard: what browsers can be made to send does not get through.
func TestGuard(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) {
		c.Hosts = []string{"box.lan"}
		c.Origins = []string{"https://friend.example"}
	})
	for _, test := range []struct {
		name   string
		status int
		header []string
	}{
		{"a program", 200, nil},
		{"localhost", 200, []string{"Host", "localhost:11500"}},
		{"a name under localhost", 200, []string{"Host", "Shoal.LOCALHOST."}},
		{"IPv6 loopback", 200, []string{"Host", "[::1]:11500"}},
		{"mapped loopback", 200, []string{"Host", "[::ffff:127.0.0.1]"}},
		{"a configured name", 200, []string{"Host", "Box.lan:80"}},
		{"a rebound name", 403, []string{"Host", "evil.example:11500"}},
		{"a name that begins like loopback", 403, []string{"Host", "127.0.0.1.evil.example"}},
		{"a name that ends like it", 403, []string{"Host", "evillocalhost"}},
		{"another address", 403, []string{"Host", "192.0.2.1"}},
		{"no address in particular", 200, []string{"Host", "0.0.0.0:11500"}},
		{"this page", 200, []string{"Origin", srv.URL}},
		{"a page elsewhere", 403, []string{"Origin", "https://evil.example"}},
		{"a file's page", 403, []string{"Origin", "null"}},
		{"this host, another port", 403, []string{"Origin", "http://127.0.0.1:1"}},
		{"an allowed page", 200, []string{"Origin", "https://friend.example"}},
		{"an image elsewhere", 403, []string{"Sec-Fetch-Site", "cross-site"}},
		{"a neighbour site", 403, []string{"Sec-Fetch-Site", "same-site"}},
		{"the address bar", 200, []string{"Sec-Fetch-Site", "none"}},
		{"JSON with a charset", 200, []string{"Content-Type", "application/json; charset=utf-8"}},
		{"a form", 415, []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"plain text", 415, []string{"Content-Type", "text/plain"}},
		{"text that looks like JSON", 415, []string{"Content-Type", "text/plain; application/json"}},
		{"no type", 415, []string{"Content-Type", ""}},
	} {
		resp, body := post(t, srv.URL+"/v1/chat/completions", hello, test.header...)
		if resp.StatusCode != test.status {
			t.Errorf("%s: %d %s", test.name, resp.StatusCode, body)
		}
		if allowed := resp.Header.Get("Access-Control-Allow-Origin"); (allowed != "") != (test.name == "an allowed page") {
			t.Errorf("%s: CORS allows %q", test.name, allowed)
		}
	}
	if resp, _ := do(t, http.MethodOptions, srv.URL+"/v1/chat/completions", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); resp.StatusCode != 403 {
		t.Errorf("a preflight from elsewhere: %d", resp.StatusCode)
	}
	resp, _ := do(t, http.MethodOptions, srv.URL+"/v1/chat/completions", "", "Origin", "https://friend.example",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type")
	if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Headers") != "content-type" || resp.Header.Get("Vary") != "Origin" {
		t.Errorf("a preflight from a friend: %d %v", resp.StatusCode, resp.Header)
	}
}

// TestOwnEndpoints: they read and write files, so only the token opens them, and
// nothing opens them to a browser or another machine.
func TestOwnEndpoints(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Origins = []string{"https://friend.example"}; c.Key = "key" })
	for _, path := range []string{"GET /status", "GET /peers", "GET /models", "GET /models/speller", "DELETE /models/org%2Fother",
		"POST /models/add", "POST /models/pull", "POST /models/export", "POST /tokenize"} {
		method, path, _ := strings.Cut(path, " ")
		url := srv.URL + "/shoal/v1" + path
		for name, test := range map[string]struct {
			status int
			header []string
		}{
			"nothing":         {401, nil},
			"a wrong token":   {401, []string{"Authorization", "Bearer x"}},
			"an empty token":  {401, []string{"Authorization", "Bearer "}},
			"the API key":     {401, []string{"Authorization", "Bearer key"}},
			"this page":       {403, []string{"Authorization", "Bearer " + testToken, "Origin", srv.URL}},
			"an allowed page": {403, []string{"Authorization", "Bearer " + testToken, "Origin", "https://friend.example"}},
			"a browser":       {403, []string{"Authorization", "Bearer " + testToken, "Sec-Fetch-Site", "none"}},
		} {
			if resp, body := do(t, method, url, "{}", append(test.header, "Content-Type", "application/json")...); resp.StatusCode != test.status {
				t.Errorf("%s %s with %s: %d %s", method, path, name, resp.StatusCode, body)
			}
		}
	}
	for name, from := range map[string]string{"another machine": "192.0.2.7:9", "nobody": ""} {
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/shoal/v1/status", nil)
		r.RemoteAddr = from
		r.Header.Set("Authorization", "Bearer "+testToken)
		w := httptest.NewRecorder()
		shelf := newShelf()
		New(Config{Library: shelf, Observer: shelf, Token: testToken}).ServeHTTP(w, r)
		if w.Code != 403 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	shelf := newShelf()
	if _, err := InProcess(New(Config{Library: shelf, Observer: shelf}), "").Status(t.Context()); AsError(orNil(err)).Kind != Unauthorized {
		t.Errorf("without a token configured: %v", err)
	}
}

func orNil(err error) error {
	if err == nil {
		return &Error{}
	}
	return err
}

// TestErrorShape: every error, of whatever layer, is an object of OpenAI's.
func TestErrorShape(t *testing.T) {
	srv := start(t, &speller{}, nil)
	big := `{"messages":[{"role":"user","content":"` + strings.Repeat("x", maxBody) + `"}]}`
	for _, test := range []struct {
		method, path, body string
		status             int
		code               Kind
	}{
		{"GET", "/nothing", "", 404, NotFound},
		{"GET", "/v1/nothing", "", 404, NotFound},
		{"POST", "/v1/models", "{}", 405, BadMethod},
		{"GET", "/v1/chat/completions", "", 405, BadMethod},
		{"PUT", "/v1/completions", "", 405, BadMethod},
		{"POST", "/v1/embeddings", "{}", 400, BadInput},
		{"POST", "/v1/chat/completions", "{", 400, BadInput},
		{"POST", "/v1/chat/completions", big, 413, TooLarge},
		{"GET", "/v1/models/nope", "", 404, UnknownModel},
	} {
		resp, body := do(t, test.method, srv.URL+test.path, test.body, "Content-Type", "application/json")
		var e struct {
			Error map[string]any `json:"error"`
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Errorf("%s %s: %q: %v", test.method, test.path, body, err)
			continue
		}
		if resp.StatusCode != test.status || e.Error["code"] != string(test.code) || e.Error["message"] == "" || e.Error["type"] == "" {
			t.Errorf("%s %s: %d %s", test.method, test.path, resp.StatusCode, body)
		}
		if _, there := e.Error["param"]; !there {
			t.Errorf("%s %s: no param: %s", test.method, test.path, body)
		}
		if test.code == BadMethod && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", test.method, test.path)
		}
	}
}

// TestNothingLogged: neither prompts, answers nor keys reach the log, whatever
// happens to the request.
func TestNothingLogged(t *testing.T) {
	var log bytes.Buffer
	srv := start(t, &speller{}, func(c *Config) {
		c.Key = "key-SECRET"
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	url := srv.URL + "/v1/chat/completions"
	for _, body := range []string{`{"messages":[{"role":"user","content":"SECRET"}]}`, `{"stream":true,"messages":[{"role":"user","content":"SECRET"}]}`,
		`{"model":"SECRET","messages":[{"role":"user","content":"x"}]}`, `{"model":"crash","messages":[{"role":"user","content":"SECRET"}]}`, `{"SECRET`} {
		post(t, url, body, "Authorization", "Bearer key-SECRET")
	}
	post(t, url, `{}`, "Authorization", "Bearer another-SECRET")
	do(t, http.MethodGet, srv.URL+"/v1/models/SECRET?SECRET=SECRET", "")
	srv.Close()
	if n := strings.Count(log.String(), "msg=request"); n != 7 {
		t.Errorf("%d requests are in the log", n)
	}
	if i := strings.Index(log.String(), "SECRET"); i >= 0 {
		t.Errorf("the log says: %s", log.String()[max(0, i-200):i+20])
	}
}

// TestGuardAnyHost: where any host name is taken, a browser still has to come by
// one that nobody else can point here, or from a page that was allowed.
func TestGuardAnyHost(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) {
		c.Hosts = []string{"*", "box.lan"}
		c.Origins = []string{"https://friend.example"}
	})
	for _, test := range []struct {
		name   string
		status int
		header []string
	}{
		{"a program", 200, []string{"Host", "proxy.example"}},
		{"a rebound page posts", 403, []string{"Host", "evil.example", "Origin", "http://evil.example"}},
		{"a rebound page asks", 403, []string{"Host", "evil.example", "Sec-Fetch-Site", "same-origin"}},
		{"one of an old browser", 403, []string{"Host", "evil.example", "User-Agent", "Mozilla/5.0"}},
		{"a page of a name that stands there", 200, []string{"Host", "box.lan", "Origin", "http://box.lan"}},
		{"an allowed page", 200, []string{"Host", "proxy.example", "Origin", "https://friend.example"}},
	} {
		if resp, body := post(t, srv.URL+"/v1/chat/completions", hello, test.header...); resp.StatusCode != test.status {
			t.Errorf("%s: %d %s", test.name, resp.StatusCode, body)
		}
	}
}
