package natsim

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
)

const delay = 5 * time.Millisecond

func addHost(t *testing.T, n *Net, ip string) *Host {
	t.Helper()
	h, err := n.Host(netip.MustParseAddr(ip), delay)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func behind(n *Net, k nat.Kind, outside string) *Net {
	return n.Behind(k, netip.MustParseAddr(outside), delay)
}

func open(t *testing.T, h *Host) net.PacketConn {
	t.Helper()
	s, err := h.listen("udp", &net.UDPAddr{Port: listenPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sees sends a packet and returns the address from which the other socket sees it come,
// "" for never, and how long it took.
func sees(t *testing.T, from, at net.PacketConn, to string) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	if _, err := from.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		t.Fatal(err)
	}
	if err := at.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, addr, err := at.ReadFrom(make([]byte, 100))
	if err != nil || n != 5 {
		return "", time.Since(began)
	}
	return addr.String(), time.Since(began)
}

// TestWays: what a packet crosses costs time and changes where it seems to come from.
func TestWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		internet := New()
		server := open(t, addHost(t, internet, "5.0.0.1"))
		home := behind(internet, nat.Port, "6.1.0.1")
		a, b := open(t, addHost(t, home, "10.1.0.2")), open(t, addHost(t, home, "10.1.0.3"))
		carrier := behind(internet, nat.Full, "6.2.0.1")
		phone := behind(carrier, nat.Full, "100.64.0.9")
		c := open(t, addHost(t, phone, "192.168.1.2"))
		v6 := open(t, addHost(t, internet, "2a00::1"))
		walled := open(t, addHost(t, internet.Behind(nat.Port, netip.Addr{}, delay), "2a01::2"))
		for _, x := range []struct {
			what     string
			from, at net.PacketConn
			to, seen string
			took     time.Duration
		}{
			{"a stranger before anything was sent", server, a, "6.1.0.1:4001", "", time.Second},
			{"out of a home", a, server, "5.0.0.1:4001", "6.1.0.1:4001", 3 * delay},
			{"the answer", server, a, "6.1.0.1:4001", "5.0.0.1:4001", 3 * delay},
			{"within a home", a, b, "10.1.0.3:4001", "10.1.0.2:4001", 2 * delay},
			{"to a neighbour by the outside address", a, b, "6.1.0.1:4001", "", time.Second},
			{"to another home's inside address", a, c, "192.168.1.2:4001", "", time.Second},
			{"out through two boxes", c, server, "5.0.0.1:4001", "6.2.0.1:4001", 4 * delay},
			{"in through two boxes", a, c, "6.2.0.1:4001", "6.1.0.1:4001", 5 * delay},
			{"a stranger to a firewall", v6, walled, "[2a01::2]:4001", "", time.Second},
			{"out of a firewall", walled, v6, "[2a00::1]:4001", "[2a01::2]:4001", 3 * delay},
			{"the answer through a firewall", v6, walled, "[2a01::2]:4001", "[2a00::1]:4001", 3 * delay},
		} {
			seen, took := sees(t, x.from, x.at, x.to)
			if seen != x.seen || took != x.took {
				t.Errorf("%s: from %q after %v, want %q after %v", x.what, seen, took, x.seen, x.took)
			}
		}
		if n := home.Entries(); n != 1 {
			t.Errorf("the home's box has %d entries", n)
		}
	})
}

func TestMoveAndCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		internet := New()
		far := addHost(t, internet, "5.0.0.1")
		server := open(t, far)
		home := behind(internet, nat.Full, "6.1.0.1")
		a := open(t, addHost(t, home, "10.1.0.2"))
		if seen, _ := sees(t, a, server, "5.0.0.1:4001"); seen != "6.1.0.1:4001" {
			t.Fatal(seen)
		}
		home.Move(netip.MustParseAddr("6.9.0.1"))
		if seen, _ := sees(t, server, a, "6.1.0.1:4001"); seen != "" {
			t.Error("the old address still leads there")
		}
		if seen, _ := sees(t, a, server, "5.0.0.1:4001"); seen != "6.9.0.1:4001" {
			t.Errorf("seen from %s after the move", seen)
		}
		internet.Wall(netip.MustParseAddr("5.0.0.1"), netip.MustParseAddr("6.9.0.1"), true)
		if seen, _ := sees(t, a, server, "5.0.0.1:4001"); seen != "" {
			t.Error("a packet crossed a wall")
		}
		internet.Wall(netip.MustParseAddr("6.9.0.1"), netip.MustParseAddr("5.0.0.1"), false)
		if seen, _ := sees(t, server, a, "6.9.0.1:4001"); seen == "" {
			t.Error("no packet passes where a wall was")
		}
		far.Cut(true)
		if seen, _ := sees(t, a, server, "5.0.0.1:4001"); seen != "" {
			t.Error("a packet crossed a cut line")
		}
		far.Cut(false)
		if seen, _ := sees(t, a, server, "5.0.0.1:4001"); seen == "" {
			t.Error("no packet crosses the line that was put back")
		}
	})
}

// TestOrder: packets of one instant arrive in the order in which they were sent.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		internet := New()
		server := open(t, addHost(t, internet, "5.0.0.1"))
		a := open(t, addHost(t, behind(internet, nat.Port, "6.1.0.1"), "10.1.0.2"))
		to := &net.UDPAddr{IP: net.IP{5, 0, 0, 1}, Port: listenPort}
		for i := range byte(200) {
			if _, err := a.WriteTo([]byte{i}, to); err != nil {
				t.Fatal(err)
			}
		}
		for i := range byte(200) {
			var b [1]byte
			if _, _, err := server.ReadFrom(b[:]); err != nil || b[0] != i {
				t.Fatalf("packet %d in place of %d, %v", b[0], i, err)
			}
		}
	})
}

func TestTaken(t *testing.T) {
	internet := New()
	h := addHost(t, internet, "5.0.0.1")
	if _, err := internet.Host(h.ip, 0); err == nil {
		t.Error("two hosts have one address")
	}
	open(t, h)
	if _, err := h.listen("udp", &net.UDPAddr{Port: listenPort}); err == nil {
		t.Error("two sockets have one port")
	}
}
