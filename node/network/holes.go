package network

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

// NotDirect is why a peer is reached over a relay alone.
type NotDirect string

// The reasons.
const (
	NotTried      NotDirect = "not-tried"   // no attempt has ended yet
	NoCommonHole  NotDirect = "nat"         // the NATs of the two let nothing through
	HereSymmetric NotDirect = "symmetric"   // so they do, and this node's gives each peer another port
	NoOutside     NotDirect = "no-address"  // one of the two does not know its outside address
	PeerCannot    NotDirect = "unsupported" // the peer does not punch holes
)

// Outcomes of attempts at a direct path, as Punches counts them.
const (
	PunchDialed = "dialed"  // the peer could be dialled; no hole was needed
	PunchOpened = "punched" // a hole
	PunchFailed = "failed"  // no packet came through
	PunchError  = "error"   // the two could not agree on an attempt
)

const (
	holeTime   = time.Second // for a direct dial, and for each attempt at a hole
	punchWaits = 6           // holeTimes that an attempt waits for another to end
	holeAddrs  = 4           // addresses of a peer that are dialled at once
	holesTried = 1024        // peers of whom the last outcome is remembered
	lanTime    = 2 * time.Second
	clashTime  = time.Minute // between retries because attempts of both sides met
)

// holes makes direct paths to peers that are reached over relays. libp2p's own
// service does so once, when a relayed connection comes in, and only on the side that
// it came in to; this node has it done again (see reach.Retries), and asks the
// other side where that one must begin. So it has a service in place of the host's,
// which cannot be asked to try again.
//
// Two peers that dial each other at the same time have circuits both ways. If both
// began an attempt then, libp2p would make one dial of the two, in the role of the
// first: both sides would wait for the other's handshake, or over TCP both take
// themselves for the client, and all attempts could fail. So one side begins (begins),
// and if both have all the same, because they did not see both circuits yet, the one
// with the larger ID gives way (holeHost).
type holes struct {
	of *reaching

	mu      sync.Mutex
	service *holepunch.Service // nil: no outside address is known yet
	closed  bool
	retries reach.Retries
	last    map[peer.ID]string // the last outcome, or the error of a PunchError
	counts  map[string]uint64
	clashes map[peer.ID]time.Time // when attempts of both sides last met
	begun   map[peer.ID]int       // attempts that this side has begun, those that wait for another to end included
}

// start begins once this node knows an outside address: the service looks for one only
// now and then, and makes no attempt for circuits that came before it has found one.
// Until then peers are told that this node punches no holes.
func (h *holes) start() error {
	if h.started() || len(h.outside()) == 0 {
		return nil
	}
	h.mu.Lock()
	if h.service != nil || h.closed {
		h.mu.Unlock()
		return nil
	}
	host := h.of.n.host
	ids, ok := host.(interface{ IDService() identify.IDService })
	var err error
	if !ok {
		err = errors.New("the host has no identify service")
	} else {
		h.service, err = holepunch.NewService(holeHost{host, h}, ids.IDService(), h.outside, holepunch.DirectDialTimeout(holeTime), holepunch.WithTracer(h), holepunch.WithAddrFilter(h))
	}
	h.mu.Unlock()
	if err == nil {
		h.moved() // tries for what is relayed already
	}
	return err
}

func (h *holes) started() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.service != nil
}

// close ends the service; no other begins.
func (h *holes) close() error {
	h.mu.Lock()
	h.closed = true
	service := h.service
	h.mu.Unlock()
	if service == nil {
		return nil
	}
	return service.Close()
}

