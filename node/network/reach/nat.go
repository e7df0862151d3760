package reach

import (
	"net/netip"
	"time"
)

// Mapping is how a NAT chooses the outside port of what leaves the node.
type Mapping string

// The kinds of mapping, as two peers in different networks see them.
const (
	MappingUnknown Mapping = "unknown"   // fewer than two peers have said how they see this node
	MappingNone    Mapping = "none"      // no NAT: the address is this machine's own
	MappingSame    Mapping = "same"      // the same port to everybody: a hole can be punched
	MappingPerPeer Mapping = "symmetric" // another port to each peer: only towards peers that anybody can dial
)

// Transport is what is sent over.
type Transport string

// The transports.
const (
	UDP4 Transport = "udp4"
	UDP6 Transport = "udp6"
	TCP4 Transport = "tcp4"
	TCP6 Transport = "tcp6"
)

// TransportOf returns the transport of an address.
func TransportOf(ip netip.Addr, udp bool) Transport {
	switch v4 := ip.Unmap().Is4(); {
	case v4 && udp:
		return UDP4
	case v4:
		return TCP4
	case udp:
		return UDP6
	}
	return TCP6
}

// Seen is what peers see of one transport.
type Seen struct {
	Mapping   Mapping
	Outside   netip.AddrPort // as most recently seen; with MappingPerPeer, one of many
	Observers int            // groups of addresses whose peers said so
}

const (
	sightLife  = time.Hour
	maxSights  = 16 // per transport
	minSeenFor = 2  // observers that a mapping needs
)

type sight struct {
	outside netip.AddrPort
	at      time.Time
}

// Observers collects how peers see this node. What one peer says is not
// verified, and peers of one group of addresses count as one. The zero value is
// ready to use; it is not safe for concurrent use.
type Observers struct {
	seen  map[Transport]map[netip.Prefix]sight
	at    map[bool]netip.Addr                  // this node's outside address, by "is IPv4"
	doubt map[bool]map[netip.Prefix]netip.Addr // who sees another one
}

// Note notes that a peer sees this node at an address. Only connections that
// this node made from the port on which it listens say how its NAT maps that
// port. Note reports whether the outside address has changed: two peers, or the
// only one there is, see another one than before.
func (o *Observers) Note(by netip.Addr, outside netip.AddrPort, udp bool, now time.Time) (moved bool) {
	by, outside = by.Unmap(), netip.AddrPortFrom(outside.Addr().Unmap(), outside.Port())
	if !Public(by) || !Public(outside.Addr()) || outside.Port() == 0 || by.Is4() != outside.Addr().Is4() {
		return false
	}
	if moved = o.elsewhere(groupOf(by), outside.Addr()); moved {
		o.seen = nil
	}
	t := TransportOf(outside.Addr(), udp)
	if o.seen == nil {
		o.seen = map[Transport]map[netip.Prefix]sight{}
	}
	of := o.seen[t]
	if of == nil {
		of = map[netip.Prefix]sight{}
		o.seen[t] = of
	}
	of[groupOf(by)] = sight{outside, now}
	for len(of) > maxSights {
		var oldest netip.Prefix
		for g, s := range of {
			if !oldest.IsValid() || s.at.Before(of[oldest].at) {
				oldest = g
			}
		}
		delete(of, oldest)
	}
	return moved
}

// elsewhere notes who sees this node at which address, and reports whether it
// has moved.
func (o *Observers) elsewhere(by netip.Prefix, at netip.Addr) bool {
	v4 := at.Is4()
	if o.at == nil {
		o.at, o.doubt = map[bool]netip.Addr{}, map[bool]map[netip.Prefix]netip.Addr{}
	}
	if o.doubt[v4] == nil {
		o.doubt[v4] = map[netip.Prefix]netip.Addr{}
	}
	delete(o.doubt[v4], by)
	if !o.at[v4].IsValid() {
		o.at[v4] = at
	}
	if o.at[v4] == at {
		return false
	}
	agree, others := 1, 0
	for _, ip := range o.doubt[v4] {
		if ip == at {
			agree++
		}
	}
	for t, of := range o.seen {
		for g := range of {
			if (t == UDP4 || t == TCP4) == v4 && g != by {
				others++
			}
		}
	}
	if agree >= minSeenFor || others == 0 {
		o.at[v4] = at
		clear(o.doubt[v4])
		return true
	}
	if len(o.doubt[v4]) < maxSights {
		o.doubt[v4][by] = at
	}
	return false
}

// Outside returns this node's outside address of an IP version; it is invalid if
// no peer has said.
func (o *Observers) Outside(ipv4 bool) netip.Addr { return o.at[ipv4] }

// Forget forgets everything: the node is somewhere else.
func (o *Observers) Forget() { *o = Observers{} }

// Of returns what peers see of a transport. own reports whether an address is
// one of this machine's.
func (o *Observers) Of(t Transport, own func(netip.Addr) bool, now time.Time) Seen {
	s := Seen{Mapping: MappingUnknown}
	var last time.Time
	ports := map[netip.AddrPort]bool{}
	for _, x := range o.seen[t] {
		if now.Sub(x.at) > sightLife {
			continue
		}
		s.Observers++
		ports[x.outside] = true
		if !x.at.Before(last) {
			s.Outside, last = x.outside, x.at
		}
	}
	switch {
	case s.Observers == 0:
	case own(s.Outside.Addr()):
		s.Mapping = MappingNone
	case s.Observers < minSeenFor:
	case len(ports) == 1:
		s.Mapping = MappingSame
	default:
		s.Mapping = MappingPerPeer
	}
	return s
}
