package natsim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"

	"github.com/shoalnet/shoal/testnet/nat"
)

// Net is a network of hosts: the internet, or one behind a NAT. Methods of Nets
// and Hosts of one internet are safe for concurrent use.
type Net struct {
	w    *world
	up   *Net // nil: the internet itself
	box  *nat.NAT
	line line // of the box
	at   map[netip.Addr]receiver

	walls map[[2]netip.Addr]bool // addresses between which nothing passes
}

// world is what all networks of one internet share.
type world struct {
	mu    sync.Mutex // guards all networks, boxes and lines; never held while a host is called
	hosts int
}

// receiver is a host, or a network behind a box.
type receiver interface{ receive(packet) }

type packet struct {
	flow nat.Flow
	data []byte
}

// New returns an internet without hosts.
func New() *Net { return &Net{w: &world{}, at: map[netip.Addr]receiver{}} }

// Behind returns a network behind a NAT that appears in n at the address
// outside. With the zero Addr the box is a firewall, and hosts appear in n by
// their own addresses. delay is one way, of the line between the box and n.
func (n *Net) Behind(kind nat.Kind, outside netip.Addr, delay time.Duration) *Net {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	home := &Net{w: n.w, up: n, box: nat.New(kind, outside, uint64(n.w.hosts)+uint64(len(n.at))), line: line{w: n.w, delay: delay}, at: map[netip.Addr]receiver{}}
	if outside.IsValid() {
		n.at[outside] = home
	}
	return home
}

// Move gives the box of a network another outside address, and forgets what was
// open. Packets to the old address are lost.
func (n *Net) Move(outside netip.Addr) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	delete(n.up.at, n.box.Outside())
	n.box.Move(outside)
	n.up.at[outside] = n
}

// Wall keeps packets between two addresses of the network from passing, as its hosts see
// them, or lets them pass again.
func (n *Net) Wall(a, b netip.Addr, on bool) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.walls == nil {
		n.walls = map[[2]netip.Addr]bool{}
	}
	n.walls[[2]netip.Addr{a, b}], n.walls[[2]netip.Addr{b, a}] = on, on
}

// Entries returns how many mappings the box of a network holds.
func (n *Net) Entries() int {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.box.Len(time.Now())
}

// send carries a packet of one of the network's own hosts, or of a network
// behind one of its boxes. Called with mu held.
func (n *Net) send(p packet) {
	if to := n.at[p.flow.Dst.Addr()]; to != nil {
		if !n.walls[[2]netip.Addr{p.flow.Src.Addr(), p.flow.Dst.Addr()}] {
			to.receive(p)
		}
		return
	}
	if n.up == nil {
		return
	}
	var ok bool
	if p.flow, ok = n.box.Out(p.flow, time.Now()); ok {
		n.line.up.carry(&n.line, p, n.up.send)
	}
}

// receive takes a packet to the box. Called with mu held.
func (n *Net) receive(p packet) {
	n.line.down.carry(&n.line, p, func(p packet) {
		var ok bool
		if p.flow, ok = n.box.In(p.flow, time.Now()); !ok {
			return
		}
		if to := n.at[p.flow.Dst.Addr()]; to != nil {
			to.receive(p)
		}
	})
}

// line delays packets, the same for all, both ways.
type line struct {
	w        *world
	delay    time.Duration
	cut      bool
	up, down way
}

// way is one direction of a line, which keeps the order of packets: timers that
// end at the same instant run in any order.
type way struct {
	queue []packet
	bytes int64 // carried since the start, with IP and UDP headers
}

const headers = 28 // bytes of a packet, of IPv4 and UDP

// carry passes a packet on after the line's delay, with mu held then, too.
func (y *way) carry(l *line, p packet, pass func(packet)) {
	if l.cut {
		return
	}
	y.bytes += int64(len(p.data)) + headers
	if l.delay == 0 {
		pass(p)
		return
	}
	y.queue = append(y.queue, p)
	time.AfterFunc(l.delay, func() {
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		p := y.queue[0]
		y.queue = y.queue[1:]
		if !l.cut {
			pass(p)
		}
	})
}

// Host is the place of one libp2p host in a network.
type Host struct {
	Key  crypto.PrivKey // of the host; a function of the order of creation
	ID   peer.ID
	Addr ma.Multiaddr // where it listens, in its own network

	net     *Net
	ip      netip.Addr
	line    line
	sockets map[uint16]*socket // by port; guarded by the world's mu
}

const listenPort = 4001

