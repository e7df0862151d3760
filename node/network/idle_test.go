package network

import (
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/testnet/nat"
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
	watched = time.Hour
	if s := os.Getenv("SHOAL_TEST_IDLE_TIME"); s != "" {
		if watched, err = time.ParseDuration(s); err != nil {
			t.Fatalf("SHOAL_TEST_IDLE_TIME=%s", s)
		}
	}
	return count, watched
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
		box := in.net.Behind(nat.Port, netip.MustParseAddr("6.250.0.1"), 0)
		at := in.host(box, "10.250.0.2")
		n := in.join(at, nil)
		for i, o := range in.all {
			if err := o.SetOffer(serves(uint32(5*(i%6)), uint32(5*(i%6)+5))); err != nil {
				in.Fatal(err)
			}
		}
		time.Sleep(min(watched, 10*time.Minute))
		var opened, most atomic.Int64
		n.Host().Network().Notify(&network.NotifyBundle{ConnectedF: func(net network.Network, _ network.Conn) {
			opened.Add(1)
			most.Store(max(most.Load(), int64(len(net.Conns()))))
		}})
		most.Store(int64(len(n.Host().Network().Conns())))
		sent0, received0 := at.Traffic()
		by0 := n.Traffic()
		time.Sleep(watched)
		sent, received := at.Traffic()
		relayed := 0
		for _, c := range n.Host().Network().Conns() {
			if reach.Relayed(c) {
				relayed++
			}
		}
		rate := float64(sent-sent0+received-received0) * 8 / 1000 / watched.Seconds()
		perSecond := float64(opened.Load()) / watched.Seconds()
		in.Logf("%d nodes, %v: %.1f kbit/s (%.1f sent), at most %d connections (%d relayed at the end), %.3f new ones per second; %d offers known, %d in the table, %d entries in its router",
			count, watched, rate, float64(sent-sent0)*8/1000/watched.Seconds(), most.Load(), relayed, perSecond, n.KnownOffers(), n.DHTPeers(), box.Entries())
		for p, b := range n.Traffic() {
			if all := b.Sent + b.Received - by0[p].Sent - by0[p].Received; all > 0 {
				in.Logf("  %s: %.2f kbit/s", p, float64(all)*8/1000/watched.Seconds())
			}
		}
		if rate > 30 || most.Load() > 320 || perSecond >= 1 {
			in.Error("want at most 30 kbit/s, 320 connections, and less than a new one per second")
		}
		if known := len(n.servers(model)); known < min(count-1, nearNeighbours)*3/4 {
			in.Errorf("of %d servers it knows %d", count-1, known)
		}
	})
	t.Logf("%v of real time", time.Since(began).Round(100*time.Millisecond))
}
