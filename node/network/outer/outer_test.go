package outer

import (
	"context"
	"crypto/rand"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"
)

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const overQUIC, overTCP = "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"

// relaying starts a node that relays for anybody.
func relaying(t *testing.T, listen ...string) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings(listen...), libp2p.ForceReachabilityPublic(),
		libp2p.EnableRelayService(relay.WithInfiniteLimits()), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// pair is an inner host and its outer one.
type pair struct {
	*Bare
	out *Host
}

func newPair(t *testing.T, cfg Config, relays ...host.Host) *pair {
	t.Helper()
	bare, err := NewBare(BareConfig{Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bare.Close() })
	if cfg.Key == nil {
		cfg.Key = newKey(t)
	}
	cfg.Relays = func() (out []peer.AddrInfo) {
		for _, r := range relays {
			out = append(out, peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()})
		}
		return out
	}
	out, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	if err := out.Attach(bare, bare.Upgrader); err != nil {
		t.Fatal(err)
	}
	return &pair{bare, out}
}

// reachable has a pair be reached through relays, and waits until it is, through so many.
func (p *pair) reachable(t *testing.T, relays int) {
	t.Helper()
	p.out.Want(true)
	await(t, "places at relays", func() bool { return len(p.out.Relays()) == relays })
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in 30 s: ", what)
		}
	}
}

const echoID = "/echo/1"

// says has a send something to b over a circuit, and returns the connection.
func says(t *testing.T, a, b *pair) network.Conn {
	t.Helper()
	b.SetStreamHandler(echoID, func(s network.Stream) { _, _ = io.Copy(s, s); _ = s.Close() })
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(t.Context(), "test"), 20*time.Second)
	defer cancel()
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: b.out.Addrs()}); err != nil {
		t.Fatal(err)
	}
	s, err := a.NewStream(ctx, b.ID(), echoID)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if back, err := io.ReadAll(s); err != nil || string(back) != "hello" {
		t.Fatalf("%q, %v", back, err)
	}
	return s.Conn()
}

// TestCircuits: two hosts speak through a relay, which sees the keys of their outer hosts
// alone, and learns no protocol or address. Their connection counts as limited although
// this relay sets no limits, at both ends.
func TestCircuits(t *testing.T) {
	t.Parallel()
	r := relaying(t, overQUIC) // which measures round trips
	var mu sync.Mutex
	var where []string
	a, b := newPair(t, Config{}, r), newPair(t, Config{Seen: func(relay, local, outside multiaddr.Multiaddr) {
		mu.Lock()
		defer mu.Unlock()
		where = append(where, outside.String())
	}}, r)
	b.reachable(t, 1)
	c := says(t, a, b)
	if !c.Stat().Limited || !Is(c.RemoteMultiaddr()) || c.RemotePeer() != b.ID() {
		t.Errorf("a is connected to %s at %s, limited: %v", c.RemotePeer(), c.RemoteMultiaddr(), c.Stat().Limited)
	}
	in := b.Network().ConnsToPeer(a.ID())
	if len(in) != 1 || !in[0].Stat().Limited {
		t.Fatalf("b has the connections %v", in)
	}
	if _, front, ok := split(in[0].RemoteMultiaddr()); !ok || front != a.out.ID() {
		t.Errorf("b sees a at %s", in[0].RemoteMultiaddr())
	}
	for _, p := range r.Network().Peers() {
		if p != a.out.ID() && p != b.out.ID() {
			t.Errorf("the relay has met %s", p)
		}
		ids, _ := r.Peerstore().GetProtocols(p)
		ids = slices.DeleteFunc(ids, func(id protocol.ID) bool { return id == proto.ProtoIDv2Stop })
		if _, err := r.Peerstore().Get(p, "AgentVersion"); err == nil || len(ids) > 0 {
			t.Errorf("the relay has learnt of %s the protocols %v", p, ids)
		}
	}
	await(t, "the relay says where it sees the outer host", func() bool { mu.Lock(); defer mu.Unlock(); return len(where) > 0 })
	if !b.out.Answers(t.Context(), r.ID()) || b.out.RTT(r.ID()) <= 0 {
		t.Error("the relay does not answer")
	}
	b.out.Want(false)
	await(t, "the place is given up", func() bool { return len(b.out.Addrs()) == 0 })
	if in[0].IsClosed() {
		t.Error("with the place, a circuit is gone")
	}
	b.out.Leave(r.ID())
	await(t, "the circuit is gone", func() bool { return in[0].IsClosed() })
}

