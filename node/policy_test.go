package node_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/swarm"
)

// lends are rules of lending.
func lends(t *testing.T, rules ...string) policy.Policy {
	t.Helper()
	p, err := policy.Parse(rules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// enterAs has a machine join another's swarm with roles of its own.
func enterAs(t *testing.T, of *swarm.Book, name string, b *swarm.Book, roles ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	inv, err := (swarm.Owner{Book: of}).Invite(ctx, name, api.InviteRequest{Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Join(ctx, inv.Code); err != nil {
		t.Fatal(err)
	}
}

// A node of a swarm lends to members with one role and not to those with another, whatever
// the rules say of everybody else, and always answers its owner.
func TestRuleOfARole(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	home, serves, uses := bookOf(t, "server"), bookOf(t, "serves"), bookOf(t, "uses")
	if _, err := home.New("lab", ""); err != nil {
		t.Fatal(err)
	}
	server, _ := start(t, node.Config{
		Swarms: home, Private: true, Serve: []node.ServeSpec{{Model: "tinytales"}},
		Policy: lends(t, "anybody: nothing", "swarm lab: context 1", "swarm lab role serve: share 50%; sessions 4"),
	}, true)
	enterAs(t, home, "lab", serves, "use", "serve")
	enterAs(t, home, "lab", uses, "use")
	one, _ := start(t, node.Config{Swarms: serves, Private: true, Client: true}, false)
	other, _ := start(t, node.Config{Swarms: uses, Private: true, Client: true}, false)
	for _, n := range []*node.Node{one, other} {
		if err := n.WaitPeers(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want, _, _ := ask(t, server, request("Once upon a time", 0, 20)) // its owner, about whom is no rule
	if got, _, _ := ask(t, one, request("Once upon a time", 0, 20)); len(got) != 20 || !slices.Equal(got, want) {
		t.Errorf("a member with the role: %v, want %v", got, want)
	}
	req := request("Once upon a time", 0, 20)
	err := other.Client().Generate(t.Context(), &req, func(api.Event) error { return nil })
	if !errors.Is(err, &api.Error{Kind: api.Refused}) || !strings.Contains(err.Error(), "1 tokens of context") {
		t.Errorf("a member without the role: %v", err)
	}
	v, err := server.Client().TestPolicy(t.Context(), api.PolicyTest{As: "lab/use", Model: "tinytales"})
	if err != nil || !v.Allowed || v.Rule == nil || v.Rule.Text != "swarm lab: context 1" {
		t.Errorf("the rule that decides: %+v, %v", v, err)
	}
	if v, err = server.Client().TestPolicy(t.Context(), api.PolicyTest{As: "strangers"}); err != nil || v.Allowed || v.Part != policy.Nothing {
		t.Errorf("of strangers: %+v, %v", v, err)
	}
	// A changed rule counts at once.
	if err := server.Adjust(node.Config{Lend: lend.Rules{OnBattery: true}, Policy: lends(t, "swarm lab role serve: context 1")}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := ask(t, other, req); !slices.Equal(got, want) {
		t.Errorf("once the rules are turned round: %v", got)
	}
	if err := one.Client().Generate(t.Context(), &req, func(api.Event) error { return nil }); !errors.Is(err, &api.Error{Kind: api.Refused}) {
		t.Errorf("a member with the role then: %v", err)
	}
	if err := server.Adjust(node.Config{Lend: lend.Rules{OnBattery: true}, Policy: lends(t, "anybody: nothing")}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := ask(t, server, req); !slices.Equal(got, want) {
		t.Errorf("its owner, where anybody gets nothing: %v", got)
	}
	until(t, "nobody is offered what nobody may have", func() bool {
		h, err := one.Client().Health(t.Context())
		return err == nil && !slices.ContainsFunc(h.Coverage, func(c api.Coverage) bool { return c.Nodes > 0 })
	})
}

// A session that a changed rule does not allow any more goes on at another node, and its
// answer is the same; and the planner keeps prompts to those whom the rules of use allow.
func TestRulesChangeInAnAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	a, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: "tinytales"}}}, true)
	b, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tinytales"}}}, true)
	c, _ := start(t, node.Config{Bootstrap: addrs, Client: true}, false)
	if err := c.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "both are known", func() bool {
		h, err := c.Client().Health(t.Context())
		return err == nil && len(h.Coverage) > 0 && h.Coverage[0].Nodes == 2
	})
	req := request("Once upon a time", 0, 100)
	want, _, _ := ask(t, a, req)
	nothing := node.Config{Lend: lend.Rules{OnBattery: true}, Policy: lends(t, "strangers: nothing")}
	var got []int32
	var first *node.Node
	err := c.Generator().Generate(t.Context(), &req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			st, err := a.Client().Status(t.Context())
			if err != nil {
				return err
			}
			if first = b; e.Start.Route[0].Peer == st.Peer {
				first = a
			}
		case e.Token != nil:
			if got = append(got, e.Token.ID); len(got) == 3 {
				return first.Adjust(nothing)
			}
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d tokens, want %d: %v", len(got), len(want), err)
	}
	if err := errors.Join(a.Adjust(node.Config{Lend: lend.Rules{OnBattery: true}}), b.Adjust(node.Config{Lend: lend.Rules{OnBattery: true}})); err != nil {
		t.Fatal(err)
	}
	use := func(rule string) policy.Use {
		u, err := policy.ParseUse([]string{rule})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	if err := c.Adjust(node.Config{Client: true, Use: use("swarm")}); err != nil {
		t.Fatal(err)
	}
	err = c.Client().Generate(t.Context(), &req, func(api.Event) error { return nil })
	if !errors.Is(err, &api.Error{Kind: api.NoRoute}) || !strings.Contains(err.Error(), `the rule "swarm"`) {
		t.Errorf("through strangers, whom a rule of use forbids: %v", err)
	}
	if err := c.Adjust(node.Config{Client: true, Use: use("other*: swarm")}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := ask(t, c, req); !slices.Equal(got, want) {
		t.Errorf("by a rule about another model: %v", got)
	}
}
