package node

import (
	"context"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// What the page shows. It asks every second or so; the network is asked less
// often, in the background, and only while somebody looks.

// View is the node and its network as they are known here.
func (n *Node) View(ctx context.Context) (*api.View, error) {
	st, err := n.Status(ctx)
	if err != nil {
		return nil, err
	}
	v := &api.View{
		Peer: st.Peer, Version: st.Version, Uptime: st.Uptime, Light: st.Light, Serving: st.Serving, Given: st.Given, Taken: st.Taken,
		Warnings: st.Warnings, Lending: n.lending(), Peers: []api.ViewPeer{}, Links: []api.ViewLink{},
	}
	for i := range v.Serving {
		v.Serving[i].EnginePID = 0
	}
	// What is known is enough; the members are asked again in the background.
	offers := n.net.Offers(ctx, cid.Undef, func([]*protocol.Offer) bool { return true })
	beats := n.survey.Beats()
	links := survey.Distances{}
	self := n.net.Self()
	seen := map[peer.ID]*protocol.Offer{}
	var ask []peer.ID
	for _, o := range offers {
		if o.From != self {
			seen[o.From] = o
		}
	}
	for _, p := range n.net.Peers() {
		o := seen[p.ID]
		if o == nil {
			o = p.Offer
		}
		delete(seen, p.ID)
		w := viewPeer(p.ID, o, beats[p.ID])
		w.Connected, w.Transport, w.Relayed, w.RTTMs = true, p.Transport, p.Relayed, ms(p.RTT)
		if w.Version == "" {
			w.Version = p.Version
		}
		links.Set(self.String(), p.ID.String(), p.RTT)
		v.Peers, ask = append(v.Peers, w), append(ask, p.ID)
	}
	for _, o := range offers {
		if seen[o.From] == nil || len(v.Peers) >= library.MaxListed {
			continue
		}
		v.Peers = append(v.Peers, viewPeer(o.From, o, beats[o.From]))
		if len(o.Spans) > 0 {
			ask = append(ask, o.From)
		}
	}
	n.survey.Refresh(ask)
	slices.SortFunc(v.Peers, func(a, b api.ViewPeer) int { return strings.Compare(a.Peer, b.Peer) })
	for id, b := range beats {
		if b.Status == nil {
			continue
		}
		for _, r := range b.Status.Rtts {
			if to, err := peer.IDFromBytes(r.Peer); err == nil {
				links.Set(id.String(), to.String(), time.Duration(r.Us)*time.Microsecond)
			}
		}
	}
	for pair, rtt := range links {
		if rtt > 0 {
			v.Links = append(v.Links, api.ViewLink{A: pair[0], B: pair[1], RTTMs: ms(rtt)})
		}
	}
	slices.SortFunc(v.Links, func(a, b api.ViewLink) int { return strings.Compare(a.A+a.B, b.A+b.B) })
	v.Models = n.viewModels(offers)
	return v, nil
}

func (n *Node) lending() api.Lending {
	open, why, _ := n.gate.look()
	c := &n.cfg
	return api.Lending{
		Open: open, Why: why, Memory: c.Memory, Threads: c.Threads, Nice: c.Nice, Devices: c.Devices, Hours: c.Lend.Hours.String(),
		PauseLoad: c.Lend.PauseLoad, OnBattery: c.Lend.OnBattery, Resume: c.Lend.Resume.Seconds(), MaxSessions: c.MaxSessions, Quota: c.Quota,
	}
}

// maxOfPeer is how many spans of one peer are shown.
const maxOfPeer = 8

// viewPeer is a peer by its offer, which may be nil, and by its last answer.
func viewPeer(id peer.ID, o *protocol.Offer, b survey.Beat) api.ViewPeer {
	v := api.ViewPeer{Peer: id.String(), Silent: !b.At.IsZero() && b.Status == nil, Spans: []api.ViewSpan{}}
	if o == nil {
		return v
	}
	v.Version = o.Version
	if d := o.Device; d != nil {
		v.Device, v.Memory, v.Threads = d.Name, d.Memory, int(d.Threads)
		if !strings.HasPrefix(d.Name, d.Backend) { // a backend may say no more than its device
			v.Device = d.Backend + " " + d.Name
		}
	}
	for _, s := range o.Spans[:min(len(o.Spans), maxOfPeer)] {
		w := api.ViewSpan{
			Model: s.ModelID().String(), From: int(s.From), To: int(s.To), Ready: s.Ready, Loaded: s.Loaded, Load: float64(s.LoadPermille) / 1000,
			StepMs: float64(s.UsPerBlock) * float64(s.Span().Len()) / 1000, KVTokens: int(s.KvTokens), KVFree: int(s.KvFree),
		}
		if b.Status != nil {
			for _, now := range b.Status.Spans {
				if string(now.Model) == string(s.Model) && now.From == s.From && now.To == s.To {
					w.KVFree, w.Sessions, w.TokensPerS = int(now.KvFree), int(now.Sessions), finite(now.TokensPerS)
				}
			}
		}
		v.Spans = append(v.Spans, w)
	}
	return v
}

// finite is a peer's figure as JSON can carry it.
func finite(f float32) float64 {
	if !(f >= 0 && f < 1e9) {
		return 0
	}
	return float64(f)
}

// viewModels lists the models here, those of a list of models, and what peers that
// are there hold.
func (n *Node) viewModels(offers []*protocol.Offer) []api.ViewModel {
	out := []api.ViewModel{}
	at, shown := map[cid.Cid]int{}, map[cid.Cid]bool{}
	heard := n.survey.Weigh(offers)
	for _, c := range n.library.Listed(heard) {
		shown[c.ID] = true
	}
	for _, m := range n.store.Models() {
		d := library.Describe(m)
		at[m.ID()] = len(out)
		out = append(out, api.ViewModel{
			ID: d.ID, Name: d.Name, Architecture: d.Architecture, Quantization: d.Quantization, Licence: d.Licence, Parameters: d.Parameters,
			Context: d.Context, Blocks: d.Blocks, Size: d.Size, Allocated: d.Allocated, Held: d.Held, Complete: d.Complete, Pinned: d.Pinned,
			Fetching: n.library.Fetching(d.Name),
		})
	}
	for _, c := range heard {
		i, here := at[c.ID]
		switch {
		case here && out[i].Blocks == 0:
			out[i].Blocks = c.Blocks
		case !here && shown[c.ID], !here && c.Held && len(at) < library.MaxListed:
			d := library.DescribeClaim(c)
			at[c.ID] = len(out)
			out = append(out, api.ViewModel{ID: d.ID, Name: d.Name, Blocks: d.Blocks, Held: d.Held})
		}
	}
	self := n.net.Self()
	for _, o := range offers {
		if o.From == self {
			continue
		}
		for _, h := range o.Shards {
			id, err := cid.Cast(h.Model)
			i, listed := at[id]
			if err == nil && listed && len(out[i].Holders) < library.MaxListed {
				m, held := &out[i], 0
				for _, b := range h.Bitmap {
					held += bits.OnesCount8(b)
				}
				m.Holders = append(m.Holders, api.ViewHolder{Peer: o.From.String(), Shards: held})
			}
		}
	}
	return out
}
