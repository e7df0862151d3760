package network

import (
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network/reach"
)

// UDP says whether packets over UDP get through to peers elsewhere.
type UDP string

// Whether UDP gets through.
const (
	UDPUnknown UDP = "unknown"
	UDPOpen    UDP = "open"
	UDPBlocked UDP = "blocked" // peers elsewhere are connected, and all of them over TCP
)

// ReachReport is how this node is reached, and how it reaches its peers.
type ReachReport struct {
	reach.State
	Local   bool // it listens on loopback alone: nothing else is known
	Seen    map[reach.Transport]reach.Seen
	Mapped  []string // multiaddrs that the router forwards to this node
	UDP     UDP
	IPv6    bool      // some peer elsewhere is connected over IPv6
	Relays  []peer.ID // where this node can be reached
	Serves  bool      // it relays for others
	Paths   []Path    // to connected peers
	Punches map[string]uint64
}

// blockedPeers is how many peers elsewhere must be connected over TCP alone
// before UDP is taken for blocked.
const blockedPeers = 2

// Reach returns how this node is reached now.
func (n *Network) Reach() ReachReport {
	rep := ReachReport{Paths: n.Paths(), UDP: UDPUnknown}
	r := n.reaching
	if r == nil {
		rep.Local, rep.Verdict = true, reach.Unknown
		return rep
	}
	rep.Seen, rep.Relays = r.sights(), append(r.relays.all(), r.outsideRelays()...)
	for _, a := range r.mapped() {
		rep.Mapped = append(rep.Mapped, a.String())
	}
	r.mu.Lock()
	rep.State = r.machine.State(time.Now())
	r.mu.Unlock()
	rep.Serves = rep.Verdict == reach.Proven && !r.cfg.NoRelay && !r.cfg.Client
	r.holes.mu.Lock()
	rep.Punches = maps.Clone(r.holes.counts)
	r.holes.mu.Unlock()
	tcp := map[peer.ID]bool{}
	for _, c := range n.host.Network().Conns() {
		s, ok := spotOf(c.RemoteMultiaddr())
		if !ok || !reach.Public(s.at.Addr()) {
			continue
		}
		rep.IPv6 = rep.IPv6 || s.at.Addr().Is6()
		if s.udp {
			rep.UDP = UDPOpen
		} else {
			tcp[c.RemotePeer()] = true
		}
	}
	if rep.UDP != UDPOpen && len(tcp) >= blockedPeers {
		rep.UDP = UDPBlocked
	}
	return rep
}

// known returns the verdict in the words of Health.
func (rep *ReachReport) known() Reach {
	behind := func(s reach.Seen) bool { return s.Mapping == reach.MappingSame || s.Mapping == reach.MappingPerPeer }
	switch {
	case rep.Verdict == reach.Proven:
		return ReachPublic
	case rep.Verdict == reach.Claimed:
		return ReachUnknown
	case slices.ContainsFunc(slices.Collect(maps.Values(rep.Seen)), behind):
		return ReachPrivate
	}
	return ReachUnknown
}
