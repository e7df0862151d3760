package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

var errNobody = errors.New("nobody answers")

// clockGate is a gate whose clock the test controls, on a machine in 10/8.
func clockGate() (g *gate, pass func(time.Duration)) {
	g = newGate()
	now := time.Now()
	g.now = func() time.Time { return now }
	g.here = func(b netip.Prefix) bool { return b.Contains(netip.MustParseAddr("10.0.0.1")) || b.Addr().IsLoopback() }
	return g, func(d time.Duration) { now = now.Add(d) }
}

func ma(format string, args ...any) multiaddr.Multiaddr {
	return multiaddr.StringCast(fmt.Sprintf(format, args...))
}

func TestGateNetworks(t *testing.T) {
	g, _ := clockGate()
	named := peer.ID("named")
	g.name(peer.AddrInfo{ID: named, Addrs: []multiaddr.Multiaddr{ma("/ip4/127.0.0.1/tcp/4001")}})
	g.find(peer.AddrInfo{ID: "found", Addrs: []multiaddr.Multiaddr{ma("/ip4/10.0.0.7/tcp/4001"), ma("/ip4/127.0.0.1/tcp/22"), ma("/ip4/192.168.1.1/tcp/80")}})
	all := []string{
		"/ip4/127.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/22", "/ip4/10.0.0.7/tcp/4001", "/ip4/192.168.1.1/tcp/80", "/ip4/169.254.169.254/tcp/80",
		"/ip4/224.0.0.1/udp/4001/quic-v1", "/ip4/255.255.255.255/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/22", "/ip6/fe80::1/tcp/22", "/dns4/localhost/tcp/22",
		"/ip4/203.0.113.7/udp/4001/quic-v1",
	}
	check := func(when string, p peer.ID, want ...string) {
		t.Helper()
		for _, s := range all {
			may := false
			for _, w := range want {
				may = may || w == s
			}
			if got := g.allow(p, ma("%s", s)); got != may {
				t.Errorf("%s: %s is dialled at %s: %v", when, p, s, got)
			}
			g.miss(ma("%s", s), context.Canceled)
		}
	}
	check("nobody is on a private network", "stranger", "/ip4/203.0.113.7/udp/4001/quic-v1")
	check("nobody is on a private network", named, "/ip4/203.0.113.7/udp/4001/quic-v1", "/ip4/127.0.0.1/tcp/4001")
	check("nobody is on a private network", "found", "/ip4/203.0.113.7/udp/4001/quic-v1", "/ip4/10.0.0.7/tcp/4001")
	g.met = func(b netip.Prefix) bool { return !b.Addr().IsLoopback() }
	check("peers are on private networks", "stranger", "/ip4/203.0.113.7/udp/4001/quic-v1", "/ip4/10.0.0.7/tcp/4001")
	g.loopback = true
	check("all is on loopback", "stranger", "/ip4/203.0.113.7/udp/4001/quic-v1", "/ip4/10.0.0.7/tcp/4001", "/ip4/127.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/22")
}

// What a peer reports about addresses counts only as far as it can see them.
func TestBelievable(t *testing.T) {
	told := []multiaddr.Multiaddr{ma("/ip4/127.0.0.1/tcp/22"), ma("/ip4/10.0.0.1/tcp/22"), ma("/ip4/198.51.100.1/tcp/4001"), ma("/dns4/inside.example/tcp/80")}
	for from, want := range map[string]int{"/ip4/203.0.113.7/tcp/4001": 1, "/ip4/10.0.0.9/tcp/4001": 2, "/ip4/127.0.0.1/tcp/4001": 3} {
		if got := believable(connFrom{at: ma("%s", from)}, told); len(got) != want {
			t.Errorf("from %s: %v", from, got)
		}
	}
	if got := believable(connFrom{at: ma("/ip4/127.0.0.1/tcp/4001"), relayed: true}, told); len(got) != 1 {
		t.Errorf("over a relay: %v", got)
	}
	if got := believable(nil, told); len(got) != 1 {
		t.Errorf("of one that is gone: %v", got)
	}
	var many []multiaddr.Multiaddr
	for i := range 16 {
		many = append(many, ma("/ip4/198.51.100.%d/tcp/4001", i))
	}
	mixed := append(many[:8:8], ma("/ip4/172.17.0.1/tcp/4001"), ma("/ip4/10.0.0.7/tcp/4001"))
	if got := believable(connFrom{at: ma("/ip4/10.0.0.9/tcp/4001")}, mixed); !got[0].Equal(mixed[9]) {
		t.Errorf("what is near comes first: %v", got)
	}
	if got := believable(nil, many); len(got) != maxAddrs {
		t.Errorf("%d addresses of one peer", len(got))
	}
}

// connFrom is a connection with only what believable uses.
type connFrom struct {
	network.Conn
	at      multiaddr.Multiaddr
	relayed bool
}

func (c connFrom) RemoteMultiaddr() multiaddr.Multiaddr { return c.at }
func (c connFrom) Stat() network.ConnStats {
	return network.ConnStats{Stats: network.Stats{Limited: c.relayed}}
}

