package network

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network/reach"
)

// Path is how a connected peer is reached: by its best connection.
type Path struct {
	Peer      peer.ID
	Direct    bool
	Relay     peer.ID   // if not direct
	Why       NotDirect // if not direct
	Transport string    // to the peer, or to the relay
	RTT       time.Duration
	Left      uint64    // bytes that the circuit may still carry in each direction; NoLimit: any number
	Ends      time.Time // when the relay ends the circuit; zero: never
}

// NoLimit is the number of bytes left of a path that has no limit.
const NoLimit = math.MaxUint64

// Direct reports whether there is a connection to a peer that does not go
// through a relay. Of this node itself it is true.
func (n *Network) Direct(p peer.ID) bool {
	return p == n.host.ID() || slices.ContainsFunc(n.host.Network().ConnsToPeer(p), func(c network.Conn) bool {
		return !c.IsClosed() && !reach.Relayed(c)
	})
}

// PathTo returns how a peer is reached; ok is false if it is not connected.
func (n *Network) PathTo(p peer.ID) (path Path, ok bool) {
	var best network.Conn
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if !c.IsClosed() && (best == nil || reach.Relayed(best) && !reach.Relayed(c)) {
			best = c
		}
	}
	if best == nil {
		return path, false
	}
	path = Path{Peer: p, Direct: !reach.Relayed(best), Relay: reach.RelayOf(best.RemoteMultiaddr()), Transport: transportOf(best)}
	path.RTT, _ = n.RTT(p)
	if !path.Direct && n.reaching != nil {
		path.Why = n.reaching.holes.why(p)
	}
	path.Left, path.Ends = lineOf(best).left()
	return path, true
}

// Paths returns how each connected peer is reached, sorted by peer.
func (n *Network) Paths() (all []Path) {
	for _, p := range n.host.Network().Peers() {
		if path, ok := n.PathTo(p); ok {
			all = append(all, path)
		}
	}
	slices.SortFunc(all, func(a, b Path) int { return cmp.Compare(a.Peer, b.Peer) })
	return all
}

// OnDirect has do called with each peer to which a direct connection appears
// where there was none, until stop is called. do must return soon, and may be
// called concurrently.
func (n *Network) OnDirect(do func(peer.ID)) (stop func()) { return n.onDirect.add(do) }

// Used notes that a session uses a peer: if that is reached over a relay, this
// node tries for a direct path, after growing waits. It returns at once.
func (n *Network) Used(p peer.ID) {
	if n.reaching != nil {
		n.reaching.holes.used(p)
	}
}

// Conn identifies the stream's connection within this process; "": the stream
// is to this node itself.
func (s *Stream) Conn() string {
	if s.conn == nil {
		return ""
	}
	return s.conn.ID()
}

// opened notes a new connection.
func (n *Network) opened(c network.Conn) {
	if n.reaching != nil {
		n.reaching.opened(c)
	}
	p := c.RemotePeer()
	n.believe(p)
	if reach.Relayed(c) {
		return
	}
	for _, other := range n.host.Network().ConnsToPeer(p) {
		if other != c && !other.IsClosed() && !reach.Relayed(other) {
			return
		}
	}
	n.onDirect.call(p)
}

// transportOf returns the transport under a connection: "quic-v1" or "tcp".
func transportOf(c network.Conn) string {
	s, ok := spotOf(reach.Base(c.RemoteMultiaddr()))
	switch {
	case !ok:
		return c.ConnState().Transport
	case s.udp:
		return "quic-v1"
	}
	return "tcp"
}

// listeners are functions to be called with peers.
type listeners struct {
	mu  sync.Mutex
	all map[*func(peer.ID)]bool
}

func (l *listeners) add(do func(peer.ID)) (stop func()) {
	key := &do
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[*func(peer.ID)]bool{}
	}
	l.all[key] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, key)
	}
}

func (l *listeners) call(p peer.ID) {
	l.mu.Lock()
	all := slices.Collect(maps.Keys(l.all))
	l.mu.Unlock()
	for _, do := range all {
		(*do)(p)
	}
}
