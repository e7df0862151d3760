package exchange

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	msmux "github.com/multiformats/go-multistream"
)

// bulkDialer opens streams for bulk, over TCP with TLS where a peer can be reached
// that way: on links that lose packets TCP is several times faster than QUIC, and
// QUIC is left to sessions, which need short delays. The host keeps one connection
// per peer, so bulkDialer has a swarm of its own that dials TCP, with the same peer
// ID; the host serves what peers ask over its connections. It is safe for
// concurrent use.
type bulkDialer struct {
	host     host.Host
	dialling []swarm.Option

	mu     sync.Mutex
	own    *swarm.Swarm          // nil until it is needed
	failed map[peer.ID]time.Time // when a peer could last not be reached by TCP
	closed bool
}

const (
	tcpAgain = time.Minute // before TCP is tried again where it failed
	tcpWait  = time.Second // for a connection over TCP, if there is another that can be used at once
)

func newBulkDialer(h host.Host, dialling []swarm.Option) *bulkDialer {
	return &bulkDialer{host: h, dialling: dialling, failed: map[peer.ID]time.Time{}}
}

// open opens a stream to a peer, and never over a relay. It fails with errRelayed,
// with an error for which isUnspoken holds, or with what the connection failed with.
func (l *bulkDialer) open(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error) {
	if c := l.tcpConn(ctx, p); c != nil {
		if s, err := openStream(ctx, c, id); err == nil || isUnspoken(err) {
			return s, err
		}
	}
	if onlyRelayed(l.host, p) { // libp2p would wait for a direct connection
		return nil, errRelayed
	}
	s, err := l.host.NewStream(network.WithNoDial(ctx, "bulk"), p, id)
	if err != nil {
		return nil, err
	}
	if relayed(s.Conn()) {
		_ = s.Reset()
		return nil, errRelayed
	}
	return s, nil
}

var errRelayed = errors.New("it is reached over a relay, which is not for bulk")

// isUnspoken reports whether an error means that the peer does not speak the
// protocol.
func isUnspoken(err error) bool {
	var un msmux.ErrNotSupported[protocol.ID]
	return errors.As(err, &un)
}

// onlyRelayed reports whether all connections to a peer cross a relay.
func onlyRelayed(h host.Host, p peer.ID) bool {
	conns := h.Network().ConnsToPeer(p)
	return len(conns) > 0 && !slices.ContainsFunc(conns, func(c network.Conn) bool { return !relayed(c) })
}

func relayed(c network.Conn) bool {
	_, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT)
	return c.Stat().Limited || err == nil
}

// tcpConn returns a direct TCP connection, or nil. It waits for one, but not long if the
// peer is connected otherwise.
func (l *bulkDialer) tcpConn(ctx context.Context, p peer.ID) network.Conn {
	for _, c := range l.host.Network().ConnsToPeer(p) {
		if isTCP(c.RemoteMultiaddr()) && !c.IsClosed() {
			return c
		}
	}
	own := l.tcpSwarm(p)
	if own == nil {
		return nil
	}
	for _, c := range own.ConnsToPeer(p) {
		if !c.IsClosed() {
			return c
		}
	}
	wait := dialTime
	if conns := l.host.Network().ConnsToPeer(p); len(conns) > 0 && !onlyRelayed(l.host, p) {
		wait = tcpWait
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	select {
	case c := <-l.dial(ctx, own, p):
		return c
	case <-late.C:
	case <-ctx.Done():
	}
	return nil
}

// dial dials a peer over TCP; the result is nil if that fails. It goes on when nobody waits
// any more: an address may swallow packets, and a connection that comes late still serves
// the streams after that.
func (l *bulkDialer) dial(ctx context.Context, own *swarm.Swarm, p peer.ID) <-chan network.Conn {
	done := make(chan network.Conn, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTime)
		defer cancel()
		c, err := own.DialPeer(ctx, p)
		if err != nil {
			l.mu.Lock()
			l.failed[p] = time.Now()
			l.mu.Unlock()
			c = nil
		}
		done <- c
	}()
	return done
}

// tcpSwarm returns the swarm that dials TCP; nil if it cannot reach the peer.
func (l *bulkDialer) tcpSwarm(p peer.ID) *swarm.Swarm {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || time.Since(l.failed[p]) < tcpAgain {
		return nil
	}
	delete(l.failed, p)
	main, ok := l.host.Network().(*swarm.Swarm)
	if !ok {
		return nil
	}
	for _, a := range l.host.Peerstore().Addrs(p) {
		if !isTCP(a) {
			continue
		}
		if l.own != nil {
			return l.own
		}
		if t := main.TransportForDialing(a); t != nil {
			own, err := swarm.NewSwarm(l.host.ID(), l.host.Peerstore(), eventbus.NewBus(), append(slices.Clone(l.dialling), swarm.WithResourceManager(main.ResourceManager()))...)
			if err != nil {
				return nil
			}
			if err := own.AddTransport(t); err != nil {
				_ = own.Close()
				return nil
			}
			own.SetStreamHandler(l.serveStream)
			l.own = own
			return own
		}
	}
	return nil
}

// serveStream makes the host serve a stream that a peer opened on one of the
// bulkDialer's connections.
func (l *bulkDialer) serveStream(s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(dialTime))
	id, handle, err := l.host.Mux().Negotiate(s)
	if err == nil {
		err = errors.Join(s.SetDeadline(time.Time{}), s.SetProtocol(id))
	}
	if err != nil {
		_ = s.Reset()
		return
	}
	_ = handle(id, s)
}

// hangUp ends the connections. It is called when no fetch is left.
func (l *bulkDialer) hangUp() {
	l.mu.Lock()
	own := l.own
	l.own = nil
	l.mu.Unlock()
	if own != nil {
		_ = own.Close()
	}
}

func (l *bulkDialer) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.hangUp()
}

func isTCP(a ma.Multiaddr) bool {
	if a == nil {
		return false
	}
	tcp := false
	for _, c := range a {
		switch c.Protocol().Code {
		case ma.P_TCP:
			tcp = true
		case ma.P_CIRCUIT, ma.P_WS, ma.P_WSS:
			return false
		}
	}
	return tcp
}

// openStream opens a stream over a given connection.
func openStream(ctx context.Context, c network.Conn, id protocol.ID) (network.Stream, error) {
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(dialTime)
	if by, ok := ctx.Deadline(); ok && by.Before(deadline) {
		deadline = by
	}
	err = errors.Join(s.SetDeadline(deadline), s.SetProtocol(id))
	if err == nil {
		err = msmux.SelectProtoOrFail(id, s)
	}
	if err == nil {
		err = s.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = s.Reset()
		return nil, err
	}
	return s, nil
}
