package swarm

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/allowance"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// crossing are the networks of bridges that a machine runs.
type crossing struct {
	mu    sync.Mutex
	nets  map[*Bridge]*network.Network
	leave sync.Map // of each: func()
}

// EnterBridge, ExitBridge and ChangeBridge make the machine the daemon of its bridges.
func (m *machine) EnterBridge(b *Bridge) error {
	n, err := network.New(b.Network(network.Config{ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}}))
	if err != nil {
		return err
	}
	m.over.mu.Lock()
	m.over.nets[b] = n
	m.over.mu.Unlock()
	detach := b.Attach(n)
	var once sync.Once
	m.over.leave.Store(b, func() { once.Do(func() { detach(); _ = n.Close() }) })
	m.t.Cleanup(func() { m.ExitBridge(b) })
	return nil
}

func (m *machine) ExitBridge(b *Bridge) {
	if leave, ok := m.over.leave.Load(b); ok {
		leave.(func())()
	}
	m.over.mu.Lock()
	delete(m.over.nets, b)
	m.over.mu.Unlock()
}

func (m *machine) ChangeBridge(*Bridge) {}

// across returns the machine's network of a bridge; nil: it does not run.
func (m *machine) across(b *Bridge) *network.Network {
	m.over.mu.Lock()
	defer m.over.mu.Unlock()
	return m.over.nets[b]
}

func (m *machine) onlyBridge(s *Swarm) *Bridge {
	m.t.Helper()
	list := s.Bridges()
	if len(list) != 1 {
		m.t.Fatalf("%d bridges", len(list))
	}
	return list[0]
}

var lent = BridgeTerms{Roles: member.Use, TokensPerDay: 1000, Life: time.Hour}

// bridged makes a bridge from one swarm to another.
func bridged(t *testing.T, lender, guest *Swarm, terms BridgeTerms) (there, here *Bridge) {
	t.Helper()
	there, code, err := lender.Lend(guest.BridgeAsk(), terms, "")
	if err != nil {
		t.Fatal(err)
	}
	here, err = guest.book.AcceptBridge(strings.ToLower(code), "")
	if err != nil {
		t.Fatal(err)
	}
	return there, here
}

// A bridge reaches all members of both swarms, whoever of them made it; a member that its
// swarm revokes is cut off by nodes of the other; and the bridge ends everywhere when its
// lender revokes it.
func TestABridge(t *testing.T) {
	anna, ben := newMachine(t, "anna").runs(), newMachine(t, "ben").runs()
	cleo, dora := newMachine(t, "cleo").runs(), newMachine(t, "dora").runs()
	lab, office := anna.found("lab"), cleo.found("office")
	atBen, atDora := ben.join(code(t, lab, once)), dora.join(code(t, office, once))
	there, here := bridged(t, lab, office, lent)
	eventually(t, "a guest and a node of the lender are connected", func() bool {
		n := anna.across(there)
		return n != nil && n.Connected(here.self) && n.Guest(here.self)
	})
	eventually(t, "all members have the bridge", func() bool { return len(atBen.Bridges()) == 1 && len(atDora.Bridges()) == 1 })
	byBen, byDora := ben.onlyBridge(atBen), dora.onlyBridge(atDora)
	eventually(t, "their networks run", func() bool { return ben.across(byBen) != nil && dora.across(byDora) != nil })
	if i := byDora.Info(); i.Name != "lab" || i.Lends || i.Record.TokensPerDay != 1000 || byBen.Info().Name != "office" || !byBen.Lends() {
		t.Errorf("the guest's other member sees %+v", i)
	}
	meet := func(from *machine, b *Bridge, to *machine, at *Bridge) {
		t.Helper()
		n := to.across(at)
		if err := from.across(b).Host().Connect(t.Context(), peer.AddrInfo{ID: n.Self(), Addrs: n.Addrs()}); err != nil {
			t.Fatal(err)
		}
	}
	meet(dora, byDora, ben, byBen)
	meet(ben, byBen, anna, there)
	eventually(t, "the other members meet", func() bool {
		return ben.across(byBen).Connected(byDora.self) && ben.across(byBen).Connected(there.self)
	})
	for what, p := range map[string]peer.ID{"a member": atDora.Self(), "its founder": office.Self()} {
		if anna.nets[lab].Connected(p) || anna.MachineName(p) != "" || ben.MachineName(byDora.self) != "" {
			t.Errorf("the lender knows %s of the guest's swarm", what)
		}
	}

	// What guests have used of one node counts at the other.
	if e := ben.Spend(byBen.ID(), 900, 1, 1); e != nil || ben.Spend(atBen.ID().String(), 1, 1, 1) != nil || dora.Spend(byDora.ID(), 1e6, 1, 1) != nil {
		t.Error("refused: ", e)
	}
	eventually(t, "the other node has heard of it", func() bool { return there.Info().Used == 900 })
	if e := anna.Spend(there.ID(), 100, 1, 1); e == nil || e.Code != protocol.Code_CODE_FORBIDDEN || anna.Exhausted(there.ID()) == nil {
		t.Errorf("the limit does not hold: %v", e)
	}
	eventually(t, "guests are refused at both", func() bool { return ben.Exhausted(byBen.ID()) != nil })

	// Dora is removed by her own swarm.
	begin := time.Now()
	if _, _, err := office.Revoke("dora"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lender's nodes have cut her off", func() bool {
		n := ben.across(byBen)
		return !n.Connected(byDora.self) && n.Other().Has(atDora.Certificate())
	})
	t.Log("a guest was cut off by the other swarm's nodes after ", time.Since(begin))

	// The bridge is revoked.
	begin = time.Now()
	if _, err := lab.EndBridge("OFFICE", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is over at the lender's nodes", func() bool {
		return anna.across(there) == nil && ben.across(byBen) == nil && len(lab.Bridges())+len(atBen.Bridges()) == 0
	})
	t.Log("the bridge was over at all nodes after ", time.Since(begin))
	if _, err := lab.EndBridge("office", ""); !errors.Is(err, ErrNoBridge) {
		t.Errorf("it is revoked twice: %v", err)
	}
}

