package network

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-yamux/v5"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/fx"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/network/reach"
)

// A circuit is a connection over a relay. The relay cuts it after so many bytes one
// way, or so much time, and with it all its streams. So each circuit's bytes are
// counted, below its encryption, and before the cut a fresh circuit is made. libp2p
// keeps one circuit per peer: it makes another only once this one counts as closed. So
// a circuit that will be cut is retired: it takes no streams any more, and those that
// it has go on until they have moved.
//
// A relay that dies without a word keeps its circuits open until QUIC's idle timeout.
// So while streams wait on a silent circuit, the relay is asked whether it lives; if
// it does not, its connection is closed, and it is not dialled for a while.

const (
	cutBytes = 16 << 20         // before its limit a circuit is left, or at half of a smaller limit
	cutTime  = 30 * time.Second // before its end, or at three quarters of a shorter life

	tendEvery   = 100 * time.Millisecond
	quietTime   = 400 * time.Millisecond // without a byte, before a circuit's relay is asked
	relayTime   = 500 * time.Millisecond // and two round trips, for its answer
	shunRelay   = 30 * time.Second       // for which a relay that did not answer is not dialled
	relayDial   = 1500 * time.Millisecond
	coldRelay   = time.Second          // that relays without a connection wait for those with one
	useEvery    = time.Second          // that a circuit in use counts as used
	circuitPing = 10 * time.Second     // between measurements of a circuit's round trip
	circuitCost = 4 * time.Millisecond // by which a frame over a circuit takes longer than its round trip says
	lingerTime  = time.Second          // that a retired circuit without streams stays open
	spareTime   = 5 * time.Minute      // that an unused circuit stays open beside a direct connection
)

// Circuits wait for each other while a relay is dialled, so a dead one must not take
// libp2p's five seconds. It is a variable of the process's.
var _ = func() time.Duration { client.DialRelayTimeout = relayDial; return relayDial }()

// line is what a circuit runs over: a stream to the relay, whose bytes it counts. It is
// safe for concurrent use.
type line struct {
	manet.Conn
	stat   network.ConnStats
	limit  uint64 // of bytes one way; 0: none
	opened time.Time
	ends   time.Time // zero: never
	above  transport.CapableConn

	sent, received atomic.Uint64
	heard          atomic.Int64 // when the last byte came, as Unix nanoseconds
	rtt            atomic.Int64 // of the circuit; 0: not measured yet
	retired        atomic.Bool
	spent          chan struct{} // closed once the circuit is to be left because of its bytes
	once           sync.Once

	mu     sync.Mutex
	better chan struct{} // closed once streams have a better path
}

// lineKey is the key of ConnStats.Extra that has the circuit's line.
type lineKey struct{}

// lineOf returns what a connection runs over; nil: it crosses no relay.
func lineOf(c network.Conn) *line {
	l, _ := c.Stat().Extra[lineKey{}].(*line)
	return l
}

func newLine(c manet.Conn) *line {
	now := time.Now()
	l := &line{Conn: c, opened: now, spent: make(chan struct{}), better: make(chan struct{})}
	if s, ok := c.(network.ConnStat); ok {
		l.stat = s.Stat()
	}
	l.limit, _ = l.stat.Extra[client.StatLimitData].(uint64)
	if lasts, _ := l.stat.Extra[client.StatLimitDuration].(time.Duration); lasts > 0 {
		l.ends = now.Add(lasts)
	}
	extra := map[any]any{lineKey{}: l}
	maps.Copy(extra, l.stat.Extra)
	l.stat.Extra = extra
	l.heard.Store(now.UnixNano())
	return l
}

// Stat returns the relay's limits, and the line itself.
func (l *line) Stat() network.ConnStats { return l.stat }

func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.heard.Store(time.Now().UnixNano())
		l.count(l.received.Add(uint64(n)))
	}
	return n, err
}

func (l *line) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	l.count(l.sent.Add(uint64(n)))
	return n, err
}

// count notes that so many bytes have gone one way.
func (l *line) count(n uint64) {
	if l.limit > 0 && n >= l.limit-l.reserve() {
		l.once.Do(func() { close(l.spent) })
	}
}

