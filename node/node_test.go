package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend"
)

// Whole networks in this process, with real engines and real sockets.

func TestMain(m *testing.M) {
	if os.Getenv(forgetful) != "" {
		os.Exit(forget())
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the engine's library logs there
	os.Exit(m.Run())
}

// start runs a node and waits until it listens, or with ready until all that it
// serves is ready. It returns the addresses to join it at.
func start(t *testing.T, cfg node.Config, ready bool) (*node.Node, []string) {
	t.Helper()
	cfg.Lend = lend.Rules{OnBattery: true}
	return startWith(t, cfg, ready)
}

// startWith is start for a node with its own rules of lending.
func startWith(t *testing.T, cfg node.Config, ready bool) (*node.Node, []string) {
	t.Helper()
	var mu sync.Mutex
	var addrs []string
	cfg.Home, cfg.NoMDNS, cfg.Threads, cfg.DrainTime = t.TempDir(), true, 1, time.Second
	if cfg.Engine == nil {
		cfg.Engine = engineFor(t, cfg)
	}
	cfg.ListenAddrs = []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}
	cfg.Events = func(e node.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Event == "listening" {
			addrs = e.Addrs
		}
	}
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Error(err)
		}
	})
	until(t, "the node is up", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return addrs != nil
	})
	if ready {
		wait, stop := context.WithTimeout(ctx, 30*time.Second)
		defer stop()
		if err := n.Ready(wait); err != nil {
			t.Fatal("not ready within 30 s: ", err)
		}
	}
	return n, addrs
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 30 s: " + what)
		}
	}
}

// three nodes hold a third each; the second and third pull theirs from the first.
func three(t *testing.T) (nodes []*node.Node, addrs []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	a, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: file, Span: "0-3"}}}, false)
	if _, err := a.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "3-5"}}}, false)
	c, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "5-8"}}}, true)
	nodes = []*node.Node{a, b, c}
	for _, n := range nodes {
		until(t, "all are ready", func() bool {
			st, err := n.Client().Status(t.Context())
			return err == nil && len(st.Serving) > 0 && st.Serving[0].Ready
		})
	}
	return nodes, addrs
}

