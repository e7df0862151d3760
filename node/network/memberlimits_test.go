package network

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// asks sends the beginning of a request among members, and reports whether the other side
// takes it up. The stream stays open.
func asks(t testing.TB, h host.Host, p peer.ID) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := h.NewStream(network.WithNoDial(ctx, "test"), p, protocol.MemberID)
	if err != nil {
		return false
	}
	t.Cleanup(func() { _ = s.Reset() })
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Write([]byte{1}); err != nil {
		return false
	}
	_, err = io.ReadFull(s, make([]byte, 1))
	return err == nil
}

// A member that keeps many requests open leaves room for the others', and the keys of a
// member's AutoNAT, of which it can have any number, open none at all.
func TestRequestsOfMembersAreBounded(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	a, greedy, other := s.join(t, member.AllRoles), s.join(t, member.Use), s.join(t, member.Relay)
	a.Host().SetStreamHandler(protocol.MemberID, func(st network.Stream) {
		if _, err := io.ReadFull(st, make([]byte, 1)); err == nil {
			_, _ = st.Write([]byte("x")) // and it stays open
		}
	})
	connect(t, greedy, a)
	connect(t, other, a)
	open := 0
	for range 20 {
		if asks(t, greedy.host, a.Self()) {
			open++
		}
	}
	if most := streamsOf[protocol.MemberID].peer; open == 0 || open > most {
		t.Errorf("a member has %d requests open, of at most %d", open, most)
	}
	if !asks(t, other.host, a.Self()) {
		t.Error("another member is not heard any more")
	}
	own, helper := newKey(t), newKey(t)
	h := s.hostile(t, helper, s.certify(t, own, member.AllRoles, time.Hour), own)
	if err := h.Connect(t.Context(), infoOf(a)); err != nil {
		t.Fatal(err)
	}
	if err := speak(t, h, a.Self(), "/ipfs/id/1.0.0"); err != nil {
		t.Error(err)
	}
	if asks(t, h, a.Self()) {
		t.Error("a key without a role is heard")
	}
}

// stuck is a connection that does not close until it is freed.
type stuck struct {
	network.Conn
	peer  peer.ID
	freed chan struct{}
	once  sync.Once
	began chan struct{} // closed when it is to be closed
}

func (c *stuck) RemotePeer() peer.ID { return c.peer }
func (c *stuck) IsClosed() bool      { return false }
func (c *stuck) CloseWithError(network.ConnErrorCode) error {
	c.once.Do(func() { close(c.began) })
	<-c.freed
	return nil
}

// A member that is revoked does not hold up the list by being slow to hang up.
func TestClosingIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwarm(t)
		key, victim := newKey(t), newKey(t)
		m, err := newRoll(Config{Key: key, Log: slog.New(slog.DiscardHandler), Swarm: s.of(s.certify(t, key, member.Use, time.Hour))}, rate.NewLimiter(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		id, err := peer.IDFromPrivateKey(victim)
		if err != nil {
			t.Fatal(err)
		}
		cert := s.certify(t, victim, member.Use, time.Hour)
		conns := []*stuck{}
		m.known[id] = &shownMember{Membership: &member.Membership{Certificate: cert}, shown: time.Now()}
		for range 2 {
			c := &stuck{peer: id, freed: make(chan struct{}), began: make(chan struct{})}
			if conns = append(conns, c); !m.track(c) {
				t.Fatal("a member is not let in")
			}
			time.Sleep(settling) // so that one is fresh
		}
		list, err := s.Revoke(member.Lists{}, nil, []member.Key{cert.Key}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		m.known[id].conns[1].at = time.Now()
		news, err := m.install(member.Lists{ByRoot: list}) // with a connection that waits, it would wait for ever
		if err != nil || !news {
			t.Fatal(news, err)
		}
		for _, c := range conns {
			<-c.began
			close(c.freed)
		}
		if err := m.standing(); err != nil || m.certificate(id) != nil || m.track(conns[0]) {
			t.Error("the list is not in force: ", err)
		}
	})
}
