package network

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/node/network/reach"
)

const (
	maxAddrs   = 8                // per peer: unproven addresses that are dialled
	shunTime   = 10 * time.Minute // how long an address is shunned after a peer failed to prove itself there
	againTime  = time.Minute      // first retry of the same peer at such an address; the wait grows each time
	undialled  = 10 * time.Second // a dial that was allowed but has not begun after this time is forgotten
	maxSpots   = 4096             // entries that the gate remembers, of each kind
	perIP      = 16               // dials per shunTime that prove nobody, to an IP address where nobody is proven
	perNet     = 64               // the same per group of addresses
	provenMore = 8                // the limit is this many times higher where somebody is proven
	holeMore   = 8                // the limit of dials at holes is this many times higher
)

// gate decides which addresses this node dials. Every source of a peer's
// addresses (an offer, the DHT, identify, or a peer that fetches the same
// model) can name anybody's. So dials on a stranger's word are bounded, and
// networks that strangers have no business with are not dialled at all.
//
// An address may be dialled freely for a peer that has proven itself there, and
// where the operator named it. For all others:
//
//   - loopback and private networks are dialled only if this node is on such a
//     network and a peer is connected from there;
//   - one peer at a time is tried at an address, at most eight addresses per
//     peer; an address at which a peer did not prove itself is not dialled for
//     ten minutes for any other peer, and only at growing intervals for that
//     one;
//   - each IP address, and each group of addresses, has a limit of dials per
//     ten minutes that prove nobody, and another one for dials at holes: an
//     attempt takes up to two dozen, and many fail before the one that succeeds.
//
// A peer proves itself at an address by a connection, in either direction.
type gate struct {
	now      func() time.Time
	here     func(block netip.Prefix) bool // reports whether this node is on such a network
	met      func(block netip.Prefix) bool // reports whether a peer is connected from there
	sending  func(netip.Addr)              // called before each dial; nil: by nobody
	began    func(network.Conn)            // called with each connection before it is used; nil: nothing is
	outside  bool                          // outer hosts of members are dialled
	loopback bool                          // this node listens on loopback alone, so all its peers are there

	mu      sync.Mutex
	named   map[peer.ID]map[spot]bool // true: named by the operator, or proven before the restart; false: found on the LAN
	names   map[string]peer.ID        // addresses with a DNS name that the operator named
	full    map[spot]time.Time        // where a peer refused a connection
	punches map[peer.ID]punch         // holes that are being punched
	proven  map[spot]peer.ID
	tried   map[spot]*try
	waiting map[peer.ID]int // spots with a dial under way
	spent   map[account]*purse
	swept   time.Time
	overTCP peer.ID               // a peer that is not dialled over UDP now
	dead    map[peer.ID]time.Time // relays that did not answer, and when
	linked  func(peer.ID) bool    // reports whether there is a direct connection to a peer; nil: there is none yet
}

// spot is a place where something may listen: address, port and protocol.
type spot struct {
	at  netip.AddrPort
	udp bool
}

// punch is a hole that is being punched towards a peer. Its dials may follow each
// other at once, because each may open what the last one met closed.
type punch struct {
	spots []spot
	until time.Time
}

// punchTime is how long the dials of one attempt at a hole may take to begin.
const punchTime = 5 * time.Second

// try is a dial that is under way or has failed.
type try struct {
	peer         peer.ID
	hole         bool // it is charged as a dial at a hole
	begun        time.Time
	over         bool
	failures     int
	again, until time.Time // when it may be tried again, for the same peer and for others
}

// account is what dials are charged to: an IP address or a group of them, at holes or not.
type account struct {
	at   netip.Prefix
	hole bool
}

// purse counts the dials that may still fail to prove anybody.
type purse struct {
	left   float64
	at     time.Time
	proven bool
}

func newGate() *gate {
	return &gate{
		now: time.Now, here: isHere, met: func(netip.Prefix) bool { return false },
		named: map[peer.ID]map[spot]bool{}, names: map[string]peer.ID{}, full: map[spot]time.Time{}, punches: map[peer.ID]punch{}, proven: map[spot]peer.ID{}, tried: map[spot]*try{},
		waiting: map[peer.ID]int{}, spent: map[account]*purse{}, dead: map[peer.ID]time.Time{},
	}
}

