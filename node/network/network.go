package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Config is the configuration of a network.
type Config struct {
	Key         crypto.PrivKey
	ListenPort  int             // for QUIC and TCP, on all interfaces; 0: chosen by the system
	ListenAddrs []string        // multiaddrs; used in place of ListenPort
	Bootstrap   []string        // multiaddrs that end in /p2p/ and a peer ID
	Reached     []peer.AddrInfo // further peers, at addresses where they were reached before
	Claimed     []peer.AddrInfo // further peers, at addresses that they or others claim: dialled as a stranger's are
	MDNS        bool
	Client      bool               // a light node: it queries the DHT but stores nothing for it
	PeersFile   string             // where peers are remembered; "": nowhere
	Options     []libp2p.Option    // transports, in place of QUIC and TCP; in a private swarm, options of QUIC's socket, without TCP
	Sockets     []libp2p.Option    // what QUIC and TCP run on, in place of this machine's sockets: QUICReuse and a TCP transport
	Public      bool               // the operator vouches that peers elsewhere can dial this node
	NoRelay     bool               // do not relay for others
	MayRelay    func(peer.ID) bool // who may use this node as a relay; nil: anybody
	Version     string
	Log         *slog.Logger
	Swarm       *Swarm   // private; nil: the open network
	SwarmName   string   // for people; "": it has none
	Outside     *Outside // relays beyond the private swarm; nil: none

	crowd    crowd              // zero value: manyConns
	mayReach func(peer.ID) bool // who may reach others over this node as a relay; nil: as MayRelay
	// The networks that this machine is in; nil: as the system says, or unknown if
	// Options has transports of their own.
	place func() map[netip.Prefix]bool
}

const (
	dialTime   = 3 * time.Second // dead entries and their timeouts dominate the slowest lookups
	dialLocal  = 2 * time.Second // likewise, of private addresses
	lookTime   = 10 * time.Second
	statusTime = 1500 * time.Millisecond // for a peer's load, if its round trip is not known
	quickTime  = 500 * time.Millisecond  // else this plus the round trip
	askEvery   = 5 * time.Second         // in the background
	firstDoubt = 2 * time.Second
	lastDoubt  = time.Minute
	tellTime   = 2 * time.Second        // to send neighbours a new offer
	together   = 100 * time.Millisecond // changes of the offer within this time are sent as one
	refreshes  = 4 * time.Minute        // of the node's own offer
	offerLife  = 10 * time.Minute       // two refreshes may be lost
)

// Network is a node's connection to its peers. It is safe for concurrent use.
type Network struct {
	cfg      Config
	host     host.Host
	dht      *dht.IpfsDHT
	kad      atomic.Pointer[dht.IpfsDHT] // the same DHT, for callbacks that the DHT itself makes
	log      *slog.Logger
	lines    *rate.Limiter // of the log that connections cause
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	mdns     io.Closer
	alone    atomic.Bool // knows no peer and nowhere to look
	health   healthBoard
	gate     *gate
	reaching *reaching               // nil: the node listens on loopback alone
	swarm    string                  // ID; "": the open network
	gater    connmgr.ConnectionGater // gate, or memberGate around it
	refusals *refusals
	roll     *roll // nil: the open network
	boot     []peer.AddrInfo
	naming   sync.Mutex
	named    map[peer.ID]bool // by Protect; guarded by naming
	book     *book
	wake     chan struct{} // capacity 1: makes meet look at once

	traffic  counter
	onDirect listeners
	queues   queues
	said     tally // records sent to this node's DHT
	shelf    shelf // provider records that it keeps
	looked   lookups

	mu       sync.Mutex
	handlers map[string]func(*Stream)
	offers   heard
	told     map[peer.ID]uint64  // sequence number of this node's offer that each peer last received
	own      *protocol.Offer     // as peers are told
	seen     *protocol.Offer     // as this node itself sees it
	ownBody  *protocol.OfferBody // of seen; nil: body
	body     *protocol.OfferBody // this node's offer, unsigned
	seq      uint64
	news     uint64 // sequence number of this node's offer that last said something new
	signs    resigning
	asked    map[cid.Cid]time.Time // when members were last asked in the background
	asking   map[peer.ID]bool      // relays that are being asked whether they live
	suspects map[peer.ID]bool      // peers whose connections are being tested
	silent   map[peer.ID]silence   // peers that did not answer
	status   func(peer.ID, *protocol.StatusRequest) *protocol.StatusReply
	changed  chan struct{} // capacity 1: this node's offer or the set of connected peers has changed
}

