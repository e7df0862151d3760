package network

import (
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Keys are free and addresses are not, so what is to be shared fairly among
// strangers is shared among groups of addresses.

// GroupOf names the group of addresses that a is of: the /24 of an IPv4 address
// and the /48 of an IPv6 one. On this machine and on a private network, where
// machines of one owner stand close together, each address is a group of its
// own, and loopback is none: ok is false there, and where there is no address.
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

// Group names the group of addresses from which a peer is connected, and the
// peer itself where there is none: a peer on loopback, over a relay, or not
// connected stands for itself.
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
