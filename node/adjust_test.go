package node_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend"
)

// TestAdjust: settings that can change do so in the node that runs, and a wrong one
// changes nothing.
func TestAdjust(t *testing.T) {
	n, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: "tinytales"}}, API: "127.0.0.1:0", Memory: 1 << 30}, true)
	cl := n.Client()
	view := func() *api.View {
		v, err := cl.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	code := func(key string) int {
		s, err := cl.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.API+"/v1/models", nil)
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	never, err := lend.ParseHours(time.Now().Add(3*time.Hour).Format("15:04") + "-" + time.Now().Add(4*time.Hour).Format("15:04"))
	if err != nil {
		t.Fatal(err)
	}
	next := node.Config{API: "127.0.0.1:0", Memory: 2 << 30, MaxSessions: 3, Up: 1 << 20, Quota: 5 << 30, APIKey: "hush", Fastest: true, Lend: lend.Rules{Hours: never, OnBattery: true}}
	if err := n.Adjust(next); err != nil {
		t.Fatal(err)
	}
	until(t, "lending pauses", func() bool { return !view().Lending.Open })
	ready := func() (int, string) {
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/readyz", nil))
		return w.Code, w.Body.String()
	}
	if code, body := ready(); code != http.StatusOK { // its own API goes on answering
		t.Errorf("paused: %d %s", code, body)
	}
	if ids, _, _ := ask(t, n, request("Once upon a time", 0, 5)); len(ids) != 5 {
		t.Error("the owner of a paused node gets no answer")
	}
	if l := view().Lending; l.Memory != 2<<30 || l.MaxSessions != 3 || l.Quota != 5<<30 || l.Hours != never.String() {
		t.Errorf("%+v", l)
	}
	if s, err := cl.Status(t.Context()); err != nil || s.Up != 1<<20 {
		t.Errorf("%+v, %v", s, err)
	}
	if code("") != 401 || code("hush") != 200 {
		t.Errorf("without the key %d, with it %d", code(""), code("hush"))
	}
	bad := next
	bad.Trust, bad.MaxSessions = []string{"nobody"}, 9
	if err := n.Adjust(bad); !errors.Is(err, node.ErrConfig) || view().Lending.MaxSessions != 3 {
		t.Errorf("%v, %+v", err, view().Lending)
	}
	next.Lend, next.APIKey = lend.Rules{OnBattery: true}, ""
	if err := n.Adjust(next); err != nil || code("") != 200 {
		t.Errorf("%v, %d", err, code(""))
	}
	until(t, "it lends again", func() bool { return view().Lending.Open })
}

// TestExposed: which addresses of the API other machines can reach.
func TestExposed(t *testing.T) {
	for address, want := range map[string]bool{
		"": false, "127.0.0.1:1": false, "localhost:1": false, "[::1]:1": false, "[::ffff:127.0.0.1]:1": false,
		"0.0.0.0:1": true, "[::]:1": true, ":1": true, "192.0.2.1:1": true, "box.lan:1": true,
	} {
		if c := (node.Config{API: address}); c.Exposed() != want {
			t.Errorf("%q: %v", address, !want)
		}
	}
}
