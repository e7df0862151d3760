package reach

import (
	"net/netip"
	"time"
)

// Verdict says whether peers elsewhere can dial this node.
type Verdict string

// The verdicts, from the least to the most.
const (
	Unknown Verdict = "unknown" // nothing speaks for it
	Claimed Verdict = "claimed" // something says so that may be wrong
	Proven  Verdict = "proven"  // strangers have connected
)

// Claim is a reason to believe that this node is reachable.
type Claim string

// The claims.
const (
	ByAutoNAT Claim = "autonat" // AutoNAT v2 found an address reachable
	ByMapping Claim = "mapping" // the router has mapped a port
	ByAddress Claim = "address" // an interface has a public address
	ByUser    Claim = "user"    // the operator vouches for it; this alone is also proof
)

const (
	// Window is the time within which two strangers must connect.
	Window = 10 * time.Minute
	// ProofLife is how long a proof holds after the last stranger connected.
	ProofLife = 24 * time.Hour

	knownLife = 24 * time.Hour // how long a NAT may let in an address that was sent to
	maxKnown  = 1 << 16        // addresses that are remembered
)

// State is what a Machine knows at one moment.
type State struct {
	Verdict   Verdict
	Claims    []Claim   // in a fixed order
	Strangers int       // groups of addresses from which strangers connected within Window
	Last      time.Time // when the last stranger connected; zero: none has
	IPv4      bool      // proven over IPv4
	IPv6      bool      // proven over IPv6
	Until     time.Time // when the proof ends; zero: not proven, or the operator vouches for it
}

// Machine decides the verdict. It is not safe for concurrent use. Times that are
// passed to it must not go back.
type Machine struct {
	claims   map[Claim]bool
	refuted  bool                       // AutoNAT found every address unreachable
	known    map[netip.Prefix]time.Time // when an address was last sent to
	blind    map[bool]time.Time         // by "is IPv4": nothing proves anything before
	came     map[netip.Prefix]time.Time
	proofs   map[bool]time.Time // by "is IPv4": when the last stranger came in, once proven
	last     time.Time
	uses4    bool // the node is seen at a public IPv4 address
	vouching bool
}

// New returns a machine. With vouched, the operator says that the node is
// reachable, and it is proven from the start.
func New(vouched bool) *Machine {
	m := &Machine{claims: map[Claim]bool{}, known: map[netip.Prefix]time.Time{}, blind: map[bool]time.Time{}, vouching: vouched}
	m.forget()
	if vouched {
		m.claims[ByUser] = true
	}
	return m
}

func (m *Machine) forget() {
	m.came, m.proofs, m.last = map[netip.Prefix]time.Time{}, map[bool]time.Time{}, time.Time{}
}

// groupOf returns the /16 of an IPv4 address or the /32 of an IPv6 one.
func groupOf(ip netip.Addr) netip.Prefix {
	bits := 32
	if ip.Is4() {
		bits = 16
	}
	p, _ := ip.Prefix(bits) // the length is valid for the address
	return p
}

// placeOf returns what is remembered of an address: an IPv6 one stands for its
// /48, so that one owner of many addresses cannot fill the memory.
func placeOf(ip netip.Addr) netip.Prefix {
	bits := 48
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}

// SameGroup reports whether two addresses count as one stranger.
func SameGroup(a, b netip.Addr) bool { return groupOf(a.Unmap()) == groupOf(b.Unmap()) }

// Sent notes that this node is about to send a packet to an address. Only public
// addresses matter.
func (m *Machine) Sent(ip netip.Addr, now time.Time) {
	ip = ip.Unmap()
	if !Public(ip) {
		return
	}
	m.known[placeOf(ip)] = now
	if len(m.known) <= maxKnown {
		return
	}
	for k, at := range m.known {
		if now.Sub(at) >= knownLife {
			delete(m.known, k)
		}
	}
	for k := range m.known { // in no order: all of them are forgotten too early
		if len(m.known) <= maxKnown {
			break
		}
		delete(m.known, k)
		m.blind[k.Addr().Is4()] = now.Add(knownLife)
	}
}