// spotOf returns the spot of an address. ok is false for a relay's address, and
// for a DNS name, which only a request could resolve.
func spotOf(a multiaddr.Multiaddr) (s spot, ok bool) {
	if len(a) < 2 || slices.ContainsFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT }) {
		return s, false
	}
	ip, ok := netip.AddrFromSlice(a[0].RawValue())
	if code := a[0].Protocol().Code; !ok || code != multiaddr.P_IP4 && code != multiaddr.P_IP6 {
		return s, false
	}
	code := a[1].Protocol().Code
	if code != multiaddr.P_TCP && code != multiaddr.P_UDP {
		return s, false
	}
	port := binary.BigEndian.Uint16(a[1].RawValue())
	return spot{netip.AddrPortFrom(ip.Unmap(), port), code == multiaddr.P_UDP}, true
}

// blockOf returns the loopback or private network that contains an address; ok
// is false for a public one.
func blockOf(ip netip.Addr) (block netip.Prefix, ok bool) {
	list := private4
	if ip.Is6() {
		list = private6
	}
	i := slices.IndexFunc(list, func(p netip.Prefix) bool { return p.Contains(ip) })
	if i < 0 {
		return block, false
	}
	return list[i], true
}

// isHere reports whether an interface of this machine has an address in a
// block.
func isHere(block netip.Prefix) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		p, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(p.IP)
		return ok && block.Contains(ip.Unmap())
	})
}

// name allows a peer to be dialled at addresses of any kind, because the
// operator named them or they were proven before the restart.
func (g *gate) name(p peer.AddrInfo) { g.note(p, true) }

// find notes a peer that was found on the LAN. It may be dialled there even if
// no other peer is connected from there. This does not extend to loopback or to
// public addresses.
func (g *gate) find(p peer.AddrInfo) {
	p.Addrs = slices.DeleteFunc(slices.Clone(p.Addrs), func(a multiaddr.Multiaddr) bool {
		s, ok := spotOf(a)
		block, private := blockOf(s.at.Addr())
		return !ok || !private || block.Addr().IsLoopback() || !g.here(block)
	})
	g.note(p, false)
}

func (g *gate) note(p peer.AddrInfo, operator bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	of := g.named[p.ID]
	if of == nil {
		if !operator && len(g.named) >= maxSpots {
			return
		}
		of = map[spot]bool{}
		g.named[p.ID] = of
	}
	for _, a := range p.Addrs {
		s, ok := spotOf(a)
		if !ok && operator {
			g.names[string(a.Bytes())] = p.ID
		}
		if ok && (operator || len(of) < maxAddrs) {
			of[s] = of[s] || operator
		}
	}
}

