package node_test

import (
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// A node whose operator trusts one that serves all of a model sends its prompts
// there, and says so; one that is told to take the fastest route does that.
func TestTrustedFirst(t *testing.T) {
	n, addrs, m := server(t, node.Config{})
	st, err := n.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	friend, faddrs := start(t, node.Config{Bootstrap: addrs, Trust: []string{st.Peer}}, false)
	liar := stranger(t, faddrs)
	liar.Lie()
	if err := liar.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, friend, liar)
	want, _ := answer(t, n, 8)
	for range 12 { // the tenth could be a newcomer's turn
		got, begin, _ := ask(t, friend, request("Once upon a time", 0, 8))
		if !slices.Equal(got, want) || len(begin.Route) != 1 || begin.Route[0] != (api.Hop{Peer: st.Peer, From: 0, To: 8, Trust: "trusted"}) {
			t.Fatalf("%v over %v, want %v", got, begin.Route, want)
		}
	}
	if got := liar.Sessions.Load(); got != 0 {
		t.Errorf("%d of 12 prompts went to the liar", got)
	}
	fastest, addrs := start(t, node.Config{Bootstrap: faddrs, Trust: []string{st.Peer}, Fastest: true}, false)
	other := stranger(t, addrs)
	other.Lie()
	if err := other.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, fastest, other)
	for range 12 {
		answer(t, fastest, 8)
	}
	if liar.Sessions.Load()+other.Sessions.Load() == 0 {
		t.Error("a newcomer never has his turn")
	}
}

// A tarpit has its turn as a newcomer, which costs that prompt some seconds, and no
// other anything.
func TestTarpitInItsTurn(t *testing.T) {
	_, addrs, m := server(t, node.Config{})
	client, caddrs := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	want, _ := answer(t, client, 8)
	tar := stranger(t, caddrs)
	tar.Stall()
	if err := tar.Claim(m); err != nil {
		t.Fatal(err)
	}
	knows(t, client, tar)
	var longest time.Duration
	for range 40 {
		got, took := answer(t, client, 8)
		if longest = max(longest, took); !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	t.Logf("%d sessions came to the tarpit; the longest prompt took %s", tar.Sessions.Load(), longest)
	if n := tar.Sessions.Load(); n != 1 {
		t.Errorf("%d sessions came to the tarpit, want 1", n)
	}
	if longest > 15*time.Second { // 2 s on an idle machine
		t.Errorf("a prompt took %s", longest)
	}
}
