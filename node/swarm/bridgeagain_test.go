package swarm

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// settle waits for what machines do in the background about their bridges.
func settle(t *testing.T, all ...*machine) {
	t.Helper()
	for _, m := range all {
		eventually(t, "its bridges are looked after", func() bool { return !m.tending.Load() })
		m.tendNow()
	}
}

// A record that its owner has replaced by a shorter one is not in force again once that has
// ended, whoever still has it.
func TestReplacedRecord(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	anna.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	anna.reopen()
	lab, office := anna.found("lab"), ben.found("office")
	there, _, err := lab.Lend(office.BridgeAsk(), BridgeTerms{Roles: member.GuestRoles, Life: 24 * time.Hour}, "")
	if err != nil {
		t.Fatal(err)
	}
	old := there.terms()
	if _, _, err := lab.Lend(office.BridgeAsk(), BridgeTerms{Roles: member.Use, Life: time.Minute}, ""); err != nil {
		t.Fatal(err)
	}
	newest := there.terms().Number
	ahead.Store(int64(time.Hour))
	for range 2 {
		anna.tendNow()
		lab = anna.Swarms()[0]
		if err := lab.hearBridges([]*protocol.SwarmBridge{{Record: old.Marshal()}}); err != nil || len(lab.Bridges()) != 0 {
			t.Errorf("after the end of what replaced it, an older record is in force: %v", err)
		}
		anna.reopen()
	}
	lab = anna.Swarms()[0]
	ahead.Store(-int64(time.Minute)) // a clock that is set back
	again, _, err := lab.Lend(office.BridgeAsk(), lent, "")
	if err != nil || again.terms().Number <= newest {
		t.Fatalf("the next record has the number %d after %d: %v", again.terms().Number, newest, err)
	}
	if err := os.WriteFile(again.path(bridgeNumber), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.EndBridge("office", ""); err != nil {
		t.Fatal(err)
	}
	settle(t, anna)
	if last, err := lab.lastNumber(again.id); err != nil || last != again.terms().Number {
		t.Errorf("the last number is %d: %v", last, err)
	}
	if err := os.WriteFile(again.path(bridgeNumber), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := lab.Lend(office.BridgeAsk(), lent, ""); err == nil || !strings.Contains(err.Error(), again.path(bridgeNumber)) {
		t.Errorf("nobody knows the last number: %v", err)
	}
}

// A bridge that the other side has revoked does not come back by a member that has not heard
// of it.
func TestEndedByTheOtherSide(t *testing.T) {
	t.Parallel()
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	lab, office := anna.found("lab"), ben.found("office")
	there, _ := bridged(t, lab, office, lent)
	record := there.terms()
	if _, err := office.EndBridge("lab", ""); err != nil {
		t.Fatal(err)
	}
	if err := there.installOther(office.lists); err != nil {
		t.Fatal(err)
	}
	settle(t, anna, ben)
	if err := lab.hearBridges([]*protocol.SwarmBridge{{Record: record.Marshal()}}); err != nil || len(lab.Bridges()) != 0 {
		t.Errorf("it is back: %v", err)
	}
}

// A bridge has a name by which people can end it, also if whoever told of it gave none.
func TestNamelessBridge(t *testing.T) {
	t.Parallel()
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	lab, office := anna.found("lab"), ben.found("office")
	record, err := member.SignBridge(lab.rootKey, member.BridgeRecord{Guest: office.about.Root, Number: 1, Roles: member.Use, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.hearBridges([]*protocol.SwarmBridge{{Name: "\n", Record: record.Marshal()}}); err != nil {
		t.Fatal(err)
	}
	if name := anna.onlyBridge(lab).Info().Name; name != office.ID().String()[:8] {
		t.Errorf("it is called %q", name)
	}
}

// The network of a bridge is opened again for other roles, on which depends what is exchanged
// there, and to show this node's renewed certificate.
func TestBridgeOutgrown(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	ahead.Store(-int64(member.RenewAfter + time.Hour)) // networks go by the real time, at which the certificate is due
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	for _, m := range []*machine{anna, ben} {
		m.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		m.reopen()
	}
	anna.runs()
	lab, office := anna.found("lab"), ben.found("office")
	there, _ := bridged(t, lab, office, BridgeTerms{Roles: member.Use | member.Serve, Life: 365 * 24 * time.Hour})
	first := anna.across(there)
	lend := func(terms BridgeTerms) {
		t.Helper()
		if _, _, err := lab.Lend(office.BridgeAsk(), terms, ""); err != nil {
			t.Fatal(err)
		}
	}
	lend(BridgeTerms{Roles: member.Use | member.Serve, TokensPerDay: 5, Life: 365 * 24 * time.Hour})
	if first == nil || anna.across(there) != first || !first.Shares() {
		t.Error("the network is another because of a limit")
	}
	lend(BridgeTerms{Roles: member.Use, Life: 365 * 24 * time.Hour})
	second := anna.across(there)
	if second == nil || second == first || second.Shares() {
		t.Error("weights are exchanged with guests that may use the lender's nodes alone")
	}
	ahead.Store(0)
	eventually(t, "the certificate is renewed", func() bool {
		lab.poke()
		return lab.Certificate().Expires().After(second.Certificate(second.Self()).Expires())
	})
	eventually(t, "it is shown over the bridge", func() bool {
		anna.tendNow()
		n := anna.across(there)
		return n != nil && n != second && n.Certificate(n.Self()).Expires().Equal(lab.Certificate().Expires())
	})
}
