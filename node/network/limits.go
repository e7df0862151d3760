package network

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

// crowd bounds a node's connections. The thresholds increase, so that idle
// connections go before new ones are refused: beyond high, the connections are
// trimmed to low, those of the peers that did least first; beyond brim, each
// new inbound connection evicts another at once (see makeRoom); beyond inbound,
// new ones are refused.
type crowd struct {
	low, high, brim, inbound int
	grace                    time.Duration // a new connection is not trimmed for this long
}

var manyConns = crowd{low: 160, high: 256, brim: 384, inbound: 512, grace: 20 * time.Second}

const (
	kadID     = protocol.DHTPrefix + "/kad/1.0.0"
	bitswapID = protocol.DHTPrefix + "/ipfs/bitswap/1.2.0"
)

// streamsOf bounds the inbound streams of a protocol, per peer and of all peers
// together.
var streamsOf = map[libprotocol.ID]struct{ peer, all int }{
	// A client has one stream per session and stage, and a stage one per link:
	// 32 sessions over four spans of one node, and their links, make 256.
	// QUIC's own bound is as high.
	protocol.StageID:  {256, 4096},
	protocol.StageID1: {256, 4096},
	// A fetch has three streams per peer; this leaves room for several fetches
	// at once.
	protocol.LeavesID: {32, 2048},
	bitswapID:         {32, 2048},
	// Each prompt asks once, and many may begin together (see atOnce).
	protocol.StatusID: {64, 2048},
	// A fetch has two streams per peer: for blocks, and for leaves.
	protocol.HeadingID: {16, 512},
	protocol.OffersID:  {16, 1024},
	kadID:              {8, 1024},
	identify.ID:        {4, 512},
	identify.IDPush:    {4, 512},
	ping.ID:            {8, 512}, // used to tell live connections from dead ones
	// A relay and its guests have one stream per circuit (see relayResources);
	// those that come to a guest come from few relays.
	proto.ProtoIDv2Hop:  {64, 512},
	proto.ProtoIDv2Stop: {64, 256},
	holepunch.Protocol:  {4, 128},
	protocol.ReachID:    {4, 128},
	// A member compares lists with another once at a time, and may ask for another
	// certificate meanwhile.
	protocol.MemberID: {4, 256},
}

// perAddress is how many connections a public IPv4 address, or an IPv6 /56, may
// have with this node: an office or a carrier's customers may share one.
// Private networks and loopback have no such bound.
const perAddress = 64

