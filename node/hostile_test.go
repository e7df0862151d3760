package node_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/hostile"
)

// What strangers can claim, hold and send, against whole nodes. A busy machine is
// given more time than the figures logged here need.

// server runs a node that serves all of the tiny model.
func server(t *testing.T, cfg node.Config) (n *node.Node, addrs []string, m hostile.Model) {
	t.Helper()
	cfg.Serve = []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}
	n, addrs = start(t, cfg, true)
	models, err := n.Client().Models(t.Context())
	if err != nil || len(models) != 1 {
		t.Fatal(models, err)
	}
	id, err := cid.Decode(models[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return n, addrs, hostile.Model{ID: id, Name: tinymodel.Name, Blocks: models[0].Blocks, Width: models[0].Width}
}

// stranger connects a badly behaved peer to a node.
func stranger(t *testing.T, addrs []string) *hostile.Peer {
	t.Helper()
	p, err := hostile.Connect(t.Context(), addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// knows waits until a node has heard of somebody's offer.
func knows(t *testing.T, n *node.Node, p *hostile.Peer) {
	t.Helper()
	until(t, "the stranger's offer is known", func() bool {
		peers, err := n.Client().Peers(t.Context())
		return err == nil && slices.ContainsFunc(peers, func(x api.Peer) bool { return x.Peer == p.Host.ID().String() && len(x.Serves) > 0 })
	})
}

// answer asks for a few tokens, and tells how long that took.
func answer(t *testing.T, n *node.Node, tokens int) (ids []int32, took time.Duration) {
	t.Helper()
	begin := time.Now()
	ids, _, _ = ask(t, n, request("Once upon a time", 0, tokens))
	return ids, time.Since(begin)
}

// TestOwnFirst: who serves all of a model by itself sends nothing to one who claims
// to be faster, and one whose operator trusts it, neither.
func TestOwnFirst(t *testing.T) {
	own, addrs, m := server(t, node.Config{})
	st, err := own.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	friend, faddrs := start(t, node.Config{Bootstrap: addrs, Trust: []string{st.Peer}}, false)
	want, _ := answer(t, own, 8)
	var liars []*hostile.Peer
	for n, addrs := range map[*node.Node][]string{own: addrs, friend: faddrs} {
		liar := stranger(t, addrs)
		liar.Lie()
		if err := liar.Claim(m); err != nil {
			t.Fatal(err)
		}
		knows(t, n, liar)
		liars = append(liars, liar)
	}
	for range 10 {
		for n, trust := range map[*node.Node]string{own: "own", friend: "trusted"} {
			got, begin, _ := ask(t, n, request("Once upon a time", 0, 8))
			if !slices.Equal(got, want) || len(begin.Route) != 1 || begin.Route[0].Peer != st.Peer || begin.Route[0].Trust != trust {
				t.Fatalf("%v over %v, want %v", got, begin.Route, want)
			}
		}
	}
	for _, l := range liars {
		if n := l.Sessions.Load(); n != 0 {
			t.Errorf("%d prompts went to a liar", n)
		}
	}
}

// TestFastest: who is told to take the fastest route does so, and newcomers have
// their turn though a trusted node serves all.
func TestFastest(t *testing.T) {
	own, addrs, m := server(t, node.Config{})
	st, err := own.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	friend, faddrs := start(t, node.Config{Bootstrap: addrs, Trust: []string{st.Peer}, Fastest: true}, false)
	liar := stranger(t, faddrs)
	liar.Lie()
	if err := liar.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, friend, liar)
	for range 12 {
		answer(t, friend, 8)
	}
	if liar.Sessions.Load() == 0 {
		t.Error("a newcomer never has his turn")
	}
}

// TestOneHonestServer: a client that knows one gives somebody new one prompt in ten,
// at most; and one in all, if what comes is no answer of the format that was asked
// for.
func TestOneHonestServer(t *testing.T) {
	_, addrs, m := server(t, node.Config{})
	client, caddrs := start(t, node.Config{Bootstrap: addrs}, false)
	answer(t, client, 8)
	liar := stranger(t, caddrs)
	liar.Lie()
	if err := liar.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, client, liar)
	for n := int64(1); n <= 25; n++ {
		answer(t, client, 8)
		if 10*liar.Sessions.Load() > n {
			t.Fatalf("%d of the first %d prompts went to the liar", liar.Sessions.Load(), n)
		}
	}
	before := liar.Sessions.Load()
	if before == 0 {
		t.Error("no newcomer is ever tried")
	}
	formatted := request("Once upon a time", 0, 40)
	formatted.Format = json.RawMessage(`{"type":"integer"}`)
	for range 25 {
		if _, _, done := ask(t, client, formatted); done.Tokens == 0 {
			t.Error("an empty answer")
		}
	}
	// On a busy machine another route may win the race before the first nonsense shows.
	if n := liar.Sessions.Load() - before; n < 1 || n > 2 {
		t.Errorf("%d prompts went to one that answered nonsense to a format, want 1", n)
	}
}

// TestHolders: sessions that strangers keep and do nothing with keep nobody out,
// neither the node's own prompts nor an honest stranger's.
func TestHolders(t *testing.T) {
	n, addrs, m := server(t, node.Config{KVTokens: 4096})
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	answer(t, client, 8) // knows the way
	hold := func(peers int) (held int) {
		for range peers {
			held += stranger(t, addrs).Hold(12, m, 512)
		}
		return held
	}
	for _, peers := range []int{1, 19} {
		held := hold(peers)
		_, own := answer(t, n, 8)
		_, other := answer(t, client, 8)
		t.Logf("%d more holders got %d sessions; then an own prompt took %v, a stranger's %v", peers, held, own, other)
		if own > 10*time.Second || other > 10*time.Second { // 2 s on an idle machine
			t.Errorf("with %d more holders of %d sessions: own %v, a stranger's %v", peers, held, own, other)
		}
	}
}

// TestTarpit: one who accepts, and never answers, costs one prompt a moment, and no
// other anything.
func TestTarpit(t *testing.T) {
	_, addrs, m := server(t, node.Config{})
	client, caddrs := start(t, node.Config{Bootstrap: addrs}, false)
	want, _ := answer(t, client, 30)
	tar := stranger(t, caddrs)
	tar.Stall()
	if err := tar.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, client, tar)
	var longest time.Duration
	for range 40 {
		got, took := answer(t, client, 30)
		longest = max(longest, took)
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	t.Logf("%d sessions came to the tarpit; the longest prompt took %s", tar.Sessions.Load(), longest)
	if n := tar.Sessions.Load(); n != 1 {
		t.Errorf("%d sessions came to the tarpit, want 1", n)
	}
	if longest > 15*time.Second { // under 3 s where the machine is not busy
		t.Errorf("a prompt took %s", longest)
	}
}

// TestTarpitFirst: so it is for a client that knows nobody yet.
func TestTarpitFirst(t *testing.T) {
	_, addrs, m := server(t, node.Config{})
	client, caddrs := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	tar := stranger(t, caddrs)
	tar.Stall()
	if err := tar.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, client, tar)
	var took []time.Duration
	for range 3 {
		_, d := answer(t, client, 8)
		took = append(took, d)
	}
	t.Logf("prompts took %v; the tarpit was asked %d times", took, tar.Sessions.Load())
	if slices.Max(took) > 15*time.Second {
		t.Errorf("prompts took %v", took)
	}
	if n := tar.Sessions.Load(); n > 1 {
		t.Errorf("the tarpit was asked %d times", n)
	}
}

