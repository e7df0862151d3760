package swarm

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/protocol/member"
)

func TestTicketAddrs(t *testing.T) {
	const (
		relayed = "/ip4/198.51.100.9/udp/4001/quic-v1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit"
		public4 = "/ip4/5.0.0.1/udp/4001/quic-v1"
		public6 = "/ip6/2a00::1/udp/4001/quic-v1"
		lan     = "/ip4/192.168.1.5/udp/4001/quic-v1"
		docker  = "/ip4/172.17.0.1/udp/4001/quic-v1"
		here    = "/ip4/127.0.0.1/udp/4001/quic-v1"
	)
	for _, c := range []struct{ in, want []string }{
		{[]string{here, lan, public6, public4, relayed}, []string{public4, public6, relayed}},
		{[]string{here, lan, docker, relayed}, []string{relayed, lan, docker}},
		{[]string{here, lan}, []string{lan}},
		{[]string{here}, []string{here}},
		{nil, nil},
	} {
		var in []multiaddr.Multiaddr
		for _, s := range c.in {
			in = append(in, multiaddr.StringCast(s))
		}
		var got []string
		for _, a := range ticketAddrs(in) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("of %v a code has %v, want %v", c.in, got, c.want)
		}
	}
	got := dialled([]multiaddr.Multiaddr{multiaddr.StringCast(lan), multiaddr.StringCast(relayed)})
	if len(got) != 4 || got[2].String() != "/ip4/192.168.1.5/tcp/4001" {
		t.Errorf("a joiner dials %v", got)
	}
}

// Attempts are bounded per address, and per network for IPv6.
func TestAdmit(t *testing.T) {
	d, now := &door{callers: map[netip.Prefix]*rate.Limiter{}}, time.Now()
	try := func(addr string) (let int) {
		for range 3 * attempts {
			if d.admit(multiaddr.StringCast(addr), now) {
				let++
			}
		}
		return let
	}
	for _, c := range []struct {
		addr string
		want int
	}{
		{"/ip4/5.0.0.1/tcp/1", attempts}, {"/ip4/5.0.0.1/udp/2/quic-v1", 0}, {"/ip4/5.0.0.2/tcp/1", attempts},
		{"/ip6/2a00::1/tcp/1", attempts}, {"/ip6/2a00::ffff/tcp/1", 0}, {"/ip6/2a00:0:0:1::1/tcp/1", attempts},
	} {
		if got := try(c.addr); got != c.want {
			t.Errorf("%s: %d attempts, want %d", c.addr, got, c.want)
		}
	}
	if now = now.Add(attemptRest); !d.admit(multiaddr.StringCast("/ip4/5.0.0.1/tcp/1"), now) {
		t.Error("an address is shut out for good")
	}
}

// A certificate is renewed when two thirds of its life are over, or its issuer's is about
// to end.
func TestDue(t *testing.T) {
	_, root, _ := ed25519.GenerateKey(rand.Reader)
	_, issuer, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Now()
	top := member.Issuer{Root: member.PublicKey(root), Key: root}
	up, err := top.Issue(member.PublicKey(issuer), member.AllRoles, now, member.Life)
	if err != nil {
		t.Fatal(err)
	}
	late := now.Add(50 * 24 * time.Hour)
	down, err := member.Issuer{Root: top.Root, Key: issuer, Certificate: up}.Issue(member.PublicKey(root), member.Use, late, member.Life)
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	for _, c := range []struct {
		of   *member.Certificate
		at   time.Duration
		want bool
	}{{up, 0, false}, {up, 59 * day, false}, {up, 60 * day, true}, {down, 50 * day, false}, {down, 59 * day, false}, {down, 61 * day, true}} {
		if got := due(c.of, now.Add(c.at)); got != c.want {
			t.Errorf("after %s: due %v", c.at, got)
		}
	}
}

// Two issuers revoke different members at the same moment. Both members end
// up revoked.
func TestRevokedAtOnce(t *testing.T) {
	anna := newMachine(t, "anna")
	root := anna.found("lab")
	issue := func(roles member.Roles) (*Swarm, *member.Certificate) {
		key, id, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		k, err := member.KeyOf(id)
		if err != nil {
			t.Fatal(err)
		}
		c, err := root.certify(k, roles, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s := &Swarm{book: anna.Book, dir: t.TempDir(), log: anna.Book.cfg.Log, key: key, self: id, about: root.about, cert: c, lists: root.lists, members: root.members}
		return s, c
	}
	one, _ := issue(member.Invite | member.Use)
	two, _ := issue(member.Invite | member.Use)
	_, x := issue(member.Use)
	_, y := issue(member.Use)
	root.learn(x, "x", nil)
	root.learn(y, "y", nil)
	if _, _, err := one.Revoke("x"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := two.Revoke("y"); err != nil {
		t.Fatal(err)
	}
	a, b := one.lists, two.lists
	if err := errors.Join(one.install(b), two.install(a)); err != nil {
		t.Error(err)
	}
	for _, s := range []*Swarm{one, two} {
		if !s.lists.Has(x) || !s.lists.Has(y) {
			t.Errorf("x revoked: %v, y revoked: %v", s.lists.Has(x), s.lists.Has(y))
		}
	}
}