// outside returns the public addresses at which this node may be found, proven or
// not; one peer that sees this node there is enough.
func (h *holes) outside() []multiaddr.Multiaddr {
	var all []multiaddr.Multiaddr
	if host, ok := h.of.n.host.(interface{ AllAddrs() []multiaddr.Multiaddr }); ok {
		all = host.AllAddrs()
	}
	if h.of.observed != nil {
		all = append(all, h.of.observed.Addrs(1)...)
	}
	all = append(all, h.of.outsidePorts()...)
	h.of.mu.Lock()
	now := []netip.Addr{h.of.seen.Outside(true), h.of.seen.Outside(false)}
	h.of.mu.Unlock()
	old := func(a multiaddr.Multiaddr) int { // peers take the first ones; some may be from before a move
		if s, _ := spotOf(a); slices.Contains(now, s.at.Addr()) {
			return 0
		}
		return 1
	}
	all = slices.DeleteFunc(multiaddr.Unique(all), func(a multiaddr.Multiaddr) bool { return !publicAddr(a) })
	slices.SortStableFunc(all, func(a, b multiaddr.Multiaddr) int { return old(a) - old(b) })
	return all
}

func publicAddr(a multiaddr.Multiaddr) bool {
	s, ok := spotOf(a)
	return ok && reach.Public(s.at.Addr())
}

// FilterLocal implements holepunch.AddrFilter.
func (h *holes) FilterLocal(_ peer.ID, addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return addrs
}

// FilterRemote implements holepunch.AddrFilter: it is called with a peer's
// addresses just before they are dialled.
func (h *holes) FilterRemote(p peer.ID, addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a multiaddr.Multiaddr) bool { return !publicAddr(a) })
	addrs = addrs[:min(len(addrs), holeAddrs)]
	h.of.gate.punch(p, addrs)
	return addrs
}

// Trace implements holepunch.EventTracer.
func (h *holes) Trace(e *holepunch.Event) {
	switch evt := e.Evt.(type) {
	case *holepunch.DirectDialEvt:
		if evt.Success {
			h.count(e.Remote, PunchDialed, "")
		}
	case *holepunch.EndHolePunchEvt:
		if evt.Success {
			h.count(e.Remote, PunchOpened, "")
		} else {
			h.count(e.Remote, PunchFailed, evt.Error)
			if clashed(evt.Error) {
				h.afterClash(e.Remote)
			}
		}
	case *holepunch.ProtocolErrorEvt:
		h.count(e.Remote, PunchError, evt.Error)
	}
}

// clashed reports whether a dial failed because both sides took themselves for the
// client of TLS. It happens over TCP, if both began an attempt because two circuits
// crossed.
func clashed(why string) bool { return strings.Contains(why, "clientHello") }

// afterClash has one side try again, once what is under way has ended.
func (h *holes) afterClash(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clashes == nil || len(h.clashes) >= holesTried {
		h.clashes = map[peer.ID]time.Time{}
	}
	if time.Since(h.clashes[p]) < clashTime {
		return
	}
	h.clashes[p] = time.Now()
	if h.of.n.host.ID() < p {
		time.AfterFunc(4*holeTime, func() {
			if h.of.n.ctx.Err() == nil && !h.of.n.Direct(p) {
				h.of.n.background(func() { h.try(p) })
			}
		})
	}
}

func (h *holes) count(p peer.ID, outcome, why string) {
	h.mu.Lock()
	if h.counts == nil {
		h.counts, h.last = map[string]uint64{}, map[peer.ID]string{}
	}
	h.counts[outcome]++
	if len(h.last) >= holesTried {
		clear(h.last)
	}
	if outcome != PunchError || h.last[p] == "" { // an attempt that came to nothing says less than one that failed
		h.last[p] = outcome
	}
	h.mu.Unlock()
	h.of.n.log.Debug("an attempt at a direct path has ended", "peer", p, "outcome", outcome, "why", why)
}

// relayed notes that a peer is connected over a relay, and known. An attempt begins
// where the connection came in.
func (h *holes) relayed(c network.Conn) {
	n, p := h.of.n, c.RemotePeer()
	if n.Direct(p) {
		return
	}
	h.mu.Lock()
	h.retries.Tried(p, time.Now())
	h.mu.Unlock()
	switch conns := n.host.Network().ConnsToPeer(p); {
	case c.Stat().Direction == network.DirOutbound:
		if h.neighbour(p) {
			n.background(func() { h.ask(p) })
		}
	case !h.started():
	case begins(conns, h.first(p), h.symmetric()):
		n.background(func() { h.punch(p) })
	case h.first(p):
		n.background(func() { h.ask(p) })
	}
}

