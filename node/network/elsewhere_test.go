package network

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/testnet/nat"
)

// A home gets another address, which the machine notices or, behind a router, does
// not. Peers that ask it something soon reach it, and in the end directly. Its
// connections would seem alive for half a minute.
func TestAddressChanges(t *testing.T) {
	for _, c := range []struct {
		name           string
		machine        bool // whose address changes, too
		answer, direct time.Duration
	}{
		{"machine", true, 8 * time.Second, 20 * time.Second},
		{"router", false, 30 * time.Second, 60 * time.Second}, // mostly 3 s; now and then the first tries meet the old path
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, 3, func(in *internet) {
				var at atomic.Pointer[map[netip.Prefix]bool]
				at.Store(&map[netip.Prefix]bool{netip.MustParsePrefix("10.1.0.2/32"): true})
				box := in.net.Behind(nat.Port, netip.MustParseAddr("6.1.0.1"), 0)
				a := in.join(in.host(box, "10.1.0.2"), func(c *Config) { c.place = func() map[netip.Prefix]bool { return *at.Load() } })
				b := in.home(nat.Port, 2)
				in.until("two relays", 20*time.Second, func() bool { return len(a.reaching.relays.all()) == 2 })
				ctx := network.WithAllowLimitedConn(context.Background(), "test")
				if err := b.Host().Connect(ctx, peer.AddrInfo{ID: a.Self(), Addrs: circuitsOf(a)}); err != nil {
					in.Fatal(err)
				}
				in.until("a direct path", 20*time.Second, func() bool { return a.Direct(b.Self()) && b.Direct(a.Self()) })
				time.Sleep(3 * time.Second)
				old := a.Host().Network().ConnsToPeer(b.Self())[0].ID()

				box.Move(netip.MustParseAddr("6.9.0.1"))
				if c.machine {
					at.Store(&map[netip.Prefix]bool{netip.MustParsePrefix("10.9.0.2/32"): true})
				}
				asks := func() bool {
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					s, err := b.Open(ctx, a.Self(), nil, "/ipfs/ping/1.0.0")
					if err != nil {
						return false
					}
					defer func() { _ = s.Reset() }()
					if s.SetDeadline(time.Now().Add(time.Second)) != nil {
						return false
					}
					if _, err := s.Write(make([]byte, 32)); err != nil {
						return false
					}
					_, err = s.Read(make([]byte, 32))
					return err == nil
				}
				in.Logf("an answer after %v", in.until("an answer", c.answer, asks))
				fresh := func() bool {
					asks()
					for _, conn := range a.Host().Network().ConnsToPeer(b.Self()) {
						if conn.ID() == old {
							return false
						}
					}
					return a.Direct(b.Self()) && b.Direct(a.Self())
				}
				in.Logf("a direct path after %v more", in.until("another direct path", c.direct, fresh))
			})
		})
	}
}

// A connection that answers outlives a change of addresses.
func TestLivingConnectionStays(t *testing.T) {
	simulate(t, 1, func(in *internet) {
		var at atomic.Pointer[map[netip.Prefix]bool]
		at.Store(&map[netip.Prefix]bool{netip.MustParsePrefix("10.1.0.2/32"): true})
		box := in.net.Behind(nat.Port, netip.MustParseAddr("6.1.0.1"), 0)
		a := in.join(in.host(box, "10.1.0.2"), func(c *Config) { c.place = func() map[netip.Prefix]bool { return *at.Load() } })
		public := in.all[0].Self()
		in.until("a connection", 10*time.Second, func() bool { return a.Connected(public) })
		time.Sleep(3 * time.Second)
		old := a.Host().Network().ConnsToPeer(public)[0]
		at.Store(&map[netip.Prefix]bool{netip.MustParsePrefix("10.1.0.2/32"): true, netip.MustParsePrefix("10.2.0.2/32"): true})
		time.Sleep(10 * time.Second)
		if old.IsClosed() {
			in.Error("another address has closed a connection that is alive")
		}
	})
}

func TestOverTCP(t *testing.T) {
	udp := func(id peer.ID) sighting { return sighting{peer: id, has: true} }
	needed := func(id peer.ID) sighting { return sighting{peer: id, has: true, needed: true} }
	for name, c := range map[string]struct {
		all  []sighting
		want peer.ID // "": none
	}{
		"too few":           {[]sighting{udp("a"), needed("b")}, ""},
		"all but one":       {[]sighting{needed("a"), udp("b"), needed("c")}, "b"},
		"all needed":        {[]sighting{needed("a"), needed("b"), needed("c")}, ""},
		"no address":        {[]sighting{needed("a"), needed("b"), {peer: "c"}}, ""},
		"there is one":      {[]sighting{udp("a"), udp("b"), {peer: "c", tcp: true}}, ""},
		"a relay over TCP":  {[]sighting{udp("a"), udp("b"), {peer: "c", tcp: true, needed: true}}, ""},
		"one has addresses": {[]sighting{{peer: "a"}, udp("b"), {peer: "c"}}, "b"},
	} {
		if p, ok := overTCP(c.all); p != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v", name, p, ok)
		}
	}
}

// A peer that is to be met over TCP is dialled nowhere else, whoever named it.
func TestGateWithoutUDP(t *testing.T) {
	g := newGate()
	udp, tcp := multiaddr.StringCast("/ip4/5.0.0.1/udp/4001/quic-v1"), multiaddr.StringCast("/ip4/5.0.0.1/tcp/4001")
	g.name(peer.AddrInfo{ID: "a", Addrs: []multiaddr.Multiaddr{udp, tcp}})
	g.noUDP("a", true)
	if g.allow("a", udp) || !g.allow("a", tcp) || !g.allow("b", multiaddr.StringCast("/ip4/5.1.0.1/udp/4001/quic-v1")) {
		t.Error("while a peer is to be met over TCP")
	}
	if g.noUDP("a", false); !g.allow("a", udp) {
		t.Error("afterwards, the peer cannot be dialled over UDP")
	}
}

// Attempts at direct paths begin once this node knows where it is seen, and for all
// circuits that it has by then: libp2p's service would pass over those.
func TestHolesBeginLate(t *testing.T) {
	simulate(t, 2, func(in *internet) {
		a, b := in.home(nat.Port, 1), in.home(nat.Port, 2)
		if b.reaching.holes.started() {
			in.Error("a node punches holes that does not know where it is seen")
		}
		in.until("that it punches holes", time.Second, b.reaching.holes.started)
		in.until("a relay", 5*time.Second, func() bool { return len(circuitsOf(b)) > 0 })
		ctx := network.WithAllowLimitedConn(context.Background(), "test")
		if err := a.Host().Connect(ctx, peer.AddrInfo{ID: b.Self(), Addrs: circuitsOf(b)}); err != nil {
			in.Fatal(err)
		}
		in.Logf("direct after %v", in.until("a direct path", 5*time.Second, func() bool { return a.Direct(b.Self()) && b.Direct(a.Self()) }))
	})
}
