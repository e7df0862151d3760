package member

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"
)

const (
	revocationsLabel = "shoal-revocations-1\n"
	maxSerials       = 8192
	maxIssuers       = 256
	// MaxRevocations is the longest a list can be, in bytes.
	MaxRevocations = 1 + 16 + 8 + 4 + 2 + 8*maxSerials + 2 + 32*maxIssuers + 32 + 64 + certificateSize
	// Stale is the age from which a list should be mistrusted: issuers sign it
	// again each day.
	Stale = 72 * time.Hour
)

// Revocations is a swarm's list of what is no longer valid, all of it each time.
// It is signed by the swarm's root key or by an issuer, whose certificate is
// then Chain. Nothing changes a list once it is signed or parsed, so it is safe
// for concurrent use.
type Revocations struct {
	Swarm     SwarmID
	Number    uint64    // grows with each list
	Time      time.Time // of signing, in seconds
	Serials   []Serial  // of certificates and bridge records; ascending
	Issuers   []Key     // whose certificates and lists are all invalid; ascending
	Signer    Key
	Signature []byte       // 64 bytes
	Chain     *Certificate // the signer's; nil if the signer is the root
}

// Revoke signs the list that follows the signer's kind of list in old and has, in
// addition, these serials and issuer keys. The root's list also takes over what
// the issuers' has. Errors are ErrIssuer if this issuer may not sign lists, and
// ErrMalformed if the list would have more than 8,192 serials or 256 keys.
func (i Issuer) Revoke(old Lists, serials []Serial, issuers []Key, now time.Time) (*Revocations, error) {
	r := &Revocations{Swarm: i.Root.Swarm(), Number: 1, Time: now.Truncate(time.Second), Signer: PublicKey(i.Key), Chain: i.Certificate}
	r.Serials, r.Issuers = slices.Clone(serials), slices.Clone(issuers)
	for _, before := range old.all() {
		if before.byRoot() == r.byRoot() {
			r.Number = before.Number + 1
		}
		if r.byRoot() || !before.byRoot() {
			r.Serials, r.Issuers = append(r.Serials, before.Serials...), append(r.Issuers, before.Issuers...)
		}
	}
	slices.SortFunc(r.Serials, compareSerials)
	slices.SortFunc(r.Issuers, compareKeys)
	r.Serials, r.Issuers = slices.Compact(r.Serials), slices.Compact(r.Issuers)
	if len(r.Serials) > maxSerials || len(r.Issuers) > maxIssuers || r.Number == 0 {
		return nil, malformed("a list has at most %d serials and %d keys, and a number of 64 bits", maxSerials, maxIssuers)
	}
	r.Signature = sign(i.Key, revocationsLabel, r.body())
	return r, r.Check(i.Root, now, old)
}

func (r *Revocations) byRoot() bool { return r.Chain == nil }

func (r *Revocations) hasSerial(s Serial) bool {
	_, found := slices.BinarySearchFunc(r.Serials, s, compareSerials)
	return found
}

func (r *Revocations) hasIssuer(k Key) bool {
	_, found := slices.BinarySearchFunc(r.Issuers, k, compareKeys)
	return found
}

// Check reports whether the list is one of root's swarm, by a signer that may
// sign it. known are the lists known so far. Errors are ErrForeign, ErrForged,
// ErrEarly for one from the future, and ErrIssuer or those of Certificate.Check
// for a signer that is not, or is no longer, an issuer. The signer's certificate
// must have been valid when it signed.
func (r *Revocations) Check(root Key, now time.Time, known Lists) error {
	switch {
	case r.Swarm != root.Swarm():
		return ErrForeign
	case !r.Signer.verifies(revocationsLabel, r.body(), r.Signature):
		return ErrForged
	case r.Time.After(now.Add(clockSkew)):
		return ErrEarly
	case r.Signer == root && r.Chain == nil:
		return nil
	case r.Chain == nil || r.Signer == root || r.Chain.Issuer != root || r.Chain.Key != r.Signer || !r.Chain.Roles.Has(Invite):
		return ErrIssuer
	}
	return r.signerValid(root, known.ByRoot)
}

// signerValid checks an issuer that signed a list. Only the root can deprive an
// issuer of that right: two issuers that revoke each other would settle on
// nothing.
func (r *Revocations) signerValid(root Key, byRoot *Revocations) error {
	if byRoot != nil && byRoot.hasIssuer(r.Signer) {
		return ErrRevoked
	}
	return r.Chain.Check(root, r.Signer.Peer(), r.Time, Lists{ByRoot: byRoot})
}

// supersedes reports whether the list replaces another of the same kind, or nil:
// it has the higher number, or the same and the greater bytes, as when two
// issuers sign at once.
func (r *Revocations) supersedes(old *Revocations) bool {
	if old == nil || r.Number != old.Number {
		return old == nil || r.Number > old.Number
	}
	return bytes.Compare(r.Marshal(), old.Marshal()) > 0
}

func (r *Revocations) body() []byte {
	b := append([]byte{1}, r.Swarm[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Number)
	b = appendTime(b, r.Time)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Serials)))
	for _, s := range r.Serials {
		b = append(b, s[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Issuers)))
	for _, k := range r.Issuers {
		b = append(b, k[:]...)
	}
	return append(b, r.Signer[:]...)
}

// Marshal returns the list's only encoding: 129 bytes, 8 per serial, 32 per
// issuer's key, and 163 more if it is not signed by the root.
func (r *Revocations) Marshal() []byte {
	b := append(r.body(), r.Signature...)
	if r.Chain != nil {
		b = append(b, r.Chain.Marshal()...)
	}
	return b
}

// ParseRevocations parses what Marshal returns. It verifies nothing: see Check.
// The error wraps ErrMalformed.
func ParseRevocations(b []byte) (*Revocations, error) {
	if len(b) > MaxRevocations {
		return nil, malformed("a revocation list of %d bytes", len(b))
	}
	in := &reader{b: b}
	version := in.u8()
	r := &Revocations{Swarm: in.swarm(), Number: in.u64(), Time: in.moment()}
	serials := min(int(in.u16()), len(in.b)/8+1) // a count beyond the bytes fails below, without a large allocation
	for range serials {
		r.Serials = append(r.Serials, in.serial())
	}
	issuers := min(int(in.u16()), len(in.b)/32+1)
	for range issuers {
		r.Issuers = append(r.Issuers, in.key())
	}
	r.Signer, r.Signature = in.key(), in.signature()
	if len(in.b) > 0 {
		if r.Chain = readCertificate(in); r.Chain == nil {
			return nil, malformed("a revocation list with a certificate of another version")
		}
	}
	switch {
	case version != 1, in.bad, len(in.b) > 0:
		return nil, malformed("a revocation list")
	case len(r.Serials) > maxSerials, len(r.Issuers) > maxIssuers, !ascending(r.Serials, compareSerials), !ascending(r.Issuers, compareKeys):
		return nil, malformed("a revocation list out of order")
	}
	return r, nil
}

// ascending reports whether each element is greater than the one before.
func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}
