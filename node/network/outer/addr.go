package outer

import (
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Is reports whether an address is one of a circuit between outer hosts.
func Is(a multiaddr.Multiaddr) bool {
	_, _, ok := split(a)
	return ok
}

// split returns the address of an outer host at a relay, which ends in /p2p-circuit, and
// its ID.
func split(a multiaddr.Multiaddr) (at multiaddr.Multiaddr, front peer.ID, ok bool) {
	n := len(a) - 3 // /p2p-circuit/p2p/FRONT/p2p-circuit
	if n < 1 || a[n].Protocol().Code != multiaddr.P_CIRCUIT || a[n+1].Protocol().Code != multiaddr.P_P2P || a[n+2].Protocol().Code != multiaddr.P_CIRCUIT {
		return nil, "", false
	}
	front, err := peer.IDFromBytes(a[n+1].RawValue())
	return a[:n+1], front, err == nil
}

// join returns the address of a circuit: at is what comes before the relay's ID.
func join(at multiaddr.Multiaddr, relay, front peer.ID) multiaddr.Multiaddr {
	return multiaddr.Join(at, p2p(relay), circuit, p2p(front), circuit)
}

var circuit = multiaddr.StringCast("/p2p-circuit")

func p2p(p peer.ID) multiaddr.Multiaddr {
	c, err := multiaddr.NewComponent("p2p", p.String())
	if err != nil { // it is no ID at all
		return nil
	}
	return c.Multiaddr()
}

// RelayIn returns the relay that an address of a circuit between outer hosts leads
// through; ok is false for other addresses.
func RelayIn(a multiaddr.Multiaddr) (relay peer.AddrInfo, ok bool) {
	at, _, ok := split(a)
	if !ok {
		return relay, false
	}
	info, err := peer.AddrInfoFromP2pAddr(at[:len(at)-1])
	if err != nil || len(info.Addrs) == 0 {
		return relay, false
	}
	return *info, true
}

// kindOf tells addresses apart by IP version and transport; ok is false for one that is
// no IP address with TCP or QUIC.
func kindOf(a multiaddr.Multiaddr) (kind int, ok bool) {
	var codes []int
	for _, c := range a {
		codes = append(codes, c.Protocol().Code)
	}
	kind = slices.IndexFunc([][]int{
		{multiaddr.P_IP4, multiaddr.P_UDP, multiaddr.P_QUIC_V1}, {multiaddr.P_IP6, multiaddr.P_UDP, multiaddr.P_QUIC_V1},
		{multiaddr.P_IP4, multiaddr.P_TCP}, {multiaddr.P_IP6, multiaddr.P_TCP},
	}, func(form []int) bool { return slices.Equal(form, codes) })
	return kind, kind >= 0
}
