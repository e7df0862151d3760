package network

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// only returns a node's addresses with this protocol.
func only(n *Network, code int) (out []multiaddr.Multiaddr) {
	for _, a := range n.Addrs() {
		if _, err := a.ValueForProtocol(code); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// connect connects two nodes, over QUIC.
func connect(t testing.TB, from, to *Network) {
	t.Helper()
	if err := from.host.Connect(t.Context(), peer.AddrInfo{ID: to.Self(), Addrs: only(to, multiaddr.P_UDP)}); err != nil {
		t.Fatal(err)
	}
}

// TestMembersFindEachOther: in a private swarm, discovery by the DHT works as in
// the open network, under a name of the swarm's.
func TestMembersFindEachOther(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	boot := s.join(t, member.AllRoles)
	a, b := s.join(t, member.Use|member.Serve, boot), s.join(t, member.Use, boot)
	if err := a.SetOffer(serves(0, 30)); err != nil {
		t.Fatal(err)
	}
	await(t, "the offer is found", func() bool {
		return slices.ContainsFunc(b.Offers(t.Context(), model, nil), func(o *protocol.Offer) bool { return o.From == a.Self() })
	})
	connect(t, b, a)
	id := s.Root.Swarm().String()
	want := libprotocol.ID("/shoal/" + id[:8] + "/kad/1.0.0")
	await(t, "the swarm's own DHT is spoken", func() bool {
		ids, err := b.host.Peerstore().GetProtocols(boot.Self())
		return err == nil && slices.Contains(ids, want) && !slices.Contains(ids, kadID)
	})
	if b.Roles(a.Self()) != member.Use|member.Serve || b.Roles(b.Self()) != member.Use || b.Roles("nobody") != 0 || b.Certificate(a.Self()) == nil {
		t.Errorf("roles %s, %s", b.Roles(a.Self()), b.Roles(b.Self()))
	}
	if err := b.Standing(); err != nil {
		t.Error(err)
	}
}

// TestARefusedPeerIsTold: whoever is refused gets the reason with its first
// stream, over QUIC and TCP, and whoever refuses says so.
func TestARefusedPeerIsTold(t *testing.T) {
	t.Parallel()
	s, other := newTestSwarm(t), newTestSwarm(t)
	a, stranger := s.join(t, member.AllRoles), other.join(t, member.AllRoles)
	revoked := s.join(t, member.AllRoles)
	list, err := s.Revoke(member.Lists{}, nil, []member.Key{revoked.cfg.Swarm.Certificate.Key}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if news, err := a.InstallLists(member.Lists{ByRoot: list}); err != nil || !news {
		t.Fatal(news, err)
	}
	open := join(t, false)
	for _, code := range []int{multiaddr.P_UDP, multiaddr.P_TCP} {
		for _, c := range []struct {
			from *Network
			want error
		}{{revoked, ErrNotMember}, {stranger, errStranger}} {
			var err error
			if err = c.from.host.Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: only(a, code)}); err == nil {
				_, err = c.from.Open(t.Context(), a.Self(), nil, protocol.StatusID)
			}
			if err == nil || !errors.Is(c.from.explainTo(a.Self(), err), c.want) {
				t.Errorf("protocol %d: %v, want %v", code, err, c.want)
			}
			_ = c.from.host.Network().ClosePeer(a.Self())
			c.from.host.Peerstore().ClearAddrs(a.Self())
		}
	}
	err = open.host.Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: only(a, multiaddr.P_UDP)})
	if err == nil {
		_, err = open.Open(t.Context(), a.Self(), nil, protocol.StatusID)
	}
	if !errors.Is(err, ErrNotMember) || err.Error() != "not a member, or revoked" {
		t.Errorf("a node of the open network: %v", err)
	}
}

