package lending

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/lend/policy"
)

// Use returns whom this node's own prompts with a model may go to, in words, and the rule
// that says so. A nil may is for anybody.
func (d *Desk) Use(model []string) (may func(swarm string, p peer.ID) bool, whom, rule string) {
	scope, rule := d.rules.Load().Use.Scope(model...)
	if scope == policy.Anybody {
		return nil, "", rule
	}
	whom = "this node and those that it trusts"
	if scope == policy.Swarm {
		whom = "your own swarms and trusted nodes"
	}
	return func(swarm string, p peer.ID) bool { return scope.Allows(d.who(swarm, p)) }, whom, rule
}
