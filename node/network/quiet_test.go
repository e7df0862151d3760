package network

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/nat"
)

// met are two homes of which one has dialled the other over a relay.
func (in *internet) met(from, to nat.Kind) (a, b *Network) {
	in.Helper()
	a, b = in.home(from, 1), in.home(to, 2)
	in.until("two relays", 20*time.Second, func() bool { return len(b.reaching.relays.all()) == 2 })
	in.dials(a, b)
	return a, b
}

func (in *internet) dials(a, b *Network) {
	in.Helper()
	ctx := network.WithAllowLimitedConn(context.Background(), "test")
	if err := a.Host().Connect(ctx, peer.AddrInfo{ID: b.Self(), Addrs: circuitsOf(b)}); err != nil {
		in.Fatal(err)
	}
}

// circuitsTo are a node's open circuits to a peer.
func circuitsTo(n *Network, p peer.ID) []network.Conn {
	return slices.DeleteFunc(n.Host().Network().ConnsToPeer(p), func(c network.Conn) bool { return !reach.Relayed(c) || c.IsClosed() })
}

// session has b be a stage, to which a sends something each second until stop is called, as
// an answer does.
func (in *internet) session(a, b *Network) (stop func()) {
	in.Helper()
	b.Handle(protocol.StageID, func(s *Stream) { _, _ = io.Copy(s, s) })
	s, err := a.Open(context.Background(), b.Self(), nil, protocol.StageID)
	if err != nil {
		in.Fatal(err)
	}
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		defer s.Close()
		for buf := make([]byte, 100); ; {
			_, err := s.Write(buf)
			if err == nil {
				_, err = io.ReadFull(s, buf)
			}
			select {
			case <-done:
				return
			case <-time.After(time.Second):
			}
			if err != nil {
				return
			}
		}
	}()
	return func() {
		close(done)
		<-over
	}
}

// A circuit that nothing uses is closed after a while if there is a direct connection, and
// not before; one that is all there is stays.
func TestSpareCircuits(t *testing.T) {
	for _, c := range []struct {
		name    string
		to      nat.Kind
		session bool
		closed  bool
	}{
		{"beside a direct connection", nat.Port, false, true},
		{"beside a direct connection that a session uses", nat.Port, true, false},
		{"alone", nat.Symmetric, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, 2, func(in *internet) {
				here, there := netip.MustParseAddr("6.1.0.1"), netip.MustParseAddr("6.2.0.1")
				in.net.Wall(here, there, true) // or they meet directly
				a, b := in.met(nat.Port, c.to)
				in.net.Wall(here, there, false)
				a.reaching.holes.moved()
				time.Sleep(10 * time.Second)
				if a.Direct(b.Self()) != nat.Punchable(nat.Port, c.to) {
					in.Fatalf("direct: %v", a.Direct(b.Self()))
				}
				if c.session {
					defer in.session(a, b)()
				}
				var last time.Time // the homes may have met before
				for _, c := range circuitsTo(a, b.Self()) {
					if at := c.Stat().Opened; at.After(last) {
						last = at
					}
				}
				time.Sleep(time.Until(last.Add(spareTime - 20*time.Second)))
				if len(circuitsTo(a, b.Self())) == 0 {
					in.Fatal("a circuit was closed too early")
				}
				time.Sleep(time.Minute)
				if left := len(circuitsTo(a, b.Self())) + len(circuitsTo(b, a.Self())); (left == 0) != c.closed {
					in.Errorf("%d circuits are left", left)
				}
				if !a.Connected(b.Self()) {
					in.Error("they are not connected any more")
				}
			})
		})
	}
}

