package network

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
)

func TestThinBuckets(t *testing.T) {
	for _, c := range []struct {
		blocks int
		spans  []protocol.Span
		want   []int // in order; nil: any
		count  int
	}{
		{0, nil, nil, 0},
		{10, nil, []int{0}, 1},
		{100, []protocol.Span{{From: 0, To: 100}}, nil, thinnest},
		{40, []protocol.Span{{From: 0, To: 16}, {From: 0, To: 32}, {From: 33, To: 40}}, []int{2, 1, 0}, 3},
		{48, []protocol.Span{{From: 0, To: 48}, {From: 0, To: 15}, {From: 16, To: 48}}, nil, 3},
		{1 << 16, nil, nil, thinnest},
	} {
		got := thinBuckets(c.blocks, c.spans)
		if len(got) != c.count || c.want != nil && !slices.Equal(got, c.want) {
			t.Errorf("of %d blocks with %v: %v, want %v", c.blocks, c.spans, got, c.want)
		}
	}
}

// loaded is an offer of a made-up peer with blocks of the model.
func loaded(from, to uint32) *protocol.OfferBody {
	b := serves(from, to)
	b.Spans[0].Loaded, b.Spans[0].Ready = true, true
	return b
}

func covered(o []*protocol.Offer) bool {
	var spans []protocol.Span
	for _, o := range o {
		for _, s := range o.SpansOf(model) {
			spans = append(spans, s.Span())
		}
	}
	return len(protocol.Uncovered(30, spans)) == 0
}

