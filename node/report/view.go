package report

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// troubleElsewhere stands on the page for why an engine was given up.
const troubleElsewhere = "llama.cpp's library cannot be used, so the built-in engine computes; the node's status has the reason"

// maxOfPeer is of how many spans of a peer the page shows figures.
const maxOfPeer = 8

// View returns what is known here of the node and its network, for the page; without
// private, of the open network alone. Peers are asked again in the background. There is
// never an error.
func (r *Reporter) View(ctx context.Context, private bool) (*api.View, error) {
	snap, passed, up := r.cfg.Serving(), r.cfg.Exchange.Stats(), time.Since(r.started)
	v := &api.View{
		Peer: r.cfg.Network.Self().String(), Version: r.cfg.Version, Uptime: up, UptimeS: int64(up.Seconds()), Light: r.cfg.Light, Networks: shown(r.networks(false), private, func(n api.Network) string { return n.Swarm }), Serving: servingOf(snap),
		Given: passed.Given, Taken: passed.Taken, Warnings: r.warnings(&snap), Lending: r.lending(&snap), Peers: []api.ViewPeer{}, Links: []api.ViewLink{},
	}
	for i := range v.Serving {
		v.Serving[i].EnginePID, v.Serving[i].Draft = 0, nil // which may name paths, too
		if v.Serving[i].EngineTrouble != "" {               // which may name paths
			v.Serving[i].EngineTrouble = troubleElsewhere
		}
	}
	// What is known is enough; the members are asked again in the background.
	offers := r.cfg.Network.Offers(ctx, cid.Undef, func([]*protocol.Offer) bool { return true })
	offers = shown(offers, private, func(o *protocol.Offer) string { return o.Swarm })
	peers := shown(r.cfg.Network.Peers(), private, func(p network.PeerInfo) string { return p.Swarm })
	beats := r.cfg.Survey.Beats()
	links := survey.Distances{}
	self := r.cfg.Network.Self()
	seen := map[peer.ID]*protocol.Offer{}
	var ask []peer.ID
	for _, o := range offers {
		if !r.cfg.Network.Own(o.From) {
			seen[o.From] = o
		}
	}
	for _, p := range peers {
		o := seen[p.ID]
		if o == nil {
			o = p.Offer
		}
		delete(seen, p.ID)
		w := viewPeer(p.ID, o, beats[p.ID])
		w.Connected, w.Transport, w.Relayed, w.RTTMs, w.Swarm = true, p.Transport, p.Relayed, ms(p.RTT), p.Swarm
		if w.Version == "" {
			w.Version = p.Version
		}
		links.Set(self.String(), p.ID.String(), p.RTT)
		v.Peers, ask = append(v.Peers, w), append(ask, p.ID)
	}
	for _, o := range offers {
		if seen[o.From] == nil || len(v.Peers) >= maxListed {
			continue
		}
		v.Peers = append(v.Peers, viewPeer(o.From, o, beats[o.From]))
		if len(o.Spans) > 0 {
			ask = append(ask, o.From)
		}
	}
	in := map[peer.ID]bool{} // the open network, as far as is known
	for _, p := range peers {
		in[p.ID] = true
	}
	for _, o := range offers {
		in[o.From] = true
	}
	r.cfg.Survey.Refresh(ask)
	slices.SortFunc(v.Peers, func(a, b api.ViewPeer) int { return strings.Compare(a.Peer, b.Peer) })
	for id, b := range beats {
		if b.Status != nil && (private || in[id]) {
			links.Take(id, b.Status)
		}
	}
	own := map[string]bool{} // IDs of this node, which has one per network
	for _, n := range v.Networks {
		own[n.Peer] = true
	}
	for pair, rtt := range links {
		for i := range pair {
			if own[pair[i]] {
				pair[i] = self.String()
			}
		}
		if rtt > 0 {
			v.Links = append(v.Links, api.ViewLink{A: pair[0], B: pair[1], RTTMs: ms(rtt)})
		}
	}
	slices.SortFunc(v.Links, func(a, b api.ViewLink) int { return strings.Compare(a.A+a.B, b.A+b.B) })
	v.Models = r.viewModels(offers)
	return v, nil
}

// shown returns what a caller sees of a list: all, or only what is of the open network.
func shown[T any](list []T, private bool, swarm func(T) string) []T {
	if private {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return swarm(v) != "" })
}

