package network

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

// A node whose address changes says nothing to its peers, and neither side's
// connections end: QUIC notices after half a minute, TCP later still. libp2p looks at
// the machine's addresses once a minute. So this node looks itself, every second, and
// tests its connections when something has changed. And a peer on whose answer a
// request waits too long is tested, because it may be the one that has moved.

const (
	placeEvery = time.Second             // how often this machine's addresses are looked at
	hangTime   = 500 * time.Millisecond  // and four round trips, for an answer, before its peer is tested
	deadTime   = 1500 * time.Millisecond // and four round trips, for a peer to answer the test
	busyTime   = 4 * time.Second         // the same, if packets come
	freshEvery = 5 * time.Minute         // for which connections to public nodes are not made again
	freshMost  = 8                       // of those, after a move
	freshFew   = 2                       // of those, to find out whether there was one
	aliveTime  = 2 * time.Second         // in which a peer that has answered is not tested again
)

// place returns the networks that this machine's addresses are in: an IPv4 address
// itself, and the /64 of an IPv6 address, of which a machine changes the rest every
// day. Loopback and link-local ones do not count.
func place() (at map[netip.Prefix]bool) {
	at = map[netip.Prefix]bool{}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, ok := a.(*net.IPNet); ok {
			ip, _ := netip.AddrFromSlice(p.IP)
			if ip = ip.Unmap(); !ip.IsValid() || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
				continue
			}
			bits := 32
			if ip.Is6() {
				bits = 64
			}
			prefix, _ := ip.Prefix(bits)
			at[prefix] = true
		}
	}
	return at
}

// watchPlace notices when this machine's addresses change.
func (n *Network) watchPlace() {
	tick := time.NewTicker(placeEvery)
	defer tick.Stop()
	at := n.cfg.place()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		now := n.cfg.place()
		if now == nil || maps.Equal(at, now) {
			continue
		}
		gone := false
		for p := range at {
			gone = gone || !now[p]
		}
		at = now
		n.elsewhere(gone)
	}
}

// elsewhere finds this node's peers again after this machine's addresses have changed.
// Connections on which nobody answers are closed and made again. gone says that an
// address is no more, so that others no longer see this node where they did.
func (n *Network) elsewhere(gone bool) {
	n.log.Info("this machine's addresses have changed")
	if n.reaching != nil {
		n.reaching.moved()
	}
	if s, ok := n.host.Network().(*swarm.Swarm); ok { // that a dial failed from there says nothing
		for _, p := range n.host.Peerstore().PeersWithAddrs() {
			s.Backoff().Clear(p)
		}
	}
	places := n.book.infos()
	rand.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	n.dialAll(places[:min(len(places), drawn)])
	before := n.host.Network().Peers()
	n.tryConns()
	var lost []peer.AddrInfo
	for _, p := range before {
		if !n.Connected(p) {
			lost = append(lost, n.host.Peerstore().PeerInfo(p))
		}
	}
	n.dialAll(lost)
	if n.reaching != nil && gone {
		n.reaching.refresh(freshMost)
	}
	n.resign()
	n.rouse()
}

// tryConns closes the connections on which the peer does not answer, and returns once
// all have been tested.
func (n *Network) tryConns() { n.test(n.host.Network().Conns()) }

// test does that with some connections. It returns the number of direct ones to public
// addresses that it has closed.
func (n *Network) test(conns []network.Conn) int {
	var closed atomic.Int32
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(func() {
			if n.lives(c) || c.IsClosed() || n.ctx.Err() != nil {
				return
			}
			n.log.Info("a connection is closed: the peer does not answer on it", "peer", c.RemotePeer(), "addr", c.RemoteMultiaddr())
			_ = c.Close()
			if publicAddr(c.RemoteMultiaddr()) {
				closed.Add(1)
			}
		})
	}
	all.Wait()
	return int(closed.Load())
}

// lives reports whether a peer answers on a connection. It has longer if something
// comes: a line full of other data delays the answer.
func (n *Network) lives(c network.Conn) bool {
	try := func(within time.Duration) bool {
		ctx, cancel := context.WithTimeout(n.ctx, within+4*n.roundTrip(c.RemotePeer()))
		defer cancel()
		return answers(ctx, c) == nil
	}
	before := packetsFrom(c)
	return try(deadTime) || packetsFrom(c) != before && try(busyTime)
}

