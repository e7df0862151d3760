package network

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

// Peers ask this node to have others dial them, or to dial others. Neither may
// serve to make nodes dial a victim: the address is the one at which the asker
// is connected, and only its port is the asker's word; who dials is not the
// asker's choice; both are bounded per minute for each peer, each group of
// addresses and in all; and the gate decides on the dial as on any other.
const (
	checksAMinute = 4  // that a peer may ask for
	dialsAMinute  = 6  // that a peer may pass on to this node
	punchesMinute = 6  // that a peer may ask for
	allAMinute    = 60 // of each kind, by all peers
	thirdsAsked   = 3  // at once

	reachDialTime = 5 * time.Second
	lowPorts      = 1024 // below it, only lowPort may be dialled on a stranger's word
	lowPort       = 443
)

// serve answers a request on /shoal/reach/1.
func (r *reaching) serve(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(2 * reachDialTime))
	var m protocol.ReachRequest
	if err := readRequest(s, &m, protocol.MaxReach); err != nil {
		_ = s.Reset()
		return
	}
	_ = writeMessage(s, r.answer(s.Conn(), &m))
}

func (r *reaching) answer(c network.Conn, m *protocol.ReachRequest) *protocol.ReachReply {
	code := func(c protocol.ReachCode) *protocol.ReachReply { return &protocol.ReachReply{Code: c} }
	req, err := protocol.OpenReach(m)
	from, ok := spotOf(c.RemoteMultiaddr())
	switch relayed := reach.Relayed(c); {
	case err != nil, relayed != (req.Kind == protocol.ReachKind_REACH_PUNCH):
		return code(protocol.ReachCode_REACH_BAD)
	case !relayed && (!ok || !reach.Public(from.at.Addr())):
		return code(protocol.ReachCode_REACH_BAD)
	}
	most := map[protocol.ReachKind]int{
		protocol.ReachKind_REACH_CHECK: checksAMinute, protocol.ReachKind_REACH_DIAL: dialsAMinute, protocol.ReachKind_REACH_PUNCH: punchesMinute,
	}[req.Kind]
	p, kind := c.RemotePeer(), req.Kind.String()
	if !r.n.said.take(kind+p.String(), most) || !r.n.said.take(kind+" of "+r.n.Group(p), groupTimes*most) || !r.n.said.take(kind, allAMinute) {
		return code(protocol.ReachCode_REACH_BUSY)
	}
	ctx, cancel := context.WithTimeout(r.n.ctx, 2*reachDialTime)
	defer cancel()
	switch req.Kind {
	case protocol.ReachKind_REACH_CHECK:
		return code(r.pass(ctx, p, from.at.Addr(), req))
	case protocol.ReachKind_REACH_DIAL:
		return code(r.dialFor(ctx, req))
	}
	return &protocol.ReachReply{Code: protocol.ReachCode_REACH_OK, Addrs: r.holes.asked(c, req)}
}

// pass has others dial the one that asks: several at once, because a moment later
// it may have sent packets to all of them, and then they prove nothing.
func (r *reaching) pass(ctx context.Context, p peer.ID, at netip.Addr, req protocol.Reach) protocol.ReachCode {
	m := &protocol.ReachRequest{Kind: protocol.ReachKind_REACH_DIAL, Peer: []byte(p)}
	for _, port := range req.UDP[:min(len(req.UDP), 1)] {
		m.Addrs = append(m.Addrs, ipAddr(at, port, true).Bytes())
	}
	for _, port := range req.TCP[:min(len(req.TCP), 1)] {
		m.Addrs = append(m.Addrs, ipAddr(at, port, false).Bytes())
	}
	thirds := r.thirds(p, at)
	codes := make(chan protocol.ReachCode, len(thirds))
	for _, third := range thirds {
		go func() {
			var reply protocol.ReachReply
			if err := r.n.request(ctx, third, protocol.ReachID, m, &reply, protocol.MaxReach, reachDialTime); err != nil {
				reply.Code = protocol.ReachCode_REACH_FAILED
			}
			codes <- reply.Code
		}()
	}
	code := protocol.ReachCode_REACH_NOBODY
	for range thirds {
		if c := <-codes; code != protocol.ReachCode_REACH_OK {
			code = c
		}
	}
	return code
}

// thirds returns peers that may dial one that is at an address: at random, of
// the same IP version, each from another group of addresses.
func (r *reaching) thirds(p peer.ID, at netip.Addr) (out []peer.ID) {
	groups := []netip.Addr{at}
	for _, c := range r.n.shuffled() {
		s, ok := spotOf(c.RemoteMultiaddr())
		if !ok || c.RemotePeer() == p || reach.Relayed(c) || !reach.Public(s.at.Addr()) || s.at.Addr().Is4() != at.Is4() || !r.speaks(c.RemotePeer()) {
			continue
		}
		if len(out) < thirdsAsked && !slices.ContainsFunc(groups, func(g netip.Addr) bool { return reach.SameGroup(g, s.at.Addr()) }) {
			groups, out = append(groups, s.at.Addr()), append(out, c.RemotePeer())
		}
	}
	return out
}

// dialFor dials a peer because another one passed on its wish.
func (r *reaching) dialFor(ctx context.Context, req protocol.Reach) protocol.ReachCode {
	if req.Peer == r.n.host.ID() || !mayDialFor(req.Addrs) {
		return protocol.ReachCode_REACH_BAD
	}
	if r.n.Direct(req.Peer) {
		return protocol.ReachCode_REACH_MET
	}
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(ctx, "reach"), reachDialTime)
	defer cancel()
	r.n.host.Peerstore().AddAddrs(req.Peer, req.Addrs, peerstore.TempAddrTTL)
	if _, err := r.n.host.Network().DialPeer(ctx, req.Peer); err != nil {
		return protocol.ReachCode_REACH_FAILED
	}
	return protocol.ReachCode_REACH_OK
}

// mayDialFor reports whether addresses are what a middle may pass on: of one
// public IP address, and not at a port where something else listens.
func mayDialFor(addrs []multiaddr.Multiaddr) bool {
	var one netip.Addr
	for _, a := range addrs {
		s, ok := spotOf(a)
		if !ok || !reach.Public(s.at.Addr()) || s.at.Port() < lowPorts && s.at.Port() != lowPort || one.IsValid() && s.at.Addr() != one {
			return false
		}
		one = s.at.Addr()
	}
	return one.IsValid()
}