func TestGateShuns(t *testing.T) {
	g, pass := clockGate()
	at := ma("/ip4/203.0.113.7/udp/4001/quic-v1")
	for range 2 {
		if !g.allow("a", at) {
			t.Fatal("a peer's own dial is stopped half way")
		}
	}
	if g.allow("b", at) {
		t.Fatal("one peer at a time is tried at an address")
	}
	g.miss(at, errNobody)
	if g.allow("b", at) || g.allow("a", at) {
		t.Error("an address is dialled again at once")
	}
	pass(againTime + time.Second)
	if g.allow("b", at) || !g.allow("a", at) {
		t.Error("who named it first has one more try, and nobody else")
	}
	g.miss(at, errNobody)
	pass(againTime + time.Second)
	if g.allow("a", at) {
		t.Error("the second time it is not longer")
	}
	pass(shunTime)
	if !g.allow("b", at) {
		t.Error("for ever")
	}
	g.miss(at, errNobody)
	g.prove("c", at) // it came from there
	if !g.allow("c", at) || !g.isProven("c", at) {
		t.Error("who proved to be there is not dialled")
	}
	// A dial that was allowed but did not begin, since another address was
	// faster, leaves no trace.
	other := ma("/ip4/203.0.113.8/tcp/4001")
	if !g.allow("a", other) {
		t.Fatal("another address")
	}
	pass(undialled + 2*time.Second)
	if !g.allow("b", other) {
		t.Error("a dial that did not begin counts")
	}
}

func TestGateRates(t *testing.T) {
	g, pass := clockGate()
	dial := func(p peer.ID, a multiaddr.Multiaddr) int {
		if !g.allow(p, a) {
			return 0
		}
		g.miss(a, errNobody)
		return 1
	}
	count := 0
	for port := range 500 {
		count += dial(peer.ID(fmt.Sprint("made up ", port)), ma("/ip4/203.0.113.7/tcp/%d", port+1))
	}
	if count != perIP {
		t.Errorf("%d dials to one address, want %d", count, perIP)
	}
	count = 0
	for i := range 250 {
		count += dial(peer.ID(fmt.Sprint("made up ", i)), ma("/ip4/198.51.100.%d/tcp/80", i))
	}
	if count != perNet {
		t.Errorf("%d dials to one network, want %d", count, perNet)
	}
	count = 0
	for i := range 30 {
		if g.allow("one", ma("/ip4/192.0.%d.1/tcp/80", i)) {
			count++
		}
	}
	if count != maxAddrs {
		t.Errorf("%d addresses of one peer at once", count)
	}
	pass(shunTime / 2)
	if dial("late", ma("/ip4/203.0.113.7/tcp/9999")) == 0 {
		t.Error("an address is closed for good")
	}
	// Where peers are there may be more of them, and dials to proven addresses
	// are free.
	for i := range 1000 {
		a := ma("/ip4/192.0.2.1/tcp/%d", 1000+i)
		if !g.allow(peer.ID(fmt.Sprint("honest ", i)), a) {
			t.Fatal("an honest peer is not dialled: number ", i)
		}
		g.prove(peer.ID(fmt.Sprint("honest ", i)), a)
	}
}

func FuzzBelievable(f *testing.F) {
	f.Add(ma("/ip4/10.0.0.1/tcp/22").Bytes(), ma("/ip6/2001:db8::1/udp/1/quic-v1").Bytes())
	f.Add(ma("/ip4/1.2.3.4/tcp/1/p2p-circuit").Bytes(), ma("/dns4/x.example/tcp/1").Bytes())
	f.Fuzz(func(t *testing.T, a, b []byte) {
		told, err := multiaddr.NewMultiaddrBytes(a)
		from, err2 := multiaddr.NewMultiaddrBytes(b)
		if err != nil || err2 != nil {
			return
		}
		g, _ := clockGate()
		for _, a := range believable(connFrom{at: from}, []multiaddr.Multiaddr{told}) {
			g.allow("x", a)
			g.prove("x", a)
			g.miss(a, errNobody)
		}
	})
}

// Hundreds of made-up peers all claim to be at one listener. It is hardly
// dialled, and the honest peer is.
func TestReflection(t *testing.T) {
	var got atomic.Int64
	var addrs []string
	for range 16 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				got.Add(1)
				c.Close()
			}
		}()
		addrs = append(addrs, fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
	}
	honest, victim := join(t, false), join(t, true)
	if err := honest.SetOffer(serves(0, 30)); err != nil {
		t.Fatal(err)
	}
	if err := victim.Host().Connect(t.Context(), infoOf(honest)); err != nil {
		t.Fatal(err)
	}
	for range 40 { // whom it has heard it from
		h := rawHost(t)
		if err := h.Connect(t.Context(), infoOf(victim)); err != nil {
			t.Fatal(err)
		}
		for range hearsayStranger {
			if err := victim.hear(h.ID(), sealed(t, newKey(t), 1, addrs...).Envelope); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := victim.KnownOffers(); got < offersModel {
		t.Fatalf("%d made-up peers", got)
	}
	for range 4 { // as prompts do
		var wg sync.WaitGroup
		for _, o := range victim.Offers(t.Context(), model, func(list []*protocol.Offer) bool { return len(list) > 200 }) {
			wg.Go(func() { _, _ = victim.Status(t.Context(), o.From, model, nil) })
		}
		wg.Wait()
	}
	t.Log("connections: ", got.Load())
	if n := got.Load(); n > 20 {
		t.Errorf("%d connections to an address at which nobody proved himself", n)
	}
	if _, err := victim.Status(t.Context(), honest.Self(), cid.Undef, nil); err != nil {
		t.Error("the honest peer: ", err)
	}
}

// push sends an offer as the sender's own.
func push(ctx context.Context, open func(context.Context, peer.ID, ...libprotocol.ID) (network.Stream, error), to peer.ID, raw []byte) error {
	s, err := open(ctx, to, libprotocol.ID(protocol.OffersID))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := writeMessage(s, &protocol.OffersRequest{Own: raw}); err != nil {
		return err
	}
	_ = s.CloseWrite()
	_, err = io.Copy(io.Discard, s)
	return err
}
