package swarm

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/outer"
)

const (
	maxAddr    = 255 // bytes of an address, as in a code
	maxReached = 2   // addresses of a member that are remembered because they led to it
	maxLook    = 128 // members that a network looks for
)

// plain reports whether an address is one that a member can be dialled at: an IP address
// with TCP or QUIC, or such a relay's, of a usual length. Members name the addresses of
// themselves and of others, and might name anything else that has an encoding.
func plain(a multiaddr.Multiaddr) bool {
	if len(a.Bytes()) > maxAddr { // a relay's ID can be of any length
		return false
	}
	var codes []int
	for _, c := range a {
		codes = append(codes, c.Protocol().Code)
	}
	for range 2 { // a relay, and the member's outer host behind it
		if n := len(codes) - 2; n > 0 && slices.Equal(codes[n:], []int{multiaddr.P_P2P, multiaddr.P_CIRCUIT}) {
			codes = codes[:n]
		}
	}
	if len(codes) == 0 || codes[0] != multiaddr.P_IP4 && codes[0] != multiaddr.P_IP6 {
		return false
	}
	return slices.Equal(codes[1:], []int{multiaddr.P_TCP}) || slices.Equal(codes[1:], []int{multiaddr.P_UDP, multiaddr.P_QUIC_V1})
}

// direct reports whether an address is a plain one, and no relay's.
func direct(a multiaddr.Multiaddr) bool { return plain(a) && len(a) <= 3 }

// plainOnes returns the plain addresses, or the best of them if there are too many.
func plainOnes(all []multiaddr.Multiaddr) (out []multiaddr.Multiaddr) {
	for _, a := range all {
		if plain(a) {
			out = append(out, a)
		}
	}
	if len(out) > maxAddrs {
		slices.SortStableFunc(out, func(a, b multiaddr.Multiaddr) int { return rank(a) - rank(b) })
		out = out[:maxAddrs]
	}
	return out
}

// reach notes that a member is at an address: this node has dialled it there, or the code
// with which it joined named that machine.
func (m *known) reach(a multiaddr.Multiaddr) {
	if !direct(a) {
		return
	}
	m.Reached = slices.DeleteFunc(m.Reached, a.Equal)
	m.Reached = slices.Insert(m.Reached, 0, a)
	m.Reached = m.Reached[:min(len(m.Reached), maxReached)]
}

// trustCode takes those addresses of the inviter for reached that are at an IP address
// which its code names: whoever typed the code means that machine.
func (m *known) trustCode(code []multiaddr.Multiaddr) {
	ip := func(a multiaddr.Multiaddr) netip.Addr {
		raw, _ := manet.ToIP(a)
		addr, _ := netip.AddrFromSlice(raw)
		return addr.Unmap()
	}
	for _, a := range slices.Backward(m.Addrs) {
		if direct(a) && slices.ContainsFunc(code, func(c multiaddr.Multiaddr) bool { return direct(c) && ip(c) == ip(a) }) {
			m.reach(a)
		}
	}
}

// lookFor has a network look for the members, in random order: at the addresses where they
// have been reached, and at a few that they or others claim, of which it believes no more
// than of a stranger's. It is called with s.mu held.
func (s *Swarm) lookFor(cfg *network.Config) {
	var all []peer.ID
	for p := range s.members {
		if s.isMember(p) {
			all = append(all, p)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all[:min(len(all), maxLook)] {
		m := s.members[p]
		if len(m.Reached) > 0 {
			cfg.Reached = append(cfg.Reached, peer.AddrInfo{ID: p, Addrs: slices.Clone(m.Reached)})
		}
		if claimed := ticketAddrs(m.Addrs); len(claimed) > 0 {
			cfg.Claimed = append(cfg.Claimed, peer.AddrInfo{ID: p, Addrs: claimed})
		}
	}
}

// membersAt returns those of the operator's bootstrap addresses that are of known members.
// The network dials with the swarm's key and shows its certificate, though sealed, so it
// must not dial outsiders there, nor members over them; relays are asked by the outer host.
// An address that cannot be parsed is kept, so that the network reports it. It is called
// with s.mu held.
func (s *Swarm) membersAt(bootstrap []string) (out []string) {
	for _, b := range bootstrap {
		a, err := multiaddr.NewMultiaddr(strings.TrimSpace(b))
		if err != nil || s.leadsToMembers(a) {
			out = append(out, b)
		}
	}
	return out
}

// leadsToMembers reports whether the peer at an address is a member that this node knows,
// and so is each relay on the way that would see the swarm's key: those of outer hosts see
// another one. It is called with s.mu held.
func (s *Swarm) leadsToMembers(a multiaddr.Multiaddr) bool {
	at, p := peer.SplitAddr(a)
	if p != "" && outer.Is(at) {
		return s.isMember(p)
	}
	return !slices.ContainsFunc(a, func(c multiaddr.Component) bool {
		return c.Protocol().Code == multiaddr.P_P2P && !s.isMember(peer.ID(c.RawValue()))
	})
}

// isMember reports whether this node knows a peer as a member. It is called with s.mu held.
func (s *Swarm) isMember(p peer.ID) bool {
	m := s.members[p]
	return m != nil && !s.lists.Has(m.Certificate)
}
