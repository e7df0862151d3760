package network

import (
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Machine names the machine on which a peer runs, as far as its address tells; "": it does
// not. Peers with one name share its cores.
func (n *Network) Machine(p peer.ID) string {
	if p == n.host.ID() {
		return thisMachine
	}
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if !c.Stat().Limited {
			return machineOf(c.LocalMultiaddr(), c.RemoteMultiaddr())
		}
	}
	return ""
}

const thisMachine = "localhost"

// machineOf names the machine at the far end of a connection. Many machines may share a
// public IPv4 address, but hardly a private one, as seen in that private network.
func machineOf(local, remote multiaddr.Multiaddr) string {
	addr, ok := ipOf(remote)
	if !ok {
		return ""
	}
	own, _ := ipOf(local)
	switch {
	case addr.IsLoopback(), addr == own:
		return thisMachine
	case addr.IsPrivate(), addr.IsLinkLocalUnicast(), addr.Is6():
		return addr.String()
	}
	return ""
}

func ipOf(a multiaddr.Multiaddr) (netip.Addr, bool) {
	if a == nil {
		return netip.Addr{}, false
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok && !addr.IsUnspecified()
}
