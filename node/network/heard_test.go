package network

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/protocol"
)

// sealed is an offer of a made-up peer, which says that it serves the model.
func sealed(t testing.TB, key crypto.PrivKey, seq uint64, addrs ...string) *protocol.Offer {
	t.Helper()
	b := serves(0, 30)
	b.Seq, b.IssuedUnixMs, b.ExpiresUnixMs = seq, time.Now().UnixMilli(), time.Now().Add(10*time.Minute).UnixMilli()
	for _, a := range addrs {
		b.Addrs = append(b.Addrs, ma("%s", a).Bytes())
	}
	o, err := protocol.SealOffer(b, key)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// groundKey is one whose peer ID sorts before nearly all others.
func groundKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	for {
		key, pub, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := pub.Raw(); err == nil && raw[0] < 8 {
			return key
		}
	}
}

func TestHeardBounds(t *testing.T) {
	here := map[peer.ID]bool{}
	h := newHeard(func(p peer.ID) bool { return here[p] })
	number, models := 0, []cid.Cid{protocol.BucketKey(cid.Undef, 1), protocol.BucketKey(cid.Undef, 2)}
	next := func(met bool, teller, group string) *word {
		number++
		p := peer.ID(fmt.Sprint("peer ", number))
		body := &protocol.OfferBody{ExpiresUnixMs: time.Now().Add(time.Minute).UnixMilli()}
		for i := range number % 3 {
			body.Takes = append(body.Takes, models[i].Bytes())
			body.Spans = append(body.Spans, &protocol.ServedSpan{Model: models[i].Bytes(), To: 1, Blocks: 1})
		}
		return &word{Offer: &protocol.Offer{From: p, Envelope: make([]byte, 1000), OfferBody: body}, met: met, teller: peer.ID(teller), group: group}
	}
	count := func(is func(*word) bool) (n int) {
		for _, w := range h.all {
			if is(w) {
				n++
			}
		}
		return n
	}
	for range 100 {
		h.keep(next(false, "a", fmt.Sprint(number)), hearsayStranger)
	}
	if len(h.all) != hearsayStranger {
		t.Errorf("%d offers on one stranger's word", len(h.all))
	}
	met := next(true, "", "a house")
	here[met.From] = true
	h.keep(met, hearsayStranger)
	for i := range 500 {
		h.keep(next(i%2 == 0, "b", "a house"), 1000)
	}
	if got := count(func(w *word) bool { return w.group == "a house" }); got != offersGroup || h.all[met.From] == nil {
		t.Errorf("%d offers of one group; the one that is here is kept: %v", got, h.all[met.From] != nil)
	}
	if got := count(func(w *word) bool { return w.group == "a house" && !w.met }); got != 0 {
		t.Errorf("%d by hearsay, where as many came from their signers", got)
	}
	// Its newer offer by hearsay is taken, and it stays one that was met.
	newer := *met
	newer.met, newer.teller, newer.group = false, "b", "elsewhere"
	if !h.keep(&newer, 1) || !h.all[met.From].met || h.all[met.From].group != "a house" {
		t.Errorf("a newer offer that was passed on: %+v", h.all[met.From])
	}
	for range 2 * maxOffers {
		w := next(true, "", fmt.Sprint(number))
		if here[w.From] = number%2 == 0; number%4 < 2 { // of no model, of which there may be more
			w.Takes, w.Spans = nil, nil
		}
		h.keep(w, 0)
	}
	if len(h.all) > maxOffers || count(func(w *word) bool { return !w.met }) != 0 {
		t.Errorf("%d offers, %d by hearsay", len(h.all), count(func(w *word) bool { return !w.met }))
	}
	if h.keep(next(false, "c", "x"), 64) {
		t.Error("hearsay pushes out what came from its signer")
	}
	for range 300 {
		w := next(true, "", fmt.Sprint(number))
		w.Envelope = make([]byte, protocol.MaxOffer)
		h.keep(w, 0)
	}
	sum := 0
	for _, w := range h.all {
		sum += len(w.Envelope)
	}
	if sum != h.bytes || sum > maxOfferBytes {
		t.Errorf("%d bytes, reckoned %d", sum, h.bytes)
	}
	for _, m := range models {
		for w := range h.concerning(m) {
			if h.all[w.From] != w {
				t.Fatalf("%s is known to be of %s, and is not known", w.From, m)
			}
		}
		if got, want := len(h.about[m]), count(func(w *word) bool { return w.Held(m) != nil || len(w.SpansOf(m)) > 0 }); got > min(want, offersModel) || want == 0 {
			t.Errorf("%d offers are about %s by the index, of %d", got, m, want)
		}
	}
	for p := range maps.Clone(h.all) {
		h.forget(p)
	}
	if len(h.about) != 0 || h.bytes != 0 {
		t.Errorf("of no offers %d models and %d bytes are left", len(h.about), h.bytes)
	}
	for p := range h.all {
		h.forget(p)
	}
	if h.bytes != 0 {
		t.Errorf("%d bytes of nothing", h.bytes)
	}
}

