package network

import (
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/protocol/member"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// simMember is a host behind a private swarm's gate, on a simulated network.
type simMember struct {
	host.Host
	at   *sim.Endpoint
	gate *gate
	roll *roll
}

func (s *testSwarm) simulate(t testing.TB, nw *sim.Network, life time.Duration) *simMember {
	t.Helper()
	e, err := nw.NewEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	m := &simMember{at: e, gate: newGate()}
	m.roll, err = newRoll(Config{Key: e.Key, Log: slog.New(slog.DiscardHandler), Swarm: s.of(s.certify(t, e.Key, member.AllRoles, life))}, rate.NewLimiter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	m.Host, err = libp2p.New(append(e.SocketOptions(), m.roll.options(), libp2p.Identity(e.Key), libp2p.ListenAddrs(e.Addr),
		libp2p.ConnectionGater(memberGate{m.gate, m.roll}), libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableRelay())...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// connects dials, and reports whether the other side speaks afterwards.
func (m *simMember) connects(t testing.TB, to *simMember) bool {
	m.gate.name(to.at.Info()) // what counts is who gets in, not how often somebody dials
	if err := m.Connect(t.Context(), to.at.Info()); err != nil {
		return false
	}
	return speak(t, m, to.ID(), "/ipfs/id/1.0.0") == nil
}

func (m *simMember) has(other *simMember) bool {
	return len(m.Network().ConnsToPeer(other.ID())) > 0
}

// TestRevokeOneOfAHundred: two seconds after the members that are online have the
// list, nobody has a connection with the one that was revoked, and it does not
// come back. One that was offline cuts it off at its first contact with the list.
func TestRevokeOneOfAHundred(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred hosts")
	}
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwarm(t)
		nw := sim.New(link.Params{RTT: 80 * time.Millisecond})
		defer nw.Close()
		members := make([]*simMember, 100)
		for i := range members {
			members[i] = s.simulate(t, nw, time.Hour)
			defer members[i].Close()
		}
		victim, offline, online := members[0], members[1], members[2:]
		each := func(do func(i int, m *simMember)) {
			var wg sync.WaitGroup
			for i, m := range members[1:] {
				wg.Go(func() { do(i, m) })
			}
			wg.Wait()
		}
		each(func(_ int, m *simMember) {
			if !victim.connects(t, m) {
				t.Error("a member is not let in")
			}
		})
		if !online[0].connects(t, online[1]) {
			t.Fatal("two members do not meet")
		}
		time.Sleep(time.Second)
		list, err := s.Revoke(member.Lists{}, nil, []member.Key{victim.roll.swarm.Certificate.Key}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		install := func(m *simMember) {
			if news, err := m.roll.install(member.Lists{ByRoot: list}); err != nil || !news {
				t.Error(news, err)
			}
		}
		began := time.Now()
		for _, m := range online {
			install(m)
		}
		for len(victim.Network().Peers()) > 1 && time.Since(began) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it was cut off after %s", took)
		} else {
			t.Logf("cut off by %d members after %s", len(online), took)
		}
		each(func(i int, m *simMember) {
			switch {
			case m == offline:
			case i%2 == 0 && victim.connects(t, m), i%2 == 1 && m.connects(t, victim):
				t.Error("it is back")
			}
		})
		time.Sleep(2 * time.Second)
		for _, m := range online {
			if m.has(victim) {
				t.Error("a connection is left")
			}
		}
		if !online[0].has(online[1]) {
			t.Error("two members are cut off from each other")
		}
		if !offline.has(victim) {
			t.Fatal("who has no list cannot know")
		}
		install(offline)
		time.Sleep(2 * time.Second)
		if offline.has(victim) || victim.connects(t, offline) {
			t.Error("it is still connected to one that has the list now")
		}
	})
}

// TestExpiredCertificatesAreCut: a connection ends with the certificate of either
// side, to the second.
func TestExpiredCertificatesAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwarm(t)
		nw := sim.New(link.Params{RTT: 80 * time.Millisecond})
		defer nw.Close()
		began := time.Now()
		a, brief := s.simulate(t, nw, 24*time.Hour), s.simulate(t, nw, time.Hour)
		defer a.Close()
		defer brief.Close()
		done := make(chan struct{})
		defer close(done)
		go a.roll.expire(done)
		if !brief.connects(t, a) {
			t.Fatal("they do not meet")
		}
		time.Sleep(time.Until(began.Add(time.Hour - time.Second)))
		if !a.has(brief) || a.roll.roles(brief.ID()) == 0 {
			t.Error("it is cut off too early")
		}
		time.Sleep(2 * time.Second)
		if a.has(brief) || a.roll.roles(brief.ID()) != 0 {
			t.Error("it is still connected")
		}
		if brief.connects(t, a) {
			t.Error("it is back")
		}
	})
}
