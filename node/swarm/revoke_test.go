package swarm

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// knocks asks a swarm to let a peer in with a code.
func knocks(s *Swarm, p peer.ID, ticket *member.Ticket) *protocol.JoinReply {
	id := s.ID()
	return s.redeem(p, &protocol.JoinRequest{Swarm: id[:], Proof: proofKey(ticket.Secret).Proof(id, p, s.Self())})
}

// letIn returns the certificate that a peer gets from a swarm with a code of its own.
func letIn(t *testing.T, s *Swarm, p peer.ID, roles member.Roles) *member.Certificate {
	t.Helper()
	ticket, err := s.Invite(t.Context(), Terms{Roles: roles, Uses: 1, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c, err := member.ParseCertificate(knocks(s, p, ticket).Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// somebody returns a peer ID, and its key.
func somebody(t *testing.T) (peer.ID, ed25519.PrivateKey) {
	t.Helper()
	key, id, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.Raw()
	if err != nil {
		t.Fatal(err)
	}
	return id, raw
}

// Who is revoked stays out, also with a certificate of another inviter, with the rest of a
// code under another key, and if the founder has never met it.
func TestNoWayBack(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	inviter, key := somebody(t)
	cert := letIn(t, home, inviter, member.Use|member.Invite)
	other := member.Issuer{Root: home.about.Root, Key: key, Certificate: cert}

	ben, _ := somebody(t)
	many, err := home.Invite(t.Context(), Terms{Roles: member.Use, Uses: 5, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if r := knocks(home, ben, many); r.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_NONE {
		t.Fatal(r.Refusal)
	}
	k, err := member.KeyOf(ben)
	if err != nil {
		t.Fatal(err)
	}
	second, err := other.Issue(k, member.Use, time.Now(), member.Life)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := home.Revoke(ben.String()); err != nil {
		t.Fatal(err)
	}
	if err := second.Check(home.about.Root, ben, time.Now(), home.lists); !errors.Is(err, member.ErrRevoked) {
		t.Errorf("with a certificate of another inviter: %v", err)
	}
	again, _ := somebody(t)
	if r := knocks(home, again, many); r.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_EXPIRED {
		t.Errorf("under another key: %s", r.Refusal)
	}
	if r := knocks(home, ben, many); r.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_EXPIRED {
		t.Errorf("with the code that it has used before: %s", r.Refusal)
	}

	unmet, _ := somebody(t)
	if k, err = member.KeyOf(unmet); err != nil {
		t.Fatal(err)
	}
	third, err := other.Issue(k, member.Use, time.Now(), member.Life)
	if err != nil {
		t.Fatal(err)
	}
	if m, _, err := home.Revoke(unmet.String()); err != nil || m.Peer != unmet || !m.Revoked {
		t.Fatal(m, err)
	}
	if err := third.Check(home.about.Root, unmet, time.Now(), home.lists); !errors.Is(err, member.ErrRevoked) {
		t.Errorf("a member whom the founder never met: %v", err)
	}
	fresh, err := home.Invite(t.Context(), once)
	if err != nil {
		t.Fatal(err)
	}
	if r := knocks(home, unmet, fresh); r.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_REVOKED {
		t.Errorf("it comes with a code: %s", r.Refusal)
	}
}

// An inviter that turns can remove neither the founder nor other inviters, by lists or by
// serials of its choice. The founder removes it, and what it has done to others is undone.
func TestBadInviter(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	evil, key := somebody(t)
	good, _ := somebody(t)
	plain, _ := somebody(t)
	goodCert := letIn(t, home, good, member.Use|member.Invite)
	plainCert := letIn(t, home, plain, member.Use)
	bad := member.Issuer{Root: home.about.Root, Key: key, Certificate: letIn(t, home, evil, member.Use|member.Invite)}

	// It shows certificates of its own with the serials of others.
	k, err := member.KeyOf(evil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []member.Serial{home.cert.Serial, plainCert.Serial} {
		fake, err := bad.Renew(&member.Certificate{Serial: s, Key: k}, member.Use, time.Now(), 2*member.Life)
		if err != nil {
			t.Fatal(err)
		}
		home.learn(fake, "evil", nil)
	}
	own, err := member.KeyOf(home.Self())
	if err != nil {
		t.Fatal(err)
	}
	list, err := bad.Revoke(home.lists, nil, []member.Key{own, goodCert.Key, plainCert.Key}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := home.install(listsOf(list)); err != nil {
		t.Fatal(err)
	}
	if !home.member() || home.lists.Has(goodCert) || !home.lists.Has(plainCert) {
		t.Errorf("founder %v, inviter removed %v, member removed %v", home.member(), home.lists.Has(goodCert), home.lists.Has(plainCert))
	}
	home.book.cfg.Now = func() time.Time { return time.Now().Add(2 * refreshTime) }
	if err := home.refresh(home.book.cfg.Now()); err != nil { // the root's list takes over nothing
		t.Fatal(err)
	}
	m, also, err := home.Revoke(evil.String())
	if err != nil || !m.Revoked || len(also) > 0 {
		t.Fatal(m, also, err)
	}
	if !home.member() || home.lists.Has(plainCert) || home.lists.Has(goodCert) || !home.lists.Has(bad.Certificate) {
		t.Errorf("afterwards: founder %v, member removed %v, inviter removed %v", home.member(), home.lists.Has(plainCert), home.lists.Has(goodCert))
	}
	if err := home.install(listsOf(list)); !errors.Is(err, member.ErrRevoked) {
		t.Errorf("its list comes again: %v", err)
	}
}

// An inviter without the root key removes no other inviter, and says so.
func TestInvitersAreTheRootsToRemove(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	good, _ := somebody(t)
	letIn(t, home, good, member.Use|member.Invite)
	home.rootKey = nil // as if it was kept elsewhere
	if _, _, err := home.Revoke(good.String()); !errors.Is(err, ErrMayNot) {
		t.Error(err)
	}
	ben, _ := somebody(t)
	c := letIn(t, home, ben, member.Use)
	if _, _, err := home.Revoke(ben.String()); err != nil || !home.lists.Has(c) {
		t.Error(err)
	}
}

// What an inviter has revoked holds after the inviter's certificate has ended: a node that
// signs lists takes it over, as a member and not with the root key.
func TestListsAreTakenOver(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	inviter, key := somebody(t)
	other := member.Issuer{Root: home.about.Root, Key: key, Certificate: letIn(t, home, inviter, member.Use|member.Invite)}
	ben, _ := somebody(t)
	c := letIn(t, home, ben, member.Use)
	list, err := other.Revoke(home.lists, nil, []member.Key{c.Key, home.cert.Key}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := home.install(listsOf(list)); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(member.RenewAfter + time.Hour)
	home.book.cfg.Now = func() time.Time { return at }
	renewed, err := member.Issuer{Root: home.about.Root, Key: home.rootKey}.Renew(home.cert, home.cert.Roles, at, member.Life)
	if err != nil {
		t.Fatal(err)
	}
	if err := home.keepCertificate(renewed); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := home.refresh(at); err != nil {
			t.Fatal(err)
		}
	}
	if r := home.lists.Of(home.cert.Key); r == nil || r.Number != 1 || len(home.lists.ByRoot.Keys) > 0 {
		t.Fatalf("taken over into %+v and %+v", r, home.lists.ByRoot)
	}
	at = time.Now().Add(member.Life + time.Hour)
	if err := home.refresh(at); err != nil {
		t.Fatal(err)
	}
	if home.lists.Of(other.Certificate.Key) != nil || !home.lists.Has(c) || !home.member() {
		t.Errorf("after the inviter's end: member removed %v, founder %v", home.lists.Has(c), home.member())
	}
}

// A code that was given to the wrong person is withdrawn by the code.
func TestWithdraw(t *testing.T) {
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	home, another := anna.found("lab"), ben.found("lab")
	ticket, err := home.Invite(t.Context(), once)
	if err != nil {
		t.Fatal(err)
	}
	if err := another.Withdraw(ticket); !errors.Is(err, ErrNotOurs) {
		t.Errorf("another's code: %v", err)
	}
	slip := ticket.String()[1:]
	if _, err := Owned(anna.Book).Revoke("", slip); !errors.Is(err, ErrCode) || strings.Contains(err.Error(), slip[8:20]) {
		t.Errorf("a code with a slip: %v", err)
	}
	r, err := Owned(anna.Book).Revoke("", strings.ToLower(ticket.String()))
	if err != nil || r.Code != ticket.Short() || home.State().Codes != 0 {
		t.Errorf("%v: withdrawn %+v, %d codes are out", err, r, home.State().Codes)
	}
	anna.reopen()
	home = anna.Swarms()[0]
	p, _ := somebody(t)
	if r := knocks(home, p, ticket); r.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_EXPIRED {
		t.Error(r.Refusal)
	}
	if slices.ContainsFunc(home.Members(), func(m Member) bool { return m.Peer == p }) {
		t.Error("it is a member")
	}
}