// Of a popular model a bounded number of offers is known, those that are worth
// most. An offer that is about a rare model as well is known under that one.
func TestHeardPerModel(t *testing.T) {
	h := newHeard(func(p peer.ID) bool { return p[0] == 'h' })
	popular, rare := protocol.BucketKey(cid.Undef, 1), protocol.BucketKey(cid.Undef, 2)
	offer := func(name string, met bool, models ...cid.Cid) *word {
		body := &protocol.OfferBody{ExpiresUnixMs: time.Now().Add(time.Minute).UnixMilli()}
		for _, m := range models {
			body.Spans = append(body.Spans, &protocol.ServedSpan{Model: m.Bytes(), To: 1, Blocks: 1})
		}
		return &word{Offer: &protocol.Offer{From: peer.ID(name), Envelope: make([]byte, 100), OfferBody: body}, met: met, teller: peer.ID("of " + name), group: name}
	}
	for i := range 2 * offersModel {
		h.keep(offer(fmt.Sprint("told ", i), false, popular), hearsayStranger)
	}
	if len(h.about[popular]) != offersModel || len(h.all) != offersModel {
		t.Errorf("%d offers of %d", len(h.about[popular]), len(h.all))
	}
	for i := range 2 * offersModel {
		h.keep(offer(fmt.Sprint("here ", i), true, popular), hearsayStranger)
	}
	for w := range h.concerning(popular) {
		if !w.met {
			t.Fatal("hearsay is kept in place of what came from its signer")
		}
	}
	if h.keep(offer("late", false, popular), hearsayStranger) || h.all["late"] != nil {
		t.Error("hearsay finds room among offers of connected peers")
	}
	if !h.keep(offer("both", false, popular, rare), hearsayStranger) || len(h.about[rare]) != 1 || len(h.about[popular]) != offersModel {
		t.Errorf("of a popular and a rare model: %d and %d", len(h.about[popular]), len(h.about[rare]))
	}
	if h.keep(offer("both", false, popular, rare), hearsayStranger); len(h.about[rare]) != 1 {
		t.Errorf("its successor is known %d times", len(h.about[rare]))
	}
	for p := range maps.Clone(h.all) {
		h.forget(p)
	}
	if len(h.about) != 0 || h.bytes != 0 {
		t.Errorf("%d models and %d bytes are left", len(h.about), h.bytes)
	}
}

func TestDraw(t *testing.T) {
	var list []string
	for i := range 100 {
		list = append(list, fmt.Sprintf("many %d", i))
	}
	list = append(list, "one 0", "two 0", "two 1")
	first := map[string]bool{}
	for range 30 {
		out := draw(list, 6, func(s string) string { return s[:3] })
		groups := map[string]int{}
		for _, s := range out {
			groups[s[:3]]++
		}
		if len(out) != 6 || groups["one"] != 1 || groups["two"] != 2 {
			t.Fatalf("drawn %v", out)
		}
		for _, s := range out {
			first[s] = true
		}
	}
	if len(first) < 20 {
		t.Error("it is not drawn at random")
	}
	few := 0
	for range 300 {
		if out := draw(list, 1, func(s string) string { return s[:3] }); out[0][:3] == "man" {
			few++
		}
	}
	if few < 50 || few > 150 {
		t.Errorf("of three groups the largest is drawn %d times in 300", few)
	}
	if out := draw(list, 1000, func(s string) string { return s }); len(out) != len(list) {
		t.Errorf("%d of %d", len(out), len(list))
	}
}