// CameIn notes that a peer has connected from an address.
func (m *Machine) CameIn(ip netip.Addr, now time.Time) {
	ip = ip.Unmap()
	if !Public(ip) {
		return
	}
	at, met := m.known[placeOf(ip)]
	met = met && now.Sub(at) < knownLife
	m.Sent(ip, now) // answering it opens the NAT for it
	if met || now.Before(m.blind[ip.Is4()]) {
		return
	}
	m.refuted = false
	m.stranger(ip, now)
}

// CameAside notes that a peer has connected from an address to another port of
// this node's, from which packets had been sent to nobody but sent, and reports
// whether the peer is a stranger there: NATs decide for each port by itself whom
// they let in. It counts towards a proof like one that came to the node's own
// port, but proves nothing against AutoNAT, which has tried that port.
func (m *Machine) CameAside(ip, sent netip.Addr, now time.Time) (stranger bool) {
	ip, sent = ip.Unmap(), sent.Unmap()
	if !Public(ip) || SameGroup(ip, sent) || m.refuted {
		return false
	}
	m.Sent(ip, now) // in case that a NAT decides for all ports of a machine together
	m.stranger(ip, now)
	return true
}

// stranger counts one that has come in.
func (m *Machine) stranger(ip netip.Addr, now time.Time) {
	m.last = now
	for g, at := range m.came {
		if now.Sub(at) > Window {
			delete(m.came, g)
		}
	}
	m.came[groupOf(ip)] = now
	if m.strangers(ip.Is4(), now) >= 2 || m.holds(ip.Is4(), now) {
		m.proofs[ip.Is4()] = now
	}
}

// strangers counts the groups of addresses of an IP version from which strangers
// connected within Window.
func (m *Machine) strangers(ipv4 bool, now time.Time) (count int) {
	for g, at := range m.came {
		if g.Addr().Is4() == ipv4 && now.Sub(at) <= Window {
			count++
		}
	}
	return count
}

func (m *Machine) holds(ipv4 bool, now time.Time) bool {
	at, ok := m.proofs[ipv4]
	return ok && now.Sub(at) < ProofLife
}

// Set notes that a claim holds or no longer does. It has no effect on ByUser.
func (m *Machine) Set(c Claim, holds bool) {
	if c != ByUser {
		m.claims[c] = holds
	}
}

// Refute notes that AutoNAT found every public address of this node unreachable.
// A proof ends with that; a stranger that connects later counts again.
func (m *Machine) Refute() {
	m.forget()
	m.refuted = true
	m.claims[ByAutoNAT] = false
}

// Moved notes that this node's public address has changed: what was proven of
// the old one says nothing of the new one. Whom it has sent packets to from the
// old address it must take as known, because a NAT may keep its state.
func (m *Machine) Moved() {
	m.forget()
	m.refuted, m.uses4 = false, false
	m.claims[ByAutoNAT] = false
}

// SeenAt notes that a peer sees this node at an address.
func (m *Machine) SeenAt(ip netip.Addr) {
	ip = ip.Unmap()
	m.uses4 = m.uses4 || ip.Is4() && Public(ip)
}

// State returns what is known now. A node that peers see at a public IPv4
// address is proven over IPv4 or not at all: most peers have nothing else.
func (m *Machine) State(now time.Time) State {
	s := State{Verdict: Unknown, Last: m.last, IPv4: m.holds(true, now), IPv6: m.holds(false, now), Strangers: m.strangers(true, now) + m.strangers(false, now)}
	for _, c := range []Claim{ByUser, ByAutoNAT, ByMapping, ByAddress} {
		if m.claims[c] {
			s.Claims = append(s.Claims, c)
		}
	}
	if len(s.Claims) > 0 && !m.refuted {
		s.Verdict = Claimed
	}
	switch {
	case m.vouching:
		s.Verdict = Proven
	case s.IPv4:
		s.Verdict, s.Until = Proven, m.proofs[true].Add(ProofLife)
	case s.IPv6 && !m.uses4:
		s.Verdict, s.Until = Proven, m.proofs[false].Add(ProofLife)
	}
	return s
}

// never are the networks, besides private ones, that no peer on the internet is
// in.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
}

// Public reports whether an address is one on the internet: not private, not a
// carrier's shared range, not this machine's.
func Public(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range never {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}
