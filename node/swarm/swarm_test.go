package swarm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// machine is a home with its swarms, and the networks of those that run.
type machine struct {
	*Book
	t      *testing.T
	cfg    Config
	events chan Event
	nets   map[*Swarm]*network.Network
	over   *crossing
}

func newMachine(t *testing.T, name string) *machine {
	m := &machine{t: t, events: make(chan Event, 100), nets: map[*Swarm]*network.Network{}, over: &crossing{nets: map[*Bridge]*network.Network{}}}
	m.cfg = Config{Home: t.TempDir(), Machine: name, Events: func(e Event) { m.events <- e }}
	m.reopen()
	return m
}

func (m *machine) reopen() {
	m.t.Helper()
	book, broken, err := Open(m.cfg)
	if err != nil || len(broken) > 0 {
		m.t.Fatal(err, broken)
	}
	m.Book = book
}

// Enter and Exit make the machine the daemon of its swarms.
func (m *machine) Enter(s *Swarm) error {
	n, err := network.New(s.Network(network.Config{ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}}))
	if err != nil {
		return err
	}
	m.nets[s] = n
	detach := s.Attach(n)
	m.t.Cleanup(func() {
		detach()
		_ = n.Close() // Exit may have closed it
	})
	return nil
}

func (m *machine) Exit(s *Swarm) { _ = m.nets[s].Close() }

// runs has the machine's swarms run.
func (m *machine) runs() *machine {
	m.t.Helper()
	if err := m.Run(m); err != nil {
		m.t.Fatal(err)
	}
	return m
}

func (m *machine) found(name string) *Swarm {
	m.t.Helper()
	s, err := m.New(name, "")
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *machine) join(code string) *Swarm {
	m.t.Helper()
	s, err := m.Join(m.t.Context(), code)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

var once = Terms{Roles: member.Use | member.Serve, Uses: 1, Life: time.Hour}

func code(t *testing.T, s *Swarm, terms Terms) string {
	t.Helper()
	ticket, err := s.Invite(t.Context(), terms)
	if err != nil {
		t.Fatal(err)
	}
	return ticket.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in 30 s: ", what)
		}
	}
}

// A machine is invited, joins, is known by name, and is still a member after both have
// started again.
func TestInviteAndJoin(t *testing.T) {
	anna, ben := newMachine(t, "anna's desk").runs(), newMachine(t, "ben").runs()
	home := anna.found("lab")
	there := ben.join(strings.ToLower(code(t, home, once)))
	if there.Name() != "lab" || there.ID() != home.ID() || there.Founder() || there.Certificate().Roles != once.Roles {
		t.Errorf("joined %q %s as %s", there.Name(), there.ID(), there.Certificate().Roles)
	}
	if e := <-anna.events; e.Kind != "member" || e.Name != "ben" || e.Swarm != "lab" || e.Peer != there.Self().String() {
		t.Errorf("the inviter hears of %+v", e)
	}
	eventually(t, "they are connected, and know each other's names", func() bool {
		return anna.MachineName(there.Self()) == "ben" && ben.MachineName(home.Self()) == "anna's desk" && home.State().Connected == 1 && there.State().Connected == 1
	})
	if name := anna.MachineName("a stranger"); name != "" {
		t.Errorf("a stranger is called %q", name)
	}
	if err := anna.saveAll(); err != nil {
		t.Error(err)
	}
	anna.reopen()
	ben.reopen()
	again, err := anna.Pick("LAB")
	if err != nil || !again.Founder() || len(again.Members()) != 2 {
		t.Fatal(err, again.Members())
	}
	if there, err = ben.Pick(""); err != nil || there.Self() != again.Members()[1].Peer {
		t.Errorf("%v: %s is a member, but %+v are known", err, there.Self(), again.Members())
	}
	if conf := there.Network(network.Config{}); len(conf.Reached) != 1 || len(conf.Reached[0].Addrs) == 0 {
		t.Error("the newcomer does not know where the inviter is")
	}
}

