package network

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// deadPorts are UDP ports at which nobody answers, and nobody says so.
func deadPorts(t *testing.T, count int) (ports []int) {
	t.Helper()
	for range count {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { u.Close() })
		ports = append(ports, u.LocalAddr().(*net.UDPAddr).Port)
	}
	return ports
}

func idOf(t testing.TB) string {
	t.Helper()
	id, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// Of 65 remembered peers 64 are gone, and the living one was seen longest ago.
// The file is an older version's.
func TestManyGone(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	alive := join(t, false)
	type old struct {
		ID    string    `json:"id"`
		Addrs []string  `json:"addrs"`
		RTT   float64   `json:"rtt_ms"`
		Seen  time.Time `json:"seen"`
	}
	now := time.Now()
	list := []old{{alive.Self().String(), []string{alive.Addrs()[0].String()}, 1, now.Add(-time.Hour)}}
	for _, port := range deadPorts(t, 64) {
		list = append(list, old{idOf(t), []string{fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port)}, 1, now})
	}
	raw, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "peers.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	n := joinAs(t, func(c *Config) { c.PeersFile = file })
	await(t, "the living one", func() bool { return len(n.Peers()) == 1 })
	t.Log("connected after", time.Since(begin))
	if n.Health().Alone {
		t.Error("it says that it knows of nobody")
	}
}

// Of each draw some are of each kind, so that what strangers told of does not
// keep old friends waiting.
func TestDraws(t *testing.T) {
	n := joinAs(t, func(c *Config) { c.PeersFile = filepath.Join(t.TempDir(), "peers.json") })
	friend, err := peer.Decode(idOf(t))
	if err != nil {
		t.Fatal(err)
	}
	n.book.met(friend, []multiaddr.Multiaddr{ma("/ip4/203.0.113.7/tcp/4001")}, 0)
	for range 50 {
		id, err := peer.Decode(idOf(t))
		if err != nil {
			t.Fatal(err)
		}
		n.Host().Peerstore().AddAddr(id, ma("/ip4/198.51.100.1/tcp/4001"), time.Hour)
	}
	orders := map[peer.ID]bool{}
	for range 20 {
		places := n.places()
		if len(places) != 51 || !slices.ContainsFunc(places[:drawn], func(p peer.AddrInfo) bool { return p.ID == friend }) {
			t.Fatalf("%d places, and the first draw has no friend", len(places))
		}
		orders[places[1].ID] = true
	}
	if len(orders) < 2 {
		t.Error("it is not drawn at random")
	}
}

// A node that moves is found, and finds, within seconds.
func TestMoves(t *testing.T) {
	server := join(t, false)
	client := join(t, true, server)
	if err := server.SetOffer(serves(0, 10)); err != nil {
		t.Fatal(err)
	}
	await(t, "the offer", func() bool { return client.offerOf(server.Self()) != nil })
	was := server.Addrs()
	swarm := server.Host().Network().(interface{ ListenClose(...multiaddr.Multiaddr) })
	swarm.ListenClose(server.Host().Network().ListenAddresses()...)
	if err := server.Host().Network().Listen(ma("/ip4/127.0.0.1/udp/0/quic-v1")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	await(t, "that the offer says where it is now", func() bool {
		o := client.offerOf(server.Self())
		return o != nil && len(o.Addresses()) == 1 && !slices.ContainsFunc(was, o.Addresses()[0].Equal)
	})
	if err := server.Host().Network().ClosePeer(client.Self()); err != nil {
		t.Fatal(err)
	}
	await(t, "an answer", func() bool {
		_, err := client.Status(t.Context(), server.Self(), model, nil)
		return err == nil
	})
	t.Log("answered after", time.Since(begin))
}

// A node that starts again elsewhere finds those whom it knew, although nobody
// was ever named to it.
func TestStartsElsewhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers.json")
	key := newKey(t)
	first := func() *Network {
		n, err := New(Config{Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, PeersFile: file})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := first()
	other := join(t, false, n)
	await(t, "identify", func() bool { return len(n.Host().Peerstore().Addrs(other.Self())) > 0 && len(n.Peers()) == 1 })
	n.Close()
	again := first()
	defer again.Close()
	await(t, "its old acquaintance", func() bool { return again.Host().Network().Connectedness(other.Self()) == network.Connected })
}

// The first node of a network, to which nobody was named, looks for those it
// met.
func TestLastPeerLost(t *testing.T) {
	n := join(t, false)
	await(t, "that it knows of nobody", func() bool { return n.Health().Alone })
	h := rawHost(t, "/ip4/127.0.0.1/tcp/0")
	if err := h.Connect(t.Context(), infoOf(n)); err != nil {
		t.Fatal(err)
	}
	await(t, "identify", func() bool { return len(n.Host().Peerstore().Addrs(h.ID())) > 0 })
	if n.Health().Alone {
		t.Error("it knows somebody")
	}
	_ = h.Network().ClosePeer(n.Self())
	await(t, "that it comes back", func() bool { return h.Network().Connectedness(n.Self()) == network.Connected })
}

func TestWorth(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var all []acquaintance
	add := func(count int, addr string, since, seen time.Time, work int) {
		for i := range count {
			all = append(all, acquaintance{ID: fmt.Sprint(addr, i), Addrs: []string{fmt.Sprintf(addr, i)}, Since: since, Seen: seen.Add(time.Duration(i)), Work: work})
		}
	}
	add(1000, "/ip4/127.0.0.1/tcp/%d", noon, noon.Add(time.Hour), 0)     // strangers who come late
	add(50, "/ip4/198.51.100.%d/tcp/1", noon.Add(-time.Hour), noon, 7)   // of one group
	add(20, "/ip4/203.0.%d.1/tcp/1", noon.Add(-1000*time.Hour), noon, 0) // old friends
	add(20, "/ip4/192.0.%d.1/tcp/1", noon.Add(-time.Minute), noon, 1)    // that did work
	count := map[string]int{}
	got := worth(all)
	for _, a := range got {
		count[a.ID[:9]]++
	}
	if len(got) != maxRemembered || count["/ip4/203."] != 20 || count["/ip4/192."] != 20 || count["/ip4/198."] != perGroup {
		t.Errorf("%d remembered, of them %v", len(got), count)
	}
	if got := worth(all[:3]); len(got) != 3 {
		t.Errorf("%d of 3", len(got))
	}
}

func FuzzBook(f *testing.F) {
	f.Add([]byte(`[{"id":"12D3KooWD8LMkN8Zduc4FkjyesuXj9Qbt77F4Xa2U4JF7jwoEc5h","addrs":["/ip4/127.0.0.1/udp/21700/quic-v1"],"rtt_ms":1,"seen":"2026-11-30T01:00:50Z"}]`))
	f.Add([]byte(`[{"id":"12D3KooWD8LMkN8Zduc4FkjyesuXj9Qbt77F4Xa2U4JF7jwoEc5h","addrs":["/dns4/x/tcp/1","/ip4/1.2.3.4"],"since":"2030-11-30T01:00:50Z","work":-5}]`))
	f.Add([]byte(`{ torn`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := parseBook(raw)
		if err != nil {
			return
		}
		for _, a := range list {
			if a.Work < 0 || a.Since.After(a.Seen) || len(a.Addrs) == 0 || len(a.Addrs) > maxAddrs {
				t.Errorf("%+v", a)
			}
			a.group()
		}
		again, err := json.Marshal(worth(list))
		if err != nil {
			return // a time that cannot be written
		}
		if _, err := parseBook(again); err != nil {
			t.Error(err)
		}
	})
}
