package network

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

const (
	scoutTime   = 3*reachDialTime + dialTime // of one scout, the dials of others included
	scoutWait   = 5 * time.Second            // for the first guide
	scoutLinger = time.Second                // a third's last packet may take longer than the reply
	maxScouts   = 3                          // of one check, one after another
	portLife    = 24 * time.Hour             // no scout uses another's port within this time
	lowestPort  = 20000                      // of scouts
)

// scoutCrowd bounds who may come in while a scout is out.
var scoutCrowd = crowd{low: 8, high: 16, brim: 16, inbound: 16, grace: time.Minute}

// guide is a peer that a scout asks to have others dial it.
type guide struct {
	id   peer.ID
	addr multiaddr.Multiaddr // over QUIC
	ip   netip.Addr
}

// scouts, of which one call runs at a time, sends out scouts until the node is proven to be reachable. A scout is a
// host with a key and a UDP port of its own. It dials one peer, the guide, and
// asks it to have others dial the scout. To the scout's port these are strangers,
// even where this node itself has already sent packets to every peer there is. To
// the guide and the others, a scout is a peer like any other.
func (r *reaching) scouts() {
	guides := r.guides()
	for end := time.Now().Add(scoutWait); len(guides) == 0 && time.Now().Before(end); guides = r.guides() {
		select { // others have just connected, and have yet to say where they see this node
		case <-r.n.ctx.Done():
			return
		case <-time.After(scoutWait / 5):
		}
	}
	for _, g := range guides {
		came, code, err := r.scout(g)
		if err != nil {
			r.n.log.Debug("asking to be dialled at another port", "peer", g.id, "error", err)
		}
		r.mu.Lock()
		proven := r.machine.State(time.Now()).Verdict == reach.Proven
		r.mu.Unlock()
		if proven || code == protocol.ReachCode_REACH_FAILED && !came { // the router lets no strangers in
			return
		}
	}
}

// guides returns peers to which scouts can go: directly connected over QUIC, at a
// public address where they can be dialled, in different groups of addresses, at
// random but relays first. There are none for an IP version of which the router
// is not known to use one port towards everybody: what reaches a scout's port
// says nothing about a router that uses another port towards each peer.
func (r *reaching) guides() (out []guide) {
	sights := r.sights()
	var relays, others []guide
	for _, c := range r.n.shuffled() {
		p := c.RemotePeer()
		s, ok := spotOf(c.RemoteMultiaddr())
		if !ok || !s.udp || reach.Relayed(c) || !reach.Public(s.at.Addr()) || !r.speaks(p) {
			continue
		}
		if m := sights[reach.TransportOf(s.at.Addr(), true)].Mapping; m != reach.MappingSame && m != reach.MappingNone {
			continue
		}
		g := guide{p, c.RemoteMultiaddr(), s.at.Addr()}
		if r.n.isRelay(p) {
			relays = append(relays, g)
		} else if c.Stat().Direction == network.DirOutbound {
			others = append(others, g)
		}
	}
	for _, g := range slices.Concat(relays, others) {
		if len(out) < maxScouts && !slices.ContainsFunc(out, func(o guide) bool { return reach.SameGroup(o.ip, g.ip) }) {
			out = append(out, g)
		}
	}
	return out
}

// scout sends out one scout. It returns whether a stranger came in, and what the
// guide says about those that it asked.
func (r *reaching) scout(g guide) (came bool, code protocol.ReachCode, err error) {
	ctx, cancel := context.WithTimeout(r.n.ctx, scoutTime)
	defer cancel()
	h, err := r.newScout(g.ip)
	if err != nil {
		return false, 0, err
	}
	defer h.Close()
	r.mu.Lock()
	moves := r.moves
	r.mu.Unlock()
	var strangers atomic.Bool
	h.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		if s, ok := spotOf(c.RemoteMultiaddr()); ok && c.Stat().Direction == network.DirInbound {
			strangers.Store(r.scouted(s.at.Addr(), g.ip, moves) || strangers.Load())
		}
	}})
	port, err := r.scoutPort(ctx, h, g)
	if err != nil {
		return false, 0, err
	}
	s, err := h.NewStream(ctx, g.id, protocol.ReachID)
	if err != nil {
		return false, 0, err
	}
	var reply protocol.ReachReply
	req := &protocol.ReachRequest{Kind: protocol.ReachKind_REACH_CHECK, Udp: []uint32{uint32(port)}}
	if err := exchange(ctx, s, req, &reply, protocol.MaxReach); err != nil {
		return strangers.Load(), 0, err
	}
	select {
	case <-ctx.Done():
	case <-time.After(scoutLinger):
	}
	return strangers.Load(), reply.Code, nil
}

