package network

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Swarm makes a network private: a host of one swarm, which speaks with members
// only. Its Config.Key must be the key that Certificate is for.
type Swarm struct {
	Root        member.Key
	View        member.View
	Certificate *member.Certificate
	Lists       member.Lists // of revocations, as far as they are known
	Strict      bool         // refuses new connections while the lists are stale (member.Lists.Stale)
	Bridge      *Bridge      // members of another swarm are here, too; nil: none
}

// ID returns the swarm's ID, or that of a bridge's network.
func (s *Swarm) ID() member.SwarmID {
	if s.Bridge != nil {
		return s.Bridge.Record.Network()
	}
	return s.Root.Swarm()
}

// dhtPrefix is the prefix of the DHT's protocols: a swarm has a DHT of its own,
// because provider records tell who holds what, and lookups who wants it.
func (s *Swarm) dhtPrefix() string {
	if s == nil {
		return protocol.DHTPrefix
	}
	id := s.ID()
	return protocol.DHTPrefix + "/" + hex.EncodeToString(id[:4])
}

// ErrMembership is wrapped by New's error if this node's own membership is not
// valid, together with the reason, such as member.ErrExpired.
var ErrMembership = errors.New("this node's membership of the swarm is not valid")

// ErrNotMember is returned for a peer that refused this node: it has another
// swarm's certificate or none, or its own was revoked or has expired.
var ErrNotMember = errors.New("not a member, or revoked")

// errStranger means that this node refused the peer that answered.
var errStranger = errors.New("no member of this swarm answers there, or one that was revoked")

// errOpen is returned for what only a private swarm has.
var errOpen = errors.New("the open network has no members and no revocations")

// streamRoles are the roles of which a peer must have one to open a stream. A
// stage opens streams to the next, so its protocols are not for clients alone;
// see MayUse. Protocols that are not named here are for all members.
var streamRoles = map[libprotocol.ID]member.Roles{
	protocol.StageID: member.Use | member.Serve, protocol.StageID1: member.Use | member.Serve,
	protocol.LeavesID: member.Use | member.Serve, bitswapID: member.Use | member.Serve,
	protocol.HeadingID: member.Use | member.Serve,
	// Only the keys of a member's AutoNAT have no role at all (see roll.roles). A
	// member makes as many as it likes, so a limit per peer bounds nothing for them.
	protocol.MemberID: member.AllRoles,
}

// Roles returns what a peer may do in the swarm, or this node itself: all, in the
// open network; in a private swarm nothing, if no connection has shown the
// peer's certificate.
func (n *Network) Roles(p peer.ID) member.Roles {
	switch {
	case n.roll == nil:
		return member.AllRoles
	case p == n.host.ID():
		return n.roll.terms().roles(n.cfg.Swarm.Certificate)
	}
	return n.roll.roles(p)
}

// MayUse returns why a peer may not open sessions here, or nil. This node itself
// always may.
func (n *Network) MayUse(p peer.ID) *protocol.Error {
	if p == n.host.ID() || n.Roles(p).Has(member.Use) {
		return nil
	}
	return protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "this swarm has not given the node the role to use others (%s)", member.Use)
}

// believed reports whether a peer may offer spans and models. A peer that has
// not been met yet may: it is met before anything is asked of it.
func (n *Network) believed(p peer.ID) bool {
	return n.roll == nil || n.Roles(p).Has(member.Serve) || n.roll.certificate(p) == nil
}

// Certificate returns the certificate that a connected peer has shown, this
// node's own for Self, or nil.
func (n *Network) Certificate(p peer.ID) *member.Certificate {
	switch {
	case n.roll == nil:
		return nil
	case p == n.host.ID():
		return n.cfg.Swarm.Certificate
	}
	return n.roll.certificate(p)
}

// Lists returns the revocation lists that are in force here.
func (n *Network) Lists() member.Lists {
	if n.roll == nil {
		return member.Lists{}
	}
	return n.roll.revoked()
}

// InstallLists puts newer revocation lists in force: they are checked, members that
// they revoke get in no more once it returns, and their connections are closed in the
// background, those of bulk transfers, too. news reports whether any list was newer. If one of them revokes
// this node itself, all connections are closed, and Standing returns an error.
// Errors are those of member.Lists.Merge.
func (n *Network) InstallLists(l member.Lists) (news bool, err error) {
	if n.roll == nil {
		return false, errOpen
	}
	return n.roll.install(l)
}

// Standing returns why this node is not, or is no longer, a member of its swarm:
// one of package member's errors, or nil.
func (n *Network) Standing() error {
	if n.roll == nil {
		return nil
	}
	return n.roll.standing()
}

// Host returns the libp2p host, for protocols of other packages. In a private
// swarm its handlers get only streams of peers with a role for the protocol.
func (n *Network) Host() host.Host {
	if n.roll == nil {
		return n.host
	}
	return roleHost{n.host, n.roll}
}

// roleHost is a host that resets streams of peers without the role for their
// protocol.
type roleHost struct {
	host.Host
	roll *roll
}

func (h roleHost) SetStreamHandler(id libprotocol.ID, handle network.StreamHandler) {
	need, ok := streamRoles[id]
	if !ok {
		h.Host.SetStreamHandler(id, handle)
		return
	}
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		if h.roll.roles(s.Conn().RemotePeer())&need == 0 {
			_ = s.Reset()
			return
		}
		handle(s)
	})
}

// mayServe returns an error if a stream speaks a stage's protocol with a peer
// that may not serve.
func (n *Network) mayServe(p peer.ID, proto libprotocol.ID) error {
	if (proto == protocol.StageID || proto == protocol.StageID1) && !n.Roles(p).Has(member.Serve) {
		return fmt.Errorf("%s may not serve in this swarm", p)
	}
	return nil
}

// gated returns ErrNotMember or errStranger if an error means that either end
// refused the other's membership, else nil. A QUIC connection that is refused
// seems to be established at first (TLS 1.3), so the error may come with the
// first stream.
func gated(err error) error {
	var gone *network.ConnError
	text := err.Error()
	switch {
	case errors.As(err, &gone) && gone.ErrorCode == network.ConnGated && gone.Remote,
		strings.Contains(text, "remote error: tls: bad certificate"):
		return ErrNotMember
	case strings.Contains(text, "secured connection gated"), slices.ContainsFunc(notMembers, func(e error) bool { return errors.Is(err, e) }):
		return errStranger
	}
	return nil
}

var notMembers = []error{
	member.ErrMissing, member.ErrForeign, member.ErrForged, member.ErrExpired, member.ErrEarly, member.ErrOther, member.ErrRevoked,
	member.ErrIssuer, member.ErrRoles, member.ErrMalformed,
}
