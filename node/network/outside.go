package network

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"

	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/node/network/reach"
)

// Outside lets relays of the open network carry the circuits of a private swarm (package
// outer).
type Outside struct {
	Key   crypto.PrivKey         // of the host that the relays see: not the member's
	Named []peer.AddrInfo        // relays that the operator has named
	Known func() []peer.AddrInfo // others, the best first; nil: none. It is called now and then
	Kept  string                 // file of the relays that were used last; "": none
}

// relays returns the relays that may be asked, the operator's first.
func (o *Outside) relays() []peer.AddrInfo {
	out := slices.Clone(o.Named)
	if o.Known != nil {
		out = append(out, o.Known()...)
	}
	return out
}

// OutsideRelays returns what lists the relays of the open network that may carry circuits of
// this private swarm; nil: it is to use none.
func (n *Network) OutsideRelays() func() []peer.AddrInfo {
	if n.cfg.Outside == nil {
		return nil
	}
	return n.cfg.Outside.relays
}

// Relays returns the relays that this node knows: connected ones, the nearest first, and
// those that it remembers. In a private swarm they are members.
func (n *Network) Relays() (out []peer.AddrInfo) {
	if n.reaching != nil {
		for _, p := range n.reaching.relays.connected(nil) {
			info := n.host.Peerstore().PeerInfo(p.ID)
			info.Addrs = slices.DeleteFunc(info.Addrs, func(a multiaddr.Multiaddr) bool { return !publicAddr(a) })
			out = append(out, info)
		}
	}
	return append(out, n.book.relays()...)
}

// RememberedRelays returns the relays in a file of remembered peers.
func RememberedRelays(file string) []peer.AddrInfo {
	return openBook(file, discard).relays()
}

// outerGate is the gate for dials to outside relays. Their connections are not the host's.
type outerGate struct{ *gate }

func (g outerGate) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	g.forgive(c.RemotePeer())
	g.prove(c.RemotePeer(), c.RemoteMultiaddr())
	return true, 0
}

// goOutside gives a private swarm's host its circuits: over members' relays, and over
// those of the open network.
func (r *reaching) goOutside(h host.Host, m *roll) error {
	out := r.cfg.Outside
	for _, p := range out.Named {
		r.gate.name(p)
	}
	o, err := outer.New(outer.Config{
		Key: out.Key, Relays: out.relays, Sockets: m.sockets, NoTCP: len(r.cfg.Options)+len(r.cfg.Sockets) > 0, TCPPort: func() int { return tcpPort(h) }, Gate: outerGate{r.gate}, Kept: out.Kept, Log: r.cfg.Log,
		Swarm: []swarm.Option{swarm.WithMetricsTracer(r.gate), swarm.WithMultiaddrResolver(names{swarm.ResolverFromMaDNS{Resolver: madns.DefaultResolver}, r.gate})},
		Seen:  func(relay, local, outside multiaddr.Multiaddr) { r.sighted(relay, local, outside); r.look() },
		Changed: func() {
			r.n.resign()
			r.look()
		},
	})
	if err != nil {
		return err
	}
	r.outer.Store(o)
	if err := o.Attach(h, r.upgrader); err != nil {
		return err
	}
	if r.cfg.Client || r.cfg.Public {
		return nil
	}
	if r.auto, err = autorelay.NewAutoRelay(h, append(relayOptions(), autorelay.WithPeerSource(r.relays.source))...); err == nil {
		r.auto.Start()
	}
	return err
}

// tcpPort returns the port on which a host listens over TCP; 0: it does not.
func tcpPort(h host.Host) int {
	for _, a := range h.Network().ListenAddresses() {
		if s, ok := spotOf(a); ok && !s.udp {
			return int(s.at.Port())
		}
	}
	return 0
}

// outside reports whether relays of the open network may carry this node's circuits.
func (r *reaching) outside() bool { return r.cfg.Swarm != nil && r.cfg.Outside != nil }

// wantOutside has outside relays be asked while they are needed: members are preferred.
func (r *reaching) wantOutside(state reach.State) {
	if o := r.outer.Load(); o != nil {
		o.Want(!r.cfg.Client && state.Verdict != reach.Proven && len(r.relays.all()) < wantedRelays)
	}
}

// outsideAddrs returns where this node is to be reached through outside relays.
func (r *reaching) outsideAddrs() []multiaddr.Multiaddr {
	if o := r.outer.Load(); o != nil {
		return o.Addrs()
	}
	return nil
}

// outsideRelays returns the outside relays at which this node can be reached.
func (r *reaching) outsideRelays() []peer.ID {
	if o := r.outer.Load(); o != nil {
		return o.Relays()
	}
	return nil
}

// outsidePorts returns where outside relays, too, see the ports on which this node listens:
// holes are punched there. libp2p knows nothing of what they say.
func (r *reaching) outsidePorts() (out []multiaddr.Multiaddr) {
	if r.outer.Load() == nil {
		return nil
	}
	for t, seen := range r.sights() {
		if seen.Observers > 0 {
			out = append(out, ipAddr(seen.Outside.Addr(), seen.Outside.Port(), t == reach.UDP4 || t == reach.UDP6))
		}
	}
	return out
}

// outer returns the outer host if it is connected to a relay.
func (n *Network) outer(relay peer.ID) *outer.Host {
	if n.reaching == nil {
		return nil
	}
	if o := n.reaching.outer.Load(); o != nil && o.Knows(relay) {
		return o
	}
	return nil
}

// outerRTT returns the round trip to an outside relay; 0: it is not known.
func (n *Network) outerRTT(relay peer.ID) time.Duration {
	if o := n.outer(relay); o != nil {
		return o.RTT(relay)
	}
	return 0
}
