package network

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalnet/shoal/testnet/nat"
)

// A router may still let in those to which an earlier scout has sent from a port.
func TestScoutPorts(t *testing.T) {
	used, now := scoutPorts{}, time.Unix(0, 0)
	for range 1000 {
		if port := used.draw(now); port < lowestPort {
			t.Fatalf("port %d", port)
		}
	}
	if len(used) != 1000 {
		t.Errorf("of 1000 draws, %d ports", len(used))
	}
	if used.draw(now.Add(portLife)); len(used) != 1 {
		t.Errorf("%d ports are kept after a day", len(used))
	}
}

// In a private swarm, too, a node is proven to be reachable if its router lets strangers in
// to a scout's port. Members let scouts in, because the node vouches for their keys, which
// have no roles.
func TestScoutsOfASwarm(t *testing.T) {
	for _, kind := range nat.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			simulateIn(t, newTestSwarm(t), 3, func(in *internet) {
				var scouts atomic.Int32
				for _, m := range in.all {
					m.Host().Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
						if cert := m.Certificate(c.RemotePeer()); cert == nil || cert.Peer() == c.RemotePeer() {
							return
						}
						scouts.Add(1)
						if r := m.Roles(c.RemotePeer()); r != 0 {
							in.Errorf("a scout has the roles %s", r)
						}
					}})
				}
				in.verdictOfOneWhoKnowsAll(kind)
				if seen := scouts.Load(); (seen > 0) != (kind.Name != nat.Symmetric.Name) {
					in.Errorf("%d connections of scouts", seen)
				}
			})
		})
	}
}
