package protocol

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// anOffer is valid for ten minutes from noon.
func anOffer() *OfferBody {
	_, id, _ := aManifest().Encode()
	return &OfferBody{
		Seq: 7, IssuedUnixMs: noon.UnixMilli(), ExpiresUnixMs: noon.Add(10 * time.Minute).UnixMilli(), Version: "1",
		Spans: []*ServedSpan{{Model: id.Bytes(), From: 0, To: 1, Blocks: 2, Width: 8, Name: "two blocks"}},
	}
}

func TestOfferRoundTrip(t *testing.T) {
	key := newKey(t)
	sealed, err := SealOffer(anOffer(), key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenOffer(sealed.Envelope, noon.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if got.From != sealed.From || got.Seq != 7 || got.Spans[0].Span() != (Span{0, 1}) {
		t.Fatalf("came back as %v", got)
	}
	newer := anOffer()
	newer.Seq = 8
	next, _ := SealOffer(newer, key)
	other, _ := SealOffer(newer, newKey(t))
	if !next.Supersedes(got) || got.Supersedes(next) || got.Supersedes(got) || other.Supersedes(got) {
		t.Error("only the same peer's higher sequence number replaces an offer")
	}
}

func TestOfferQueries(t *testing.T) {
	served, held, both, taken, none := textKey("a"), textKey("b"), textKey("c"), textKey("d"), textKey("e")
	o := &Offer{OfferBody: &OfferBody{
		Spans: []*ServedSpan{
			{Model: served.Bytes(), To: 3}, {Model: both.Bytes(), To: 1, Name: "Both"}, {Model: served.Bytes(), From: 3, To: 5, Name: "served"},
		},
		Shards: []*HeldShards{{Model: held.Bytes(), Name: "held", Bitmap: []byte{0b101, 1}}, {Model: both.Bytes(), Name: "other"}},
		Takes:  [][]byte{taken.Bytes(), both.Bytes(), []byte("no CID")},
	}}
	if got := o.Models(); !slices.Equal(got, []cid.Cid{served, both, held, taken}) {
		t.Errorf("it is about %v", got)
	}
	for _, test := range []struct {
		model cid.Cid
		spans int
		held  bool
		name  string
	}{{served, 2, false, "served"}, {held, 0, true, "held"}, {both, 1, true, "Both"}, {taken, 0, false, ""}, {none, 0, false, ""}, {cid.Undef, 0, false, ""}} {
		spans, h, name := o.SpansOf(test.model), o.Held(test.model), o.NameOf(test.model)
		if len(spans) != test.spans || (h != nil) != test.held || name != test.name {
			t.Errorf("of %s: %v, %v, %q", test.model, spans, h, name)
		}
	}
	if got := o.SpansOf(served); got[0].Span() != (Span{0, 3}) || got[1].Span() != (Span{3, 5}) {
		t.Errorf("spans in the order of the offer: %v", got)
	}
	if got := o.Held(held).Bits(10); !slices.Equal(got, []bool{0: true, 2: true, 8: true, 9: false}) || o.Held(held).ModelID() != held {
		t.Errorf("shards %v", got)
	}
	if got := o.Held(none).Bits(2); !slices.Equal(got, []bool{false, false}) {
		t.Errorf("shards of none: %v", got)
	}
}

func TestOfferRefused(t *testing.T) {
	key := newKey(t)
	for _, c := range []struct {
		name   string
		change func(*OfferBody)
		now    time.Time
		is     error
		says   string
	}{
		{"expired", nil, noon.Add(10 * time.Minute), ErrOfferExpired, "expired"},
		{"from the future", nil, noon.Add(-time.Hour), ErrOffer, "clock"},
		{"lives too long", func(b *OfferBody) { b.ExpiresUnixMs += 3_600_000 }, noon, ErrOffer, "life"},
		{"ends before it begins", func(b *OfferBody) { b.ExpiresUnixMs = b.IssuedUnixMs - 1 }, noon, ErrOffer, "life"},
		{"impossible span", func(b *OfferBody) { b.Spans[0].To = 3 }, noon, ErrOffer, "impossible span"},
		{"an engine's long name", func(b *OfferBody) { b.Spans[0].Engine = &Engine{Version: strings.Repeat("v", 64)} }, noon, ErrOffer, "engine"},
		{"an engine's name that moves the cursor", func(b *OfferBody) { b.Spans[0].Engine = &Engine{Device: "CPU\x1b[2J"} }, noon, ErrOffer, "engine"},
		{"no model", func(b *OfferBody) { b.Spans[0].Model = []byte("x") }, noon, ErrOffer, "no model"},
		{"crowded", func(b *OfferBody) { b.Spans = append(b.Spans, make([]*ServedSpan, 64)...) }, noon, ErrOffer, ""},
	} {
		body := anOffer()
		if c.change != nil {
			c.change(body)
		}
		o, err := SealOffer(body, key)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err := OpenOffer(o.Envelope, c.now); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A signer can speak for itself only, and nobody can change what it said.
func TestOfferForged(t *testing.T) {
	honest, mallory := newKey(t), newKey(t)
	victim, _ := peer.IDFromPrivateKey(honest)
	body := anOffer()
	body.Peer = []byte(victim)
	env, err := record.Seal(&offerRecord{body}, mallory)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := env.Marshal()
	if _, err := OpenOffer(raw, noon); !errors.Is(err, ErrOffer) || !strings.Contains(err.Error(), "another peer") {
		t.Errorf("signed for another: %v", err)
	}
	o, _ := SealOffer(anOffer(), honest)
	for i := range o.Envelope {
		bad := append([]byte(nil), o.Envelope...)
		bad[i] ^= 1
		if got, err := OpenOffer(bad, noon); err == nil && got.From == o.From && got.Seq != o.Seq {
			t.Fatalf("byte %d changed and believed", i)
		}
	}
	if _, err := OpenOffer(make([]byte, MaxOffer+1), noon); !errors.Is(err, ErrOffer) {
		t.Errorf("oversized: %v", err)
	}
}

func FuzzOffer(f *testing.F) {
	o, err := SealOffer(anOffer(), newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(o.Envelope)
	named := anOffer()
	named.Spans[0].Engine = &Engine{Name: "llama", Version: "v0.5.0", Device: "CUDA", Kv: "f16"}
	if o, err = SealOffer(named, newKey(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(o.Envelope)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if o, err := OpenOffer(raw, noon); err == nil {
			for _, s := range o.Spans {
				if class := s.Engine.Class(); len(class) > 4*MaxMachineName+5 || strings.ContainsAny(class, "\n\x1b") {
					t.Fatalf("let through %q", class)
				}
				if !s.Span().Valid(int(s.Blocks)) || !s.ModelID().Defined() {
					t.Fatalf("let through %v", s)
				}
			}
			o.Addresses()
			if from, issued, err := OfferIssued(raw); err != nil || from != o.From || issued.UnixMilli() != o.IssuedUnixMs {
				t.Fatalf("issued by %s at %s, %v", from, issued, err)
			}
		}
	})
}