func ask(t *testing.T, n *node.Node, req api.GenerateRequest) (ids []int32, start *api.Start, done *api.Done) {
	t.Helper()
	err := n.Client().Generate(t.Context(), &req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			start = e.Start
		case e.Token != nil:
			ids = append(ids, e.Token.ID)
		case e.Done != nil:
			done = e.Done
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids, start, done
}

func request(prompt string, temperature float64, n int) api.GenerateRequest {
	seed := uint64(11)
	return api.GenerateRequest{Raw: true, Prompt: prompt, MaxTokens: n, Sampling: api.Sampling{Temperature: &temperature, Seed: &seed, TopP: new(0.95)}}
}

func TestNetworkInProcess(t *testing.T) {
	t.Parallel()
	one, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	nodes, addrs := three(t)
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	for _, temperature := range []float64{0, 0.9} {
		want, _, _ := ask(t, one, request("Once upon a time", temperature, 60))
		for _, n := range append([]*node.Node{client}, nodes...) {
			got, begin, done := ask(t, n, request("Once upon a time", temperature, 60))
			if !slices.Equal(got, want) || len(begin.Route) != 3 || done.Tokens != len(got) {
				t.Errorf("temperature %g: %v over %v, want %v", temperature, got, begin.Route, want)
			}
		}
	}
	// A chat's next turn computes only what is new.
	chat := api.GenerateRequest{MaxTokens: 60, Messages: []api.Message{{Role: "user", Content: "Tell me a story about a fox and a lantern, and about what they saw in the old mill by the river."}}}
	zero := 0.0
	chat.Sampling.Temperature = &zero
	var answer string
	if err := client.Client().Generate(t.Context(), &chat, func(e api.Event) error {
		if e.Token != nil {
			answer += e.Token.Text
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	chat.Messages = append(chat.Messages, api.Message{Role: "assistant", Content: answer}, api.Message{Role: "user", Content: "Who was it about?"})
	var kept int
	until(t, "the stages have kept the first turn", func() bool {
		_, _, done := ask(t, client, chat)
		kept = done.Cached
		return kept >= 64
	})
	t.Logf("%d tokens of the second turn's prompt were kept", kept)
	light, err := client.Client().Models(t.Context())
	if err != nil || len(light) != 1 || light[0].Allocated > 1<<20 {
		t.Errorf("the client holds weights: %+v %v", light, err)
	}
}

func TestPullAndExport(t *testing.T) {
	nodes, _ := three(t)
	m, err := nodes[2].Client().Pull(t.Context(), api.PullRequest{Model: "tales"}, nil)
	if err != nil || !m.Complete {
		t.Fatalf("%+v %v", m, err)
	}
	file := filepath.Join(t.TempDir(), "copy.gguf")
	if err := nodes[2].Client().Export(t.Context(), api.ExportRequest{Model: "tales", Path: file}, nil); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil || sha256.Sum256(raw) != sha256.Sum256(tinymodel.GGUF()) || !bytes.Equal(raw, tinymodel.GGUF()) {
		t.Error("the copy is not the original: ", err)
	}
	if err := nodes[2].Client().Remove(t.Context(), "tales"); err == nil {
		t.Error("a model that is served was removed")
	}
}

// A node that leaves hands over; when nobody is left, that is said.
func TestDrain(t *testing.T) {
	t.Parallel()
	nodes, addrs := three(t)
	spare, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "3-5"}}}, true)
	want, _, _ := ask(t, nodes[0], request("The old mill", 0, 80))
	var got []int32
	var done *api.Done
	req := request("The old mill", 0, 80)
	for _, second := range []*node.Node{nodes[1], spare} { // whichever of the two is in the route
		st, err := second.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		err = nodes[0].Client().Generate(t.Context(), &req, func(e api.Event) error {
			switch {
			case e.Start != nil && slices.ContainsFunc(e.Start.Route, func(h api.Hop) bool { return h.Peer == st.Peer }):
				return second.Drain(t.Context())
			case e.Token != nil:
				got = append(got, e.Token.ID)
			case e.Done != nil:
				done = e.Done
			}
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%v: %v, want %v", err, got, want)
		}
		if len(done.Recoveries) > 0 {
			break
		}
	}
	t.Logf("%+v", done.Recoveries)
}

// Nodes that choose for themselves fill the gaps first, then make a copy.
func TestAuto(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	// Memory for about half of the model with its KV.
	auto := func(boot []string) node.Config {
		return node.Config{Bootstrap: boot, Memory: 8 << 20, KVTokens: 1024, Serve: []node.ServeSpec{{Model: "tales", Span: "auto"}}}
	}
	origin, addrs := start(t, node.Config{}, false) // holds it and serves nothing
	if _, err := origin.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	one, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	want, _, _ := ask(t, one, request("Once upon a time", 0, 40))
	var nodes []*node.Node
	for range 3 {
		n, _ := start(t, auto(addrs), false)
		nodes = append(nodes, n)
	}
	serves := func() (out []string) {
		for _, n := range nodes {
			st, err := n.Client().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range st.Serving {
				out = append(out, fmt.Sprintf("%d-%d %v %s", v.From, v.To, v.Ready, v.State))
			}
		}
		return out
	}
	var got []int32
	until(t, "the model is whole", func() bool {
		got = nil
		req := request("Once upon a time", 0, 40)
		err := origin.Client().Generate(t.Context(), &req, func(e api.Event) error {
			if e.Token != nil {
				got = append(got, e.Token.ID)
			}
			return nil
		})
		return err == nil
	})
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	t.Log(serves())
}

// TestAPILetsIn: the names and pages that an operator lets in, and no others.
func TestAPILetsIn(t *testing.T) {
	n, _ := start(t, node.Config{APIHosts: []string{"shoal.example"}, APIOrigins: []string{"https://chat.example"}}, false)
	for _, tc := range []struct {
		host, origin string
		want         int
	}{
		{"shoal.example:11500", "", http.StatusOK},
		{"other.example:11500", "", http.StatusForbidden},
		{"localhost", "https://chat.example", http.StatusOK},
		{"localhost", "https://other.example", http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
		r.Host = tc.host
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s from %q: %d, want %d: %s", tc.host, tc.origin, w.Code, tc.want, w.Body)
		}
	}
	for _, origin := range []string{"chrome-extension://*", "app://*", "https://*.example.com", "http://localhost:*", "http://[::1]:3000"} {
		if err := (&node.Config{APIOrigins: []string{origin}}).Check(); errors.Is(err, node.ErrConfig) {
			t.Errorf("%s: %v", origin, err)
		}
	}
	for _, origin := range []string{"chat.example", "https://chat.example/", "null", "*", "https://*.", "https://a.*.example", "https://u@chat.example"} {
		c := node.Config{APIOrigins: []string{origin}}
		if err := c.Check(); !errors.Is(err, node.ErrConfig) {
			t.Errorf("%s: %v", origin, err)
		}
	}
}
