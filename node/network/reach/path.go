package reach

import (
	"slices"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Relayed reports whether a connection goes through a relay. A relay without
// limits does not mark its circuits as limited, so the address decides as well.
func Relayed(c network.Conn) bool {
	return c.Stat().Limited || IsCircuit(c.RemoteMultiaddr())
}

// IsCircuit reports whether an address leads through a relay.
func IsCircuit(a multiaddr.Multiaddr) bool {
	return slices.ContainsFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT })
}

// RelayOf returns the relay in an address, or "".
func RelayOf(a multiaddr.Multiaddr) peer.ID {
	if !IsCircuit(a) {
		return ""
	}
	for _, c := range a { // the relay's ID comes before the word p2p-circuit
		switch c.Protocol().Code {
		case multiaddr.P_P2P:
			id, err := peer.IDFromBytes(c.RawValue())
			if err != nil {
				return ""
			}
			return id
		case multiaddr.P_CIRCUIT:
			return ""
		}
	}
	return ""
}

// Base returns the part of an address before a relay's circuit; of any other
// address, all of it.
func Base(a multiaddr.Multiaddr) multiaddr.Multiaddr {
	base, _ := multiaddr.SplitFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT })
	return base
}
