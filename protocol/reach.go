package protocol

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Limits of /shoal/reach/1.
const (
	MaxReach      = 2 << 10 // bytes of a request or reply
	MaxReachAddrs = 4       // addresses, or ports of one kind
)

// RelayKey is the provider key of "I am a relay for this swarm".
func RelayKey() cid.Cid { return textKey("shoal/relay") }

// ErrReach is wrapped by errors about requests and replies on /shoal/reach/1.
var ErrReach = errors.New("malformed request for help with being reached")

// Reach is a request on /shoal/reach/1 that has been checked.
type Reach struct {
	Kind     ReachKind
	UDP, TCP []uint16              // of a REACH_CHECK
	Peer     peer.ID               // of a REACH_DIAL
	Addrs    []multiaddr.Multiaddr // IP address and port, over QUIC or TCP
	Outside  []netip.Addr          // of a REACH_PUNCH
}

// OpenReach checks a request. Its error wraps ErrReach.
func OpenReach(m *ReachRequest) (r Reach, err error) {
	bad := func(what string) (Reach, error) { return Reach{}, fmt.Errorf("%w: %s", ErrReach, what) }
	r.Kind = m.GetKind()
	var ok bool
	switch r.Kind {
	case ReachKind_REACH_CHECK:
		if r.UDP, ok = reachPorts(m.GetUdp()); ok {
			r.TCP, ok = reachPorts(m.GetTcp())
		}
		if !ok || len(r.UDP)+len(r.TCP) == 0 {
			return bad("ports")
		}
	case ReachKind_REACH_DIAL:
		if r.Peer, err = peer.IDFromBytes(m.GetPeer()); err != nil {
			return bad("peer ID")
		}
		if r.Addrs, err = ReachAddrs(m.GetAddrs()); err != nil || len(r.Addrs) == 0 {
			return bad("addresses")
		}
	case ReachKind_REACH_PUNCH:
		if r.Addrs, err = ReachAddrs(m.GetAddrs()); err != nil {
			return bad("addresses")
		}
		if len(m.GetOutside()) > MaxReachAddrs {
			return bad("outside addresses")
		}
		for _, raw := range m.GetOutside() {
			ip, ok := netip.AddrFromSlice(raw)
			if !ok {
				return bad("outside addresses")
			}
			r.Outside = append(r.Outside, ip.Unmap())
		}
	default:
		return bad("kind")
	}
	return r, nil
}

func reachPorts(list []uint32) (out []uint16, ok bool) {
	for _, p := range list {
		if p == 0 || p > 65535 {
			return nil, false
		}
		out = append(out, uint16(p))
	}
	return out, len(out) <= MaxReachAddrs
}

// ReachAddrs checks the addresses of a request or a reply: an IP address and a
// port, over QUIC or TCP, and nothing else. The error wraps ErrReach.
func ReachAddrs(raw [][]byte) (out []multiaddr.Multiaddr, err error) {
	if len(raw) > MaxReachAddrs {
		return nil, fmt.Errorf("%w: %d addresses", ErrReach, len(raw))
	}
	for _, b := range raw {
		a, err := multiaddr.NewMultiaddrBytes(b)
		if err != nil || !plainAddr(a) {
			return nil, fmt.Errorf("%w: an address", ErrReach)
		}
		out = append(out, a)
	}
	return out, nil
}

// plainAddr reports whether an address is an IP address and a port, over QUIC or
// TCP.
func plainAddr(a multiaddr.Multiaddr) bool {
	var codes []int
	for _, c := range a {
		codes = append(codes, c.Protocol().Code)
	}
	if len(codes) == 0 || codes[0] != multiaddr.P_IP4 && codes[0] != multiaddr.P_IP6 {
		return false
	}
	rest := codes[1:]
	return slices.Equal(rest, []int{multiaddr.P_TCP}) || slices.Equal(rest, []int{multiaddr.P_UDP, multiaddr.P_QUIC_V1})
}
