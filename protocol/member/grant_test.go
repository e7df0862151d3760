package member

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

func testGrant(t testing.TB) *Grant {
	g, err := Accept(keyOf(9), testBridge(t), View{5}, now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func testOffer(t testing.TB) *BridgeOffer {
	return &BridgeOffer{Record: testBridge(t), View: View{5}, Name: "lab", Entries: []*peer.AddrInfo{
		{ID: keyPeer(3), Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/5.0.0.1/udp/4001/quic-v1"), multiaddr.StringCast("/ip4/5.0.0.1/tcp/4001")}},
		{ID: keyPeer(4)},
	}}
}

// A grant is in force while both root keys stand by it.
func TestAGrant(t *testing.T) {
	g := testGrant(t)
	back, err := ParseGrant(g.Marshal())
	if err != nil || back.Check(now, Lists{}, Lists{}) != nil || back.View != g.View {
		t.Fatal(err, back)
	}
	serials := []Serial{g.Record.Serial()}
	byLender, err := root.Revoke(Lists{}, serials, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	guest := Issuer{Root: g.Record.Guest, Key: keyOf(9)}
	byGuest, err := guest.Revoke(Lists{}, serials, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		at     time.Time
		change func(*Grant)
		lender Lists
		guest  Lists
		want   error
	}{
		"another view key":         {now, func(g *Grant) { g.View[0]++ }, Lists{}, Lists{}, ErrForged},
		"accepted by another":      {now, func(g *Grant) { g.Signature = sign(keyOf(8), acceptLabel, g.body()) }, Lists{}, Lists{}, ErrForged},
		"not signed by the lender": {now, func(g *Grant) { g.Record.TokensPerDay++; g.Signature = sign(keyOf(9), acceptLabel, g.body()) }, Lists{}, Lists{}, ErrForged},
		"ended by the lender":      {now, func(*Grant) {}, Lists{ByRoot: byLender}, Lists{}, ErrRevoked},
		"ended by the guest":       {now, func(*Grant) {}, Lists{}, Lists{ByRoot: byGuest}, ErrRevoked},
		"expired":                  {now.Add(Life), func(*Grant) {}, Lists{}, Lists{}, ErrExpired},
	} {
		changed, err := ParseGrant(g.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		c.change(changed)
		if err := changed.Check(c.at, c.lender, c.guest); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := Accept(keyOf(8), g.Record, g.View, now); !errors.Is(err, ErrOther) {
		t.Errorf("accepted by another swarm: %v", err)
	}
	if (View{1}).Bridge(g.Record.Guest) == (View{2}).Bridge(g.Record.Guest) || (View{1}).Bridge(Key{1}) == (View{1}).Bridge(Key{2}) {
		t.Error("two bridges have one view key")
	}
	other := *g.Record
	other.Lender, other.Guest = g.Record.Guest, g.Record.Lender
	if g.Record.Network() == other.Network() {
		t.Error("both directions meet in one network")
	}
}

// A member is in the network of a bridge with a key that it vouches for, there alone.
func TestABridgeHost(t *testing.T) {
	private, err := crypto.UnmarshalEd25519PrivateKey(keyOf(3))
	if err != nil {
		t.Fatal(err)
	}
	here, there := testBridge(t).Network(), SwarmID{1}
	c := issuer(t, 2, Use|Invite).mustIssue(t, 3, Use)
	host, err := c.BridgeHost(private, here, keyPeer(8))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := (View{7}).Seal(host)
	if err != nil || len(sealed) != SealedSize {
		t.Fatal(err, len(sealed))
	}
	back, err := (View{7}).Open(sealed)
	if err != nil || !back.Host {
		t.Fatal(err)
	}
	if err := back.CheckBridge(here, root.Root, keyPeer(8), now, Lists{}); err != nil {
		t.Error(err)
	}
	helper, err := c.Vouch(private, keyPeer(8))
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.CheckBridge(here, root.Root, keyPeer(8), now, Lists{}); err != nil {
		t.Errorf("a helper: %v", err)
	}
	own := &Membership{Certificate: c}
	for name, err := range map[string]error{
		"in another network":     back.CheckBridge(there, root.Root, keyPeer(8), now, Lists{}),
		"another key":            back.CheckBridge(here, root.Root, keyPeer(7), now, Lists{}),
		"in the swarm itself":    back.Check(root.Root, keyPeer(8), now, Lists{}),
		"the member's own there": back.Check(root.Root, keyPeer(3), now, Lists{}),
		"the member's own key":   own.CheckBridge(here, root.Root, keyPeer(3), now, Lists{}),
		"a helper as a host":     (&Membership{Certificate: c, Vouch: helper.Vouch, Host: true}).CheckBridge(here, root.Root, keyPeer(8), now, Lists{}),
	} {
		if !errors.Is(err, ErrOther) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBridgeTexts(t *testing.T) {
	ask := &BridgeAsk{Guest: PublicKey(keyOf(9)), Name: "Käthes Büro"}
	if back, err := ParseAsk(" " + strings.ToLower(ask.String()[:20]) + "\n" + ask.String()[20:]); err != nil || *back != *ask {
		t.Errorf("%v, %v", back, err)
	}
	offer := testOffer(t)
	back, err := ParseOffer(offer.String())
	if err != nil || back.String() != offer.String() || len(back.Entries) != 2 || len(back.Entries[0].Addrs) != 2 || back.Record.Check(now, Lists{}) != nil {
		t.Errorf("%+v, %v", back, err)
	}
	ticket := testTicket(t).String()
	for _, s := range []string{"", "SHOAL", ticket, ask.String()[1:], ask.String() + "A", offer.String(), strings.Replace(ask.String(), "S", "\u017f", 1), strings.Repeat("A", maxBridgeText+1)} {
		if _, err := ParseAsk(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.20q: %v", s, err)
		}
	}
	for i := range offer.String() {
		s := []byte(offer.String())
		if s[i]++; s[i] == 'Z'+1 {
			s[i] = 'A'
		}
		if _, err := ParseOffer(string(s)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("letter %d was changed: %v", i, err)
		}
	}
	for _, s := range []string{ask.String(), offer.String()} {
		if _, err := ParseTicket(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("taken for a code: %v", err)
		}
	}
}

func FuzzGrant(f *testing.F) {
	f.Add(testGrant(f).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGrant(b)
		if err != nil {
			return
		}
		if !bytes.Equal(g.Marshal(), b) {
			t.Error("two encodings")
		}
		_ = g.Check(now, Lists{}, Lists{})
	})
}

// The checksums keep a fuzzer out, so these are given right ones.

func FuzzAsk(f *testing.F) {
	f.Add(append(append([]byte{1}, make([]byte, 32)...), 1, 'x'))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := sumText(askPrefix, b)
		if a, err := ParseAsk(s); err == nil && a.String() != s {
			t.Error("two encodings")
		}
	})
}

func FuzzOffer(f *testing.F) {
	b, err := base32Upper.DecodeString(testOffer(f).String()[len(lendPrefix):])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)-ticketSum])
	f.Fuzz(func(t *testing.T, b []byte) {
		s := sumText(lendPrefix, b)
		if o, err := ParseOffer(s); err == nil && o.String() != s {
			t.Error("two encodings")
		}
	})
}
