package network

import (
	"cmp"
	"context"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

const (
	wantedRelays = 2
	relayEvery   = 5 * time.Second // how often libp2p may ask for candidates
	relayWait    = 4 * time.Second // how long such a question waits for peers to connect
	relayLook    = time.Minute     // how often the DHT is searched for relays
	relayGroup   = 2               // relays per group of addresses

	circuitBytes = 256 << 20
	circuitLife  = time.Hour
	relayBuffer  = 32 << 10
	relayMemory  = 64 << 20 // of all circuits through this node
)

// relayResources is what a node gives as a relay. A circuit must outlive a
// session over it, and must have a limit, because only that marks a connection
// as one for frames alone: without it, bitswap and the DHT would use it.
func relayResources() relay.Resources {
	r := relay.DefaultResources()
	r.Limit = &relay.RelayLimit{Duration: circuitLife, Data: circuitBytes}
	r.BufferSize = relayBuffer
	r.MaxReservations = 256
	r.MaxReservationsPerIP = 32 // the homes behind a carrier's NAT share an address
	r.MaxReservationsPerASN = 128
	r.MaxCircuits = 32
	return r
}

// relayBudget is the memory for circuits through this node, in bytes.
func relayBudget() int64 { return min(relayMemory, max(16<<20, debug.SetMemoryLimit(-1)/32)) }

// relayGuests says who may use this node as a relay: be reached over it, and reach others.
type relayGuests struct {
	may   func(peer.ID) bool // nil: anybody
	reach func(peer.ID) bool // nil: those who may be reached
}

func (g relayGuests) AllowReserve(p peer.ID, _ multiaddr.Multiaddr) bool {
	return g.may == nil || g.may(p)
}

func (g relayGuests) AllowConnect(from peer.ID, _ multiaddr.Multiaddr, to peer.ID) bool {
	if g.reach != nil {
		return g.reach(from) && g.AllowReserve(to, nil)
	}
	return g.AllowReserve(from, nil) && g.AllowReserve(to, nil)
}

// relays finds relays for this node, and knows those at which it can be reached.
type relays struct {
	of *reaching

	mu      sync.Mutex
	fresh   chan struct{} // closed when another peer may be a relay
	held    []multiaddr.Multiaddr
	since   map[peer.ID]time.Time // of the places of held
	rests   outer.Rests           // relays at which places did not last
	looked  time.Time             // when the DHT was last searched
	listed  listing               // among the network's relays
	listing bool                  // an announcement is under way
}

// news tells those who wait for relays that there may be another.
func (r *relays) news() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fresh != nil {
		close(r.fresh)
		r.fresh = nil
	}
}

func (r *relays) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fresh == nil {
		r.fresh = make(chan struct{})
	}
	return r.fresh
}

// set notes this node's addresses at its relays; it reports whether they have
// changed.
func (r *relays) set(held []multiaddr.Multiaddr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := slices.EqualFunc(held, r.held, multiaddr.Multiaddr.Equal)
	now, since := time.Now(), map[peer.ID]time.Time{}
	for _, a := range held {
		p := reach.RelayOf(a)
		if since[p] = r.since[p]; since[p].IsZero() {
			since[p] = now
		}
	}
	for p, at := range r.since {
		if since[p].IsZero() {
			r.rests.Lost(p, at, now)
		}
	}
	r.held, r.since = held, since
	return !same
}

// moved has all relays asked again, since this node is elsewhere now.
func (r *relays) moved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rests.Moved(time.Now())
}

// resting reports whether a relay is to be left alone.
func (r *relays) resting(p peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rests.Resting(p, time.Now())
}

// addrs returns this node's addresses at its relays, at most four for each: by
// IP version and transport.
func (r *relays) addrs() (out []multiaddr.Multiaddr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	type kind struct {
		relay    peer.ID
		udp, ip4 bool
	}
	seen := map[kind]bool{}
	for _, a := range r.held {
		s, ok := spotOf(reach.Base(a))
		if k := (kind{reach.RelayOf(a), s.udp, s.at.Addr().Is4()}); ok && !seen[k] {
			seen[k] = true
			out = append(out, a)
		}
	}
	return out
}

