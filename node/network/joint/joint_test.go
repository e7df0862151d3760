package joint_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	libp2p "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// rootOf is the root key of a test's swarm.
func rootOf(swarm string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(swarm))
	return ed25519.NewKeyFromSeed(seed[:])
}

// idOf is the ID of a test's swarm; "": the open network.
func idOf(swarm string) string {
	if swarm == "" {
		return ""
	}
	return member.PublicKey(rootOf(swarm)).Swarm().String()
}

// start opens a network of a swarm on loopback that knows the given ones; "": the open one.
func start(t testing.TB, swarm string, boot ...*network.Network) *network.Network {
	t.Helper()
	key, err := network.LoadKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := network.Config{Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Version: "test"}
	if swarm != "" {
		root := rootOf(swarm)
		id, err := peer.IDFromPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		k, err := member.KeyOf(id)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := member.Issuer{Root: member.PublicKey(root), Key: root}.Issue(k, member.Use|member.Serve, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cfg.SwarmName, cfg.Swarm = swarm, &network.Swarm{Root: member.PublicKey(root), View: member.View{1}, Certificate: cert}
	}
	for _, b := range boot {
		cfg.Bootstrap = append(cfg.Bootstrap, b.FullAddrs()...)
	}
	n, err := network.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// alone is start for a node that is in no other network.
func alone(t testing.TB, swarm string, boot ...*network.Network) *network.Network {
	n := start(t, swarm, boot...)
	t.Cleanup(func() { n.Close() })
	return n
}

// both starts a node in two networks, each beside a peer of its own: a in the swarm, o in
// the open network.
func both(t testing.TB, cfg joint.Config) (j *joint.Networks, a, o *network.Network) {
	t.Helper()
	a, o = alone(t, "a"), alone(t, "")
	j = joint.New(cfg, start(t, "", o))
	t.Cleanup(func() { j.Close() })
	if err := j.Add(start(t, "a", a)); err != nil {
		t.Fatal(err)
	}
	in, _ := j.In(idOf("a"))
	await(t, "the peers of both networks are connected, by the word of all", func() bool {
		return len(j.Peers()) == 2 && o.Connected(j.Self()) && a.Connected(in)
	})
	return j, a, o
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	// QUIC's idle timeout is 30 s, and a packet that closes a connection may be lost.
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

var (
	model = protocol.ModelKey(cid.Undef)
	other = protocol.ModelKey(model)
)

func serves(models ...cid.Cid) *protocol.OfferBody {
	b := &protocol.OfferBody{}
	for _, m := range models {
		b.Spans = append(b.Spans, &protocol.ServedSpan{Model: m.Bytes(), To: 30, Blocks: 30, Width: 8, Loaded: true, Ready: true})
	}
	return b
}

func offer(t testing.TB, n interface {
	SetOffers(body, own *protocol.OfferBody) error
}, models ...cid.Cid) {
	t.Helper()
	if err := n.SetOffers(serves(models...), nil); err != nil {
		t.Fatal(err)
	}
}

// from returns the signers of offers.
func from(offers []*protocol.Offer) (ids []peer.ID) {
	for _, o := range offers {
		ids = append(ids, o.From)
	}
	return ids
}

// What is known in both networks is there once, with the swarm that it comes from, and the
// node itself is one peer to itself. The peers of one network learn nothing of the other.
func TestOffers(t *testing.T) {
	t.Parallel()
	j, a, o := both(t, joint.Config{})
	offer(t, a, model)
	offer(t, o, model)
	offer(t, j, model)
	await(t, "all offers are known", func() bool { return len(j.Offers(t.Context(), model, nil)) == 3 })
	for _, of := range j.Known(model) {
		want := ""
		if of.From == a.Self() {
			want = idOf("a")
		}
		if of.Swarm != want {
			t.Errorf("the offer of %s is of swarm %q, not %q", of.From, of.Swarm, want)
		}
		if _, err := protocol.OpenOffer(of.Envelope, time.Now()); err != nil {
			t.Error(err)
		}
	}
	self, own := j.In(idOf("a"))
	if self == j.Self() || !j.Own(self) || !j.Own(j.Self()) || own == nil || own.From != self || own.Swarm != idOf("a") {
		t.Errorf("the node is %s in the swarm and %s elsewhere, with the offer %v", self, j.Self(), own)
	}
	if self, own := j.In(idOf("b")); self != "" || own != nil {
		t.Error("the node is in a swarm that it never joined")
	}
	for n, want := range map[*network.Network][]peer.ID{a: {a.Self(), self}, o: {o.Self(), j.Self()}} {
		await(t, "the node's offer is known", func() bool { return len(n.Known(model)) == 2 })
		if got := from(n.Offers(t.Context(), model, nil)); len(got) != 2 || !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
			t.Errorf("a peer of one network knows of %v, not of %v", got, want)
		}
	}
	ready := func(list []*protocol.Offer) bool { return slices.Contains(from(list), a.Self()) }
	if got := j.Offers(t.Context(), model, ready); !ready(got) {
		t.Error("what is enough is not returned: ", from(got))
	}
}

// An offer that the node made in one network is not a stranger's in another, whoever
// passes it on.
func TestOwnOfferElsewhere(t *testing.T) {
	t.Parallel()
	j, a, o := both(t, joint.Config{})
	offer(t, j, model)
	await(t, "the peer knows the node", func() bool { return len(a.Known(model)) > 0 })
	_, own := j.In(idOf("a"))
	third := alone(t, "", o)
	offer(t, third, model)
	third.Host().SetStreamHandler(protocol.OffersID, func(s libp2p.Stream) {
		defer s.Close()
		r := bufio.NewReader(s)
		if n, err := binary.ReadUvarint(r); err == nil {
			_, _ = io.CopyN(io.Discard, r, int64(n))
		}
		b, _ := proto.Marshal(&protocol.OffersReply{Envelopes: [][]byte{third.OwnOffer().Envelope, own.Envelope}})
		_, _ = s.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	})
	await(t, "the third peer is asked", func() bool {
		return slices.Contains(from(j.Offers(t.Context(), model, nil)), third.Self()) && slices.Contains(from(j.All()[0].Known(model)), own.From)
	})
	if got := from(j.Known(model)); slices.Contains(got, own.From) || len(got) != 2 {
		t.Errorf("known are %v; %s is the node itself", got, own.From)
	}
}

// Each network sees what it may, and the node itself sees all.
func TestMay(t *testing.T) {
	t.Parallel()
	j, a, o := both(t, joint.Config{May: func(swarm string, m cid.Cid) bool { return m == model || swarm == idOf("a") }})
	offer(t, j, model, other)
	await(t, "the offers are known", func() bool { return len(a.Known(model)) == 1 && len(o.Known(model)) == 1 })
	if len(a.Known(other)) != 1 || len(o.Known(other)) != 0 {
		t.Errorf("in the swarm %d offers have the model that only it may use, in the open network %d", len(a.Known(other)), len(o.Known(other)))
	}
	if len(j.Known(other)) != 1 {
		t.Error("the node does not see its own model")
	}
	if !j.May(idOf("a"), other) || j.May("", other) || !j.May("", model) {
		t.Error("other models may be used than are offered")
	}
	if _, own := j.In(idOf("a")); len(own.Spans) != 2 {
		t.Error("in the swarm the node does not see its own models")
	}
	j.ServeStatus(func(peer.ID, *protocol.StatusRequest) *protocol.StatusReply {
		return &protocol.StatusReply{Spans: []*protocol.SpanStatus{{Model: model.Bytes()}, {Model: other.Bytes()}}}
	})
	late := alone(t, "b") // its network is added when the answer is there
	if err := j.Add(start(t, "b", late)); err != nil {
		t.Fatal(err)
	}
	in := func(swarm string) peer.ID { id, _ := j.In(idOf(swarm)); return id }
	await(t, "the late one is connected", func() bool { return late.Connected(in("b")) })
	for _, c := range []struct {
		name string
		ask  interface {
			Status(context.Context, peer.ID, cid.Cid, []uint64) (*protocol.StatusReply, error)
		}
		of   peer.ID
		want int
	}{
		{"a member of the swarm", a, in("a"), 2}, {"a peer of the open network", o, in(""), 1},
		{"a member of another swarm", late, in("b"), 1}, {"the node itself", j, in(""), 2},
	} {
		var reply *protocol.StatusReply
		await(t, c.name+" is answered", func() (ok bool) { // of two connections that were dialled at once, one is being closed
			var err error
			reply, err = c.ask.Status(t.Context(), c.of, cid.Undef, nil)
			return err == nil
		})
		if len(reply.Spans) != c.want || string(reply.Spans[0].Model) != string(model.Bytes()) {
			t.Errorf("%s is told of %d spans, not %d", c.name, len(reply.Spans), c.want)
		}
	}
}

const echoID = "/shoal/test/1"

// echo serves a protocol that says in which swarm it was asked, and by whom.
func echo(s *network.Stream) {
	_, _ = io.WriteString(s, s.Swarm()+" "+s.Peer().String())
	_ = s.Close()
}

func said(t *testing.T, s *network.Stream, err error) string {
	t.Helper()
	if err != nil {
		return err.Error()
	}
	defer func() { _ = s.Reset() }()
	b, _ := io.ReadAll(s)
	return string(b)
}

// A stream is opened where the peer is, knows its swarm at both ends, and reaches the node
// itself in each network. In the network of another swarm a peer is not reached.
func TestStreams(t *testing.T) {
	t.Parallel()
	j, a, o := both(t, joint.Config{})
	in, _ := j.In(idOf("a"))
	for _, n := range []*network.Network{a, o} {
		n.Handle(echoID, echo)
	}
	j.Handle(echoID, echo)
	for _, c := range []struct {
		to   peer.ID
		want string
	}{{a.Self(), idOf("a") + " " + in.String()}, {o.Self(), " " + j.Self().String()}, {in, idOf("a") + " " + in.String()}, {j.Self(), " " + j.Self().String()}} {
		s, err := j.Open(t.Context(), c.to, nil, echoID)
		if got := said(t, s, err); got != c.want {
			t.Errorf("the stream to %s says %q, not %q", c.to, got, c.want)
		}
		if err == nil && (s.Swarm() == idOf("a")) != (c.to == a.Self() || c.to == in) {
			t.Errorf("the stream to %s is in swarm %q", c.to, s.Swarm())
		}
	}
	for _, n := range []*network.Network{a, o} {
		self, _ := j.In(n.Swarm())
		s, err := n.Open(t.Context(), self, nil, echoID)
		if got, want := said(t, s, err), n.Swarm()+" "+n.Self().String(); got != want {
			t.Errorf("the node says %q to a peer, not %q", got, want)
		}
	}
	for swarm, p := range map[string]peer.ID{idOf("a"): o.Self(), "": a.Self()} {
		if s, err := j.OpenIn(t.Context(), swarm, p, nil, echoID); err == nil {
			t.Errorf("a peer of another network is reached in swarm %q: %s", s.Swarm(), s.Peer())
		}
	}
	if _, err := j.OpenIn(t.Context(), idOf("b"), a.Self(), nil, echoID); !errors.Is(err, joint.ErrUnknown) {
		t.Error("a stream in a swarm that the node is not in: ", err)
	}
}

// A network that is added has what the others have; one that is removed takes its offer
// back, and the others do not notice.
func TestJoinAndLeave(t *testing.T) {
	t.Parallel()
	j, a, o := both(t, joint.Config{})
	j.Handle(echoID, echo)
	j.ServeStatus(func(peer.ID, *protocol.StatusRequest) *protocol.StatusReply { return &protocol.StatusReply{Name: "me"} })
	offer(t, j, model)
	there := map[string]bool{}
	j.Each(func(n *network.Network) func() {
		there[n.Swarm()] = true
		return func() { delete(there, n.Swarm()) }
	})
	var open *network.Stream // goes on while the others come and go
	await(t, "a stream is open", func() (ok bool) {
		var err error
		open, err = o.Open(t.Context(), j.Self(), nil, echoID)
		return err == nil
	})

	b := alone(t, "b")
	if err := j.Add(start(t, "b", b)); err != nil {
		t.Fatal(err)
	}
	again := start(t, "b")
	if err := j.Add(again); !errors.Is(err, joint.ErrTwice) {
		t.Error("one swarm twice: ", err)
	}
	again.Close()
	in, _ := j.In(idOf("b"))
	await(t, "the new network's peer knows the offer", func() bool { return len(b.Known(model)) == 1 })
	await(t, "the new network has the handler", func() bool {
		s, err := b.Open(t.Context(), in, nil, echoID)
		return said(t, s, err) == idOf("b")+" "+b.Self().String()
	})
	await(t, "the new network answers", func() bool {
		st, err := b.Status(t.Context(), in, model, nil)
		return err == nil && st.Name == "me"
	})
	if len(there) != 3 {
		t.Error("not all networks were reported: ", there)
	}

	if err := j.Remove(idOf("a")); err != nil {
		t.Fatal(err)
	}
	await(t, "the swarm's peer has lost the node", func() bool { return len(a.Known(model)) == 0 && len(a.Peers()) == 0 })
	if there[idOf("a")] || len(there) != 2 || len(j.All()) != 2 {
		t.Error("the network was not left in order: ", there)
	}
	if err := j.Remove(idOf("a")); !errors.Is(err, joint.ErrUnknown) {
		t.Error("a network is left twice: ", err)
	}
	if got := said(t, open, nil); got != " "+o.Self().String() {
		t.Errorf("the stream in another network has suffered: %q", got)
	}
	if err := j.Remove(""); err != nil {
		t.Fatal(err)
	}
	if j.Self() != in || len(j.Swarms()) != 1 {
		t.Error("the node is not who it is in its last network")
	}
	if err := j.Remove(idOf("b")); !errors.Is(err, joint.ErrLast) {
		t.Error("the last network is left: ", err)
	}
	if len(b.Known(model)) != 1 {
		t.Error("the last network has forgotten the node")
	}
}

// The peers, what is wrong, and how much there is are told apart by network.
func TestSwarms(t *testing.T) {
	t.Parallel()
	j, a, o := both(t, joint.Config{})
	for _, p := range j.Peers() {
		if want := map[peer.ID]string{a.Self(): idOf("a"), o.Self(): ""}[p.ID]; p.Swarm != want {
			t.Errorf("peer %s is in swarm %q, not %q", p.ID, p.Swarm, want)
		}
	}
	all := j.Swarms()
	if len(all) != 2 || all[0].ID != "" || all[1].ID != idOf("a") || all[1].Name != "a" || all[0].Self != j.Self() || all[0].Peers != 1 || all[1].Peers != 1 || len(all[1].Addrs) == 0 {
		t.Errorf("the networks are %+v", all)
	}
	if s := j.Sizes(); s.Peers != 2 {
		t.Errorf("the sizes are %+v", s)
	}
	if h := j.Health(); h.Alone || h.Reach != network.ReachLocal {
		t.Errorf("the health is %+v", h)
	}
	if !j.Connected(a.Self()) || !j.Connected(o.Self()) || j.Connected("nobody") {
		t.Error("not the right peers are connected")
	}
	await(t, "round trips are known", func() bool {
		_, known := j.RTT(a.Self())
		_, too := j.RTT(o.Self())
		return known && too
	})
	sum := func() (n uint64) {
		for _, t := range j.Traffic() {
			n += t.Sent + t.Received
		}
		return n
	}
	await(t, "bytes are counted", func() bool { return sum() > 0 })
	before := sum()
	if err := j.Remove(idOf("a")); err != nil {
		t.Fatal(err)
	}
	if after := sum(); after < before {
		t.Errorf("of %d bytes %d are left once a network is", before, after)
	}
}

// A peer in any of the networks ends the wait; so does an end to hope in all of them.
func TestWaitPeers(t *testing.T) {
	t.Parallel()
	j := joint.New(joint.Config{}, start(t, ""))
	t.Cleanup(func() { j.Close() })
	if err := j.Add(start(t, "b")); err != nil {
		t.Fatal(err)
	}
	if err := j.WaitPeers(t.Context()); !errors.Is(err, network.ErrAlone) {
		t.Error("nowhere is anybody to be found: ", err)
	}
	a := alone(t, "a")
	if err := j.Add(start(t, "a", a)); err != nil {
		t.Fatal(err)
	}
	if err := j.WaitPeers(t.Context()); err != nil {
		t.Error(err)
	}
}

// BenchmarkNetwork measures what each further network costs: heap, with its goroutines'
// stacks, while nobody is connected.
func BenchmarkNetwork(b *testing.B) {
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	j := joint.New(joint.Config{}, start(b, ""))
	defer j.Close()
	before, many := used(), 0
	for b.Loop() {
		if err := j.Add(start(b, strconv.Itoa(many))); err != nil {
			b.Fatal(err)
		}
		many++
	}
	b.ReportMetric(float64(used()-before)/float64(many)/(1<<20), "MiB/network")
}
