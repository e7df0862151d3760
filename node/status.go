package node

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
)

// Status tells how the node is.
func (n *Node) Status(context.Context) (*api.Status, error) {
	st := &api.Status{
		Peer: n.net.Self().String(), Version: n.cfg.Version, Addrs: n.net.FullAddrs(), Home: n.cfg.Home, Uptime: time.Since(n.started),
		Peers: len(n.net.Peers()), Light: n.cfg.Client, Memory: n.cfg.Memory, Serving: []api.Serving{},
	}
	for _, m := range n.store.Models() {
		st.Allocated += m.Allocated()
	}
	st.Quota, st.QuotaUsed = n.cfg.Quota, n.store.Unpinned()
	passed := n.exchange.Stats()
	st.Given, st.Taken = passed.Given, passed.Taken
	total := n.exchange.Total()
	st.GivenAll, st.TakenAll = total.Given, total.Taken
	st.Up, st.Down = n.cfg.Up, n.cfg.Down
	n.mu.Lock()
	defer n.mu.Unlock()
	st.API, st.APIOpen = n.word.API, n.cfg.APIOpen && n.cfg.APIKey == ""
	for _, s := range n.serving {
		v := api.Serving{Name: s.spec.Model, From: s.span.From, To: s.span.To, Ready: s.ready, State: s.state, EnginePID: s.pid}
		if s.model != nil {
			v.Model, v.Name = s.model.ID().String(), s.model.Name()
		}
		if s.stage != nil {
			load := s.stage.Status()
			v.Sessions, v.KVFree, v.TokensPerS = load.Sessions, load.KVFree, load.TokensPerS
			v.Queued, v.Passes, v.Rows = load.QueuedRows, load.Passes, load.Rows
			v.KVTokens, v.StepMs = s.stage.Config().KVTokens, ms(load.DecodePass)
			v.Memory = s.info.Weights + s.info.KV + s.info.Graph
			if f := s.info.Fence; f != nil {
				v.Fence, v.Unfenced = f.Holds, f.Lacks
			}
			for _, d := range s.info.Devices {
				v.Devices = append(v.Devices, d.Library+" "+d.Name)
			}
		}
		st.Serving = append(st.Serving, v)
	}
	if w := engine.BuiltForThisMachine(); w != "" {
		st.Warnings = append(st.Warnings, w)
	}
	return st, nil
}

// Peers tells of the peers connected.
func (n *Node) Peers(ctx context.Context) ([]api.Peer, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	n.net.Offers(ask, cid.Undef, nil) // so that it is known what they serve
	out := []api.Peer{}
	for _, p := range n.net.Peers() {
		v := api.Peer{Peer: p.ID.String(), Addr: p.Addr, Transport: p.Transport, RTTMs: ms(p.RTT), Version: p.Version, Relayed: p.Relayed}
		account := n.exchange.Account(p.ID)
		v.Given, v.Taken = account.Given, account.Taken
		if account.Bad.After(time.Now()) {
			v.BadUntil = &account.Bad
		}
		if p.Offer != nil {
			for _, s := range p.Offer.Spans {
				if !s.Loaded {
					continue
				}
				v.Serves = append(v.Serves, fmt.Sprintf("%s %s", s.Name, s.Span()))
			}
		}
		out = append(out, v)
	}
	return out, nil
}