// private are the networks where an address says nothing about how many
// machines share it, and costs its users nothing: this machine, local networks,
// and carriers' shared ranges.
var private4 = prefixes("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
var private6 = prefixes("::1/128", "fc00::/7", "fe80::/10")

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// newResources bounds what peers can use of this node: connections, streams,
// and the memory reserved for both. The memory is at most 512 MiB, or a quarter
// of the process's limit (GOMEMLIMIT) if that is less. The DHT's
// protocols have the given prefix.
func newResources(c crowd, dhtPrefix string) (network.ResourceManager, error) {
	memory := min(512<<20, max(64<<20, debug.SetMemoryLimit(-1)/4))
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	limits.SystemBaseLimit = rcmgr.BaseLimit{Conns: 2 * c.inbound, ConnsInbound: c.inbound, ConnsOutbound: 2 * c.inbound, Streams: 16384, StreamsInbound: 8192, StreamsOutbound: 16384, Memory: memory, FD: 256}
	limits.SystemLimitIncrease = rcmgr.BaseLimitIncrease{FDFraction: 1}
	limits.TransientBaseLimit = rcmgr.BaseLimit{Conns: 256, ConnsInbound: 128, ConnsOutbound: 256, Streams: 1024, StreamsInbound: 512, StreamsOutbound: 1024, Memory: memory / 4, FD: 128}
	limits.TransientLimitIncrease = rcmgr.BaseLimitIncrease{FDFraction: 0.25}
	limits.PeerBaseLimit = rcmgr.BaseLimit{Conns: 32, ConnsInbound: 16, ConnsOutbound: 16, Streams: 1536, StreamsInbound: 512, StreamsOutbound: 1024, Memory: memory / 4, FD: 16}
	limits.PeerLimitIncrease = rcmgr.BaseLimitIncrease{}
	for id, n := range streamsOf {
		if id == kadID { // a private swarm's DHT has another name
			id = libprotocol.ID(dhtPrefix + "/kad/1.0.0")
		}
		// Streams that this node itself opens need no tight bound.
		limits.AddProtocolLimit(id, rcmgr.BaseLimit{Streams: 2 * n.all, StreamsInbound: n.all, StreamsOutbound: 2 * n.all, Memory: memory / 2}, rcmgr.BaseLimitIncrease{})
		limits.AddProtocolPeerLimit(id, rcmgr.BaseLimit{Streams: n.peer + 1024, StreamsInbound: n.peer, StreamsOutbound: 1024, Memory: memory / 8}, rcmgr.BaseLimitIncrease{})
	}
	for _, name := range []string{identify.ServiceName, ping.ServiceName} {
		limits.AddServiceLimit(name, rcmgr.BaseLimit{Streams: 1024, StreamsInbound: 512, StreamsOutbound: 1024, Memory: 16 << 20}, rcmgr.BaseLimitIncrease{})
		limits.AddServicePeerLimit(name, rcmgr.BaseLimit{Streams: 32, StreamsInbound: 8, StreamsOutbound: 32, Memory: 1 << 20}, rcmgr.BaseLimitIncrease{})
	}
	relaying := relayBudget()
	limits.AddServiceLimit(relay.ServiceName, rcmgr.BaseLimit{Streams: 1024, StreamsInbound: 512, StreamsOutbound: 512, Memory: relaying}, rcmgr.BaseLimitIncrease{})
	limits.AddServicePeerLimit(relay.ServiceName, rcmgr.BaseLimit{Streams: 64, StreamsInbound: 64, StreamsOutbound: 64, Memory: relaying / 16}, rcmgr.BaseLimitIncrease{})
	var nets4, nets6 []rcmgr.NetworkPrefixLimit
	var rates []rate.PrefixLimit // empty: no rate limit
	for _, p := range private4 {
		nets4 = append(nets4, rcmgr.NetworkPrefixLimit{Network: p, ConnCount: math.MaxInt})
		rates = append(rates, rate.PrefixLimit{Prefix: p})
	}
	for _, p := range private6 {
		nets6 = append(nets6, rcmgr.NetworkPrefixLimit{Network: p, ConnCount: math.MaxInt})
		rates = append(rates, rate.PrefixLimit{Prefix: p})
	}
	few := rate.Limit{RPS: 2, Burst: perAddress}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()),
		rcmgr.WithNetworkPrefixLimit(nets4, nets6),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: perAddress}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: perAddress}, {PrefixLength: 48, ConnCount: 2 * perAddress}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{NetworkPrefixLimits: rates, SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: few}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: few}},
			GracePeriod:      time.Minute,
		}}))
}

func newConnManager(c crowd) (*connmgr.BasicConnMgr, error) {
	return connmgr.NewConnManager(c.low, c.high, connmgr.WithGracePeriod(c.grace))
}

// keptTag is the tag with which the connection manager protects peers. The DHT
// has tags of its own, for peers whose IDs are close to this node's: a place
// that anybody can take.
const keptTag = "shoal"

// Protect keeps the connections to the peers that the operator names, in place of those
// named before, from being closed to make room, and those to bootstrap peers.
func (n *Network) Protect(named map[peer.ID]bool) {
	n.naming.Lock()
	defer n.naming.Unlock()
	for p := range n.named {
		if !named[p] && !n.isBootstrap(p) {
			n.host.ConnManager().Unprotect(p, keptTag)
		}
	}
	for p := range named {
		n.host.ConnManager().Protect(p, keptTag)
	}
	n.named = named
}