// reserve returns how many bytes before its limit the circuit is left.
func (l *line) reserve() uint64 { return min(l.limit/2, cutBytes) }

// due reports whether the circuit is to be left. A side that did not make it leaves
// that to the other, for half of what is left.
func (l *line) due(now time.Time, made bool) bool {
	part := 1
	if !made {
		part = 2
	}
	if l.limit > 0 && max(l.sent.Load(), l.received.Load()) >= l.limit-l.reserve()/uint64(part) {
		return true
	}
	early := min(cutTime, l.ends.Sub(l.opened)/4) / time.Duration(part)
	return !l.ends.IsZero() && !now.Before(l.ends.Add(-early))
}

// quiet returns for how long nothing has come.
func (l *line) quiet(now time.Time) time.Duration { return now.Sub(time.Unix(0, l.heard.Load())) }

// improve notes that streams of the circuit have a better path.
func (l *line) improve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !closed(l.better) {
		close(l.better)
	}
}

// hope returns the channel that is closed once a stream has a better path. stale says
// that the one that the circuit's streams had before is gone.
func (l *line) hope(stale bool) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stale && closed(l.better) {
		l.better = make(chan struct{})
	}
	return l.better
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// relay returns the peer that relays the circuit.
func (l *line) relay() peer.ID { return reach.RelayOf(l.RemoteMultiaddr()) }

// left returns how many bytes the circuit may still carry in each direction (NoLimit:
// any number), and when the relay ends it (zero: never). l is nil if there is none.
func (l *line) left() (bytes uint64, ends time.Time) {
	switch {
	case l == nil:
		return NoLimit, ends
	case l.limit == 0:
		return NoLimit, l.ends
	}
	return l.limit - min(l.limit, max(l.sent.Load(), l.received.Load())), l.ends
}

// Room returns how many bytes a connection may still carry in each direction without
// coming near the limit of its relay; NoLimit: any number.
func (n *Network) Room(c network.Conn) uint64 {
	l := lineOf(c)
	bytes, _ := l.left()
	if l == nil || l.limit == 0 {
		return bytes
	}
	return bytes - min(bytes, l.limit/8, cutBytes/8)
}

// circuit is a relayed connection as the swarm sees it: closed, once it is retired.
type circuit struct {
	transport.CapableConn
	line *line
}

func newCircuit(c transport.CapableConn, l *line) *circuit {
	l.above = c
	return &circuit{c, l}
}

// Stat returns the line's.
func (c *circuit) Stat() network.ConnStats { return c.line.stat }

// IsClosed reports whether the circuit takes no streams any more.
func (c *circuit) IsClosed() bool { return c.line.retired.Load() || c.CapableConn.IsClosed() }

// countCircuits makes a host count what its circuits carry.
func countCircuits() libp2p.Option {
	return libp2p.WithFxOption(fx.Decorate(func(u transport.Upgrader) transport.Upgrader { return countingUpgrader{u} }))
}

// countingUpgrader puts a line below each circuit.
type countingUpgrader struct{ transport.Upgrader }

func (u countingUpgrader) Upgrade(ctx context.Context, t transport.Transport, c manet.Conn, dir network.Direction, p peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	if !t.Proxy() {
		return u.Upgrader.Upgrade(ctx, t, c, dir, p, scope)
	}
	l := newLine(c)
	up, err := u.Upgrader.Upgrade(ctx, t, l, dir, p, scope)
	if err != nil {
		return nil, err
	}
	return newCircuit(up, l), nil
}

func (u countingUpgrader) UpgradeGatedMaListener(t transport.Transport, l transport.GatedMaListener) transport.Listener {
	if !t.Proxy() {
		return u.Upgrader.UpgradeGatedMaListener(t, l)
	}
	return circuitListener{u.Upgrader.UpgradeGatedMaListener(t, lineListener{l})}
}

type lineListener struct{ transport.GatedMaListener }

func (l lineListener) Accept() (manet.Conn, network.ConnManagementScope, error) {
	c, scope, err := l.GatedMaListener.Accept()
	if err != nil {
		return c, scope, err
	}
	return newLine(c), scope, nil
}

