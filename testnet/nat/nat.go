package nat

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Dependence is how much of the remote endpoint a decision depends on.
type Dependence int

const (
	Independent Dependence = iota // the same for every remote
	OnAddress                     // one per remote address
	OnPort                        // one per remote address and port
)

// Kind is the behaviour of a box.
type Kind struct {
	Name         string
	Mapping      Dependence    // of the outside port
	Filter       Dependence    // of what may come in
	PreservePort bool          // use the inside port outside if it is free
	UDPTimeout   time.Duration // idle life of a UDP entry
	TCPTimeout   time.Duration // idle life of a TCP entry
	Hairpin      bool          // inside hosts may reach each other by the outside address
	BlockUDP     bool          // no UDP passes, either way
}

const (
	udpTimeout = time.Minute
	tcpTimeout = 2*time.Hour + 4*time.Minute // RFC 5382
)

// The kinds that tests cross with each other.
var (
	Full      = Kind{Name: "full", Mapping: Independent, Filter: Independent, PreservePort: true, UDPTimeout: udpTimeout, TCPTimeout: tcpTimeout}
	Address   = Kind{Name: "address", Mapping: Independent, Filter: OnAddress, PreservePort: true, UDPTimeout: udpTimeout, TCPTimeout: tcpTimeout}
	Port      = Kind{Name: "port", Mapping: Independent, Filter: OnPort, PreservePort: true, UDPTimeout: udpTimeout, TCPTimeout: tcpTimeout}
	Linux     = Kind{Name: "linux", Mapping: OnPort, Filter: OnPort, PreservePort: true, UDPTimeout: 30 * time.Second, TCPTimeout: tcpTimeout}
	Symmetric = Kind{Name: "symmetric", Mapping: OnPort, Filter: OnPort, UDPTimeout: udpTimeout, TCPTimeout: tcpTimeout}
)

// Kinds returns the five kinds, from the most to the least permissive.
func Kinds() []Kind { return []Kind{Full, Address, Port, Linux, Symmetric} }