// allow reports whether a peer may be dialled at an address, and counts the
// dial.
func (g *gate) allow(p peer.ID, a multiaddr.Multiaddr) bool {
	if _, err := a.ValueForProtocol(multiaddr.P_CIRCUIT); err == nil {
		// The relay is dialled as a peer of its own.
		return !g.shuns(reach.RelayOf(a)) && (g.outside || !outer.Is(a))
	}
	s, ok := spotOf(a)
	if !ok {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.udp && p == g.overTCP {
		return false
	}
	operator, found := g.named[p][s]
	if operator || g.proven[s] == p {
		return true
	}
	if g.sweep(); !g.reachable(s.at.Addr(), found) {
		return false
	}
	t := g.tried[s]
	now := g.now()
	hole := now.Before(g.punches[p].until) && slices.Contains(g.punches[p].spots, s)
	switch {
	case t == nil:
	case !t.over:
		return t.peer == p
	case hole:
	case t.peer == p && now.Before(t.again), t.peer != p && now.Before(t.until):
		return false
	}
	if g.waiting[p] >= maxAddrs || !g.pay(s.at.Addr(), hole) {
		return false
	}
	if t == nil || t.peer != p {
		t = &try{peer: p}
		g.tried[s] = t
	}
	t.begun, t.over, t.hole = now, false, hole
	g.waiting[p]++
	return true
}

// reachable reports whether an address is in a network that a stranger may
// name.
func (g *gate) reachable(ip netip.Addr, found bool) bool {
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	block, private := blockOf(ip)
	switch {
	case !private, found, g.loopback && ip.IsLoopback():
		return true
	}
	return g.here(block) && g.met(block)
}

// purses returns the purses that a dial to an address is charged to. Called
// with mu held.
func (g *gate) purses(ip netip.Addr, hole bool) [2]*purse {
	bits, wide := 64, 48
	if ip.Is4() {
		bits, wide = 32, 24
	}
	one, _ := ip.Prefix(bits)
	many, private := blockOf(ip)
	if !private {
		many, _ = ip.Prefix(wide)
	}
	var out [2]*purse
	for i, at := range []netip.Prefix{one, many} {
		key := account{at, hole}
		p := g.spent[key]
		if p == nil {
			p = &purse{at: g.now(), left: float64(allowance(i, hole, false))}
			g.spent[key] = p
		}
		most := float64(allowance(i, hole, p.proven))
		p.left = min(most, p.left+most*g.now().Sub(p.at).Seconds()/shunTime.Seconds())
		p.at = g.now()
		out[i] = p
	}
	return out
}

func allowance(i int, hole, proven bool) int {
	n := perIP
	if i > 0 {
		n = perNet
	}
	if hole {
		n *= holeMore
	}
	if proven {
		n *= provenMore
	}
	return n
}

func (g *gate) pay(ip netip.Addr, hole bool) bool {
	all := g.purses(ip, hole)
	for _, p := range all {
		if p.left < 1 {
			return false
		}
	}
	for _, p := range all {
		p.left--
	}
	return true
}

func (g *gate) payBack(ip netip.Addr, hole bool) {
	for _, p := range g.purses(ip, hole) {
		p.left++
	}
}

// sweep forgets dials that did not begin and entries that have expired. Called
// with mu held.
func (g *gate) sweep() {
	now := g.now()
	if now.Sub(g.swept) < time.Second {
		return
	}
	g.swept = now
	for s, t := range g.tried {
		if !t.over && now.Sub(t.begun) > undialled { // another address was faster
			g.payBack(s.at.Addr(), t.hole)
			g.end(t)
			if t.failures == 0 {
				delete(g.tried, s)
			}
		}
		if t.over && now.After(t.until) && now.After(t.again) {
			delete(g.tried, s)
		}
	}
	trim(g.tried, func(t *try) bool { return t.over })
	trim(g.spent, func(p *purse) bool { return true })
	trim(g.proven, func(peer.ID) bool { return true })
	trim(g.full, func(at time.Time) bool { return true })
	for p, of := range g.punches {
		if now.After(of.until) {
			delete(g.punches, p)
		}
	}
}

// punch lets a peer be dialled at these addresses although a moment ago it has not
// proven itself there, or another has not: else anybody could keep two peers apart
// by naming the address of one as its own, and a new key at an old address would be
// reached over relays alone. Each dial still counts, with others at holes: those of one
// attempt that fails would else use up what an address allows, and no later one would
// send a packet.
func (g *gate) punch(p peer.ID, addrs []multiaddr.Multiaddr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweep()
	if len(g.punches) >= maxSpots {
		return
	}
	of := punch{until: g.now().Add(punchTime)}
	for _, a := range addrs {
		if s, ok := spotOf(a); ok {
			of.spots = append(of.spots, s)
		}
	}
	g.punches[p] = of
}

// trim removes arbitrary entries that may be removed until maxSpots are left.
func trim[K comparable, V any](m map[K]V, may func(V) bool) {
	for k, v := range m {
		if len(m) <= maxSpots {
			return
		}
		if may(v) {
			delete(m, k)
		}
	}
}

func (g *gate) end(t *try) {
	t.over = true
	if g.waiting[t.peer]--; g.waiting[t.peer] <= 0 {
		delete(g.waiting, t.peer)
	}
}

// prove notes that a peer is at an address.
func (g *gate) prove(p peer.ID, a multiaddr.Multiaddr) {
	s, ok := spotOf(a)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proven[s] = p
	if t := g.tried[s]; t != nil {
		if !t.over {
			g.payBack(s.at.Addr(), t.hole)
			g.end(t)
		}
		delete(g.tried, s)
	}
	for _, hole := range []bool{false, true} {
		for _, purse := range g.purses(s.at.Addr(), hole) {
			if !purse.proven {
				purse.proven, purse.left = true, provenMore*purse.left
			}
		}
	}
}

// isProven reports whether a peer has proven itself at an address.
func (g *gate) isProven(p peer.ID, a multiaddr.Multiaddr) bool {
	s, ok := spotOf(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	return ok && g.proven[s] == p
}

// miss notes that a dial failed.
func (g *gate) miss(a multiaddr.Multiaddr, err error) {
	s, ok := spotOf(a)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if refused(err) {
		g.full[s] = g.now()
	}
	t := g.tried[s]
	if t == nil || t.over {
		return
	}
	g.end(t)
	switch {
	case errors.Is(err, network.ErrResourceLimitExceeded): // this node's own limit
		g.payBack(s.at.Addr(), t.hole)
		delete(g.tried, s)
	case errors.Is(err, context.Canceled): // another address was faster
		if t.failures == 0 {
			delete(g.tried, s)
		}
	default:
		now := g.now()
		t.again, t.until = now.Add(min(shunTime, againTime<<min(t.failures, 8))), now.Add(shunTime)
		t.failures++
	}
}

// isFull reports whether a peer at one of these addresses recently refused a
// connection.
func (g *gate) isFull(addrs []multiaddr.Multiaddr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(addrs, func(a multiaddr.Multiaddr) bool {
		s, ok := spotOf(a)
		at, full := g.full[s]
		return ok && full && g.now().Sub(at) < againTime
	})
}

// believable filters addresses that a peer reported of another, or of itself,
// keeping those that it can know of: a peer elsewhere knows nothing of this
// machine's loopback or of a private network. Names are left out, because
// resolving one is a request as well.
func believable(teller network.Conn, addrs []multiaddr.Multiaddr) (out []multiaddr.Multiaddr) {
	var from spot
	if teller != nil && !teller.Stat().Limited {
		from, _ = spotOf(teller.RemoteMultiaddr())
	}
	home, lan := blockOf(from.at.Addr())
	far := map[string]int{} // after those in the teller's own network
	for _, a := range addrs {
		// For an address over a relay, the relay is what is dialled.
		base, _ := multiaddr.SplitFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT })
		s, ok := spotOf(base)
		if !ok {
			continue
		}
		block, private := blockOf(s.at.Addr())
		switch {
		case !private:
			far[string(a.Bytes())] = 1
		case !lan || s.at.Addr().IsLoopback() && !from.at.Addr().IsLoopback():
			continue
		case block != home: // such as a container's network
			far[string(a.Bytes())] = 2
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b multiaddr.Multiaddr) int { return far[string(a.Bytes())] - far[string(b.Bytes())] })
	return out[:min(len(out), maxAddrs)]
}

