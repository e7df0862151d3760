package report

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/survey"
)

// Status returns how the node is. There is never an error.
func (r *Reporter) Status(context.Context) (*api.Status, error) {
	passed, total, limits, word, up := r.cfg.Exchange.Stats(), r.cfg.Exchange.Total(), r.cfg.Limits(), r.cfg.Word(), time.Since(r.started)
	snap, networks := r.cfg.Serving(), r.networks(true)
	return &api.Status{
		Ahead: r.cfg.Ahead(),
		Reach: string(r.cfg.Network.Health().Reach),
		Peer:  r.cfg.Network.Self().String(), Version: r.cfg.Version, Addrs: r.cfg.Network.FullAddrs(), Home: r.cfg.Home, Name: r.cfg.Name, Uptime: up, UptimeS: int64(up.Seconds()),
		Peers: r.cfg.Network.Sizes().Peers, Networks: networks, Open: isOpen(networks), Light: r.cfg.Light, Memory: limits.Memory, Serving: servingOf(snap), Allocated: r.allocated(),
		Quota: limits.Quota, QuotaUsed: r.cfg.Store.Unpinned(), Given: passed.Given, Taken: passed.Taken, GivenAll: total.Given, TakenAll: total.Taken,
		Up: limits.Up, Down: limits.Down, API: word.API, URLs: word.URLs, Fingerprint: word.Fingerprint, APIOpen: limits.APIOpen, APIClosed: limits.APIClosed, Warnings: r.warnings(&snap),
	}, nil
}

// networks describes the networks that the node is in. One in which nobody else can be is
// left out: it has no name.
func (r *Reporter) networks(addrs bool) []api.Network {
	out, known := []api.Network{}, map[string]api.Swarm{}
	if r.cfg.Swarms != nil {
		for _, s := range r.cfg.Swarms.Swarms() {
			known[s.ID] = s
		}
	}
	for _, s := range r.cfg.Network.Swarms() {
		if s.ID != "" && s.Name == "" {
			continue
		}
		of := known[s.ID]
		v := api.Network{Swarm: s.ID, Name: cmp.Or(s.Name, "open"), Peer: s.Self.String(), Peers: s.Peers, Members: of.Members, Founder: of.Founder, Reach: string(s.Reach)}
		if addrs {
			v.Addrs = s.Addrs
		}
		switch {
		case s.Lends:
			v.Bridge = "lends"
		case s.Bridge != nil:
			v.Bridge = "uses"
		}
		out = append(out, v)
	}
	return out
}

// isOpen reports whether strangers are in one of the networks.
func isOpen(list []api.Network) bool {
	return slices.ContainsFunc(list, func(n api.Network) bool { return n.Swarm == "" })
}

// servingOf describes the spans of a snapshot.
func servingOf(snap serve.Snapshot) []api.Serving {
	out := []api.Serving{}
	for i := range snap.Spans {
		s := &snap.Spans[i]
		v := api.Serving{Name: s.Name(), From: s.Span.From, To: s.Span.To, Ready: s.Ready, State: s.State, EnginePID: s.EnginePID}
		if s.Model != nil {
			v.Model = s.Model.ID().String()
		}
		if s.Loaded {
			v.Sessions, v.KVFree, v.TokensPerS = s.Stage.Sessions, s.Stage.KVFree, s.Stage.TokensPerS
			v.Queued, v.Passes, v.Rows = s.Stage.QueuedRows, s.Stage.Passes, s.Stage.Rows
			v.Engine = s.Computes().Class()
			if s.GaveUp != nil {
				v.EngineTrouble = s.GaveUp.Error()
			}
			v.KVTokens, v.StepMs, v.Memory = s.KVTokens, ms(s.Stage.DecodePass), s.Memory()
			if v.Unloaded = s.Asleep > 0; !s.Expires.IsZero() {
				v.ExpiresAt = &s.Expires
			}
			if f := s.Engine.Fence; f != nil {
				v.Fence, v.Unfenced = f.Holds, f.Lacks
			}
			v.Draft = draftOf(s.Draft)
			for _, d := range s.Engine.Devices {
				v.Devices = append(v.Devices, d.Library+" "+d.Name)
			}
		}
		out = append(out, v)
	}
	return out
}

// draftOf describes the drafter of a span; nil: it has none.
func draftOf(d *serve.Draft) *api.Draft {
	if d == nil {
		return nil
	}
	v := &api.Draft{Loaded: d.Loaded, Memory: uint64(d.Memory), EnginePID: d.PID, TokenMs: ms(d.Takes), Right: d.Right, Wrong: d.Wrong}
	if d.Model != nil {
		v.Model, v.Name = d.Model.ID().String(), d.Model.Name()
	}
	if d.Trouble != nil {
		v.Trouble = d.Trouble.Error()
	}
	return v
}

// Peers returns the peers that are connected. There is never an error.
func (r *Reporter) Peers(ctx context.Context) ([]api.Peer, error) {
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r.cfg.Network.Offers(ask, cid.Undef, nil) // so that it is known what they serve
	out, peers := []api.Peer{}, r.cfg.Network.Peers()
	ids := make([]peer.ID, len(peers))
	for i, p := range peers {
		ids[i] = p.ID
	}
	r.cfg.Survey.AskNames(ask, ids)
	names := map[string]string{}
	for _, n := range r.networks(false) {
		names[n.Swarm] = n.Name
	}
	for _, p := range peers {
		v := peerOf(p)
		if p.Swarm != "" {
			v.SwarmName = names[p.Swarm]
		}
		v.Name = r.cfg.Survey.MachineName(p.ID)
		account := r.cfg.Exchange.Account(p.ID)
		v.Given, v.Taken = account.Given, account.Taken
		if account.Bad.After(time.Now()) {
			v.BadUntil = &account.Bad
		}
		for _, s := range survey.SpansOf(p.Offer, survey.Beat{}) {
			if s.Loaded {
				v.Serves, v.Engines = append(v.Serves, s.Name+" "+s.Span.String()), append(v.Engines, s.Class)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// peerOf describes a peer that is connected, without what it serves.
func peerOf(p network.PeerInfo) api.Peer {
	v := api.Peer{Peer: p.ID.String(), Addr: p.Addr, Transport: p.Transport, RTTMs: ms(p.RTT), Version: p.Version, Relayed: p.Relayed, Path: "direct", Swarm: p.Swarm}
	if p.Relayed {
		v.Path, v.NotDirect, v.Relay = "relayed", string(p.NotDirect), p.Relay.String()
	}
	return v
}
