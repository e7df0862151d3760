package outer

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/libp2p/go-reuseport"
	"github.com/multiformats/go-multiaddr"
)

// Members on whose line no UDP passes are reached directly through holes for TCP. Whoever
// punches one must know where others see the port on which it listens. So relays are
// dialled from there, and one of those that are dialled over QUIC is asked over TCP, too.

// maxListens is how many of the addresses that a relay names are looked at.
const maxListens = 64

// fromPort dials over TCP from the inner host's port, or from any if that cannot be had.
type fromPort func() int

func (f fromPort) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if port := f(); port != 0 && reuseport.Available() {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Control: reuseport.Control}
		c, err := d.DialContext(ctx, network, address)
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return c, err
		}
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// asking is a connection over TCP to a relay that has said where it sees this host.
type asking struct{ stop context.CancelFunc }

// askOverTCP asks a relay that is connected over QUIC where it sees the inner host's TCP
// port, unless one is asked already: over a connection that stays open, so that the router
// keeps the port, and with a key of its own, because a relay announces a circuit on any
// connection to the outer host. It returns once the connection has ended.
func (h *Host) askOverTCP(c network.Conn, said *pb.Identify) {
	at := tcpBeside(c.RemoteMultiaddr(), said)
	if len(at) == 0 || h.cfg.TCPPort == nil || h.cfg.TCPPort() == 0 {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	mine := &asking{cancel}
	h.mu.Lock()
	if h.tcp != nil {
		h.mu.Unlock()
		return
	}
	h.tcp = mine
	h.mu.Unlock()
	if err := h.sightOverTCP(ctx, peer.AddrInfo{ID: c.RemotePeer(), Addrs: at}); err != nil && ctx.Err() == nil {
		h.cfg.Log.Debug("a relay does not say where it sees this node over TCP", "relay", c.RemotePeer(), "error", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tcp == mine {
		h.tcp = nil
	}
}

func (h *Host) sightOverTCP(ctx context.Context, relay peer.AddrInfo) error {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return err
	}
	b, err := NewBare(BareConfig{Key: key, Gate: h.cfg.Gate, Swarm: h.cfg.Swarm, TCPPort: h.cfg.TCPPort, NoQUIC: true})
	if err != nil {
		return err
	}
	defer b.Close()
	gone := make(chan struct{})
	end := sync.OnceFunc(func() { close(gone) }) // a relay may name two addresses, and both be connected
	b.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) { end() }})
	within, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	b.Peerstore().AddAddrs(relay.ID, relay.Addrs, peerstore.TempAddrTTL)
	c, err := b.Network().DialPeer(within, relay.ID)
	if err != nil {
		return err
	}
	said, err := identity(within, c)
	if err != nil {
		return err
	}
	h.seen(c, said)
	select {
	case <-gone:
	case <-ctx.Done():
	}
	return nil
}

// seen passes on where a relay says that it sees this host.
func (h *Host) seen(c network.Conn, said *pb.Identify) {
	if at, err := multiaddr.NewMultiaddrBytes(said.GetObservedAddr()); err == nil {
		h.cfg.Seen(c.RemoteMultiaddr(), c.LocalMultiaddr(), at)
	}
}

// tcpBeside returns where a relay that is connected over QUIC says that it listens over TCP,
// at the same IP address.
func tcpBeside(at multiaddr.Multiaddr, said *pb.Identify) (out []multiaddr.Multiaddr) {
	if kind, ok := kindOf(at); !ok || kind > 1 {
		return nil
	}
	for _, raw := range said.GetListenAddrs()[:min(len(said.GetListenAddrs()), maxListens)] {
		a, err := multiaddr.NewMultiaddrBytes(raw)
		if err != nil {
			continue
		}
		if kind, ok := kindOf(a); ok && kind > 1 && a[0].Equal(&at[0]) && len(out) < 2 {
			out = append(out, a)
		}
	}
	return out
}