// Host adds a host with an address of the network. delay is one way, of the
// line between the host and the network.
func (n *Net) Host(ip netip.Addr, delay time.Duration) (*Host, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.at[ip] != nil {
		return nil, fmt.Errorf("natsim: %s is taken", ip)
	}
	var seed [32]byte
	n.w.hosts++
	binary.LittleEndian.PutUint64(seed[:], uint64(n.w.hosts))
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(seed[:]))
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	family := "ip4"
	if ip.Is6() {
		family = "ip6"
	}
	addr, err := ma.NewMultiaddr(fmt.Sprintf("/%s/%s/udp/%d/quic-v1", family, ip, listenPort))
	if err != nil {
		return nil, err
	}
	h := &Host{Key: key, ID: id, Addr: addr, net: n, ip: ip, line: line{w: n.w, delay: delay}, sockets: map[uint16]*socket{}}
	n.at[ip] = h
	for in := n; in.up != nil && !in.box.Outside().IsValid(); in = in.up {
		in.up.at[ip] = in
	}
	return h, nil
}

// Full returns the address with the peer ID, as bootstrap lists have it.
func (h *Host) Full() string { return h.Addr.String() + "/p2p/" + h.ID.String() }

// Cut takes the host off its line, or puts it back: what it sends is lost, and
// what is sent to it. To its peers it is as dead as one that was killed.
func (h *Host) Cut(cut bool) {
	h.net.w.mu.Lock()
	defer h.net.w.mu.Unlock()
	h.line.cut = cut
}

// Traffic returns how many bytes the host has sent and received so far, with the
// headers of IPv4 and UDP.
func (h *Host) Traffic() (sent, received int64) {
	h.net.w.mu.Lock()
	defer h.net.w.mu.Unlock()
	return h.line.up.bytes, h.line.down.bytes
}

// Options returns the host's transport on this network. The host should have
// Key as its identity and listen on Addr alone.
func (h *Host) Options() []libp2p.Option { return []libp2p.Option{libp2p.Transport(h.transport)} }

// SocketOptions returns what Options returns without the transport, for hosts that have a
// QUIC transport of their own, such as those of private swarms.
func (h *Host) SocketOptions() []libp2p.Option {
	return []libp2p.Option{libp2p.QUICReuse(func(reset quic.StatelessResetKey, token quic.TokenGeneratorKey, life fx.Lifecycle) (*quicreuse.ConnManager, error) {
		cm, err := h.sharedSockets(reset, token)
		if err == nil {
			life.Append(fx.StopHook(cm.Close))
		}
		return cm, err
	})}
}

func (h *Host) sharedSockets(reset quic.StatelessResetKey, token quic.TokenGeneratorKey) (*quicreuse.ConnManager, error) {
	return quicreuse.NewConnManager(reset, token,
		quicreuse.OverrideListenUDP(h.listen),
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return h, nil }))
}

// transport makes a QUIC transport with sockets of its own. libp2p's QUICReuse
// option would not do: the host from which AutoNAT dials back ignores it.
func (h *Host) transport(key crypto.PrivKey, reset quic.StatelessResetKey, token quic.TokenGeneratorKey, psk pnet.PSK, gater connmgr.ConnectionGater, rcmgr network.ResourceManager) (transport.Transport, error) {
	cm, err := h.sharedSockets(reset, token)
	if err != nil {
		return nil, err
	}
	t, err := libp2pquic.NewTransport(key, cm, psk, gater, rcmgr)
	if err != nil {
		return nil, errors.Join(err, cm.Close())
	}
	return owner{t, cm}, nil
}

// owner is a transport that closes its sockets.
type owner struct {
	transport.Transport
	sockets io.Closer
}

func (o owner) Close() error {
	var err error
	if c, ok := o.Transport.(io.Closer); ok {
		err = c.Close()
	}
	return errors.Join(err, o.sockets.Close())
}

// PreferredSourceIPForDestination implements quicreuse.SourceIPSelector: a host
// has one address.
func (h *Host) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return h.ip.AsSlice(), nil
}

// listen makes a socket; port 0 is one that is free.
func (h *Host) listen(_ string, addr *net.UDPAddr) (net.PacketConn, error) {
	h.net.w.mu.Lock()
	defer h.net.w.mu.Unlock()
	port := uint16(addr.Port)
	for p := uint16(50000); port == 0; p++ {
		if h.sockets[p] == nil {
			port = p
		}
	}
	if h.sockets[port] != nil {
		return nil, fmt.Errorf("natsim: port %d of %s is taken", port, h.ip)
	}
	s := &socket{host: h, at: netip.AddrPortFrom(h.ip, port), in: make(chan packet, backlog), deadline: make(chan struct{}, 1), done: make(chan struct{})}
	h.sockets[port] = s
	return s, nil
}

// receive takes a packet to the host's socket. Called with mu held.
func (h *Host) receive(p packet) {
	h.line.down.carry(&h.line, p, func(p packet) {
		if s := h.sockets[p.flow.Dst.Port()]; s != nil {
			select {
			case s.in <- p:
			default:
			}
		}
	})
}
