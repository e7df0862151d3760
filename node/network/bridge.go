package network

import (
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Bridge makes a network the one in which the members of two swarms meet: the nodes of
// the lender, and the members of the guest, which use them. Config.Key is a key of its
// own then, Swarm.Root and Swarm.Lists are of the swarm that this node is a member of,
// and Swarm.View is the bridge's view key.
type Bridge struct {
	Record *member.BridgeRecord
	Other  member.Lists   // of revocations, of the other swarm
	Member crypto.PrivKey // for which Swarm.Certificate is; it vouches for Config.Key
}

// terms are what decides who gets in, as of a moment.
type terms struct {
	*Swarm
	self   peer.ID
	lists  member.Lists
	other  member.Lists         // of the other swarm of a bridge
	record *member.BridgeRecord // nil: there is no bridge
}

// sides returns the revocation lists of both swarms of a bridge.
func (t terms) sides() (lender, guest member.Lists) {
	if t.Root == t.record.Lender {
		return t.lists, t.other
	}
	return t.other, t.lists
}

// open returns why the bridge is closed, or nil. Either swarm may have closed it.
func (t terms) open(now time.Time) error {
	if t.record == nil {
		return nil
	}
	lender, guest := t.sides()
	if guest.HasSerial(t.record.Serial()) {
		return member.ErrRevoked
	}
	return t.record.Check(now, lender)
}

// own returns why this node may not be here, or nil.
func (t terms) own(now time.Time) error {
	if err := t.open(now); err != nil {
		return err
	}
	if t.record == nil {
		return t.Certificate.Check(t.Root, t.self, now, t.lists)
	}
	return t.Certificate.Check(t.Root, t.Certificate.Peer(), now, t.lists)
}

// check returns why a peer may not be here with what it has shown, or nil.
func (t terms) check(shown *member.Membership, p peer.ID, now time.Time) error {
	if t.record == nil {
		return shown.Check(t.Root, p, now, t.lists)
	}
	if err := t.open(now); err != nil {
		return err
	}
	root, lists := t.record.Lender, t.lists
	if shown.Certificate.Swarm == t.record.Guest.Swarm() {
		root = t.record.Guest
	}
	if root != t.Root {
		lists = t.other
	}
	if err := shown.CheckBridge(t.record.Network(), root, p, now, lists); err != nil {
		return err
	}
	if t.roles(shown.Certificate) == 0 {
		return member.ErrRoles
	}
	return nil
}

// ends returns when a membership ends here by time.
func (t terms) ends(c *member.Certificate) time.Time {
	end := c.Expires()
	if t.record != nil && t.record.NotAfter.Before(end) {
		end = t.record.NotAfter
	}
	return end
}

// roles returns what the holder of a certificate may do here. Over a bridge, guests have
// the roles that both their swarm and the record give. The lender's members are there to
// serve: what they use, they use in their swarm.
func (t terms) roles(c *member.Certificate) member.Roles {
	switch {
	case t.record == nil:
		return c.Roles
	case c.Swarm == t.record.Guest.Swarm():
		return c.Roles & t.record.Roles
	}
	return c.Roles & (member.Serve | member.Relay)
}

// Bridge returns the record under which two swarms meet in this network; nil: it is a
// swarm's own, or the open one.
func (n *Network) Bridge() *member.BridgeRecord {
	if n.roll == nil {
		return nil
	}
	return n.roll.terms().record
}

// Lends reports whether this node is here as one of a bridge's lender, for others to use.
func (n *Network) Lends() bool {
	r := n.Bridge()
	return r != nil && n.cfg.Swarm.Root == r.Lender
}

// Guest reports whether a peer is here by a bridge, to use nodes of another swarm. One that
// has been cut off counts as a guest: a stream of it may still be served.
func (n *Network) Guest(p peer.ID) bool {
	r := n.Bridge()
	c := n.Certificate(p)
	return r != nil && (c == nil || c.Swarm == r.Guest.Swarm())
}

// Allows reports whether this node may offer a model here: over a bridge, what the record
// names, and only with the role to serve.
func (n *Network) Allows(model cid.Cid) bool {
	r := n.Bridge()
	return r == nil || r.Allows(model) && n.Roles(n.Self()).Has(member.Serve)
}

// Shares reports whether weights are exchanged here. Guests that do not serve get the
// headers of models, without which nobody can use them, and nothing else.
func (n *Network) Shares() bool {
	r := n.Bridge()
	return r == nil || r.Roles.Has(member.Serve) && n.Roles(n.Self()).Has(member.Serve)
}

// relayOverBridge has guests reached over this node as a relay only if they may relay, too.
// They may reach the lender's nodes over it, of which some are behind routers.
func (n *Network) relayOverBridge() {
	if n.cfg.Swarm.Bridge == nil {
		return
	}
	may := n.cfg.MayRelay
	n.cfg.MayRelay = func(p peer.ID) bool {
		return (may == nil || may(p)) && (!n.Guest(p) || n.Roles(p).Has(member.Relay))
	}
	n.cfg.mayReach = func(p peer.ID) bool { return may == nil || may(p) }
}

// Headers returns what is offered of models as if only their headers, which are the first
// shards, were held. It changes all.
func Headers(all []*protocol.HeldShards) (out []*protocol.HeldShards) {
	for _, h := range all {
		if len(h.Bitmap) > 0 && h.Bitmap[0]&1 != 0 {
			h.Bitmap = append([]byte{1}, make([]byte, len(h.Bitmap)-1)...)
			out = append(out, h)
		}
	}
	return out
}

// Other returns the revocation lists of the other swarm of a bridge.
func (n *Network) Other() member.Lists {
	if n.roll == nil {
		return member.Lists{}
	}
	return n.roll.terms().other
}

// InstallOther is InstallLists for lists of the other swarm of a bridge.
func (n *Network) InstallOther(l member.Lists) (news bool, err error) {
	r := n.Bridge()
	if r == nil {
		return false, errOpen
	}
	root := r.Lender
	if n.cfg.Swarm.Root == root {
		root = r.Guest
	}
	return n.roll.merge(&n.roll.other, l, root)
}

// SetBridge puts another record of the same two swarms in force: connections that it
// does not allow are closed. What is offered under it is the caller's to change.
func (n *Network) SetBridge(r *member.BridgeRecord) error {
	old := n.Bridge()
	if old == nil || old.Network() != r.Network() {
		return member.ErrForeign
	}
	n.roll.mu.Lock()
	n.roll.record = r
	n.roll.mu.Unlock()
	n.roll.cut()
	return nil
}
