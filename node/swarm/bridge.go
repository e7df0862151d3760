package swarm

import (
	"errors"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/allowance"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// The files of a bridge, in the swarm's folder: the prefix, the ID of its network, and one
// of these. A bridge whose key or revocation lists are damaged is not used.
const (
	bridgePrefix = "bridge-"
	bridgeAbout  = ".json"
	bridgeKey    = ".key"         // of the peer that this node is there
	bridgeLists  = ".revocations" // of the other swarm
	bridgeUsed   = ".used"        // what guests have used of this node today
	bridgeNumber = ".number"      // of the newest record, of a bridge that has ended
	bridgeEnded  = ".ended"       // that record
	bridgePeers  = ".peers"       // package network's
	bridgePort   = ".port"
	bridgeOuter  = ".relay-key" // which relays of the open network see
	bridgeRelays = ".relays"    // package outer's
)

const (
	maxBridges     = 16 // of a swarm
	maxPast        = 64 // records of two swarms that were replaced
	maxBridgeNodes = 8  // that are passed on and looked for
	maxBridgeLife  = 10 * 366 * 24 * time.Hour
)

// Errors of bridges.
var (
	ErrBridge     = errors.New("a bridge like that is not possible")
	ErrBridgeText = errors.New("this is no request for a bridge, and no code of one")
	ErrNoBridge   = errors.New("there is no such bridge")
	ErrBridgeRoot = errors.New("bridges are made and ended with the swarm's root key, which is not in this home")
	ErrForAnother = errors.New("this bridge is for another swarm than those whose root key is here")
)

// Bridge is a bridge between a swarm of this home and another, as one of both sides. It is
// safe for concurrent use.
type Bridge struct {
	s    *Swarm
	id   member.SwarmID // of its network
	key  crypto.PrivKey // of this node, there
	self peer.ID
	used *allowance.Book

	// guarded by s.mu
	record *member.BridgeRecord
	grant  *member.Grant   // on the guest's side; nil: this is the lender's
	name   string          // of the other swarm
	nodes  []bridgeNode    // of the lender, the best first
	past   []member.Serial // of the records before, which are revoked with this one
	other  member.Lists    // of the other swarm
	run    *bridgeRun      // nil: no host of this process is there
}

// bridgeNode is a node of the lender in the bridge's network.
type bridgeNode struct {
	peer.AddrInfo
	typed bool // it was in the code that the owner of this home has accepted
}

// ID returns the ID of the bridge's network, in hexadecimal.
func (b *Bridge) ID() string { return b.id.String() }

// Lends reports whether this node is on the lender's side.
func (b *Bridge) Lends() bool {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.grant == nil
}

// terms returns the record of now.
func (b *Bridge) terms() *member.BridgeRecord {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.record
}

func (b *Bridge) path(what string) string { return b.s.path(bridgePrefix + b.ID() + what) }

func (b *Bridge) file(what string) string { return bridgePrefix + b.ID() + what }

// PortFile is where the port of the bridge's host is kept.
func (b *Bridge) PortFile() string { return b.path(bridgePort) }

// open returns why the bridge is closed; nil: it is in force. It is called with s.mu held.
func (b *Bridge) open(now time.Time) error {
	if b.grant != nil {
		return b.grant.Check(now, b.other, b.s.lists)
	}
	if err := b.record.Check(now, b.s.lists); err != nil {
		return err
	}
	if b.other.HasSerial(b.record.Serial()) {
		return member.ErrRevoked
	}
	return nil
}

// roles returns what this node may do in the bridge's network. It is called with s.mu held.
func (b *Bridge) roles() member.Roles {
	if b.grant == nil {
		return b.s.cert.Roles & (member.Serve | member.Relay)
	}
	return b.s.cert.Roles & b.record.Roles
}

// view is the bridge's view key. It is called with s.mu held.
func (b *Bridge) view() member.View {
	if b.grant != nil {
		return b.grant.View
	}
	return b.s.about.View.Bridge(b.record.Guest)
}

// Network fills in what makes a network this bridge's.
func (b *Bridge) Network(cfg network.Config) network.Config {
	s := b.s
	cfg.Outside = s.outside(cfg.Outside, b.file(bridgeOuter), b.file(bridgeRelays), b.heardRelays)
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg.Key, cfg.PeersFile, cfg.SwarmName = b.key, b.path(bridgePeers), b.name
	cfg.Swarm = &network.Swarm{Root: s.about.Root, View: b.view(), Certificate: s.cert, Lists: s.lists, Bridge: &network.Bridge{Record: b.record, Other: b.other, Member: s.key}}
	for _, n := range b.nodes {
		switch {
		case n.ID == b.self:
		case n.typed:
			cfg.Reached = append(cfg.Reached, n.AddrInfo)
		default:
			cfg.Claimed = append(cfg.Claimed, n.AddrInfo)
		}
	}
	return cfg
}

// Spend counts rows that were computed for a guest through some of a model's blocks, in the
// network with an ID. It returns why the guest may use no more; nil: it may, or is no guest.
func (b *Book) Spend(network string, rows, blocks, of int) *protocol.Error {
	br := b.lending(network)
	if br == nil {
		return nil
	}
	now := b.cfg.Now()
	left := br.used.Spend(allowance.Of(rows, blocks, of), now)
	if r := br.attached(); r != nil {
		signal(r.spent)
	}
	return br.exhausted(left, now)
}

// Exhausted returns why guests may open no sessions in the network with an ID; nil: they
// may, or it is not that of a bridge on which this node lends.
func (b *Book) Exhausted(network string) *protocol.Error {
	br := b.lending(network)
	if br == nil {
		return nil
	}
	now := b.cfg.Now()
	return br.exhausted(br.used.Left(now), now)
}

func (b *Bridge) exhausted(left bool, now time.Time) *protocol.Error {
	if left {
		return nil
	}
	return protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "the guests of this swarm have used the %d tokens that it lends them a day; there are more from %s on",
		b.terms().TokensPerDay, allowance.Until(allowance.Day(now)).Format("2006-01-02 15:04 MST"))
}

// lending returns the bridge with a network's ID on which this node lends; nil: there is none,
// or no book.
func (b *Book) lending(network string) *Bridge {
	if b == nil || network == "" {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if br := b.running[network]; br != nil && br.lends {
		return br.Bridge
	}
	return nil
}

// logger is of what concerns the bridge.
func (b *Bridge) logger() *slog.Logger {
	return b.s.log.With("swarm", b.s.Name(), "bridge", b.ID()[:8])
}
