package link

import (
	"math"
	"testing"
	"time"
)

// TestUplinkClock sends at one instant: arrivals are the rate's distance apart,
// half an RTT later, until the queue is full.
func TestUplinkClock(t *testing.T) {
	u := newUplink(Params{RTT: 40 * time.Millisecond, Rate: 10e6}) // 1 ms a packet of 1250 bytes
	now := time.Unix(1000, 0)
	const size = 1250
	n := 0
	for ; ; n++ {
		at, v := u.send(now, size, 1, false)
		if v == full {
			break
		}
		want := now.Add(20*time.Millisecond + time.Duration(n+1)*time.Millisecond)
		if d := at.Sub(want).Abs(); v != sent || d > time.Microsecond {
			t.Fatalf("packet %d: arrives %v from when it should (verdict %v)", n, d, v)
		}
	}
	if want := minQueue/size + 1; n < want || n > want+1 { // a BDP is 50 kB here, less than the minimum
		t.Errorf("%d packets fit the queue, want about %d", n, want)
	}
	// A millisecond later exactly one more fits.
	now = now.Add(time.Millisecond)
	if _, v := u.send(now, size, 1, false); v != sent {
		t.Errorf("after 1 ms: verdict %v", v)
	}
	// An idle wire costs no queueing.
	now = now.Add(time.Second)
	if at, _ := u.send(now, size, 1, false); at.Sub(now) != 21*time.Millisecond {
		t.Errorf("idle wire: arrives after %v", at.Sub(now))
	}
	if room := u.room(now); !room.After(now) {
		t.Error("room is not in the future")
	}
}

func TestUplinkQueueIsABDP(t *testing.T) {
	if q := newUplink(Params{RTT: 80 * time.Millisecond, Rate: 100e6}).queue; q != 1e6 {
		t.Errorf("queue %v bytes, want 1e6", q)
	}
}

func TestUplinkLoss(t *testing.T) {
	const n, p = 100000, 0.01
	u := newUplink(Params{Loss: p})
	now := time.Unix(1000, 0)
	gone := 0
	for range n {
		_, v := u.send(now, 100, 1, false)
		if v == lost {
			gone++
		} else {
			u.done(100)
		}
	}
	if sigma := math.Sqrt(n * p * (1 - p)); math.Abs(float64(gone)-n*p) > 8*sigma {
		t.Errorf("%d of %d lost at %v", gone, n, p)
	}
	if u.flight != 0 {
		t.Errorf("%d bytes held", u.flight)
	}
}

func TestUplinkMemoryIsBounded(t *testing.T) {
	u := newUplink(Params{RTT: time.Second}) // no rate: only the bound holds
	now := time.Unix(1000, 0)
	held := 0
	for {
		_, v := u.send(now, 1500, 1, false)
		if v == full {
			break
		}
		held += 1500
	}
	if held > maxFlight || held < maxFlight-1500 {
		t.Errorf("%d bytes held, the bound is %d", held, maxFlight)
	}
}