// TestBulkConnectionsAreCut: the swarm with which a node fetches in bulk goes
// through the gate and loses its connections to a member that is revoked.
func TestBulkConnectionsAreCut(t *testing.T) {
	t.Parallel()
	s, other := newTestSwarm(t), newTestSwarm(t)
	a, b, stranger := s.join(t, member.AllRoles), s.join(t, member.AllRoles), other.join(t, member.AllRoles)
	bulk := func(n *Network) *swarm.Swarm {
		main := n.host.Network().(*swarm.Swarm)
		own, err := swarm.NewSwarm(n.Self(), n.host.Peerstore(), eventbus.NewBus(), n.Dialling()...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { own.Close() })
		if err := own.AddTransport(main.TransportForDialing(only(b, multiaddr.P_TCP)[0])); err != nil {
			t.Fatal(err)
		}
		n.host.Peerstore().AddAddrs(b.Self(), only(b, multiaddr.P_TCP), time.Hour)
		return own
	}
	if c, err := bulk(stranger).DialPeer(t.Context(), b.Self()); err == nil {
		t.Errorf("a stranger fetches over %s", c.RemoteMultiaddr())
	}
	connect(t, a, b)
	own := bulk(a)
	if _, err := own.DialPeer(t.Context(), b.Self()); err != nil {
		t.Fatal(err)
	}
	list, err := s.Revoke(member.Lists{}, nil, []member.Key{b.cfg.Swarm.Certificate.Key}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if news, err := a.InstallLists(member.Lists{ByRoot: list}); err != nil || !news {
		t.Fatal(news, err)
	}
	await(t, "both connections are closed", func() bool {
		return len(own.ConnsToPeer(b.Self())) == 0 && len(a.host.Network().ConnsToPeer(b.Self())) == 0
	})
	if _, err := own.DialPeer(t.Context(), b.Self()); err == nil {
		t.Error("the revoked member serves bulk again")
	}
	if news, err := a.InstallLists(member.Lists{ByRoot: list}); err != nil || news {
		t.Errorf("the same list is news, %v", err)
	}
	if _, err := join(t, false).InstallLists(member.Lists{ByRoot: list}); err == nil {
		t.Error("the open network takes a list")
	}
}

// TestARevokedNodeIsAlone: a node that learns of its own revocation closes all
// connections, and has no part in the swarm any more.
func TestARevokedNodeIsAlone(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	a, b := s.join(t, member.AllRoles), s.join(t, member.AllRoles)
	connect(t, a, b)
	list, err := s.Revoke(member.Lists{}, nil, []member.Key{b.cfg.Swarm.Certificate.Key}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.InstallLists(member.Lists{ByRoot: list}); err != nil {
		t.Fatal(err)
	}
	await(t, "it has no connection", func() bool { return len(b.host.Network().Peers()) == 0 })
	if err := b.Standing(); !errors.Is(err, member.ErrRevoked) {
		t.Errorf("its standing: %v", err)
	}
	if _, err := b.Open(t.Context(), a.Self(), nil, protocol.StatusID); !errors.Is(err, ErrMembership) {
		t.Errorf("it opens a stream: %v", err)
	}
	cfg := b.cfg
	cfg.Swarm = s.of(b.cfg.Swarm.Certificate)
	cfg.Swarm.Lists = b.Lists()
	if _, err := New(cfg); !errors.Is(err, ErrMembership) || !errors.Is(err, member.ErrRevoked) {
		t.Errorf("it starts again: %v", err)
	}
}

// TestStaleLists: with Strict, a node whose list is too old lets nobody in.
func TestStaleLists(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	list, err := s.Revoke(member.Lists{}, nil, nil, time.Now().Add(-member.Stale-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	start := func(strict bool) *Network {
		key := newKey(t)
		cfg := Config{Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Swarm: s.of(s.certify(t, key, member.Use, time.Hour))}
		cfg.Swarm.Lists.ByRoot, cfg.Swarm.Strict = list, strict
		n, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	a := s.join(t, member.Use)
	if err := start(false).host.Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: a.Addrs()}); err != nil {
		t.Error(err)
	}
	if err := start(true).host.Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: a.Addrs()}); err == nil {
		t.Error("a strict node connects with a stale list")
	}
}

// TestRolesAtTheGate: a member without a role gets nowhere with what it is for.
func TestRolesAtTheGate(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	a := s.join(t, member.AllRoles)
	user, server, relays := s.join(t, member.Use), s.join(t, member.Serve), s.join(t, member.Relay)
	for _, n := range []*Network{a, user, server, relays} {
		for _, id := range []string{protocol.StageID, protocol.LeavesID} {
			n.Handle(id, func(st *Stream) { _, _ = st.Write([]byte("x")); st.Close() })
		}
	}
	opens := func(from, to *Network, id string) bool {
		connect(t, from, to)
		st, err := from.Open(t.Context(), to.Self(), nil, id)
		if err != nil {
			return false
		}
		defer func() { _ = st.Reset() }()
		_ = st.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadFull(st, make([]byte, 1))
		return err == nil
	}
	for _, c := range []struct {
		name     string
		from, to *Network
		id       string
		want     bool
	}{
		{"a user opens a session", user, a, protocol.StageID, true},
		{"a stage opens the next", server, a, protocol.StageID, true},
		{"one without either role", relays, a, protocol.StageID, false},
		{"one without either role takes models", relays, a, protocol.LeavesID, false},
		{"a server takes models", server, a, protocol.LeavesID, true},
		{"a session at one that may not serve", a, user, protocol.StageID, false},
		{"a session at one that may", user, server, protocol.StageID, true},
	} {
		if got := opens(c.from, c.to, c.id); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if e := a.MayUse(server.Self()); e == nil || e.Code != protocol.Code_CODE_FORBIDDEN {
		t.Errorf("a peer without the role to use may: %v", e)
	}
	if a.MayUse(user.Self()) != nil || server.MayUse(server.Self()) != nil || join(t, false).MayUse(user.Self()) != nil {
		t.Error("a user may not use")
	}
	for _, n := range []*Network{user, server} { // both say that they serve
		if err := n.SetOffer(serves(0, 30)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the server's offer comes", func() bool {
		return slices.ContainsFunc(a.Offers(t.Context(), cid.Undef, nil), func(o *protocol.Offer) bool { return o.From == server.Self() })
	})
	if err := a.ask(t.Context(), user.Self(), cid.Undef); err != nil {
		t.Fatal(err)
	}
	if a.offerOf(user.Self()) != nil {
		t.Error("a member without the role offers spans")
	}
	// Hearsay about a peer that has not been met is kept until it is met.
	key := newKey(t)
	if err := relays.hear(a.Self(), sealed(t, key, 1).Envelope); err != nil {
		t.Fatal(err)
	}
	late := s.joinAs(t, key, member.Use)
	listed := func() bool {
		return slices.ContainsFunc(relays.Known(model), func(o *protocol.Offer) bool { return o.From == late.Self() })
	}
	if !listed() {
		t.Error("hearsay about an unknown member is not kept")
	}
	connect(t, relays, late)
	if listed() {
		t.Error("the offer of a member without the role is still believed")
	}
}

// TestHelpersAreVouchedFor: the keys with which a member's AutoNAT dials back get
// in, without roles, if the member vouches for them.
func TestHelpersAreVouchedFor(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	a := s.join(t, member.AllRoles)
	own, helper, thief := newKey(t), newKey(t), newKey(t)
	cert := s.certify(t, own, member.AllRoles, time.Hour)
	h := s.hostile(t, helper, cert, own)
	for _, code := range []int{multiaddr.P_UDP, multiaddr.P_TCP} {
		if err := h.Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: only(a, code)}); err != nil {
			t.Fatal(err)
		}
		if err := speak(t, h, a.Self(), "/ipfs/id/1.0.0"); err != nil {
			t.Error(err)
		}
		if a.Roles(h.ID()) != 0 {
			t.Errorf("a helper has the roles %s", a.Roles(h.ID()))
		}
		_ = h.Network().ClosePeer(a.Self())
		h.Peerstore().ClearAddrs(a.Self())
	}
	// One who has the member's certificate cannot vouch for itself.
	forged := s.hostile(t, helper, cert, thief)
	_ = forged.Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: a.Addrs()})
	if err := speak(t, forged, a.Self(), "/ipfs/id/1.0.0"); err == nil {
		t.Error("anybody can vouch")
	}
}

