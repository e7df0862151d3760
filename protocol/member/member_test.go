package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
)

var now = time.Unix(1_800_000_000, 0)

// keyOf returns the private key number i, the same in each run.
func keyOf(i int) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0], seed[1] = byte(i), byte(i>>8)
	return ed25519.NewKeyFromSeed(seed)
}

var (
	rootKey = keyOf(1)
	root    = Issuer{Root: PublicKey(rootKey), Key: rootKey}
)

func (i Issuer) mustIssue(t testing.TB, member int, roles Roles) *Certificate {
	t.Helper()
	c, err := i.Issue(PublicKey(keyOf(member)), roles, now, Life)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issuer returns member number i as an issuer with these roles.
func issuer(t testing.TB, i int, roles Roles) Issuer {
	return Issuer{Root: root.Root, Key: keyOf(i), Certificate: root.mustIssue(t, i, roles)}
}

func TestRolesAreReadAsTheyAreWritten(t *testing.T) {
	for r := Roles(1); r <= AllRoles; r++ {
		got, err := ParseRoles(strings.ToUpper(strings.ReplaceAll(r.String(), ",", " , ")))
		if err != nil || got != r {
			t.Errorf("%s: %s, %v", r, got, err)
		}
	}
	for _, bad := range []string{"", "none", "use,", "user", "use serve"} {
		if r, err := ParseRoles(bad); err == nil || !strings.Contains(err.Error(), "use, serve, relay, invite, bridge") {
			t.Errorf("%q: %s, %v", bad, r, err)
		}
	}
}

func TestWhoIsAMember(t *testing.T) {
	founder := issuer(t, 2, Use|Serve|Invite)
	good := root.mustIssue(t, 3, Use|Serve|Relay)
	invited := founder.mustIssue(t, 3, Use)
	alter := func(c *Certificate, key ed25519.PrivateKey, change func(*Certificate)) *Certificate {
		out := *c
		change(&out)
		out.Signature = sign(key, certificateLabel, out.body())
		return &out
	}
	weak := issuer(t, 4, Use|Serve)
	otherKey := keyOf(9)
	other := Issuer{Root: PublicKey(otherKey), Key: otherKey}
	revoke := func(by Issuer, keys ...Key) Lists {
		r, err := by.Revoke(Lists{}, nil, keys, now)
		if err != nil {
			t.Fatal(err)
		}
		l, _, err := Lists{}.With(r, root.Root, now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	none := Lists{}
	for _, c := range []struct {
		name    string
		cert    *Certificate
		at      time.Time
		revoked Lists
		want    error
	}{
		{"by the root", good, now, none, nil},
		{"by an issuer", invited, now, none, nil},
		{"clocks differ", good, now.Add(-9 * time.Minute), none, nil},
		{"too early", good, now.Add(-11 * time.Minute), none, ErrEarly},
		{"to the last second", good, now.Add(Life - time.Second), none, nil},
		{"expired", good, now.Add(Life), none, ErrExpired},
		{"its issuer has expired", alter(invited, founder.Key, func(c *Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) }), now.Add(Life), none, ErrExpired},
		{"another swarm", other.mustIssue(t, 3, Use), now, none, ErrForeign},
		{"another root for this swarm", alter(other.mustIssue(t, 3, Use), otherKey, func(c *Certificate) { c.Swarm = root.Root.Swarm() }), now, none, ErrIssuer},
		{"another's", root.mustIssue(t, 5, Use), now, none, ErrOther},
		{"no role", alter(good, rootKey, func(c *Certificate) { c.Roles = 0 }), now, none, ErrRoles},
		{"only a role of the future", alter(good, rootKey, func(c *Certificate) { c.Roles = 1 << 9 }), now, none, ErrRoles},
		{"roles changed", func() *Certificate { c := *good; c.Roles = AllRoles; return &c }(), now, none, ErrForged},
		{"wider than its issuer", alter(invited, founder.Key, func(c *Certificate) { c.Roles = Use | Relay }), now, none, ErrIssuer},
		{"an issuer made by an issuer", alter(invited, founder.Key, func(c *Certificate) { c.Roles = Use | Invite }), now, none, ErrIssuer},
		{"issuer without the role", alter(invited, weak.Key, func(c *Certificate) { c.Issuer, c.Chain = PublicKey(weak.Key), weak.Certificate }), now, none, ErrIssuer},
		{"issuer's certificate missing", alter(invited, founder.Key, func(c *Certificate) { c.Chain = nil }), now, none, ErrIssuer},
		{"issuer's certificate of another", alter(invited, weak.Key, func(c *Certificate) { c.Issuer = PublicKey(weak.Key) }), now, none, ErrIssuer},
		{"a chain beside the root", alter(good, rootKey, func(c *Certificate) { c.Chain = founder.Certificate }), now, none, ErrIssuer},
		{"revoked", good, now, revoke(root, Key{1}, good.Key, Key{0xff}), ErrRevoked},
		{"revoked, by another's certificate", invited, now, revoke(root, good.Key), ErrRevoked},
		{"revoked by an issuer", good, now, revoke(founder, good.Key), ErrRevoked},
		{"another is revoked", good, now, revoke(root, Key{1}, founder.Certificate.Key), nil},
		{"its issuer is revoked", invited, now, revoke(root, founder.Certificate.Key), ErrRevoked},
		{"its issuer is revoked by an issuer", invited, now, revoke(issuer(t, 6, Use|Invite), founder.Certificate.Key), nil},
		{"an issuer is revoked by an issuer", root.mustIssue(t, 3, Invite), now, revoke(founder, PublicKey(keyOf(3))), nil},
		{"an issuer is revoked by the root", root.mustIssue(t, 3, Invite), now, revoke(root, PublicKey(keyOf(3))), ErrRevoked},
	} {
		if err := c.cert.Check(root.Root, keyPeer(3), c.at, c.revoked); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if len(good.Marshal()) != 163 || len(invited.Marshal()) != MaxCertificate {
		t.Errorf("certificates of %d and %d bytes", len(good.Marshal()), len(invited.Marshal()))
	}
}

func TestAnIssuerGrantsNoRoleThatItLacks(t *testing.T) {
	founder := issuer(t, 2, Use|Invite)
	for roles, want := range map[Roles]error{Use: nil, Use | Serve: ErrIssuer, Invite: ErrIssuer, 0: ErrRoles} {
		if _, err := founder.Issue(PublicKey(keyOf(3)), roles, now, Life); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", roles, err, want)
		}
	}
	if _, err := founder.Issue(PublicKey(keyOf(3)), Use, now.Add(Life), Life); !errors.Is(err, ErrExpired) {
		t.Errorf("an expired issuer: %v", err)
	}
	if _, err := issuer(t, 4, Use).Issue(PublicKey(keyOf(3)), Use, now, Life); !errors.Is(err, ErrIssuer) {
		t.Errorf("a member that may not invite: %v", err)
	}
}

func TestACertificateIsDueAfterTwoThirdsOfItsLife(t *testing.T) {
	c := root.mustIssue(t, 3, Use)
	if c.Due(now.Add(RenewAfter-time.Hour)) || !c.Due(now.Add(RenewAfter)) {
		t.Error("not after 60 days")
	}
	short, err := issuer(t, 2, Use|Invite).Issue(c.Key, Use, now, 2*Life)
	if err != nil || !short.Expires().Equal(now.Add(Life)) {
		t.Errorf("it outlives its issuer's: %v, %v", short.Expires(), err)
	}
}

// No single bit of a signed object can be changed.
func TestEveryBitIsSigned(t *testing.T) {
	founder := issuer(t, 2, Use|Invite)
	cert := founder.mustIssue(t, 3, Use)
	list, err := founder.Revoke(Lists{}, nil, []Key{{1}, {2}}, now)
	if err != nil {
		t.Fatal(err)
	}
	bridge := testBridge(t)
	for name, o := range map[string]struct {
		raw   []byte
		check func([]byte) error
	}{
		"certificate": {cert.Marshal(), func(b []byte) error {
			c, err := ParseCertificate(b)
			if err == nil {
				err = c.Check(root.Root, keyPeer(3), now, Lists{})
			}
			return err
		}},
		"revocations": {list.Marshal(), func(b []byte) error {
			r, err := ParseRevocations(b)
			if err == nil {
				err = r.Check(root.Root, now, Lists{})
			}
			return err
		}},
		"bridge": {bridge.Marshal(), func(b []byte) error {
			r, err := ParseBridge(b)
			if err == nil {
				err = r.Check(now, Lists{})
			}
			if err == nil && r.Lender != root.Root {
				err = ErrForeign
			}
			return err
		}},
	} {
		if err := o.check(o.raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for i := range 8 * len(o.raw) {
			bad := slices.Clone(o.raw)
			bad[i/8] ^= 1 << (i % 8)
			if o.check(bad) == nil {
				t.Errorf("%s: bit %d of byte %d can be changed", name, i%8, i/8)
			}
		}
		for n := range o.raw {
			if o.check(o.raw[:n]) == nil {
				t.Errorf("%s: %d bytes are enough", name, n)
			}
		}
		if o.check(append(slices.Clone(o.raw), 0)) == nil {
			t.Errorf("%s: a byte can be added", name)
		}
	}
}

func TestRevocationLists(t *testing.T) {
	founder := issuer(t, 2, Use|Invite)
	first, err := founder.Revoke(Lists{}, nil, []Key{{9}, {1}, {9}}, now)
	if err != nil || first.Number != 1 || len(first.Keys) != 2 {
		t.Fatal(first, err)
	}
	have, news, err := Lists{}.With(first, root.Root, now)
	if err != nil || !news {
		t.Fatal(err)
	}
	second, err := root.Revoke(have, nil, []Key{{5}}, now.Add(time.Minute))
	if err != nil || second.Number != 1 || second.hasKey(Key{1}) || !second.hasKey(Key{5}) {
		t.Fatal(second, err)
	}
	have, news, err = have.With(second, root.Root, now.Add(time.Minute))
	if err != nil || !news || have.Of(first.Signer) != first || !have.HasKey(Key{1}) || !have.HasKey(Key{5}) {
		t.Fatal(have, news, err)
	}
	if again, news, err := have.Merge(have, root.Root, now.Add(time.Minute)); err != nil || news || !bytes.Equal(again.Marshal(), have.Marshal()) {
		t.Errorf("the same lists are news: %v", err)
	}
	third, err := founder.Revoke(have, nil, []Key{{7}}, now.Add(2*time.Minute))
	if err != nil || third.Number != 2 || third.hasKey(Key{5}) || !third.hasKey(Key{1}) {
		t.Fatal(third, err)
	}
	have, _, err = have.With(third, root.Root, now.Add(2*time.Minute))
	if err != nil || !have.HasKey(Key{5}) || !have.HasKey(Key{7}) {
		t.Errorf("an issuer took something back: %v", err)
	}
	back, err := ParseLists(have.Marshal())
	if err != nil || !bytes.Equal(back.Marshal(), have.Marshal()) || len(back.ByIssuers) != 1 || back.ByRoot == nil {
		t.Error(back, err)
	}
	if back, err := ParseLists(Lists{}.Marshal()); err != nil || len(back.all()) > 0 {
		t.Error(back, err)
	}
	for name, bad := range map[string]Lists{
		"an issuer's list passes as the root's": {ByRoot: third},
		"the root's list passes as an issuer's": {ByIssuers: []*Revocations{second}},
		"an issuer has two lists":               {ByIssuers: []*Revocations{first, third}},
	} {
		if _, err := ParseLists(bad.Marshal()); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	end := now.Add(2*time.Minute + Stale)
	if have.Stale(end) || !have.Stale(end.Add(time.Second)) || (Lists{}).Stale(end) {
		t.Error("stale at the wrong time")
	}
}

func TestWhoMaySignAList(t *testing.T) {
	founder, member := issuer(t, 2, Use|Invite), issuer(t, 3, Use)
	if _, err := member.Revoke(Lists{}, nil, nil, now); !errors.Is(err, ErrIssuer) {
		t.Errorf("a member without the role signs a list: %v", err)
	}
	other := Issuer{Root: PublicKey(keyOf(9)), Key: keyOf(9)}
	foreign, err := other.Revoke(Lists{}, nil, nil, now)
	if err != nil || !errors.Is(foreign.Check(root.Root, now, Lists{}), ErrForeign) {
		t.Errorf("a foreign list: %v", err)
	}
	list, err := founder.Revoke(Lists{}, nil, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Check(root.Root, now.Add(-time.Hour), Lists{}); !errors.Is(err, ErrEarly) {
		t.Errorf("a list of the future: %v", err)
	}
	old := *list
	old.Time = founder.Certificate.NotBefore.Add(-time.Second)
	old.Signature = sign(founder.Key, revocationsLabel, old.body())
	if err := old.Check(root.Root, now, Lists{}); !errors.Is(err, ErrEarly) {
		t.Errorf("a list from before its signer was an issuer: %v", err)
	}
	for name, i := range map[string]Issuer{"an issuer": founder, "the root": root} {
		if _, err := i.Revoke(Lists{}, nil, []Key{{1}, root.Root}, now); !errors.Is(err, ErrIssuer) {
			t.Errorf("%s revokes the root's key: %v", name, err)
		}
	}
	if _, err := founder.Revoke(Lists{}, []Serial{{1}}, nil, now); !errors.Is(err, ErrIssuer) {
		t.Errorf("an issuer revokes a bridge record: %v", err)
	}
}

// An issuer whose certificate has ended signs no list, whatever time it writes on
// it, and the lists that it has signed end, too. Another issuer has taken over
// what is in them.
func TestAListEndsWithItsSignersCertificate(t *testing.T) {
	gone, stays := issuer(t, 2, Use|Invite), issuer(t, 3, Use|Invite)
	stays.Certificate, _ = root.Renew(stays.Certificate, Use|Invite, now.Add(time.Hour), Life)
	victim := PublicKey(keyOf(4))
	list, err := gone.Revoke(Lists{}, nil, []Key{victim}, now)
	if err != nil {
		t.Fatal(err)
	}
	have, _, err := Lists{}.With(list, root.Root, now)
	if err != nil || !have.HasKey(victim) {
		t.Fatal(err)
	}
	end := now.Add(Life)
	backdated, err := gone.Revoke(have, nil, []Key{{1}}, now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if _, news, err := have.With(backdated, root.Root, end); news || !errors.Is(err, ErrExpired) {
		t.Errorf("a list with an old time is taken after the signer's end: %v", err)
	}
	if l, news, err := (Lists{}).Merge(have, root.Root, end); news || err != nil || l.HasKey(victim) {
		t.Errorf("a list that has ended, from another member: news %v, %v", news, err)
	}
	if keys := have.Ending(stays.Certificate.Key, end, -time.Minute); len(keys) > 0 {
		t.Errorf("taken over too early: %v", keys)
	}
	keys := have.Ending(stays.Certificate.Key, end, time.Minute)
	next, err := stays.Revoke(have, nil, keys, end)
	if err != nil {
		t.Fatal(err)
	}
	have, news, err := have.With(next, root.Root, end)
	if err != nil || !news || have.Of(gone.Certificate.Key) != nil || !have.HasKey(victim) {
		t.Errorf("%v: of the list that has ended %v is left; the victim is still revoked: %v", err, have.Of(gone.Certificate.Key), have.HasKey(victim))
	}
	if keys := have.Ending(stays.Certificate.Key, end, Life); len(keys) > 0 {
		t.Errorf("an issuer takes over what it has: %v", keys)
	}
}

// Whatever an issuer that has turned signs, the root's list that names it undoes
// all of it, and nothing of it stays.
func TestTheRootUndoesAnIssuersList(t *testing.T) {
	bad, good := issuer(t, 2, Use|Invite), issuer(t, 3, Use|Invite)
	founder, plain := root.mustIssue(t, 4, AllRoles), root.mustIssue(t, 5, Use)
	have := Lists{}
	take := func(r *Revocations, err error) {
		t.Helper()
		if err == nil {
			have, _, err = have.With(r, root.Root, now)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	take(good.Revoke(have, nil, []Key{{7}}, now))
	take(bad.Revoke(have, nil, []Key{founder.Key, good.Certificate.Key, plain.Key}, now))
	for name, c := range map[string]*Certificate{"the founder": founder, "an issuer": good.Certificate, "whom another issuer let in": good.mustIssue(t, 6, Use)} {
		if err := c.Check(root.Root, c.Peer(), now, have); err != nil {
			t.Errorf("an issuer removes %s: %v", name, err)
		}
	}
	if err := plain.Check(root.Root, plain.Peer(), now, have); !errors.Is(err, ErrRevoked) {
		t.Errorf("an issuer cannot cut off a member: %v", err)
	}
	take(root.Revoke(have, nil, nil, now))
	take(root.Revoke(have, nil, []Key{bad.Certificate.Key}, now))
	if err := plain.Check(root.Root, plain.Peer(), now, have); err != nil || have.Of(bad.Certificate.Key) != nil {
		t.Errorf("what a revoked issuer had revoked stays: %v", err)
	}
	if !have.HasKey(Key{7}) {
		t.Error("what another issuer had revoked is lost")
	}
}

func TestAListHasBounds(t *testing.T) {
	if _, err := root.Revoke(Lists{}, nil, slices.Repeat([]Key{{1}}, maxKeys+1), now); err != nil {
		t.Errorf("the same key often: %v", err)
	}
	keys, serials := make([]Key, maxKeys+1), make([]Serial, maxSerials+1)
	for i := range keys {
		keys[i] = Key{byte(i), byte(i >> 8)}
	}
	for i := range serials {
		serials[i] = Serial{byte(i), byte(i >> 8)}
	}
	founder := issuer(t, 2, Invite)
	for _, c := range []struct {
		by      Issuer
		serials int
		keys    int
		size    int
	}{{root, maxSerials, maxKeys, MaxRevocations}, {founder, 0, maxIssuerKeys, maxIssuerRevocations}} {
		full, err := c.by.Revoke(Lists{}, serials[:c.serials], keys[:c.keys], now)
		if err != nil {
			t.Fatal(err)
		}
		raw := full.Marshal()
		if back, err := ParseRevocations(raw); err != nil || len(back.Keys) != c.keys || len(raw) != c.size {
			t.Errorf("a full list of %d bytes: %v", len(raw), err)
		}
		if _, err := c.by.Revoke(Lists{}, serials[:c.serials], keys[:c.keys+1], now); !errors.Is(err, ErrMalformed) {
			t.Errorf("a key too many: %v", err)
		}
	}
	if _, err := root.Revoke(Lists{}, serials, nil, now); !errors.Is(err, ErrMalformed) {
		t.Errorf("a serial too many: %v", err)
	}
}

// Whatever the order in which lists arrive, all members end with the same, also
// if an issuer has turned and signs lists with the highest number, if issuers
// revoke each other, and if there are more issuers than lists are kept.
func TestMembersSettleOnTheSameLists(t *testing.T) {
	must := func(r *Revocations, err error) *Revocations {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	renumber := func(r *Revocations, i Issuer, number uint64) *Revocations {
		out := *r
		out.Number = number
		out.Signature = sign(i.Key, revocationsLabel, out.body())
		return &out
	}
	a, b := issuer(t, 2, Use|Invite), issuer(t, 3, Use|Invite)
	one := Lists{ByRoot: must(root.Revoke(Lists{}, nil, nil, now))}
	ofA := must(a.Revoke(one, nil, []Key{{1}, b.Certificate.Key}, now))
	ofB := must(b.Revoke(one, nil, []Key{a.Certificate.Key}, now))
	last := renumber(ofB, b, 1<<64-1)
	lists := []*Revocations{
		one.ByRoot, ofA, renumber(ofA, a, 2), ofB, renumber(ofB, b, 7), last,
		must(root.Revoke(one, nil, []Key{b.Certificate.Key}, now)),
	}
	if _, err := b.Revoke(Lists{ByIssuers: []*Revocations{last}}, nil, nil, now); err == nil {
		t.Error("a number follows the highest one")
	}
	for i := range maxIssuerLists {
		lists = append(lists, must(issuer(t, 10+i, Invite).Revoke(one, nil, []Key{{byte(i)}}, now)))
	}
	var want []byte
	for range 30 {
		rand.Shuffle(len(lists), func(i, j int) { lists[i], lists[j] = lists[j], lists[i] })
		var have Lists
		for range 2 { // what was refused or replaced comes again from another member
			for _, r := range lists {
				if next, _, err := have.With(r, root.Root, now); err == nil {
					have = next
				}
			}
		}
		if want == nil {
			want = have.Marshal()
		}
		if len(have.ByIssuers) != maxIssuerLists || have.ByRoot.Number != 2 || have.Of(b.Certificate.Key) != nil || !bytes.Equal(have.Marshal(), want) {
			t.Fatalf("%d lists by issuers, number %d by the root, of the revoked one %v", len(have.ByIssuers), have.ByRoot.Number, have.Of(b.Certificate.Key))
		}
		if back, err := ParseLists(want); err != nil || !bytes.Equal(back.Marshal(), want) {
			t.Fatal(err)
		}
	}
}

func testTicket(t testing.TB) *Ticket {
	relay := keyPeer(8)
	addrs := []multiaddr.Multiaddr{
		multiaddr.StringCast("/ip4/203.0.113.77/udp/4001/quic-v1"),
		multiaddr.StringCast("/ip4/198.51.100.9/udp/4001/quic-v1/p2p/" + relay.String() + "/p2p-circuit"),
	}
	ticket, err := NewTicket(root.Root.Swarm(), keyPeer(7), addrs, now.Add(24*time.Hour+time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestATicketIsTypedByPeople(t *testing.T) {
	ticket := testTicket(t)
	s := ticket.String()
	if len(s) != 241 || ticket.Short() != s[:8] {
		t.Errorf("%d letters, in logs %s", len(s), ticket.Short())
	}
	for _, typed := range []string{s, strings.ToLower(s), " " + s[:9] + "\r\n\t" + s[9:40] + "\u00a0 " + s[40:] + "\n"} {
		back, err := ParseTicket(typed)
		if err != nil {
			t.Fatal(err)
		}
		if back.String() != s || back.Secret != ticket.Secret || len(back.Addrs) != 2 || !back.Expires.Equal(ticket.Expires) {
			t.Errorf("%+v", back)
		}
	}
	if ticket.Expired(now.Add(24*time.Hour)) || !ticket.Expired(now.Add(24*time.Hour+time.Minute)) {
		t.Error("it expires at", ticket.Expires)
	}
}

func TestAChangedLetterIsCaught(t *testing.T) {
	s := testTicket(t).String()
	for i := range s {
		for _, r := range "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-ſı" {
			if rune(s[i]) == r {
				continue
			}
			if _, err := ParseTicket(s[:i] + string(r) + s[i+1:]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%c in place %d: %v", r, i, err)
			} else if strings.Contains(err.Error(), s[20:40]) {
				t.Error("the error tells the code")
			}
		}
		if _, err := ParseTicket(s[:i]); err == nil {
			t.Errorf("%d letters are enough", i)
		}
		if _, err := ParseTicket(s[:i] + s[i+1:]); err == nil {
			t.Errorf("letter %d is not needed", i)
		}
	}
	if _, err := ParseTicket(s + strings.Repeat(" ", maxTicketText)); err == nil {
		t.Error("it may be as long as it likes")
	}
}

func TestATicketHasRoomForThreeAddresses(t *testing.T) {
	addrs := slices.Repeat([]multiaddr.Multiaddr{multiaddr.StringCast("/dns4/" + strings.Repeat("a", 240) + "/tcp/1")}, 4)
	long := multiaddr.StringCast("/dns4/" + strings.Repeat("a", 255) + "/tcp/1")
	ticket, err := NewTicket(root.Root.Swarm(), keyPeer(7), append([]multiaddr.Multiaddr{long}, addrs...), now)
	if err != nil || len(ticket.Addrs) != MaxTicketAddrs {
		t.Fatal(len(ticket.Addrs), err)
	}
	if back, err := ParseTicket(ticket.String()); err != nil || len(back.Addrs) != MaxTicketAddrs || !back.Addrs[0].Equal(addrs[0]) {
		t.Errorf("%v", err)
	}
}

func TestAProofIsOfOnePairOfPeers(t *testing.T) {
	ticket, other := testTicket(t), testTicket(t)
	a, b, c := keyPeer(1), keyPeer(2), keyPeer(3)
	proof := ticket.Secret.Proof(ticket.Swarm, a, b)
	if !ticket.Secret.Proves(proof, ticket.Swarm, a, b) {
		t.Error("a right proof is refused")
	}
	for name, ok := range map[string]bool{
		"another joiner":  ticket.Secret.Proves(proof, ticket.Swarm, c, b),
		"another inviter": ticket.Secret.Proves(proof, ticket.Swarm, a, c),
		"both swapped":    ticket.Secret.Proves(proof, ticket.Swarm, b, a),
		"another secret":  other.Secret.Proves(proof, ticket.Swarm, a, b),
		"another swarm":   ticket.Secret.Proves(proof, SwarmID{1}, a, b),
		"cut":             ticket.Secret.Proves(proof[:31], ticket.Swarm, a, b),
		"none":            ticket.Secret.Proves(nil, ticket.Swarm, a, b),
	} {
		if ok {
			t.Error(name)
		}
	}
}

func modelOf(i int) cid.Cid {
	sum, err := multihash.Sum([]byte{byte(i)}, multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, sum)
}

func testBridge(t testing.TB) *BridgeRecord {
	b, err := SignBridge(rootKey, BridgeRecord{
		Guest: PublicKey(keyOf(9)), Number: 3, Roles: Use, NotBefore: now, NotAfter: now.Add(Life), TokensPerDay: 1e6,
		Models: []cid.Cid{modelOf(2), modelOf(1), modelOf(2)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestABridgeRecord(t *testing.T) {
	b := testBridge(t)
	if len(b.Marshal()) != 156+2*37 {
		t.Errorf("%d bytes", len(b.Marshal()))
	}
	if !b.Allows(modelOf(1)) || b.Allows(modelOf(3)) {
		t.Error("it allows other models")
	}
	next, err := SignBridge(rootKey, BridgeRecord{Guest: b.Guest, Number: 4, Roles: Use, NotBefore: now, NotAfter: now.Add(Life)})
	if err != nil || !next.Allows(modelOf(3)) || !next.Supersedes(b) || b.Supersedes(next) || !b.Supersedes(nil) || next.Serial() == b.Serial() {
		t.Errorf("the next record: %v", err)
	}
	revoked, err := root.Revoke(Lists{}, []Serial{b.Serial()}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Check(now, Lists{ByRoot: revoked}); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	if err := next.Check(now, Lists{ByRoot: revoked}); err != nil {
		t.Errorf("the next one, with the one before revoked: %v", err)
	}
	if err := b.Check(now.Add(Life), Lists{}); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	if err := b.Check(now.Add(-time.Hour), Lists{}); !errors.Is(err, ErrEarly) {
		t.Errorf("too early: %v", err)
	}
	for _, bad := range []BridgeRecord{{Roles: 0}, {Roles: Use | Invite}, {Roles: Bridge}, {Roles: Use, Guest: root.Root}} {
		if bad.Guest == (Key{}) {
			bad.Guest = b.Guest
		}
		bad.NotBefore, bad.NotAfter = now, now.Add(time.Hour)
		if _, err := SignBridge(rootKey, bad); !errors.Is(err, ErrRoles) {
			t.Errorf("roles %s: %v", bad.Roles, err)
		}
	}
}

func TestAMembershipIsReadByMembersOnly(t *testing.T) {
	view, err := NewView()
	if err != nil {
		t.Fatal(err)
	}
	private, err := crypto.UnmarshalEd25519PrivateKey(keyOf(3))
	if err != nil {
		t.Fatal(err)
	}
	plain := &Membership{Certificate: root.mustIssue(t, 3, Use)}
	chained := &Membership{Certificate: issuer(t, 2, Use|Invite).mustIssue(t, 3, Use)}
	helper, err := chained.Certificate.Vouch(private, keyPeer(8))
	if err != nil {
		t.Fatal(err)
	}
	var ones [8]int
	for i, m := range []*Membership{plain, chained, helper} {
		sealed, err := view.Seal(m)
		if err != nil || len(sealed) != SealedSize || SealedSize != 484 {
			t.Fatalf("%d bytes, %v", len(sealed), err)
		}
		back, err := view.Open(sealed)
		if err != nil || !bytes.Equal(back.Certificate.Marshal(), m.Certificate.Marshal()) || !bytes.Equal(back.Vouch, m.Vouch) {
			t.Errorf("%v", err)
		}
		for p, want := range map[int]bool{3: i < 2, 8: i == 2, 7: false} {
			if err := back.Check(root.Root, keyPeer(p), now, Lists{}); (err == nil) != want {
				t.Errorf("membership %d, peer %d: %v", i, p, err)
			}
		}
		if _, err := (View{1}).Open(sealed); !errors.Is(err, ErrForeign) {
			t.Errorf("with another key: %v", err)
		}
		sealed[100]++
		if _, err := view.Open(sealed); !errors.Is(err, ErrForeign) {
			t.Errorf("damaged: %v", err)
		}
		if _, err := view.Open(sealed[1:]); !errors.Is(err, ErrMissing) {
			t.Errorf("cut: %v", err)
		}
	}
	// Each bit of each byte is set in half of many sealed memberships: 200 of
	// 484 bytes, so a bit's share is 0.5 within 0.0016 (one standard deviation).
	const times = 200
	seen := map[string]bool{}
	for range times {
		sealed, err := view.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+8 <= len(sealed); i += 4 {
			seen[string(sealed[i:i+8])] = true
		}
		for _, b := range sealed {
			for bit := range ones {
				ones[bit] += int(b >> bit & 1)
			}
		}
	}
	for bit, n := range ones {
		if share := float64(n) / (times * SealedSize); share < 0.48 || share > 0.52 {
			t.Errorf("bit %d is set in %.3f of the bytes", bit, share)
		}
	}
	if want := times * (SealedSize/4 - 1); len(seen) != want {
		t.Errorf("%d of %d runs of eight bytes are different: some are constant", len(seen), want)
	}
}

// TestBytesStay: other implementations, and nodes that have been running for a
// while, read these bytes. A change of them is a new version of the object.
func TestBytesStay(t *testing.T) {
	founder := &Certificate{
		Swarm: root.Root.Swarm(), Serial: Serial{1, 2}, Roles: Use | Invite, NotBefore: now, NotAfter: now.Add(Life), Key: PublicKey(keyOf(2)), Issuer: root.Root,
	}
	founder.Signature = sign(rootKey, certificateLabel, founder.body())
	c := &Certificate{Swarm: founder.Swarm, Serial: Serial{3}, Roles: Use, NotBefore: now, NotAfter: now.Add(Life), Key: PublicKey(keyOf(3)), Issuer: founder.Key, Chain: founder}
	c.Signature = sign(keyOf(2), certificateLabel, c.body())
	list, err := (Issuer{Root: root.Root, Key: keyOf(2), Certificate: founder}).Revoke(Lists{}, nil, []Key{{9}, {4}}, now)
	if err != nil {
		t.Fatal(err)
	}
	ticket := testTicket(t)
	ticket.Secret = Secret{1, 2, 3}
	bridge := testBridge(t)
	serial := bridge.Serial()
	for _, o := range []struct {
		name  string
		bytes []byte
		want  string // the first half of their SHA-256
	}{
		{"certificate", c.Marshal(), "e98508309c448d2f7a81ff67cdc4bbd5"},
		{"revocations", list.Marshal(), "78a2c446733012763ec8c4a44a372857"},
		{"lists", Lists{ByIssuers: []*Revocations{list}}.Marshal(), "37944ceb49aa71e871287580b959a31d"},
		{"bridge record", bridge.Marshal(), "99caec2d6563a8bcbbe4498d4c5d6e47"},
		{"its serial", serial[:], "1bea52f366d1f7d07112522aaac4a5cd"},
		{"ticket", []byte(ticket.String()), "6ff18bb40e28b0320e29f0bb1a9a0aa3"},
		{"proof", ticket.Secret.Proof(ticket.Swarm, keyPeer(3), keyPeer(7)), "c504378dcac16117e8c5a0129f1ab86b"},
		{"view", (View{7}).Derive("label"), "cba351614ed0f33f9ec969a64d40e557"},
	} {
		if got := fmt.Sprintf("%x", sha256.Sum256(o.bytes))[:32]; got != o.want {
			t.Errorf("%s: %s, want %s", o.name, got, o.want)
		}
	}
}

func TestKeysAndIDs(t *testing.T) {
	p := keyPeer(3)
	if k, err := KeyOf(p); err != nil || k.Peer() != p || len(k.String()) != 64 {
		t.Errorf("%v", err)
	}
	if _, err := KeyOf("no peer"); err == nil {
		t.Error("a peer without a key")
	}
	id := root.Root.Swarm()
	if back, err := ParseSwarmID(id.String()); err != nil || back != id {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", id.String()[1:], strings.ToUpper(id.String()), id.String() + "00", fmt.Sprintf("%032s", "x")} {
		if _, err := ParseSwarmID(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
