package network

import (
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
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
func (h holeHost) SetStreamHandler(id libprotocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		if h.holes.goesFirst(s.Conn().RemotePeer()) {
			_ = s.Reset()
			return
		}
		handle(s)
	})
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