// Each text that is no good has its own error.
func TestBadBridges(t *testing.T) {
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	lab, office := anna.found("lab"), ben.found("office")
	_, good, err := lab.Lend(office.BridgeAsk(), lent, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ask   string
		terms BridgeTerms
		want  error
	}{
		"nothing":            {"", lent, ErrBridgeText},
		"a code of a bridge": {good, lent, ErrBridgeText},
		"an invitation":      {code(t, office, once), lent, ErrBridgeText},
		"its own request":    {lab.BridgeAsk(), lent, ErrBridge},
		"a role for members": {office.BridgeAsk(), BridgeTerms{Roles: member.Invite, Life: time.Hour}, ErrBridge},
		"no role":            {office.BridgeAsk(), BridgeTerms{Life: time.Hour}, ErrBridge},
		"no time":            {office.BridgeAsk(), BridgeTerms{Roles: member.Use}, ErrBridge},
		"too long":           {office.BridgeAsk(), BridgeTerms{Roles: member.Use, Life: 20 * 366 * 24 * time.Hour}, ErrBridge},
	} {
		if _, _, err := lab.Lend(c.ask, c.terms, ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		by   *machine
		code string
		want error
	}{
		"a request": {ben, office.BridgeAsk(), ErrBridgeText}, "another's": {anna, good, ErrForAnother}, "half of it": {ben, good[:len(good)/2], ErrBridgeText},
	} {
		if _, err := c.by.AcceptBridge(c.code, ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cleo := newMachine(t, "cleo").runs()
	ben.runs()
	member := cleo.join(code(t, ben.Swarms()[0], once))
	if _, _, err := member.Lend(lab.BridgeAsk(), lent, ""); !errors.Is(err, ErrBridgeRoot) {
		t.Errorf("a member without the root key lends: %v", err)
	}
	if _, err := cleo.AcceptBridge(good, ""); !errors.Is(err, ErrBridgeRoot) {
		t.Errorf("a member without the root key accepts: %v", err)
	}
	for _, models := range [][]string{nil, {"all", "x"}, {"tinytales"}} {
		if _, err := (Owner{anna.Book}).NewBridge("lab", api.NewBridgeRequest{To: office.BridgeAsk(), Models: models}); err == nil || api.AsError(err).Param != "models" {
			t.Errorf("models %v: %v", models, err)
		}
	}
}

// No member can have the others use a swarm, or be used by one, that the root key has not
// named.
func TestForgedBridges(t *testing.T) {
	anna, ben, eve := newMachine(t, "anna"), newMachine(t, "ben"), newMachine(t, "eve")
	lab, office, trap := anna.found("lab"), ben.found("office"), eve.found("trap")
	there, _, err := lab.Lend(office.BridgeAsk(), lent, "")
	if err != nil {
		t.Fatal(err)
	}
	now, hour := time.Now(), time.Now().Add(time.Hour)
	toOffice, err := member.SignBridge(trap.rootKey, member.BridgeRecord{Guest: office.about.Root, Number: 1, Roles: member.Use, NotBefore: now, NotAfter: hour})
	if err != nil {
		t.Fatal(err)
	}
	forged := &member.Grant{Record: toOffice, Signature: make([]byte, 64)}
	inLab, err := member.SignBridge(trap.rootKey, member.BridgeRecord{Guest: lab.about.Root, Number: 1, Roles: member.Use, NotBefore: now, NotAfter: hour})
	if err != nil {
		t.Fatal(err)
	}
	changed := *there.record
	changed.Roles, changed.Number = member.GuestRoles, 1<<60
	for name, c := range map[string]struct {
		s *Swarm
		v *protocol.SwarmBridge
	}{
		"a lender that nobody has accepted": {office, &protocol.SwarmBridge{Grant: forged.Marshal()}},
		"a record as if of this swarm":      {office, &protocol.SwarmBridge{Record: toOffice.Marshal()}},
		"another swarm's record":            {lab, &protocol.SwarmBridge{Record: inLab.Marshal()}},
		"more roles":                        {lab, &protocol.SwarmBridge{Record: changed.Marshal()}},
		"nothing":                           {lab, &protocol.SwarmBridge{}},
	} {
		before := len(c.s.Bridges())
		if err := c.s.hearBridges([]*protocol.SwarmBridge{c.v}); err == nil || len(c.s.Bridges()) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := there.Info().Record; r.Roles != member.Use {
		t.Errorf("the record in force has the roles %s", r.Roles)
	}
	old := there.record
	if _, _, err := lab.Lend(office.BridgeAsk(), BridgeTerms{Roles: member.Use, TokensPerDay: 5, Life: time.Hour}, ""); err != nil {
		t.Fatal(err)
	}
	if err := lab.hearBridges([]*protocol.SwarmBridge{{Record: old.Marshal()}}); err != nil || there.Info().Record.TokensPerDay != 5 {
		t.Errorf("an older record comes back: %v", err)
	}
	if _, err := lab.EndBridge("office", ""); err != nil {
		t.Fatal(err)
	}
	if err := lab.hearBridges([]*protocol.SwarmBridge{{Record: old.Marshal()}}); err != nil {
		t.Error(err)
	}
	// One that has ended is forgotten in the background; an older one in force would stay.
	eventually(t, "with its successor revoked, an older record is out of force", func() bool { return len(lab.Bridges()) == 0 })
	lab.holding.Lock()   // until its files are gone
	lab.holding.Unlock() //nolint:staticcheck // see above
}

// A bridge is there again after a restart, with the other swarm's lists and what was used;
// one that is damaged goes unused; one that has ended is forgotten.
func TestABridgeIsKept(t *testing.T) {
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	lab, office := anna.found("lab"), ben.found("office")
	there, here := bridged(t, lab, office, lent)
	if err := there.installOther(office.lists); err != nil {
		t.Fatal(err)
	}
	there.used.Spend(7*allowance.Token, time.Now())
	(&bridgeRun{b: there}).keepUsed()
	self := there.self
	anna.reopen()
	ben.reopen()
	lab, office = anna.Swarms()[0], ben.Swarms()[0]
	there = anna.onlyBridge(lab)
	if there.self != self || there.Info().Used != 7 || there.Info().Name != "office" || there.other.ByRoot == nil {
		t.Errorf("after a restart: %+v", there.Info())
	}
	again := ben.onlyBridge(office)
	if again.self != here.self || again.grant == nil || len(again.nodes) == 0 || !again.nodes[0].typed || again.nodes[0].ID != there.self {
		t.Errorf("the guest's, after a restart: %+v", again.nodes)
	}
	if conf := again.Network(network.Config{}); len(conf.Reached) != 1 {
		t.Error("the guest does not look for the lender")
	}
	for _, what := range []string{bridgeAbout, bridgeKey, bridgeLists} {
		raw, err := os.ReadFile(there.path(what))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(there.path(what), raw[:len(raw)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		anna.reopen()
		if list := anna.Swarms()[0].Bridges(); len(list) > 0 {
			t.Errorf("it is used although its file %s is damaged", what)
		}
		if err := os.WriteFile(there.path(what), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	anna.cfg.Now = func() time.Time { return time.Now().Add(2 * lent.Life) }
	anna.reopen()
	anna.tendNow()
	if _, err := os.Stat(there.path(bridgeAbout)); len(anna.Swarms()[0].Bridges()) > 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that has expired is kept: %v", err)
	}
}

// A home in both swarms uses the lender as its member, and not over the bridge.
func TestInBothSwarms(t *testing.T) {
	anna := newMachine(t, "anna").runs()
	lab, office := anna.found("lab"), anna.found("office")
	there, here := bridged(t, lab, office, lent)
	if anna.across(there) == nil || anna.across(here) != nil {
		t.Error("it does not run on the lender's side alone")
	}
	if err := anna.Leave(lab, true); err != nil {
		t.Fatal(err)
	}
	anna.tendNow()
	if anna.across(there) != nil || anna.across(here) == nil {
		t.Error("after it has left the lender it does not use it over the bridge")
	}
}

// What members name of nodes is bounded, and what the owner has typed is believed first.
func TestBridgeNodes(t *testing.T) {
	b := &Bridge{}
	addr := multiaddr.StringCast("/ip4/5.0.0.1/udp/4001/quic-v1")
	next := multiaddr.StringCast("/ip4/5.0.0.2/udp/4001/quic-v1")
	node := func(id string, typed bool, addrs ...multiaddr.Multiaddr) bridgeNode {
		return bridgeNode{peer.AddrInfo{ID: peer.ID(id), Addrs: addrs}, typed}
	}
	at := func(id string) multiaddr.Multiaddr {
		for _, n := range b.nodes {
			if n.ID == peer.ID(id) {
				return n.Addrs[0]
			}
		}
		return nil
	}
	for _, n := range []bridgeNode{node("a", true, addr), node("a", false, next), node("b", false, addr), node("b", false, next), node("c", false), node("d", false, multiaddr.StringCast("/dns4/example.com/tcp/1"))} {
		b.addNode(n)
	}
	if len(b.nodes) != 2 || !addr.Equal(at("a")) || !next.Equal(at("b")) {
		t.Errorf("%+v", b.nodes)
	}
	for i := range 2 * maxBridgeNodes {
		b.addNode(node(string(rune('A'+i)), false, addr))
	}
	if b.addNode(node("late", true, addr)); len(b.nodes) != maxBridgeNodes || b.nodes[0].ID != "late" || at("a") == nil {
		t.Errorf("%+v", b.nodes)
	}
}

func FuzzParseBridge(f *testing.F) {
	_, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	record, err := member.SignBridge(root, member.BridgeRecord{Number: 1, Roles: member.Use, NotBefore: now, NotAfter: now.Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	id := member.PublicKey(root).Peer()
	at := []bridgeNode{{peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/5.0.0.1/tcp/1")}}, true}}
	f.Add((&Bridge{record: record, name: "x", nodes: at, past: []member.Serial{{1}}}).marshal())
	f.Add((&Bridge{record: record, grant: &member.Grant{Record: record, Signature: make([]byte, 64)}}).marshal())
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseBridge(raw)
		if err != nil {
			return
		}
		again, err := parseBridge(b.marshal())
		if err != nil || again.id != b.id || again.name != b.name || len(again.nodes) != len(b.nodes) || len(again.past) != len(b.past) {
			t.Errorf("%v: %+v, then %+v", err, b, again)
		}
	})
}