// The only server of a model's last blocks is found, although the model's own
// list does not have it.
func TestMissingBucket(t *testing.T) {
	t.Parallel()
	boot := join(t, false)
	server, client := join(t, true, boot), join(t, true, boot) // clients push no offers
	for _, n := range []*Network{server, client} {
		if err := n.WaitPeers(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, "a table", func() bool { return n.DHTPeers() > 0 })
	}
	if err := server.SetOffer(loaded(16, 30)); err != nil {
		t.Fatal(err)
	}
	if l := server.listUnder(protocol.BucketKey(model, 1), listing{}); l.lapses.IsZero() {
		t.Fatal("it is not listed")
	}
	body := loaded(0, 16)
	body.Seq, body.IssuedUnixMs, body.ExpiresUnixMs = 1, time.Now().UnixMilli(), time.Now().Add(time.Minute).UnixMilli()
	o, err := protocol.SealOffer(body, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.hear("", o.Envelope); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if client.lookUp(ctx, model, nil, nil, false); client.offerOf(server.Self()) != nil {
		t.Fatal("it is found without the bucket")
	}
	if !covered(client.Offers(ctx, model, covered)) {
		t.Error("the missing blocks are not found")
	}
}

// A client finds a model by the member that it remembers, which the DHT does not
// list.
func TestRememberedMember(t *testing.T) {
	t.Parallel()
	boot := join(t, false)
	server, client := join(t, true, boot), join(t, true, boot)
	if err := server.SetOffer(loaded(0, 30)); err != nil {
		t.Fatal(err)
	}
	if err := client.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if covered(client.Offers(ctx, model, covered)) {
		t.Fatal("it is found without help")
	}
	client.book.met(server.Self(), server.Addrs(), time.Millisecond)
	client.book.serve(server.Self(), []cid.Cid{model})
	if !covered(client.Offers(ctx, model, covered)) {
		t.Error("the remembered member is not asked")
	}
	list, err := parseBook([]byte(fmt.Sprintf(`[{"id":%q,"addrs":["/ip4/192.0.2.1/tcp/1"],"models":["x",%q]}]`, server.Self(), model)))
	if err != nil || len(list) != 1 || !slices.Equal(list[0].Models, []string{model.String()}) {
		t.Errorf("read as %+v, %v", list, err)
	}
}

// A reply has as many offers as are wanted, and fits.
func TestAnswer(t *testing.T) {
	n := join(t, false)
	if err := n.SetOffer(serves(0, 30)); err != nil {
		t.Fatal(err)
	}
	big := serves(0, 30)
	big.Spans[0].Name = string(make([]byte, 200))
	for len(big.Addrs) < 32 {
		big.Addrs = append(big.Addrs, make([]byte, 200))
	}
	for i := range 100 {
		key := newKey(t)
		b := proto.Clone(big).(*protocol.OfferBody)
		b.Seq, b.IssuedUnixMs, b.ExpiresUnixMs = 1, time.Now().UnixMilli(), time.Now().Add(10*time.Minute).UnixMilli()
		o, err := protocol.SealOffer(b, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.hear(peer.ID(fmt.Sprint("teller ", i)), o.Envelope); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		most uint32
		near bool
		want int // of others
	}{{0, false, protocol.MaxOffersReply - 1}, {3, true, 3}, {8, true, 8}, {1 << 31, true, protocol.MaxHearsay / 7200}} {
		reply := n.answer(&protocol.OffersRequest{Model: model.Bytes(), Most: c.most, Near: c.near})
		size := 0
		for _, e := range reply.Envelopes[1:] {
			size += len(e)
		}
		if len(reply.Envelopes)-1 != c.want || c.most > 0 && size > protocol.MaxHearsay {
			t.Errorf("asked for %d: %d offers of others, %d bytes", c.most, len(reply.Envelopes)-1, size)
		}
		if string(reply.Envelopes[0]) != string(n.OwnOffer().Envelope) {
			t.Error("its own does not come first")
		}
	}
}

func FuzzOffersRequest(f *testing.F) {
	n := join(f, false)
	if err := n.SetOffer(serves(0, 30)); err != nil {
		f.Fatal(err)
	}
	for range 70 {
		if err := n.hear("", sealed(f, newKey(f), 1).Envelope); err != nil {
			f.Fatal(err)
		}
	}
	for _, req := range []*protocol.OffersRequest{{}, {Model: model.Bytes()}, {Model: model.Bytes(), Most: 8, Near: true}, {Most: 1 << 31, Own: []byte{1}}} {
		raw, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req protocol.OffersRequest
		if proto.Unmarshal(raw, &req) != nil {
			return
		}
		reply := n.answer(&req)
		if len(reply.Envelopes) == 0 || len(reply.Envelopes) > protocol.MaxOffersReply || proto.Size(reply) > maxReply {
			t.Fatalf("%d offers, %d bytes", len(reply.Envelopes), proto.Size(reply))
		}
		if req.Most > 0 && len(reply.Envelopes) > int(req.Most)+1 {
			t.Fatalf("%d offers, where %d are wanted", len(reply.Envelopes), req.Most)
		}
	})
}

// Of many members of a model three are asked, and no more if their answers
// suffice.
func TestFewMembersAsked(t *testing.T) {
	client := join(t, true)
	extra := sealed(t, newKey(t), 1)
	var asked atomic.Int64
	for range 2 * fewMembers {
		h := rawHost(t, "/ip4/127.0.0.1/tcp/0")
		var addrs []string
		for _, a := range h.Addrs() {
			addrs = append(addrs, a.String())
		}
		own := sealed(t, h.Peerstore().PrivKey(h.ID()), 1, addrs...)
		h.SetStreamHandler(protocol.OffersID, func(s network.Stream) {
			defer s.Close()
			asked.Add(1)
			var req protocol.OffersRequest
			if err := readMessage(s, &req, maxReply); err != nil || req.Most != hearsayStranger || !req.Near {
				t.Errorf("asked for %v, %v", &req, err)
			}
			_ = writeMessage(s, &protocol.OffersReply{Envelopes: [][]byte{own.Envelope, extra.Envelope}})
		})
		if err := client.hear("", own.Envelope); err != nil {
			t.Fatal(err)
		}
	}
	found := func(list []*protocol.Offer) bool {
		return slices.ContainsFunc(list, func(o *protocol.Offer) bool { return o.From == extra.From })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if ask, met := client.members(model); !met || len(client.some(ask)) != askedFirst {
		t.Errorf("of %d members %v are asked first", len(ask), client.some(ask))
	}
	began := time.Now()
	if !found(client.Offers(ctx, model, found)) {
		t.Error("what the members tell of is not known")
	}
	if took := time.Since(began); took < headStart && asked.Load() > askedFirst { // later, others are asked as well
		t.Errorf("%d members were asked within %v", asked.Load(), took)
	}
}
