package network

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/test"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"

	"github.com/shoalnet/shoal/protocol"
)

const dhtLink = 40 * time.Millisecond // one way

// farHost is a host of a mock network in which a new connection costs a
// handshake, and one to a peer that is gone the time of a dial that nobody answers.
type farHost struct {
	host.Host
	*far
}

type far struct {
	handshake atomic.Int64 // a time.Duration
	gone      sync.Map     // of peer.ID
	dials     atomic.Int64
	missed    atomic.Int64 // dials of peers that are gone
}

func (f *far) isGone(p peer.ID) bool { _, gone := f.gone.Load(p); return gone }

var errGone = errors.New("no answer")

func (h farHost) reach(ctx context.Context, p peer.ID) error {
	if h.Network().Connectedness(p) == network.Connected && !h.isGone(p) {
		return nil
	}
	h.dials.Add(1)
	wait, err := time.Duration(h.handshake.Load()), error(nil)
	if h.isGone(p) {
		h.missed.Add(1)
		wait, err = dialTime, errGone
	}
	select {
	case <-time.After(wait):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h farHost) Connect(ctx context.Context, p peer.AddrInfo) error {
	if err := h.reach(ctx, p.ID); err != nil {
		return err
	}
	return h.Host.Connect(ctx, p)
}

func (h farHost) NewStream(ctx context.Context, p peer.ID, protos ...libprotocol.ID) (network.Stream, error) {
	if err := h.reach(ctx, p); err != nil {
		return nil, err
	}
	return h.Host.NewStream(ctx, p, protos...)
}

func quantile[T int | time.Duration](list []T, q float64) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[min(len(list)-1, int(q*float64(len(list))))]
}

// dhtCrowd is many nodes' DHTs, with their storage and announcements, and none of
// the rest of them.
type dhtCrowd struct {
	*testing.T
	*far
	net   mocknet.Mocknet
	nodes []*Network
	rand  *rand.Rand
}

func newDHTCrowd(t *testing.T, count int) *dhtCrowd {
	c := &dhtCrowd{T: t, far: &far{}, net: mocknet.New(), rand: rand.New(rand.NewPCG(1, 2))}
	c.net.SetLinkDefaults(mocknet.LinkOptions{Latency: dhtLink})
	for range count {
		h, err := c.net.GenPeer()
		if err != nil {
			t.Fatal(err)
		}
		n := &Network{host: farHost{h, c.far}, ctx: t.Context(), log: slog.New(slog.DiscardHandler)}
		n.dht, err = dht.New(shortHost{n.host}, append(n.dhtOptions(), dht.Mode(dht.ModeServer), dht.ProtocolPrefix(libprotocol.ID(n.cfg.Swarm.dhtPrefix())),
			dht.NamespacedValidator("shoal", validator{time.Now}), dht.DisableAutoRefresh())...)
		if err != nil {
			t.Fatal(err)
		}
		n.kad.Store(n.dht)
		c.nodes = append(c.nodes, n)
	}
	if err := c.net.LinkAll(); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.nodes { // tables as a settled network has them
		for _, j := range c.rand.Perm(count) {
			if o := c.nodes[j]; i != j {
				n.host.Peerstore().AddAddrs(o.Self(), o.host.Addrs(), peerstore.PermanentAddrTTL)
				_ = n.host.Peerstore().AddProtocols(o.Self(), n.kadID())
				_, _ = n.dht.RoutingTable().TryAddPeer(o.Self(), true, false)
			}
		}
	}
	return c
}

func (c *dhtCrowd) close() {
	for _, n := range c.nodes {
		_ = n.dht.Close()
	}
	_ = c.net.Close()
}

// any returns a node that is there.
func (c *dhtCrowd) any() *Network {
	for {
		if n := c.nodes[c.rand.IntN(len(c.nodes))]; !c.isGone(n.Self()) {
			return n
		}
	}
}

// kill has some of the nodes gone, without a word to the others.
func (c *dhtCrowd) kill(share float64) {
	for _, i := range c.rand.Perm(len(c.nodes))[:int(share*float64(len(c.nodes)))] {
		n := c.nodes[i]
		c.gone.Store(n.Self(), true)
		_ = n.dht.Close()
		for _, conn := range n.host.Network().Conns() {
			_ = conn.Close()
		}
	}
}

// forgetConns closes all connections, so that the next lookups need handshakes.
func (c *dhtCrowd) forgetConns() {
	for _, n := range c.nodes {
		for _, conn := range n.host.Network().Conns() {
			_ = conn.Close()
		}
	}
}

// lookups returns what all nodes have counted.
func (c *dhtCrowd) lookups() (sum Lookups) {
	for _, n := range c.nodes {
		sum = sum.Plus(n.Lookups())
	}
	return sum
}

type looks struct {
	first, put  []time.Duration
	asked, hops []int
	missed      int
}

func shardKey(i int) cid.Cid { return protocol.BucketKey(cid.Undef, 1000+i) }

// find looks the keys up, each from another node.
func (c *dhtCrowd) find(from, to int) (out looks) {
	for i := from; i < to; i++ {
		n := c.any()
		ctx, w, end := n.looked.follow(c.Context(), n.Self())
		for range n.dht.FindProvidersAsync(ctx, shardKey(i), 1) {
			w.found()
		}
		if end(true); w.first < 0 {
			out.missed++
		}
		out.first, out.asked, out.hops = append(out.first, w.first), append(out.asked, w.asked), append(out.hops, w.hops)
	}
	return out
}

