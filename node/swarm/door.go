package swarm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/nat"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

const (
	talkTime    = 10 * time.Second // for a whole exchange at the door
	mapTime     = 3 * time.Second  // that a code waits for the router to map a port, and for a relay
	moreTime    = 500 * time.Millisecond
	maxRequest  = 1 << 10         // bytes of a JoinRequest
	maxWelcome  = 512 << 10       // bytes of a JoinReply
	attempts    = 10              // of one address in a row
	attemptRest = 6 * time.Second // after which it may try once more
	maxCallers  = 1024            // addresses whose attempts are counted
)

// door is a swarm's join listener: a libp2p host of its own, which speaks nothing but
// /shoal/join/1 and is open only while a code is out. Behind a router it is reached through
// relays of the open network. It is safe for concurrent use.
type door struct {
	host   *outer.Bare
	outer  *outer.Host // nil: the door is open on this machine alone
	local  bool        // it listens on loopback alone
	port   int
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mapped chan struct{} // closed when the router has answered, or will not

	mu      sync.Mutex
	callers map[netip.Prefix]*rate.Limiter
	outside netip.AddrPort // the router's, for QUIC; not valid: there is no mapping
}

// openDoor listens at these IP addresses, on a port that is kept across restarts, and at
// relays of the open network.
func (s *Swarm) openDoor(at []netip.Addr, port int, relays func() []peer.AddrInfo) (_ *door, err error) {
	d := &door{port: port, callers: map[netip.Prefix]*rate.Limiter{}, mapped: make(chan struct{})}
	d.local = !slices.ContainsFunc(at, func(ip netip.Addr) bool { return !ip.IsLoopback() })
	var listen []multiaddr.Multiaddr
	for _, ip := range at {
		for _, form := range []string{"/%s/%s/udp/%d/quic-v1", "/%s/%s/tcp/%d"} {
			listen = append(listen, multiaddr.StringCast(fmt.Sprintf(form, family(ip), ip.WithZone(""), port)))
		}
	}
	if d.host, err = outer.NewBare(outer.BareConfig{Key: s.key, Listen: listen}); err != nil {
		return nil, err
	}
	if !d.local {
		if err := s.doorOutside(d, relays); err != nil {
			return nil, errors.Join(err, d.host.Close())
		}
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.host.SetStreamHandler(protocol.JoinID, func(st network.Stream) { s.answer(d, st) })
	d.wg.Go(d.sweep)
	if d.local {
		close(d.mapped)
	} else {
		d.wg.Go(d.mapPort)
	}
	return d, nil
}

func family(ip netip.Addr) string {
	if ip.Unmap().Is4() {
		return "ip4"
	}
	return "ip6"
}

func (d *door) close() {
	d.cancel()
	_ = d.host.Close()
	if d.outer != nil {
		_ = d.outer.Close()
	}
	d.wg.Wait()
}

// mapPort has the router, if it can, pass on what arrives for the port.
func (d *door) mapPort() {
	router, err := nat.DiscoverNAT(d.ctx)
	if err == nil {
		defer router.Close()
		_ = router.AddMapping(d.ctx, "tcp", d.port) // the code names that of UDP
		err = router.AddMapping(d.ctx, "udp", d.port)
		at, found := router.GetMapping("udp", d.port)
		if err == nil && found {
			d.mu.Lock()
			d.outside = at
			d.mu.Unlock()
		}
	}
	close(d.mapped)
	if err == nil {
		<-d.ctx.Done()
	}
}

// addrs returns where the door is, the best for a code first: public addresses, then
// relays, then one of the LAN. It waits for a way in from elsewhere, and then a moment for
// more, unless the machine has a public IPv4 address.
func (d *door) addrs(ctx context.Context) []multiaddr.Multiaddr {
	found := candidates(d.host.Network())
	if !slices.ContainsFunc(found, func(a multiaddr.Multiaddr) bool { return manet.IsPublicAddr(a) && isIPv4(a) }) {
		d.await(ctx)
	}
	d.mu.Lock()
	at := d.outside
	d.mu.Unlock()
	if at.IsValid() && at.Addr().IsGlobalUnicast() && !at.Addr().IsPrivate() {
		found = append([]multiaddr.Multiaddr{quicAddr(at)}, found...)
	}
	if d.outer != nil {
		found = append(found, d.outer.Addrs()...)
	}
	return ticketAddrs(found)
}

// await waits until the router has mapped the port and a relay has a place, or for one of
// the two and moreTime, or for mapTime.
func (d *door) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, mapTime)
	defer cancel()
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		if d.outer != nil && d.outer.Seeks() {
			d.outer.Await(ctx)
		}
	}()
	mapped, more := d.mapped, (<-chan time.Time)(nil)
	for mapped != nil || relayed != nil {
		select {
		case <-mapped:
			mapped = nil
		case <-relayed:
			relayed = nil
		case <-ctx.Done():
			return
		case <-more:
			return
		}
		if more == nil && d.reached() {
			more = time.After(moreTime)
		}
	}
}

// reached reports whether there is a way in from elsewhere.
func (d *door) reached() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.outside.IsValid() || d.outer != nil && len(d.outer.Relays()) > 0
}

func quicAddr(at netip.AddrPort) multiaddr.Multiaddr {
	return multiaddr.StringCast(fmt.Sprintf("/%s/%s/udp/%d/quic-v1", family(at.Addr()), at.Addr().Unmap().WithZone(""), at.Port()))
}

