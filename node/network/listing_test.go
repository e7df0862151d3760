package network

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// announcers plays the announcements of one key, in virtual time: nodes come over
// a ramp, look at the list when their listing says so, and are listed a moment
// later. Records of nodes that have left stay until they expire.
type announcers struct {
	count    int
	ramp     time.Duration
	half     time.Duration // after which half of the nodes have left; 0: they stay
	replaced bool          // those that leave are
	days     int
	exodus   time.Duration // when half of all nodes leave within two hours, not replaced; 0: never
}

type step struct {
	at   time.Time
	node int
	do   byte // look, put, expire, or quit
}

type steps []step

func (q steps) Len() int           { return len(q) }
func (q steps) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q steps) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *steps) Push(x any)        { *q = append(*q, x.(step)) }
func (q *steps) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// shown is what a list came to.
type shown struct {
	peak        int // over the whole time
	least, most int // once it has settled
	alive       float64
	looks, puts float64 // per hour, at the end
}

// putDelay is how long it takes from an answer with providers until this node is
// among them for others, and more than that.
const putDelay = 1200 * time.Millisecond

func (a announcers) play(settled time.Duration) (out shown) {
	r := rand.New(rand.NewPCG(12, uint64(a.count)))
	var q steps
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	nodes := map[int]*listing{}
	lists := map[int]time.Time{} // when the record of a node expires
	next := 0
	join := func(at time.Time) {
		nodes[next] = &listing{}
		heap.Push(&q, step{at, next, 'l'})
		if a.half > 0 {
			life := time.Duration(-math.Log(1-r.Float64()) / math.Ln2 * float64(a.half))
			heap.Push(&q, step{at.Add(life), next, 'q'})
		}
		next++
	}
	for i := range a.count {
		join(began.Add(time.Duration(r.Float64() * float64(a.ramp))))
		if a.exodus > 0 && i%2 == 0 {
			heap.Push(&q, step{began.Add(a.exodus + time.Duration(r.Float64()*float64(2*time.Hour))), i, 'q'})
		}
	}
	end := began.Add(time.Duration(a.days) * 24 * time.Hour)
	out.least = math.MaxInt
	var alive, sums, span float64
	last := began
	for len(q) > 0 {
		e := heap.Pop(&q).(step)
		if e.at.After(end) {
			break
		}
		if e.at.Sub(began) > settled {
			out.least, out.most = min(out.least, len(lists)), max(out.most, len(lists))
			took := e.at.Sub(last).Seconds()
			there := 0
			if took > 0 {
				for node := range lists {
					if nodes[node] != nil {
						there++
					}
				}
				alive, sums, span = alive+took*float64(there), sums+took*float64(len(lists)), span+took
			}
		}
		last = e.at
		l := nodes[e.node]
		switch e.do {
		case 'l':
			if l == nil {
				continue
			}
			others := len(lists)
			if _, own := lists[e.node]; own {
				others--
			}
			put := l.puts(min(others, listCount), e.at, r.Float64)
			if l.looked(put, e.at, r.Float64); put {
				heap.Push(&q, step{e.at.Add(putDelay), e.node, 'p'})
			}
			heap.Push(&q, step{l.due, e.node, 'l'})
			if e.at.Sub(began) > settled {
				out.looks++
			}
		case 'p':
			lists[e.node] = e.at.Add(providerAge)
			heap.Push(&q, step{e.at.Add(providerAge), e.node, 'e'})
			out.peak = max(out.peak, len(lists))
			if e.at.Sub(began) > settled {
				out.puts++
			}
		case 'e':
			if until, ok := lists[e.node]; ok && !e.at.Before(until) {
				delete(lists, e.node)
			}
		case 'q':
			delete(nodes, e.node)
			if a.replaced {
				join(e.at.Add(time.Duration(r.Float64() * float64(time.Minute))))
			}
		}
	}
	out.alive = alive / max(sums, 1)
	out.looks, out.puts = out.looks/(span/3600), out.puts/(span/3600)
	return out
}

