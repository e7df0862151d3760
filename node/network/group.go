package network

import (
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Keys are free but addresses are not, so what strangers must share fairly is
// shared among groups of addresses.

// GroupOf returns the group of addresses that a belongs to: the /24 of an IPv4
// address and the /48 of an IPv6 one. In a private network, where one owner's
// machines are neighbours, each address is a group of its own. ok is false for
// a loopback address and where there is no IP address.
func GroupOf(a multiaddr.Multiaddr) (group string, ok bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return "", false
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return "", false
	}
	addr = addr.Unmap()
	switch {
	case addr.IsLoopback(), addr.IsUnspecified():
		return "", false
	case addr.IsPrivate(), addr.IsLinkLocalUnicast():
		return addr.String(), true
	}
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.Prefix(bits)
	return p.String(), err == nil
}

// Group returns the group of addresses from which a peer is connected. A peer
// on loopback, over a relay, or not connected is a group of its own, named by
// its peer ID.
func (n *Network) Group(p peer.ID) string {
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if c.Stat().Limited {
			continue
		}
		if g, ok := GroupOf(c.RemoteMultiaddr()); ok {
			return g
		}
	}
	return p.String()
}