func (m *machine) saveAll() (err error) {
	for _, s := range m.Swarms() {
		err = errors.Join(err, s.saveMembers(), s.saveTickets())
	}
	return err
}

// Each way in which a code is not good has its own error.
func TestBadCodes(t *testing.T) {
	var ahead atomic.Int64 // of the inviter's clock
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	anna.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	anna.reopen()
	anna.runs()
	home := anna.found("lab")
	good := code(t, home, once)
	ticket, err := member.ParseTicket(good)
	if err != nil {
		t.Fatal(err)
	}
	wrong := *ticket
	wrong.Secret[0]++
	other := *ticket
	other.Inviter = newMachine(t, "").found("x").Self()
	gone := *ticket
	gone.Addrs = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")}
	old := *ticket
	old.Expires = time.Now().Add(-time.Minute)
	refused := func(code string, want error) {
		t.Helper()
		if s, err := ben.Join(t.Context(), code); !errors.Is(err, want) || s != nil {
			t.Errorf("%v, want %v", err, want)
		}
		if list := ben.Swarms(); len(list) > 0 {
			t.Error("it is a member all the same")
		}
	}
	refused("", ErrCode)
	refused(good[:len(good)-1], ErrCode)
	refused(strings.Replace(good, "SHOAL", "SHOLA", 1), ErrCode)
	refused(old.String(), ErrExpired)
	refused(gone.String(), ErrUnreachable)
	refused(other.String(), ErrUnreachable)
	refused(wrong.String(), ErrWrongSecret)
	if e := <-anna.events; e.Kind != "refused" || e.Name != "ben" || e.Error != ErrWrongSecret.Error() {
		t.Errorf("the inviter hears of %+v", e)
	}
	longer := code(t, home, once)
	ben.join(good)
	if _, err := newMachine(t, "eve").Join(t.Context(), good); !errors.Is(err, ErrSpent) {
		t.Errorf("a spent code: %v", err)
	}
	ahead.Add(int64(once.Life + 2*time.Minute)) // by the inviter's clock alone
	if _, err := newMachine(t, "eve").Join(t.Context(), longer); !errors.Is(err, ErrExpired) {
		t.Errorf("an expired code: %v", err)
	}
	if _, err := ben.Join(t.Context(), longer); !errors.Is(err, ErrAlready) {
		t.Errorf("a member joins again: %v", err)
	}
	ahead.Add(int64(2 * spentTime))
	home.poke()
	eventually(t, "the door is closed", func() bool {
		home.doorWork.Lock()
		defer home.doorWork.Unlock()
		return home.attached().door == nil
	})
	if _, err := newMachine(t, "eve").Join(t.Context(), longer); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), network.ErrNobody.Error()) {
		t.Errorf("nobody listens: %v", err)
	}
}

// A newcomer whose answer was lost comes again with the same code; a use is counted once.
func TestLostAnswer(t *testing.T) {
	anna := newMachine(t, "anna")
	home := anna.found("lab")
	ticket, err := home.Invite(t.Context(), once)
	if err != nil {
		t.Fatal(err)
	}
	_, joiner, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	_, eve, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	id := home.ID()
	ask := func(p peer.ID) *protocol.JoinReply {
		return home.redeem(p, &protocol.JoinRequest{Swarm: id[:], Proof: proofKey(ticket.Secret).Proof(id, p, home.Self()), Name: "x"})
	}
	first := ask(joiner)
	anna.reopen() // the inviter's machine crashed
	home = anna.Swarms()[0]
	second, late := ask(joiner), ask(eve)
	c1, err1 := member.ParseCertificate(first.Certificate)
	c2, err2 := member.ParseCertificate(second.Certificate)
	if err1 != nil || err2 != nil || c1.Serial != c2.Serial {
		t.Errorf("%v, %v; serials %s and %s", err1, err2, c1.Serial, c2.Serial)
	}
	if late.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_SPENT {
		t.Errorf("another gets in with the same code: %s", late.Refusal)
	}
	stolen := home.redeem(eve, &protocol.JoinRequest{Swarm: id[:], Proof: proofKey(ticket.Secret).Proof(id, joiner, home.Self())})
	if stolen.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_UNKNOWN {
		t.Errorf("another's proof: %s", stolen.Refusal)
	}
	if raw, err := os.ReadFile(home.path(ticketsFile)); err != nil || strings.Contains(string(raw), ticket.String()[5:40]) {
		t.Errorf("%v: the code is kept:\n%s", err, raw)
	}
}

