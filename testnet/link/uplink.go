package link

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	minQueue  = 64 << 10 // bytes that may always wait for the wire
	maxFlight = 64 << 20 // bytes an uplink holds at most, waiting or under way
)

// uplink is the single wire over which all sockets of a node send.
type uplink struct {
	Params
	cuts   *cuts          // nil: none ever
	queue  float64        // bytes that may wait before the wire
	chance func() float64 // in [0, 1), decides losses

	timeline timeline

	mu     sync.Mutex
	free   time.Time // when the wire has sent all it took
	flight int       // bytes held
}

func newUplink(p Params) *uplink {
	return &uplink{Params: p, cuts: newCuts(p.Cuts), queue: max(minQueue, p.Rate/8*p.RTT.Seconds()), chance: rand.Float64}
}

// Model is the arithmetic of an uplink for datagrams, on the caller's clock, so that
// simulated networks have the same links.
type Model struct{ u *uplink }

// NewModel returns an idle uplink; chance returns numbers in [0, 1) that decide losses.
func NewModel(p Params, chance func() float64) *Model {
	m := &Model{newUplink(p)}
	m.u.chance = chance
	return m
}

// Send puts a datagram of n bytes on the wire and returns how long it takes to the other
// end; not ok if it never arrives. now must not decrease.
func (m *Model) Send(now time.Time, n int) (delay time.Duration, ok bool) {
	wire := n + udpOverhead
	at, v := m.u.send(now, wire, 1, false)
	if v != sent {
		return 0, false
	}
	m.u.done(wire) // the caller holds the bytes
	return at.Sub(now), true
}

// verdict is what happened to a packet.
type verdict int

const (
	sent verdict = iota
	lost         // by chance, after it used the wire
	full         // the queue had no room: it never used the wire
)

// send puts n bytes on the wire, in the given number of packets, and returns when the
// last of them arrives. The bytes count as held until done is called with the same n;
// lost bytes of a stream are held, too, since they arrive later.
func (u *uplink) send(now time.Time, n, packets int, stream bool) (at time.Time, v verdict) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.flight+n > maxFlight || u.backlog(now) > u.queue {
		return time.Time{}, full
	}
	if u.free.Before(now) {
		u.free = now
	}
	if u.Rate > 0 {
		u.free = u.free.Add(time.Duration(float64(n) * 8 / u.Rate * 1e9))
	}
	if u.Loss > 0 {
		for range packets {
			if u.chance() < u.Loss {
				v = lost
			}
		}
	}
	if v == sent || stream {
		u.flight += n
	}
	return u.free.Add(u.RTT / 2), v
}

// backlog returns the number of bytes waiting for the wire.
func (u *uplink) backlog(now time.Time) float64 {
	return u.free.Sub(now).Seconds() * u.Rate / 8
}

// room returns when the queue will have room for a stream again.
func (u *uplink) room(now time.Time) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	wait := time.Millisecond // held bytes are leaving
	if over := u.backlog(now) - u.queue*3/4; over > 0 && u.Rate > 0 {
		wait = max(wait, time.Duration(over*8/u.Rate*1e9))
	}
	return now.Add(wait)
}

func (u *uplink) done(n int) {
	u.mu.Lock()
	u.flight -= n
	u.mu.Unlock()
}
