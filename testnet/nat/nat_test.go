package nat

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	home    = netip.MustParseAddr("6.0.1.1")
	inside  = netip.MustParseAddrPort("10.0.0.2:4001")
	inside2 = netip.MustParseAddrPort("10.0.0.3:4001")
	remote  = netip.MustParseAddrPort("5.0.0.1:10")
	another = netip.MustParseAddrPort("5.0.0.1:11") // port of the same address
	far     = netip.MustParseAddrPort("5.0.1.1:10")
	start   = time.Unix(1e9, 0)
)

// TestKinds asks each kind: is the port kept, does a second remote see the same
// port, may a stranger send in, may a known address from another port.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		kind                           Kind
		kept, same, stranger, samePort bool
	}{
		{Full, true, true, true, true},
		{Address, true, true, false, true},
		{Port, true, true, false, false},
		{Linux, true, true, false, false},
		{Symmetric, false, false, false, false},
	} {
		for _, udp := range []bool{true, false} {
			n := New(c.kind, home, 1)
			first, ok := n.Out(Flow{udp, inside, remote}, start)
			if !ok || first.Src.Addr() != home || first.Dst != remote {
				t.Fatalf("%s: out %v %v", c.kind.Name, first, ok)
			}
			_, stranger := n.In(Flow{udp, far, first.Src}, start)
			_, samePort := n.In(Flow{udp, another, first.Src}, start)
			second, _ := n.Out(Flow{udp, inside, far}, start)
			got := []bool{first.Src.Port() == inside.Port(), first.Src == second.Src, stranger, samePort}
			if want := []bool{c.kept, c.same, c.stranger, c.samePort}; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s udp %v: %v, want %v", c.kind.Name, udp, got, want)
			}
			back, ok := n.In(Flow{udp, remote, first.Src}, start)
			if !ok || back.Dst != inside || back.Src != remote {
				t.Errorf("%s: the answer came to %v, %v", c.kind.Name, back, ok)
			}
		}
	}
}

func TestTimeout(t *testing.T) {
	for _, k := range append(Kinds(), Kind{Name: "firewall"}) {
		outside := home
		if k.Name == "firewall" {
			k, outside = Port, netip.Addr{}
		}
		for _, udp := range []bool{true, false} {
			n := New(k, outside, 1)
			o, _ := n.Out(Flow{udp, inside, remote}, start)
			alive := start.Add(n.timeout(udp)) // and refreshed by the answer
			if _, ok := n.In(Flow{udp, remote, o.Src}, alive); !ok {
				t.Errorf("%s udp %v: died early", k.Name, udp)
			}
			if _, ok := n.In(Flow{udp, remote, o.Src}, alive.Add(n.timeout(udp))); !ok {
				t.Errorf("%s udp %v: the answer did not refresh it", k.Name, udp)
			}
			if _, ok := n.In(Flow{udp, remote, o.Src}, alive.Add(3*n.timeout(udp))); ok || n.Len(alive.Add(3*n.timeout(udp))) != 0 {
				t.Errorf("%s udp %v: outlived its idle time", k.Name, udp)
			}
		}
	}
}

// TestSilentRemote: an entry that others keep alive does not let in a remote
// that has been silent for too long.
func TestSilentRemote(t *testing.T) {
	n := New(Port, home, 1)
	o, _ := n.Out(Flow{true, inside, remote}, start)
	later := start.Add(n.kind.UDPTimeout)
	n.Out(Flow{true, inside, far}, later)
	if _, ok := n.In(Flow{true, remote, o.Src}, later.Add(1)); ok {
		t.Error("came in")
	}
}

// TestTwoInside: two hosts with the same inside port get different outside ones.
func TestTwoInside(t *testing.T) {
	for _, k := range Kinds() {
		n := New(k, home, 1)
		a, _ := n.Out(Flow{true, inside, remote}, start)
		b, _ := n.Out(Flow{true, inside2, remote}, start)
		if a.Src == b.Src {
			t.Errorf("%s: both are %v", k.Name, a.Src)
		}
		if f, ok := n.In(Flow{true, remote, b.Src}, start); !ok || f.Dst != inside2 {
			t.Errorf("%s: the second's answer came to %v", k.Name, f.Dst)
		}
	}
}