// announce lists a node under each of the keys.
func (c *dhtCrowd) announce(from, to int) (out looks) {
	for i := from; i < to; i++ {
		n := c.any()
		began := time.Now()
		closest, others, err := n.providers(c.Context(), shardKey(i))
		if err == nil && others == 0 {
			err = n.putProvider(c.Context(), shardKey(i), closest)
		}
		if err != nil || others != 0 {
			c.Errorf("key %d: %d others, %v", i, others, err)
		}
		out.put = append(out.put, time.Since(began))
	}
	return out
}

// dhtNodes is how many nodes the test of lookups has: 200, or as the environment
// says. Of a thousand it takes most of a minute and 1.3 GiB.
func dhtNodes(t *testing.T) int {
	s := os.Getenv("SHOAL_TEST_DHT_NODES")
	if s == "" {
		return 200
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 50 {
		t.Fatalf("SHOAL_TEST_DHT_NODES=%s", s)
	}
	return n
}

// raced means that the race detector watches, which hundreds of nodes overtax: it ends the
// process with a failed check of its own now and then.
var raced = true

// Lookups among many nodes, 80 ms apart: a provider is found in three hops, and
// with three in ten of the nodes gone each key is still found, in the time of one
// dial that nobody answers.
func TestManyDHTNodes(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("hundreds of nodes")
	}
	const keys = 40
	began := time.Now()
	count := dhtNodes(t)
	synctest.Test(t, func(t *testing.T) {
		c := newDHTCrowd(t, count)
		defer c.close()
		var table []int
		for _, n := range c.nodes {
			table = append(table, n.DHTPeers())
		}
		put := c.announce(0, keys)
		hops := c.lookups().Hops
		t.Logf("%d nodes, tables %d: announced in p50 %v, p99 %v, %.1f hops", count, quantile(table, .5), quantile(put.put, .5), quantile(put.put, .99), hops.Sum/float64(hops.Count))
		check := func(what string, got looks, p99 time.Duration) {
			t.Helper()
			t.Logf("%s: first provider p50 %v, p99 %v, %d asked, hops at most %d, %d of %d missed", what, quantile(got.first, .5), quantile(got.first, .99), quantile(got.asked, .5), quantile(got.hops, 1), got.missed, keys)
			if got.missed > 0 || quantile(got.first, .99) > p99 || quantile(got.hops, 1) > 3 {
				t.Errorf("%s: want p99 %v, 3 hops, none missed", what, p99)
			}
		}
		check("no handshakes", c.find(0, keys), 240*time.Millisecond)
		c.handshake.Store(int64(2 * dhtLink))
		c.forgetConns()
		check("with handshakes", c.find(0, keys), 240*time.Millisecond+3*2*dhtLink)
		c.kill(0.3)
		before, dials, missed := c.lookups(), c.dials.Load(), c.missed.Load()
		got := c.find(0, keys)
		check("30 % gone", got, 3500*time.Millisecond)
		after := c.lookups()
		here := len(slices.DeleteFunc(got.asked, func(asked int) bool { return asked > 0 })) // records that the node itself keeps
		if found := after.First.Count - before.First.Count; found != keys || after.Hops.Count-before.Hops.Count != uint64(keys-here) || after.Vain != 0 {
			t.Errorf("%d searches were counted, and %d in vain", found, after.Vain)
		}
		c.announce(keys, keys+5) // which waits for all, where a search ends before
		after = c.lookups()
		if dead := int64(after.Dead - before.Dead); dead == 0 || dead > c.missed.Load()-missed || int64(after.Dials-before.Dials) > c.dials.Load()-dials {
			t.Errorf("%d of %d dials are counted as dead, and there were %d of %d", dead, after.Dials-before.Dials, c.missed.Load()-missed, c.dials.Load()-dials)
		}
		t.Logf("%d dials, %d of them of nodes that are gone", c.dials.Load(), c.missed.Load())
	})
	t.Logf("%v of real time", time.Since(began).Round(100*time.Millisecond))
}

// Peers that make up providers keep nobody from being listed, as long as they are
// fewer than half of the peers closest to the key.
func TestMadeUpProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newDHTCrowd(t, 30)
		defer c.close()
		key := shardKey(0)
		n := c.nodes[0]
		closest, _, err := n.providers(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		made := make([]peer.ID, 100)
		for i := range made {
			made[i] = test.RandPeerIDFatal(t)
		}
		liars := 0
		for _, o := range c.nodes {
			if liars < len(closest)/2-1 && slices.Contains(closest, o.Self()) {
				liars++
				for i := range made {
					if err := o.dht.ProviderStore().AddProvider(t.Context(), key.Hash(), peer.AddrInfo{ID: made[i], Addrs: o.host.Addrs()}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if l := n.listUnder(key, listing{}); l.lapses.IsZero() {
			t.Errorf("%d liars keep it from being listed", liars)
		}
		if _, others, err := c.nodes[1].providers(t.Context(), key); others != 1 || err != nil {
			t.Errorf("%d are listed, %v", others, err)
		}
	})
}
