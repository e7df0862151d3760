package exchange

import (
	"context"
	"errors"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/exchange/bitswap"
	"github.com/shoalnet/shoal/protocol"
)

// Net is a network over which an exchange works: a libp2p host, and whom it finds
// there. Host and Find must be set.
type Net struct {
	Host host.Host
	Find Finder
	// Known returns the holders of a model that are known without asking anybody, so that a
	// fetch need not wait for Find. nil: none.
	Known func(model cid.Cid) []peer.AddrInfo
	// May reports whether a model's leaves may be sent to the peers of this network. nil:
	// all of them.
	May func(model cid.Cid) bool
	// Lends reports whether a model's leaves may be sent to one of these peers now. nil:
	// to all of them.
	Lends func(p peer.ID, model cid.Cid) bool
	// Sends reports the same of a block, whatever models have it.
	Sends func(p peer.ID, block cid.Cid) bool
	// Blocks is what may be sent to them by bitswap. nil: what the exchange has.
	Blocks Blocks
	// Leaves finds what may be sent of a model in bulk, like Options.Leaves. nil: what that
	// finds.
	Leaves func(model cid.Cid) Leaves
	// Headings are the blocks that may be sent to peers to which only a relay leads: those
	// that a prompt needs, and no weights. nil: none.
	Headings Blocks
	// Room returns how many bytes a connection may still carry in each direction. nil: any
	// number.
	Room func(network.Conn) uint64
	// Worked is called for each leaf that a peer sent in bulk. It may be nil.
	Worked func(peer.ID)
	// Believable returns those of the addresses that a peer names for another which
	// may be dialled. nil: all.
	Believable func(teller peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr
	// Dialling are options of the swarm that dials TCP for bulk.
	Dialling []swarm.Option
}

// lane is what an exchange has in one network.
type lane struct {
	Net
	ctx     context.Context // ends when the network is left
	stop    context.CancelFunc
	inbound *inboundLimiter
	bitswap *bitswap.Service
	dialer  *bulkDialer
	salt    uint64 // of this node's ID there (see ownership.go)
}

// ErrJoined is returned by Join for a host over which the exchange works already.
var ErrJoined = errors.New("the exchange works over that host already")

// Join makes the exchange work over one more network: it serves what it has there, and
// fetches look for holders there from their next search on. The errors are ErrClosed and
// ErrJoined. Leave must be called before the host is closed.
func (x *Exchange) Join(n Net) error {
	if n.Blocks == nil {
		n.Blocks = x.have
	}
	l := &lane{Net: n, dialer: newBulkDialer(n.Host, n.Dialling), salt: saltOf(n.Host.ID())}
	l.ctx, l.stop = context.WithCancel(x.ctx)
	l.inbound = newInboundLimiter(l.ctx, n.Host, x.up, x.down)
	x.joining.Lock()
	defer x.joining.Unlock()
	switch {
	case x.ctx.Err() != nil:
		return ErrClosed
	case slices.ContainsFunc(x.lanes(), func(o *lane) bool { return o.Host == n.Host }):
		return ErrJoined
	}
	l.bitswap = bitswap.New(l.inbound, bitswap.Options{
		Blocks: n.Blocks, May: n.Sends, Ledger: x.ledger, Holders: func() []peer.AddrInfo { return x.holders(l) }, Blame: func(p peer.ID) { x.blame(l, p) },
	})
	l.inbound.SetStreamHandler(protocol.LeavesID, func(s network.Stream) { x.serveLeaves(l, s) })
	if n.Headings != nil {
		anywhere := func(network.Stream) bool { return true }
		l.inbound.setHandler(protocol.HeadingID, anywhere, func(s network.Stream) { x.serveHeadings(l, s) })
	}
	list := append(slices.Clone(x.lanes()), l)
	x.list.Store(&list)
	return nil
}

// Leave stops the work over a host: streams of peers end, and fetches go on with the
// holders in other networks. The errors are those of closing bitswap there; a host over
// which the exchange does not work is no error.
func (x *Exchange) Leave(h host.Host) error {
	x.joining.Lock()
	defer x.joining.Unlock()
	all := x.lanes()
	at := slices.IndexFunc(all, func(l *lane) bool { return l.Host == h })
	if at < 0 {
		return nil
	}
	list := slices.Delete(slices.Clone(all), at, at+1)
	x.list.Store(&list)
	return x.leave(all[at])
}

// leave ends what goes on in a network. Called with joining held.
func (x *Exchange) leave(l *lane) error {
	l.stop()
	l.inbound.close()
	l.dialer.close()
	sent, received := l.bitswap.Stats()
	x.given.Add(sent)
	x.taken.Add(received)
	return l.bitswap.Close()
}

// lanes are the networks over which the exchange works now. The slice must not be
// changed.
func (x *Exchange) lanes() []*lane { return *x.list.Load() }

// own reports whether a peer is this node.
func (x *Exchange) own(p peer.ID) bool {
	return slices.ContainsFunc(x.lanes(), func(l *lane) bool { return l.Host.ID() == p })
}

// may reports whether a model's leaves may be sent to a peer of a network.
func (l *lane) may(p peer.ID, model cid.Cid) bool {
	return (l.May == nil || l.May(model)) && (l.Lends == nil || l.Lends(p, model))
}

// over reports whether the network has been left.
func (l *lane) over() bool { return l.ctx.Err() != nil }

// connected reports whether a peer is connected there.
func (l *lane) connected(p peer.ID) bool {
	return !l.over() && l.Host.Network().Connectedness(p) == network.Connected
}

// speaks reports whether a peer is known to speak the protocol for leaves.
func (l *lane) speaks(p peer.ID) bool {
	list, err := l.Host.Peerstore().SupportsProtocols(p, protocol.LeavesID)
	return err == nil && len(list) > 0
}

// holder is a peer that is said to hold some of a model, and where it was met. A peer
// that has one ID in several networks is asked in the first in which it was found.
type holder struct {
	peer.AddrInfo
	in *lane
}
