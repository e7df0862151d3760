package swarm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/protocol/member"
)

// write makes files of a home.
func write(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBegin is the table in the package's documentation: which networks a home begins in,
// by what its owner has said and what the home is, and what a node and a command make of it.
func TestBegin(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(t *testing.T, h home.Home){
		"new":            func(*testing.T, home.Home) {},
		"in a swarm":     func(t *testing.T, h home.Home) { begin(t, h, Unsaid, true) },
		"open before":    func(t *testing.T, h home.Home) { write(t, h.Key()) },
		"open by choice": func(t *testing.T, h home.Home) { begin(t, h, BeOpen, true); write(t, h.Key()) },
		"left its swarm": func(t *testing.T, h home.Home) {
			write(t, h.Key())
			st := begin(t, h, BeClosed, true)
			if err := st.Book.Leave(st.Founded, true); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, c := range []struct {
		home                   string
		said                   Choice
		private, kept, founded bool
	}{
		{"new", Unsaid, true, false, true},
		{"new", BeClosed, true, false, true},
		{"new", BeOpen, false, false, false},
		{"in a swarm", Unsaid, true, false, false},
		{"in a swarm", BeOpen, false, false, false},
		{"open before", Unsaid, false, true, false},
		{"open before", BeClosed, true, false, true},
		{"open before", BeOpen, false, false, false},
		{"open by choice", Unsaid, true, false, true},
		{"open by choice", BeOpen, false, false, false},
		{"left its swarm", Unsaid, true, false, true},
	} {
		for _, node := range []bool{false, true} {
			h := home.Home(t.TempDir())
			kinds[c.home](t, h)
			if c.home == "in a swarm" { // its node may be writing just now
				write(t, filepath.Join(h.Swarm(begin(t, h, Unsaid, false).Book.Swarms()[0].ID().String()), "members.json.new-1"))
			}
			had := content(t, h)
			seen, err := Foresee(Config{Home: string(h), Machine: "anna"}, c.said)
			if err != nil {
				t.Fatal(err)
			}
			if has := content(t, h); !slices.Equal(has, had) {
				t.Errorf("%s: foreseeing has made %v of %v", c.home, has, had)
			}
			before := len(seen.Book.Swarms())
			st := begin(t, h, c.said, node)
			if st.Private != c.private || st.Kept != c.kept || (st.Founded != nil) != (c.founded && node) {
				t.Errorf("%s, said %d, by a node %t: private %t, kept %t, founded %v", c.home, c.said, node, st.Private, st.Kept, st.Founded)
			}
			if seen.Private != st.Private || seen.Kept != st.Kept || len(st.Book.Swarms())-before != map[bool]int{true: 1}[c.founded && node] {
				t.Errorf("%s, said %d, by a node %t: foreseen %+v, and %d swarms", c.home, c.said, node, seen, len(st.Book.Swarms()))
			}
			if again := begin(t, h, c.said, node); again.Private != st.Private || again.Kept != st.Kept || again.Founded != nil {
				t.Errorf("%s, said %d: the second start is %+v", c.home, c.said, again)
			}
		}
	}
}

// An attempt to join a swarm leaves a home that was open before as it is; one that was in a
// swarm, or was chosen to be open, is not taken for it.
func TestBeginAfterAnAttempt(t *testing.T) {
	t.Parallel()
	h := home.Home(t.TempDir())
	write(t, h.Key())
	attempt := func() {
		t.Helper()
		ticket, err := member.NewTicket(member.SwarmID{1}, member.Key{}.Peer(), nil, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := begin(t, h, BeClosed, false).Book.Join(t.Context(), ticket.String()); !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
	}
	kept := func() bool { return begin(t, h, Unsaid, false).Kept }
	for range 2 {
		if attempt(); !kept() {
			t.Error("an attempt to join a swarm has closed the home")
		}
	}
	if begin(t, h, BeOpen, true); kept() {
		t.Error("after it was chosen to be open the home is taken for one that was before")
	}
	if err := os.Remove(h.Chosen()); err != nil {
		t.Fatal(err)
	}
	b := begin(t, h, Unsaid, false).Book
	s, err := b.New("", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Leave(s, true); err != nil || kept() {
		t.Errorf("a home that has left its swarm is open again: %v", err)
	}
}

// content are the paths in a home.
func content(t *testing.T, h home.Home) (all []string) {
	t.Helper()
	err := filepath.WalkDir(string(h), func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func begin(t *testing.T, h home.Home, said Choice, found bool) Start {
	t.Helper()
	st, err := Begin(Config{Home: string(h), Machine: "anna"}, said, found)
	if err != nil || len(st.Broken) > 0 {
		t.Fatal(err, st.Broken)
	}
	return st
}

// A home whose swarm is damaged neither opens nor founds another in its place.
func TestBeginDamaged(t *testing.T) {
	t.Parallel()
	h := home.Home(t.TempDir())
	write(t, h.Key())
	s := begin(t, h, BeClosed, true).Founded
	if err := os.Remove(s.path(certificateFile)); err != nil {
		t.Fatal(err)
	}
	st, err := Begin(Config{Home: string(h)}, Unsaid, true)
	if err != nil || len(st.Broken) != 1 || !st.Private || st.Founded != nil {
		t.Errorf("it begins with %+v, %v", st, err)
	}
}

// What is copied for a moment's client makes it the same member, without what founds or
// lets in.
func TestCopy(t *testing.T) {
	t.Parallel()
	s := begin(t, home.Home(t.TempDir()), Unsaid, true).Founded
	if _, err := s.Invite(t.Context(), Terms{Roles: s.Certificate().Roles, Uses: 1, Life: maxTicket}); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := s.Copy(to); err != nil {
		t.Fatal(err)
	}
	got := begin(t, home.Home(to), Unsaid, false).Book.Swarms()
	if len(got) != 1 || got[0].ID() != s.ID() || got[0].Self() != s.Self() || got[0].Founder() || got[0].State().Codes != 0 {
		t.Errorf("the copy has %+v", got)
	}
}
