package joint

import (
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// InSwarm returns the ID of the swarm in which a peer is this node, is connected, or is
// known; "": the open network, or nothing is known of the peer.
func (j *Networks) InSwarm(p peer.ID) string { return j.of(p).Swarm() }

// Vouched returns the name of a swarm, and what a peer may do in it by the certificate
// that it has shown; neither if this node is not in that swarm, or it is the open network.
func (j *Networks) Vouched(swarm string, p peer.ID) (name string, roles member.Roles) {
	n := j.in(swarm)
	if swarm == "" || n == nil {
		return "", 0
	}
	return n.SwarmName(), n.Roles(p)
}

// Refuses returns why a peer may open no session with a model in a swarm, or nil. The
// owner's rules, which say more, are not this package's.
func (j *Networks) Refuses(swarm string, p peer.ID, model cid.Cid) *protocol.Error {
	switch {
	case j.Own(p):
		return nil
	case !j.May(swarm, model):
		return protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "this model is not served here now")
	}
	return j.MayUse(swarm, p)
}

// Lend has models offered only in networks for which anybody returns true: others' peers
// may have none of them. Offers that are made already stay until the next SetOffers.
func (j *Networks) Lend(anybody func(swarm string, model cid.Cid) bool) { j.lent.Store(&anybody) }

// unlent reports whether nobody in a network may have a model.
func (j *Networks) unlent(swarm string, model cid.Cid) bool {
	anybody := j.lent.Load()
	return anybody != nil && !(*anybody)(swarm, model)
}
