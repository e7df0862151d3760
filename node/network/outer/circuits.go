package outer

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// circuits is the inner host's transport for circuits: over its own connections, as
// libp2p's, and over those of the outer host.
type circuits struct {
	inner *client.Client
	outer *client.Client
	up    transport.Upgrader // the inner host's
	rm    network.ResourceManager
}

var (
	_ transport.Transport    = (*circuits)(nil)
	_ transport.SkipResolver = (*circuits)(nil)
)

// Attach gives a host circuits over its own connections and over the outer host's. It is
// called once, and the inner host must have no transport for circuits yet. up is what the
// host secures its connections with. Errors are those of the host's network.
func (h *Host) Attach(inner host.Host, up transport.Upgrader) (err error) {
	net, ok := inner.Network().(transport.TransportNetwork)
	if !ok {
		return errors.New("the host takes no transports")
	}
	t := &circuits{up: up, rm: inner.Network().ResourceManager()}
	if t.inner, err = client.New(inner, up); err != nil {
		return err
	}
	if t.outer, err = client.New(h.bare, secureInside{h.bare.Upgrader, t}); err != nil {
		return err
	}
	if err := errors.Join(net.AddTransport(t), net.Listen(circuit)); err != nil {
		return err
	}
	t.inner.Start()
	t.outer.Start()
	return nil
}

// wish is what the inner host wants a circuit for.
type wish struct {
	peer  peer.ID
	scope network.ConnManagementScope
	front peer.ID
}

type wishKey struct{}

// Dial implements transport.Transport.
func (t *circuits) Dial(ctx context.Context, a multiaddr.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	at, front, ok := split(a)
	if !ok {
		return t.inner.Dial(ctx, a, p)
	}
	scope, err := t.rm.OpenConnection(network.DirOutbound, false, a)
	if err != nil {
		return nil, err
	}
	c, err := t.dial(ctx, at, wish{p, scope, front})
	if err != nil {
		scope.Done()
		return nil, err
	}
	return c, nil
}

func (t *circuits) dial(ctx context.Context, at multiaddr.Multiaddr, w wish) (transport.CapableConn, error) {
	if err := w.scope.SetPeer(w.peer); err != nil {
		return nil, err
	}
	return t.outer.Dial(context.WithValue(ctx, wishKey{}, w), at, w.front)
}

// secureInside secures the outer host's circuits for the inner host.
type secureInside struct {
	transport.Upgrader
	t *circuits
}

func (s secureInside) Upgrade(ctx context.Context, _ transport.Transport, c manet.Conn, dir network.Direction, _ peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	w, ok := ctx.Value(wishKey{}).(wish)
	if !ok {
		_ = c.Close()
		return nil, errors.New("nobody asked for this circuit")
	}
	scope.Done() // the stream is counted at the outer host, and the connection at the inner one
	return s.t.up.Upgrade(ctx, s.t, newLimited(c, w.front), dir, w.peer, w.scope)
}

// limited is a circuit before it is secured.
type limited struct {
	manet.Conn
	at   multiaddr.Multiaddr
	stat network.ConnStats
}

func newLimited(c manet.Conn, front peer.ID) *limited {
	l := &limited{Conn: c, at: multiaddr.Join(c.RemoteMultiaddr(), p2p(front), circuit)}
	if s, ok := c.(network.ConnStat); ok {
		l.stat = s.Stat()
	}
	l.stat.Limited = true // bulk has no business with a stranger's relay, whatever that allows
	l.stat.Extra = maps.Clone(l.stat.Extra)
	return l
}

// RemoteMultiaddr returns the address of the other outer host at the relay.
func (l *limited) RemoteMultiaddr() multiaddr.Multiaddr { return l.at }

// Stat returns the relay's limits.
func (l *limited) Stat() network.ConnStats { return l.stat }

// CanDial implements transport.Transport.
func (t *circuits) CanDial(a multiaddr.Multiaddr) bool { return t.inner.CanDial(a) }

// Protocols implements transport.Transport.
func (t *circuits) Protocols() []int { return t.inner.Protocols() }

// Proxy implements transport.Transport.
func (t *circuits) Proxy() bool { return true }

// SkipResolve implements transport.SkipResolver: the host that dials the relay resolves.
func (t *circuits) SkipResolve(context.Context, multiaddr.Multiaddr) bool { return true }

// Close ends both listeners.
func (t *circuits) Close() error { return errors.Join(t.inner.Close(), t.outer.Close()) }

// Listen implements transport.Transport.
func (t *circuits) Listen(multiaddr.Multiaddr) (transport.Listener, error) {
	l := &both{Listener: t.inner.Listener(), outer: t.outer.Listener(), come: make(chan manet.Conn), done: make(chan struct{})}
	go l.take(l.Listener)
	go l.take(outerListener{l.outer})
	return t.up.UpgradeGatedMaListener(t, t.up.GateMaListener(l)), nil
}

// outerListener accepts the circuits that come to the outer host.
type outerListener struct{ manet.Listener }

// Accept implements manet.Listener.
func (l outerListener) Accept() (manet.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := c.RemoteAddr().(*client.NetAddr); ok {
			if front, err := peer.Decode(from.Remote); err == nil {
				return newLimited(c, front), nil
			}
		}
		_ = c.Close()
	}
}

// both is two listeners as one.
type both struct {
	manet.Listener
	outer manet.Listener
	come  chan manet.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *both) take(from manet.Listener) {
	for {
		c, err := from.Accept()
		if err != nil {
			return
		}
		select {
		case l.come <- c:
		case <-l.done:
			_ = c.Close()
			return
		}
	}
}

// Accept implements manet.Listener.
func (l *both) Accept() (manet.Conn, error) {
	select {
	case c := <-l.come:
		return c, nil
	case <-l.done:
		return nil, transport.ErrListenerClosed
	}
}

// Close implements manet.Listener.
func (l *both) Close() error {
	l.once.Do(func() { close(l.done) })
	return errors.Join(l.Listener.Close(), l.outer.Close())
}
