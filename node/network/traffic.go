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

// Traffic is what streams of one protocol have carried since the start.
type Traffic struct {
	Sent, Received uint64 // bytes
}

// otherProtocols stands for all that have no count of their own: libp2p's.
const otherProtocols = "other"

// counter counts bytes a protocol, for libp2p, which calls it with every read
// and write of a stream: so it adds, and does nothing else. Its keys are fixed:
// what a peer negotiates makes no new one.
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

// The rest of libp2p's interface is asked by nobody here.

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

// Traffic tells the bytes of each of shoal's protocols, and of all others
// together as "other". Streams to oneself do not count.
func (n *Network) Traffic() map[string]Traffic {
	all := map[string]Traffic{}
	for p, c := range n.traffic {
		all[p] = Traffic{c.sent.Load(), c.received.Load()}
	}
	return all
}

// Link is a QUIC connection, as QUIC itself measures it.
type Link struct {
	Conn       string // names the connection in this process
	Peer       peer.ID
	RTT        time.Duration // smoothed
	Sent, Lost uint64        // packets; Lost may sink, when one that was given up arrives
}

// Links lists the QUIC connections. Others measure nothing of the kind.
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

// DHTPeers is how many peers the DHT's routing table has.
func (n *Network) DHTPeers() int { return n.dht.RoutingTable().Size() }

// KnownOffers is how many offers of others are known.
func (n *Network) KnownOffers() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.offers.all)
}