func TestFirewall(t *testing.T) {
	n := New(Port, netip.Addr{}, 1)
	own, peer := netip.MustParseAddrPort("[2a00::2]:4001"), netip.MustParseAddrPort("[2a01::2]:4001")
	if _, ok := n.In(Flow{true, peer, own}, start); ok {
		t.Error("let a stranger in")
	}
	if o, ok := n.Out(Flow{true, own, peer}, start); !ok || o.Src != own {
		t.Errorf("changed %v to %v", own, o.Src)
	}
	if _, ok := n.In(Flow{true, peer, own}, start); !ok {
		t.Error("kept the answer out")
	}
}

func TestBlockUDP(t *testing.T) {
	k := Full
	k.BlockUDP = true
	n := New(k, home, 1)
	if _, ok := n.Out(Flow{true, inside, remote}, start); ok {
		t.Error("UDP went out")
	}
	if _, ok := n.Out(Flow{false, inside, remote}, start); !ok {
		t.Error("TCP did not")
	}
}

func TestHairpin(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		k := Port
		k.Hairpin = hairpin
		n := New(k, home, 1)
		a, _ := n.Out(Flow{true, inside, remote}, start)
		b, _ := n.Out(Flow{true, inside2, remote}, start)
		n.Out(Flow{true, inside2, a.Src}, start)
		f, ok := n.Out(Flow{true, inside, b.Src}, start)
		if ok {
			f, ok = n.In(f, start)
		}
		if ok != hairpin || ok && (f.Dst != inside2 || f.Src != a.Src) {
			t.Errorf("hairpin %v: %v %v", hairpin, f, ok)
		}
	}
}

func TestMove(t *testing.T) {
	n := New(Full, home, 1)
	o, _ := n.Out(Flow{true, inside, remote}, start)
	n.Move(netip.MustParseAddr("6.0.9.9"))
	if _, ok := n.In(Flow{true, remote, o.Src}, start); ok {
		t.Error("the old address still works")
	}
	if o, _ := n.Out(Flow{true, inside, remote}, start); o.Src.Addr() != n.Outside() {
		t.Errorf("sends from %v", o.Src)
	}
}

// TestPortsRunOut: a full table refuses, and works again once entries are idle.
func TestPortsRunOut(t *testing.T) {
	n := New(Symmetric, home, 1)
	n.lowest = 64000
	to := func(i int) netip.AddrPort { return netip.AddrPortFrom(far.Addr(), uint16(i)) }
	for i := range 1<<16 - n.lowest {
		if _, ok := n.Out(Flow{true, inside, to(i)}, start); !ok {
			t.Fatalf("refused entry %d", i)
		}
	}
	if _, ok := n.Out(Flow{true, inside2, far}, start); ok {
		t.Error("there was one more port")
	}
	later := start.Add(n.kind.UDPTimeout + 1)
	if _, ok := n.Out(Flow{true, inside2, far}, later); !ok || n.Len(later) != 1 {
		t.Errorf("%v with %d live entries", ok, n.Len(later))
	}
	if _, ok := n.Out(Flow{true, inside2, remote}, later); !ok || len(n.byKey) > 2 {
		t.Errorf("%v, %d entries were kept", ok, len(n.byKey))
	}
}

func TestPunchable(t *testing.T) {
	easy := 0
	for _, a := range Kinds() {
		for _, b := range Kinds() {
			if punch(a, b) != Punchable(a, b) {
				t.Errorf("%s x %s: %v in the tables", a.Name, b.Name, punch(a, b))
			}
			if Punchable(a, b) {
				easy++
			}
		}
	}
	if easy != 20 {
		t.Errorf("%d of 25 pairs", easy)
	}
}

