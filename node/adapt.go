package node

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// The parts declare what they need; here each gets it from the others.

// streams opens stage streams for stages and sessions.
type streams struct{ *network.Network }

func (s streams) open(ctx context.Context, p peer.ID, offer []byte) (*network.Stream, error) {
	return s.Network.Open(ctx, p, offer, protocol.StageID, protocol.StageID1)
}

type stageDialer struct{ streams }

func (d stageDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (stage.Stream, error) {
	return d.open(ctx, p, offer)
}

type sessionDialer struct{ streams }

func (d sessionDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	return d.open(ctx, p, offer)
}

// busy reports whether sessions run on this node.
func (n *Node) busy() bool {
	for _, s := range n.stages.Stages() {
		if s.Status().Sessions > 0 {
			return true
		}
	}
	return n.generator.Active() > 0
}
