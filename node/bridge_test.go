package node_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/protocol"
)

// bridgeTo makes a bridge between the swarms of two running nodes, as their owners would.
func bridgeTo(t *testing.T, lender, guest *node.Node, req api.NewBridgeRequest) (*api.Bridge, error) {
	t.Helper()
	ask, err := guest.Client().AskBridge(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	req.To = ask.Request
	there, err := lender.Client().NewBridge(t.Context(), "", req)
	if err != nil {
		return nil, err
	}
	return guest.Client().AcceptBridge(t.Context(), api.AcceptBridgeRequest{Code: there.Code})
}

// Over a bridge, a client of one swarm is answered by a node of another, straight, within
// the record's models and tokens, and until it is revoked. It sees nothing else of it.
func TestAJointCloud(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	inLab, inOffice, inClub := bookOf(t, "anna"), bookOf(t, "ben"), bookOf(t, "cleo")
	lab, err := inLab.New("lab", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = inOffice.New("office", ""); err != nil {
		t.Fatal(err)
	}
	if _, err = inClub.New("club", ""); err != nil {
		t.Fatal(err)
	}
	server, _ := start(t, node.Config{Swarms: inLab, Private: true, Serve: []node.ServeSpec{{Model: "tinytales"}}}, true)
	client, _ := start(t, node.Config{Swarms: inOffice, Private: true, Client: true}, false)
	other, _ := start(t, node.Config{Swarms: inClub, Private: true, Client: true}, false)
	if _, err := bridgeTo(t, server, client, api.NewBridgeRequest{Models: []string{"no such model"}}); err == nil {
		t.Error("a model that nobody knows is lent")
	}
	bridge, err := bridgeTo(t, server, client, api.NewBridgeRequest{Models: []string{"tinytales"}})
	if err != nil || !bridge.Running || bridge.Other != "lab" || bridge.Lends || len(bridge.Models) != 1 {
		t.Fatal(bridge, err)
	}
	if _, err := bridgeTo(t, server, other, api.NewBridgeRequest{Models: []string{protocol.ModelKey(cid.Undef).String()}}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node.Node{client, other} {
		until(t, "the guest is connected", func() bool { p, err := n.Client().Peers(t.Context()); return err == nil && len(p) > 0 })
	}
	req := api.GenerateRequest{Model: "tinytales", Raw: true, Prompt: "Once upon a time", MaxTokens: 40, IgnoreEOS: true}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	generate := func(n *node.Node, each func(int)) (tokens int, route []api.Hop, err error) {
		err = n.Generator().Generate(ctx, &req, func(e api.Event) error {
			if e.Start != nil {
				route = e.Start.Route
			}
			if e.Token != nil {
				tokens++
				each(tokens)
			}
			return nil
		})
		return tokens, route, err
	}
	tokens, route, err := generate(client, func(int) {})
	if err != nil || tokens != 40 || len(route) != 1 || route[0].Swarm != bridge.ID || route[0].SwarmName != "lab" {
		t.Errorf("%d tokens over %+v: %v", tokens, route, err)
	}
	st, err := server.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if peers, err := client.Client().Peers(t.Context()); err != nil || len(peers) != 1 || peers[0].SwarmName != "lab" || peers[0].Peer == st.Peer || peers[0].Name != "" {
		t.Errorf("the guest's peers are %+v, %v", peers, err)
	}
	if n := st.Networks; len(n) != 3 || n[1].Bridge != "lends" || n[0].Peers != 0 || n[0].Swarm != lab.ID().String() {
		t.Errorf("the lender is in %+v", n)
	}
	if _, _, err := generate(other, func(int) {}); err == nil {
		t.Error("a guest uses a model that it is not lent")
	}
	if list, err := server.Client().Bridges(t.Context(), "lab"); err != nil || len(list) != 2 || list[0].UsedToday+list[1].UsedToday < 40 {
		t.Errorf("%v: the bridges are %+v", err, list)
	}

	used := func() float64 {
		list, err := server.Client().Bridges(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range list {
			if b.Other == "office" {
				return b.UsedToday
			}
		}
		return 0
	}
	limit := uint64(used()) + 20
	if _, err := bridgeTo(t, server, client, api.NewBridgeRequest{Models: []string{"tinytales"}, TokensPerDay: limit}); err != nil {
		t.Fatal(err)
	}
	req.MaxTokens = 200
	if n, _, err := generate(client, func(int) {}); err == nil || n > 20 || !strings.Contains(err.Error(), "tokens") {
		t.Errorf("%d tokens beyond what is lent: %v", n, err)
	}
	if now := used(); now < float64(limit) || now > float64(limit)+10 {
		t.Errorf("%v tokens were used of %d", now, limit)
	}

	if _, err := bridgeTo(t, server, client, api.NewBridgeRequest{Models: []string{"tinytales"}}); err != nil {
		t.Fatal(err)
	}
	// It is revoked in the middle of an answer. The client would look for another way on.
	req.MaxTokens = 400
	ended := make(chan error, 1)
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, _, err := generate(client, func(n int) {
		if n != 5 {
			return
		}
		go func() {
			_, err := server.Client().RevokeBridge(t.Context(), "", api.RevokeBridgeRequest{Bridge: "office"})
			for busy := 1; err == nil && busy > 0; time.Sleep(5 * time.Millisecond) {
				var st *api.Status
				if st, err = server.Client().Status(ctx); err == nil {
					busy = st.Serving[0].Sessions
				}
			}
			ended <- err
			cancel()
		}()
	})
	if n < 5 || n >= req.MaxTokens || err == nil {
		t.Errorf("an answer goes on after the bridge was revoked: %d tokens, %v", n, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	until(t, "the guest is cut off", func() bool { p, err := client.Client().Peers(t.Context()); return err == nil && len(p) == 0 })
}
