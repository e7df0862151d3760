package natsim

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	libp2p "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
	"github.com/shoalnet/shoal/testnet/nat"
)

// TestPrivatePairs: two members of a private swarm, each behind a router and neither to be
// dialled, come together through two nodes of the open network, which learn nothing of
// them; where holes can be punched, they have a direct path soon.
func TestPrivatePairs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, p := range [][2]nat.Kind{
		{nat.Port, nat.Port}, {nat.Full, nat.Full}, {nat.Address, nat.Linux}, {nat.Symmetric, nat.Full}, {nat.Full, nat.Symmetric},
		{nat.Port, nat.Symmetric}, {nat.Symmetric, nat.Port}, {nat.Symmetric, nat.Symmetric},
	} {
		if raced && p[0].Name != nat.Port.Name { // handshakes are slow then, and the others run the same code
			continue
		}
		t.Run(p[0].Name+"-"+p[1].Name, func(t *testing.T) {
			t.Parallel()
			o := privatePair(t, p[0], p[1])
			t.Log(o)
			if o.answered == 0 || o.answered > answerWithin {
				t.Errorf("no answer in time: %v", o.why)
			}
			within := directWithin
			if p[1].Name == nat.Symmetric.Name {
				within = hardWithin
			}
			if nat.Punchable(p[0], p[1]) && (o.direct == 0 || o.direct-o.joined > within) {
				t.Error("no direct path in time")
			}
			if !nat.Punchable(p[0], p[1]) && o.direct != 0 {
				t.Error("a direct path that cannot be")
			}
		})
	}
}

