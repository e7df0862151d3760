package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// The nodes of a testnet can be in a private swarm, and as far from each other there as in an
// open network.
func TestPrivateTestnet(t *testing.T) {
	if testing.Short() {
		t.Skip("processes")
	}
	const far = 30 * time.Millisecond
	net := processes(t, testnet.Config{Nodes: 3, Private: true, Link: link.Params{RTT: far}})
	for i, n := range net.Nodes() {
		s := statusOf(t, n)
		if s.Open || len(s.Networks) != 1 || s.Networks[0].Swarm == "" || s.Networks[0].Founder != (i == 0) {
			t.Errorf("%s is in %+v", n.Name, s.Networks)
		}
	}
	c := newClient(t, net)
	first := net.Nodes()[0]
	out, errOut, code := c.run("peers", "--home", first.Dir, "--json")
	var peers []api.Peer
	if err := json.Unmarshal([]byte(out), &peers); err != nil || code != 0 || len(peers) < 2 {
		t.Fatalf("peers: exit %d, %v\n%s%s", code, err, out, errOut)
	}
	for _, p := range peers {
		if p.RTTMs > 0 && p.RTTMs < float64(far.Milliseconds()) {
			t.Errorf("%s is %v ms from %s", p.Peer, p.RTTMs, first.Peer)
		}
	}
	if r := c.prompt("--home", first.Dir, "--max-tokens", "8", "Once upon a time"); r.Text == "" {
		t.Errorf("no answer: %+v", r)
	}
}