// Who is revoked is cut off from everybody, also by those who learn of it from others, and
// does not come back; one who was away learns it at its first contact.
func TestRevoke(t *testing.T) {
	anna, ben, cleo, dora := newMachine(t, "anna").runs(), newMachine(t, "ben").runs(), newMachine(t, "cleo").runs(), newMachine(t, "dora").runs()
	home := anna.found("lab")
	many := once
	many.Uses = 3
	invitation := code(t, home, many)
	atBen, atCleo := ben.join(invitation), cleo.join(invitation)
	if err := cleo.nets[atCleo].Host().Connect(t.Context(), peer.AddrInfo{ID: atBen.Self(), Addrs: ben.nets[atBen].Addrs()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all know each other", func() bool {
		return home.State().Connected == 2 && atBen.State().Connected == 2 && cleo.MachineName(atBen.Self()) == "ben"
	})
	m, also, err := home.Revoke("BEN")
	if err != nil || m.Peer != atBen.Self() || len(also) > 0 {
		t.Fatal(err, m, also)
	}
	eventually(t, "nobody is connected to who was revoked", func() bool {
		return home.State().Connected == 1 && atCleo.State().Connected == 1 && atBen.State().Connected == 0
	})
	if st := atCleo.State(); st.Members != 2 || cleo.MachineName(atBen.Self()) != "" {
		t.Errorf("another member still counts the revoked one: %+v", st)
	}
	// Dora was told of Ben by an inviter, and has never met the others since.
	atDora := dora.join(code(t, home, once))
	eventually(t, "the newcomer has the list", func() bool { return knowsRevoked(dora.Swarms()[0], atBen.Certificate()) })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_ = ben.nets[atBen].Host().Connect(ctx, peer.AddrInfo{ID: atDora.Self(), Addrs: dora.nets[atDora].Addrs()}) // QUIC may say so later
	eventually(t, "the revoked one is refused", func() bool { return !dora.nets[atDora].Connected(atBen.Self()) })
	if _, _, err := home.Revoke("nobody"); !errors.Is(err, ErrNoMember) {
		t.Error(err)
	}
	if _, _, err := home.Revoke("anna"); !errors.Is(err, ErrSelf) {
		t.Error(err)
	}
	if _, _, err := atCleo.Revoke("anna"); !errors.Is(err, ErrMayNot) {
		t.Error(err)
	}
	anna.reopen()
	if s := anna.Swarms()[0]; !s.lists.Has(atBen.Certificate()) {
		t.Error("the list is lost at a restart")
	}
}

func knowsRevoked(s *Swarm, c *member.Certificate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists.Has(c)
}

