package swarm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol/member"
)

func describeBridge(b *Bridge) api.Bridge { return describeInfo(b.s, b.Info()) }

func describeInfo(s *Swarm, i BridgeInfo) api.Bridge {
	v := api.Bridge{
		ID: i.ID, Swarm: s.Name(), SwarmID: s.ID().String(), Other: i.Name, OtherID: i.Other.String(), Lends: i.Lends, Roles: rolesOf(i.Record.Roles), Models: []string{},
		TokensPerDay: i.Record.TokensPerDay, UsedToday: i.Used, From: i.Record.NotBefore.UTC(), Until: i.Record.NotAfter.UTC(), Running: i.Running, Connected: i.Connected,
	}
	for _, m := range i.Record.Models {
		v.Models = append(v.Models, m.String())
	}
	if i.Why != nil {
		v.Closed = i.Why.Error()
	}
	return v
}

// Bridges implements api.Swarms.
func (o Owner) Bridges(swarm string) ([]api.Bridge, error) {
	if swarm != "" {
		if _, err := o.pick(swarm); err != nil {
			return nil, err
		}
	}
	out := []api.Bridge{}
	for _, b := range o.Book.pickBridges(swarm) {
		out = append(out, describeBridge(b))
	}
	return out, nil
}

// AskBridge implements api.Swarms.
func (o Owner) AskBridge(swarm string) (*api.BridgeRequest, error) {
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	return &api.BridgeRequest{Request: s.BridgeAsk(), Swarm: s.Name(), ID: s.ID().String()}, nil
}

// NewBridge implements api.Swarms. Models are CIDs here.
func (o Owner) NewBridge(swarm string, req api.NewBridgeRequest) (*api.Bridge, error) {
	s, err := o.pick(swarm)
	if err != nil {
		return nil, err
	}
	terms := BridgeTerms{Roles: member.Use, TokensPerDay: req.TokensPerDay, Life: member.Life}
	if len(req.Roles) > 0 {
		if terms.Roles, err = member.ParseRoles(strings.Join(req.Roles, ",")); err != nil {
			return nil, &api.Error{Kind: api.BadInput, Param: "roles", Message: err.Error()}
		}
	}
	if req.For != 0 {
		terms.Life = time.Duration(min(req.For, 1e9) * float64(time.Second))
	}
	if terms.Models, err = bridgeModels(req.Models); err != nil {
		return nil, err
	}
	b, code, err := s.Lend(req.To, terms, req.RootFile)
	if err != nil {
		return nil, failure(err)
	}
	v := describeBridge(b)
	v.Code = code
	return &v, nil
}

// bridgeModels parses CIDs; none are all models.
func bridgeModels(list []string) (out []cid.Cid, err error) {
	switch {
	case len(list) == 0:
		return nil, &api.Error{Kind: api.BadInput, Param: "models", Message: "no models are named: name those that guests may use, or " + api.AllModels}
	case slices.Contains(list, api.AllModels) && len(list) > 1:
		return nil, &api.Error{Kind: api.BadInput, Param: "models", Message: api.AllModels + " stands for every model, so it is named alone"}
	case list[0] == api.AllModels:
		return nil, nil
	}
	for _, s := range list {
		m, err := cid.Decode(s)
		if err != nil {
			return nil, &api.Error{Kind: api.BadInput, Param: "models", Message: fmt.Sprintf("%q is no model's CID; names are known to a running node alone", s)}
		}
		out = append(out, m)
	}
	return out, nil
}

// AcceptBridge implements api.Swarms.
func (o Owner) AcceptBridge(req api.AcceptBridgeRequest) (*api.Bridge, error) {
	b, err := o.Book.AcceptBridge(req.Code, req.RootFile)
	if err != nil {
		return nil, failure(err)
	}
	v := describeBridge(b)
	return &v, nil
}

// RevokeBridge implements api.Swarms.
func (o Owner) RevokeBridge(swarm string, req api.RevokeBridgeRequest) (*api.Bridge, error) {
	s, err := o.bridged(swarm, req.Bridge)
	if err != nil {
		return nil, err
	}
	info, err := s.EndBridge(req.Bridge, req.RootFile)
	if errors.Is(err, ErrAmbiguous) {
		return nil, remedy.For(api.Errorf(api.BadInput, "%w", err), remedy.ListBridges)
	}
	if err != nil {
		return nil, failure(err)
	}
	v := describeInfo(s, info)
	return &v, nil
}

// bridged is pick, but without a name also the only swarm that has a bridge which is called so.
func (o Owner) bridged(swarm, who string) (*Swarm, error) {
	if swarm == "" {
		var found []*Swarm
		for _, b := range o.Book.pickBridges("") {
			if b.called(who) && !slices.Contains(found, b.s) {
				found = append(found, b.s)
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return o.pick(swarm)
}