// names resolves the names that the operator gave, and no others: with a
// stranger's name, the lookup would be a request to a server of the stranger's
// choice.
type names struct {
	swarm.ResolverFromMaDNS
	gate *gate
}

var errName = errors.New("only addresses that the operator named may have names")

func (r names) ResolveDNSAddr(ctx context.Context, p peer.ID, a multiaddr.Multiaddr, recursion, most int) ([]multiaddr.Multiaddr, error) {
	return r.resolve(a, func() ([]multiaddr.Multiaddr, error) {
		return r.ResolverFromMaDNS.ResolveDNSAddr(ctx, p, a, recursion, most)
	})
}

func (r names) ResolveDNSComponent(ctx context.Context, a multiaddr.Multiaddr, most int) ([]multiaddr.Multiaddr, error) {
	return r.resolve(a, func() ([]multiaddr.Multiaddr, error) { return r.ResolverFromMaDNS.ResolveDNSComponent(ctx, a, most) })
}

func (r names) resolve(a multiaddr.Multiaddr, ask func() ([]multiaddr.Multiaddr, error)) ([]multiaddr.Multiaddr, error) {
	r.gate.mu.Lock()
	p, named := r.gate.names[string(a.Bytes())]
	r.gate.mu.Unlock()
	if !named {
		return nil, errName
	}
	found, err := ask()
	if err == nil {
		r.gate.name(peer.AddrInfo{ID: p, Addrs: found})
	}
	return found, err
}

// The methods of libp2p's ConnectionGater.

func (g *gate) InterceptPeerDial(peer.ID) bool              { return true }
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }
func (g *gate) InterceptAddrDial(p peer.ID, a multiaddr.Multiaddr) bool {
	ok := g.allow(p, a)
	if s, direct := spotOf(a); ok && direct && g.sending != nil {
		g.sending(s.at.Addr())
	}
	return ok
}

func (g *gate) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}

func (g *gate) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	g.forgive(c.RemotePeer())
	if !c.Stat().Limited {
		g.prove(c.RemotePeer(), c.RemoteMultiaddr())
	}
	if g.began != nil {
		g.began(c)
	}
	return true, 0
}

// The methods of the swarm's MetricsTracer, which is called with the outcome of
// each dial.

func (g *gate) FailedDialing(a multiaddr.Multiaddr, err, cause error) {
	if errors.Is(cause, context.Canceled) {
		err = cause
	}
	g.miss(a, err)
}

func (g *gate) OpenedConnection(network.Direction, crypto.PubKey, network.ConnectionState, multiaddr.Multiaddr) {
}
func (g *gate) ClosedConnection(network.Direction, time.Duration, network.ConnectionState, multiaddr.Multiaddr) {
}
func (g *gate) CompletedHandshake(time.Duration, network.ConnectionState, multiaddr.Multiaddr) {}
func (g *gate) DialCompleted(bool, int, time.Duration)                                         {}
func (g *gate) DialRankingDelay(time.Duration)                                                 {}
func (g *gate) UpdatedBlackHoleSuccessCounter(string, swarm.BlackHoleState, int, float64)      {}
