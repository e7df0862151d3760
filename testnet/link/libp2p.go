package link

import (
	"context"
	"net"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"
)

// LibP2POptions returns a host's transports on this link, QUIC and TCP, all on one
// uplink. They replace the host's own Transport and QUICReuse options. For the zero
// Params it returns none: the host keeps its own.
func (p Params) LibP2POptions() []libp2p.Option {
	if p.IsZero() {
		return nil
	}
	return append(p.SocketOptions(), libp2p.Transport(libp2pquic.NewTransport))
}

// SocketOptions returns what LibP2POptions returns without the QUIC transport, for hosts
// that have one of their own. Several hosts may take the same options: they share the
// uplink.
func (p Params) SocketOptions() []libp2p.Option {
	if p.IsZero() {
		return nil
	}
	u := newUplink(p)
	return []libp2p.Option{libp2p.QUICReuse(u.quicReuse), libp2p.Transport(u.tcpTransport)}
}

// quicReuse sets up QUIC sockets on the uplink as libp2p does, including the resource
// manager, which a custom constructor has to handle itself.
func (u *uplink) quicReuse(key quic.StatelessResetKey, token quic.TokenGeneratorKey, rcmgr network.ResourceManager, life fx.Lifecycle) (*quicreuse.ConnManager, error) {
	cm, err := quicreuse.NewConnManager(key, token,
		quicreuse.OverrideListenUDP(u.listenUDP),
		quicreuse.VerifySourceAddress(rcmgr.VerifySourceAddress),
		quicreuse.ConnContext(func(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
			addr, err := quicreuse.ToQuicMultiaddr(client.RemoteAddr, quic.Version1)
			if err != nil {
				addr = nil // the resource manager also decides on connections without an address
			}
			scope, err := rcmgr.OpenConnection(network.DirInbound, false, addr)
			if err != nil {
				return ctx, err
			}
			ctx = network.WithConnManagementScope(ctx, scope)
			context.AfterFunc(ctx, scope.Done)
			return ctx, nil
		}),
	)
	if err != nil {
		return nil, err
	}
	life.Append(fx.StopHook(cm.Close))
	return cm, nil
}

// tcpTransport is libp2p's TCP transport; the upgrader it hands its raw
// connections to puts them on the uplink first, dialed and accepted alike. So
// the transport's own dialer, port reuse included, stays in use.
func (u *uplink) tcpTransport(up transport.Upgrader, rcmgr network.ResourceManager) (*tcp.TcpTransport, error) {
	return tcp.NewTCPTransport(upgrader{Upgrader: up, up: u}, rcmgr, nil)
}

type upgrader struct {
	transport.Upgrader
	up *uplink
}

// Upgrade handles dialed connections; the listener below handles accepted ones.
func (g upgrader) Upgrade(ctx context.Context, t transport.Transport, raw manet.Conn, dir network.Direction, p peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	for wait := g.up.RTT; ; wait = lookEvery {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			raw.Close()
			scope.Done()
			return nil, ctx.Err()
		}
		if !g.up.cuts.has(raw.RemoteAddr()) {
			break
		}
	}
	return g.Upgrader.Upgrade(ctx, t, newConn(raw, g.up, time.Time{}), dir, p, scope)
}

func (g upgrader) GateMaListener(l manet.Listener) transport.GatedMaListener {
	return g.Upgrader.GateMaListener(listener{Listener: l, up: g.up})
}

func (g upgrader) UpgradeListener(t transport.Transport, l manet.Listener) transport.Listener {
	return g.UpgradeGatedMaListener(t, g.GateMaListener(l))
}

type listener struct {
	manet.Listener
	up *uplink
}

// Accept returns as soon as the kernel has the connection; what is sent on it
// waits until the handshake would have got here.
func (l listener) Accept() (manet.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newConn(raw, l.up, time.Now().Add(l.up.RTT*3/2)), nil
}

var _ net.Conn = (*conn)(nil)
