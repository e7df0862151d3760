package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	bhost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/fx"

	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

const (
	takenTime  = 200 * time.Millisecond // for libp2p to take what a peer has said of this node
	lookAround = 5 * time.Second        // how often the verdict and the relayed peers are looked at
	firstCheck = 10 * time.Second       // between requests to have others dial this node; doubles up to lastCheck
	lastCheck  = 30 * time.Minute
	renewProof = time.Hour // before its end, strangers are asked for again
	// With so many peers that are proven to be reachable, one that is not leaves
	// the DHT to them.
	enoughPublic = 4
	fewPublic    = 2
	observers    = 2 // that make an observed address one of this node's
)

// libp2p keeps this number in a variable of its own for all hosts of a process:
// 4, which small networks never reach.
func init() { observedaddrs.ActivationThresh = observers }

// reaching is how a node that does not listen on loopback alone is reached: its
// verdict, its relays, and the holes that it punches. n is nil until start; what
// libp2p calls before that waits for ready.
type reaching struct {
	cfg      *Config
	gate     *gate
	ready    chan struct{}
	n        *Network
	nat      bhost.NATManager // nil: no ports are mapped
	observed bhost.ObservedAddrsManager
	upgrader transport.Upgrader         // what circuits are secured with; nil: libp2p makes them
	outer    atomic.Pointer[outer.Host] // nil: relays of the open network carry nothing
	auto     *autorelay.AutoRelay       // nil: libp2p has its own
	emitter  event.Emitter
	kick     chan struct{} // capacity 1: look around now
	relays   relays
	holes    holes
	used     scoutPorts // by scouts alone, see scouts

	mu      sync.Mutex
	machine *reach.Machine
	seen    reach.Observers
	emitted network.Reachability
	crowded bool      // enough peers are proven to be reachable
	checks  int       // requests to be dialled since the last proof or move
	checkAt time.Time // not before
	moves   int       // changes of this node's outside address
	out     bool      // scouts are out
	tcpAt   time.Time // a peer is not met over TCP before
	freshAt time.Time // connections to public nodes are not made again before
}

func newReaching(cfg *Config, g *gate) *reaching {
	r := &reaching{cfg: cfg, gate: g, ready: make(chan struct{}), kick: make(chan struct{}, 1), machine: reach.New(cfg.Public), emitted: network.ReachabilityPrivate, used: scoutPorts{}}
	r.relays.of, r.holes.of = r, r
	g.sending = func(ip netip.Addr) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.machine.Sent(ip, time.Now())
	}
	return r
}

// options configures libp2p. AutoNAT v1 is held at "private", which starts
// AutoRelay at once; from then on the verdict is this node's own (see settle).
func (r *reaching) options() []libp2p.Option {
	opts := []libp2p.Option{
		libp2p.ForceReachabilityPrivate(), libp2p.AddrsFactory(r.addrs),
		// AutoNAT's servers refuse to dial while this counter has seen fewer than
		// 100 dials, which in a small network is for ever; and a node that punches
		// holes in vain would stop using QUIC.
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.WithFxOption(fx.Populate(&r.observed)),
	}
	if r.outside() { // circuits of both kinds are one transport, see goOutside
		opts = append(opts, libp2p.DisableRelay(), libp2p.WithFxOption(fx.Populate(&r.upgrader)))
	} else {
		opts = append(opts, libp2p.EnableRelay())
	}
	if r.cfg.Public {
		opts = append(opts, libp2p.IPv6BlackHoleSuccessCounter(nil))
	}
	// AutoNAT dials from a host of its own, which is always on this machine's
	// network, and so is the router that maps ports.
	own := len(r.cfg.Options) == 0
	if own {
		opts = append(opts, libp2p.EnableAutoNATv2())
	}
	if r.cfg.Client { // nobody dials it
		return opts
	}
	if own {
		opts = append(opts, libp2p.NATManager(func(net network.Network) bhost.NATManager {
			r.nat = bhost.NewNATManager(net)
			return r.nat
		}))
	}
	if !r.cfg.NoRelay {
		opts = append(opts, libp2p.EnableRelayService(relay.WithResources(relayResources()), relay.WithACL(relayGuests{r.cfg.MayRelay, r.cfg.mayReach})))
	}
	if !r.cfg.Public && !r.outside() {
		opts = append(opts, libp2p.EnableAutoRelayWithPeerSource(r.relays.source, relayOptions()...))
	}
	return opts
}

