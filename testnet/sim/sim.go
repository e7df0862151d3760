package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"

	"github.com/shoalnet/shoal/testnet/link"
)

// simnet's own links must add no delay: sockets compute when their packets arrive. Its
// limiter also fails if a packet is due in less than a nanosecond (simnet v0.0.7 then
// waits forever).
const (
	fast  = 1e15    // bit/s
	burst = 1 << 40 // bytes at once
)

// Network is a simulated network: every endpoint has the same link to its
// middle, so any two are one RTT apart.
type Network struct {
	params link.Params // guarded by mu
	nw     *simnet.Simnet

	mu    sync.Mutex
	count int
	hosts []host.Host // made by NewHost, closed by Close

	sockets map[string]*socket // by address
}

// New starts a network. RTT is between any two endpoints, Rate that of each
// endpoint's uplink, Loss the chance of each packet: as in package link.
func New(p link.Params) *Network {
	n := &Network{params: p, sockets: make(map[string]*socket)}
	n.nw = &simnet.Simnet{
		LatencyFunc: n.latency,
		// Packets to closed hosts are expected.
		Logger: slog.New(slog.DiscardHandler),
	}
	n.nw.Start()
	return n
}

// Endpoint is the place of one host in the network.
type Endpoint struct {
	Index int            // from 0, in the order of creation
	Key   crypto.PrivKey // of the host; a function of Index
	ID    peer.ID
	Addr  ma.Multiaddr // where it listens

	net *Network
}

// NewEndpoint returns an endpoint with the next address and identity.
func (n *Network) NewEndpoint() (*Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n.count)+1)
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(seed[:]))
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if n.count >= 1<<16-1 {
		return nil, errors.New("sim: too many endpoints")
	}
	addr, err := ma.NewMultiaddr(fmt.Sprintf("/ip4/1.0.%d.%d/udp/4001/quic-v1", (n.count+1)>>8, (n.count+1)&255))
	if err != nil {
		return nil, err
	}
	e := &Endpoint{Index: n.count, Key: key, ID: id, Addr: addr, net: n}
	n.count++
	return e, nil
}

// TransportOptions returns the host's transport on this network, which replaces a host's
// own Transport and QUICReuse options. The host should use
// Key as its identity and listen on Addr only.
func (e *Endpoint) TransportOptions() []libp2p.Option {
	return append(e.SocketOptions(), libp2p.Transport(libp2pquic.NewTransport))
}

// SocketOptions returns TransportOptions without the transport, for hosts that have a QUIC
// transport of their own.
func (e *Endpoint) SocketOptions() []libp2p.Option {
	return []libp2p.Option{
		libp2p.QUICReuse(e.quicReuse),
		// Waits outside of the bubble's clock, so virtual time would stop.
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.DisableMetrics(),
	}
}

// Options returns TransportOptions, the identity and the listen address: all that a host
// needs here.
func (e *Endpoint) Options() []libp2p.Option {
	return append(e.TransportOptions(), libp2p.Identity(e.Key), libp2p.ListenAddrs(e.Addr))
}

// Info returns what a peer needs to dial the endpoint.
func (e *Endpoint) Info() peer.AddrInfo {
	return peer.AddrInfo{ID: e.ID, Addrs: []ma.Multiaddr{e.Addr}}
}

// Limit changes the rate of the uplinks of endpoints whose hosts are made from now on,
// bit/s; 0 is unlimited.
func (n *Network) Limit(rate float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.params.Rate = rate
}

// NewHost creates a host on a new endpoint. Its options take precedence over the
// network's.
func (n *Network) NewHost(opts ...libp2p.Option) (host.Host, error) {
	e, err := n.NewEndpoint()
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(append(e.Options(), opts...)...)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.hosts = append(n.hosts, h)
	n.mu.Unlock()
	return h, nil
}

// Close closes NewHost's hosts, last first, then the network. Hosts created elsewhere
// must be closed before.
func (n *Network) Close() error {
	n.mu.Lock()
	hosts := n.hosts
	n.hosts = nil
	n.mu.Unlock()
	var errs []error
	for i := len(hosts) - 1; i >= 0; i-- {
		errs = append(errs, hosts[i].Close())
	}
	n.nw.Close()
	return errors.Join(errs...)
}

func (e *Endpoint) quicReuse(key quic.StatelessResetKey, token quic.TokenGeneratorKey, life fx.Lifecycle) (*quicreuse.ConnManager, error) {
	cm, err := quicreuse.NewConnManager(key, token,
		quicreuse.OverrideListenUDP(e.listen),
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return e, nil }))
	if err != nil {
		return nil, err
	}
	life.Append(fx.StopHook(cm.Close))
	return cm, nil
}

// PreferredSourceIPForDestination says that all dials leave from the one socket.
func (e *Endpoint) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	s, err := e.Addr.ValueForProtocol(ma.P_IP4)
	if err != nil {
		return nil, err
	}
	return net.ParseIP(s).To4(), nil
}

func (e *Endpoint) listen(_ string, addr *net.UDPAddr) (net.PacketConn, error) {
	way := simnet.LinkSettings{
		BitsPerSecond: fast,
		MTU:           burst,
		// One queue: fair queueing hashes flows with a random seed.
		FlowBucketCount: 1,
	}
	rng := rand.New(rand.NewPCG(uint64(e.Index), 1))
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	s := &socket{uplink: link.NewModel(e.net.params, rng.Float64)}
	s.SimConn = e.net.nw.NewEndpoint(addr, simnet.NodeBiDiLinkSettings{Uplink: way, Downlink: way})
	e.net.sockets[addr.String()] = s
	return s, nil
}

// socket decides when its packets arrive. simnet asks for a packet's delay once its router
// has the packet, without passing its size; but it keeps the order of a sender's packets,
// so the delays are kept in a queue.
type socket struct {
	*simnet.SimConn

	send   sync.Mutex // held while a packet enters the network, to keep the order
	uplink *link.Model

	mu     sync.Mutex
	delays []time.Duration
}

func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	s.send.Lock()
	defer s.send.Unlock()
	delay, ok := s.uplink.Send(time.Now(), len(b))
	if !ok {
		return len(b), nil
	}
	s.mu.Lock()
	s.delays = append(s.delays, delay)
	s.mu.Unlock()
	return s.SimConn.WriteTo(b, to)
}

// latency returns a packet's delay, for the router.
func (n *Network) latency(p *simnet.Packet) time.Duration {
	n.mu.Lock()
	s := n.sockets[p.From.String()]
	n.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.delays[0]
	s.delays = s.delays[1:]
	return d
}

var _ io.Closer = (*Network)(nil)
