package member

import (
	"encoding/binary"
	"time"
)

// MaxLists is the longest that Lists.Marshal returns, in bytes.
const MaxLists = 1 + 2*(4+MaxRevocations)

// Lists are the revocation lists that a member has: the newest that the root key
// signed and the newest that an issuer signed. Both apply. The zero value revokes
// nothing. Nothing changes lists, so they are safe for concurrent use.
//
// They are two because an issuer must be able to cut a member off while the root
// key is offline, and must not be able to take back what the root has revoked. A
// list by an issuer that the root has revoked is dropped, so an issuer that has
// turned does not win by signing a list with the highest number. Members that
// have seen the same lists, in whatever order, have the same Lists.
type Lists struct {
	ByRoot, ByIssuer *Revocations // nil: none yet
}

func (l Lists) all() (out []*Revocations) {
	for _, r := range []*Revocations{l.ByRoot, l.ByIssuer} {
		if r != nil {
			out = append(out, r)
		}
	}
	return out
}

// Has reports whether a certificate is revoked, or all by the key that issued
// it. It does not consider the issuer's own certificate.
func (l Lists) Has(c *Certificate) bool {
	for _, r := range l.all() {
		if r.hasSerial(c.Serial) || r.hasIssuer(c.Issuer) {
			return true
		}
	}
	return false
}

// HasSerial reports whether a serial is revoked.
func (l Lists) HasSerial(s Serial) bool {
	for _, r := range l.all() {
		if r.hasSerial(s) {
			return true
		}
	}
	return false
}

// Numbers returns the numbers of both lists, 0 for one that is not there. A
// member whose numbers are lower than another's lacks a list.
func (l Lists) Numbers() (byRoot, byIssuer uint64) {
	if l.ByRoot != nil {
		byRoot = l.ByRoot.Number
	}
	if l.ByIssuer != nil {
		byIssuer = l.ByIssuer.Number
	}
	return byRoot, byIssuer
}

// Stale reports whether the newer of the lists is too old to rely on. A swarm
// that has never revoked anything has no list, which is not stale.
func (l Lists) Stale(now time.Time) bool {
	var newest time.Time
	for _, r := range l.all() {
		if r.Time.After(newest) {
			newest = r.Time
		}
	}
	return !newest.IsZero() && now.Sub(newest) > Stale
}

// With returns the lists after another has arrived; news reports whether that
// changed anything. The error is that of Revocations.Check.
func (l Lists) With(r *Revocations, root Key, now time.Time) (out Lists, news bool, err error) {
	if err := r.Check(root, now, l); err != nil {
		return l, false, err
	}
	switch {
	case r.byRoot() && r.supersedes(l.ByRoot):
		l.ByRoot = r
		if l.ByIssuer != nil && l.ByIssuer.signerValid(root, r) != nil {
			l.ByIssuer = nil
		}
	case !r.byRoot() && r.supersedes(l.ByIssuer):
		l.ByIssuer = r
	default:
		return l, false, nil
	}
	return l, true, nil
}

// Merge is With for both lists of another member. It takes what it can: the
// error is of the first list that is refused.
func (l Lists) Merge(other Lists, root Key, now time.Time) (out Lists, news bool, err error) {
	for _, r := range other.all() {
		next, changed, e := l.With(r, root, now)
		l, news = next, news || changed
		if err == nil {
			err = e
		}
	}
	return l, news, err
}

// Marshal returns the lists' only encoding: nine bytes more than the lists' own.
func (l Lists) Marshal() []byte {
	b := []byte{1}
	for _, r := range []*Revocations{l.ByRoot, l.ByIssuer} {
		var raw []byte
		if r != nil {
			raw = r.Marshal()
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(raw))), raw...)
	}
	return b
}

// ParseLists parses what Marshal returns. It verifies nothing: see With and
// Merge. The error wraps ErrMalformed.
func ParseLists(b []byte) (l Lists, err error) {
	if len(b) > MaxLists {
		return l, malformed("revocation lists of %d bytes", len(b))
	}
	in := &reader{b: b}
	version := in.u8()
	for _, to := range []**Revocations{&l.ByRoot, &l.ByIssuer} {
		n := in.u32()
		if n == 0 || in.bad {
			continue
		}
		if n > MaxRevocations {
			return Lists{}, malformed("a revocation list of %d bytes", n)
		}
		if *to, err = ParseRevocations(in.take(int(n))); err != nil {
			return Lists{}, err
		}
	}
	switch {
	case version != 1, in.bad, len(in.b) > 0, l.ByRoot != nil && !l.ByRoot.byRoot(), l.ByIssuer != nil && l.ByIssuer.byRoot():
		return Lists{}, malformed("revocation lists")
	}
	return l, nil
}
