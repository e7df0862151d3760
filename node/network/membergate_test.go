package network

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// testSwarm is a private swarm with its root key.
type testSwarm struct {
	member.Issuer
	view member.View
}

func newTestSwarm(t testing.TB) *testSwarm {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	view, err := member.NewView()
	if err != nil {
		t.Fatal(err)
	}
	return &testSwarm{member.Issuer{Root: member.PublicKey(key), Key: key}, view}
}

func keyOf(t testing.TB, key crypto.PrivKey) member.Key {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := member.KeyOf(id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// certify issues a certificate for a key.
func (s *testSwarm) certify(t testing.TB, key crypto.PrivKey, roles member.Roles, life time.Duration) *member.Certificate {
	t.Helper()
	c, err := s.Issue(keyOf(t, key), roles, time.Now(), life)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *testSwarm) of(c *member.Certificate) *Swarm {
	return &Swarm{Root: s.Root, View: s.view, Certificate: c}
}

// join starts a member on loopback that knows the given ones.
func (s *testSwarm) join(t testing.TB, roles member.Roles, boot ...*Network) *Network {
	t.Helper()
	return s.joinAs(t, newKey(t), roles, boot...)
}

func (s *testSwarm) joinAs(t testing.TB, key crypto.PrivKey, roles member.Roles, boot ...*Network) *Network {
	t.Helper()
	cfg := Config{
		Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Version: "test",
		Swarm: s.of(s.certify(t, key, roles, time.Hour)),
	}
	for _, b := range boot {
		cfg.Bootstrap = append(cfg.Bootstrap, b.FullAddrs()...)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// hostile starts a host that shows a certificate, which may not be its own, and
// lets everybody in itself. With helper, its certificate is of that key, and it
// vouches for the host's.
func (s *testSwarm) hostile(t testing.TB, key crypto.PrivKey, c *member.Certificate, helperOf crypto.PrivKey, opts ...libp2p.Option) host.Host {
	t.Helper()
	m := &roll{swarm: *s.of(c), key: helperOf}
	for _, k := range []crypto.PrivKey{helperOf, key} {
		if k != nil {
			id, err := peer.IDFromPrivateKey(k)
			if err != nil {
				t.Fatal(err)
			}
			m.self = id
			if k == helperOf {
				break
			}
		}
	}
	return hostileAs(t, m, key, opts...)
}

// hostileAs starts a host that shows what m has, and lets everybody in itself.
func hostileAs(t testing.TB, m *roll, key crypto.PrivKey, opts ...libp2p.Option) host.Host {
	t.Helper()
	opts = append([]libp2p.Option{
		libp2p.Identity(key), libp2p.DisableMetrics(), m.options(), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"),
		func(cfg *libp2p.Config) error { // in place of the security that checks
			cfg.SecurityTransports[0].Constructor = func(id libprotocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (sec.SecureTransport, error) {
				t, err := m.newSecure(id, key, muxers)
				if err == nil {
					t.(*secure).judge = func(peer.ID, []*x509.Certificate) (func(), error) { return func() {}, nil }
				}
				return t, err
			}
			return nil
		},
	}, opts...)
	h, err := libp2p.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// openRelay starts a relay that has a certificate, and lets everybody in.
func (s *testSwarm) openRelay(t testing.TB, roles member.Roles) host.Host {
	t.Helper()
	key := newKey(t)
	h := s.hostile(t, key, s.certify(t, key, roles, time.Hour), nil, libp2p.ForceReachabilityPublic(),
		libp2p.EnableRelayService(relay.WithReservationAddressFilter(func(multiaddr.Multiaddr) bool { return true })))
	await(t, "the relay starts its service", func() bool {
		return slices.Contains(h.Mux().Protocols(), libprotocol.ID("/libp2p/circuit/relay/0.2.0/hop"))
	})
	return h
}

// arrivals counts the connections that peers have with a node, ever.
type arrivals struct {
	mu  sync.Mutex
	has map[peer.ID]int
}

func countArrivals(n *Network) *arrivals {
	a := &arrivals{has: map[peer.ID]int{}}
	n.host.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.has[c.RemotePeer()]++
	}})
	return a
}

func (a *arrivals) of(p peer.ID) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.has[p]
}

// altered returns a certificate of a key that somebody has changed and signed.
func altered(t testing.TB, by member.Issuer, key crypto.PrivKey, change func(*member.Certificate)) *member.Certificate {
	t.Helper()
	c := &member.Certificate{
		Swarm: by.Root.Swarm(), Serial: member.Serial{1}, Roles: member.Use, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Key: keyOf(t, key), Issuer: member.PublicKey(by.Key),
	}
	change(c)
	body := c.Marshal() // without a signature and an issuer's certificate yet
	c.Signature = ed25519.Sign(by.Key, append([]byte("shoal-certificate-1\n"), body...))
	c.Chain = by.Certificate
	return c
}

// everyProtocol is what a node speaks.
func everyProtocol(s *testSwarm) []libprotocol.ID {
	return []libprotocol.ID{
		identify.ID, identify.IDPush, ping.ID, protocol.OffersID, protocol.StatusID, protocol.StageID, protocol.LeavesID, bitswapID,
		libprotocol.ID((&Swarm{Root: s.Root}).dhtPrefix() + "/kad/1.0.0"), kadID, "/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop",
	}
}

// speak opens a stream and returns an error unless the other side agrees to the
// protocol.
func speak(t testing.TB, h host.Host, p peer.ID, id libprotocol.ID) error {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(t.Context(), "test"), 5*time.Second)
	defer cancel()
	s, err := h.NewStream(ctx, p, id)
	if err != nil {
		return err
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_, err = s.Read(make([]byte, 1)) // finishes the negotiation
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// TestWhoGetsIn: only a member gets in, over QUIC, TCP and a relay. Nobody else
// has a connection, opens a stream, or learns a protocol or an address, even with
// the view key, a copied certificate, and a relay that lets everybody in.
func TestWhoGetsIn(t *testing.T) {
	t.Parallel()
	s, other := newTestSwarm(t), newTestSwarm(t)
	founderKey := newKey(t)
	raw, err := founderKey.Raw()
	if err != nil {
		t.Fatal(err)
	}
	founder := member.Issuer{Root: s.Root, Key: raw, Certificate: s.certify(t, founderKey, member.Use|member.Serve|member.Invite, time.Hour)}
	weak := founder
	weak.Certificate = s.certify(t, founderKey, member.Use, time.Hour)
	server := s.join(t, member.AllRoles)
	relay := s.openRelay(t, member.Relay)
	weakRelay := s.openRelay(t, member.Use|member.Serve)
	paths := map[string][]multiaddr.Multiaddr{}
	for _, a := range server.Addrs() {
		if spot, ok := spotOf(a); ok && spot.udp {
			paths["quic"] = []multiaddr.Multiaddr{a}
		} else if ok {
			paths["tcp"] = []multiaddr.Multiaddr{a}
		}
	}
	paths["relay"] = []multiaddr.Multiaddr{reserve(t, server, relay)}
	paths["relay without the role"] = []multiaddr.Multiaddr{reserve(t, server, weakRelay)}
	came := countArrivals(server)
	mine := func(k crypto.PrivKey) *member.Certificate { return s.certify(t, k, member.Use, time.Hour) }
	for name, c := range map[string]struct {
		cert func(crypto.PrivKey) *member.Certificate
		view *testSwarm
		in   bool
	}{
		"a member": {mine, s, true},
		"a member invited by a member": {func(k crypto.PrivKey) *member.Certificate {
			c, err := founder.Issue(keyOf(t, k), member.Use, time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}, s, true},
		"a copied certificate": {func(crypto.PrivKey) *member.Certificate { return server.cfg.Swarm.Certificate }, s, false},
		"another swarm's":      {func(k crypto.PrivKey) *member.Certificate { return other.certify(t, k, member.AllRoles, time.Hour) }, s, false},
		"another swarm's in this one's name": {func(k crypto.PrivKey) *member.Certificate {
			return altered(t, other.Issuer, k, func(c *member.Certificate) { c.Swarm = s.Root.Swarm() })
		}, s, false},
		"a member without the view key": {mine, other, false},
		"an expired certificate": {func(k crypto.PrivKey) *member.Certificate {
			return altered(t, s.Issuer, k, func(c *member.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
		}, s, false},
		"a certificate without a role": {func(k crypto.PrivKey) *member.Certificate {
			return altered(t, s.Issuer, k, func(c *member.Certificate) { c.Roles = 0 })
		}, s, false},
		"one by a member that may not invite": {func(k crypto.PrivKey) *member.Certificate {
			return altered(t, weak, k, func(*member.Certificate) {})
		}, s, false},
		"one with a role that its issuer lacks": {func(k crypto.PrivKey) *member.Certificate {
			return altered(t, founder, k, func(c *member.Certificate) { c.Roles = member.Use | member.Relay })
		}, s, false},
	} {
		for path, addrs := range paths {
			in := c.in && path != "relay without the role"
			t.Run(name+" by "+path, func(t *testing.T) {
				key := newKey(t)
				shows := *c.view
				shows.Root = s.Root
				h := shows.hostile(t, key, c.cert(key), nil)
				_ = h.Connect(network.WithAllowLimitedConn(t.Context(), "test"), peer.AddrInfo{ID: server.Self(), Addrs: addrs})
				if in {
					if err := speak(t, h, server.Self(), identify.ID); err != nil {
						t.Fatal(err)
					}
					if came.of(h.ID()) != 1 || len(known(t, h, server)) == 0 {
						t.Errorf("%d connections, %d protocols", came.of(h.ID()), len(known(t, h, server)))
					}
					return
				}
				for _, id := range everyProtocol(s) {
					if err := speak(t, h, server.Self(), id); err == nil {
						t.Errorf("%s is spoken", id)
					}
				}
				if n := came.of(h.ID()); n > 0 {
					t.Errorf("%d connections", n)
				}
				if protocols := known(t, h, server); len(protocols) > 0 {
					t.Errorf("it learned the protocols %s", protocols)
				}
				for _, a := range h.Peerstore().Addrs(server.Self()) {
					if !slices.ContainsFunc(addrs, a.Equal) {
						t.Errorf("it learned the address %s", a)
					}
				}
			})
		}
	}
	t.Run("an ordinary libp2p node", func(t *testing.T) {
		h, err := libp2p.New(libp2p.DisableMetrics(), libp2p.NoListenAddrs)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		for path, addrs := range paths {
			_ = h.Connect(network.WithAllowLimitedConn(t.Context(), "test"), peer.AddrInfo{ID: server.Self(), Addrs: addrs})
			if err := speak(t, h, server.Self(), identify.ID); err == nil || came.of(h.ID()) > 0 || len(known(t, h, server)) > 0 {
				t.Errorf("by %s: %v", path, err)
			}
			_ = h.Network().ClosePeer(server.Self())
			h.Peerstore().ClearAddrs(server.Self())
		}
	})
}

func known(t testing.TB, h host.Host, n *Network) []libprotocol.ID {
	t.Helper()
	ids, err := h.Peerstore().GetProtocols(n.Self())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}