type circuitListener struct{ transport.Listener }

func (l circuitListener) Accept() (transport.CapableConn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if s, ok := c.(network.ConnStat); ok {
		if below, ok := s.Stat().Extra[lineKey{}].(*line); ok {
			return newCircuit(c, below), nil
		}
	}
	return c, nil
}

// newPath is called with each new connection. Circuits to the same peer have a better
// path now if it is direct, or if they are to be cut.
func (n *Network) newPath(fresh network.Conn) {
	over := lineOf(fresh)
	for _, c := range n.host.Network().ConnsToPeer(fresh.RemotePeer()) {
		if l := lineOf(c); l != nil && c != fresh && (over == nil || l.due(time.Now(), true)) {
			l.improve()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if over != nil && n.ctx.Err() == nil {
		n.wg.Go(func() { n.tend(fresh, over) })
	}
}

// tend looks after a circuit until it is closed: it makes another before this one is
// cut, notices that its relay has died, and measures it.
func (n *Network) tend(c network.Conn, l *line) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	spent, again := l.spent, backoff.Backoff{First: tendEvery, Most: 2 * time.Second}
	var next, measured, used time.Time
	busy := l.opened
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-spent:
			spent = nil
		case <-tick.C:
		}
		now := time.Now()
		if l.above.IsClosed() {
			return
		}
		if c.Stat().NumStreams > 0 {
			busy = now
		}
		switch {
		case now.Sub(busy) > spareTime && n.spare(c.RemotePeer()):
			_ = c.Close()
			return
		case l.retired.Load():
			if now.Sub(busy) > lingerTime {
				_ = c.Close()
				return
			}
		case l.due(now, c.Stat().Direction == network.DirOutbound) && busy == now && !now.Before(next):
			if err := n.renew(c, l); err != nil {
				n.log.Info("a circuit will be cut, and there is no other yet", "peer", c.RemotePeer(), "error", err)
				next = time.Now().Add(again.Next())
			}
		}
		if now.Sub(measured) > circuitPing && !l.retired.Load() {
			measured = now
			go measure(c, l, now.Sub(busy) > circuitPing)
		}
		if busy == now && now.Sub(used) > useEvery && inSession(c) {
			used = now
			n.Used(c.RemotePeer()) // a long answer gets a direct path, too, when there is one
		}
		if busy == now && l.quiet(now) > quietTime {
			n.askRelay(l.relay())
		}
	}
}

// spare reports whether circuits to a peer serve nothing: it is connected directly as well,
// and no session uses it, which a circuit would save a dial if the direct path broke.
// Where holes can be punched, each peer has had a circuit first, and keeping all of them
// would be most of what an idle node's connections cost.
func (n *Network) spare(p peer.ID) bool {
	return n.reaching != nil && n.Direct(p) && !n.reaching.inUse(p)
}

// renew makes another circuit to a peer, or uses a direct connection, before one is
// cut, and has its streams move.
func (n *Network) renew(c network.Conn, l *line) error {
	p := c.RemotePeer()
	if c.Stat().Direction == network.DirOutbound {
		n.host.Peerstore().AddAddr(p, l.RemoteMultiaddr(), peerstore.TempAddrTTL)
	}
	if o := n.offerOf(p); o != nil {
		addrs := o.Addresses()
		n.host.Peerstore().AddAddrs(p, addrs[:min(len(addrs), offerAddrs)], peerstore.TempAddrTTL)
	}
	l.retired.Store(true)
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(n.ctx, "renew"), dialTime)
	defer cancel()
	if _, err := n.host.Network().DialPeer(ctx, p); err != nil {
		l.retired.Store(false)
		return tidy(err)
	}
	n.log.Info("a circuit is left before its relay cuts it", "peer", p, "relay", l.relay(), "bytes", max(l.sent.Load(), l.received.Load()), "age", time.Since(l.opened).Round(time.Second))
	l.improve()
	return nil
}

