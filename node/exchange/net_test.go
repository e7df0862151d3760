package exchange

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// One exchange works over two networks: it fetches what a peer has in each, half a model
// from either, serves what it has got to a peer of the second once that network may
// have it. Nobody hears of the other network's peers. When a
// network is left, its peers get nothing more, and the others all.
func TestTwoNetworks(t *testing.T) {
	takesSeconds(t)
	path := writeModel(t, 6, 1_500_000)
	a := newHolder(t, newHost(t, overTCP), path, func(shard int) bool { return shard%2 == 0 })
	b := newHolder(t, newHost(t, overTCP), path, func(shard int) bool { return shard%2 == 1 })
	var inA, inB roster
	inA.add(a.h)
	inB.add(b.h)
	one, two := newHost(t, overTCP), newHost(t, overTCP)
	var hidden atomic.Bool
	may := func(cid.Cid) bool { return !hidden.Load() }
	n := &node{h: one, s: openStore(t, t.TempDir())}
	n.x = New(n.s, Options{Leaves: shelves(n.s)}, Net{Host: one, Find: &inA})
	t.Cleanup(func() { n.x.Close() })
	second := Net{Host: two, Find: &inB, May: may, Blocks: n.s.Only(may)}
	if err := n.x.Join(second); err != nil {
		t.Fatal(err)
	}
	if err := n.x.Join(second); !errors.Is(err, ErrJoined) {
		t.Error("one host twice: ", err)
	}
	n.learn(t, a.m.ID())
	n.fetch(t, nil)
	n.wantsEqual(t, path)
	if a.given() == 0 || b.given() == 0 {
		t.Errorf("%d bytes came from one network and %d from the other", a.given(), b.given())
	}
	if slices.Contains(b.h.Peerstore().Peers(), a.h.ID()) || slices.Contains(b.h.Peerstore().Peers(), one.ID()) {
		t.Error("a peer of one network has heard of the other's")
	}

	var ofB roster
	ofB.add(two)
	c := newNode(t, newHost(t, overTCP), t.TempDir(), &ofB)
	hidden.Store(true)
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.x.Manifest(short, a.m.ID()); err == nil {
		t.Error("a network got a model that it may not have")
	}
	hidden.Store(false)
	c.learn(t, a.m.ID())
	c.fetch(t, nil)
	c.wantsEqual(t, path)

	if err := n.x.Leave(two); err != nil {
		t.Fatal(err)
	}
	given := n.given()
	d := newNode(t, newHost(t, overTCP), t.TempDir(), &ofB)
	short, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := d.x.Manifest(short, a.m.ID()); err == nil || n.given() != given || given == 0 {
		t.Errorf("a network that was left got something; %d bytes were given before, %d are now", given, n.given())
	}
	var ofA roster
	ofA.add(one)
	e := newNode(t, newHost(t, overTCP), t.TempDir(), &ofA)
	e.learn(t, a.m.ID())
	e.fetch(t, nil)
	e.wantsEqual(t, path)
}

// A network whose peers may have headers alone gets those, in bulk and by bitswap, and no
// weights.
func TestHeadersAlone(t *testing.T) {
	takesSeconds(t)
	n := newHolder(t, newHost(t, overTCP), writeModel(t, 2, 300_000), nil)
	guests := newHost(t, overTCP)
	all := func(cid.Cid) bool { return true }
	headers := func(cid.Cid) Leaves { return n.m.Heading() }
	if err := n.x.Join(Net{Host: guests, Find: &roster{}, Blocks: n.s.Headings(all), Leaves: headers}); err != nil {
		t.Fatal(err)
	}
	var there roster
	there.add(guests)
	c := newNode(t, newHost(t, overTCP), t.TempDir(), &there)
	c.learn(t, n.m.ID())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	want := every(t, c.m)
	header := []int{0}
	done := make(chan error, 1)
	go func() { done <- c.x.Fetch(ctx, c.m.ID(), want, nil) }()
	for end := time.Now().Add(30 * time.Second); !c.m.Whole(header) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	time.Sleep(500 * time.Millisecond) // in which more would come
	cancel()
	if err := <-done; err == nil || !c.m.Whole(header) || c.m.Held() != c.m.HeldOf(header) {
		t.Errorf("%v: %d bytes came, of which %d are the header's", err, c.m.Held(), c.m.HeldOf(header))
	}
}

// What rules lend to one peer of a network and not to another goes to the first alone, by
// bitswap and in bulk; and one that had something gets no more once the rules have changed.
func TestLends(t *testing.T) {
	takesSeconds(t)
	path := writeModel(t, 3, 1_500_000)
	var ofA roster
	friend, other, late := newHost(t, overTCP), newHost(t, overTCP), newHost(t, overTCP)
	var barred atomic.Value // peer.ID
	barred.Store(other.ID())
	lends := func(p peer.ID, _ cid.Cid) bool { return p != barred.Load() }
	full := newHolder(t, newHost(t, overTCP), path, func(int) bool { return true })
	has := &node{h: newHost(t, overTCP), s: full.s}
	has.x = New(has.s, Options{Leaves: shelves(has.s)}, Net{Host: has.h, Find: &roster{}, Lends: lends, Sends: lends})
	t.Cleanup(func() { has.x.Close() })
	ofA.add(has.h)
	refused := func(n *node) {
		t.Helper()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.x.Manifest(short, full.m.ID()); err == nil {
			t.Error("a peer got what is not lent to it")
		}
	}
	b, c := newNode(t, friend, t.TempDir(), &ofA), newNode(t, other, t.TempDir(), &ofA)
	refused(c)
	b.learn(t, full.m.ID())
	b.fetch(t, nil)
	b.wantsEqual(t, path)
	barred.Store(late.ID())
	c.learn(t, full.m.ID())
	c.fetch(t, nil)
	c.wantsEqual(t, path)
	given := has.given()
	refused(newNode(t, late, t.TempDir(), &ofA))
	if given == 0 || has.given() != given {
		t.Errorf("%d bytes were given, then %d", given, has.given())
	}
}
