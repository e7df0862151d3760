package swarm

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// enrol makes a machine a member of another's swarm, without any network.
func (m *machine) enrol(s *Swarm) *Swarm {
	m.t.Helper()
	key, self, err := newKey()
	if err != nil {
		m.t.Fatal(err)
	}
	own, err := member.KeyOf(self)
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := s.certify(own, once.Roles, s.book.cfg.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	content, err := m.accept(key, &member.Ticket{Swarm: s.ID()}, &protocol.JoinReply{
		Certificate: cert.Marshal(), Root: s.about.Root[:], ViewKey: s.about.View[:], Name: s.Name(), Revocations: s.listBytes(), Peers: s.introductions(self),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if content[keyFile], err = crypto.MarshalPrivateKey(key); err != nil {
		m.t.Fatal(err)
	}
	out, err := m.take(s.ID(), joinPrefix+s.ID().String(), content)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// meets has one member hear what another tells.
func meets(t *testing.T, s, other *Swarm) {
	t.Helper()
	if err := s.hearBridges(other.bridgesFor()); err != nil {
		t.Error(err)
	}
	if err := s.install(other.lists); err != nil {
		t.Error(err)
	}
	settle(t, &machine{Book: s.book, t: t})
}

// A member that was away during the whole life of a newer record, or of several, does not
// stay with the one that it has: not on either side, not if the others have started again
// meanwhile, and not if it hears of it from one that was away, too.
func TestMissedRecord(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		meanwhile func(lend func(life time.Duration), pass func(time.Duration), end func())
		left      time.Duration // life of the record that then is in force; 0: none
	}{
		"one that has ended": {func(lend func(time.Duration), pass func(time.Duration), _ func()) {
			lend(time.Minute)
			pass(time.Hour)
		}, 0},
		"one that has ended, and one that was revoked": {func(lend func(time.Duration), pass func(time.Duration), end func()) {
			lend(time.Minute)
			pass(time.Hour)
			lend(2 * time.Hour)
			end()
		}, 0},
		"one that has ended, and one in force": {func(lend func(time.Duration), pass func(time.Duration), _ func()) {
			lend(time.Minute)
			pass(time.Hour)
			lend(3 * time.Hour)
		}, 3 * time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			var ahead atomic.Int64
			names := []string{"anna", "carl", "dora", "ben", "emil", "finn"}
			all := map[string]*machine{}
			for _, name := range names {
				m := newMachine(t, name)
				m.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
				m.reopen()
				all[name] = m
			}
			anna, ben := all["anna"], all["ben"]
			lab, office := anna.found("lab"), ben.found("office")
			for i, name := range names[1:3] {
				all[name].enrol(lab)
				all[names[i+4]].enrol(office)
			}
			lend := func(life time.Duration) {
				t.Helper()
				bridged(t, anna.Swarms()[0], ben.Swarms()[0], BridgeTerms{Roles: member.GuestRoles, Life: life})
			}
			lend(24 * time.Hour)
			for i, by := range []*machine{anna, ben} {
				for _, name := range names[3*i+1 : 3*i+3] {
					s := all[name].Swarms()[0]
					meets(t, s, by.Swarms()[0])
					all[name].onlyBridge(s)
				}
			}
			c.meanwhile(lend, func(d time.Duration) {
				ahead.Add(int64(d))
				settle(t, anna, ben)
				anna.reopen()
				ben.reopen()
			}, func() {
				if _, err := anna.Swarms()[0].EndBridge("office", ""); err != nil {
					t.Error(err)
				}
				if _, err := ben.Swarms()[0].EndBridge("lab", ""); err != nil {
					t.Error(err)
				}
				settle(t, anna, ben)
			})
			for i, by := range []*machine{anna, ben} {
				from := by.Swarms()[0]
				for _, name := range names[3*i+1 : 3*i+3] {
					s := all[name].Swarms()[0]
					meets(t, s, from)
					meets(t, from, s) // and what it had does not come back
					from = s
				}
			}
			for _, name := range names {
				list := all[name].Swarms()[0].Bridges()
				if c.left == 0 {
					if len(list) > 0 {
						t.Errorf("%s has a bridge until %s", name, list[0].Info().Record.NotAfter)
					}
					continue
				}
				if r := all[name].onlyBridge(all[name].Swarms()[0]).Info().Record; r.NotAfter.Sub(r.NotBefore) != c.left {
					t.Errorf("%s has a record for %s", name, r.NotAfter.Sub(r.NotBefore))
				}
			}
		})
	}
}

// A record that has ended is believed only with the signature of the swarm's root key, and
// only if it is newer.
func TestEndsAreSigned(t *testing.T) {
	t.Parallel()
	anna, ben := newMachine(t, "anna"), newMachine(t, "ben")
	lab, office := anna.found("lab"), ben.found("office")
	there, _ := bridged(t, lab, office, lent)
	past := time.Now().Add(-time.Hour)
	sign := func(number uint64) *member.BridgeRecord {
		t.Helper()
		r, err := member.SignBridge(lab.rootKey, member.BridgeRecord{Guest: office.about.Root, Number: number, Roles: member.Use, NotBefore: past.Add(-time.Hour), NotAfter: past})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	newest := there.terms().Number
	forged := *sign(newest - 1)
	forged.Number = newest + 1
	revoked := *there.terms() // the guest's list may name any number
	revoked.Number = newest + 2
	list, err := member.Issuer{Root: office.about.Root, Key: office.rootKey}.Revoke(office.lists, []member.Serial{revoked.Serial()}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := there.installOther(member.Lists{ByRoot: list}); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]*member.BridgeRecord{"forged": &forged, "revoked, and forged": &revoked, "older": sign(newest - 1)} {
		if err := lab.hearBridges([]*protocol.SwarmBridge{{Record: r.Marshal()}}); (err == nil) != (what == "older") {
			t.Errorf("%s: %v", what, err)
		}
		settle(t, anna)
		if len(lab.Bridges()) != 1 || there.terms().Number != newest {
			t.Fatalf("a record that is %s ends the bridge", what)
		}
	}
	if err := lab.hearBridges([]*protocol.SwarmBridge{{Record: sign(newest + 3).Marshal()}}); err != nil {
		t.Error(err)
	}
	settle(t, anna)
	if len(lab.Bridges()) != 0 {
		t.Error("a newer record that has ended does not end the bridge")
	}
	if told := lab.bridgesFor(); len(told) != 1 {
		t.Errorf("others are told of %d", len(told))
	}
	if err := os.WriteFile(there.path(bridgeEnded), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	anna.reopen()
	if told := anna.Swarms()[0].bridgesFor(); len(told) != 0 {
		t.Errorf("a damaged record is passed on: %v", told)
	}
}
