package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// guarded is a shelf whose catalogue tells that a request got through.
type guarded struct{ *shelf }

func (guarded) Search(context.Context, []string) ([]Listed, error) { return nil, nil }

func startOwned(t *testing.T, change func(*Config)) *httptest.Server {
	return start(t, &speller{}, func(c *Config) {
		c.Catalogue = guarded{}
		c.Viewer = view{}
		c.Hosts = []string{"box.lan"}
		c.Origins = []string{"https://friend.example"}
		if change != nil {
			change(c)
		}
	})
}

type view struct{}

func (view) View(_ context.Context, private bool) (*View, error) {
	v := &View{}
	if private {
		v.Networks = []Network{{Swarm: "secret"}}
	}
	return v, nil
}

// TestOwnersPage: who may change the node from a page, and who may not.
func TestOwnersPage(t *testing.T) {
	srv := startOwned(t, nil)
	link := ownerCode(t, srv)
	session := openSession(t, srv, link)
	own := http.StatusForbidden // by the user behind the socket
	if runtime.GOOS == "linux" {
		own = http.StatusOK
	}
	for _, test := range []struct {
		name   string
		status int
		header []string
	}{
		{"the page on this machine", own, []string{"Sec-Fetch-Site", "same-origin"}},
		{"the same, by localhost", own, []string{"Sec-Fetch-Site", "same-origin", "Host", "localhost:11500"}},
		{"a program", 401, nil},
		{"a program with the token", 200, []string{"Authorization", "Bearer " + testToken}},
		{"another site", 403, []string{"Sec-Fetch-Site", "cross-site"}},
		{"another port of this host", 403, []string{"Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"}},
		{"the address bar", 403, []string{"Sec-Fetch-Site", "none"}},
		{"an allowed origin", 403, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://friend.example"}},
		{"an allowed origin that lies", 403, []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://friend.example"}},
		{"an allowed origin with a session", 403, []string{"Origin", "https://friend.example", ownerHeader, session}},
		{"a rebound name", 403, []string{"Sec-Fetch-Site", "same-origin", "Host", "evil.example:11500"}},
		{"a rebound name with a session", 403, []string{"Sec-Fetch-Site", "same-origin", "Host", "evil.example:11500", ownerHeader, session}},
		{"a name of the configuration", 403, []string{"Sec-Fetch-Site", "same-origin", "Host", "box.lan"}},
		{"the same with a session", 200, []string{"Sec-Fetch-Site", "same-origin", "Host", "box.lan", ownerHeader, session}},
		{"a proxy", 403, []string{"Sec-Fetch-Site", "same-origin", "X-Forwarded-For", "192.0.2.1"}},
		{"another site with a session", 403, []string{"Sec-Fetch-Site", "cross-site", ownerHeader, session}},
		{"a session where browsers vouch for nothing", 200, []string{ownerHeader, session}},
		{"a wrong session", 403, []string{ownerHeader, strings.Repeat("0", len(session))}},
		{"a used code as a session", 403, []string{ownerHeader, link}},
		{"an old browser without either", 403, []string{"Origin", srv.URL}},
		{"the token in a page", own, []string{"Authorization", "Bearer " + testToken, "Sec-Fetch-Site", "same-origin"}},
	} {
		resp, body := do(t, http.MethodGet, srv.URL+"/shoal/v1/catalog", "", test.header...)
		if resp.StatusCode != test.status {
			t.Errorf("%s: %d %s, want %d", test.name, resp.StatusCode, body, test.status)
		}
	}
	for _, path := range []string{"/shoal/v1/models/export", "/shoal/v1/models/add", "/shoal/v1/tokenize", "/shoal/v1/drain", "/shoal/v1/owner/link"} {
		if resp, body := do(t, http.MethodPost, srv.URL+path, "{}", "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin", ownerHeader, session); resp.StatusCode != 403 {
			t.Errorf("%s: %d %s: not even the owner's page may use it", path, resp.StatusCode, body)
		}
	}
	if resp, _ := do(t, http.MethodDelete, srv.URL+"/shoal/v1/owner/session", "", ownerHeader, session); resp.StatusCode != 200 {
		t.Errorf("ending a session: %d", resp.StatusCode)
	}
	if resp, _ := do(t, http.MethodGet, srv.URL+"/shoal/v1/catalog", "", ownerHeader, session); resp.StatusCode != 403 {
		t.Errorf("an ended session: %d", resp.StatusCode)
	}
}

// TestOwnerWithKey: holders of the key are no owners, not even on this machine.
func TestOwnerWithKey(t *testing.T) {
	srv := startOwned(t, func(c *Config) { c.Key = "key" })
	session := openSession(t, srv, ownerCode(t, srv))
	for _, test := range []struct {
		name           string
		catalog, shown int // status
		header         []string
	}{
		{"the page with the key", 403, 200, []string{"Authorization", "Bearer key", "Sec-Fetch-Site", "same-origin"}},
		{"the page without it", 403, 401, []string{"Sec-Fetch-Site", "same-origin"}},
		{"the owner, who needs no key", 200, 200, []string{ownerHeader, session, "Sec-Fetch-Site", "same-origin"}},
	} {
		if resp, body := do(t, http.MethodGet, srv.URL+"/shoal/v1/catalog", "", test.header...); resp.StatusCode != test.catalog {
			t.Errorf("%s: %d %s, want %d", test.name, resp.StatusCode, body, test.catalog)
		}
		resp, body := do(t, http.MethodGet, srv.URL+"/shoal/v1/owner", "", test.header...)
		if resp.StatusCode != test.shown || resp.StatusCode == 200 && strings.Contains(body, `"owner":true`) != (test.catalog == 200) {
			t.Errorf("%s is told %d %s", test.name, resp.StatusCode, body)
		}
		resp, body = do(t, http.MethodGet, srv.URL+"/shoal/v1/view", "", test.header...)
		if resp.StatusCode != test.shown || resp.StatusCode == 200 && strings.Contains(body, "secret") != (test.catalog == 200) {
			t.Errorf("%s sees %d %s", test.name, resp.StatusCode, body)
		}
		if resp, _ := post(t, srv.URL+"/v1/chat/completions", hello, test.header...); resp.StatusCode != test.shown {
			t.Errorf("%s: an answer: %d, want %d", test.name, resp.StatusCode, test.shown)
		}
	}
}

// TestOwnerBeyondLoopback: from another machine a session counts only over TLS.
func TestOwnerBeyondLoopback(t *testing.T) {
	shelf := newShelf()
	h := New(Config{Library: shelf, Observer: shelf, Catalogue: guarded{}, Viewer: view{}, Token: testToken})
	code, err := InProcess(h, testToken).OwnerLink(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(scheme, method, path, body string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, scheme+"://192.0.2.1:11500"+path, strings.NewReader(body)) // https fills in TLS
		local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 11500}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
		r.RemoteAddr = "192.0.2.7:9999"
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	open := `{"code":"` + code.Code + `"}`
	if w := ask("http", "POST", "/shoal/v1/owner/session", open); w.Code != 403 || !strings.Contains(w.Body.String(), "TLS") {
		t.Errorf("a session over plain HTTP: %d %s", w.Code, w.Body)
	}
	w := ask("https", "POST", "/shoal/v1/owner/session", open, "Origin", "https://192.0.2.1:11500", "Sec-Fetch-Site", "same-origin")
	var got struct{ Session string }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("a session over TLS: %d %s", w.Code, w.Body)
	}
	for scheme, want := range map[string]int{"https": 200, "http": 403} {
		if w := ask(scheme, "GET", "/shoal/v1/catalog", "", ownerHeader, got.Session); w.Code != want {
			t.Errorf("%s: %d %s, want %d", scheme, w.Code, w.Body, want)
		}
	}
	if w := ask("https", "GET", "/shoal/v1/catalog", "", "Sec-Fetch-Site", "same-origin"); w.Code != 403 {
		t.Errorf("a page elsewhere without a session: %d", w.Code)
	}
}

// TestOwnerCodes: a code works once and not for long, and there are never many.
func TestOwnerCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o owners
		code := o.code(time.Now())
		time.Sleep(codeLife - time.Second)
		late := o.code(time.Now())
		if s := o.open(code, time.Now()); s == "" || !o.has(s) {
			t.Error("a code does not open a session")
		}
		if o.open(code, time.Now()) != "" {
			t.Error("a code works twice")
		}
		time.Sleep(codeLife + time.Second)
		if o.open(late, time.Now()) != "" {
			t.Error("an old code works")
		}
		for range 10 * maxCodes {
			code = o.code(time.Now())
		}
		if len(o.codes) != maxCodes || o.open(code, time.Now()) == "" {
			t.Errorf("%d codes are kept", len(o.codes))
		}
		first := ""
		for range maxSessions + 1 {
			s := o.open(o.code(time.Now()), time.Now())
			if first == "" {
				first = s
			}
		}
		if len(o.sessions) != maxSessions || o.has(first) || o.has("") {
			t.Errorf("%d sessions are kept", len(o.sessions))
		}
	})
}