// direct notes that there is a direct connection to a peer.
func (h *holes) direct(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retries.Done(p)
	delete(h.last, p)
}

// moved tries again for all relayed peers, because this node is elsewhere.
func (h *holes) moved() {
	h.mu.Lock()
	h.retries.Moved()
	h.mu.Unlock()
	h.again()
}

// again tries again for the relayed peers for which it is time.
func (h *holes) again() {
	for _, p := range h.of.n.host.Network().Peers() {
		h.tryIf(p, h.retries.Tick)
	}
}

// used notes that a session uses a peer.
func (h *holes) used(p peer.ID) { h.tryIf(p, h.retries.Use) }

// tryIf tries for a relayed peer if it is time, by a method of retries.
func (h *holes) tryIf(p peer.ID, due func(peer.ID, time.Time) bool) {
	if h.of.n.Direct(p) {
		return
	}
	h.mu.Lock()
	now := due(p, time.Now())
	h.mu.Unlock()
	if now {
		h.try(p)
	}
}

// try begins an attempt: here if the relayed connection came in, else at the
// peer, which is asked to.
func (h *holes) try(p peer.ID) {
	n := h.of.n
	conns := n.host.Network().ConnsToPeer(p)
	switch {
	case len(conns) == 0 || n.ctx.Err() != nil:
	case begins(conns, h.first(p), h.symmetric()):
		n.background(func() { h.punch(p) })
	default:
		n.background(func() { h.ask(p) })
	}
}

// first reports whether this side decides who begins if there are circuits both ways.
func (h *holes) first(p peer.ID) bool { return h.of.n.host.ID() < p }

// symmetric reports whether this node's NAT uses another port towards each peer.
func (h *holes) symmetric() bool {
	seen := h.of.sights()
	return seen[reach.UDP4].Mapping == reach.MappingPerPeer && seen[reach.TCP4].Mapping != reach.MappingSame
}

// begins reports whether an attempt begins at this side of some connections. With circuits
// both ways the first side decides: it begins, unless its own NAT is symmetric. Then the
// other does, because at the first two of three dials the side that began waits for the
// other's packets, which must be sent to a port that is known.
func begins(conns []network.Conn, first, symmetric bool) bool {
	in, out := false, false
	for _, c := range conns {
		if c.Stat().Direction == network.DirInbound {
			in = true
		} else {
			out = true
		}
	}
	return in && (!out || first && !symmetric)
}

// punch has libp2p try for a direct path to a peer, once it knows where it is
// itself.
func (h *holes) punch(p peer.ID) {
	h.mu.Lock()
	service := h.service
	h.mu.Unlock()
	if service == nil || len(h.outside()) == 0 {
		h.count(p, PunchError, "no outside address")
		return
	}
	done := make(chan struct{})
	go func() { // it waits for ever if it is closed before it has begun
		defer close(done)
		if !h.begin(p) {
			return
		}
		defer h.end(p)
		err := service.DirectConnect(p)
		for i := 0; i < punchWaits && errors.Is(err, holepunch.ErrHolePunchActive); i++ {
			if backoff.Pause(h.of.n.ctx, holeTime) != nil { // what is under way may be for an address that is gone
				return
			}
			err = service.DirectConnect(p)
		}
		if err != nil {
			h.of.n.log.Debug("no direct path", "peer", p, "error", err)
		}
	}()
	select {
	case <-done:
	case <-h.of.n.ctx.Done():
	}
}

// ask has a peer begin an attempt. Where both are behind the same outside
// address, they are probably neighbours, whose addresses there lead to each
// other while the outside one may not.
func (h *holes) ask(p peer.ID) {
	n := h.of.n
	req := &protocol.ReachRequest{Kind: protocol.ReachKind_REACH_PUNCH}
	if h.neighbour(p) {
		req.Addrs, req.Outside = h.inside(), h.outsideIPs()
	}
	var reply protocol.ReachReply
	if err := n.request(n.ctx, p, protocol.ReachID, req, &reply, protocol.MaxReach, protocol.ProbeTime); err != nil {
		n.log.Debug("asking for a direct path", "peer", p, "error", err)
		return
	}
	if addrs, err := protocol.ReachAddrs(reply.Addrs); err == nil && len(req.Outside) > 0 {
		h.visit(p, addrs)
	}
}

