package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/testnet/nat"
	"github.com/shoalnet/shoal/testnet/natsim"
)

// idleNodes returns how many nodes the test of an idle one has, and for how long it is
// watched: a few for five minutes, or as SHOAL_TEST_IDLE_NODES and SHOAL_TEST_IDLE_TIME say.
func idleNodes(t *testing.T) (count int, watched time.Duration) {
	s := os.Getenv("SHOAL_TEST_IDLE_NODES")
	if s == "" {
		return 8, 5 * time.Minute
	}
	count, err := strconv.Atoi(s)
	if err != nil || count < 8 {
		t.Fatalf("SHOAL_TEST_IDLE_NODES=%s", s)
	}
	return count, idleTime(t, time.Hour)
}

func idleTime(t *testing.T, otherwise time.Duration) time.Duration {
	s := os.Getenv("SHOAL_TEST_IDLE_TIME")
	if s == "" {
		return otherwise
	}
	watched, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("SHOAL_TEST_IDLE_TIME=%s", s)
	}
	return watched
}

// A node at home that serves a model and has nothing to do costs its line little
// and its router few connections.
func TestIdleHome(t *testing.T) {
	if testing.Short() {
		t.Skip("many nodes")
	}
	count, watched := idleNodes(t)
	began := time.Now()
	simulate(t, max(4, count/4), func(in *internet) {
		for i := len(in.all); i < count-1; i++ {
			kind := []nat.Kind{nat.Port, nat.Full, nat.Symmetric, nat.Address}[i%4]
			in.home(kind, i+1)
		}
		n := in.idleHome()
		n.idle(watched)
		if known := len(n.servers(model)); known < min(count-1, nearNeighbours)*3/4 {
			in.Errorf("of %d servers it knows %d", count-1, known)
		}
	})
	t.Logf("%v of real time", time.Since(began).Round(100*time.Millisecond))
}

// The same with as many connections as SHOAL_TEST_IDLE_CONNS says, such as the 160 to which a
// node of a large network comes back whenever it has too many. The others are nodes that can
// be dialled, and have few connections of their own: else they would make most of the work.
func TestIdleCrowd(t *testing.T) {
	count, err := strconv.Atoi(cmp.Or(os.Getenv("SHOAL_TEST_IDLE_CONNS"), "0"))
	if err != nil || count < 8 {
		t.Skip("SHOAL_TEST_IDLE_CONNS says how many connections")
	}
	watched := idleTime(t, 10*time.Minute)
	began := time.Now()
	simulate(t, 4, func(in *internet) {
		var others []*Network
		for i := range count {
			at := in.host(in.net, fmt.Sprintf("7.%d.%d.1", i/200+1, i%200+1))
			others = append(others, in.join(at, func(c *Config) { c.crowd = crowd{low: 16, high: 24, brim: 32, inbound: 48, grace: 20 * time.Second} }))
			time.Sleep(time.Second)
		}
		n := in.idleHome()
		for _, o := range others {
			o.Host().ConnManager().Protect(n.Self(), keptTag)
			if err := n.Host().Connect(in.Context(), peer.AddrInfo{ID: o.Self(), Addrs: o.Addrs()}); err != nil {
				in.Fatal(err)
			}
		}
		n.idle(watched)
		if left := len(n.Host().Network().Peers()); left < count {
			in.Errorf("%d of %d connections are left", left, count)
		}
	})
	t.Logf("%v of real time", time.Since(began).Round(100*time.Millisecond))
}

// idleHome is a node behind a router, the last to come. It and all others serve a model.
type idleHome struct {
	*Network
	in  *internet
	at  *natsim.Host
	box *natsim.Net
}

func (in *internet) idleHome() *idleHome {
	in.Helper()
	h := &idleHome{in: in, box: in.net.Behind(nat.Port, netip.MustParseAddr("6.250.0.1"), 0)}
	h.at = in.host(h.box, "10.250.0.2")
	h.Network = in.join(h.at, nil)
	for i, o := range in.all {
		if err := o.SetOffer(serves(uint32(5*(i%6)), uint32(5*(i%6)+5))); err != nil {
			in.Fatal(err)
		}
	}
	return h
}

// idle lets it settle, and then looks at what it costs for a time.
func (n *idleHome) idle(watched time.Duration) {
	n.in.Helper()
	time.Sleep(min(watched, 10*time.Minute))
	var opened, most atomic.Int64
	n.Host().Network().Notify(&network.NotifyBundle{ConnectedF: func(net network.Network, _ network.Conn) {
		opened.Add(1)
		most.Store(max(most.Load(), int64(len(net.Conns()))))
	}})
	most.Store(int64(len(n.Host().Network().Conns())))
	sent0, received0 := n.at.Traffic()
	by0 := n.Traffic()
	time.Sleep(watched)
	sent, received := n.at.Traffic()
	relayed := 0
	for _, c := range n.Host().Network().Conns() {
		if reach.Relayed(c) {
			relayed++
		}
	}
	rate := float64(sent-sent0+received-received0) * 8 / 1000 / watched.Seconds()
	perSecond := float64(opened.Load()) / watched.Seconds()
	n.in.Logf("%d nodes, %v: %.1f kbit/s (%.1f sent), at most %d connections (%d relayed at the end), %.3f new ones per second; %d offers known, %d in the table, %d entries in its router",
		len(n.in.all), watched, rate, float64(sent-sent0)*8/1000/watched.Seconds(), most.Load(), relayed, perSecond, n.KnownOffers(), n.DHTPeers(), n.box.Entries())
	for p, b := range n.Traffic() {
		if all := b.Sent + b.Received - by0[p].Sent - by0[p].Received; all > 0 {
			n.in.Logf("  %s: %.2f kbit/s", p, float64(all)*8/1000/watched.Seconds())
		}
	}
	if rate > 30 || most.Load() > 320 || perSecond >= 1 {
		n.in.Error("want at most 30 kbit/s, 320 connections, and less than a new one per second")
	}
}
