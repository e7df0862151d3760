package swarm

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	mh "github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

func addrsOf(list ...string) (out []multiaddr.Multiaddr) {
	for _, s := range list {
		out = append(out, multiaddr.StringCast(s))
	}
	return out
}

const (
	aRelay = "/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
	aFront = "/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
)

var (
	plainAddrs = addrsOf("/ip4/5.0.0.1/tcp/1", "/ip6/2a00::1/udp/2/quic-v1", "/ip4/5.0.0.1/udp/1/quic-v1"+aRelay+"/p2p-circuit", "/ip6/2a00::1/tcp/1"+aRelay+"/p2p-circuit", "/ip4/5.0.0.1/udp/1/quic-v1"+aRelay+"/p2p-circuit"+aFront+"/p2p-circuit")
	oddAddrs   = addrsOf("/ip4/127.0.0.1/unix/x", "/unix/x", "/dns4/a.example/tcp/1", "/ip4/5.0.0.1", "/ip4/5.0.0.1/udp/1", "/ip4/5.0.0.1/udp/1/quic", "/ip4/5.0.0.1/tcp/1/ws",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1", "/ip4/5.0.0.1/tcp/1"+aRelay, aRelay, aRelay+"/p2p-circuit", "/p2p-circuit", "/ip4/5.0.0.1/tcp/1"+aRelay+"/p2p-circuit"+aFront+"/p2p-circuit"+aFront+"/p2p-circuit", "/ip4/5.0.0.1/tcp/1"+aRelay+"/p2p-circuit"+aFront, "/ip4/5.0.0.1/tcp/1/http-path/a", "/dnsaddr/a.example")
)

func TestPlain(t *testing.T) {
	for _, a := range append(plainAddrs, nil) {
		if plain(a) != (a != nil) {
			t.Errorf("%v is plain: %v", a, plain(a))
		}
		if direct(a) != (a != nil && !strings.Contains(a.String(), "circuit")) {
			t.Errorf("%v is direct: %v", a, direct(a))
		}
	}
	long, err := mh.Sum(make([]byte, maxAddr), mh.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range append(oddAddrs, multiaddr.StringCast("/ip4/5.0.0.1/tcp/1/p2p/"+long.B58String()+"/p2p-circuit")) {
		if plain(a) || direct(a) {
			t.Errorf("%s is plain", a)
		}
	}
}

// issued is the certificate of another member of a swarm that was founded here.
func issued(t *testing.T, s *Swarm) *member.Certificate {
	t.Helper()
	_, id, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := member.KeyOf(id)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.certify(key, member.Use, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An odd address that a member has, that another tells of it, or that is in the file keeps
// no node from being in its swarm; the good ones beside it are kept.
func TestOddAddresses(t *testing.T) {
	anna := newMachine(t, "anna")
	home := anna.found("lab")
	all := append(slices.Clone(oddAddrs), plainAddrs...)
	var raw [][]byte
	for _, a := range all {
		raw = append(raw, a.Bytes())
	}
	own, told, kept := issued(t, home), issued(t, home), issued(t, home)
	home.learn(own, "own", all)
	home.hear(&protocol.SwarmPeer{Certificate: told.Marshal(), Addrs: raw}, time.Now())
	file := marshalMembers(map[peer.ID]*known{kept.Peer(): {Certificate: kept, Addrs: all[len(all)-maxAddrs:], Reached: addrsOf("/ip4/5.0.0.1/unix/x", "/ip4/5.0.0.1/tcp/9")}})
	members, err := parseMembers(file, home.about.Root)
	if err != nil {
		t.Fatal(err)
	}
	if got := members[kept.Peer()].Reached; len(got) != 1 || got[0].String() != "/ip4/5.0.0.1/tcp/9" {
		t.Errorf("of addresses at which a member was reached, the file has %v", got)
	}
	for p, m := range members {
		home.members[p] = m
	}
	for _, c := range []*member.Certificate{own, told, kept} {
		if m := home.members[c.Peer()]; m == nil || !slices.EqualFunc(m.Addrs, plainAddrs, multiaddr.Multiaddr.Equal) {
			t.Errorf("of a member's addresses are kept %v", m)
		}
	}
	delete(home.members, kept.Peer())
	for _, m := range home.members { // nobody is dialled elsewhere
		m.Addrs = nil
	}
	odd := strings.Replace(string(marshalMembers(home.members)), `"name": "own"`, `"name": "own", "addrs": ["/ip4/127.0.0.1/unix/x", "x", ""], "reached": ["/ip4/127.0.0.1/unix/x", "/ip4/127.0.0.1/tcp/1"]`, 1)
	if err := os.WriteFile(home.path(membersFile), []byte(odd), 0o600); err != nil {
		t.Fatal(err)
	}
	anna.reopen()
	if anna.runs(); !anna.Swarms()[0].State().Running || len(anna.Swarms()[0].Members()) != 3 {
		t.Errorf("after a start: %+v", anna.Swarms()[0].State())
	}
}

// What members claim of their addresses is not taken for the operator's word; only an
// address at which a member was reached is, or where the code for the swarm leads.
func TestClaims(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	claims := addrsOf("/ip4/10.0.0.9/tcp/22", "/ip4/5.0.0.1/tcp/1", "/ip4/5.0.0.2/udp/1/quic-v1", "/ip4/5.0.0.3/tcp/1", "/ip4/5.0.0.4/tcp/1", "/ip4/5.0.0.4/udp/1/quic-v1"+aRelay+"/p2p-circuit")
	c := issued(t, home)
	home.learn(c, "", claims)
	operator := []string{"/ip4/127.0.0.1/tcp/1/p2p/" + c.Peer().String()}
	cfg := home.Network(network.Config{Bootstrap: append(operator, "/ip4/127.0.0.1/tcp/1"+aRelay)}) // the latter is no member
	if !slices.Equal(cfg.Bootstrap, operator) || len(cfg.Reached) != 0 || len(cfg.Claimed) != 1 || len(cfg.Claimed[0].Addrs) > member.MaxTicketAddrs {
		t.Errorf("a network looks for %v, %v, %v", cfg.Bootstrap, cfg.Reached, cfg.Claimed)
	}
	m := home.members[c.Peer()]
	m.trustCode(addrsOf("/ip4/5.0.0.2/udp/7/quic-v1", "/ip4/10.0.0.9/udp/7/quic-v1"+aRelay+"/p2p-circuit"))
	m.reach(claims[len(claims)-1]) // over a relay, it is nobody's own
	if cfg = home.Network(network.Config{}); len(cfg.Reached) != 1 || len(cfg.Reached[0].Addrs) != 1 || !cfg.Reached[0].Addrs[0].Equal(claims[2]) {
		t.Errorf("reached are %v", cfg.Reached)
	}
	for _, a := range claims {
		m.reach(a)
	}
	if got := m.Reached; len(got) != maxReached || !got[0].Equal(claims[4]) {
		t.Errorf("reached are %v", got)
	}
	for range maxLook + 1 {
		home.learn(issued(t, home), "", claims)
	}
	one, two := home.Network(network.Config{}).Claimed, home.Network(network.Config{}).Claimed
	if len(one) != maxLook || slices.EqualFunc(one, two, func(a, b peer.AddrInfo) bool { return a.ID == b.ID }) {
		t.Errorf("%d members are looked for, always in the same order", len(one))
	}
}

// What is written down of as many members as are remembered, each with as many addresses,
// can be read again.
func TestAllMembersFitIntoTheirFile(t *testing.T) {
	s := newMachine(t, "anna").found("lab")
	inviter, key := somebody(t)
	bad := member.Issuer{Root: s.about.Root, Key: key, Certificate: letIn(t, s, inviter, member.Use|member.Invite)}
	c, err := bad.Issue(member.Key{1}, member.Use, time.Now(), member.Life)
	if err != nil {
		t.Fatal(err)
	}
	m := &known{
		Certificate: c, Name: strings.Repeat("x", protocol.MaxMachineName), Seen: time.Now().UTC(),
		Addrs:   slices.Repeat(addrsOf("/ip6/2001:db8:1111:2222:3333:4444:5555:6666/udp/65535/quic-v1"+aRelay+"/p2p-circuit"+aFront+"/p2p-circuit"), maxAddrs),
		Reached: slices.Repeat(addrsOf("/ip6/2001:db8:1111:2222:3333:4444:5555:6666/udp/65535/quic-v1"), maxReached),
	}
	if n := len(marshalMembers(map[peer.ID]*known{"": m})); n*maxMembers > maxFile {
		t.Errorf("%d members of %d bytes in a file of %d", maxMembers, n, maxFile)
	}
}

// Of the bootstrap addresses, a network gets those of members that are known and not
// revoked, unless a relay on the way would see the swarm's key and is no member; and those
// that it must report because they cannot be parsed.
func TestBootstrapOfMembers(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	fellow, gone := issued(t, home), issued(t, home)
	home.learn(fellow, "", nil)
	home.learn(gone, "", nil)
	if _, _, err := home.Revoke(gone.Peer().String()); err != nil {
		t.Fatal(err)
	}
	is := "/p2p/" + fellow.Peer().String()
	relay := "/ip4/5.0.0.1/udp/1/quic-v1" + aRelay + "/p2p-circuit"
	kept := []string{" /dns4/a.example/tcp/1" + is, "/ip4/5.0.0.2/tcp/1" + is + "/p2p-circuit" + is, relay + aFront + "/p2p-circuit" + is, "nonsense", "/ip4/5.0.0.1/tcp/1", ""}
	others := []string{"/ip4/5.0.0.1/tcp/1" + aRelay, "/ip4/5.0.0.1/tcp/1/p2p/" + gone.Peer().String(), "/ip4/5.0.0.1/tcp/1/p2p/" + home.Self().String(), relay + is, relay + aFront + "/p2p-circuit" + aRelay}
	if cfg := home.Network(network.Config{Bootstrap: append(others, kept...)}); !slices.Equal(cfg.Bootstrap, kept) {
		t.Errorf("it dials %q, want %q", cfg.Bootstrap, kept)
	}
}
