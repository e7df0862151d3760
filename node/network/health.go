package network

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/protocol"
)

// Reach says whether peers elsewhere can dial this node.
type Reach string

const (
	ReachUnknown Reach = "unknown" // nobody has tried yet
	ReachLocal   Reach = "local"   // it listens on loopback alone
	ReachPublic  Reach = "public"
	ReachPrivate Reach = "private" // behind a NAT or a firewall
)

// Health describes what could be wrong with a node's connection to its peers.
type Health struct {
	Reach      Reach
	Alone      bool          // there is nowhere to look for peers
	Unreached  []Unreached   // known peers that did not answer the last dial
	ClockOff   time.Duration // how far this clock is ahead of the peers', at least; negative: behind
	ClockPeers int           // peers whose clocks were compared
	Strangers  []PeerInfo    // connected peers that speak another version of the protocol
}

// Unreached is a known peer that cannot be reached.
type Unreached struct {
	ID        peer.ID
	Addrs     []string // multiaddrs, without the peer ID
	Why       string   // of the failed dial, for people
	Bootstrap bool     // named by the operator, as opposed to remembered
}

// healthBoard collects what Health reports from events in passing.
type healthBoard struct {
	mu      sync.Mutex
	public  int // addresses found reachable
	private int // addresses found unreachable
	clocks  map[peer.ID]time.Duration
	failed  map[peer.ID]Unreached
}

// note records what libp2p finds out about this host's addresses.
func (b *healthBoard) note(e any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := e.(event.EvtHostReachableAddrsChanged); ok {
		b.public, b.private = len(e.Reachable), len(e.Unreachable)
	}
}

// reached notes the outcome of dialling a peer that was named or is remembered.
func (n *Network) reached(p peer.AddrInfo, err error) {
	if !n.book.knows(p.ID) && !n.isBootstrap(p.ID) {
		return
	}
	if err != nil && n.gate.isFull(p.Addrs) { // the gate may have held this dial back
		err = ErrRefused
	}
	b := &n.health
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.failed, p.ID)
	if err == nil {
		return
	}
	if b.failed == nil {
		b.failed = map[peer.ID]Unreached{}
	}
	u := Unreached{ID: p.ID, Why: tidy(err).Error()}
	for _, a := range p.Addrs {
		u.Addrs = append(u.Addrs, a.String())
	}
	b.failed[p.ID] = u
}

// compareClocks compares this clock with that of an offer's signer. The offer
// must come from its signer, which has signed it no longer ago than the refresh
// interval.
func (n *Network) compareClocks(from peer.ID, raw []byte) {
	signer, issued, err := protocol.OfferIssued(raw)
	if err != nil || signer != from {
		return
	}
	b := &n.health
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clocks == nil || len(b.clocks) >= maxOffers { // Health removes the entries of peers that have gone
		b.clocks = map[peer.ID]time.Duration{}
	}
	b.clocks[from] = clockOff(time.Since(issued))
}

// clockOff returns how far this clock is ahead, at least, given an offer's
// apparent age. An age between zero and the refresh interval shows no
// difference.
func clockOff(age time.Duration) time.Duration {
	switch {
	case age < 0:
		return age
	case age > refreshes:
		return age - refreshes
	}
	return 0
}

// Health returns what could be wrong now.
func (n *Network) Health() Health {
	peers := n.Peers()
	h := Health{Alone: n.alone.Load() && len(peers) == 0}
	for _, p := range peers {
		if known, err := n.host.Peerstore().GetProtocols(p.ID); err == nil && len(known) > 0 && !slices.Contains(known, libprotocol.ID(protocol.OffersID)) {
			h.Strangers = append(h.Strangers, p)
		}
	}
	rep := n.Reach()
	b := &n.health
	b.mu.Lock()
	defer b.mu.Unlock()
	switch h.Reach = rep.known(); {
	case rep.Local:
		h.Reach = ReachLocal
	case h.Reach == ReachUnknown && b.private > 0 && b.public == 0:
		h.Reach = ReachPrivate
	}
	for id, u := range b.failed {
		if slices.ContainsFunc(peers, func(p PeerInfo) bool { return p.ID == id }) {
			continue
		}
		u.Bootstrap = n.isBootstrap(id)
		h.Unreached = append(h.Unreached, u)
	}
	slices.SortFunc(h.Unreached, func(a, b Unreached) int { return strings.Compare(string(a.ID), string(b.ID)) })
	var offs []time.Duration
	for id, off := range b.clocks {
		if !slices.ContainsFunc(peers, func(p PeerInfo) bool { return p.ID == id }) {
			delete(b.clocks, id) // this also bounds the map
			continue
		}
		offs = append(offs, off)
	}
	if slices.Sort(offs); len(offs) > 0 {
		h.ClockOff, h.ClockPeers = offs[len(offs)/2], len(offs)
	}
	return h
}
