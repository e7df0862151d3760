package member

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Lives of certificates.
const (
	Life       = 90 * 24 * time.Hour // of a certificate, unless said otherwise
	RenewAfter = 60 * 24 * time.Hour // of which this much has passed when it is renewed
	clockSkew  = 10 * time.Minute    // by which a certificate is valid before it is issued
)

const (
	certificateLabel = "shoal-certificate-1\n"
	certificateSize  = 1 + 16 + 8 + 2 + 4 + 4 + 32 + 32 + 64
	// MaxCertificate is the longest a certificate can be, in bytes: with its
	// issuer's.
	MaxCertificate = 2 * certificateSize
)

// Certificate states that a peer is a member of a swarm, with these roles, for
// this time. It is signed by Issuer: the swarm's root key, or a member with the
// role Invite, whose own certificate is Chain. Nothing changes a certificate
// once it is signed or parsed, so it is safe for concurrent use.
type Certificate struct {
	Swarm     SwarmID
	Serial    Serial
	Roles     Roles
	NotBefore time.Time // in seconds, from 1970 to 2106
	NotAfter  time.Time // exclusive
	Key       Key       // the member's
	Issuer    Key
	Signature []byte       // 64 bytes
	Chain     *Certificate // the issuer's; nil if the issuer is the root
}

// Peer returns the member's peer ID.
func (c *Certificate) Peer() peer.ID { return c.Key.Peer() }

// Expires returns when the certificate ends, or its issuer's if that is sooner.
func (c *Certificate) Expires() time.Time {
	if c.Chain != nil && c.Chain.NotAfter.Before(c.NotAfter) {
		return c.Chain.NotAfter
	}
	return c.NotAfter
}

// Due reports whether it is time to renew the certificate.
func (c *Certificate) Due(now time.Time) bool {
	return !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3))
}

// Issuer signs certificates and revocation lists of one swarm.
type Issuer struct {
	Root        Key
	Key         ed25519.PrivateKey
	Certificate *Certificate // of Key; nil: Key is the root's
}

// Issue signs a certificate for the member with this key, valid from ten minutes
// before now, for clocks that differ, until now plus life. The error wraps
// ErrIssuer if this issuer lacks one of the roles or may not invite, else what
// Check finds, such as ErrExpired for the issuer's own certificate. An issuer other than the root cannot
// make issuers.
func (i Issuer) Issue(member Key, roles Roles, now time.Time, life time.Duration) (*Certificate, error) {
	var serial Serial
	if _, err := rand.Read(serial[:]); err != nil {
		return nil, err
	}
	return i.issue(serial, member, roles, now, life)
}

// Renew signs another certificate for the member of an earlier one, with the same
// serial. Otherwise it is like Issue, and has its errors.
func (i Issuer) Renew(old *Certificate, roles Roles, now time.Time, life time.Duration) (*Certificate, error) {
	return i.issue(old.Serial, old.Key, roles, now, life)
}

func (i Issuer) issue(serial Serial, member Key, roles Roles, now time.Time, life time.Duration) (*Certificate, error) {
	c := &Certificate{
		Swarm: i.Root.Swarm(), Serial: serial, Roles: roles, NotBefore: now.Add(-clockSkew).Truncate(time.Second), NotAfter: now.Add(life).Truncate(time.Second),
		Key: member, Issuer: PublicKey(i.Key), Chain: i.Certificate,
	}
	c.Signature = sign(i.Key, certificateLabel, c.body())
	if err := c.Check(i.Root, member.Peer(), now, Lists{}); err != nil {
		return nil, fmt.Errorf("this node cannot issue a certificate with the roles %s: %w", roles, err)
	}
	return c, nil
}

func (c *Certificate) body() []byte {
	b := append([]byte{1}, c.Swarm[:]...)
	b = append(b, c.Serial[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(c.Roles))
	b = appendTime(appendTime(b, c.NotBefore), c.NotAfter)
	b = append(b, c.Key[:]...)
	return append(b, c.Issuer[:]...)
}

// Marshal returns the certificate's only encoding: 163 bytes, and 163 more with
// its issuer's.
func (c *Certificate) Marshal() []byte {
	b := append(c.body(), c.Signature...)
	if c.Chain != nil {
		b = append(b, c.Chain.Marshal()...)
	}
	return b
}

// ParseCertificate parses what Marshal returns. It verifies nothing: see Check.
// The error wraps ErrMalformed.
func ParseCertificate(b []byte) (*Certificate, error) {
	if len(b) != certificateSize && len(b) != MaxCertificate {
		return nil, malformed("a certificate of %d bytes", len(b))
	}
	r := &reader{b: b}
	c := readCertificate(r)
	if c != nil && len(r.b) > 0 {
		if c.Chain = readCertificate(r); c.Chain == nil {
			c = nil
		}
	}
	if c == nil {
		return nil, malformed("a certificate of another version")
	}
	return c, nil
}

// readCertificate returns nil if the certificate is of another version.
func readCertificate(r *reader) *Certificate {
	if r.u8() != 1 {
		return nil
	}
	return &Certificate{
		Swarm: r.swarm(), Serial: r.serial(), Roles: Roles(r.u16()), NotBefore: r.moment(), NotAfter: r.moment(),
		Key: r.key(), Issuer: r.key(), Signature: r.signature(),
	}
}

// Check reports whether the certificate makes a peer a member of root's swarm at
// a time. revoked are the lists known so far. Errors are ErrForeign,
// ErrOther, ErrRevoked, ErrExpired, ErrEarly, ErrForged, ErrIssuer, and ErrRoles for
// a certificate without a role.
func (c *Certificate) Check(root Key, p peer.ID, at time.Time, revoked Lists) error {
	if c.Swarm != root.Swarm() {
		return ErrForeign
	}
	if c.Peer() != p {
		return ErrOther
	}
	if err := c.valid(at, revoked); err != nil {
		return err
	}
	if c.Issuer == root {
		if c.Chain != nil {
			return ErrIssuer // a second encoding of the same certificate
		}
		return nil
	}
	up := c.Chain
	if up == nil || up.Chain != nil || up.Swarm != c.Swarm || up.Issuer != root || up.Key != c.Issuer || !up.Roles.Has(Invite) {
		return ErrIssuer
	}
	if !up.Roles.Has(c.Roles) || c.Roles.Has(Invite) {
		return ErrIssuer
	}
	return up.valid(at, revoked)
}

// valid checks what concerns this certificate alone.
func (c *Certificate) valid(at time.Time, revoked Lists) error {
	switch {
	case revoked.Has(c):
		return ErrRevoked
	case !at.Before(c.NotAfter):
		return ErrExpired
	case at.Before(c.NotBefore):
		return ErrEarly
	case c.Roles&AllRoles == 0:
		return ErrRoles
	case !c.Issuer.verifies(certificateLabel, c.body(), c.Signature):
		return ErrForged
	}
	return nil
}
