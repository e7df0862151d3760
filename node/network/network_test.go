package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, err := LoadKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// join starts a node on loopback that knows the given ones.
func join(t testing.TB, client bool, boot ...*Network) *Network {
	t.Helper()
	cfg := Config{Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Client: client, Version: "test"}
	for _, b := range boot {
		cfg.Bootstrap = append(cfg.Bootstrap, b.FullAddrs()...)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

var model = protocol.ModelKey(cid.Undef)

func serves(from, to uint32) *protocol.OfferBody {
	return &protocol.OfferBody{Spans: []*protocol.ServedSpan{{Model: model.Bytes(), From: from, To: to, Blocks: 30, Width: 8}},
		Shards: []*protocol.HeldShards{{Model: model.Bytes(), Bitmap: []byte{1}}}}
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

// The third node learns of the others through the DHT alone, and goes on when
// the one it came by is gone.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	boot := join(t, false)
	a, b := join(t, false, boot), join(t, false, boot)
	for i, n := range []*Network{boot, a, b} {
		if err := n.SetOffer(serves(uint32(10*i), uint32(10*i+10))); err != nil {
			t.Fatal(err)
		}
	}
	covers := func(o []*protocol.Offer) bool {
		var spans []protocol.Span
		for _, o := range o {
			for _, s := range o.Spans {
				spans = append(spans, s.Span())
			}
		}
		return len(protocol.Uncovered(30, spans)) == 0
	}
	c := join(t, false, boot)
	if err := c.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "all three offers", func() bool { return covers(c.Offers(t.Context(), model, covers)) })
	await(t, "connections among the others", func() bool { return len(a.Peers()) > 1 && len(c.Peers()) > 1 })
	boot.Close()
	late := join(t, true, a)
	if err := late.WaitPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the offers that are left", func() bool { return len(late.Offers(t.Context(), model, nil)) >= 2 })
	await(t, "that the lost node's offer goes", func() bool {
		for _, o := range a.Known(model) {
			if o.From == boot.Self() {
				return false
			}
		}
		return true
	})
	if holders, err := late.Holders(t.Context(), model); err != nil || len(holders) < 2 {
		t.Errorf("holders %v, %v", holders, err)
	}
}

func TestSequence(t *testing.T) {
	n := join(t, false)
	key := newKey(t)
	offer := func(seq uint64, life time.Duration) []byte {
		b := serves(0, 10)
		b.Seq, b.IssuedUnixMs, b.ExpiresUnixMs = seq, time.Now().Add(-time.Minute).UnixMilli(), time.Now().Add(life).UnixMilli()
		o, err := protocol.SealOffer(b, key)
		if err != nil {
			t.Fatal(err)
		}
		return o.Envelope
	}
	if err := n.hear("", offer(5, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := n.hear("", offer(4, time.Minute)); !errors.Is(err, protocol.ErrOfferOld) {
		t.Errorf("an old sequence number: %v", err)
	}
	if err := n.hear("", offer(9, -time.Second)); !errors.Is(err, protocol.ErrOfferExpired) {
		t.Errorf("expired: %v", err)
	}
	bad := offer(10, time.Minute)
	bad[len(bad)-1] ^= 1
	if err := n.hear("", bad); !errors.Is(err, protocol.ErrOffer) {
		t.Errorf("forged: %v", err)
	}
	if o := n.Known(model); len(o) != 1 || o[0].Seq != 5 {
		t.Errorf("known %v", o)
	}
	v := validator{time.Now}
	good := offer(6, time.Minute)
	id := n.Known(model)[0].From
	if err := v.Validate(recordKey(id), good); err != nil {
		t.Error(err)
	}
	if err := v.Validate(recordKey(n.Self()), good); err == nil {
		t.Error("an offer under another's key was taken")
	}
	if i, err := v.Select(recordKey(id), [][]byte{good, offer(8, time.Minute), []byte("junk")}); err != nil || i != 1 {
		t.Errorf("selected %d, %v", i, err)
	}
}

// A peer that sends garbage on any of our protocols harms nobody.
func TestGarbage(t *testing.T) {
	a, b := join(t, false), join(t, false)
	if err := a.Host().Connect(t.Context(), b.Host().Peerstore().PeerInfo(b.Self())); err == nil {
		t.Log("connected without addresses")
	}
	junk := make([]byte, 1<<16)
	_, _ = rand.Read(junk)
	for _, proto := range []string{protocol.OffersID, protocol.StatusID} {
		s, err := a.Open(t.Context(), b.Self(), offerAt(t, b.cfg.Key, time.Now(), b.Addrs()...), proto)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = s.Write(junk)
		_, _ = io.Copy(io.Discard, s)
		_ = s.Reset()
	}
	if _, err := a.Status(t.Context(), b.Self(), cid.Undef, nil); err != nil {
		t.Error("no status after garbage: ", err)
	}
}

func TestSelfStream(t *testing.T) {
	n := join(t, false)
	n.Handle("/echo", func(s *Stream) { _, _ = io.Copy(s, s); _ = s.Close() })
	s, err := n.Open(t.Context(), n.Self(), nil, "/echo")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "hello" || s.Peer() != n.Self() {
		t.Fatalf("%q %v", b, err)
	}
	_ = s.Reset()
	if _, err := s.Write(b); err == nil {
		t.Error("wrote to a stream that was reset")
	}
}

func TestRemembers(t *testing.T) {
	a := join(t, false)
	file := filepath.Join(t.TempDir(), "peers.json")
	cfg := Config{Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Bootstrap: a.FullAddrs(), PeersFile: file}
	for i := range 2 {
		n, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := n.WaitPeers(ctx); err != nil {
			t.Fatal("start ", i, ": ", err)
		}
		if _, err := n.Status(ctx, a.Self(), cid.Undef, nil); err != nil {
			t.Error(err)
		}
		await(t, "the peer's addresses", func() bool { return len(n.Host().Peerstore().Addrs(a.Self())) > 0 })
		cancel()
		n.Close()
		cfg.Bootstrap = nil // the second time from memory
	}
	if err := os.WriteFile(file, []byte("{ torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal("a damaged list keeps the node from starting: ", err)
	}
	n.Close()
}

func TestBadConfig(t *testing.T) {
	a := join(t, false)
	var port string
	for _, s := range a.FullAddrs() {
		if i := strings.Index(s, "/udp/"); i >= 0 {
			port, _, _ = strings.Cut(s[i+5:], "/")
		}
	}
	_, err := New(Config{Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/" + port + "/quic-v1"}})
	if err == nil || !strings.Contains(err.Error(), "in use") || remedy.Of(err) == nil || remedy.Of(err).Kind != remedy.ListenPort {
		t.Errorf("a taken port: %v", err)
	}
	if _, err := New(Config{Key: newKey(t), Bootstrap: []string{"example.org:4001"}}); err == nil || !strings.Contains(err.Error(), "/p2p/") {
		t.Errorf("a bad bootstrap address: %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	var b bytes.Buffer
	_ = writeMessage(&b, &protocol.OffersReply{Envelopes: [][]byte{{1, 2}}})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m protocol.OffersReply
		if err := readMessage(bytes.NewReader(raw), &m, maxReply); err == nil {
			var again bytes.Buffer
			if err := writeMessage(&again, &m); err != nil {
				t.Fatal(err)
			}
			var m2 protocol.OffersReply
			if err := readMessage(&again, &m2, maxReply); err != nil || !proto.Equal(&m, &m2) {
				t.Fatal(err)
			}
		}
		_ = validator{time.Now}.Validate("/shoal/x", raw)
	})
}