func (n *Network) isBootstrap(p peer.ID) bool {
	return slices.ContainsFunc(n.boot, func(b peer.AddrInfo) bool { return b.ID == p })
}

// workTag is the tag under which the connection manager counts a peer's work.
const workTag = "work"

const mostWork = 1000 // more does not count

// Worked notes that a peer has done work for this node: it served a session to
// the end, or delivered a leaf. Its connections are among the last to be closed
// to make room, and it is remembered across restarts.
func (n *Network) Worked(p peer.ID) {
	n.host.ConnManager().UpsertTag(p, workTag, func(v int) int { return min(v+1, mostWork) })
	n.book.worked(p)
}

// isFriend reports whether a peer was named by the operator or has done work.
func (n *Network) isFriend(p peer.ID) bool {
	info := n.host.ConnManager().GetTagInfo(p)
	return n.host.ConnManager().IsProtected(p, keptTag) || info != nil && info.Tags[workTag] > 0
}

// makeRoom closes an inbound connection when there are too many of them: one of
// a peer that is no friend, from the group of addresses that has the most.
func (n *Network) makeRoom() {
	groups := map[string][]network.Conn{}
	came := 0
	for _, c := range n.host.Network().Conns() {
		if c.Stat().Direction != network.DirInbound {
			continue
		}
		came++
		p := c.RemotePeer()
		if n.isFriend(p) {
			continue
		}
		g, ok := GroupOf(c.RemoteMultiaddr())
		if !ok {
			g = p.String()
		}
		groups[g] = append(groups[g], c)
	}
	if came <= n.cfg.crowd.brim || len(groups) == 0 {
		return
	}
	var most [][]network.Conn
	for _, g := range groups {
		if len(most) > 0 && len(g) < len(most[0]) {
			continue
		}
		if len(most) > 0 && len(g) > len(most[0]) {
			most = most[:0]
		}
		most = append(most, g)
	}
	g := most[rand.IntN(len(most))]
	c := g[rand.IntN(len(g))]
	n.log.Debug("a connection is closed to make room", "peer", c.RemotePeer())
	_ = c.CloseWithError(network.ConnGarbageCollected)
}

// ErrRefused means that a peer is there but takes no connection.
var ErrRefused = remedy.For(errors.New("that peer refused: it has as many connections as it takes, in all or from this address; try again in a minute, or name another peer"), remedy.OtherPeer)

// refused reports whether a peer refused a connection.
func refused(err error) bool {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	var ce *network.ConnError
	return errors.As(err, &te) && te.ErrorCode == quic.ConnectionRefused ||
		errors.As(err, &ae) && ae.ErrorCode == quic.ApplicationErrorCode(network.ConnResourceLimitExceeded) ||
		errors.As(err, &ce) && ce.ErrorCode == network.ConnResourceLimitExceeded
}

// atOnce is how many requests per protocol this node has under way with one
// peer, so that the peer never refuses one for exceeding its limit; further
// requests wait.
var atOnce = map[string]int{protocol.OffersID: 8, protocol.StatusID: 32, protocol.ReachID: 2}

// queues limit the concurrent requests per peer and protocol.
type queues struct {
	mu  sync.Mutex
	all map[queueKey]*queue
}

type queueKey struct {
	peer  peer.ID
	proto string
}

type queue struct {
	free  chan struct{}
	users int
}

// enter waits for a slot. Its error is that of ctx.
func (q *queues) enter(ctx context.Context, p peer.ID, proto string) (leave func(), err error) {
	key := queueKey{p, proto}
	q.mu.Lock()
	if q.all == nil {
		q.all = map[queueKey]*queue{}
	}
	of := q.all[key]
	if of == nil {
		of = &queue{free: make(chan struct{}, atOnce[proto])}
		q.all[key] = of
	}
	of.users++
	q.mu.Unlock()
	done := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if of.users--; of.users == 0 {
			delete(q.all, key)
		}
	}
	select {
	case of.free <- struct{}{}:
		return func() { <-of.free; done() }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}
