package lending

import (
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/protocol/member"
)

// Bridged knows who comes over a bridge.
type Bridged interface {
	// Guest returns the record by which a peer uses this node from another swarm, in the
	// network with an ID; nil: it is not a guest.
	Guest(swarm string, p peer.ID) *member.BridgeRecord
	Vouched(swarm string, p peer.ID) (name string, roles member.Roles)
}

// Guests returns Config.Guest of a network.
func Guests(n Bridged) func(swarm string, p peer.ID) *policy.Guest {
	return func(swarm string, p peer.ID) *policy.Guest {
		r := n.Guest(swarm, p)
		if r == nil {
			return nil
		}
		name, _ := n.Vouched(swarm, p) // a bridge's network is called like the guests' swarm
		return &policy.Guest{Swarm: name, SwarmID: r.Guest.Swarm().String()}
	}
}

// In returns who in the network of a swarm may be sent which models, and blocks. holds
// reports whether a block is in one of the models for which of returns true.
func (d *Desk) In(swarm string, holds func(block cid.Cid, of func(cid.Cid) bool) bool) (lends, sends func(peer.ID, cid.Cid) bool) {
	lends = func(p peer.ID, model cid.Cid) bool { return d.May(swarm, p, model) }
	sends = func(p peer.ID, block cid.Cid) bool {
		return holds(block, func(model cid.Cid) bool { return d.May(swarm, p, model) })
	}
	return lends, sends
}
