package network

import (
	"github.com/shoalnet/shoal/protocol/member"
)

// Swarm makes a network private: a host of one swarm, which speaks with members
// only. Its Config.Key must be the key that Certificate is for.
type Swarm struct {
	Root        member.Key
	View        member.View
	Certificate *member.Certificate
	Lists       member.Lists // of revocations, as far as they are known
}

// ID returns the swarm's ID.
func (s *Swarm) ID() member.SwarmID { return s.Root.Swarm() }
