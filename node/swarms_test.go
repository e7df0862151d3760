package node_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
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

// Whoever has a key for answers sees the open network on the page. The node's swarm, its
// members and their models are for the owner, and for programs with the token.
func TestTheViewOfASwarm(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	theirs, mine := bookOf(t, "a server"), bookOf(t, "mine")
	if _, err := theirs.New("hidden", ""); err != nil {
		t.Fatal(err)
	}
	_, open := start(t, node.Config{Client: true}, false)
	server, _ := start(t, node.Config{Swarms: theirs, Private: true, Serve: []node.ServeSpec{{Model: "tinytales"}}}, true)
	enter(t, theirs, "hidden", mine)
	n, _ := start(t, node.Config{Swarms: mine, Client: true, APIKey: "a key", Bootstrap: open}, false)
	st, err := server.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	member, id := st.Networks[0].Peer, st.Networks[0].Swarm
	sees := func(secret string) (string, *api.View) {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://127.0.0.1/shoal/v1/view", nil)
		r.Header.Set("Authorization", "Bearer "+secret)
		n.Handler().ServeHTTP(w, r)
		v, body := &api.View{}, w.Body.String()
		if err := json.Unmarshal([]byte(body), v); err != nil || w.Code != http.StatusOK {
			t.Fatal(w.Code, err, body)
		}
		return body, v
	}
	until(t, "the owner sees both networks, and the member's model", func() bool {
		body, v := sees(n.Token())
		return len(v.Networks) == 2 && len(v.Peers) == 2 && len(v.Models) == 1 && len(v.Links) > 0 && strings.Contains(body, member)
	})
	body, v := sees("a key")
	for what, secret := range map[string]string{"the swarm's name": "hidden", "its ID": id, "a member": member, "a member's model": "tinytales"} {
		if strings.Contains(body, secret) {
			t.Errorf("a caller with a key sees %s: %s", what, body)
		}
	}
	if len(v.Networks) != 1 || len(v.Peers) != 1 {
		t.Errorf("a caller with a key sees %d networks and %d peers of the open network", len(v.Networks), len(v.Peers))
	}
}