// candidates are the QUIC addresses of a host's interfaces.
func candidates(n network.Network) (out []multiaddr.Multiaddr) {
	all, err := n.InterfaceListenAddresses()
	if err != nil {
		all = n.ListenAddresses()
	}
	for _, a := range all {
		if _, err := a.ValueForProtocol(multiaddr.P_QUIC_V1); err == nil && !manet.IsIP6LinkLocal(a) {
			out = append(out, a)
		}
	}
	return out
}

// rank orders addresses: those come first that lead there from anywhere.
func rank(a multiaddr.Multiaddr) int {
	_, relay := a.ValueForProtocol(multiaddr.P_CIRCUIT)
	switch {
	case manet.IsIPLoopback(a):
		return 9
	case relay == nil:
		return 3
	case manet.IsPublicAddr(a) && isIPv4(a):
		return 1
	case manet.IsPublicAddr(a):
		return 2
	case isIPv4(a):
		return 4
	}
	return 5
}

func isIPv4(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_IP4)
	return err == nil
}

// ticketAddrs picks from addresses those that a code names. Loopback's are left out unless
// there are no others. The joiner tries TCP at the same port by itself.
func ticketAddrs(all []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	taken := map[int]int{}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b multiaddr.Multiaddr) int { return rank(a) - rank(b) })
	var out []multiaddr.Multiaddr
	for _, a := range all {
		r := rank(a)
		if r == 9 && len(out) > 0 || taken[r] >= 2 || len(out) >= member.MaxTicketAddrs {
			continue
		}
		taken[r]++
		out = append(out, a)
	}
	return out
}

// admit reports whether an address may make another attempt now.
func (d *door) admit(from multiaddr.Multiaddr, now time.Time) bool {
	ip, err := manet.ToIP(from)
	addr, ok := netip.AddrFromSlice(ip)
	if err != nil || !ok { // over a relay: one caller, like a very large office
		addr = netip.IPv6Unspecified()
	}
	bits := 64
	if addr = addr.Unmap(); addr.Is4() {
		bits = 32
	}
	who, _ := addr.Prefix(bits)
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.callers[who]
	if l == nil {
		for k := range d.callers { // any: an attacker with a thousand networks gains little
			if len(d.callers) < maxCallers {
				break
			}
			delete(d.callers, k)
		}
		l = rate.NewLimiter(rate.Every(attemptRest), attempts)
		d.callers[who] = l
	}
	return l.AllowN(now, 1)
}

// sweep closes connections on which nobody asks anything.
func (d *door) sweep() {
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(talkTime):
		}
		for _, c := range d.host.Network().Conns() {
			if time.Since(c.Stat().Opened) > 2*talkTime && c.Stat().Direction == network.DirInbound {
				_ = c.Close()
			}
		}
	}
}

// answer serves one stream of /shoal/join/1.
func (s *Swarm) answer(d *door, st network.Stream) {
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(talkTime))
	req := new(protocol.JoinRequest)
	reply := &protocol.JoinReply{Refusal: protocol.JoinRefusal_JOIN_REFUSAL_BUSY}
	if d.admit(st.Conn().RemoteMultiaddr(), time.Now()) {
		if err := receive(st, req, maxRequest); err != nil {
			if !errors.Is(err, errMalformed) {
				return
			}
			reply.Refusal = protocol.JoinRefusal_JOIN_REFUSAL_MALFORMED
		} else {
			reply = s.redeem(st.Conn().RemotePeer(), req)
		}
	}
	if reply.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_NONE {
		s.refused(st.Conn().RemotePeer(), req.GetName(), reply.Refusal)
	}
	if err := send(st, reply); err != nil {
		_ = st.Reset()
	}
}

// refused tells the owner that somebody was not let in, at most once in a while: whoever
// finds the door could say it as often as they like.
func (s *Swarm) refused(p interface{ String() string }, name string, why protocol.JoinRefusal) {
	if !s.complaints.Allow() {
		return
	}
	err := joinError(why)
	s.log.Warn("somebody tried to join, and was refused", "swarm", s.Name(), "peer", p.String(), "error", err)
	s.event(Event{Kind: "refused", Peer: p.String(), Name: protocol.MachineName(name), Error: err.Error()})
}

var errMalformed = errors.New("the message is malformed")

// receive reads one message with its length in front.
func receive(r io.Reader, m proto.Message, limit int64) error {
	err := protodelim.UnmarshalOptions{MaxSize: limit}.UnmarshalFrom(bufio.NewReader(r), m)
	var big *protodelim.SizeTooLargeError
	if errors.As(err, &big) || errors.Is(err, proto.Error) || err != nil && strings.Contains(err.Error(), "overflow") {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return err
}

func send(w io.Writer, m proto.Message) error {
	_, err := protodelim.MarshalTo(w, m)
	return err
}

// listenIPs returns the addresses at which a host listens, for another listener beside it.
func listenIPs(h host.Host) (out []netip.Addr) {
	for _, a := range h.Network().ListenAddresses() {
		ip, err := manet.ToIP(a)
		addr, ok := netip.AddrFromSlice(ip)
		if err != nil || !ok {
			continue
		}
		if addr = addr.Unmap(); !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}

// ownAddrs are the addresses of this machine's interfaces with a port, as a host that
// listens on all of them would have.
func ownAddrs(port int) (out []multiaddr.Multiaddr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() {
			out = append(out, quicAddr(netip.AddrPortFrom(ip, uint16(port))))
		}
	}
	return out
}
