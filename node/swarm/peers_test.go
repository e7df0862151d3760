package swarm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Whatever an inviter calls its swarm, a name is found that no other has, and that can be
// kept.
func TestFreeName(t *testing.T) {
	anna := newMachine(t, "anna")
	for _, want := range []string{strings.Repeat("€", 21), strings.Repeat("x", maxName), strings.Repeat("7", maxName), "lab-2", "a"} {
		anna.found(want)
		for range 3 {
			name := anna.freeName(want)
			if len(name) > maxName || !utf8.ValidString(name) || name == want {
				t.Errorf("%q is taken, and %q is free", want, name)
			}
			anna.found(name)
		}
	}
}

// A certificate with another serial or without a role of the one before renews nothing,
// whoever signed it and however long it is valid.
func TestRenewal(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	root := member.Issuer{Root: home.about.Root, Key: home.rootKey}
	own := home.Certificate()
	issue := func(serial member.Serial, roles member.Roles) *member.Certificate {
		c, err := root.Renew(&member.Certificate{Serial: serial, Key: own.Key}, roles, time.Now(), 2*member.Life)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for what, c := range map[string]*member.Certificate{
		"without a role": issue(own.Serial, member.Bridge), "with another serial": issue(member.Serial{1}, own.Roles),
	} {
		if err := home.renewed(c.Marshal()); err == nil || home.Certificate() != own {
			t.Errorf("a certificate %s is kept: %v", what, err)
		}
	}
	good := issue(own.Serial, own.Roles)
	if err := home.renewed(good.Marshal()); err != nil || !home.Certificate().Expires().Equal(good.NotAfter) {
		t.Errorf("%v: a renewal is not kept", err)
	}
}

// A member that passes on lists that are not valid cannot fill the log.
func TestBoundedLog(t *testing.T) {
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben").runs()
	lines := new(countedLines)
	anna.cfg.Log = slog.New(lines)
	anna.reopen()
	home := anna.runs().found("lab")
	there := ben.join(code(t, home, once))
	eventually(t, "they are connected", func() bool { return home.State().Connected == 1 })
	c := anna.nets[home].Host().Network().ConnsToPeer(there.Self())[0]
	before := lines.Load()
	for range 500 {
		home.attached().note(c, &protocol.MemberRequest{Revocations: []byte("x")})
	}
	if more := lines.Load() - before; more == 0 || more > 50 {
		t.Errorf("%d lines of log for 500 lists that are not valid", more)
	}
}

// countedLines is a log that counts its lines.
type countedLines struct{ atomic.Int64 }

func (l *countedLines) Enabled(context.Context, slog.Level) bool { return true }

func (l *countedLines) Handle(context.Context, slog.Record) error {
	l.Add(1)
	return nil
}

func (l *countedLines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *countedLines) WithGroup(string) slog.Handler      { return l }

// A founder's membership that has ended is renewed when its node starts. Until then the
// founder does not join again, by which the root key would be lost.
func TestFounderJoinsAgain(t *testing.T) {
	anna := newMachine(t, "anna")
	home := anna.found("lab")
	long := time.Now().Add(-2 * member.Life)
	old, err := member.Issuer{Root: home.about.Root, Key: home.rootKey}.Renew(home.Certificate(), member.AllRoles, long, member.Life)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home.path(certificateFile), old.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	anna.reopen()
	home = anna.Swarms()[0]
	_, inviter, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := member.NewTicket(home.ID(), inviter, []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	_, err = anna.Join(t.Context(), ticket.String())
	if r := remedy.Of(err); !errors.Is(err, ErrRootHere) || r == nil || r.Kind != remedy.RenewSwarm {
		t.Errorf("the founder joins again: %v", err)
	}
	if _, err := os.Stat(home.path(rootFile)); err != nil {
		t.Error("the root key is lost: ", err)
	}
	if anna.runs(); !home.member() || !home.State().Running {
		t.Error("the founder is no member after a start")
	}
}
