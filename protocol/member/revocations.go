package member

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"
)

const (
	revocationsLabel = "shoal-revocations-1\n"
	maxSerials       = 1024
	maxKeys          = 2048 // of the root's list
	maxIssuerKeys    = 256  // of an issuer's
	emptyList        = 1 + 16 + 8 + 4 + 2 + 2 + 32 + 64
	// MaxRevocations is the longest a list can be, in bytes. An issuer's is shorter.
	MaxRevocations       = emptyList + 8*maxSerials + 32*maxKeys
	maxIssuerRevocations = emptyList + 32*maxIssuerKeys + certificateSize
	// Stale is the age from which a list should be mistrusted: issuers sign it
	// again each day.
	Stale = 72 * time.Hour
)

// Revocations says what is no longer valid in a swarm: all that its signer has
// revoked. It is signed by the swarm's root key or by an issuer, whose
// certificate is then Chain. Nothing changes a list once it is signed or parsed,
// so it is safe for concurrent use.
//
// It names members by their keys, not by serials of certificates: a member may
// have certificates by several issuers, and an issuer chooses the serials of
// those that it signs.
type Revocations struct {
	Swarm     SwarmID
	Number    uint64    // grows with each list of the signer
	Time      time.Time // of signing, in seconds
	Serials   []Serial  // of bridge records; ascending; none unless signed by the root
	Keys      []Key     // of members; ascending; see Lists.Has for what falls with them
	Signer    Key
	Signature []byte       // 64 bytes
	Chain     *Certificate // the signer's; nil if the signer is the root
}

// Revoke signs the list that follows this issuer's own in old and has, in
// addition, these serials of bridge records and keys of members. Errors are
// ErrIssuer if this issuer may not sign such a list, as with the root's key or,
// unless it is the root, with serials; and ErrMalformed if the list would be too
// long: 1,024 serials and 2,048 keys, 256 keys of an issuer.
func (i Issuer) Revoke(old Lists, serials []Serial, keys []Key, now time.Time) (*Revocations, error) {
	r := &Revocations{Swarm: i.Root.Swarm(), Number: 1, Time: now.Truncate(time.Second), Signer: PublicKey(i.Key), Chain: i.Certificate}
	r.Serials, r.Keys = slices.Clone(serials), slices.Clone(keys)
	if before := old.Of(r.Signer); before != nil {
		r.Number = before.Number + 1
		r.Serials, r.Keys = append(r.Serials, before.Serials...), append(r.Keys, before.Keys...)
	}
	slices.SortFunc(r.Serials, compareSerials)
	slices.SortFunc(r.Keys, compareKeys)
	r.Serials, r.Keys = slices.Compact(r.Serials), slices.Compact(r.Keys)
	if r.tooLong() || r.Number == 0 {
		return nil, malformed("a list has at most %d serials and %d keys, or %d by an issuer, and a number of 64 bits", maxSerials, maxKeys, maxIssuerKeys)
	}
	r.Signature = sign(i.Key, revocationsLabel, r.body())
	return r, r.Check(i.Root, now, old)
}

func (r *Revocations) tooLong() bool {
	return len(r.Serials) > maxSerials || len(r.Keys) > maxKeys || !r.byRoot() && len(r.Keys) > maxIssuerKeys
}

func (r *Revocations) byRoot() bool { return r.Chain == nil }

func (r *Revocations) hasSerial(s Serial) bool {
	_, found := slices.BinarySearchFunc(r.Serials, s, compareSerials)
	return found
}

func (r *Revocations) hasKey(k Key) bool {
	_, found := slices.BinarySearchFunc(r.Keys, k, compareKeys)
	return found
}

// Check reports whether the list is one of root's swarm, by a signer that may
// sign it. known are the lists known so far. Errors are ErrForeign, ErrForged,
// ErrEarly for one from the future, or from before its signer's certificate, and
// ErrIssuer or those of Certificate.Check for a signer that is not, or is no
// longer, an issuer. The signer's certificate must be valid now: a time that the
// signer chooses, such as the list's, would let it sign after its end.
func (r *Revocations) Check(root Key, now time.Time, known Lists) error {
	switch {
	case r.Swarm != root.Swarm():
		return ErrForeign
	case !r.Signer.verifies(revocationsLabel, r.body(), r.Signature):
		return ErrForged
	case r.Time.After(now.Add(clockSkew)):
		return ErrEarly
	case r.hasKey(root):
		return ErrIssuer
	case r.Signer == root && r.Chain == nil:
		return nil
	case r.Chain == nil || r.Signer == root || r.Chain.Issuer != root || r.Chain.Key != r.Signer || !r.Chain.Roles.Has(Invite) || len(r.Serials) > 0:
		return ErrIssuer
	case r.Time.Before(r.Chain.NotBefore): // so a list that is read again is valid at its own time
		return ErrEarly
	}
	return r.signerValid(root, now, known.ByRoot)
}

// signerValid checks an issuer that signed a list. Only the root can deprive an
// issuer of that right: two issuers that revoke each other would settle on
// nothing.
func (r *Revocations) signerValid(root Key, now time.Time, byRoot *Revocations) error {
	return r.Chain.Check(root, r.Signer.Peer(), now, Lists{ByRoot: byRoot})
}

// supersedes reports whether the list replaces another by the same signer, or
// nil: it has the higher number, or the same and the greater bytes, as when a
// signer's home was set back to a copy.
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
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Keys)))
	for _, k := range r.Keys {
		b = append(b, k[:]...)
	}
	return append(b, r.Signer[:]...)
}

// Marshal returns the list's only encoding: 129 bytes, 8 per serial, 32 per
// key, and 163 more if it is not signed by the root.
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
	keys := min(int(in.u16()), len(in.b)/32+1)
	for range keys {
		r.Keys = append(r.Keys, in.key())
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
	case r.tooLong(), !ascending(r.Serials, compareSerials), !ascending(r.Keys, compareKeys):
		return nil, malformed("a revocation list that is too long, or out of order")
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