// A circuit's round trip is measured, and nothing is sent over a circuit for that while it
// carries nothing; while it is in use, it is measured again.
func TestIdleCircuitIsNotProbed(t *testing.T) {
	simulate(t, 2, func(in *internet) {
		a, b := in.met(nat.Symmetric, nat.Port)
		time.Sleep(time.Minute)
		l := lineOf(circuitsTo(a, b.Self())[0])
		if rtt := time.Duration(l.rtt.Load()); rtt < 8*lineDelay || rtt > 10*lineDelay {
			in.Errorf("the round trip over a relay is %v", rtt)
		}
		sent, received := l.sent.Load(), l.received.Load()
		const watched = 10 * time.Minute
		time.Sleep(watched)
		sent, received = l.sent.Load()-sent, l.received.Load()-received
		if most := uint64(4000); sent > most || received > most { // the multiplexer asks every half minute whether the other side lives
			in.Errorf("idle, %d bytes sent and %d received in %v", sent, received, watched)
		}
		stop := in.session(a, b)
		l.rtt.Store(1)
		time.Sleep(2 * circuitPing)
		if l.rtt.Load() == 1 {
			in.Error("a circuit in use is not measured")
		}
		stop()
	})
}

// Peers to which only relays lead are tried for a direct path often while a session uses
// them, and rarely while none does, whatever else goes over the circuit.
func TestTriesFollowSessions(t *testing.T) {
	tries := func(n *Network) (sum uint64) {
		n.reaching.holes.mu.Lock()
		defer n.reaching.holes.mu.Unlock()
		for _, c := range n.reaching.holes.counts {
			sum += c
		}
		return sum
	}
	const watched = reach.RetryEvery + time.Minute
	simulate(t, 2, func(in *internet) {
		a, b := in.met(nat.Symmetric, nat.Port)
		time.Sleep(10 * time.Second)
		watch := func(d time.Duration) uint64 {
			before := tries(b)
			time.Sleep(d)
			return tries(b) - before
		}
		b.Handle("/test/echo", func(s *Stream) { _, _ = io.Copy(s, s) })
		s, err := a.Open(context.Background(), b.Self(), nil, "/test/echo")
		if err != nil {
			in.Fatal(err)
		}
		go func() {
			for buf := make([]byte, 10); ; time.Sleep(time.Second) {
				if _, err := s.Write(buf); err != nil {
					return
				}
				if _, err := io.ReadFull(s, buf); err != nil {
					return
				}
			}
		}()
		idle := watch(watched)
		_ = s.Close()
		stop := in.session(a, b)
		used := watch(watched)
		stop()
		if idle == 0 || idle > 8 || used < 2*idle { // a try has up to four
			in.Errorf("outcomes of tries in %v: %d idle, %d in use", watched, idle, used)
		}
	})
}

// A hole that cannot be punched at first is punched at the first try after it can, however
// often that was tried in vain before, while a session waits for it.
func TestLateHole(t *testing.T) {
	simulate(t, 2, func(in *internet) {
		here, there := netip.MustParseAddr("6.1.0.1"), netip.MustParseAddr("6.2.0.1")
		in.net.Wall(here, there, true)
		a, b := in.met(nat.Port, nat.Port)
		stop := in.session(a, b)
		defer stop()
		time.Sleep(5 * time.Minute)
		if a.Direct(b.Self()) {
			in.Fatal("a path through a wall")
		}
		in.net.Wall(here, there, false)
		in.Logf("direct after %v", in.until("a direct path", reach.RetryEvery, func() bool { return a.Direct(b.Self()) && b.Direct(a.Self()) }))
	})
}

// A node looks itself up in the DHT often at first, and rarely later, unless something has
// changed.
func TestTableIsLookedAtRarely(t *testing.T) {
	simulate(t, 4, func(in *internet) {
		n := in.home(nat.Port, 1)
		asked := func(d time.Duration) uint64 {
			before := n.Traffic()[kadID].Sent
			time.Sleep(d)
			return n.Traffic()[kadID].Sent - before
		}
		first := asked(time.Minute)
		time.Sleep(30 * time.Minute)
		later := asked(30 * time.Minute)
		n.rouse()
		again := asked(time.Minute)
		if usual := later / 30; later > 20_000 || first < 2*usual || again < 2*usual { // 36,000 if it always looked as often as at first
			in.Errorf("bytes sent to the DHT: %d in the first minute, %d in half an hour later, %d in the minute after a move", first, later, again)
		}
	})
}