// punch reports whether two boxes let each other's hosts through after both have
// told a third where they appear, and have sent twice to what the other told, or
// to where its packets came from.
func punch(a, b Kind) bool {
	x, y := New(a, home, 1), New(b, netip.MustParseAddr("6.0.2.1"), 2)
	atX, _ := x.Out(Flow{true, inside, remote}, start)
	atY, _ := y.Out(Flow{true, inside2, remote}, start)
	toX, toY := atX.Src, atY.Src
	for range 2 {
		if f, ok := x.Out(Flow{true, inside, toY}, start); ok {
			if _, ok := y.In(f, start); ok {
				toX = f.Src
			}
		}
		if f, ok := y.Out(Flow{true, inside2, toX}, start); ok {
			if _, ok := x.In(f, start); ok {
				toY = f.Src
			}
		}
	}
	f, ok := x.Out(Flow{true, inside, toY}, start)
	if !ok {
		return false
	}
	if f, ok = y.In(f, start); !ok {
		return false
	}
	_, ok = x.In(Flow{true, toY, f.Src}, start)
	return ok
}

// FuzzNAT plays packets and pauses against every kind, and checks the package's
// invariants.
func FuzzNAT(f *testing.F) {
	f.Add(uint8(0), []byte{0, 1, 2, 3, 64, 65, 130, 200, 255})
	f.Add(uint8(4), []byte{0, 64, 4, 68, 255, 255, 64, 1, 65})
	f.Add(uint8(9), []byte{7, 71, 7, 71, 192, 71})
	f.Fuzz(func(t *testing.T, kind uint8, ops []byte) {
		outside := home
		if kind&16 != 0 {
			outside = netip.Addr{}
		}
		k := Kinds()[int(kind&15)%len(Kinds())]
		n := New(k, outside, 1)
		type sent struct{ inside, outside netip.AddrPort }
		opened := map[bool][]sent{}
		now := start
		for _, op := range ops {
			udp := op&32 == 0
			remote := []netip.AddrPort{remote, another, far, netip.MustParseAddrPort("5.0.2.1:99")}[op&3]
			from := []netip.AddrPort{inside, inside2}[op>>2&1]
			switch op >> 6 {
			case 0: // out, and the answer
				o, ok := n.Out(Flow{udp, from, remote}, now)
				if !ok {
					t.Fatal("refused with free ports")
				}
				if k.Mapping == Independent {
					if p, _ := n.Out(Flow{udp, from, far}, now); p.Src != o.Src {
						t.Fatalf("appears at %v and %v", o.Src, p.Src)
					}
				}
				if b, ok := n.In(Flow{udp, remote, o.Src}, now); !ok || b.Dst != from {
					t.Fatalf("the answer for %v came to %v, %v", from, b.Dst, ok)
				}
				opened[udp] = append(opened[udp], sent{from, o.Src})
			case 1, 2: // in, to a place that was open once
				if len(opened[udp]) == 0 {
					continue
				}
				to := opened[udp][int(op>>2)%len(opened[udp])].outside
				b, ok := n.In(Flow{udp, remote, to}, now)
				if !ok {
					continue
				}
				found := false
				for _, s := range opened[udp] {
					found = found || s == sent{b.Dst, to}
				}
				if !found {
					t.Fatalf("%v came in to %v, which never sent from there", to, b.Dst)
				}
			case 3:
				now = now.Add(time.Duration(op&31) * 10 * time.Second)
			}
		}
		owner := map[place]netip.AddrPort{}
		for _, e := range n.byKey {
			if n.dead(e, now) {
				continue
			}
			if o, ok := owner[e.at]; ok && o != e.key.inside {
				t.Fatalf("%v belongs to %v and %v", e.at.outside, o, e.key.inside)
			}
			owner[e.at] = e.key.inside
		}
		for _, udp := range []bool{true, false} {
			for _, s := range opened[udp] {
				if _, ok := n.In(Flow{udp, remote, s.outside}, now.Add(3*tcpTimeout)); ok {
					t.Fatal("let a packet in after everything had timed out")
				}
			}
		}
	})
}
