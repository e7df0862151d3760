package outer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/config"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const (
	dialTime  = 4 * time.Second
	maxConns  = 64 // of a bare host at a time
	maxMemory = 32 << 20
)

// BareConfig is what a bare host is made of.
type BareConfig struct {
	Key     crypto.PrivKey
	Listen  []multiaddr.Multiaddr
	Gate    connmgr.ConnectionGater // nil: lets everything through
	Swarm   []swarm.Option
	Sockets *quicreuse.ConnManager // another host's, to dial from the same UDP port; nil: its own
	NoTCP   bool
	NoQUIC  bool
	TCPPort func() int // from which it dials over TCP, if that is possible; nil: from any
}

// Bare is a libp2p host without any protocol: no identify, ping or DHT, which would tell
// a stranger what runs here and where. It speaks QUIC and TCP. It is safe for concurrent
// use.
type Bare struct {
	host.Host
	Upgrader transport.Upgrader // for circuits of the host
	closers  []io.Closer        // the last is closed first
	once     sync.Once
	err      error
}

// NewBare makes a bare host. Errors are those of listening, which name the address.
func NewBare(c BareConfig) (_ *Bare, err error) {
	b := &Bare{}
	defer func() {
		if err != nil {
			_ = b.Close()
		}
	}()
	self, err := peer.IDFromPrivateKey(c.Key)
	if err != nil {
		return nil, err
	}
	book, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, book)
	if err := errors.Join(book.AddPrivKey(self, c.Key), book.AddPubKey(self, c.Key.GetPublic())); err != nil {
		return nil, err
	}
	limits := rcmgr.InfiniteLimits.ToPartialLimitConfig()
	limits.System.Conns, limits.System.ConnsInbound, limits.System.Streams = maxConns, maxConns/2, 8*maxConns
	limits.System.Memory = maxMemory
	rm, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Build(rcmgr.InfiniteLimits)), rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, rm)
	bus := eventbus.NewBus()
	opts := []swarm.Option{swarm.WithResourceManager(rm), swarm.WithConnectionGater(c.Gate), swarm.WithDialTimeout(dialTime), swarm.WithDialTimeoutLocal(dialTime)}
	net, err := swarm.NewSwarm(self, book, bus, append(opts, c.Swarm...)...)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, net)
	b.Host = blankhost.NewBlankHost(net, blankhost.WithEventBus(bus))
	if err := b.addTransports(net, c, rm); err != nil {
		return nil, err
	}
	for _, a := range c.Listen {
		if err := net.Listen(a); err != nil {
			return nil, fmt.Errorf("%s: %w", a, err)
		}
	}
	return b, nil
}

func (b *Bare) addTransports(net *swarm.Swarm, c BareConfig, rm network.ResourceManager) error {
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	tls, err := libp2ptls.New(libp2ptls.ID, c.Key, muxers)
	if err != nil {
		return err
	}
	if b.Upgrader, err = upgrader.New([]sec.SecureTransport{tls}, muxers, nil, rm, c.Gate); err != nil {
		return err
	}
	if !c.NoQUIC {
		if err := b.addQUIC(net, c, rm); err != nil {
			return err
		}
	}
	if c.NoTCP {
		return nil
	}
	var opts []tcp.Option
	if c.TCPPort != nil {
		opts = append(opts, tcp.WithDialerForAddr(func(multiaddr.Multiaddr) (tcp.ContextDialer, error) { return fromPort(c.TCPPort), nil }))
	}
	overTCP, err := tcp.NewTCPTransport(b.Upgrader, rm, nil, opts...)
	if err != nil {
		return err
	}
	return net.AddTransport(overTCP)
}

func (b *Bare) addQUIC(net *swarm.Swarm, c BareConfig, rm network.ResourceManager) (err error) {
	sockets := c.Sockets
	if sockets == nil {
		reset, err1 := config.PrivKeyToStatelessResetKey(c.Key)
		token, err2 := config.PrivKeyToTokenGeneratorKey(c.Key)
		if err := cmp.Or(err1, err2); err != nil {
			return err
		}
		if sockets, err = quicreuse.NewConnManager(reset, token); err != nil {
			return err
		}
		b.closers = append([]io.Closer{sockets}, b.closers...)
	}
	overQUIC, err := libp2pquic.NewTransport(c.Key, sockets, nil, c.Gate, rm)
	if err != nil {
		return err
	}
	return net.AddTransport(overQUIC)
}

// Close closes the host and its connections, once.
func (b *Bare) Close() error {
	b.once.Do(func() {
		for _, c := range slices.Backward(b.closers) {
			b.err = errors.Join(b.err, c.Close())
		}
	})
	return b.err
}