func privatePair(t *testing.T, asks, serves nat.Kind) (o outcome) {
	synctest.Test(t, func(t *testing.T) {
		internet := New()
		var relays []*Host
		var open []*network.Network
		seen := &sights{own: map[peer.ID]bool{}}
		for i := range 2 {
			h := addHost(t, internet, fmt.Sprintf("5.%d.0.1", i))
			open = append(open, start(t, h, true, relays))
			relays = append(relays, h)
			seen.own[h.ID] = true
		}
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		for _, n := range open {
			watching.Go(func() { seen.watch(ctx, n) })
		}
		s := newSwarm(t)
		b := s.start(t, addHost(t, behind(internet, serves, "6.2.0.1"), "10.2.0.2"), relays, nil)
		body := &protocol.OfferBody{Spans: []*protocol.ServedSpan{{Model: model.Bytes(), To: 30, Blocks: 30, Width: 8}}}
		if err := b.SetOffer(body); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		at := outside(b)
		if len(at.Addrs) != 2 {
			t.Errorf("a member behind a router can be reached at %v", b.Addrs())
		}
		a := s.start(t, addHost(t, behind(internet, asks, "6.1.0.1"), "10.1.0.2"), nil, []peer.AddrInfo{at})
		o = reach(t.Context(), a, b.Self())
		time.Sleep(10 * time.Second)
		cancel()
		watching.Wait()
		seen.check(t, a, b)
		for _, n := range append(open, b, a) {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
	})
	return o
}

// TestPrivateLosses: two members that only relays connect find each other again after the
// relay in use has died, and after both were off at the same time: each is where it was,
// at the relay that is left.
func TestPrivateLosses(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	synctest.Test(t, func(t *testing.T) {
		internet := New()
		var relays []*Host
		var open []*network.Network
		for i := range 2 {
			h := addHost(t, internet, fmt.Sprintf("5.%d.0.1", i))
			open = append(open, start(t, h, true, relays))
			relays = append(relays, h)
		}
		s := newSwarm(t)
		here, there := addHost(t, behind(internet, nat.Symmetric, "6.1.0.1"), "10.1.0.2"), addHost(t, behind(internet, nat.Symmetric, "6.2.0.1"), "10.2.0.2")
		body := &protocol.OfferBody{Spans: []*protocol.ServedSpan{{Model: model.Bytes(), To: 30, Blocks: 30, Width: 8}}}
		both := func(relays []*Host, known []peer.AddrInfo) (a, b *network.Network) {
			b = s.start(t, there, relays, nil)
			if err := b.SetOffer(body); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if known == nil {
				known = []peer.AddrInfo{outside(b)}
			}
			a = s.start(t, here, nil, known)
			answered(t, "after a start", a, b.Self())
			return a, b
		}
		a, b := both(relays, nil)
		known := []peer.AddrInfo{outside(b)}
		path, _ := a.PathTo(b.Self())
		for i, r := range relays {
			if r.ID == path.Relay {
				r.Cut(true)
				relays[0], relays[1-i] = relays[1-i], relays[0] // the one that is left is first
				break
			}
		}
		answered(t, "after its relay has died", a, b.Self())
		if now, _ := a.PathTo(b.Self()); now.Relay != relays[0].ID {
			t.Errorf("relayed by %s", now.Relay)
		}
		for _, n := range []*network.Network{a, b} {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		a, b = both(nil, known)
		for _, n := range append(open, a, b) {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
	})
}

// answered has a node ask another until it answers, for ten seconds at most.
func answered(t *testing.T, when string, a *network.Network, b peer.ID) {
	t.Helper()
	began := time.Now()
	for {
		err := ask(t.Context(), a, b)
		if err == nil {
			t.Logf("%s: an answer after %v", when, time.Since(began))
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%s: %v", when, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// outside is where a member can be reached through relays.
func outside(n *network.Network) peer.AddrInfo {
	at := peer.AddrInfo{ID: n.Self()}
	for _, a := range n.Addrs() {
		if outer.Is(a) {
			at.Addrs = append(at.Addrs, a)
		}
	}
	return at
}

// privateSwarm is a swarm of this test.
type privateSwarm struct {
	member.Issuer
	view member.View
	dir  string                     // of the relays that members used last
	keys map[peer.ID]crypto.PrivKey // that relays see of them
}

func newSwarm(t *testing.T) *privateSwarm {
	t.Helper()
	_, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	view, err := member.NewView()
	if err != nil {
		t.Fatal(err)
	}
	return &privateSwarm{member.Issuer{Root: member.PublicKey(root), Key: root}, view, t.TempDir(), map[peer.ID]crypto.PrivKey{}}
}

// start starts a member that knows these relays of the open network, and other members.
func (s *privateSwarm) start(t *testing.T, h *Host, relays []*Host, known []peer.AddrInfo) *network.Network {
	t.Helper()
	key, err := member.KeyOf(h.ID)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := s.Issue(key, member.Use|member.Serve, time.Now(), member.Life)
	if err != nil {
		t.Fatal(err)
	}
	if s.keys[h.ID] == nil {
		if s.keys[h.ID], _, err = crypto.GenerateEd25519Key(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	out := &network.Outside{Key: s.keys[h.ID], Kept: filepath.Join(s.dir, h.ID.String())}
	for _, r := range relays {
		info, err := peer.AddrInfoFromString(r.Full())
		if err != nil {
			t.Fatal(err)
		}
		out.Named = append(out.Named, *info)
	}
	out.Known = func() (all []peer.AddrInfo) { // those through which the others are reached
		for _, k := range known {
			for _, a := range k.Addrs {
				if r, ok := outer.RelayIn(a); ok {
					all = append(all, r)
				}
			}
		}
		return all
	}
	n, err := network.New(network.Config{
		Key: h.Key, ListenAddrs: []string{h.Addr.String()}, Options: h.SocketOptions(), Version: "private", Claimed: known, Outside: out,
		Swarm: &network.Swarm{Root: s.Root, View: s.view, Certificate: cert},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Handle(protocol.StageID, echo)
	return n
}

// sights is what nodes of the open network see of others.
type sights struct {
	mu    sync.Mutex
	own   map[peer.ID]bool     // the nodes themselves
	peers map[peer.ID][]string // what they have learnt of each peer
	spoke map[string]bool      // protocols of streams that peers have opened
}

// watch looks at a node's connections until ctx ends.
func (s *sights) watch(ctx context.Context, n *network.Network) {
	for ctx.Err() == nil {
		s.look(n)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *sights) look(n *network.Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers == nil {
		s.peers, s.spoke = map[peer.ID][]string{}, map[string]bool{}
	}
	book := n.Host().Peerstore()
	for _, c := range n.Host().Network().Conns() {
		p := c.RemotePeer()
		if s.own[p] {
			continue
		}
		learnt := s.peers[p]
		ids, _ := book.GetProtocols(p)
		for _, id := range ids {
			if id != proto.ProtoIDv2Stop { // with which a relay announces a circuit
				learnt = append(learnt, string(id))
			}
		}
		for _, a := range book.Addrs(p) {
			learnt = append(learnt, a.String())
		}
		if agent, err := book.Get(p, "AgentVersion"); err == nil {
			learnt = append(learnt, fmt.Sprint(agent))
		}
		slices.Sort(learnt)
		s.peers[p] = slices.Compact(learnt)
		for _, st := range c.GetStreams() {
			if st.Stat().Direction == libp2p.DirInbound && st.Protocol() != "" {
				s.spoke[string(st.Protocol())] = true
			}
		}
	}
}

// check: two outer hosts were seen, and nothing else of the members but that they asked to
// be relayed, where they are seen, and whether the relay lives.
func (s *sights) check(t *testing.T, members ...*network.Network) {
	t.Helper()
	if len(s.peers) != len(members) {
		t.Errorf("the relays have seen %d peers", len(s.peers))
	}
	for _, m := range members {
		if _, known := s.peers[m.Self()]; known {
			t.Errorf("the relays know the key of a member")
		}
	}
	for p, learnt := range s.peers {
		if len(learnt) > 0 {
			t.Errorf("of %s the relays have learnt %s", p, strings.Join(learnt, ", "))
		}
	}
	for id := range maps.Keys(s.spoke) {
		if id != proto.ProtoIDv2Hop && id != identify.ID && id != ping.ID {
			t.Errorf("a member has opened a stream of %s to a relay", id)
		}
	}
}