// lending returns the operator's rules, and whether they let the node lend now.
func (r *Reporter) lending(snap *serve.Snapshot) api.Lending {
	l := r.cfg.Limits()
	return api.Lending{
		Open: snap.Lending, Why: snap.Why, Paused: l.Lend.Pause.At(time.Now()), Memory: l.Memory, Threads: l.Threads, Nice: r.cfg.Nice, Devices: r.cfg.Devices, Hours: l.Lend.Hours.String(),
		PauseLoad: l.Lend.PauseLoad, OnBattery: l.Lend.OnBattery, Resume: l.Lend.Resume.Seconds(), MaxSessions: l.MaxSessions, Quota: l.Quota,
	}
}

// viewPeer describes a peer by its offer, which may be nil, and by its last answer.
func viewPeer(id peer.ID, o *protocol.Offer, b survey.Beat) api.ViewPeer {
	v := api.ViewPeer{Peer: id.String(), Silent: !b.At.IsZero() && b.Status == nil, Spans: []api.ViewSpan{}}
	if o == nil {
		return v
	}
	v.Version, v.Swarm = o.Version, o.Swarm
	if d := o.Device; d != nil {
		v.Device, v.Memory, v.Threads = d.Name, d.Memory, int(d.Threads)
		if !strings.HasPrefix(d.Name, d.Backend) { // a backend may say no more than its device
			v.Device = d.Backend + " " + d.Name
		}
	}
	spans := survey.SpansOf(o, b)
	for _, s := range spans[:min(len(spans), maxOfPeer)] {
		v.Spans = append(v.Spans, api.ViewSpan{
			Model: s.Model.String(), From: s.Span.From, To: s.Span.To, Ready: s.Ready, Loaded: s.Loaded, Engine: s.Class, Load: s.Load, StepMs: s.StepMs,
			KVTokens: s.KVTokens, KVFree: s.KVFree, Sessions: s.Sessions, TokensPerS: finite(s.TokensPerS),
		})
	}
	return v
}

// finite returns a peer's figure as JSON can carry it: 0 for what is no sensible number.
func finite(f float64) float64 {
	if !(f >= 0 && f < 1e9) {
		return 0
	}
	return f
}

// viewModels lists the models here, those that belong into a list of models, and those
// of which connected peers hold shards.
func (r *Reporter) viewModels(offers []*protocol.Offer) []api.ViewModel {
	out := []api.ViewModel{}
	at, shown := map[cid.Cid]int{}, map[cid.Cid]bool{}
	heard := r.cfg.Survey.Weigh(offers)
	for _, c := range r.cfg.Library.Listed(heard) {
		shown[c.ID] = true
	}
	progress := map[string]*api.Progress{}
	for _, f := range r.cfg.Library.Fetches() {
		progress[f.Name] = &api.Progress{Done: f.Done, Total: f.Total, Sources: f.Sources}
	}
	for _, m := range r.cfg.Store.Models() {
		d := r.cfg.Library.Describe(m)
		at[m.ID()] = len(out)
		out = append(out, api.ViewModel{
			ID: d.ID, Name: d.Name, Architecture: d.Architecture, Quantization: d.Quantization, Licence: d.Licence, Parameters: d.Parameters,
			Context: d.Context, Blocks: d.Blocks, Size: d.Size, Allocated: d.Allocated, Held: d.Held, Complete: d.Complete, Pinned: d.Pinned,
			Fetching: progress[d.Name],
		})
	}
	for _, c := range heard {
		i, here := at[c.ID]
		switch {
		case here && out[i].Blocks == 0:
			out[i].Blocks = c.Blocks
		case !here && shown[c.ID], !here && c.Held && len(at) < maxListed:
			d := r.cfg.Library.DescribeClaim(c)
			at[c.ID] = len(out)
			out = append(out, api.ViewModel{ID: d.ID, Name: d.Name, Blocks: d.Blocks, Held: d.Held})
		}
	}
	for id, holders := range r.cfg.Survey.Holders(offers, maxListed) {
		if i, listed := at[id]; listed {
			for _, h := range holders {
				out[i].Holders = append(out[i].Holders, api.ViewHolder{Peer: h.Peer.String(), Shards: h.Shards})
			}
		}
	}
	return out
}