// all returns the relays at which this node can be reached.
func (r *relays) all() (out []peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.held {
		if p := reach.RelayOf(a); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// source is where libp2p gets candidates from, of which it takes any. So it gets
// no more than it needs, the nearest first. The channel is closed when there are
// enough, or after relayWait.
func (r *relays) source(ctx context.Context, _ int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	go func() {
		defer close(out)
		select {
		case <-r.of.ready:
		case <-ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(ctx, relayWait)
		defer cancel()
		stop := context.AfterFunc(r.of.n.ctx, cancel)
		defer stop()
		r.offer(ctx, out)
	}()
	return out
}

// offer sends candidates: connected peers that are relays; before there are any,
// those that were relays when they were last seen, and those that the DHT names.
func (r *relays) offer(ctx context.Context, out chan<- peer.AddrInfo) {
	given := map[peer.ID]bool{}
	for _, p := range r.all() {
		given[p] = true
	}
	send := func(p peer.AddrInfo) bool {
		given[p.ID] = true
		select {
		case out <- p:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for found := 0; ; {
		fresh := r.wait()
		near := r.connected(given)
		for _, p := range near[:min(len(near), wantedRelays-found)] {
			if !send(p) {
				return
			}
			found++
		}
		if found >= wantedRelays {
			return
		}
		if found == 0 && len(given) == 0 {
			for _, p := range r.elsewhere(ctx) {
				if !given[p.ID] && !send(p) {
					return
				}
			}
		}
		select {
		case <-fresh:
		case <-ctx.Done():
			return
		}
	}
}

// connected returns the connected peers that are relays, the nearest first, but
// those given, and not too many of a group of addresses.
func (r *relays) connected(given map[peer.ID]bool) (out []peer.AddrInfo) {
	n := r.of.n
	groups := map[string]int{}
	for p := range given {
		groups[n.Group(p)]++
	}
	near := slices.DeleteFunc(n.host.Network().Peers(), func(p peer.ID) bool { return given[p] || !n.Direct(p) || !n.isRelay(p) || r.resting(p) })
	slices.SortFunc(near, func(a, b peer.ID) int { return cmp.Compare(n.distance(a), n.distance(b)) })
	for _, p := range near {
		if g := n.Group(p); groups[g] < relayGroup {
			groups[g]++
			out = append(out, peer.AddrInfo{ID: p})
		}
	}
	return out
}

// elsewhere returns peers that may be relays and are not connected: remembered
// ones, the nearest first, or else those that the DHT names.
func (r *relays) elsewhere(ctx context.Context) []peer.AddrInfo {
	n := r.of.n
	if known := slices.DeleteFunc(n.book.relays(), func(p peer.AddrInfo) bool { return r.resting(p.ID) }); len(known) > 0 {
		return known[:min(len(known), 2*wantedRelays)]
	}
	r.mu.Lock()
	look := time.Since(r.looked) > relayLook && n.dht.RoutingTable().Size() > 0
	if look {
		r.looked = time.Now()
	}
	r.mu.Unlock()
	if !look {
		return nil
	}
	var out []peer.AddrInfo
	for p := range n.dht.FindProvidersAsync(ctx, protocol.RelayKey(), 2*wantedRelays) {
		if p.Addrs = slices.DeleteFunc(n.Believable("", p.Addrs), reach.IsCircuit); p.ID != n.host.ID() && len(p.Addrs) > 0 && !r.resting(p.ID) {
			out = append(out, p)
		}
	}
	return out
}

// distance is a peer's round trip; far away if it is not known.
func (n *Network) distance(p peer.ID) time.Duration {
	rtt, ok := n.RTT(p)
	if !ok {
		return time.Minute
	}
	return rtt
}

// announce has this node listed in the DHT as a relay.
func (r *relays) announce() {
	n := r.of.n
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of.cfg.NoRelay || r.listing || time.Now().Before(r.listed.due) || n.dht.RoutingTable().Size() == 0 {
		return
	}
	r.listing = true
	was := r.listed
	n.wg.Go(func() {
		is := n.listUnder(protocol.RelayKey(), was)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.listed, r.listing = is, false
	})
}

// isRelay reports whether a peer says that it is a relay, which only a node does
// that is proven to be reachable.
func (n *Network) isRelay(p peer.ID) bool {
	known, err := n.host.Peerstore().SupportsProtocols(p, proto.ProtoIDv2Hop)
	return err == nil && len(known) > 0 && n.Roles(p).Has(member.Relay)
}

// offerOrder sorts addresses for an offer, of which readers dial the first few:
// public ones, then those at relays, then private ones, this machine's last.
func offerOrder(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	rank := func(a multiaddr.Multiaddr) int {
		s, ok := spotOf(a)
		switch {
		case reach.IsCircuit(a):
			return 1
		case !ok || s.at.Addr().IsLoopback():
			return 3
		case reach.Public(s.at.Addr()):
			return 0
		}
		return 2
	}
	out := slices.Clone(addrs)
	slices.SortStableFunc(out, func(a, b multiaddr.Multiaddr) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		if rank(a) == 1 { // QUIC of each relay before TCP of any
			return strings.Compare(circuitOrder(a), circuitOrder(b))
		}
		return 0
	})
	return out
}

func circuitOrder(a multiaddr.Multiaddr) string {
	s, _ := spotOf(reach.Base(a))
	switch {
	case s.udp && s.at.Addr().Is4():
		return "0"
	case s.at.Addr().Is4():
		return "1"
	case s.udp:
		return "2"
	}
	return "3"
}