// relayOptions is how libp2p looks for relays.
func relayOptions() []autorelay.Option {
	return []autorelay.Option{autorelay.WithBootDelay(0), autorelay.WithMinCandidates(1),
		autorelay.WithNumRelays(wantedRelays), autorelay.WithBackoff(2 * time.Minute), autorelay.WithMinInterval(relayEvery)}
}

// start begins, once the host is there.
func (r *reaching) start(n *Network) error {
	r.n = n
	var err error
	if r.emitter, err = n.host.EventBus().Emitter(new(event.EvtLocalReachabilityChanged), eventbus.Stateful); err != nil {
		return err
	}
	now := time.Now()
	r.mu.Lock()
	for _, p := range n.book.infos() { // the NAT may still know them from before a restart
		for _, a := range p.Addrs {
			if s, ok := spotOf(a); ok {
				r.machine.Sent(s.at.Addr(), now)
			}
		}
	}
	r.mu.Unlock()
	r.wantOutside(r.settle())
	if err := n.watch([]any{new(event.EvtPeerIdentificationCompleted), new(event.EvtHostReachableAddrsChanged), new(event.EvtAutoRelayAddrsUpdated), new(event.EvtPeerProtocolsUpdated)}, r.note); err != nil {
		return err
	}
	if err := r.holes.start(); err != nil {
		return err
	}
	n.host.SetStreamHandler(protocol.ReachID, r.serve)
	close(r.ready)
	n.wg.Go(r.run)
	return nil
}