// measure measures a circuit's round trip. One that carries nothing is not probed again:
// its multiplexer probes it as often as it must to keep it open, and that is enough.
func measure(c network.Conn, l *line, idle bool) {
	var mux *yamux.Session
	if !c.As(&mux) {
		return
	}
	rtt := mux.RTT()
	if !idle || rtt == 0 {
		took, err := mux.Ping()
		if err != nil {
			return
		}
		rtt = took
	}
	l.rtt.Store(int64(rtt))
}

// askRelay closes the connections to a relay that does not answer on any, and with
// them its circuits. It returns at once.
func (n *Network) askRelay(relay peer.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asking[relay] || n.ctx.Err() != nil {
		return
	}
	n.asking[relay] = true
	n.wg.Go(func() {
		alive := n.answersAny(relay)
		if !alive && n.ctx.Err() == nil {
			n.gate.shun(relay)
			n.log.Info("a relay does not answer, and is left", "relay", relay)
			_ = n.host.Network().ClosePeer(relay)
			if o := n.outer(relay); o != nil {
				o.Leave(relay)
			}
		}
		if alive {
			_ = backoff.Pause(n.ctx, quietTime)
		}
		n.mu.Lock()
		delete(n.asking, relay)
		n.mu.Unlock()
	})
}

// answersAny reports whether a peer answers in time on some connection.
func (n *Network) answersAny(p peer.ID) bool {
	rtt, _ := n.RTT(p)
	ctx, cancel := context.WithTimeout(n.ctx, relayTime+2*rtt)
	defer cancel()
	if o := n.outer(p); o != nil {
		return o.Answers(ctx, p)
	}
	conns := n.host.Network().ConnsToPeer(p)
	said := make(chan error, len(conns))
	for _, c := range conns {
		go func() { said <- answers(ctx, c) }()
	}
	for range conns {
		if <-said == nil {
			return true
		}
	}
	return false
}

// circuitRTT returns the round trip over a circuit to a peer to which there is no direct
// connection, with what relaying costs, so that a direct peer is preferred that is
// otherwise as good; 0: there is none, or it is not measured yet.
func (n *Network) circuitRTT(p peer.ID) (rtt time.Duration) {
	for _, c := range n.host.Network().ConnsToPeer(p) {
		l := lineOf(c)
		if l == nil {
			return 0
		}
		if took := time.Duration(l.rtt.Load()); took > 0 && !c.IsClosed() {
			rtt = took + circuitCost
		}
	}
	return rtt
}

// shuns reports whether circuits through a relay are not dialled now.
func (g *gate) shuns(relay peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, dead := g.dead[relay]
	return dead && g.now().Sub(at) < shunRelay
}

// shun has circuits through a relay not be dialled for a while.
func (g *gate) shun(relay peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.dead, func(_ peer.ID, at time.Time) bool { return g.now().Sub(at) >= shunRelay })
	g.dead[relay] = g.now()
}

// forgive ends shun: there is a connection to the relay again.
func (g *gate) forgive(relay peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.dead, relay)
}

// setLinked sets how the gate knows to which relays there is a connection.
func (g *gate) setLinked(linked func(peer.ID) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.linked = linked
}

// rank is libp2p's order of dials, but for relays: one to which there is a connection
// comes first. One that has just died is still a relay of many peers, and others would
// wait for its silence.
func (g *gate) rank(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	g.mu.Lock()
	linked := g.linked
	g.mu.Unlock()
	ranked := swarm.DefaultDialRanker(addrs)
	if linked == nil || len(ranked) < 2 {
		return ranked
	}
	warm := func(a network.AddrDelay) bool { return linked(reach.RelayOf(a.Addr)) }
	cold := func(a network.AddrDelay) bool { relay := reach.RelayOf(a.Addr); return relay != "" && !linked(relay) }
	if !slices.ContainsFunc(ranked, warm) {
		return ranked
	}
	for i, a := range ranked {
		if cold(a) {
			ranked[i].Delay += coldRelay
		}
	}
	slices.SortStableFunc(ranked, func(a, b network.AddrDelay) int { return cmp.Compare(a.Delay, b.Delay) })
	return ranked
}
