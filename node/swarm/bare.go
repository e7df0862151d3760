package swarm

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/config"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const (
	dialTime = 4 * time.Second
	maxConns = 32 // of a join listener at a time
)

// newBare makes a libp2p host without any protocol: no identify, ping or DHT, which would
// tell a stranger what runs here and where. It speaks QUIC and TCP, and can be reached
// over a relay at which it makes a reservation.
func newBare(key crypto.PrivKey, gate connmgr.ConnectionGater, listen []multiaddr.Multiaddr) (_ host.Host, err error) {
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	book, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(book.AddPrivKey(self, key), book.AddPubKey(self, key.GetPublic())); err != nil {
		return nil, err
	}
	limits := rcmgr.InfiniteLimits.ToPartialLimitConfig()
	limits.System.Conns, limits.System.ConnsInbound, limits.System.Streams = maxConns, maxConns, 8*maxConns
	limits.System.Memory = 16 << 20
	rm, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Build(rcmgr.InfiniteLimits)), rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, err
	}
	bus := eventbus.NewBus()
	net, err := swarm.NewSwarm(self, book, bus, swarm.WithResourceManager(rm), swarm.WithConnectionGater(gate), swarm.WithDialTimeout(dialTime), swarm.WithDialTimeoutLocal(dialTime))
	if err != nil {
		return nil, err
	}
	h := blankhost.NewBlankHost(net, blankhost.WithEventBus(bus))
	defer func() {
		if err != nil {
			_ = h.Close()
		}
	}()
	if err := addTransports(h, net, key, gate, rm); err != nil {
		return nil, err
	}
	for _, a := range listen {
		if err := net.Listen(a); err != nil {
			return nil, fmt.Errorf("%s: %w", a, err)
		}
	}
	return h, nil
}

func addTransports(h host.Host, net *swarm.Swarm, key crypto.PrivKey, gate connmgr.ConnectionGater, rm network.ResourceManager) error {
	tls, err := libp2ptls.New(libp2ptls.ID, key, []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}})
	if err != nil {
		return err
	}
	up, err := upgrader.New([]sec.SecureTransport{tls}, []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}, nil, rm, gate)
	if err != nil {
		return err
	}
	overTCP, err := tcp.NewTCPTransport(up, rm, nil)
	if err != nil {
		return err
	}
	reset, err1 := config.PrivKeyToStatelessResetKey(key)
	token, err2 := config.PrivKeyToTokenGeneratorKey(key)
	if err := cmp.Or(err1, err2); err != nil {
		return err
	}
	sockets, err := quicreuse.NewConnManager(reset, token)
	if err != nil {
		return err
	}
	overQUIC, err := libp2pquic.NewTransport(key, sockets, nil, gate, rm)
	if err != nil {
		return errors.Join(err, sockets.Close())
	}
	err = cmp.Or(net.AddTransport(overQUIC), net.AddTransport(overTCP))
	if err != nil {
		return err
	}
	return circuit.AddTransport(h, up)
}
