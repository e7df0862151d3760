package network

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/testnet/nat"
)

// A hole is punched at an address where another peer did not prove itself, because
// anybody can name it. All such dials together are as many as an address allows, and
// leave dials of other kinds alone.
func TestGatePunchesAfterOthers(t *testing.T) {
	g := newGate()
	at := multiaddr.StringCast("/ip4/6.1.0.1/tcp/4001")
	dial := func(p peer.ID, a multiaddr.Multiaddr) bool {
		ok := g.allow(p, a)
		if ok {
			g.miss(a, errNobody)
		}
		return ok
	}
	if !dial("liar", at) || dial("a", at) {
		t.Fatal("an address where a peer has just failed to prove itself")
	}
	dials := 0
	for i := range 2 * perIP * holeMore {
		p := peer.ID(fmt.Sprint("sybil", i))
		if g.punch(p, []multiaddr.Multiaddr{at}); dial(p, at) {
			dials++
		}
	}
	if dials != perIP*holeMore {
		t.Errorf("%d dials at holes to one address, want %d", dials, perIP*holeMore)
	}
	if !dial("another", multiaddr.StringCast("/ip4/6.1.0.1/tcp/4002")) {
		t.Error("dials at holes are charged to other dials")
	}
}

// A session that goes over a relay has this node try for a direct path again and again, at
// all addresses of the peer and in both roles. No try is refused because of those before
// it: the first one that could succeed may be a late one.
func TestGateLetsLaterTriesPass(t *testing.T) {
	g, pass := clockGate()
	var at []multiaddr.Multiaddr
	for _, s := range []string{"/ip4/6.1.0.1/udp/4001/quic-v1", "/ip4/6.1.0.1/udp/4002/quic-v1", "/ip4/6.1.0.1/tcp/4001", "/ip4/6.1.0.1/tcp/4002"} {
		at = append(at, multiaddr.StringCast(s))
	}
	dial := func() (dials int) {
		for _, a := range at {
			if g.allow("a", a) {
				g.miss(a, errNobody)
				dials++
			}
		}
		return dials
	}
	var r reach.Retries
	tries, begin := 0, g.now()
	for ; g.now().Sub(begin) < 20*time.Minute; pass(time.Second) {
		if !r.Use("a", g.now()) {
			continue
		}
		tries++
		dial()        // in case no hole is needed
		for range 6 { // three attempts, and three of the other side's
			if g.punch("a", at); dial() != len(at) {
				t.Fatalf("try %d, after %v, is refused", tries, g.now().Sub(begin))
			}
		}
	}
	if tries < 7 {
		t.Errorf("%d tries in 20 minutes", tries)
	}
}

// Of two sides with circuits both ways, one begins an attempt; it is not one whose NAT is
// symmetric, if the other can.
func TestWhoBegins(t *testing.T) {
	way := func(d network.Direction) network.Conn {
		return connStat{stat: network.ConnStats{Stats: network.Stats{Direction: d}}}
	}
	in, out := way(network.DirInbound), way(network.DirOutbound)
	for _, c := range []struct {
		conns                  []network.Conn
		first, symmetric, want bool
	}{
		{[]network.Conn{in}, false, false, true}, {[]network.Conn{in}, true, false, true}, {[]network.Conn{in}, true, true, true},
		{[]network.Conn{out}, false, false, false}, {[]network.Conn{out}, true, false, false},
		{[]network.Conn{in, out}, true, false, true}, {[]network.Conn{out, in}, false, false, false}, {[]network.Conn{out, in}, true, true, false},
		{nil, true, false, false},
	} {
		if got := begins(c.conns, c.first, c.symmetric); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

type connStat struct {
	network.Conn
	stat network.ConnStats
}

func (c connStat) Stat() network.ConnStats { return c.stat }

// Where circuits lead both ways, an attempt goes over that which the peer has made, and a
// peer that asks over the other one is answered, too.
func TestCircuitsBothWays(t *testing.T) {
	for _, to := range []nat.Kind{nat.Port, nat.Symmetric} {
		t.Run(to.Name, func(t *testing.T) {
			simulate(t, 2, func(in *internet) {
				here, there := netip.MustParseAddr("6.1.0.1"), netip.MustParseAddr("6.2.0.1")
				in.net.Wall(here, there, true)
				a, b := in.home(nat.Address, 1), in.home(to, 2)
				for _, n := range []*Network{a, b} {
					in.until("a relay", 20*time.Second, func() bool { return len(circuitsOf(n)) > 0 })
				}
				done := make(chan struct{}, 2)
				for _, way := range [][2]*Network{{a, b}, {b, a}} {
					go func() { in.dials(way[0], way[1]); done <- struct{}{} }()
				}
				<-done
				<-done
				time.Sleep(10 * time.Second)
				all := circuitsTo(a, b.Self())
				if !slices.ContainsFunc(all, circuitIn) || !slices.ContainsFunc(all, func(c network.Conn) bool { return !circuitIn(c) }) {
					in.Fatalf("%d circuits, and not both ways", len(all))
				}
				in.net.Wall(here, there, false)
				a.reaching.holes.moved()
				in.until("a direct path", 5*time.Second, func() bool { return a.Direct(b.Self()) && b.Direct(a.Self()) })
			})
		})
	}
}
