package network

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// testBridge is a bridge between two swarms.
type testBridge struct {
	lender, guest *testSwarm
	record        *member.BridgeRecord
	view          member.View
}

func newTestBridge(t testing.TB, change func(*member.BridgeRecord)) *testBridge {
	t.Helper()
	b := &testBridge{lender: newTestSwarm(t), guest: newTestSwarm(t)}
	b.record = b.sign(t, 1, change)
	b.view = b.lender.view.Bridge(b.guest.Root)
	return b
}

func (b *testBridge) sign(t testing.TB, number uint64, change func(*member.BridgeRecord)) *member.BridgeRecord {
	t.Helper()
	r := member.BridgeRecord{Guest: b.guest.Root, Number: number, Roles: member.Use, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	if change != nil {
		change(&r)
	}
	signed, err := member.SignBridge(b.lender.Key, r)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// of is what makes a network the bridge's for a member of one of the swarms.
func (b *testBridge) of(s *testSwarm, c *member.Certificate, key crypto.PrivKey) *Swarm {
	return &Swarm{Root: s.Root, View: b.view, Certificate: c, Bridge: &Bridge{Record: b.record, Member: key}}
}

// join starts a node of a member of one of the swarms on loopback that knows the given ones.
func (b *testBridge) join(t testing.TB, s *testSwarm, roles member.Roles, boot ...*Network) *Network {
	t.Helper()
	key := newKey(t)
	cfg := Config{
		Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Version: "test",
		Swarm: b.of(s, s.certify(t, key, roles, time.Hour), key),
	}
	for _, n := range boot {
		cfg.Bootstrap = append(cfg.Bootstrap, n.FullAddrs()...)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// roll is what a host with this key shows as a member.
func (b *testBridge) roll(t testing.TB, s *testSwarm, host, own crypto.PrivKey, c *member.Certificate) *roll {
	t.Helper()
	id, err := peer.IDFromPrivateKey(host)
	if err != nil {
		t.Fatal(err)
	}
	return &roll{swarm: *b.of(s, c, own), key: own, self: id}
}

// TestWhoCrossesABridge: over QUIC and TCP, only members of both swarms are in a bridge's
// network. Nobody else has a connection, opens a stream, or learns a protocol or an address.
func TestWhoCrossesABridge(t *testing.T) {
	t.Parallel()
	b, third := newTestBridge(t, nil), newTestSwarm(t)
	server := b.join(t, b.lender, member.AllRoles)
	fellow := b.join(t, b.guest, member.Use, server)
	await(t, "a guest is connected", func() bool { return server.Connected(fellow.Self()) })
	revoked := newKey(t)
	list, err := b.guest.Revoke(member.Lists{}, nil, []member.Key{keyOf(t, revoked)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if news, err := server.InstallOther(member.Lists{ByRoot: list}); err != nil || !news {
		t.Fatal(news, err)
	}
	elsewhere := *b
	elsewhere.record = b.sign(t, 1, func(r *member.BridgeRecord) { r.Guest = third.Root })
	own := newKey(t)
	other := newKey(t)
	use := func(s *testSwarm, k crypto.PrivKey) *member.Certificate {
		return s.certify(t, k, member.Use, time.Hour)
	}
	spoiled := func(by *testSwarm, change func(*member.Certificate)) *member.Certificate {
		return altered(t, by.Issuer, own, change)
	}
	weak := member.Issuer{Root: b.guest.Root, Certificate: use(b.guest, other)}
	if weak.Key, err = other.Raw(); err != nil {
		t.Fatal(err)
	}
	host := newKey(t)
	came := countArrivals(server)
	for name, c := range map[string]struct {
		shows *roll
		key   crypto.PrivKey
		in    bool
	}{
		"a guest":                               {b.roll(t, b.guest, host, own, use(b.guest, own)), host, true},
		"a node of the lender":                  {b.roll(t, b.lender, host, own, b.lender.certify(t, own, member.Serve, time.Hour)), host, true},
		"a copied certificate":                  {b.roll(t, b.guest, host, other, fellow.cfg.Swarm.Certificate), host, false},
		"a guest's own key":                     {&roll{swarm: *b.guest.of(use(b.guest, own)), key: own, self: peerOf(t, own)}, own, false},
		"another swarm's":                       {b.roll(t, third, host, own, use(third, own)), host, false},
		"another swarm's in the guest's name":   {b.roll(t, b.guest, host, own, spoiled(third, func(c *member.Certificate) { c.Swarm = b.guest.Root.Swarm() })), host, false},
		"another swarm's in the lender's name":  {b.roll(t, b.lender, host, own, spoiled(third, func(c *member.Certificate) { c.Swarm = b.lender.Root.Swarm() })), host, false},
		"a guest by another bridge":             {elsewhere.roll(t, b.guest, host, own, use(b.guest, own)), host, false},
		"an expired certificate":                {b.roll(t, b.guest, host, own, spoiled(b.guest, func(c *member.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })), host, false},
		"no role that the record gives":         {b.roll(t, b.guest, host, own, b.guest.certify(t, own, member.Serve|member.Invite, time.Hour)), host, false},
		"a certificate without a role":          {b.roll(t, b.guest, host, own, spoiled(b.guest, func(c *member.Certificate) { c.Roles = 0 })), host, false},
		"one by a member that may not invite":   {b.roll(t, b.guest, host, own, altered(t, weak, own, func(*member.Certificate) {})), host, false},
		"one that its swarm has revoked":        {b.roll(t, b.guest, host, revoked, use(b.guest, revoked)), host, false},
		"a member of the lender that only uses": {b.roll(t, b.lender, host, own, use(b.lender, own)), host, false},
	} {
		for path, code := range map[string]int{"quic": multiaddr.P_UDP, "tcp": multiaddr.P_TCP} {
			t.Run(name+" by "+path, func(t *testing.T) {
				before := came.of(peerOf(t, c.key))
				shows := &roll{swarm: c.shows.swarm, key: c.shows.key, self: c.shows.self}
				shows.swarm.View = b.view
				h := hostileAs(t, shows, c.key)
				defer h.Close()
				addrs := only(server, code)
				_ = h.Connect(t.Context(), peer.AddrInfo{ID: server.Self(), Addrs: addrs})
				if c.in {
					if err := speak(t, h, server.Self(), identify.ID); err != nil || came.of(h.ID()) == before {
						t.Error("it is kept out: ", err)
					}
					return
				}
				for _, id := range append(everyProtocol(b.guest), libprotocol.ID(server.cfg.Swarm.dhtPrefix()+"/kad/1.0.0"), protocol.MemberID) {
					if err := speak(t, h, server.Self(), id); err == nil {
						t.Errorf("%s is spoken", id)
					}
				}
				if came.of(h.ID()) > before || len(known(t, h, server)) > 0 {
					t.Errorf("%d connections, and it learned the protocols %s", came.of(h.ID()), known(t, h, server))
				}
				for _, a := range h.Peerstore().Addrs(server.Self()) {
					if !slices.ContainsFunc(addrs, a.Equal) {
						t.Errorf("it learned the address %s", a)
					}
				}
			})
		}
	}
}

func peerOf(t testing.TB, key crypto.PrivKey) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestARecordEndsABridge: connections over a bridge are closed when its record is revoked
// by either swarm, expires, or is replaced by one that gives the peer no role.
func TestARecordEndsABridge(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(b *testBridge, server *Network) error{
		"revoked by the lender": func(b *testBridge, server *Network) error {
			list, err := b.lender.Revoke(member.Lists{}, []member.Serial{b.record.Serial()}, nil, time.Now())
			if err == nil {
				_, err = server.InstallLists(member.Lists{ByRoot: list})
			}
			return err
		},
		"revoked by the guest": func(b *testBridge, server *Network) error {
			list, err := b.guest.Revoke(member.Lists{}, []member.Serial{b.record.Serial()}, nil, time.Now())
			if err == nil {
				_, err = server.InstallOther(member.Lists{ByRoot: list})
			}
			return err
		},
		"expired": func(b *testBridge, server *Network) error {
			server.roll.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
			server.roll.cut()
			return nil
		},
		"replaced": func(b *testBridge, server *Network) error {
			return server.SetBridge(b.sign(t, 2, func(r *member.BridgeRecord) { r.Roles = member.Relay }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBridge(t, nil)
			server := b.join(t, b.lender, member.AllRoles)
			guest := b.join(t, b.guest, member.Use, server)
			await(t, "they are connected", func() bool { return server.Connected(guest.Self()) })
			if !server.Lends() || guest.Lends() || !server.Guest(guest.Self()) || guest.Guest(server.Self()) || server.MayUse(guest.Self()) != nil {
				t.Error("the sides are not told apart")
			}
			acl := relayGuests{server.cfg.MayRelay, server.cfg.mayReach}
			if acl.AllowReserve(guest.Self(), nil) || !acl.AllowConnect(guest.Self(), nil, server.Self()) || acl.AllowConnect(server.Self(), nil, guest.Self()) {
				t.Error("a guest is relayed for")
			}
			if !server.Allows(model) || guest.Allows(model) || server.Shares() {
				t.Error("a guest offers models, or weights are shared")
			}
			if err := end(b, server); err != nil {
				t.Fatal(err)
			}
			await(t, "the guest is cut off", func() bool { return !server.Connected(guest.Self()) })
			if !server.Guest(guest.Self()) {
				t.Error("once it is cut off, it counts as one of the lender's own")
			}
			came := countArrivals(server)
			_ = guest.host.Connect(t.Context(), peer.AddrInfo{ID: server.Self(), Addrs: server.Addrs()})
			if err := speak(t, guest.host, server.Self(), protocol.StatusID); err == nil || came.of(guest.Self()) > 0 {
				t.Errorf("it comes back: %v", err)
			}
		})
	}
}

// TestAnotherRecord: a record of other swarms is not put in force, and a network is not
// opened by one that has ended.
func TestAnotherRecord(t *testing.T) {
	t.Parallel()
	b, other := newTestBridge(t, nil), newTestBridge(t, nil)
	server := b.join(t, b.lender, member.AllRoles)
	if err := server.SetBridge(other.record); !errors.Is(err, member.ErrForeign) {
		t.Errorf("another bridge's record: %v", err)
	}
	key := newKey(t)
	cfg := Config{Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Swarm: b.of(b.lender, b.lender.certify(t, key, member.Serve, time.Hour), key)}
	list, err := b.lender.Revoke(member.Lists{}, []member.Serial{b.record.Serial()}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Swarm.Lists = member.Lists{ByRoot: list}
	if n, err := New(cfg); !errors.Is(err, ErrMembership) || !errors.Is(err, member.ErrRevoked) {
		t.Errorf("opened under a record that is revoked: %v, %v", n, err)
	}
	alone := newTestSwarm(t).join(t, member.AllRoles)
	if _, err := alone.InstallOther(member.Lists{}); err == nil || alone.SetBridge(b.record) == nil || alone.Lends() || !alone.Allows(model) || !alone.Shares() {
		t.Error("a swarm's own network is taken for a bridge's")
	}
}
