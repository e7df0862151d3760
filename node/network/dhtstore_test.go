package network

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
)

func TestRecordStore(t *testing.T) {
	ctx := t.Context()
	r := newRecords(100 << 10)
	key := func(i int) ds.Key { return ds.NewKey(fmt.Sprintf("/kind/%d/%d", i%2, i)) }
	kept := key(0)
	for i := range 1000 {
		if err := r.Put(ctx, key(i), make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(ctx, kept); err != nil {
			t.Fatal("what is asked for is forgotten: ", err)
		}
	}
	if r.bytes > r.most || len(r.all) < 70 || len(r.all) != r.order.Len() {
		t.Errorf("%d records of %d bytes", len(r.all), r.bytes)
	}
	if _, err := r.Get(ctx, key(1)); !errors.Is(err, ds.ErrNotFound) {
		t.Errorf("the first: %v", err)
	}
	if size, err := r.GetSize(ctx, key(999)); err != nil || size != 1000 {
		t.Errorf("the last has %d bytes, %v", size, err)
	}
	found, err := r.Query(ctx, dsq.Query{Prefix: "/kind/1", KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	list, err := found.Rest()
	if err != nil || len(list) == 0 || len(list) >= len(r.all) {
		t.Errorf("%d found of %d, %v", len(list), len(r.all), err)
	}
	b, err := r.Batch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if err := b.Delete(ctx, ds.RawKey(e.Key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if has, _ := r.Has(ctx, key(999)); has {
		t.Error("it was deleted")
	}
	if err := r.Put(ctx, key(5), make([]byte, 200<<10)); err != nil || r.bytes != 0 || len(r.all) != 0 {
		t.Errorf("more than there is room for: %v, %d bytes are left", err, r.bytes)
	}
}

// kad sends a message to a peer's DHT, and reports whether it was accepted.
func kad(t *testing.T, h host.Host, to peer.ID, m *dhtpb.Message) bool {
	t.Helper()
	s, err := h.NewStream(t.Context(), to, libprotocol.ID(kadID))
	if err != nil {
		return false
	}
	defer s.Reset()
	if err := writeMessage(s, m); err != nil {
		return false
	}
	_ = s.CloseWrite()
	if m.GetType() == dhtpb.Message_ADD_PROVIDER { // which has no answer
		_, err = io.ReadAll(s)
		return err == nil
	}
	_, err = binary.ReadUvarint(bufio.NewReader(s))
	return err == nil
}

// Thousands of made-up records take little memory, and the honest one is found.
func TestRecordFlood(t *testing.T) {
	n := join(t, false)
	honest := join(t, false, n)
	if err := honest.SetOffer(serves(0, 10)); err != nil {
		t.Fatal(err)
	}
	found := func() bool {
		_, err := n.dht.GetValue(context.Background(), recordKey(honest.Self()))
		return err == nil
	}
	await(t, "the honest record", found)
	n.said.mu.Lock()
	n.said.since, n.said.count = time.Now().Add(time.Hour), map[string]int{} // the minute does not end meanwhile
	n.said.mu.Unlock()
	values, provided := 0, 0
	for range 3 {
		h := rawHost(t, "/ip4/127.0.0.1/tcp/0")
		if err := h.Connect(t.Context(), infoOf(n)); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			o := sealed(t, newKey(t), 1)
			key := []byte(recordKey(o.From))
			if kad(t, h, n.Self(), &dhtpb.Message{Type: dhtpb.Message_PUT_VALUE, Key: key, Record: &recpb.Record{Key: key, Value: o.Envelope}}) {
				values++
			}
		}
		me := dhtpb.RawPeerInfosToPBPeers([]peer.AddrInfo{{ID: h.ID(), Addrs: h.Addrs()}})
		for range providersAMinute + 60 {
			key := append([]byte{0x12, 0x20}, make([]byte, 32)...)
			_, _ = rand.Read(key[2:])
			if kad(t, h, n.Self(), &dhtpb.Message{Type: dhtpb.Message_ADD_PROVIDER, Key: key, ProviderPeers: me}) {
				provided++
			}
		}
	}
	if values != 3*valuesAMinute || provided != 3*providersAMinute {
		t.Errorf("of three peers %d values and %d provider records were kept", values, provided)
	}
	if !found() {
		t.Error("the honest record is lost")
	}
}

// No memory is reserved for a long message that a peer only announces.
func TestLongMessage(t *testing.T) {
	n := join(t, false)
	h := rawHost(t)
	if err := h.Connect(t.Context(), infoOf(n)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size uint64
		ok   bool
	}{{maxKad, true}, {maxKad + 1, false}, {4 << 20, false}, {1 << 62, false}} {
		s, err := h.NewStream(t.Context(), n.Self(), libprotocol.ID(kadID))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(binary.AppendUvarint(nil, c.size)); err != nil {
			t.Fatal(err)
		}
		wait := 10 * time.Second
		if c.ok {
			wait = 200 * time.Millisecond // it is waited for
		}
		_ = s.SetReadDeadline(time.Now().Add(wait))
		_, err = s.Read(make([]byte, 1))
		var ne net.Error
		if timeout := errors.As(err, &ne) && ne.Timeout(); timeout != c.ok {
			t.Errorf("a message of %d bytes: %v", c.size, err)
		}
		_ = s.Reset()
	}
}

// bytesStream is a stream with only what shortStream uses.
type bytesStream struct {
	network.Stream
	io.Reader
}

func (s bytesStream) Read(b []byte) (int, error) { return s.Reader.Read(b) }
func (s bytesStream) Reset() error               { return nil }

func FuzzShortStream(f *testing.F) {
	f.Add([]byte{3, 1, 2, 3, 0x80, 1})
	f.Add(binary.AppendUvarint(nil, maxKad+1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// The output is the input up to the first length that is too long.
		want := raw
		for r := bytes.NewReader(raw); ; {
			size, err := binary.ReadUvarint(r)
			if err == nil && size > maxKad {
				want = nil // checked below
			}
			if err != nil || size > uint64(r.Len()) || want == nil {
				break
			}
			_, _ = r.Seek(int64(size), io.SeekCurrent)
		}
		got, err := io.ReadAll(&shortStream{Stream: bytesStream{Reader: bytes.NewReader(raw)}})
		if err != nil && !errors.Is(err, errLong) || !bytes.HasPrefix(raw, got) {
			t.Fatalf("%x passes as %x, %v", raw, got, err)
		}
		if want == nil && err == nil {
			t.Fatalf("%x is too long and passes", raw)
		}
	})
}

// Records that belong to other nodes are not stored here.
func TestNear(t *testing.T) {
	n := join(t, false)
	if !n.near([]byte("a key")) {
		t.Error("in a small network all is near")
	}
	var ids []peer.ID
	for range 400 {
		id, err := peer.IDFromPrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	near, size := 0, 0
	for range 20 { // the DHT soon finds that these peers are not there, and removes them
		near = 0
		for _, id := range ids {
			_, _ = n.dht.RoutingTable().TryAddPeer(id, true, false) // an error: that bucket is full
		}
		for i := range 1000 {
			if n.near([]byte(fmt.Sprint("/shoal/", i))) {
				near++
			}
		}
		if size = n.dht.RoutingTable().Size(); size >= 3*dhtBucket {
			break
		}
	}
	if near == 0 || near > 900 {
		t.Errorf("%d of 1000 keys are near, among %d peers", near, size)
	}
	if !n.near([]byte(n.Self())) {
		t.Error("its own key is not near")
	}
}