// A swarm is left for good; the founder's, whose root key would be lost, only with force.
func TestLeave(t *testing.T) {
	anna := newMachine(t, "anna").runs()
	one, two := anna.found(""), anna.found("")
	if one.Name() != "anna" || two.Name() != "anna-2" {
		t.Errorf("named %q and %q", one.Name(), two.Name())
	}
	if _, err := anna.Pick(""); !errors.Is(err, ErrAmbiguous) {
		t.Error(err)
	}
	if _, err := anna.Pick("lab"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	if _, err := anna.New("ANNA", ""); !errors.Is(err, ErrName) {
		t.Error(err)
	}
	if err := anna.Leave(one, false); !errors.Is(err, ErrFounder) {
		t.Error(err)
	}
	if err := anna.Leave(one, true); err != nil {
		t.Fatal(err)
	}
	if err := one.saveMembers(); !errors.Is(err, errGone) {
		t.Errorf("a file is written after all: %v", err)
	}
	if left, _ := os.ReadDir(anna.dir); len(left) != 1 || len(anna.Swarms()) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := anna.Leave(two, true); err != nil {
		t.Fatal(err)
	}
	if _, err := anna.Pick(""); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// A code that is made while the swarm's network closes leaves no listener behind.
func TestNoDoorAfterDetach(t *testing.T) {
	anna := newMachine(t, "anna")
	home := anna.found("lab")
	n, err := network.New(home.Network(network.Config{ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	detach := home.Attach(n)
	r := home.attached()
	detach()
	if d, err := r.opened(); err == nil {
		d.close()
		t.Error("the door opens after its network is gone")
	}
}

// A root key that is kept elsewhere is not in the home. Without it the founder's machine
// invites and revokes, but makes no issuers; with it, it renews its certificate.
func TestRootElsewhere(t *testing.T) {
	anna := newMachine(t, "anna")
	file := filepath.Join(t.TempDir(), "root")
	s, err := anna.New("lab", file)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 || s.Founder() {
		t.Error(err, st.Mode(), s.Founder())
	}
	if _, err := anna.New("lab2", file); !errors.Is(err, os.ErrExist) {
		t.Errorf("the root key of another swarm is overwritten: %v", err)
	}
	for _, path := range []string{file, filepath.Join(file, "x"), "swarm_test.go.root"} {
		if v, err := (Owner{anna.Book}).NewSwarm(api.NewSwarmRequest{Name: "lab2", RootFile: path}); v != nil || err == nil || api.AsError(err).Kind != api.BadInput {
			t.Errorf("a root key in %s: %v", path, err)
		}
	}
	if _, err := s.Invite(t.Context(), once); err != nil {
		t.Error(err)
	}
	more := once
	more.Roles |= member.Invite
	if _, err := s.Invite(t.Context(), more); !errors.Is(err, ErrMayNot) {
		t.Error(err)
	}
	before := s.Certificate()
	anna.cfg.Now = func() time.Time { return time.Now().Add(member.RenewAfter) }
	anna.reopen()
	s = anna.Swarms()[0]
	if err := s.RenewWith(file); err != nil || !s.Certificate().Expires().After(before.Expires()) {
		t.Errorf("%v: until %s", err, s.Certificate().Expires())
	}
	if err := s.RenewWith(file + "x"); err == nil {
		t.Error("renewed with a key that is not there")
	}
}

// A crash leaves no half of a swarm, and a damaged one does not keep the others from being
// used.
func TestDamaged(t *testing.T) {
	anna := newMachine(t, "anna")
	one, two := anna.found("one"), anna.found("two")
	if err := os.MkdirAll(filepath.Join(anna.dir, leftPrefix+one.ID().String()), 0o700); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(anna.dir, joinPrefix+two.ID().String())
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*maxTicket)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{membersFile, ticketsFile} {
		if err := os.WriteFile(one.path(name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	anna.reopen()
	if list := anna.Swarms(); len(list) != 2 {
		t.Errorf("%d swarms", len(list))
	}
	for _, name := range []string{keyFile, aboutFile, certificateFile, listFile, rootFile} {
		raw, err := os.ReadFile(two.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(two.path(name), raw[:len(raw)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		book, broken, err := Open(anna.cfg)
		if err != nil || len(book.Swarms()) != 1 || len(broken) != 1 || !strings.Contains(broken[0].Error(), name) {
			t.Errorf("%s: %v, %v", name, err, broken)
		}
		if err := os.WriteFile(two.path(name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(anna.dir, ".*")); len(left) > 0 {
		t.Errorf("a crash left %v", left)
	}
}