var discard = slog.New(slog.DiscardHandler)

// New joins the network. It does not wait for peers, which connect in the
// background (see WaitPeers). Errors are ErrAddress for a bootstrap address
// that cannot be parsed, a port in use (with its remedy), and those of starting
// the host.
func New(cfg Config) (*Network, error) {
	if cfg.Log == nil {
		cfg.Log = discard
	}
	if cfg.crowd == (crowd{}) {
		cfg.crowd = manyConns
	}
	boot, err := ParsePeers(cfg.Bootstrap)
	if err != nil {
		return nil, err
	}
	n := &Network{
		cfg: cfg, log: cfg.Log, lines: rate.NewLimiter(10, 100), traffic: newCounter(), gate: newGate(), refusals: newRefusals(), handlers: map[string]func(*Stream){}, told: map[peer.ID]uint64{}, silent: map[peer.ID]silence{}, asked: map[cid.Cid]time.Time{}, asking: map[peer.ID]bool{}, suspects: map[peer.ID]bool{},
		boot: boot, book: openBook(cfg.PeersFile, cfg.Log), wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), seq: uint64(time.Now().UnixMilli()),
		signs: resigning{limit: rate.NewLimiter(rate.Every(signEvery), signBurst)},
	}
	n.gate.met, n.gate.began, n.gater = n.met, n.refusals.began, n.gate
	if cfg.Swarm != nil {
		n.swarm = cfg.Swarm.ID().String()
		if n.roll, err = newRoll(cfg, n.lines); err != nil {
			return nil, err
		}
		n.gater = memberGate{n.gate, n.roll}
		n.relayOverBridge()
		n.cfg.NoRelay = cfg.NoRelay || !n.roll.terms().roles(cfg.Swarm.Certificate).Has(member.Relay)
	}
	n.offers = newHeard(n.Connected)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for _, p := range slices.Concat(boot, cfg.Reached, n.book.infos()) {
		n.gate.name(p)
	}
	if n.host, n.reaching, err = n.newHost(); err != nil {
		n.cancel()
		return nil, explain(err, cfg)
	}
	for _, p := range slices.Concat(cfg.Reached, cfg.Claimed) {
		n.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.PermanentAddrTTL)
	}
	mode := dht.ModeAutoServer
	if cfg.Client {
		mode = dht.ModeClient
	}
	n.dht, err = dht.New(shortHost{n.host}, append(n.dhtOptions(), dht.Mode(mode), dht.ProtocolPrefix(libprotocol.ID(cfg.Swarm.dhtPrefix())),
		dht.NamespacedValidator("shoal", validator{time.Now}), dht.BootstrapPeers(boot...))...)
	if err != nil {
		n.cancel()
		return nil, errors.Join(err, n.host.Close())
	}
	n.kad.Store(n.dht)
	if n.reaching != nil {
		if err := n.reaching.start(n); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	n.host.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			n.poke()
			n.opened(c)
			n.newPath(c)
			n.replaced(c)
			n.makeRoom()
			if len(n.host.Network().ConnsToPeer(c.RemotePeer())) == 1 && n.lines.Allow() {
				n.log.Info("a peer has connected", "peer", c.RemotePeer(), "addr", c.RemoteMultiaddr(), "inbound", c.Stat().Direction == network.DirInbound)
			}
		},
		DisconnectedF: func(_ network.Network, c network.Conn) {
			if n.refusals.ended(c) {
				n.reached(peer.AddrInfo{ID: c.RemotePeer(), Addrs: []multiaddr.Multiaddr{c.RemoteMultiaddr()}}, ErrNotMember)
			}
			n.lostConn(c.RemotePeer())
			if !n.Connected(c.RemotePeer()) && n.lines.Allow() {
				n.log.Info("a peer has disconnected", "peer", c.RemotePeer(), "after", time.Since(c.Stat().Opened).Round(time.Second))
			}
		},
	})
	n.host.SetStreamHandler(protocol.OffersID, n.serveOffers)
	n.host.SetStreamHandler(protocol.StatusID, n.serveStatus)
	if cfg.MDNS {
		if n.mdns, err = n.startMDNS(); err != nil {
			n.log.Warn("no discovery on the LAN", "error", err)
		}
	}
	if err := n.watch([]any{new(event.EvtHostReachableAddrsChanged)}, n.health.note); err != nil {
		n.log.Warn("whether others reach this node will not be known", "error", err)
	}
	for _, p := range boot {
		n.host.ConnManager().Protect(p.ID, keptTag)
	}
	for p, work := range n.book.works() {
		n.host.ConnManager().TagPeer(p, workTag, work)
	}
	if n.cfg.place == nil && n.reaching != nil && len(cfg.Options) == 0 { // else its network is not this machine's
		n.cfg.place = place
	}
	if err := n.watch([]any{new(event.EvtLocalAddressesUpdated)}, func(e any) { n.moved(e.(event.EvtLocalAddressesUpdated)) }); err != nil {
		n.log.Warn("a change of this node's addresses will not be noticed", "error", err)
	}
	n.wg.Go(n.meet)
	if n.cfg.place != nil {
		n.wg.Go(n.watchPlace)
	}
	if n.roll != nil {
		n.wg.Go(func() { n.roll.expire(n.ctx.Done()) })
	}
	if !cfg.Client {
		n.wg.Go(n.announce)
		n.wg.Go(n.mingle)
	}
	return n, nil
}