// close ends what start began, after the network's context has ended.
func (r *reaching) close() error {
	errs := []error{r.holes.close()}
	if r.auto != nil {
		errs = append(errs, r.auto.Close())
	}
	if o := r.outer.Load(); o != nil {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// note takes what libp2p finds out.
func (r *reaching) note(e any) {
	switch e := e.(type) {
	case event.EvtPeerIdentificationCompleted:
		r.identified(e)
		r.relays.news()
	case event.EvtPeerProtocolsUpdated:
		if slices.Contains(e.Added, libprotocol.ID(proto.ProtoIDv2Hop)) {
			r.relays.news()
		}
	case event.EvtHostReachableAddrsChanged:
		r.mu.Lock()
		r.machine.Set(reach.ByAutoNAT, len(e.Reachable) > 0)
		if len(e.Reachable) == 0 && len(e.Unknown) == 0 && len(e.Unreachable) > 0 {
			r.machine.Refute()
		}
		r.mu.Unlock()
	case event.EvtAutoRelayAddrsUpdated:
		if r.relays.set(e.RelayAddrs) {
			r.n.resign()
		}
	}
	r.look()
}

// identified takes what a peer has said of this node.
func (r *reaching) identified(e event.EvtPeerIdentificationCompleted) {
	if reach.Relayed(e.Conn) {
		r.holes.relayed(e.Conn)
		return
	}
	if e.Conn.Stat().Direction == network.DirOutbound {
		r.sighted(e.Conn.RemoteMultiaddr(), e.Conn.LocalMultiaddr(), e.ObservedAddr)
	}
}

// sighted takes where a peer sees this node, at the other end of a connection that this
// node has made.
func (r *reaching) sighted(remote, here, observed multiaddr.Multiaddr) {
	by, ok := spotOf(remote)
	outside, ok2 := spotOf(observed)
	local, ok3 := spotOf(here)
	if !ok || !ok2 || !ok3 || !r.listens(local) {
		return
	}
	r.mu.Lock()
	moved := r.seen.Note(by.at.Addr(), outside.at, outside.udp, time.Now())
	r.machine.SeenAt(outside.at.Addr())
	if moved {
		r.machine.Moved()
		r.moves++
		r.checks, r.checkAt = 0, time.Time{}
	}
	r.mu.Unlock()
	if !r.holes.started() { // libp2p takes the same news, maybe later
		time.AfterFunc(takenTime, r.look)
	}
	if moved {
		r.n.log.Info("this node's outside address has changed", "addr", outside.at.Addr())
		r.n.resign()
		r.n.background(func() { r.refresh(freshMost) })
	}
}

// listens reports whether a local address has a port on which this node listens.
func (r *reaching) listens(at spot) bool {
	return slices.ContainsFunc(r.n.host.Network().ListenAddresses(), func(a multiaddr.Multiaddr) bool {
		s, ok := spotOf(a)
		return ok && s.udp == at.udp && s.at.Port() == at.at.Port()
	})
}

// opened notes a connection.
func (r *reaching) opened(c network.Conn) {
	if reach.Relayed(c) {
		return
	}
	r.holes.direct(c.RemotePeer())
	s, ok := spotOf(c.RemoteMultiaddr())
	if !ok {
		return
	}
	r.mu.Lock()
	if c.Stat().Direction == network.DirInbound {
		r.machine.CameIn(s.at.Addr(), time.Now())
	} else {
		r.machine.Sent(s.at.Addr(), time.Now())
	}
	r.mu.Unlock()
	r.look()
}

// moved notes that this machine's addresses have changed.
func (r *reaching) moved() {
	r.mu.Lock()
	r.seen.Forget()
	r.machine.Moved()
	r.moves++
	r.checks, r.checkAt, r.tcpAt, r.freshAt = 0, time.Time{}, time.Time{}, time.Time{}
	r.mu.Unlock()
	if o := r.outer.Load(); o != nil {
		o.Moved()
	}
	r.relays.moved()
	r.holes.moved()
	r.look()
}

func (r *reaching) look() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run keeps the verdict current, has others dial this node while that could
// prove something, announces a relay, and tries again for direct paths.
func (r *reaching) run() {
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for {
		select {
		case <-r.n.ctx.Done():
			return
		case <-r.kick:
		case <-tick.C:
			r.holes.again()
		}
		if err := r.holes.start(); err != nil {
			r.n.log.Warn("no holes will be punched", "error", err)
		}
		r.claims()
		state := r.settle()
		r.wantOutside(state)
		if state.Verdict != reach.Proven {
			r.keepTCP()
		} else {
			r.relays.announce()
		}
		if state.Verdict != reach.Proven || !state.Until.IsZero() && time.Until(state.Until) < renewProof {
			r.check()
		} else {
			r.mu.Lock()
			r.checks, r.checkAt = 0, time.Time{}
			r.mu.Unlock()
		}
	}
}

// claims looks at what speaks for being reachable.
func (r *reaching) claims() {
	mapped := len(r.mapped()) > 0
	own := len(r.ownPublic()) > 0
	r.mu.Lock()
	defer r.mu.Unlock()
	r.machine.Set(reach.ByMapping, mapped)
	r.machine.Set(reach.ByAddress, own)
}

// mapped returns the addresses that the router forwards to this node.
func (r *reaching) mapped() (out []multiaddr.Multiaddr) {
	if r.nat == nil || !r.nat.HasDiscoveredNAT() {
		return nil
	}
	for _, a := range r.n.host.Network().ListenAddresses() {
		if m := r.nat.GetMapping(a); m != nil {
			if s, ok := spotOf(m); ok && reach.Public(s.at.Addr()) {
				out = append(out, m)
			}
		}
	}
	return out
}

// ownPublic returns the public addresses of this machine's interfaces on which
// the node listens.
func (r *reaching) ownPublic() (out []netip.Addr) {
	all, err := r.n.host.Network().InterfaceListenAddresses()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if s, ok := spotOf(a); ok && reach.Public(s.at.Addr()) && !slices.Contains(out, s.at.Addr()) {
			out = append(out, s.at.Addr())
		}
	}
	return out
}

// settle computes the verdict and tells libp2p when it has changed. A proven
// node is a server of the DHT and a relay, and keeps no reservations. Others
// leave the DHT to those that are proven, once there are enough of them; until
// then the network is small, and each node serves it as well as it can.
func (r *reaching) settle() reach.State {
	public := 0
	for _, p := range r.n.host.Network().Peers() {
		if r.n.Direct(p) && r.n.isRelay(p) {
			public++
		}
	}
	r.mu.Lock()
	state := r.machine.State(time.Now())
	r.crowded = public >= enoughPublic || r.crowded && public >= fewPublic
	next, last := network.ReachabilityUnknown, r.emitted
	switch {
	case state.Verdict == reach.Proven:
		next = network.ReachabilityPublic
	case r.crowded:
		next = network.ReachabilityPrivate
	}
	r.emitted = next
	r.mu.Unlock()
	if next == last {
		return state
	}
	if err := r.emitter.Emit(event.EvtLocalReachabilityChanged{Reachability: next}); err != nil {
		r.n.log.Warn("the verdict on reachability has no effect", "error", err)
	}
	r.n.log.Info("whether peers elsewhere can dial this node", "verdict", state.Verdict, "strangers", state.Strangers)
	return state
}

// check asks peers to have others dial this node, and sends out scouts. The
// answers are not believed: only that a stranger connects counts.
func (r *reaching) check() {
	if r.cfg.Client {
		return
	}
	middles := r.middles()
	r.mu.Lock()
	now := time.Now()
	if len(middles) == 0 || now.Before(r.checkAt) {
		r.mu.Unlock()
		return
	}
	r.checkAt = now.Add(min(lastCheck, firstCheck<<min(r.checks, 10)))
	r.checks++
	out := r.out
	r.out = true
	r.mu.Unlock()
	if !out {
		r.n.wg.Go(func() {
			r.scouts()
			r.mu.Lock()
			r.out = false
			r.mu.Unlock()
		})
	}
	req := &protocol.ReachRequest{Kind: protocol.ReachKind_REACH_CHECK}
	for _, s := range r.ports() {
		if s.udp {
			req.Udp = append(req.Udp, uint32(s.at.Port()))
		} else {
			req.Tcp = append(req.Tcp, uint32(s.at.Port()))
		}
	}
	for _, p := range middles {
		r.n.wg.Go(func() {
			var reply protocol.ReachReply
			if err := r.n.request(r.n.ctx, p, protocol.ReachID, req, &reply, protocol.MaxReach, 2*reachDialTime); err != nil {
				r.n.log.Debug("asking to be dialled by a stranger", "peer", p, "error", err)
			}
		})
	}
}

// middles returns up to three peers to ask, at random: directly connected, at a
// public address, in different groups of addresses.
func (r *reaching) middles() (out []peer.ID) {
	var groups []netip.Addr
	for _, c := range r.n.shuffled() {
		s, ok := spotOf(c.RemoteMultiaddr())
		if !ok || reach.Relayed(c) || !reach.Public(s.at.Addr()) || !r.speaks(c.RemotePeer()) || slices.Contains(out, c.RemotePeer()) {
			continue
		}
		if !slices.ContainsFunc(groups, func(g netip.Addr) bool { return reach.SameGroup(g, s.at.Addr()) }) && len(out) < 3 {
			groups, out = append(groups, s.at.Addr()), append(out, c.RemotePeer())
		}
	}
	return out
}

// shuffled returns the connections in a random order.
func (n *Network) shuffled() []network.Conn {
	conns := n.host.Network().Conns()
	rand.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	return conns
}

func (r *reaching) speaks(p peer.ID) bool {
	known, err := r.n.host.Peerstore().SupportsProtocols(p, protocol.ReachID)
	return err == nil && len(known) > 0
}

// ports returns the ports under which others see this node, one of UDP and one
// of TCP: those that the router has mapped, those that peers see, or else those
// on which it listens.
func (r *reaching) ports() (out []spot) {
	var at [2]uint16
	put := func(s spot, ok bool) {
		i := 0
		if s.udp {
			i = 1
		}
		if ok && at[i] == 0 {
			at[i] = s.at.Port()
		}
	}
	for _, a := range r.mapped() {
		put(spotOf(a))
	}
	for t, seen := range r.sights() {
		if seen.Observers > 0 && (t == reach.UDP4 || t == reach.TCP4) {
			put(spot{seen.Outside, t == reach.UDP4}, true)
		}
	}
	for _, a := range r.n.host.Network().ListenAddresses() {
		put(spotOf(a))
	}
	for i, port := range at {
		if port != 0 {
			out = append(out, spot{netip.AddrPortFrom(netip.Addr{}, port), i == 1})
		}
	}
	return out
}

// sights returns what peers see of each transport.
func (r *reaching) sights() map[reach.Transport]reach.Seen {
	own := r.ownPublic()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[reach.Transport]reach.Seen{}
	for _, t := range []reach.Transport{reach.UDP4, reach.UDP6, reach.TCP4, reach.TCP6} {
		all[t] = r.seen.Of(t, func(ip netip.Addr) bool { return slices.Contains(own, ip) }, time.Now())
	}
	return all
}

// addrs is which of its addresses this node tells others. Until it is proven to
// be reachable, those at its relays are always among them: libp2p would leave
// them out as soon as AutoNAT found one of the others reachable.
func (r *reaching) addrs(all []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	r.mu.Lock()
	proven := r.machine.State(time.Now()).Verdict == reach.Proven
	r.mu.Unlock()
	out := slices.DeleteFunc(slices.Clone(all), reach.IsCircuit)
	if proven {
		return out
	}
	return append(append(out, r.relays.addrs()...), r.outsideAddrs()...)
}

// ipAddr returns the address of a QUIC or TCP listener.
func ipAddr(ip netip.Addr, port uint16, udp bool) multiaddr.Multiaddr {
	version := "ip6"
	if ip.Is4() {
		version = "ip4"
	}
	if udp {
		return multiaddr.StringCast(fmt.Sprintf("/%s/%s/udp/%d/quic-v1", version, ip, port))
	}
	return multiaddr.StringCast(fmt.Sprintf("/%s/%s/tcp/%d", version, ip, port))
}
