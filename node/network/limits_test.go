package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

// rawHost is a host without any of this package's manners, on TCP.
func rawHost(t testing.TB, listen ...string) host.Host {
	t.Helper()
	opts := []libp2p.Option{libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableMetrics(), libp2p.Transport(tcp.NewTCPTransport), libp2p.NoListenAddrs}
	if len(listen) > 0 {
		opts[len(opts)-1] = libp2p.ListenAddrStrings(listen...)
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func infoOf(n *Network) peer.AddrInfo { return peer.AddrInfo{ID: n.Self(), Addrs: n.Addrs()} }

// joinAs starts a node on loopback with settings of a test's own.
func joinAs(t testing.TB, set func(*Config)) *Network {
	t.Helper()
	cfg := Config{Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Version: "test"}
	set(&cfg)
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestPerAddress(t *testing.T) {
	for _, c := range []struct {
		addr string
		want int // of 100 connections
	}{
		{"/ip4/203.0.113.7/udp/4001/quic-v1", perAddress},
		{"/ip6/2001:db8::7/udp/4001/quic-v1", perAddress},
		{"/ip4/192.168.1.7/udp/4001/quic-v1", 100},
		{"/ip4/100.64.1.7/udp/4001/quic-v1", 100},
		{"/ip6/fd00::7/udp/4001/quic-v1", 100},
		{"/ip4/127.0.0.1/udp/4001/quic-v1", 100},
	} {
		rm, err := newResources(manyConns, protocol.DHTPrefix)
		if err != nil {
			t.Fatal(err)
		}
		let := 0
		for range 100 {
			s, err := rm.OpenConnection(network.DirInbound, false, multiaddr.StringCast(c.addr))
			if err != nil {
				continue
			}
			let++
			// It has said who it is: only so many may be about to.
			if err := s.SetPeer(peer.ID(fmt.Sprint("made up ", let))); err != nil {
				t.Fatal(err)
			}
		}
		if let != c.want {
			t.Errorf("%s: %d of 100 connections are let in, want %d", c.addr, let, c.want)
		}
		rm.Close()
	}
}

// Twelve nodes and clients behind one address join.
func TestBehindOneAddress(t *testing.T) {
	ip := lanAddress()
	if ip == "" {
		t.Skip("this machine has no IPv4 address but loopback")
	}
	here := func(c *Config) {
		c.ListenAddrs = []string{"/ip4/" + ip + "/udp/0/quic-v1", "/ip4/" + ip + "/tcp/0"}
	}
	boot := joinAs(t, here)
	for i := range 12 {
		n := joinAs(t, func(c *Config) {
			here(c)
			c.Client, c.Bootstrap = i%2 == 0, boot.FullAddrs()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := n.WaitPeers(ctx); err != nil {
			t.Fatalf("number %d: %v", i+1, err)
		}
		cancel()
	}
	await(t, "all twelve", func() bool { return len(boot.Peers()) == 12 })
}

func lanAddress() string {
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, ok := a.(*net.IPNet); ok && p.IP.To4() != nil && !p.IP.IsLoopback() {
			return p.IP.String()
		}
	}
	return ""
}

// Made-up peers fill a node up, and a newcomer is let in all the same; who was
// named by the operator, or did work, stays.
func TestCrowd(t *testing.T) {
	if manyConns.high >= manyConns.brim || manyConns.brim >= manyConns.inbound {
		t.Fatalf("the door is closed before there is room: %+v", manyConns)
	}
	friend := join(t, false)
	n := joinAs(t, func(c *Config) {
		c.crowd = crowd{low: 8, high: 12, brim: 20, inbound: 40, grace: time.Minute}
		c.Bootstrap = friend.FullAddrs()
	})
	await(t, "the friend", func() bool { return len(n.Peers()) == 1 })
	worker := rawHost(t)
	if err := worker.Connect(t.Context(), infoOf(n)); err != nil {
		t.Fatal(err)
	}
	n.Worked(worker.ID())
	var made []host.Host
	for range 60 { // with a bound of 40
		made = append(made, rawHost(t))
	}
	var wg sync.WaitGroup
	for i := range made {
		if i%10 == 0 {
			wg.Wait()
		}
		wg.Go(func() { _ = made[i].Connect(t.Context(), infoOf(n)) })
	}
	wg.Wait()
	newcomer := join(t, true, n)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := newcomer.WaitPeers(ctx); err != nil {
		t.Error("a newcomer: ", err)
	}
	for _, p := range []peer.ID{friend.Self(), worker.ID()} {
		if n.Host().Network().Connectedness(p) != network.Connected {
			t.Error("one that should have stayed was closed")
		}
	}
	if got := len(n.Host().Network().Conns()); got > 25 {
		t.Errorf("%d connections, beyond a brim of 20", got)
	}
}

// One that is there and full says so.
func TestRefused(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	full := joinAs(t, func(c *Config) { c.crowd = crowd{low: 1, high: 2, brim: 9, inbound: 2, grace: time.Hour} })
	for range 2 {
		if err := rawHost(t).Connect(t.Context(), infoOf(full)); err != nil {
			t.Fatal(err)
		}
	}
	n := join(t, true, full)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if err := n.WaitPeers(ctx); !errors.Is(err, ErrRefused) {
		t.Errorf("a full peer: %v", err)
	}
}

// A peer that is gone is named, by a node that has no other to ask.
func TestAloneWithOneThatIsGone(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	gone := join(t, false)
	addrs := gone.FullAddrs()
	gone.Close()
	n := joinAs(t, func(c *Config) { c.Bootstrap = addrs })
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if err := n.WaitPeers(ctx); !errors.Is(err, ErrAlone) || !strings.Contains(err.Error(), gone.Self().String()) {
		t.Errorf("one that is gone: %v", err)
	}
}

// A peer has so many streams of a protocol and no more; what many sessions of
// one client need is there.
func TestStreamLimits(t *testing.T) {
	n := join(t, false)
	n.Handle(protocol.StageID, func(s *Stream) { _, _ = io.Copy(io.Discard, s) })
	h := rawHost(t)
	if err := h.Connect(t.Context(), infoOf(n)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		proto      string
		open, want int
	}{{protocol.OffersID, 40, 16}, {protocol.StageID, 300, 256}} {
		for range c.open {
			s, err := h.NewStream(t.Context(), n.Self(), libprotocol.ID(c.proto))
			if err == nil {
				_, _ = s.Write([]byte{1 << 7}) // a message that is never whole
			}
		}
		await(t, "streams of "+c.proto, func() bool { return counted(n, h.ID(), c.proto) == c.want })
	}
	// Another peer is not the worse for it, and may ask very often at once.
	other := join(t, true, n)
	if err := other.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for range 150 {
		go func() { errs <- other.ask(t.Context(), n.Self(), model) }()
	}
	for range 150 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// counted is how many streams of a protocol a peer has here.
func counted(n *Network, p peer.ID, proto string) (count int) {
	for _, c := range n.Host().Network().ConnsToPeer(p) {
		for _, s := range c.GetStreams() {
			if string(s.Protocol()) == proto {
				count++
			}
		}
	}
	return count
}

// A peer that the operator no longer names loses what naming it gave, unless it is also a
// bootstrap peer.
func TestProtect(t *testing.T) {
	boot, other := infoOf(joinAs(t, func(*Config) {})), peer.ID("other")
	addrs, err := peer.AddrInfoToP2pAddrs(&boot)
	if err != nil {
		t.Fatal(err)
	}
	n := joinAs(t, func(c *Config) { c.Bootstrap = []string{addrs[0].String()} })
	n.Protect(map[peer.ID]bool{boot.ID: true, other: true})
	if !n.isFriend(other) {
		t.Error("a peer that is named is not protected")
	}
	n.Protect(nil)
	if !n.isFriend(boot.ID) || n.isFriend(other) {
		t.Errorf("friends: the bootstrap peer %v, the other %v", n.isFriend(boot.ID), n.isFriend(other))
	}
}
