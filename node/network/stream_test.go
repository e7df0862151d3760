package network

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

// offerAt is a signed offer that says where its signer is.
func offerAt(t testing.TB, key crypto.PrivKey, issued time.Time, addrs ...multiaddr.Multiaddr) []byte {
	t.Helper()
	body := &protocol.OfferBody{Seq: 1, IssuedUnixMs: issued.UnixMilli(), ExpiresUnixMs: issued.Add(10 * time.Minute).UnixMilli()}
	for _, a := range addrs {
		body.Addrs = append(body.Addrs, a.Bytes())
	}
	o, err := protocol.SealOffer(body, key)
	if err != nil {
		t.Fatal(err)
	}
	return o.Envelope
}

// A peer that another names is dialled where its own offer says, at a few
// addresses, and nowhere else.
func TestOpenByOffer(t *testing.T) {
	a, b := join(t, true), join(t, false)
	b.Handle("/echo", func(s *Stream) { _, _ = io.Copy(s, s); _ = s.Close() })
	var dialled atomic.Int64
	listen := func() multiaddr.Multiaddr {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				dialled.Add(1)
				c.Close()
			}
		}()
		at, err := multiaddr.NewMultiaddr("/ip4/127.0.0.1/tcp/" + l.Addr().String()[len("127.0.0.1:"):])
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	var traps []multiaddr.Multiaddr
	for range 2 * offerAddrs {
		traps = append(traps, listen())
	}
	other := newKey(t)
	for name, offer := range map[string][]byte{
		"another's": offerAt(t, other, time.Now(), traps...),
		"expired":   offerAt(t, b.cfg.Key, time.Now().Add(-time.Hour), traps...),
		"garbage":   traps[0].Bytes(),
		"none":      nil,
	} {
		if s, err := a.Open(t.Context(), b.Self(), offer, "/echo"); err == nil {
			_ = s.Reset()
			t.Errorf("%s: a peer was reached whose addresses nobody had", name)
		}
	}
	if n := dialled.Load(); n > 0 {
		t.Errorf("%d connections to where no offer of that peer's says", n)
	}
	s, err := a.Open(t.Context(), b.Self(), offerAt(t, b.cfg.Key, time.Now(), append(b.Addrs(), traps...)...), "/echo")
	if err != nil {
		t.Fatal("by its own offer: ", err)
	}
	_ = s.Reset()
	if n := dialled.Load(); n > offerAddrs {
		t.Errorf("%d addresses of an offer were dialled", n)
	}
	s, err = a.Open(t.Context(), b.Self(), nil, "/echo")
	if err != nil {
		t.Fatal("a connected peer, without an offer: ", err)
	}
	_ = s.Reset()
}