// newHost starts the host. The second result is nil if it listens on loopback
// alone.
func (n *Network) newHost() (host.Host, *reaching, error) {
	cfg, gate := n.cfg, n.gate
	listen := cfg.ListenAddrs
	if len(listen) == 0 {
		for _, f := range []string{"/ip4/0.0.0.0/udp/%d/quic-v1", "/ip6/::/udp/%d/quic-v1", "/ip4/0.0.0.0/tcp/%d", "/ip6/::/tcp/%d"} {
			listen = append(listen, fmt.Sprintf(f, cfg.ListenPort))
		}
		if cfg.ListenPort == 0 { // one port for both, so that a firewall needs a single hole
			port, err := freePort()
			if err != nil {
				return nil, nil, err
			}
			for i := range listen {
				listen[i] = strings.ReplaceAll(listen[i], "/0/quic", fmt.Sprintf("/%d/quic", port))
				if strings.HasSuffix(listen[i], "/tcp/0") {
					listen[i] = strings.TrimSuffix(listen[i], "0") + fmt.Sprint(port)
				}
			}
		}
	}
	rm, err := newResources(cfg.crowd, cfg.Swarm.dhtPrefix())
	if err != nil {
		return nil, nil, err
	}
	cm, err := newConnManager(cfg.crowd)
	if err != nil {
		return nil, nil, err
	}
	// Without DisableMetrics, libp2p registers with the process's default
	// Prometheus registry, which several nodes in one process would share.
	opts := []libp2p.Option{
		libp2p.BandwidthReporter(n.traffic), countCircuits(),
		libp2p.Identity(cfg.Key), libp2p.ListenAddrStrings(listen...), libp2p.UserAgent("shoal/" + cfg.Version),
		libp2p.ResourceManager(rm), libp2p.ConnectionManager(cm), libp2p.WithDialTimeout(dialTime), libp2p.DisableMetrics(),
		libp2p.ConnectionGater(n.gater), libp2p.SwarmOpts(swarm.WithMetricsTracer(gate), swarm.WithDialRanker(gate.rank), swarm.WithDialTimeoutLocal(dialLocal)), libp2p.MultiaddrResolver(names{swarm.ResolverFromMaDNS{Resolver: madns.DefaultResolver}, gate}),
	}
	if n.roll != nil {
		opts = append(opts, n.roll.options())
	} else if len(cfg.Options) == 0 {
		opts = append(opts, libp2p.Transport(libp2pquic.NewTransport))
	}
	switch opts = append(opts, cfg.Options...); {
	case len(cfg.Sockets) > 0:
		opts = append(opts, cfg.Sockets...)
	case len(cfg.Options) == 0:
		opts = append(opts, libp2p.Transport(tcp.NewTCPTransport))
	}
	var r *reaching
	if gate.loopback = local(listen); !gate.loopback {
		r = newReaching(&cfg, gate)
		opts = append(opts, r.options()...)
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		return nil, nil, err
	}
	if r != nil && r.outside() {
		gate.outside = true
		if err := r.goOutside(h, n.roll); err != nil {
			return nil, nil, errors.Join(err, r.close(), h.Close())
		}
	}
	gate.setLinked(func(p peer.ID) bool { return h.Network().Connectedness(p) == network.Connected })
	// libp2p accepts a single working address; require all, because a node that
	// listens on half of them would confuse people.
	for _, a := range listen {
		if strings.HasPrefix(a, "/ip6/") && len(cfg.ListenAddrs) == 0 || strings.Contains(a+"/", "/0/") {
			continue
		}
		if !slices.ContainsFunc(h.Network().ListenAddresses(), func(m multiaddr.Multiaddr) bool { return m.String() == a }) {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", a, syscall.EADDRINUSE), h.Close())
		}
	}
	return h, r, nil
}

