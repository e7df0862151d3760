package network

import (
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/protocol"
)

// Traffic is what the streams of one protocol have carried since the start.
type Traffic struct {
	Sent, Received uint64 // bytes
}

// otherProtocols is the name for all protocols without a count of their own:
// libp2p's.
const otherProtocols = "other"

// counter counts bytes per protocol. libp2p calls it at every read and write of
// a stream, so it only adds. Its keys are fixed: a protocol that a peer
// negotiates adds none.
type counter map[string]*struct{ sent, received atomic.Uint64 }

func newCounter() counter {
	c := counter{}
	for _, p := range []string{
		protocol.StageID, protocol.StageID1, protocol.OffersID, protocol.StatusID, kadID, bitswapID, otherProtocols,
	} {
		c[p] = &struct{ sent, received atomic.Uint64 }{}
	}
	return c
}

func (c counter) of(p libprotocol.ID) *struct{ sent, received atomic.Uint64 } {
	if n := c[string(p)]; n != nil {
		return n
	}
	return c[otherProtocols]
}

func (c counter) LogSentMessageStream(n int64, p libprotocol.ID, _ peer.ID) {
	c.of(p).sent.Add(uint64(n))
}

func (c counter) LogRecvMessageStream(n int64, p libprotocol.ID, _ peer.ID) {
	c.of(p).received.Add(uint64(n))
}

// The remaining methods of libp2p's interface are never called here.

func (counter) LogSentMessage(int64)                          {}
func (counter) LogRecvMessage(int64)                          {}
func (counter) GetBandwidthForPeer(peer.ID) (s metrics.Stats) { return s }
func (counter) GetBandwidthTotals() (s metrics.Stats)         { return s }
func (counter) GetBandwidthByPeer() map[peer.ID]metrics.Stats { return nil }
func (counter) Reset()                                        {}
func (counter) TrimIdle(time.Time)                            {}
func (c counter) GetBandwidthForProtocol(p libprotocol.ID) metrics.Stats {
	n := c.of(p)
	return metrics.Stats{TotalIn: int64(n.received.Load()), TotalOut: int64(n.sent.Load())}
}

func (c counter) GetBandwidthByProtocol() map[libprotocol.ID]metrics.Stats {
	all := map[libprotocol.ID]metrics.Stats{}
	for p := range c {
		all[libprotocol.ID(p)] = c.GetBandwidthForProtocol(libprotocol.ID(p))
	}
	return all
}

// Traffic returns the bytes of each of shoal's protocols, and of all others
// together as "other". Streams to the node itself are not counted.
func (n *Network) Traffic() map[string]Traffic {
	all := map[string]Traffic{}
	for p, c := range n.traffic {
		all[p] = Traffic{c.sent.Load(), c.received.Load()}
	}
	return all
}

// Link is a QUIC connection, as measured by QUIC itself.
type Link struct {
	Conn       string // identifies the connection within this process
	Peer       peer.ID
	RTT        time.Duration // smoothed
	Sent, Lost uint64        // packets; Lost may decrease when a packet declared lost arrives after all
}

// Links returns the QUIC connections. Other transports measure nothing
// comparable.
func (n *Network) Links() []Link {
	var all []Link
	for _, c := range n.host.Network().Conns() {
		if l, ok := linkOf(c); ok {
			all = append(all, l)
		}
	}
	return all
}

func linkOf(c network.Conn) (l Link, ok bool) {
	var qc *quic.Conn
	if !c.As(&qc) {
		return l, false
	}
	s := qc.ConnectionStats()
	return Link{Conn: c.ID(), Peer: c.RemotePeer(), RTT: s.SmoothedRTT, Sent: s.PacketsSent, Lost: s.PacketsLost}, true
}

// DHTPeers returns the number of peers in the DHT's routing table.
func (n *Network) DHTPeers() int { return n.dht.RoutingTable().Size() }

// KnownOffers returns the number of known offers of other peers.
func (n *Network) KnownOffers() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.offers.all)
}
