package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol/member"
	"github.com/shoalnet/shoal/testnet/nat"
	"github.com/shoalnet/shoal/testnet/natsim"
)

const lineDelay = 20 * time.Millisecond // one way, of each host: 80 ms between two

// internet is a network in virtual time, with nodes of this package.
type internet struct {
	*testing.T
	net   *natsim.Net
	swarm *testSwarm     // that all nodes are in; nil: the open network
	relay []*natsim.Host // public nodes, which all others know
	all   []*Network
}

// simulate runs do in a bubble of virtual time with so many public nodes.
func simulate(t *testing.T, public int, do func(*internet)) { simulateIn(t, nil, public, do) }

// simulateIn does so in a private swarm, of which all nodes have all roles; nil: in the open
// network.
func simulateIn(t *testing.T, swarm *testSwarm, public int, do func(*internet)) {
	synctest.Test(t, func(t *testing.T) {
		in := &internet{T: t, net: natsim.New(), swarm: swarm}
		defer func() { // also after a failure
			for _, n := range in.all {
				n.Close()
			}
			time.Sleep(time.Minute)
		}()
		for i := range public {
			at := in.host(in.net, fmt.Sprintf("5.%d.0.1", i+1))
			in.join(at, func(c *Config) { c.Public = true })
			in.relay = append(in.relay, at)
		}
		time.Sleep(time.Second)
		do(in)
	})
}

func (in *internet) host(net *natsim.Net, ip string) *natsim.Host {
	in.Helper()
	at, err := net.Host(netip.MustParseAddr(ip), lineDelay)
	if err != nil {
		in.Fatal(err)
	}
	return at
}

// join starts a node that knows the public ones.
func (in *internet) join(at *natsim.Host, set func(*Config)) *Network {
	in.Helper()
	c := Config{Key: at.Key, ListenAddrs: []string{at.Addr.String()}, Options: at.Options(), Version: "test"}
	for _, r := range in.relay {
		c.Bootstrap = append(c.Bootstrap, r.Full())
	}
	if in.swarm != nil {
		c.Options, c.Swarm = at.SocketOptions(), in.swarm.of(in.swarm.certify(in, at.Key, member.AllRoles, 24*time.Hour))
	}
	if set != nil {
		set(&c)
	}
	n, err := New(c)
	if err != nil {
		in.Fatal(err)
	}
	in.all = append(in.all, n)
	return n
}

// home starts a node behind a NAT.
func (in *internet) home(kind nat.Kind, i int) *Network {
	in.Helper()
	box := in.net.Behind(kind, netip.MustParseAddr(fmt.Sprintf("6.%d.0.1", i)), 0)
	return in.join(in.host(box, fmt.Sprintf("10.%d.0.2", i)), nil)
}

// until returns how long it takes until something holds; it fails after most.
func (in *internet) until(what string, most time.Duration, holds func() bool) time.Duration {
	in.Helper()
	begin := time.Now()
	for !holds() {
		if time.Since(begin) > most {
			in.Fatalf("in vain for %v: %s", most, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begin)
}

func circuitsOf(n *Network) []multiaddr.Multiaddr {
	return slices.DeleteFunc(n.Host().Addrs(), func(a multiaddr.Multiaddr) bool { return !reach.IsCircuit(a) })
}

func verdictOf(n *Network) reach.State {
	n.reaching.mu.Lock()
	defer n.reaching.mu.Unlock()
	return n.reaching.machine.State(time.Now())
}

// A node behind a NAT is at a relay soon after its start, and at two in the end;
// its offer says so.
func TestReservation(t *testing.T) {
	simulate(t, 3, func(in *internet) {
		n := in.home(nat.Port, 1)
		if got := in.until("an address at a relay", 5*time.Second, func() bool { return len(circuitsOf(n)) > 0 }); got > 500*time.Millisecond {
			in.Errorf("a reservation after %v", got)
		} else {
			in.Logf("a reservation after %v", got)
		}
		in.until("two relays", 20*time.Second, func() bool { return len(n.reaching.relays.all()) == 2 })
		if err := n.SetOffer(serves(0, 10)); err != nil {
			in.Fatal(err)
		}
		circuits := slices.ContainsFunc(n.OwnOffer().Addresses(), reach.IsCircuit)
		direct := slices.ContainsFunc(n.OwnOffer().Addresses(), func(a multiaddr.Multiaddr) bool { return !reach.IsCircuit(a) })
		if !circuits || !direct {
			in.Errorf("the offer's addresses: %v", n.OwnOffer().Addresses())
		}
	})
}

// When a relay dies, another takes its place.
func TestRelayDies(t *testing.T) {
	simulate(t, 4, func(in *internet) {
		n := in.home(nat.Port, 1)
		in.until("two relays", 20*time.Second, func() bool { return len(n.reaching.relays.all()) == 2 })
		time.Sleep(time.Minute)
		dead := n.reaching.relays.all()[0]
		for _, r := range in.all {
			if r.Self() == dead {
				r.Close()
			}
		}
		took := in.until("another relay", 10*time.Second, func() bool {
			all := n.reaching.relays.all()
			return len(all) == 2 && !slices.Contains(all, dead)
		})
		in.Logf("another relay after %v", took)
	})
}

// The verdict on each kind of NAT, in a small network that grows.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		kind   nat.Kind
		proven bool
	}{{nat.Full, true}, {nat.Address, false}, {nat.Port, false}, {nat.Linux, false}, {nat.Symmetric, false}} {
		t.Run(c.kind.Name, func(t *testing.T) {
			simulate(t, 2, func(in *internet) {
				n := in.home(c.kind, 1)
				begin, most := time.Now(), 2*time.Minute
				if c.proven {
					most = 30 * time.Second
				}
				for i := 0; time.Since(begin) < most; i++ {
					if i%200 == 0 && i/200 < 5 {
						in.home(nat.Port, 10+i/200)
					}
					if s := verdictOf(n); s.Verdict == reach.Proven {
						if !c.proven {
							in.Errorf("proven after %v: %+v", time.Since(begin), s)
						} else {
							in.Logf("proven after %v: %+v", time.Since(begin), s)
						}
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				if c.proven {
					in.Errorf("not proven: %+v", verdictOf(n))
				}
			})
		})
	}
}

// The verdict where the node has sent packets to every peer there is: only to
// another port of its own are they strangers.
func TestVerdictAmongAcquaintances(t *testing.T) {
	for _, kind := range nat.Kinds() {
		for _, public := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s and %d others", kind.Name, public), func(t *testing.T) {
				simulate(t, public, func(in *internet) { in.verdictOfOneWhoKnowsAll(kind) })
			})
		}
	}
}