// Named returns the kind of that name.
func Named(name string) (Kind, bool) {
	i := slices.IndexFunc(Kinds(), func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return Kinds()[i], true
}

// Punchable reports whether hole punching can connect a host behind a with one
// behind b: unless one draws a new port for each remote endpoint and the other
// lets in only endpoints that it has sent to.
func Punchable(a, b Kind) bool {
	hard := func(a, b Kind) bool { return a.Mapping != Independent && !a.PreservePort && b.Filter == OnPort }
	return !hard(a, b) && !hard(b, a)
}

// Flow is the part of a packet that a NAT looks at.
type Flow struct {
	UDP      bool // else TCP
	Src, Dst netip.AddrPort
}

// key is what entries are chosen by on the way out.
type key struct {
	udp    bool
	inside netip.AddrPort
	remote netip.AddrPort // masked by Kind.Mapping
}

// place is what entries are found by on the way in.
type place struct {
	udp     bool
	outside netip.AddrPort
}

type entry struct {
	key     key
	at      place
	used    time.Time
	allowed map[netip.AddrPort]time.Time // last use, by remote masked by Kind.Filter
}

// NAT is a box with one outside address. It is not safe for concurrent use.
type NAT struct {
	kind    Kind
	outside netip.Addr
	rnd     *rand.Rand
	byKey   map[key]*entry
	byPlace map[place][]*entry
	swept   time.Time
	lowest  int // port
	dropped int
}

// New returns a box whose hosts appear at the address outside. The zero Addr
// makes it a firewall: hosts keep their own addresses and ports, and only
// k.Filter applies. The seed decides random ports.
func New(k Kind, outside netip.Addr, seed uint64) *NAT {
	return &NAT{kind: k, outside: outside, rnd: rand.New(rand.NewPCG(seed, 1)), byKey: map[key]*entry{}, byPlace: map[place][]*entry{}, lowest: 1024}
}

// Kind returns the box's behaviour.
func (n *NAT) Kind() Kind { return n.kind }

// Outside returns the outside address, or the zero Addr for a firewall.
func (n *NAT) Outside() netip.Addr { return n.outside }

// Dropped returns how many packets were refused.
func (n *NAT) Dropped() int { return n.dropped }

// Len returns the number of live entries.
func (n *NAT) Len(now time.Time) (count int) {
	for _, e := range n.byKey {
		if !n.dead(e, now) {
			count++
		}
	}
	return count
}

// Move gives the box another outside address, as a provider does over night or
// a phone does between networks. What was open is gone.
func (n *NAT) Move(outside netip.Addr) {
	n.outside = outside
	clear(n.byKey)
	clear(n.byPlace)
}

// Out translates a packet that leaves the home. It reports false for one that
// does not pass: blocked UDP, no free port, or one to the box itself without
// Hairpin. With Hairpin the caller passes such a packet to In like any other.
func (n *NAT) Out(f Flow, now time.Time) (Flow, bool) {
	if f.UDP && n.kind.BlockUDP || f.Dst.Addr() == n.outside && !n.kind.Hairpin {
		n.dropped++
		return f, false
	}
	e := n.entry(key{f.UDP, f.Src, mask(n.mapping(), f.Dst)}, now)
	if e == nil {
		n.dropped++
		return f, false
	}
	e.used = now
	e.allowed[mask(n.kind.Filter, f.Dst)] = now
	f.Src = e.at.outside
	return f, true
}

// In translates a packet that arrives from outside, and reports whether it may
// come in.
func (n *NAT) In(f Flow, now time.Time) (Flow, bool) {
	if f.UDP && n.kind.BlockUDP {
		n.dropped++
		return f, false
	}
	for _, e := range n.byPlace[place{f.UDP, f.Dst}] {
		if n.dead(e, now) || e.key.remote != mask(n.mapping(), f.Src) {
			continue
		}
		from := mask(n.kind.Filter, f.Src)
		last, ok := e.allowed[from]
		if !ok || now.Sub(last) > n.timeout(f.UDP) {
			continue
		}
		e.used, e.allowed[from] = now, now
		f.Dst = e.key.inside
		return f, true
	}
	n.dropped++
	return f, false
}

func mask(d Dependence, a netip.AddrPort) netip.AddrPort {
	switch d {
	case OnAddress:
		return netip.AddrPortFrom(a.Addr(), 0)
	case OnPort:
		return a
	}
	return netip.AddrPort{}
}

func (n *NAT) firewall() bool { return !n.outside.IsValid() }

func (n *NAT) mapping() Dependence {
	if n.firewall() {
		return Independent
	}
	return n.kind.Mapping
}

func (n *NAT) timeout(udp bool) time.Duration {
	if udp {
		return n.kind.UDPTimeout
	}
	return n.kind.TCPTimeout
}

func (n *NAT) dead(e *entry, now time.Time) bool { return now.Sub(e.used) > n.timeout(e.key.udp) }

// entry returns the live entry for k, a new one if need be, or nil if there is
// no free port.
func (n *NAT) entry(k key, now time.Time) *entry {
	if e := n.byKey[k]; e != nil {
		if !n.dead(e, now) {
			return e
		}
		n.remove(e)
	}
	if now.Sub(n.swept) > n.kind.UDPTimeout {
		n.sweep(now)
	}
	at, ok := n.pick(k, now)
	if !ok {
		return nil
	}
	e := &entry{key: k, at: at, allowed: map[netip.AddrPort]time.Time{}}
	n.byKey[k] = e
	n.byPlace[at] = append(n.byPlace[at], e)
	return e
}

// pick chooses where an entry appears outside: at the inside port if the kind
// preserves it and it is free, else at a random free one.
func (n *NAT) pick(k key, now time.Time) (place, bool) {
	if n.firewall() {
		return place{k.udp, k.inside}, true
	}
	at := func(port uint16) place { return place{k.udp, netip.AddrPortFrom(n.outside, port)} }
	if p := at(k.inside.Port()); n.kind.PreservePort && n.shareable(p, k, now) {
		return p, true
	}
	const tries = 64
	start, count := 0, 1<<16-n.lowest
	for i := range tries + count {
		if i < tries { // then one after the other
			start = n.rnd.IntN(count)
		}
		p := at(uint16(n.lowest + (start+i)%count))
		if !slices.ContainsFunc(n.byPlace[p], func(e *entry) bool { return !n.dead(e, now) }) {
			return p, true
		}
	}
	return place{}, false
}

// shareable reports whether an entry for k may be at p: all live ones there are
// of the same inside endpoint, so that packets to p go to nobody else. That is
// how Linux uses one outside port for many remotes.
func (n *NAT) shareable(p place, k key, now time.Time) bool {
	return !slices.ContainsFunc(n.byPlace[p], func(e *entry) bool { return !n.dead(e, now) && e.key.inside != k.inside })
}

func (n *NAT) remove(e *entry) {
	delete(n.byKey, e.key)
	left := slices.DeleteFunc(n.byPlace[e.at], func(x *entry) bool { return x == e })
	if n.byPlace[e.at] = left; len(left) == 0 {
		delete(n.byPlace, e.at)
	}
}

// sweep removes dead entries and what live ones no longer allow.
func (n *NAT) sweep(now time.Time) {
	n.swept = now
	for _, e := range n.byKey {
		if n.dead(e, now) {
			n.remove(e)
			continue
		}
		for remote, last := range e.allowed {
			if now.Sub(last) > n.timeout(e.key.udp) {
				delete(e.allowed, remote)
			}
		}
	}
}