// Pushed is one's own offer; others' are not taken.
func TestPushed(t *testing.T) {
	n := join(t, false)
	h := rawHost(t)
	if err := h.Connect(t.Context(), infoOf(n)); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := push(t.Context(), h.NewStream, n.Self(), sealed(t, newKey(t), 1).Envelope); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.KnownOffers(); got != 0 {
		t.Errorf("%d offers of others were pushed", got)
	}
	if err := push(t.Context(), h.NewStream, n.Self(), sealed(t, h.Peerstore().PrivKey(h.ID()), 1).Envelope); err != nil {
		t.Fatal(err)
	}
	if n.offerOf(h.ID()) == nil {
		t.Error("its own was not taken")
	}
}

// Whatever IDs somebody makes up, a newcomer is told of those who are there; and
// one whom he was told to join tells him of all that fit.
func TestToldOf(t *testing.T) {
	boot := join(t, false)
	honest := join(t, false, boot)
	if err := honest.SetOffer(serves(0, 30)); err != nil {
		t.Fatal(err)
	}
	await(t, "the honest offer", func() bool { return boot.offerOf(honest.Self()) != nil })
	for i := range 200 {
		if err := boot.hear(peer.ID(fmt.Sprint("teller ", i/hearsayStranger)), sealed(t, groundKey(t), 1).Envelope); err != nil {
			t.Fatal(err)
		}
	}
	if got := boot.KnownOffers(); got != 201 {
		t.Fatalf("%d offers are known", got)
	}
	h := rawHost(t)
	if err := h.Connect(t.Context(), infoOf(boot)); err != nil {
		t.Fatal(err)
	}
	seen := map[peer.ID]bool{}
	for range 3 {
		told := askRaw(t, h, boot.Self())
		if len(told) != protocol.MaxOffersReply-1 {
			t.Errorf("told of %d", len(told))
		}
		is := false
		for _, o := range told {
			seen[o.From] = true
			is = is || o.From == honest.Self()
		}
		if !is {
			t.Error("the honest peer is not among those told of")
		}
	}
	if len(seen) < 90 {
		t.Errorf("three replies told of %d: they are cut at the same place", len(seen))
	}
	late := join(t, true, boot)
	if err := late.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := late.ask(ctx, boot.Self(), model); err != nil {
		t.Fatal(err)
	}
	if got := late.KnownOffers(); got < protocol.MaxOffersReply-1 || late.offerOf(honest.Self()) == nil {
		t.Errorf("a newcomer learns of %d from the peer that he was told to join", got)
	}
	// What the same peer would be believed without that.
	other := join(t, true)
	if err := other.Host().Connect(ctx, infoOf(boot)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := other.ask(ctx, boot.Self(), model); err != nil {
			t.Fatal(err)
		}
	}
	if got := other.KnownOffers(); got > hearsayStranger+1 {
		t.Errorf("%d offers on one stranger's word", got)
	}
}

// askRaw asks for offers of the model, as any program may.
func askRaw(t *testing.T, h host.Host, p peer.ID) (out []*protocol.Offer) {
	t.Helper()
	s, err := h.NewStream(t.Context(), p, libprotocol.ID(protocol.OffersID))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := writeMessage(s, &protocol.OffersRequest{Model: model.Bytes()}); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	var reply protocol.OffersReply
	if err := readMessage(s, &reply, maxReply); err != nil {
		t.Fatal(err)
	}
	for _, e := range reply.Envelopes {
		o, err := protocol.OpenOffer(e, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// Many who ask a peer at once and get no answer leave it out for as long as one
// would, and those who ask again in vain for longer.
func TestDoubt(t *testing.T) {
	n := &Network{silent: map[peer.ID]silence{}}
	synctest.Test(t, func(t *testing.T) {
		for _, want := range []time.Duration{firstDoubt, 2 * firstDoubt, 4 * firstDoubt} {
			for range 5 {
				n.doubt("gone", true)
			}
			if s := n.silent["gone"]; s.last != want || time.Until(s.until) != want {
				t.Errorf("left out for %s, want %s", s.last, want)
			}
			time.Sleep(want)
		}
		n.doubt("gone", false)
		if len(n.silent) != 0 {
			t.Error("it is back, and left out")
		}
	})
}
