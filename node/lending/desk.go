package lending

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/protocol/member"
)

// Network knows who peers are.
type Network interface {
	Own(peer.ID) bool     // reports whether a peer is this node, in any network
	Group(peer.ID) string // of IP addresses
	// Vouched returns the name of a swarm, by its ID, and a peer's roles there.
	Vouched(swarm string, p peer.ID) (name string, roles member.Roles)
}

// Config is what a desk is made of.
type Config struct {
	Network Network
	Trusted func(peer.ID) bool // reports whether the operator named a peer, or it is this node
	Named   func() bool        // reports whether the operator has named any peers; nil: none
	// Names returns the names of a model that this node has or knows; none: it does not.
	Names func(model cid.Cid) []string
	// Guest returns of which swarm a peer is a member that a bridge lets into the swarm
	// with an ID; nil: it is a member of that one. It may be nil: there are no bridges.
	Guest func(swarm string, p peer.ID) *policy.Guest
	Now   func() time.Time // nil: time.Now
}

// Rules are an owner's.
type Rules struct {
	Lend policy.Policy
	Use  policy.Use
}

// Desk decides by an owner's rules. It is safe for concurrent use.
type Desk struct {
	cfg   Config
	most  int // accounts
	rules atomic.Pointer[Rules]

	mu       sync.Mutex
	accounts map[string]*account
}

// New returns a desk. Its rules may be changed at any time.
func New(cfg Config, rules Rules) *Desk {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Desk{cfg: cfg, most: maxAccounts, accounts: map[string]*account{}}
	d.Set(rules)
	return d
}

// Set replaces the rules.
func (d *Desk) Set(r Rules) { d.rules.Store(&r) }

// who returns what the rules go by of a peer that came by the network of a swarm.
func (d *Desk) who(swarm string, p peer.ID) policy.Peer {
	w := policy.Peer{ID: p.String(), SwarmID: swarm, Own: d.cfg.Network.Own(p), Trusted: d.cfg.Trusted(p)}
	if swarm != "" {
		w.Swarm, w.Roles = d.cfg.Network.Vouched(swarm, p)
		if d.cfg.Guest != nil {
			w.Guest = d.cfg.Guest(swarm, p)
		}
	}
	return w
}

// model returns what a model is called in rules.
func (d *Desk) model(id cid.Cid) []string { return append(d.cfg.Names(id), id.String()) }
