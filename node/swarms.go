package node

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/swarm"
)

// fellow is what a fellow member calls its machine; "": it is none.
func (c *Config) fellow(p peer.ID) string {
	if c.Swarms == nil {
		return ""
	}
	return c.Swarms.MachineName(p)
}

// owned are the swarms for the API; nil: it has no endpoints for them.
func (c *Config) owned() api.Swarms {
	if c.Swarms == nil {
		return nil
	}
	return swarm.Owner{Book: c.Swarms}
}