// TestNotItsOwnKey: a node needs a valid certificate of its own to start.
func TestNotItsOwnKey(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	for name, c := range map[string]struct {
		cert *member.Certificate
		want error
	}{
		"another's": {s.certify(t, newKey(t), member.Use, time.Hour), member.ErrOther},
		"expired":   {altered(t, s.Issuer, newKey(t), func(c *member.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), member.ErrOther},
	} {
		cfg := Config{Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Swarm: s.of(c.cert)}
		if n, err := New(cfg); !errors.Is(err, ErrMembership) || !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
			if n != nil {
				n.Close()
			}
		}
	}
}

// TestTheLANHearsNoise: announcements on the LAN are read by members only.
func TestTheLANHearsNoise(t *testing.T) {
	t.Parallel()
	s, other := newTestSwarm(t), newTestSwarm(t)
	a := s.join(t, member.Use)
	text, err := a.announcement(s.view)
	if err != nil {
		t.Fatal(err)
	}
	p, err := heardOnLAN(s.view, text)
	if err != nil || p.ID != a.Self() || len(p.Addrs) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := heardOnLAN(other.view, text); err == nil || len(p.Addrs) > 0 || p.ID != "" {
		t.Errorf("an outsider hears %+v", p)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(text, ""))
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string][]byte{"its peer ID": []byte(a.Self()), "its address": only(a, multiaddr.P_UDP)[0].Bytes(), "in text": []byte("127.0.0.1")} {
		if bytes.Contains(raw, secret) || strings.Contains(strings.Join(text, ""), string(secret)) {
			t.Error("an outsider hears", what)
		}
	}
	again, err := a.announcement(s.view)
	if err != nil || slices.Equal(again, text) {
		t.Errorf("announcements are alike: %v", err)
	}
	if name := mdnsName(s.view); name == mdnsName(other.view) || name != mdnsName(s.view) || len(name) != len("_234567abcdef._udp") {
		t.Error(name)
	}
}

func FuzzHeardOnLAN(f *testing.F) {
	view := member.View{1}
	f.Add([]byte{1, 2, 3})
	f.Add(appendBytes(appendBytes(nil, []byte("\x00\x24\x08\x01\x12\x20"+strings.Repeat("k", 32))), ma("/ip4/192.0.2.1/udp/4001/quic-v1").Bytes()))
	f.Fuzz(func(t *testing.T, plain []byte) {
		sealed, err := view.Encrypt(mdnsLabel, plain)
		if err != nil {
			t.Fatal(err)
		}
		p, err := heardOnLAN(view, []string{base64.StdEncoding.EncodeToString(sealed)})
		if err == nil && (p.ID == "" || len(p.Addrs) > mdnsAddrs) {
			t.Errorf("%+v", p)
		}
		if err != nil && len(p.Addrs) > 0 && p.ID == "" {
			t.Errorf("an error and %+v", p)
		}
	})
}
