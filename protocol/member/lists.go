package member

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

const (
	maxIssuerLists = 32
	// MaxLists is the longest that Lists.Marshal returns, in bytes.
	MaxLists = 1 + 4 + MaxRevocations + 1 + maxIssuerLists*(4+maxIssuerRevocations)
)

// Lists are the revocation lists that a member has: the newest that the root key
// signed, and the newest of each issuer that signed one. All apply. The zero value
// revokes nothing. Nothing changes lists, so they are safe for concurrent use.
//
// Issuers have lists because they must be able to cut a member off while the root
// key is offline. Each has its own, so that none can take back, or claim, what
// another has revoked: when the root revokes an issuer, exactly what that issuer
// said is dropped. Members that have seen the same lists, in whatever order, have
// the same Lists.
type Lists struct {
	ByRoot    *Revocations   // nil: none yet
	ByIssuers []*Revocations // ascending by signer, at most 32: those with the lowest keys
}

// all returns the lists, the root's first.
func (l Lists) all() (out []*Revocations) {
	if l.ByRoot != nil {
		out = append(out, l.ByRoot)
	}
	return append(out, l.ByIssuers...)
}

func bySigner(r *Revocations, k Key) int { return compareKeys(r.Signer, k) }

// Of returns the list by a signer; nil if there is none.
func (l Lists) Of(signer Key) *Revocations {
	if l.ByRoot != nil && l.ByRoot.Signer == signer {
		return l.ByRoot
	}
	if i, found := slices.BinarySearchFunc(l.ByIssuers, signer, bySigner); found {
		return l.ByIssuers[i]
	}
	return nil
}

// Has reports whether a certificate is revoked. It does not consider the
// issuer's own certificate. The root's list revokes the certificates of the keys
// in it, and those that they have issued. An issuer's revokes certificates of the
// keys in it, but not those by which the root has made issuers: one that has
// turned could otherwise shut out all who can put things right.
func (l Lists) Has(c *Certificate) bool {
	if l.ByRoot != nil && (l.ByRoot.hasKey(c.Key) || l.ByRoot.hasKey(c.Issuer)) {
		return true
	}
	for _, r := range l.ByIssuers {
		if r.hasKey(c.Key) && (c.Issuer != r.Chain.Issuer || !c.Roles.Has(Invite)) {
			return true
		}
	}
	return false
}

// HasSerial reports whether the bridge record with a serial is revoked.
func (l Lists) HasSerial(s Serial) bool { return l.ByRoot != nil && l.ByRoot.hasSerial(s) }

// HasKey reports whether any list names a key, whatever comes of that: see Has.
func (l Lists) HasKey(k Key) bool {
	return slices.ContainsFunc(l.all(), func(r *Revocations) bool { return r.hasKey(k) })
}

// Ending returns what is to be taken over into an issuer's own list: the keys that
// it does not name, in lists by others that end with their signer's certificate,
// within left of now. They are not for the root's list, where they would weigh
// more than their signer could have them.
func (l Lists) Ending(issuer Key, now time.Time, left time.Duration) (keys []Key) {
	own := l.Of(issuer)
	for _, r := range l.ByIssuers {
		for _, k := range r.Keys {
			if r != own && r.Chain.NotAfter.Sub(now) < left && (own == nil || !own.hasKey(k)) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// Stale reports whether the newest of the lists is too old to rely on. A swarm
// that has never revoked anything has no list, which is not stale.
func (l Lists) Stale(now time.Time) bool {
	newest := l.Newest()
	return !newest.IsZero() && now.Sub(newest) > Stale
}

// Newest returns when the newest of the lists was signed; zero: there is none.
func (l Lists) Newest() (at time.Time) {
	for _, r := range l.all() {
		if r.Time.After(at) {
			at = r.Time
		}
	}
	return at
}

// With returns the lists after another has arrived, without those that have ended
// with their signer's certificate; news reports whether the one that arrived is
// among them now, and was not before. The error is that of Revocations.Check, or ErrIssuer
// for one issuer's list too many.
func (l Lists) With(r *Revocations, root Key, now time.Time) (out Lists, news bool, err error) {
	if err := r.Check(root, now, l); err != nil || !r.supersedes(l.Of(r.Signer)) {
		return l, false, err
	}
	if r.byRoot() {
		l.ByRoot = r
		return l.At(root, now), true, nil
	}
	l = l.At(root, now)
	i, found := slices.BinarySearchFunc(l.ByIssuers, r.Signer, bySigner)
	switch {
	case found:
		l.ByIssuers = slices.Clone(l.ByIssuers)
		l.ByIssuers[i] = r
	case i == maxIssuerLists:
		return l, false, ErrIssuer
	default:
		l.ByIssuers = slices.Insert(slices.Clone(l.ByIssuers), i, r)
		l.ByIssuers = l.ByIssuers[:min(len(l.ByIssuers), maxIssuerLists)]
	}
	return l, true, nil
}

// At returns the lists that apply at a time: without those by issuers whose
// certificate has ended or is revoked.
func (l Lists) At(root Key, now time.Time) Lists {
	ended := func(r *Revocations) bool { return r.signerValid(root, now, l.ByRoot) != nil }
	if slices.ContainsFunc(l.ByIssuers, ended) {
		l.ByIssuers = slices.DeleteFunc(slices.Clone(l.ByIssuers), ended)
	}
	return l
}

// Merge is With for all lists of another member. It takes what it can: the
// error is of the first list that is refused. One that has ended is no error.
func (l Lists) Merge(other Lists, root Key, now time.Time) (out Lists, news bool, err error) {
	for _, r := range other.all() {
		next, changed, e := l.With(r, root, now)
		l, news = next, news || changed
		if err == nil && !errors.Is(e, ErrExpired) {
			err = e
		}
	}
	return l, news, err
}

// Marshal returns the lists' only encoding: the root's and the issuers', each with
// its length in front.
func (l Lists) Marshal() []byte {
	b := []byte{1}
	var root []byte
	if l.ByRoot != nil {
		root = l.ByRoot.Marshal()
	}
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(root))), root...)
	b = append(b, byte(len(l.ByIssuers)))
	for _, r := range l.ByIssuers {
		raw := r.Marshal()
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
	if n := in.u32(); n > 0 && !in.bad {
		if l.ByRoot, err = readRevocations(in, n); err != nil {
			return Lists{}, err
		}
	}
	count := in.u8()
	for i := 0; i < count && !in.bad; i++ {
		r, err := readRevocations(in, in.u32())
		if err != nil {
			return Lists{}, err
		}
		l.ByIssuers = append(l.ByIssuers, r)
	}
	inOrder := ascending(l.ByIssuers, func(a, b *Revocations) int { return compareKeys(a.Signer, b.Signer) })
	switch {
	case version != 1, in.bad, len(in.b) > 0, count > maxIssuerLists, l.ByRoot != nil && !l.ByRoot.byRoot(), slices.ContainsFunc(l.ByIssuers, (*Revocations).byRoot), !inOrder:
		return Lists{}, malformed("revocation lists")
	}
	return l, nil
}

func readRevocations(in *reader, n uint32) (*Revocations, error) {
	if n > MaxRevocations {
		return nil, malformed("a revocation list of %d bytes", n)
	}
	return ParseRevocations(in.take(int(n)))
}
