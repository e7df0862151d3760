package network

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/reach"
)

// A node on whose line UDP passes is connected to everybody over QUIC, and so nobody
// has seen its TCP port from outside. A peer that has no UDP could then never punch a
// hole to it. So one public peer of several is connected to over TCP.

const (
	tcpOf    = 3 // public peers that a node has before it meets one of them over TCP
	tcpEvery = time.Minute
	tcpLater = 30 * time.Minute // after an attempt that failed
	tcpAge   = 10 * time.Second // of a connection before it is given up; until then it may become a relay's
)

// sighting is a connected public peer, as overTCP judges it.
type sighting struct {
	peer   peer.ID
	tcp    bool // it is connected over TCP
	has    bool // it says that it can be dialled over TCP
	needed bool // it is this node's relay, or in use
}

// overTCP returns the peer to meet over TCP; ok is false if there is none, or no need.
func overTCP(all []sighting) (p peer.ID, ok bool) {
	if len(all) < tcpOf || slices.ContainsFunc(all, func(s sighting) bool { return s.tcp }) {
		return p, false
	}
	may := slices.DeleteFunc(slices.Clone(all), func(s sighting) bool { return !s.has || s.needed })
	if len(may) == 0 {
		return p, false
	}
	return may[rand.IntN(len(may))].peer, true
}

// keepTCP has this node be connected to one public peer over TCP.
func (r *reaching) keepTCP() {
	now := time.Now()
	r.mu.Lock()
	due := !now.Before(r.tcpAt)
	r.mu.Unlock()
	if !due {
		return
	}
	p, ok := overTCP(r.sightings(now))
	if !ok {
		return
	}
	r.mu.Lock()
	r.tcpAt = now.Add(tcpEvery)
	r.mu.Unlock()
	r.n.wg.Go(func() {
		r.gate.noUDP(p, true)
		r.again(p)
		r.gate.noUDP(p, false)
		if r.n.Direct(p) {
			r.holes.moved() // peers without UDP can be reached now
			return
		}
		r.mu.Lock()
		r.tcpAt = time.Now().Add(tcpLater)
		r.mu.Unlock()
		r.again(p)
	})
}

// sightings returns the public peers that this node has dialled.
func (r *reaching) sightings(now time.Time) (all []sighting) {
	held := r.relays.all()
	for _, p := range r.n.host.Network().Peers() {
		if !r.outward(p) {
			continue
		}
		s := sighting{peer: p, needed: slices.Contains(held, p) || r.inUse(p)}
		for _, c := range r.n.host.Network().ConnsToPeer(p) {
			at, ok := spotOf(c.RemoteMultiaddr())
			s.tcp = s.tcp || ok && !at.udp && c.Stat().Direction == network.DirOutbound
			s.needed = s.needed || len(held) < wantedRelays && now.Sub(c.Stat().Opened) < tcpAge
		}
		s.has = slices.ContainsFunc(r.n.host.Peerstore().Addrs(p), func(a multiaddr.Multiaddr) bool {
			at, ok := spotOf(a)
			return ok && !at.udp && reach.Public(at.at.Addr())
		})
		all = append(all, s)
	}
	return all
}

// noUDP has a peer be dialled over TCP alone, or ends that.
func (g *gate) noUDP(p peer.ID, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.overTCP = ""; on {
		g.overTCP = p
	}
}