// However many announce themselves under a key, about as many as are needed are
// listed: through churn of half in two hours, after a rush, and when half of them
// leave in two hours and nobody comes.
func TestListLength(t *testing.T) {
	half := 2 * time.Hour
	for _, c := range []struct {
		announcers
		least, most, peak int
	}{
		{announcers{3, time.Minute, 0, false, 1, 0}, 3, 3, 3},
		{announcers{40, time.Minute, 0, false, 1, 0}, 40, 40, 40},
		{announcers{200, 10 * time.Minute, half, true, 1, 0}, 48, 96, 96},
		{announcers{1000, 10 * time.Minute, half, true, 1, 0}, 48, 96, 120},
		{announcers{5000, time.Hour, half, true, 1, 0}, 48, 96, 120},
		{announcers{5000, time.Minute, half, true, 1, 0}, 48, 96, 200},
		{announcers{5000, time.Minute, 0, false, 2, 0}, 48, 96, 200},
		{announcers{5000, time.Minute, 0, false, 2, 24 * time.Hour}, 48, 96, 200},
		{announcers{1000, time.Minute, 0, false, 2, 24 * time.Hour}, 48, 96, 200},
		{announcers{400, time.Minute, 0, false, 2, 24 * time.Hour}, 48, 96, 200},
		{announcers{200, time.Minute, 0, false, 2, 24 * time.Hour}, 48, 96, 200},
	} {
		t.Run(fmt.Sprintf("%d in %v", c.count, c.ramp), func(t *testing.T) {
			got := c.play(2 * time.Hour)
			t.Logf("list %d to %d, peak %d, %.0f %% alive, looks per hour %.0f, puts %.0f", got.least, got.most, got.peak, 100*got.alive, got.looks, got.puts)
			if got.least < c.least || got.most > c.most || got.peak > c.peak {
				t.Errorf("want %d to %d, peak %d", c.least, c.most, c.peak)
			}
		})
	}
}

// A node that is not listed waits longer each time, up to twelve hours, and as
// before once there is room.
func TestFullWait(t *testing.T) {
	now, mid := time.Now(), func() float64 { return 0.5 }
	var l listing
	for _, want := range []time.Duration{40 * time.Minute, 80 * time.Minute, 160 * time.Minute, 320 * time.Minute, 640 * time.Minute, fullWait, fullWait} {
		put := l.puts(crowded, now, mid)
		if l.looked(put, now, mid); put || l.due.Sub(now).Round(time.Second) != want*3/4 {
			t.Fatalf("listed: %v; the next look after %v, want three quarters of %v", put, l.due.Sub(now), want)
		}
		now = l.due
	}
	put := l.puts(crowded-1, now, mid)
	if l.looked(put, now, mid); !put || l.due.Sub(now).Round(time.Second) != announces || l.lapses.Sub(now) != providerAge {
		t.Errorf("there is room: listed %v, %+v", put, l)
	}
	// It keeps its place until the record is about to lapse, and does not wait longer.
	for i, want := range []bool{false, true} {
		now = now.Add(announces)
		if put = l.puts(crowded, now, mid); put != want {
			t.Errorf("look %d of one that is listed: announced %v", i, put)
		}
		if l.looked(put, now, mid); l.due.Sub(now).Round(time.Second) != announces {
			t.Errorf("the next look after %v", l.due.Sub(now))
		}
	}
	if now = now.Add(2 * announces); l.puts(listCount, now, func() float64 { return 0.6 }) {
		t.Error("a list of twice the length keeps more than half")
	}
}

// One group of addresses cannot fill a list, and nothing grows without bound.
func TestShelf(t *testing.T) {
	var s shelf
	now := time.Now()
	put := func(key string, p int, group string) bool { return s.admit(key, peer.ID(fmt.Sprint(p)), group, now) }
	kept := 0
	for i := range 1000 {
		if put("key", i, "a house") {
			kept++
		}
	}
	if kept != listedGroup || !put("key", 0, "a house") {
		t.Errorf("%d of one group", kept)
	}
	for i := range 1000 {
		if put("key", 1000+i, fmt.Sprint(i)) {
			kept++
		}
	}
	if kept != listedMost || s.count != kept {
		t.Errorf("%d under one key, counted %d", kept, s.count)
	}
	now = now.Add(providerAge)
	if !put("key", 5000, "another") || s.count != 1 {
		t.Errorf("after an hour %d are counted", s.count)
	}
	for i := range listedAll * 5 / 4 {
		if !put(fmt.Sprint("key ", i), 1, "a house") {
			t.Fatal("a record under a key of its own is refused")
		}
	}
	sum := 0
	for _, of := range s.keys {
		sum += len(of)
	}
	if s.count > listedAll || sum != s.count {
		t.Errorf("%d are counted, %d there", s.count, sum)
	}
	if put(string(make([]byte, longestKey+1)), 1, "x") {
		t.Error("a long key is kept")
	}
}