// newScout makes a host that listens on a UDP port of its own, dials nobody by
// itself and tells nobody its addresses, so that nobody remembers it.
func (r *reaching) newScout(guide netip.Addr) (host.Host, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	rm, err := newResources(scoutCrowd, r.cfg.Swarm.dhtPrefix())
	if err != nil {
		return nil, err
	}
	everywhere := netip.IPv6Unspecified()
	if guide.Is4() {
		everywhere = netip.IPv4Unspecified()
	}
	opts := []libp2p.Option{
		libp2p.Identity(key), libp2p.ListenAddrs(ipAddr(everywhere, r.used.draw(time.Now()), true)), libp2p.UserAgent("shoal/" + r.cfg.Version),
		libp2p.AddrsFactory(func([]multiaddr.Multiaddr) []multiaddr.Multiaddr { return nil }),
		libp2p.ResourceManager(rm), libp2p.ConnectionManager(connmgr.NullConnMgr{}), libp2p.WithDialTimeout(dialTime), libp2p.DisableMetrics(),
		libp2p.ForceReachabilityPrivate(), libp2p.DisableRelay(), libp2p.DisableIdentifyAddressDiscovery(),
	}
	if roll := r.n.roll; roll != nil {
		opts = append(opts, roll.options(), libp2p.ConnectionGater(memberGate{newGate(), roll}))
	} else if len(r.cfg.Options) == 0 {
		opts = append(opts, libp2p.Transport(libp2pquic.NewTransport))
	}
	return libp2p.New(append(opts, r.cfg.Options...)...)
}

// scoutPorts are the ports that scouts have used, and when. A NAT may still let in
// those to which an earlier scout has sent from the same port.
type scoutPorts map[uint16]time.Time

// draw returns a port that no scout has used within portLife. It may be in use.
func (used scoutPorts) draw(now time.Time) uint16 {
	maps.DeleteFunc(used, func(_ uint16, at time.Time) bool { return now.Sub(at) >= portLife })
	for {
		port := uint16(lowestPort + mathrand.IntN(1<<16-lowestPort))
		if _, ok := used[port]; !ok {
			used[port] = now
			return port
		}
	}
}

// scoutPort has a scout dial its guide, and returns the port at which the guide
// sees it.
func (r *reaching) scoutPort(ctx context.Context, h host.Host, g guide) (uint16, error) {
	sub, err := h.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return 0, err
	}
	defer sub.Close()
	r.gate.sending(g.ip)
	if err := h.Connect(ctx, peer.AddrInfo{ID: g.id, Addrs: []multiaddr.Multiaddr{g.addr}}); err != nil {
		return 0, err
	}
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case e := <-sub.Out():
			id := e.(event.EvtPeerIdentificationCompleted)
			if id.Peer != g.id {
				continue
			}
			if s, ok := spotOf(id.ObservedAddr); ok && s.udp && s.at.Port() != 0 {
				return s.at.Port(), nil
			}
			return 0, fmt.Errorf("%s does not say where it sees this node", g.id)
		}
	}
}

// scouted notes that a peer has connected to a scout that has sent packets to its
// guide alone, and reports whether that makes it a stranger. moves is the number
// of this node's moves when the scout went out.
func (r *reaching) scouted(ip, guide netip.Addr, moves int) (stranger bool) {
	r.mu.Lock()
	stranger = moves == r.moves && r.machine.CameAside(ip, guide, time.Now())
	r.mu.Unlock()
	if stranger {
		r.look()
	}
	return stranger
}
