package network

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// servers are made-up peers with a group of addresses and a round trip each.
type madeUp struct {
	group string
	rtt   time.Duration // 0: unknown
}

func choose(f *flock, all map[peer.ID]madeUp) {
	var known []peer.ID
	for p := range all {
		known = append(known, p)
	}
	f.renew(known, func(p peer.ID) (time.Duration, bool) { return all[p].rtt, all[p].rtt > 0 }, func(p peer.ID) string { return all[p].group })
}

// Neighbours are near ones and others at random; in time those are all, and the
// many peers of one machine are few among them.
func TestFlock(t *testing.T) {
	all := map[peer.ID]madeUp{}
	for i := range 100 {
		all[peer.ID(fmt.Sprint("honest ", i))] = madeUp{fmt.Sprint(i), time.Duration(10+i) * time.Millisecond}
		all[peer.ID(fmt.Sprint("house ", i))] = madeUp{"house", time.Millisecond}
		all[peer.ID(fmt.Sprint("far ", i))] = madeUp{fmt.Sprint("far ", i), 0}
	}
	var f flock
	met := map[peer.ID]bool{}
	for range 400 {
		choose(&f, all)
		house := 0
		for _, p := range f.all() {
			met[p] = true
			if all[p].group == "house" {
				house++
			}
		}
		if len(f.near) != nearNeighbours || len(f.random) != randomNeighbours || house > nearGroup+2 {
			t.Fatalf("near %q, at random %q", f.near, f.random)
		}
		if slices.ContainsFunc(f.near, func(p peer.ID) bool { return slices.Contains(f.random, p) }) {
			t.Fatal("one is a neighbour twice")
		}
		if i := len(f.near) - 1; all[f.near[i]].rtt > time.Duration(10+nearNeighbours)*time.Millisecond {
			t.Fatalf("near is %q", f.near)
		}
	}
	if len(met) < 150 {
		t.Errorf("%d were neighbours at some time", len(met))
	}
	for p := range all {
		if all[p].group != "1" && all[p].group != "2" {
			delete(all, p)
		}
	}
	if choose(&f, all); len(f.all()) != 2 {
		t.Errorf("of two servers %q are neighbours", f.all())
	}
}