func (in *internet) verdictOfOneWhoKnowsAll(kind nat.Kind) {
	in.Helper()
	n := in.home(kind, 1)
	for _, at := range in.relay {
		s, _ := spotOf(at.Addr)
		n.gate.sending(s.at.Addr())
	}
	if kind.Filter == nat.Independent {
		in.Logf("proven after %v", in.until("proven", 30*time.Second, func() bool { return verdictOf(n).Verdict == reach.Proven }))
		return
	}
	for begin := time.Now(); time.Since(begin) < 2*time.Minute; time.Sleep(100 * time.Millisecond) {
		if s := verdictOf(n); s.Verdict == reach.Proven || s.Strangers > 0 {
			in.Fatalf("after %v: %+v", time.Since(begin), s)
		}
	}
}

// Two homes find a direct path if their NATs let them, and the relayed one is
// limited.
func TestHoles(t *testing.T) {
	for _, c := range []struct {
		from, to nat.Kind
		most     time.Duration // 0: never direct
	}{
		{nat.Port, nat.Port, 800 * time.Millisecond},
		{nat.Full, nat.Symmetric, 3 * time.Second},
		{nat.Symmetric, nat.Port, 0},
	} {
		t.Run(c.from.Name+" dials "+c.to.Name, func(t *testing.T) {
			simulate(t, 2, func(in *internet) {
				a, b := in.home(c.from, 1), in.home(c.to, 2)
				in.until("two relays", 20*time.Second, func() bool { return len(b.reaching.relays.all()) == 2 })
				ctx := network.WithAllowLimitedConn(context.Background(), "test")
				if err := a.Host().Connect(ctx, peer.AddrInfo{ID: b.Self(), Addrs: circuitsOf(b)}); err != nil {
					in.Fatal(err)
				}
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && !a.Direct(b.Self()); time.Sleep(time.Millisecond) {
					path, ok := a.PathTo(b.Self())
					if !ok || path.Direct {
						continue // two that dial each other at once keep one connection
					}
					if path.Left == NoLimit || path.Left > circuitBytes || path.Ends.IsZero() || path.Relay == "" {
						in.Fatalf("a circuit without limits: %+v", path)
					}
				}
				var first, direct time.Time // openings of connections
				for _, c := range a.Host().Network().ConnsToPeer(b.Self()) {
					at := c.Stat().Opened
					if first.IsZero() || at.Before(first) {
						first = at
					}
					if !reach.Relayed(c) {
						direct = at
					}
				}
				path, _ := a.PathTo(b.Self())
				switch took := direct.Sub(first); {
				case c.most == 0 && (path.Direct || path.Why == ""):
					in.Errorf("a path through NATs that allow none: %+v", path)
				case c.most > 0 && (!path.Direct || took > c.most):
					in.Errorf("after %v, want %v: %+v", took, c.most, path)
				}
			})
		})
	}
}
