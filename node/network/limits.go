package network

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

// crowd bounds how many connections a node has. They come in this order, so
// that somebody has always gone before the door is closed: the connections
// beyond high are trimmed to low, those that did least first; beyond brim each
// that comes in has one go at once (see makeRoom); beyond inbound none is let
// in.
type crowd struct {
	low, high, brim, inbound int
	grace                    time.Duration // in which a new connection is not trimmed
}

var manyConns = crowd{low: 160, high: 256, brim: 384, inbound: 512, grace: 20 * time.Second}

const (
	kadID     = protocol.DHTPrefix + "/kad/1.0.0"
	bitswapID = protocol.DHTPrefix + "/ipfs/bitswap/1.2.0"
)

// streamsOf bounds how many streams of a protocol one peer has open here, and
// all peers together.
var streamsOf = map[libprotocol.ID]struct{ peer, all int }{
	// A client has a stream for each session and stage, and a stage one for
	// each link: 32 sessions over four spans of one node, and their links, are
	// 256. QUIC's own bound is as high.
	protocol.StageID:  {256, 4096},
	protocol.StageID1: {256, 4096},
	// A fetch has three streams with each peer: several fetches at once.
	protocol.LeavesID: {32, 2048},
	bitswapID:         {32, 2048},
	// Each prompt asks once, and many may begin together (see atOnce).
	protocol.StatusID: {64, 2048},
	protocol.OffersID: {16, 1024},
	kadID:             {8, 1024},
	identify.ID:       {4, 512},
	identify.IDPush:   {4, 512},
	ping.ID:           {8, 512}, // old connections are told from live ones by it
}

// perAddress is how many connections a public IPv4 address, or the /56 of an
// IPv6 one, may have with this node: an office, or a carrier's customers, stand
// behind one. Private networks and loopback have no bound of their own.
const perAddress = 64

// private are the networks whose addresses say nothing about how many machines
// are behind one, and cost those behind them nothing: this machine, local
// networks, and carriers' own.
var private4 = prefixes("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
var private6 = prefixes("::1/128", "fc00::/7", "fe80::/10")

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// newResources bounds what peers can take of this node: connections, streams,
// and the memory that is reserved for both. Reserved memory is at most 512 MiB,
// or a quarter of what the process may have (GOMEMLIMIT), if that is less.
func newResources(c crowd) (network.ResourceManager, error) {
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
		// What this node itself opens is its own affair.
		limits.AddProtocolLimit(id, rcmgr.BaseLimit{Streams: 2 * n.all, StreamsInbound: n.all, StreamsOutbound: 2 * n.all, Memory: memory / 2}, rcmgr.BaseLimitIncrease{})
		limits.AddProtocolPeerLimit(id, rcmgr.BaseLimit{Streams: n.peer + 1024, StreamsInbound: n.peer, StreamsOutbound: 1024, Memory: memory / 8}, rcmgr.BaseLimitIncrease{})
	}
	for _, name := range []string{identify.ServiceName, ping.ServiceName} {
		limits.AddServiceLimit(name, rcmgr.BaseLimit{Streams: 1024, StreamsInbound: 512, StreamsOutbound: 1024, Memory: 16 << 20}, rcmgr.BaseLimitIncrease{})
		limits.AddServicePeerLimit(name, rcmgr.BaseLimit{Streams: 32, StreamsInbound: 8, StreamsOutbound: 32, Memory: 1 << 20}, rcmgr.BaseLimitIncrease{})
	}
	var nets4, nets6 []rcmgr.NetworkPrefixLimit
	var rates []rate.PrefixLimit // without a rate: none
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

// keptTag is under which the connection manager knows whom to keep. The DHT has
// tags of its own, for peers that stand close to this node: a place that anybody
// can have.
const keptTag = "shoal"

// Protect keeps the connections to a peer from being closed to make room: one
// that the operator named.
func (n *Network) Protect(p peer.ID) { n.host.ConnManager().Protect(p, keptTag) }

// workTag is under which the connection manager knows what a peer has done.
const workTag = "work"

const mostWork = 1000 // that counts

// Worked notes that a peer has done work for this node: a session that it
// served to the end, or a leaf that it gave. Its connections are among the last
// to be closed to make room, and it is remembered.
func (n *Network) Worked(p peer.ID) {
	n.host.ConnManager().UpsertTag(p, workTag, func(v int) int { return min(v+1, mostWork) })
	n.book.worked(p)
}

// isFriend says that a peer was named by the operator, or has done work.
func (n *Network) isFriend(p peer.ID) bool {
	info := n.host.ConnManager().GetTagInfo(p)
	return n.host.ConnManager().IsProtected(p, keptTag) || info != nil && info.Tags[workTag] > 0
}

// makeRoom closes one of the connections that came in, when there are too many
// of them: of those that are no friends, one of the group of addresses that has
// most.
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

// ErrRefused says that a peer is there and takes no connection.
var ErrRefused = remedy.For(errors.New("that peer refused: it has as many connections as it takes, in all or from this address; try again in a minute, or name another peer"), remedy.OtherPeer)

// refused says that a peer did not want a connection.
func refused(err error) bool {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	var ce *network.ConnError
	return errors.As(err, &te) && te.ErrorCode == quic.ConnectionRefused ||
		errors.As(err, &ae) && ae.ErrorCode == quic.ApplicationErrorCode(network.ConnResourceLimitExceeded) ||
		errors.As(err, &ce) && ce.ErrorCode == network.ConnResourceLimitExceeded
}

// atOnce is how many requests of a protocol this node has under way with one
// peer, so that it is never refused for too many; the others wait.
var atOnce = map[string]int{protocol.OffersID: 8, protocol.StatusID: 32}

// queues let requests to peers pass, so many at once.
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

// enter waits for its turn, or for the end of ctx.
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
