package network

import (
	"container/list"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	kbucket "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

const (
	valueBytes    = 24 << 20 // bytes of offers that this node keeps for the DHT
	providerBytes = 8 << 20  // bytes of provider records that it keeps
	recordCost    = 256      // bytes of overhead counted per record
	recordAge     = 15 * time.Minute
	providerAge   = time.Hour // as protocol/README.md specifies
	providerSweep = 10 * time.Minute
	dhtBucket     = 20       // peers that keep a record
	maxKad        = 64 << 10 // bytes of a message that a peer sends unasked

	// A peer sends at most this many records per minute: its own offer each
	// time it changes and, in a small network where every node keeps every
	// record, that it serves and holds some blocks of dozens of models.
	valuesAMinute    = 16
	providersAMinute = 512
	groupTimes       = 4 // a group of addresses may send this many times as much
)

// dhtOptions bounds what the DHT stores here for other peers.
func (n *Network) dhtOptions() []dht.Option {
	return []dht.Option{
		dht.ValueDatastore(newRecords(valueBytes)), dht.ProviderDatastore(newRecords(providerBytes)),
		dht.MaxRecordAge(recordAge), dht.ValueGCInterval(recordAge),
		dht.ProviderManagerOpts(records.ProvideValidity(providerAge), records.CleanupInterval(providerSweep), records.ProviderAddrTTL(providerAge/2)),
		dht.OnRequestHook(n.admitRecord), dht.AddressFilter(withoutNames),
	}
}

// admitRecord removes the record from a store request that exceeds a limit or
// whose key belongs elsewhere; the DHT then refuses the request, with which its
// stream ends.
func (n *Network) admitRecord(_ context.Context, s network.Stream, req *dhtpb.Message) {
	most := 0
	switch req.GetType() {
	case dhtpb.Message_PUT_VALUE:
		most = valuesAMinute
	case dhtpb.Message_ADD_PROVIDER:
		most = providersAMinute
	default:
		return
	}
	p := s.Conn().RemotePeer()
	kind := req.GetType().String()
	group := n.Group(p)
	if !n.near(req.GetKey()) || !n.said.take(kind+p.String(), most) || !n.said.take(kind+" of "+group, groupTimes*most) ||
		len(req.GetProviderPeers()) > 0 && !n.shelf.admit(string(req.GetKey()), p, group, time.Now()) {
		req.Record, req.ProviderPeers = nil, nil
	}
}

// near reports whether a key may belong here, that is, whether this node knows
// of only a few peers closer to it. It allows for peers that see less of the
// network.
func (n *Network) near(key []byte) bool {
	kad := n.kad.Load()
	if kad == nil { // the DHT is still starting
		return true
	}
	closest := kad.RoutingTable().NearestPeers(kbucket.ConvertKey(string(key)), 2*dhtBucket)
	return len(closest) < 2*dhtBucket || kbucket.Closer(n.host.ID(), closest[len(closest)-1], string(key))
}

// shortHost limits the length of messages on the DHT's streams. The DHT
// allocates up to 4 MiB as soon as a message's length arrives, and no request
// to this node is longer than a record. It refuses streams that cross a relay.
type shortHost struct{ host.Host }

func (h shortHost) SetStreamHandler(id libprotocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		if reach.Relayed(s.Conn()) { // relays are for frames
			_ = s.ResetWithError(network.StreamErrorCode(protocol.ResetRelayed))
			return
		}
		handle(&shortStream{Stream: s})
	})
}

// shortStream is a stream of messages, each preceded by its length as a varint.
// Reading fails at a message that is too long.
type shortStream struct {
	network.Stream
	left  uint64 // bytes of the message still to come
	size  uint64 // the length varint, as far as it has been read
	shift int
}

var errLong = errors.New("a message to the DHT is too long")

func (s *shortStream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if s.left > 0 {
		n, err := s.Stream.Read(b[:min(uint64(len(b)), s.left)])
		s.left -= uint64(n)
		return n, err
	}
	n, err := s.Stream.Read(b[:1])
	if n == 0 {
		return 0, err
	}
	s.size |= uint64(b[0]&0x7f) << s.shift
	s.shift += 7
	if s.size > maxKad || s.shift > 21 && b[0] >= 0x80 {
		_ = s.Stream.Reset()
		return 0, errLong
	}
	if b[0] < 0x80 {
		s.left, s.size, s.shift = s.size, 0, 0
	}
	return n, err
}

// tally counts records received per minute.
type tally struct {
	mu    sync.Mutex
	since time.Time
	count map[string]int
}

func (t *tally) take(who string, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.since) > time.Minute {
		t.since, t.count = now, map[string]int{}
	}
	t.count[who]++
	return t.count[who] <= most
}

// recordStore is a bounded in-memory datastore that evicts the least recently
// used record.
type recordStore struct {
	most int // bytes

	mu    sync.Mutex
	bytes int
	all   map[ds.Key]*list.Element // of dsq.Entry
	order *list.List               // most recently used first
}

var _ ds.Batching = (*recordStore)(nil)

func newRecords(most int) *recordStore {
	return &recordStore{most: most, all: map[ds.Key]*list.Element{}, order: list.New()}
}

// get returns a record and marks it as used. Called with mu held.
func (r *recordStore) get(key ds.Key) (dsq.Entry, error) {
	e := r.all[key]
	if e == nil {
		return dsq.Entry{}, ds.ErrNotFound
	}
	r.order.MoveToFront(e)
	return e.Value.(dsq.Entry), nil
}

func (r *recordStore) Get(_ context.Context, key ds.Key) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.get(key)
	return e.Value, err
}

func (r *recordStore) Has(_ context.Context, key ds.Key) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[key] != nil, nil
}

func (r *recordStore) GetSize(_ context.Context, key ds.Key) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.get(key)
	return len(e.Value), err
}

func (r *recordStore) Put(_ context.Context, key ds.Key, value []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(key)
	e := dsq.Entry{Key: key.String(), Value: value, Size: len(value)}
	r.all[key] = r.order.PushFront(e)
	for r.bytes += cost(e); r.bytes > r.most; {
		r.remove(ds.RawKey(r.order.Back().Value.(dsq.Entry).Key))
	}
	return nil
}

func cost(e dsq.Entry) int { return len(e.Key) + len(e.Value) + recordCost }

func (r *recordStore) remove(key ds.Key) {
	if e := r.all[key]; e != nil {
		r.bytes -= cost(r.order.Remove(e).(dsq.Entry))
		delete(r.all, key)
	}
}

func (r *recordStore) Delete(_ context.Context, key ds.Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(key)
	return nil
}

func (r *recordStore) Query(_ context.Context, q dsq.Query) (dsq.Results, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	prefix := ds.NewKey(q.Prefix).String()
	var found []dsq.Entry
	for e := r.order.Front(); e != nil; e = e.Next() {
		if it := e.Value.(dsq.Entry); strings.HasPrefix(it.Key, prefix) {
			found = append(found, it)
		}
	}
	return dsq.NaiveQueryApply(q, dsq.ResultsWithEntries(q, found)), nil
}

func (r *recordStore) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(r), nil }
func (r *recordStore) Sync(context.Context, ds.Key) error      { return nil }
func (r *recordStore) Close() error                            { return nil }
