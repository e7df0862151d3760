package swarm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// What is in a swarm's folder: whatever a file has, it is read without a panic, and what
// is taken from it is written as it was read.
func FuzzFiles(f *testing.F) {
	anna := fuzzMachine(f)
	s := anna.Swarms()[0]
	f.Add(s.about.marshal())
	for _, m := range s.members {
		m.Addrs, m.Reached = plainAddrs, slices.Clone(plainAddrs[:maxReached])
	}
	f.Add(marshalMembers(s.members))
	for _, m := range s.members {
		m.Addrs = oddAddrs[:maxAddrs]
	}
	f.Add(marshalMembers(s.members))
	f.Add(marshalTickets(s.tickets))
	f.Add(marshalRoot(s.rootKey))
	f.Add([]byte(`[{"sha256":"00","roles":"use","uses":-1}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, err := parseAbout(raw); err == nil {
			if b, err := parseAbout(a.marshal()); err != nil || b != a {
				t.Errorf("%v: %+v, then %+v", err, a, b)
			}
		}
		if m, err := parseMembers(raw, s.about.Root); err == nil {
			once := marshalMembers(m)
			if again, err := parseMembers(once, s.about.Root); err != nil || !bytes.Equal(marshalMembers(again), once) {
				t.Errorf("%v: members change", err)
			}
		}
		if list, err := parseTickets(raw); err == nil {
			once := marshalTickets(list)
			if again, err := parseTickets(once); err != nil || !bytes.Equal(marshalTickets(again), once) {
				t.Errorf("%v: codes change", err)
			}
		}
		if key, err := parseRoot(raw); err == nil && len(marshalRoot(key)) != 65 {
			t.Errorf("a root key of %d digits", len(marshalRoot(key)))
		}
	})
}

// What a peer sends: an inviter's answer lets nobody into another swarm than the code's, a
// request without the secret gets no certificate, and a member's message changes nothing
// that it has not signed.
func FuzzMessages(f *testing.F) {
	anna := fuzzMachine(f)
	s := anna.Swarms()[0]
	key, joiner, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	own, err := member.KeyOf(joiner)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := s.certify(own, member.Use, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	ticket := &member.Ticket{Swarm: s.ID()}
	good, err := proto.Marshal(&protocol.JoinReply{
		Certificate: cert.Marshal(), Root: s.about.Root[:], ViewKey: s.about.View[:], Name: "x", Revocations: s.listBytes(),
		Peers: []*protocol.SwarmPeer{{Certificate: s.cert.Marshal(), Addrs: [][]byte{{4, 127, 0, 0, 1, 6, 0, 1}}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(s.listBytes())
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	lentTo, _, err := s.Lend((&member.BridgeAsk{Guest: member.PublicKey(other), Name: "office"}).String(), BridgeTerms{Roles: member.Use, Life: time.Hour}, "")
	if err != nil {
		f.Fatal(err)
	}
	serial := lentTo.terms().Serial()
	told, err := proto.Marshal(&protocol.MemberRequest{Bridges: append(s.bridgesFor(), &protocol.SwarmBridge{
		Grant: make([]byte, 300), Nodes: []*protocol.BridgeNode{{Peer: []byte(joiner), Addrs: [][]byte{{4, 127, 0, 0, 1, 6, 0, 1}}}},
	})})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(told)
	f.Fuzz(func(t *testing.T, raw []byte) {
		reply, req := new(protocol.JoinReply), new(protocol.JoinRequest)
		if proto.Unmarshal(raw, reply) == nil {
			if files, err := anna.accept(key, ticket, reply); err == nil {
				if a, err := parseAbout(files[aboutFile]); err != nil || a.Root.Swarm() != ticket.Swarm {
					t.Errorf("%v: joined another swarm", err)
				}
			}
		}
		if proto.Unmarshal(raw, req) == nil {
			if r := s.redeem(joiner, req); r.Refusal == protocol.JoinRefusal_JOIN_REFUSAL_NONE {
				t.Error("somebody got in without the secret")
			}
		}
		if lists, err := member.ParseLists(raw); err == nil {
			before := s.listBytes()
			if err := s.install(lists); err == nil && !bytes.Equal(before, s.listBytes()) {
				t.Error("a list was taken that the root has not signed")
			}
		}
		if told := new(protocol.MemberRequest); proto.Unmarshal(raw, told) == nil {
			_ = s.hearBridges(told.Bridges)
			if list := s.Bridges(); len(list) != 1 || list[0].terms().Serial() != serial || len(list[0].nodes) > maxBridgeNodes {
				t.Error("a bridge was taken that no root key has signed")
			}
		}
		_ = receive(bytes.NewReader(raw), req, maxRequest)
	})
}

func fuzzMachine(f *testing.F) *Book {
	book, _, err := Open(Config{Home: f.TempDir(), Machine: "anna"})
	if err != nil {
		f.Fatal(err)
	}
	s, err := book.New("lab", "")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.Invite(f.Context(), Terms{Roles: member.Use, Uses: 1, Life: time.Hour}); err != nil {
		f.Fatal(err)
	}
	_, id, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	k, err := member.KeyOf(id)
	if err != nil {
		f.Fatal(err)
	}
	c, err := s.certify(k, member.Use, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	s.learn(c, "ben", nil)
	return book
}