// asked begins an attempt because the peer at the other end of a relayed
// connection asks for it. It returns where this node is in its private network,
// if the peer seems to be there, too.
func (h *holes) asked(c network.Conn, req protocol.Reach) [][]byte {
	p, n := c.RemotePeer(), h.of.n
	h.mu.Lock()
	h.retries.Tried(p, time.Now())
	h.mu.Unlock()
	if slices.ContainsFunc(n.host.Network().ConnsToPeer(p), circuitIn) {
		n.background(func() { h.punch(p) })
	}
	own := h.outsideIPs()
	if !slices.ContainsFunc(req.Outside, func(ip []byte) bool {
		return slices.ContainsFunc(own, func(o []byte) bool { return bytes.Equal(o, ip) })
	}) {
		return nil
	}
	if len(req.Addrs) > 0 {
		n.background(func() { h.visit(p, req.Addrs) })
	}
	return h.inside()
}

// neighbour reports whether a peer says that it is behind the same outside
// address as this node.
func (h *holes) neighbour(p peer.ID) bool {
	own := h.outsideIPs()
	return slices.ContainsFunc(h.of.n.host.Peerstore().Addrs(p), func(a multiaddr.Multiaddr) bool {
		s, ok := spotOf(a)
		return ok && slices.ContainsFunc(own, func(b []byte) bool { o, _ := netip.AddrFromSlice(b); return o == s.at.Addr() })
	})
}

// outsideIPs returns the addresses under which peers see this node.
func (h *holes) outsideIPs() (out [][]byte) {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	for _, v4 := range []bool{true, false} {
		if ip := h.of.seen.Outside(v4); ip.IsValid() {
			out = append(out, ip.AsSlice())
		}
	}
	return out
}

// inside returns this node's addresses in private networks.
func (h *holes) inside() (out [][]byte) {
	all, err := h.of.n.host.Network().InterfaceListenAddresses()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if private(a) && len(out) < protocol.MaxReachAddrs {
			out = append(out, a.Bytes())
		}
	}
	return out
}

// private reports whether an address is in a private network, but not this
// machine's own.
func private(a multiaddr.Multiaddr) bool {
	s, ok := spotOf(a)
	if !ok {
		return false
	}
	block, is := blockOf(s.at.Addr())
	return is && !block.Addr().IsLoopback() && !s.at.Addr().IsLinkLocalUnicast()
}

// visit dials a peer in the private network that both seem to be in. The gate
// lets that pass only if somebody is connected from there, or for a peer that
// the operator named or that has done work: others could have this node probe
// its network.
func (h *holes) visit(p peer.ID, addrs []multiaddr.Multiaddr) {
	n := h.of.n
	addrs = slices.DeleteFunc(addrs, func(a multiaddr.Multiaddr) bool { return !private(a) })
	if len(addrs) == 0 || n.Direct(p) {
		return
	}
	info := peer.AddrInfo{ID: p, Addrs: addrs}
	if n.isFriend(p) {
		n.gate.find(info)
	}
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(n.ctx, "neighbour"), lanTime)
	defer cancel()
	n.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	if _, err := n.host.Network().DialPeer(ctx, p); err != nil {
		n.log.Debug("a neighbour cannot be dialled", "peer", p, "error", tidy(err))
	}
}

// why returns why there is no direct path to a peer.
func (h *holes) why(p peer.ID) NotDirect {
	known, err := h.of.n.host.Peerstore().SupportsProtocols(p, holepunch.Protocol, protocol.ReachID)
	symmetric := h.symmetric()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch last := h.last[p]; {
	case last == PunchFailed && symmetric:
		return HereSymmetric
	case last == PunchFailed:
		return NoCommonHole
	case err == nil && len(known) == 0:
		return PeerCannot
	case last == PunchError:
		return NoOutside
	}
	return NotTried
}
