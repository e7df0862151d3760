package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// Health tells what could be wrong with this node and around it.
func (n *Node) Health(ctx context.Context) (*api.Health, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	offers := n.net.Offers(ask, cid.Undef, nil)
	net := n.net.Health()
	h := &api.Health{
		Reach: string(net.Reach), Port: n.net.Port(), Alone: net.Alone, ClockOffMs: net.ClockOff.Milliseconds(), ClockPeers: net.ClockPeers,
		Coverage: coverage(offers, n.survey.Weigh(offers)), Unreached: []api.Unreached{}, Strangers: []api.Peer{}, Engines: []api.Losses{}, Fetches: n.library.Fetches(),
		Quota: n.cfg.Quota, QuotaUsed: n.store.Unpinned(),
	}
	for _, u := range net.Unreached {
		h.Unreached = append(h.Unreached, api.Unreached{Peer: u.ID.String(), Addrs: u.Addrs, Why: u.Why, Bootstrap: u.Bootstrap})
	}
	for _, p := range net.Strangers {
		h.Strangers = append(h.Strangers, api.Peer{Peer: p.ID.String(), Addr: p.Addr, Transport: p.Transport, RTTMs: ms(p.RTT), Version: p.Version, Relayed: p.Relayed})
	}
	if open, why, _ := n.gate.look(); !open {
		h.Paused = why
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.serving {
		if l, ok := s.losses.report(time.Now()); ok {
			l.Name, l.From, l.To = s.spec.Model, s.span.From, s.span.To
			if s.model != nil {
				l.Name = s.model.Name()
			}
			h.Engines = append(h.Engines, l)
		}
	}
	return h, nil
}

// coverage is which blocks of each model that someone serves nobody does, of the
// likeliest models.
func coverage(offers []*protocol.Offer, heard []*survey.Claim) []api.Coverage {
	counts := map[cid.Cid]bool{}
	for _, c := range heard[:min(len(heard), library.MaxListed)] {
		counts[c.ID] = true
	}
	type spans struct{ loaded, all []protocol.Span }
	out, served := []api.Coverage{}, map[cid.Cid]*spans{}
	at := map[cid.Cid]int{}
	for _, o := range offers {
		counted := map[cid.Cid]bool{}
		for _, s := range o.Spans {
			id := s.ModelID()
			if !counts[id] {
				continue
			}
			i, known := at[id]
			if !known {
				i = len(out)
				at[id], served[id] = i, &spans{}
				out = append(out, api.Coverage{Model: id.String(), Missing: []string{}, Coming: []string{}})
			}
			c := &out[i]
			c.Blocks = max(c.Blocks, int(s.Blocks))
			if c.Name == "" {
				c.Name = s.Name
			}
			served[id].all = append(served[id].all, s.Span())
			if s.Loaded {
				served[id].loaded = append(served[id].loaded, s.Span())
				if !counted[id] {
					counted[id] = true
					c.Nodes++
				}
			}
		}
	}
	for id, i := range at {
		c, sp := &out[i], served[id]
		for _, gap := range protocol.Uncovered(c.Blocks, sp.loaded) {
			c.Missing = append(c.Missing, gap.String())
		}
		for _, s := range sp.all {
			if !slices.Contains(sp.loaded, s) {
				c.Coming = append(c.Coming, s.String())
			}
		}
	}
	slices.SortFunc(out, func(a, b api.Coverage) int { return strings.Compare(a.Name+a.Model, b.Name+b.Model) })
	return out
}

// losses are the times at which an engine was lost of late. Guarded by node.mu.
type losses struct {
	at   []time.Time
	last error
}

// lossesOf is how far back losses count.
const lossesOf = 10 * time.Minute

// lost notes that the engine was lost.
func (s *serving) lost(err error) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	l := &s.losses
	l.last = err
	if l.at = append(l.at, time.Now()); len(l.at) > 100 {
		l.at = l.at[1:]
	}
}

func (l *losses) report(now time.Time) (out api.Losses, any bool) {
	for _, t := range l.at {
		if now.Sub(t) < lossesOf {
			out.Count++
		}
	}
	if out.Count > 0 {
		out.Last = l.last.Error()
		out.Killed = strings.Contains(out.Last, "signal: killed")
	}
	return out, out.Count > 0
}