// roundTrip returns the longest round trip known to a peer; 0: none is.
func (n *Network) roundTrip(p peer.ID) time.Duration {
	rtt, _ := n.RTT(p)
	return max(rtt, n.circuitRTT(p))
}

// packetsFrom returns how many packets have come over a connection. For one that is
// not QUIC it is 0.
func packetsFrom(c network.Conn) uint64 {
	var qc *quic.Conn
	if !c.As(&qc) {
		return 0
	}
	return qc.ConnectionStats().PacketsReceived
}

// hangs has a peer tested unless stop is called before an answer should have come.
func (n *Network) hangs(p peer.ID) (stop func() bool) {
	return time.AfterFunc(hangTime+4*n.roundTrip(p), func() { n.suspect(p) }).Stop
}

// suspect tests the connections to a peer, and closes those on which it does not
// answer. It returns at once.
func (n *Network) suspect(p peer.ID) {
	n.mu.Lock()
	tested := n.suspects[p]
	n.suspects[p] = true
	n.mu.Unlock()
	if tested {
		return
	}
	n.background(func() {
		closed := n.test(n.host.Network().ConnsToPeer(p))
		if closed > 0 && n.reaching != nil { // it may be this node that has moved, or its router
			n.reaching.refresh(freshFew)
		}
		if n.Connected(p) {
			_ = backoff.Pause(n.ctx, aliveTime)
		}
		n.mu.Lock()
		delete(n.suspects, p)
		n.mu.Unlock()
	})
}

// background runs something until the network is closed, unless it is already.
func (n *Network) background(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() == nil {
		n.wg.Go(do)
	}
}

// refresh makes connections to some public nodes again that have outlived a change of
// this node's address, as QUIC's can: a peer says where it sees this node only at the
// beginning of a connection, and until then holes would be punched at the old address.
func (r *reaching) refresh(some int) {
	r.mu.Lock()
	due := !time.Now().Before(r.freshAt)
	if due {
		r.freshAt = time.Now().Add(freshEvery)
	}
	r.mu.Unlock()
	if due {
		held := r.relays.all()
		last := func(p peer.ID) int { return slices.Index(held, p) } // -1: no relay of this node's
		peers := slices.DeleteFunc(r.n.host.Network().Peers(), func(p peer.ID) bool { return !r.outward(p) || r.inUse(p) })
		slices.SortFunc(peers, func(a, b peer.ID) int { return cmp.Compare(last(a), last(b)) })
		for _, p := range peers[:min(len(peers), some)] {
			r.again(p)
		}
		if o := r.outer.Load(); o != nil {
			o.Moved()
		}
	}
	r.holes.moved()
}

// again closes the connections to a peer, and connects to it.
func (r *reaching) again(p peer.ID) {
	info := r.n.host.Peerstore().PeerInfo(p)
	if err := r.n.host.Network().ClosePeer(p); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.n.ctx, dialTime)
	defer cancel()
	if err := r.n.host.Connect(ctx, info); err != nil {
		r.n.log.Debug("a peer cannot be connected to again", "peer", p, "error", tidy(err))
	}
}

// outward reports whether this node has dialled a peer at a public address, and knows
// it to speak of where it sees others.
func (r *reaching) outward(p peer.ID) bool {
	return r.speaks(p) && slices.ContainsFunc(r.n.host.Network().ConnsToPeer(p), func(c network.Conn) bool {
		return !reach.Relayed(c) && c.Stat().Direction == network.DirOutbound && publicAddr(c.RemoteMultiaddr())
	})
}

// inUse reports whether a session uses a peer, or a circuit through it.
func (r *reaching) inUse(p peer.ID) bool {
	for _, c := range r.n.host.Network().Conns() {
		l := lineOf(c)
		if l != nil && l.relay() == p && c.Stat().NumStreams > 0 {
			return true
		}
		if c.RemotePeer() == p && inSession(c) {
			return true
		}
	}
	return false
}

// inSession reports whether a session uses a connection.
func inSession(c network.Conn) bool {
	return slices.ContainsFunc(c.GetStreams(), func(s network.Stream) bool {
		return s.Protocol() == protocol.StageID || s.Protocol() == protocol.StageID1
	})
}