// ownerCode makes a code as a program with the token does.
func ownerCode(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	code, err := (&Client{Base: srv.URL, Token: testToken}).OwnerLink(t.Context())
	if err != nil || code.Expires != codeLife.Seconds() {
		t.Fatalf("%+v, %v", code, err)
	}
	return code.Code
}

func openSession(t *testing.T, srv *httptest.Server, code string) string {
	t.Helper()
	resp, body := post(t, srv.URL+"/shoal/v1/owner/session", `{"code":"`+code+`"}`, "Origin", srv.URL, "Sec-Fetch-Site", "same-origin")
	var got struct{ Session string }
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 || got.Session == "" {
		t.Fatalf("a session: %d %s", resp.StatusCode, body)
	}
	if resp, _ := post(t, srv.URL+"/shoal/v1/owner/session", `{"code":"`+code+`"}`, "Origin", srv.URL); resp.StatusCode != 403 {
		t.Errorf("a used code: %d", resp.StatusCode)
	}
	return got.Session
}

func TestQR(t *testing.T) {
	srv := startOwned(t, nil)
	ask := func(text, site string) (int, string) {
		body, err := json.Marshal(map[string]string{"text": text})
		if err != nil {
			t.Fatal(err)
		}
		resp, answer := post(t, srv.URL+"/shoal/v1/qr", string(body), "Sec-Fetch-Site", site)
		return resp.StatusCode, answer
	}
	status, body := ask("hello", "same-origin")
	var got struct{ Rows []string }
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || len(got.Rows) != 21 || !strings.HasPrefix(got.Rows[0], "####### ") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := ask(strings.Repeat("x", maxQR), "same-origin"); status != 200 {
		t.Errorf("the longest text: %d", status)
	}
	if status, _ := ask(strings.Repeat("x", maxQR+1), "same-origin"); status != 400 {
		t.Errorf("a text that is too long: %d", status)
	}
	if status, _ := ask("hello", "cross-site"); status != 403 {
		t.Errorf("another site: %d", status)
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func skipNoTable(t *testing.T) {
	if _, err := os.Stat("/proc/self/net/tcp"); err != nil {
		t.Skip(fmt.Sprint("the kernel does not say whose sockets are whose: ", err))
	}
}

// keyring has one named key, "alice", which counts what it is used for; empty has none.
type keyring struct {
	rest  // never asked here
	empty bool
	used  atomic.Int64
}

type rest struct{}

func (rest) Keys() []Key                              { return nil }
func (rest) AddKey(string, KeyLimits) (string, error) { return "", nil }
func (rest) RemoveKey(string) error                   { return nil }

func (k *keyring) Any() bool { return !k.empty }
func (k *keyring) Caller(secret string) Caller {
	if k.empty || secret != "alice" {
		return nil
	}
	return &holding{ring: k}
}

type holding struct {
	Caller
	ring *keyring
}

func (h *holding) Name() string { return "alice" }
func (h *holding) Admit() error { h.ring.used.Add(1); return nil }

// TestOwnerWithNamedKeys: once there is a named key, the page needs it, its holder is no
// owner, and looking at the node is not counted as a use of the key.
func TestOwnerWithNamedKeys(t *testing.T) {
	ring := &keyring{empty: true}
	srv := startOwned(t, func(c *Config) { c.Keys = ring })
	ask := func(header ...string) (int, string) {
		resp, body := do(t, http.MethodGet, srv.URL+"/shoal/v1/owner", "", append(header, "Sec-Fetch-Site", "same-origin")...)
		return resp.StatusCode, body
	}
	if status, body := ask(); status != 200 || strings.Contains(body, `"owner":true`) != (runtime.GOOS == "linux") {
		t.Errorf("without a key: %d %s", status, body)
	}
	session := openSession(t, srv, ownerCode(t, srv))
	ring.empty = false
	if status, _ := ask(); status != 401 {
		t.Errorf("the page without the key: %d", status)
	}
	if status, body := ask("Authorization", "Bearer alice"); status != 200 || strings.Contains(body, `"owner":true`) || ring.used.Load() != 0 {
		t.Errorf("the holder of a key: %d %s, %d uses", status, body, ring.used.Load())
	}
	if status, body := ask(ownerHeader, session); status != 200 || !strings.Contains(body, `"owner":true`) {
		t.Errorf("the owner: %d %s", status, body)
	}
}
