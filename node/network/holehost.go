package network

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

// holeHost is the host that libp2p's hole punching service sees: attempts begin only where
// holes says so, and not by themselves with each relayed connection that comes in; and of
// attempts that both sides have begun, one gives way.
type holeHost struct {
	host.Host
	holes *holes
}

// Network returns the host's network without word of its connections.
func (h holeHost) Network() network.Network { return silentNetwork{h.Host.Network()} }

// SetStreamHandler has the host handle a peer's attempt, unless this side's goes first.
// Where circuits lead both ways, libp2p's peers may ask over either, though the service
// expects the one that this side has made.
func (h holeHost) SetStreamHandler(id libprotocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		if h.holes.goesFirst(s.Conn().RemotePeer()) {
			_ = s.Reset()
			return
		}
		handle(holeStream{s})
	})
}

// NewStream opens a stream for an attempt over a circuit that the peer has made: peers
// refuse it on others, of which libp2p would take any.
func (h holeHost) NewStream(ctx context.Context, p peer.ID, ids ...libprotocol.ID) (network.Stream, error) {
	for _, c := range h.Host.Network().ConnsToPeer(p) {
		if c.IsClosed() || !circuitIn(c) {
			continue
		}
		s, err := c.NewStream(ctx)
		if err != nil {
			return nil, err
		}
		_ = s.SetDeadline(time.Now().Add(protocol.ProbeTime))
		id, err := msmux.SelectOneOf(ids, s)
		if err == nil {
			err = errors.Join(s.SetProtocol(id), s.SetDeadline(time.Time{}))
		}
		if err != nil {
			_ = s.Reset()
			return nil, err
		}
		return s, nil
	}
	return nil, errNoCircuit
}

var errNoCircuit = errors.New("no circuit comes from the peer")

// circuitIn reports whether a connection is a circuit that the peer has made.
func circuitIn(c network.Conn) bool {
	return c.Stat().Direction == network.DirInbound && reach.Relayed(c)
}

// holeStream is a stream that seems to be on a circuit of this side's.
type holeStream struct{ network.Stream }

// Conn returns the stream's connection.
func (s holeStream) Conn() network.Conn { return outwardConn{s.Stream.Conn()} }

type outwardConn struct{ network.Conn }

// Stat returns the connection's, as if this side had made it.
func (c outwardConn) Stat() network.ConnStats {
	st := c.Conn.Stat()
	st.Direction = network.DirOutbound
	return st
}

type silentNetwork struct{ network.Network }

// Notify does nothing.
func (silentNetwork) Notify(network.Notifiee) {}

// begin notes an attempt that begins at this side. It reports false if there is no need
// for it: one is under way, and another waits for that to end.
func (h *holes) begin(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.begun[p] > 1 {
		return false
	}
	if h.begun == nil {
		h.begun = map[peer.ID]int{}
	}
	h.begun[p]++
	return true
}

// end ends what begin has noted.
func (h *holes) end(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.begun[p]--; h.begun[p] <= 0 {
		delete(h.begun, p)
	}
}

// goesFirst reports whether an attempt of this side is under way to which that of the peer
// gives way. Both sides agree on which one that is.
func (h *holes) goesFirst(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun[p] > 0 && h.first(p)
}
