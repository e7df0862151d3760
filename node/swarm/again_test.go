package swarm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	libp2p "github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// A swarm whose folder is damaged is joined again, and what was in the folder is kept; but
// not where the root key is in it, and then before a use of the code is spent.
func TestJoinOverDamaged(t *testing.T) {
	t.Parallel()
	anna, ben := newMachine(t, "anna").runs(), newMachine(t, "ben")
	home := anna.found("lab")
	first := ben.join(code(t, home, once))
	if err := os.WriteFile(first.path(certificateFile), []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := func(m *machine) {
		t.Helper()
		book, broken, err := Open(m.cfg)
		if err != nil || len(broken) != 1 {
			t.Fatal(err, broken)
		}
		m.Book = book
	}
	damaged(ben)
	again := ben.join(code(t, home, once))
	ben.reopen()
	if got := ben.Swarms(); len(got) != 1 || got[0].ID() != home.ID() || got[0].Self() != again.Self() {
		t.Errorf("after joining again Ben is in %v", got)
	}
	aside, _ := filepath.Glob(filepath.Join(ben.dir, damagedPrefix+home.ID().String()+"-*", certificateFile))
	if len(aside) != 1 {
		t.Fatal("put aside: ", aside)
	}
	if raw, err := os.ReadFile(aside[0]); err != nil || string(raw) != "none" {
		t.Errorf("what was there before is %q now, %v", raw, err)
	}

	eve := newMachine(t, "eve")
	own := eve.found("eve")
	if err := os.Remove(own.path(certificateFile)); err != nil {
		t.Fatal(err)
	}
	damaged(eve)
	ticket, err := member.NewTicket(own.ID(), home.Self(), []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eve.Join(t.Context(), ticket.String()); !errors.Is(err, ErrDamaged) {
		t.Errorf("over a folder with the root key: %v", err)
	}
}

// While an inviter takes its time, other swarms are founded and left, and the same one is
// not joined twice.
func TestJoinWaitsAlone(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	at, err := manet.FromNetAddr(silent.Addr())
	if err != nil {
		t.Fatal(err)
	}
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	home := anna.found("lab")
	ticket, err := member.NewTicket(home.ID(), home.Self(), []multiaddr.Multiaddr{at}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := ben.Join(ctx, ticket.String())
		ended <- err
	}()
	eventually(t, "Ben waits for the inviter", func() bool {
		ben.mu.Lock()
		defer ben.mu.Unlock()
		return ben.joining[home.ID()]
	})
	if err := ben.Leave(ben.found("other"), true); err != nil {
		t.Error(err)
	}
	if _, err := ben.Join(t.Context(), ticket.String()); !errors.Is(err, ErrJoining) {
		t.Errorf("joining the same swarm meanwhile: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("founding and leaving waited for the inviter, who gave up: %v", err)
	default:
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("Ben was let in by nobody")
	}
	if _, err := ben.Join(ctx, ticket.String()); errors.Is(err, ErrJoining) {
		t.Error("after an attempt has ended, the next is refused")
	}
}

// Whoever is the last that may let machines in does not leave unawares, wherever the root
// key is; others leave as they like.
func TestLastInviter(t *testing.T) {
	t.Parallel()
	anna, ben := newMachine(t, "anna").runs(), newMachine(t, "ben")
	home, err := anna.New("lab", filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	there := ben.join(code(t, home, once))
	if err := anna.Leave(home, false); !errors.Is(err, ErrLastInviter) {
		t.Errorf("the founder leaves: %v", err)
	}
	if err := ben.Leave(there, false); err != nil {
		t.Error(err)
	}
	if err := anna.Leave(home, true); err != nil {
		t.Error(err)
	}

	chief, deputy := newMachine(t, "chief").runs(), newMachine(t, "deputy")
	lab := chief.found("lab")
	more := once
	more.Roles |= member.Invite
	second := deputy.join(code(t, lab, more))
	if err := deputy.Leave(second, false); err != nil { // the founder still may
		t.Error(err)
	}
}

// A running node shows its renewed certificate once no session runs, and with sessions
// before the old one ends.
func TestReenter(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	ahead.Store(-int64(member.RenewAfter + time.Hour)) // networks go by the real time, at which the certificates are due
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	for _, m := range []*machine{anna, ben} {
		m.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		m.reopen()
		m.runs()
	}
	home := anna.found("lab")
	there := ben.join(code(t, home, once))
	hosts := func() [2]host.Host { return [2]host.Host{home.attached().net.Host(), there.attached().net.Host()} }
	before := hosts()
	eventually(t, "they are connected", func() bool { return home.State().Connected == 1 && there.State().Connected == 1 })
	before[0].SetStreamHandler(protocol.StageID, func(libp2p.Stream) {})
	session, err := before[1].NewStream(t.Context(), home.Self(), protocol.StageID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Write([]byte{1}); err != nil { // so that it exists at both ends
		t.Fatal(err)
	}
	eventually(t, "the session runs at both ends", func() bool { return !idle(home.attached().net.Host()) && !idle(there.attached().net.Host()) })

	ahead.Store(0)
	old := there.Certificate()
	eventually(t, "Ben's certificate is renewed", func() bool {
		home.poke()
		there.poke()
		return there.Certificate().Expires().After(old.Expires())
	})
	for _, s := range []*Swarm{home, there} {
		if s.attached().outdated(anna.cfg.Now()) {
			t.Error("a session is cut for a certificate that is valid for a month")
		}
		if !s.attached().outdated(old.Expires().Add(-time.Hour)) {
			t.Error("an hour before its end it still counts")
		}
	}
	_ = session.Reset()
	eventually(t, "both show their new certificates", func() bool {
		for _, s := range []*Swarm{home, there} {
			if r := s.attached(); r == nil || r.outdated(anna.cfg.Now()) {
				s.poke()
				return false
			}
		}
		now := hosts()
		return now[0] != before[0] && now[1] != before[1]
	})
}
