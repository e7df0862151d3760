package node_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/swarm"
)

// bookOf opens the swarms of a home of its own.
func bookOf(t *testing.T, machine string) *swarm.Book {
	t.Helper()
	b, broken, err := swarm.Open(swarm.Config{Home: t.TempDir(), Machine: machine})
	if err != nil || len(broken) > 0 {
		t.Fatal(err, broken)
	}
	return b
}

// enter has a machine join another's swarm by a code, as shoal join does.
func enter(t *testing.T, of *swarm.Book, name string, b *swarm.Book) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	inv, err := (swarm.Owner{Book: of}).Invite(ctx, name, api.InviteRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Join(ctx, inv.Code); err != nil {
		t.Fatal(err)
	}
}

// One node is in two swarms, and lets only one of them use its model. A client in that one
// has its prompts answered; one in the other is told of no model. Then the node leaves the
// second swarm and founds a third while it answers the first's client.
func TestTwoSwarms(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	both := bookOf(t, "both")
	a, err := both.New("a", "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := both.New("b", "")
	if err != nil {
		t.Fatal(err)
	}
	server, _ := start(t, node.Config{
		Swarms: both, Private: true, Serve: []node.ServeSpec{{Model: "tinytales"}},
		May: func(in string, _ cid.Cid) bool { return in != b.ID().String() },
	}, true)
	inA, inB := bookOf(t, "client of a"), bookOf(t, "client of b")
	enter(t, both, "a", inA)
	enter(t, both, "b", inB)
	clientA, _ := start(t, node.Config{Swarms: inA, Private: true, Client: true}, false)
	clientB, _ := start(t, node.Config{Swarms: inB, Private: true, Client: true}, false)
	for _, c := range []*node.Node{clientA, clientB} {
		if err := c.WaitPeers(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	req := api.GenerateRequest{Model: "tinytales", Raw: true, Prompt: "Once upon a time", MaxTokens: 40}
	left := make(chan error, 1)
	tokens, swarms := 0, map[string]bool{}
	err = clientA.Generator().Generate(t.Context(), &req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			for _, h := range e.Start.Route {
				swarms[h.Swarm] = true
			}
		case e.Token != nil:
			if tokens++; tokens == 5 { // in the middle of the answer
				go func() {
					_, err := both.New("c", "")
					if err == nil {
						err = both.Leave(b, true)
					}
					left <- err
				}()
			}
		case e.Repair != nil:
			t.Error("the session was touched: ", e.Repair.Recovery.Why)
		}
		return nil
	})
	if err != nil || tokens != 40 || len(swarms) != 1 || !swarms[a.ID().String()] {
		t.Errorf("the client in the swarm got %d tokens over swarms %v: %v", tokens, swarms, err)
	}
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	err = clientB.Generator().Generate(t.Context(), &req, func(api.Event) error { return nil })
	if err == nil {
		t.Error("the client in the other swarm was answered")
	}
	st, err := server.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range st.Networks {
		names = append(names, n.Name)
	}
	if got := strings.Join(names, " "); got != "a c" {
		t.Errorf("the node is in %s", got)
	}
	if peers, err := server.Client().Peers(t.Context()); err != nil || len(peers) != 1 || peers[0].SwarmName != "a" {
		t.Errorf("the peers are %+v, %v", peers, err)
	}
}
