package node

import (
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lending"
	"github.com/shoalnet/shoal/node/report"
	"github.com/shoalnet/shoal/node/serve"
)

// Adjust takes over those settings of c that may change while the node runs: Lend, Policy,
// Use, Memory, Threads, MaxSessions, UnloadAfter, Quota, Up, Down, Trust, Fastest, APIKey,
// APIHosts and APIOrigins. Threads bounds spans that are loaded from then on. All of c is
// checked first: an error that wraps ErrConfig has changed nothing. Another error is
// about files that the new quota would have dropped; the settings are in effect then.
func (n *Node) Adjust(c Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	trust, err := c.trusted()
	if err != nil {
		return err
	}
	c.fillIn()
	n.adjusting.Lock()
	defer n.adjusting.Unlock()
	old := n.now.Swap(&c)
	n.net.Protect(trust)
	n.keys.SetDefault(c.APIKey)
	n.survey.Prefer(trust, c.Fastest)
	n.desk.Set(lending.Rules{Lend: c.Policy, Use: c.Use})
	n.serve.Review()
	n.serve.Adjust(serve.Limits{Memory: c.Memory, Threads: c.Threads, MaxSessions: c.MaxSessions, Lend: c.Lend, UnloadAfter: c.UnloadAfter})
	n.exchange.Limit(float64(c.Up), float64(c.Down))
	if old.Quota != c.Quota {
		err = n.store.SetQuota(c.Quota)
	}
	n.serve.Offer()
	return err
}

// limits returns what the operator allows now.
func (n *Node) limits() report.Limits {
	c := n.now.Load()
	return report.Limits{
		APIOpen: c.APIOpen && !n.keys.Any(), APIClosed: !c.APIOpen && !n.keys.Any() && n.cfg.Exposed(), Memory: c.Memory, Quota: c.Quota, Up: c.Up, Down: c.Down, Threads: c.Threads, MaxSessions: c.MaxSessions, Lend: c.Lend,
	}
}

// access returns who may use the API now.
func (n *Node) access() api.Access {
	c := n.now.Load()
	return api.Access{Hosts: c.APIHosts, Origins: c.APIOrigins, Open: c.APIOpen || !n.cfg.Exposed()}
}
