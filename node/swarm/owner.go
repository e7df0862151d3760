package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol/member"
)

// Owner is the swarms of a home as their owner deals with them, through the API and from
// the command line. It implements api.Swarms.
type Owner struct{ Book *Book }

// Owned returns the swarms of a book for the API; nil if there is no book.
func Owned(b *Book) api.Swarms {
	if b == nil {
		return nil
	}
	return Owner{b}
}

// kinds are the kinds of this package's errors for the API, and their remedies.
var kinds = []struct {
	err    error
	kind   api.Kind
	remedy remedy.Kind
}{
	{ErrNone, api.NotFound, remedy.FoundSwarm},
	{ErrUnknown, api.NotFound, ""},
	{ErrNoMember, api.NotFound, remedy.ListMembers},
	{ErrUnreachable, api.NoRoute, ""},
	{ErrSpent, api.Refused, remedy.NewCode},
	{ErrExpired, api.Refused, remedy.NewCode},
	{ErrWrongSecret, api.Refused, remedy.NewCode},
	{ErrRemoved, api.Refused, ""},
	{ErrBusy, api.Refused, ""},
	{ErrInviter, api.Refused, ""},
	{ErrMayNot, api.Refused, ""},
	{ErrNotOurs, api.NotFound, ""},
	{ErrFounder, api.Refused, remedy.LeaveFounder},
	{ErrLastInviter, api.Refused, remedy.LeaveLast},
	{ErrCode, api.BadInput, remedy.NewCode},
	{ErrAlready, api.BadInput, ""},
	{ErrJoining, api.Refused, ""},
	{ErrDamaged, api.Refused, ""},
	{ErrRootHere, api.Refused, ""}, // it has a remedy
	{ErrInvite, api.BadInput, ""},
	{ErrName, api.BadInput, ""},
	{ErrRootFile, api.BadInput, ""},
	{ErrSelf, api.BadInput, ""},
	{ErrNoBridge, api.NotFound, remedy.ListBridges},
	{ErrBridgeText, api.BadInput, remedy.AskBridge},
	{ErrForAnother, api.BadInput, remedy.AskBridge},
	{ErrBridgeRoot, api.Refused, remedy.BridgeRoot},
	{ErrBridge, api.BadInput, ""},
}

// failure gives an error its kind and remedy.
func failure(err error) error {
	for _, k := range kinds {
		if !errors.Is(err, k.err) {
			continue
		}
		out := error(api.Errorf(k.kind, "%w", err))
		if k.remedy != "" {
			out = remedy.For(out, k.remedy)
		}
		return out
	}
	return err
}

// pick is Book.Pick with an error for the API.
func (o Owner) pick(name string) (*Swarm, error) {
	s, err := o.Book.Pick(name)
	if errors.Is(err, ErrAmbiguous) {
		return nil, remedy.For(api.Errorf(api.BadInput, "%w", err), remedy.NameSwarm)
	}
	return s, failure(err)
}

func rolesOf(r member.Roles) []string { return strings.Split(r.String(), ",") }

func describe(s *Swarm) api.Swarm {
	st, c := s.State(), s.Certificate()
	v := api.Swarm{
		ID: s.ID().String(), Name: s.Name(), Peer: s.Self().String(), Roles: rolesOf(c.Roles), Founder: s.Founder(), Expires: c.Expires().UTC(),
		Running: st.Running, Members: st.Members, Connected: st.Connected, Codes: st.Codes, Revoked: st.Revoked, Stale: st.Stale,
	}
	if !st.Listed.IsZero() {
		at := st.Listed.UTC()
		v.Listed = &at
	}
	return v
}

func describeMember(m Member) api.Member {
	v := api.Member{
		Peer: m.Peer.String(), Name: m.Name, Roles: rolesOf(m.Roles), Expires: m.Expires.UTC(),
		Connected: m.Connected, Self: m.Self, Invited: m.Invited, Revoked: m.Revoked,
	}
	if !m.Seen.IsZero() {
		at := m.Seen.UTC()
		v.Seen = &at
	}
	return v
}

func describeMembers(list []Member) []api.Member {
	out := make([]api.Member, len(list))
	for i, m := range list {
		out[i] = describeMember(m)
	}
	return out
}

