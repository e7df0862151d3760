package report

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// Health returns what could be wrong with this node and around it. There is never an
// error.
func (r *Reporter) Health(ctx context.Context) (*api.Health, error) {
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	offers := r.cfg.Network.Offers(ask, cid.Undef, nil)
	net, snap := r.cfg.Network.Health(), r.cfg.Serving()
	h := &api.Health{
		Reach: string(net.Reach), Port: r.cfg.Network.Port(), Alone: net.Alone, ClockOffMs: net.ClockOff.Milliseconds(), ClockPeers: net.ClockPeers,
		Coverage: coverageOf(r.cfg.Survey.Coverage(offers, maxListed)), Unreached: []api.Unreached{}, Strangers: []api.Peer{}, Engines: []api.Losses{},
		Fetches: r.cfg.Library.Fetches(), Quota: r.cfg.Limits().Quota, QuotaUsed: r.cfg.Store.Unpinned(),
	}
	h.Reachability, h.Lookups = r.reachability(), lookupsIn(r.cfg.Network.Sizes().Lookups)
	for _, u := range net.Unreached {
		h.Unreached = append(h.Unreached, api.Unreached{Peer: u.ID.String(), Addrs: u.Addrs, Why: u.Why, Bootstrap: u.Bootstrap})
	}
	for _, p := range net.Strangers {
		h.Strangers = append(h.Strangers, peerOf(p))
	}
	if !snap.Lending {
		h.Paused = snap.Why
	}
	for i := range snap.Spans {
		if s := &snap.Spans[i]; s.Losses.Count > 0 {
			l := s.Losses
			l.Name, l.From, l.To = s.Name(), s.Span.From, s.Span.To
			h.Engines = append(h.Engines, l)
		}
	}
	return h, nil
}

// reachability is nil for a node that listens on loopback alone.
func (r *Reporter) reachability() *api.Reachability {
	rep := r.cfg.Network.Reach()
	if rep.Local {
		return nil
	}
	out := &api.Reachability{
		Verdict: string(rep.Verdict), Claims: []string{}, Strangers: rep.Strangers, NAT: map[string]api.NAT{}, Mapped: append([]string{}, rep.Mapped...),
		UDP: string(rep.UDP), IPv6: rep.IPv6, Relays: []api.Relay{}, RelayFor: rep.Serves, Punches: rep.Punches,
	}
	if !rep.Until.IsZero() {
		out.ProvenUntil = &rep.Until
	}
	for _, c := range rep.Claims {
		out.Claims = append(out.Claims, string(c))
	}
	for t, s := range rep.Seen {
		if s.Observers > 0 {
			out.NAT[string(t)] = api.NAT{Mapping: string(s.Mapping), Outside: s.Outside.String(), Observers: s.Observers}
		}
	}
	for _, p := range rep.Relays {
		rtt, _ := r.cfg.Network.RTT(p)
		out.Relays = append(out.Relays, api.Relay{Peer: p.String(), RTTMs: ms(rtt)})
	}
	for _, p := range rep.Paths {
		if p.Direct {
			out.Direct++
		} else {
			out.Relayed++
		}
	}
	return out
}

func lookupsIn(l network.Lookups) *api.Lookups {
	out := &api.Lookups{Found: l.First.Count, Failed: l.Vain, Dials: l.Dials, Dead: l.Dead}
	if l.First.Count > 0 {
		out.FirstMs = 1000 * l.First.Sum / float64(l.First.Count)
	}
	if l.Hops.Count > 0 {
		out.Hops = l.Hops.Sum / float64(l.Hops.Count)
	}
	return out
}

func coverageOf(list []survey.Coverage) []api.Coverage {
	out := []api.Coverage{}
	for _, c := range list {
		out = append(out, api.Coverage{
			Model: c.Model.String(), Name: c.Name, Blocks: c.Blocks, Nodes: c.Nodes, Missing: spanTexts(c.Missing), Coming: spanTexts(c.Coming),
		})
	}
	return out
}

func spanTexts(spans []protocol.Span) []string {
	out := []string{}
	for _, s := range spans {
		out = append(out, s.String())
	}
	return out
}