// TestReflection: nobody is dialled on a stranger's word more than a little.
func TestReflection(t *testing.T) {
	n, addrs, m := server(t, node.Config{})
	var dialled atomic.Int64
	var at []multiaddr.Multiaddr
	for range 16 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				dialled.Add(1)
				c.Close()
			}
		}()
		at = append(at, multiaddr.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)))
	}
	if err := stranger(t, addrs).Reflect(300, m, at...); err != nil {
		t.Fatal(err)
	}
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	for _, n := range []*node.Node{n, client} {
		for range 2 {
			answer(t, n, 8)
		}
	}
	if got := dialled.Load(); got > 20*int64(len(at)) {
		t.Errorf("%d connections to %d addresses that nobody proved", got, len(at))
	} else {
		t.Logf("%d connections to %d addresses that nobody proved", got, len(at))
	}
}

// TestHalfSent: frames that do not end and Halts whose answers nobody reads cost a
// node little, and its honest sessions run.
func TestHalfSent(t *testing.T) {
	n, addrs, m := server(t, node.Config{})
	want, _ := answer(t, n, 20)
	var taken int
	for range 3 {
		taken += stranger(t, addrs).HalfFrames(100)
	}
	sent, err := stranger(t, addrs).Flood(100_000, m, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	got, took := answer(t, n, 20)
	t.Logf("%d of 300 half frames of 1 MiB were taken, %d halts; then an answer took %v", taken, sent, took)
	if taken > 64 {
		t.Errorf("%d half frames of 1 MiB were taken", taken)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestNameIsNoSource: what a request without the token calls a model is nowhere a
// file or an address, and no answer tells what lies at one.
func TestNameIsNoSource(t *testing.T) {
	n, _, _ := server(t, node.Config{})
	file := filepath.Join(t.TempDir(), "mine.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer web.Close()
	for _, name := range []string{file, file + "x", filepath.Dir(file), "../mine.gguf", web.URL + "/x.gguf", "hf:a/b/c.gguf", "a/b"} {
		for _, path := range []string{"/v1/completions", "/v1/chat/completions", "/v1/responses", "/api/generate", "/api/chat", "/api/show", "/api/pull"} {
			body, err := json.Marshal(map[string]any{
				"model": name, "prompt": "x", "input": "x", "max_tokens": 1, "messages": []map[string]string{{"role": "user", "content": "x"}}, "stream": false,
			})
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
			r.Host = "127.0.0.1"
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			n.Handler().ServeHTTP(w, r)
			if w.Code < 400 || w.Code >= 500 || strings.Contains(w.Body.String(), "no such file") {
				t.Errorf("%s of %s: %d %s", path, name, w.Code, w.Body)
			}
		}
	}
	if models, err := n.Client().Models(t.Context()); err != nil || len(models) != 1 {
		t.Errorf("models %v, %v", models, err)
	}
	if asked.Load() != 0 {
		t.Errorf("a web server was asked %d times", asked.Load())
	}
}