// TestRelaysComeAndGo: a relay that dies is replaced, and after a start those that were
// used last are asked first, although others are named first.
func TestRelaysComeAndGo(t *testing.T) {
	t.Parallel()
	all := []host.Host{relaying(t, overQUIC), relaying(t, overTCP), relaying(t, overQUIC, overTCP), relaying(t, overTCP)}
	cfg := Config{Key: newKey(t), Kept: filepath.Join(t.TempDir(), "relays")}
	a := newPair(t, cfg, all[:2]...)
	a.reachable(t, 2)
	await(t, "the relays are kept", func() bool { return len(readRelays(cfg.Kept)) == 2 })
	used := a.out.Relays()
	if err := a.out.Close(); err != nil {
		t.Error(err)
	}
	slices.Reverse(all)
	b := newPair(t, cfg, all...)
	b.out.ahead = seekTime / 2 // on a busy machine the others may be faster than a moment
	b.reachable(t, 2)
	for _, p := range used {
		if !slices.Contains(b.out.Relays(), p) {
			t.Errorf("relay %s was used last, and is used no more", p)
		}
	}
	for _, r := range all {
		if r.ID() == used[0] {
			_ = r.Close()
		}
	}
	await(t, "another relay", func() bool { return len(b.out.Relays()) == 2 && !slices.Contains(b.out.Relays(), used[0]) })
	if got := b.out.Addrs(); len(got) < 2 || !slices.ContainsFunc(got, Is) {
		t.Errorf("reached at %v", got)
	}
}

// TestBriefPlaces: a relay whose places end within seconds is left for another.
func TestBriefPlaces(t *testing.T) {
	t.Parallel()
	terms := relay.DefaultResources()
	terms.ReservationTTL = 10 * time.Second
	brief, err := libp2p.New(libp2p.ListenAddrStrings(overTCP), libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService(relay.WithResources(terms)), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer brief.Close()
	good := relaying(t, overTCP)
	p := newPair(t, Config{}, brief, good)
	p.reachable(t, 1)
	await(t, "the other has been asked", func() bool {
		p.out.mu.Lock()
		defer p.out.mu.Unlock()
		return p.out.rests.of[brief.ID()].last > 0
	})
	if held := p.out.Relays(); len(held) != 1 || held[0] != good.ID() {
		t.Errorf("places at %v", held)
	}
}

// TestNobodyRelays: where no node relays, nothing is reserved, and none is asked again and
// again.
func TestNobodyRelays(t *testing.T) {
	t.Parallel()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	a := newPair(t, Config{}, h)
	if !a.out.Seeks() {
		t.Error("there is a node to ask")
	}
	a.out.Want(true)
	await(t, "it was asked", func() bool {
		a.out.mu.Lock()
		defer a.out.mu.Unlock()
		return len(a.out.rests.of) > 0
	})
	if list, _ := a.out.candidates(); len(list) > 0 || len(a.out.Addrs()) > 0 {
		t.Errorf("asked at once again: %v, %v", list, a.out.Addrs())
	}
}

// TestPlaceAddrs: of what a relay says of its addresses, those are kept that can be
// dialled, one of each kind.
func TestPlaceAddrs(t *testing.T) {
	t.Parallel()
	a := newPair(t, Config{})
	relay := decode(t, aRelay)
	var named []multiaddr.Multiaddr
	for _, s := range []string{
		"/ip4/5.0.0.1/tcp/1/p2p/" + aRelay, "/ip4/5.0.0.1/udp/1/quic-v1", "/ip4/5.0.0.2/udp/1/quic-v1", "/ip4/10.0.0.1/udp/1/quic-v1", "/dns4/a.example/tcp/1",
		"/ip6/2a00::1/udp/1/quic-v1/p2p/" + aFront, "/ip6/2a00::2/tcp/2", "/ip4/5.0.0.1/tcp/1/p2p/" + aRelay + "/p2p-circuit", "/unix/x",
	} {
		named = append(named, multiaddr.StringCast(s))
	}
	var got []string
	for _, x := range a.out.placeAddrs(relay, named) {
		got = append(got, x.String())
	}
	want := []string{"/ip4/5.0.0.1/udp/1/quic-v1", "/ip4/5.0.0.1/tcp/1", "/ip6/2a00::2/tcp/2"}
	if !slices.Equal(got, want) {
		t.Errorf("kept are %v", got)
	}
}