// local reports whether all addresses are this machine's own.
func local(addrs []string) bool {
	return !slices.ContainsFunc(addrs, func(s string) bool {
		a, err := multiaddr.NewMultiaddr(s)
		return err != nil || !manet.IsIPLoopback(a)
	})
}

// freePort returns a port that is free for both UDP and TCP.
func freePort() (int, error) {
	var last error
	for range 20 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		l.Close()
		if err == nil {
			u.Close()
			return port, nil
		}
		last = err
	}
	return 0, last
}

// explain turns an error of starting the host into one that a person can act
// on.
func explain(err error, cfg Config) error {
	if errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use") {
		where := fmt.Sprintf("port %d", cfg.ListenPort)
		if len(cfg.ListenAddrs) > 0 {
			where = strings.Join(cfg.ListenAddrs, ", ")
		}
		return remedy.For(fmt.Errorf("%s is in use: choose another, or stop the program that has it", where), remedy.ListenPort)
	}
	return fmt.Errorf("starting the network: %w", err)
}

// ErrAddress is wrapped by errors about a peer's address that cannot be parsed.
var ErrAddress = errors.New("peer address")

// ParsePeers parses multiaddrs that end in /p2p/ and a peer ID. The error wraps
// ErrAddress and names the first that cannot be parsed.
func ParsePeers(list []string) ([]peer.AddrInfo, error) {
	var addrs []multiaddr.Multiaddr
	for _, s := range list {
		a, err := multiaddr.NewMultiaddr(strings.TrimSpace(s))
		if err == nil {
			_, err = peer.AddrInfoFromP2pAddr(a)
		}
		if err != nil {
			err = fmt.Errorf("%w %q: %w; write it like /ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooW...", ErrAddress, s, err)
			return nil, remedy.For(err, remedy.PeerAddress)
		}
		addrs = append(addrs, a)
	}
	return peer.AddrInfosFromP2pAddrs(addrs...)
}

