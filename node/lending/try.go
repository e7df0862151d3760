package lending

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol/member"
)

// Known are the private swarms of a home, running or not.
type Known interface {
	Swarms() []api.Swarm
	Members(swarm string) ([]api.Member, error)
}

// Owner answers the owner's questions about rules, for the API and the command line. It is
// safe for concurrent use.
type Owner struct {
	Desk  *Desk
	Known Known // nil: the home is in no swarm

	// Find returns the names and the ID of a model by what a person calls it; nothing: it
	// is not known here, and is taken by that name.
	Find func(model string) []string
}

var _ api.Policies = Owner{}

// Policy implements api.Policies.
func (o Owner) Policy(context.Context) (*api.Policy, error) {
	r := o.Desk.rules.Load()
	out := &api.Policy{}
	for _, rule := range r.Lend.Rules() {
		out.Lend = append(out.Lend, ruleOf(&rule))
	}
	out.Use = r.Use.Rules()
	return out, nil
}

func ruleOf(r *policy.Rule) api.LendRule {
	g := r.Grant
	out := api.LendRule{
		Text: r.Text, Default: r.Default, Nothing: g.Nothing, Cap: g.Cap, Models: g.Models,
		Context: g.Context, Sessions: g.Sessions, Tokens: g.Tokens, Hours: g.Hours.String(),
	}
	if !g.Nothing {
		out.Share = g.Share
		if out.Share == 0 {
			out.Share = 1
		}
	}
	if g.Tokens > 0 {
		out.Per = policy.PeriodName(g.Per)
	}
	return out
}

// TestPolicy implements api.Policies.
func (o Owner) TestPolicy(_ context.Context, t api.PolicyTest) (*api.PolicyVerdict, error) {
	who, name, err := o.somebody(t.As)
	if err != nil {
		return nil, err
	}
	ask := policy.Ask{Now: o.Desk.cfg.Now()}
	if t.Model != "" {
		if ask.Model = o.Find(t.Model); len(ask.Model) == 0 {
			ask.Model = []string{t.Model}
		}
	}
	if t.At != nil {
		ask.Now = t.At.Local()
	}
	if p, err := peer.Decode(who.ID); err == nil {
		ask.Tokens = o.Desk.used(who, p)
	}
	v := o.Desk.decide(who, ask)
	out := &api.PolicyVerdict{As: name, Allowed: v.Allowed, Part: v.Part, Why: v.Why}
	if v.Rule != nil {
		r := ruleOf(v.Rule)
		out.Rule = &r
		if t.Model == "" && len(v.Rule.Grant.Models) > 0 && v.Allowed {
			out.Why += ", for the models " + strings.Join(v.Rule.Grant.Models, " ")
		}
	}
	scope, rule := o.Desk.rules.Load().Use.Scope(ask.Model...)
	out.Use = api.UseVerdict{Allowed: scope.Allows(who), Scope: scope.String(), Rule: rule}
	return out, nil
}

// used returns what a peer has used of a period's tokens.
func (d *Desk) used(who policy.Peer, p peer.ID) func(time.Duration) int64 {
	name, now := d.accountOf(who, p), d.cfg.Now()
	return func(per time.Duration) int64 {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.accounts[name].meter(per, now).used
	}
}

// somebody returns the peer that a person means, and what to call it.
func (o Owner) somebody(as string) (who policy.Peer, name string, err error) {
	as = strings.TrimSpace(as)
	words := strings.Fields(as)
	switch low := strings.ToLower(as); {
	case as == "":
		return who, "", asWhom("say as whom to test")
	case low == "strangers" || low == "stranger":
		return who, "strangers", nil
	case low == "trusted":
		return policy.Peer{Trusted: true}, "trusted peers", nil
	case low == "members":
		return policy.Peer{SwarmID: "a swarm without rules", Roles: member.Use}, "members", nil
	case low == "guests":
		return policy.Peer{Guest: &policy.Guest{}}, "guests", nil
	case len(words) > 2 && strings.EqualFold(words[0], "guests") && strings.EqualFold(words[1], "of"):
		of := strings.Join(words[2:], " ")
		return policy.Peer{Guest: &policy.Guest{Swarm: of, SwarmID: strings.ToLower(of)}}, "guests of " + of, nil
	}
	if id, err := peer.Decode(as); err == nil {
		return o.peer(id), as, nil
	}
	return o.named(as)
}

// peer returns what the rules go by of a peer: as a member of the swarm in which it is
// known, or else of the open network.
func (o Owner) peer(id peer.ID) policy.Peer {
	for _, s := range o.swarms() {
		for _, m := range o.members(s) {
			if m.Peer == id.String() {
				return o.memberOf(s, m)
			}
		}
	}
	return o.Desk.who("", id)
}

// named returns the peer or the members that a name stands for: a swarm, a swarm and a
// role after a slash, or a member's machine.
func (o Owner) named(as string) (who policy.Peer, name string, err error) {
	swarm, role, cut := strings.Cut(as, "/")
	roles := member.Use
	if cut {
		if roles, err = member.ParseRoles(role); err != nil {
			return who, "", asWhom(err.Error())
		}
	}
	var found []policy.Peer
	for _, s := range o.swarms() {
		if strings.EqualFold(s.Name, swarm) || s.ID == strings.ToLower(swarm) {
			text := fmt.Sprintf("members of swarm %s with role %s", s.Name, roles)
			return policy.Peer{Swarm: s.Name, SwarmID: s.ID, Roles: roles}, text, nil
		}
		for _, m := range o.members(s) {
			if strings.EqualFold(m.Name, as) || len(as) >= 6 && strings.HasSuffix(m.Peer, as) {
				found = append(found, o.memberOf(s, m))
				name = m.Peer
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], name, nil
	case 0:
		return who, "", asWhom(fmt.Sprintf("%q is no peer ID, and no swarm or member is known here by that name", as))
	}
	return who, "", asWhom(fmt.Sprintf("%q names %d members; use a peer ID", as, len(found)))
}

func asWhom(why string) error {
	return &api.Error{Kind: api.BadInput, Param: "as", Message: why, Err: remedy.For(fmt.Errorf("%s", why), remedy.AsWhom)}
}

func (o Owner) swarms() []api.Swarm {
	if o.Known == nil {
		return nil
	}
	return o.Known.Swarms()
}

// members returns the members of a swarm that are known; none if they cannot be read.
func (o Owner) members(s api.Swarm) []api.Member {
	list, err := o.Known.Members(s.ID)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(list, func(m api.Member) bool { return m.Revoked })
}

func (o Owner) memberOf(s api.Swarm, m api.Member) policy.Peer {
	roles, err := member.ParseRoles(strings.Join(m.Roles, ","))
	if err != nil { // none
		roles = 0
	}
	who := policy.Peer{ID: m.Peer, Swarm: s.Name, SwarmID: s.ID, Roles: roles, Own: m.Self}
	if id, err := peer.Decode(m.Peer); err == nil {
		who.Trusted = o.Desk.cfg.Trusted(id)
	}
	return who
}