// Swarms implements api.Swarms.
func (o Owner) Swarms() []api.Swarm {
	out := []api.Swarm{}
	for _, s := range o.Book.Swarms() {
		out = append(out, describe(s))
	}
	return out
}

// done describes a swarm that was made or joined. An error that came after that is a
// warning.
func done(s *Swarm, err error) (*api.Swarm, error) {
	if s == nil {
		return nil, failure(err)
	}
	v := describe(s)
	if err != nil {
		v.Warning = err.Error()
	}
	return &v, nil
}

// NewSwarm implements api.Swarms.
func (o Owner) NewSwarm(req api.NewSwarmRequest) (*api.Swarm, error) {
	s, err := o.Book.New(req.Name, req.RootFile)
	v, err := done(s, err)
	if err == nil {
		v.RootFile = req.RootFile
	}
	return v, err
}

// JoinSwarm implements api.Swarms.
func (o Owner) JoinSwarm(ctx context.Context, code string) (*api.Swarm, error) {
	return done(o.Book.Join(ctx, code))
}

// Invite implements api.Swarms.
func (o Owner) Invite(ctx context.Context, swarm string, req api.InviteRequest) (*api.Invitation, error) {
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	terms := Terms{Roles: member.Use | member.Serve, Uses: 1, Life: 24 * time.Hour}
	if len(req.Roles) > 0 {
		if terms.Roles, err = member.ParseRoles(strings.Join(req.Roles, ",")); err != nil {
			return nil, &api.Error{Kind: api.BadInput, Param: "roles", Message: err.Error()}
		}
	}
	if req.Uses != 0 {
		terms.Uses = req.Uses
	}
	if req.For != 0 {
		terms.Life = time.Duration(min(req.For, 1e9) * float64(time.Second))
	}
	t, err := s.Invite(ctx, terms)
	if err != nil {
		return nil, failure(err)
	}
	v := &api.Invitation{
		Code: t.String(), Swarm: s.Name(), ID: s.ID().String(), Roles: rolesOf(terms.Roles), Uses: terms.Uses, Expires: t.Expires.UTC(),
		Addrs: []string{}, Running: s.attached() != nil,
	}
	for _, a := range t.Addrs {
		v.Addrs = append(v.Addrs, a.String())
	}
	return v, nil
}

// Members implements api.Swarms.
func (o Owner) Members(swarm string) ([]api.Member, error) {
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	return describeMembers(s.Members()), nil
}

// Revoke implements api.Swarms.
func (o Owner) Revoke(swarm, who string) (*api.Revoked, error) {
	if t, err := member.ParseTicket(who); err == nil {
		return o.withdraw(swarm, t)
	} else if len(who) > maxName { // longer than names and peer IDs: a code with a slip, which no message may repeat
		return nil, failure(fmt.Errorf("%w: %w", ErrCode, err))
	}
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	m, also, err := s.Revoke(who)
	if errors.Is(err, ErrAmbiguous) {
		return nil, remedy.For(api.Errorf(api.BadInput, "%w", err), remedy.ListMembers)
	}
	if err != nil {
		return nil, failure(err)
	}
	return &api.Revoked{Member: describeMember(m), Also: describeMembers(also)}, nil
}

// withdraw ends a code.
func (o Owner) withdraw(swarm string, t *member.Ticket) (*api.Revoked, error) {
	s, err := o.pick(cmp.Or(swarm, t.Swarm.String()))
	if err != nil {
		return nil, err
	}
	if err := s.Withdraw(t); err != nil {
		return nil, failure(err)
	}
	return &api.Revoked{Code: t.Short(), Also: []api.Member{}}, nil
}

// RenewSwarm implements api.Swarms.
func (o Owner) RenewSwarm(swarm, rootFile string) (*api.Swarm, error) {
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	if err := s.RenewWith(rootFile); err != nil {
		return nil, api.Errorf(api.BadInput, "%w", err)
	}
	v := describe(s)
	return &v, nil
}

// LeaveSwarm implements api.Swarms.
func (o Owner) LeaveSwarm(swarm string, force bool) (*api.Swarm, error) {
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	v := describe(s)
	if err := o.Book.Leave(s, force); err != nil {
		return nil, failure(fmt.Errorf("leaving %s: %w", s.Name(), err))
	}
	v.Running, v.Connected = false, 0
	return &v, nil
}