// Close leaves the network: the DHT, then the host. It returns their errors;
// the node has left in any case.
func (n *Network) Close() error {
	n.remember()
	n.mu.Lock() // no new background work starts from here on
	n.cancel()
	n.mu.Unlock()
	n.wg.Wait()
	var errs []error
	if n.mdns != nil {
		errs = append(errs, n.mdns.Close())
	}
	if n.reaching != nil {
		errs = append(errs, n.reaching.close())
	}
	return errors.Join(append(errs, n.dht.Close(), n.host.Close())...)
}

// Self returns the node's own peer ID.
func (n *Network) Self() peer.ID { return n.host.ID() }

// Swarm returns the ID of the private swarm that the network is; "": the open network.
func (n *Network) Swarm() string { return n.swarm }

// SwarmName returns the name of the private swarm that the network is; it may be empty.
func (n *Network) SwarmName() string { return n.cfg.SwarmName }

// Dialling returns the options for another swarm of this node, so that it dials
// through the same gate. In a private swarm its connections are closed as the
// host's are when a member is revoked.
func (n *Network) Dialling() []swarm.Option {
	return []swarm.Option{swarm.WithConnectionGater(n.gater), swarm.WithMetricsTracer(n.gate)}
}

// Believable filters addresses that a peer reported of another, keeping at most
// eight that it can know of. With teller "", as for addresses from no
// particular peer, it leaves out those with DNS names. The result is still
// hearsay: whether an address is dialled is decided at the dial.
func (n *Network) Believable(teller peer.ID, addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	if teller == "" { // such as the DHT
		return withoutNames(addrs)
	}
	return believable(n.connTo(teller), addrs)
}

// connTo returns the connection to a peer that says most about where it is, or
// nil.
func (n *Network) connTo(p peer.ID) (best network.Conn) {
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if !c.Stat().Limited && (best == nil || manet.IsIPLoopback(c.RemoteMultiaddr())) {
			best = c
		}
	}
	return best
}

// met reports whether a peer is connected from a private network.
func (n *Network) met(block netip.Prefix) bool {
	return slices.ContainsFunc(n.host.Network().Conns(), func(c network.Conn) bool {
		s, ok := spotOf(c.RemoteMultiaddr())
		return ok && !c.Stat().Limited && block.Contains(s.at.Addr())
	})
}

// Connected reports whether there is a connection to a peer, which may cross a relay.
func (n *Network) Connected(p peer.ID) bool {
	return n.host.Network().Connectedness(p) != network.NotConnected
}

// Addrs returns the addresses that peers can dial, without the peer ID.
func (n *Network) Addrs() []multiaddr.Multiaddr { return n.host.Addrs() }

// FullAddrs returns the addresses with the peer ID, as Config.Bootstrap takes
// them.
func (n *Network) FullAddrs() []string {
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()})
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

// Port returns the UDP port that the node listens on, or 0.
func (n *Network) Port() int {
	for _, a := range n.host.Network().ListenAddresses() {
		if p, err := a.ValueForProtocol(multiaddr.P_UDP); err == nil {
			var port int
			if _, err := fmt.Sscan(p, &port); err == nil {
				return port
			}
		}
	}
	return 0
}

// withoutNames leaves out addresses with DNS names and those beyond sixteen:
// the DHT passes on what any peer says.
func withoutNames(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	out := multiaddr.FilterAddrs(addrs, func(a multiaddr.Multiaddr) bool {
		return !slices.ContainsFunc(a, func(c multiaddr.Component) bool {
			switch c.Protocol().Code {
			case multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6, multiaddr.P_DNSADDR:
				return true
			}
			return false
		})
	})
	return out[:min(len(out), 2*maxAddrs)] // some are of no use here
}

// watch calls do for each of the host's events until the network is closed.
func (n *Network) watch(events []any, do func(any)) error {
	sub, err := n.host.EventBus().Subscribe(events)
	if err != nil {
		return err
	}
	n.wg.Go(func() {
		defer sub.Close()
		for {
			select {
			case <-n.ctx.Done():
				return
			case e, ok := <-sub.Out():
				if !ok {
					return
				}
				do(e)
			}
		}
	})
	return nil
}

func (n *Network) poke() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}
