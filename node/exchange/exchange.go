package exchange

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/client"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/protocol"
)

// ErrNotFound says that nobody reachable gave the block asked for.
var ErrNotFound = errors.New("no reachable peer has it")

// ErrClosed ends a fetch whose Exchange is closed.
var ErrClosed = errors.New("the exchange is closed")

// Blocks is what this node can give. Get's error for a block that is not held
// must satisfy the store's own notion; any error means "not here".
type Blocks interface {
	Get(ctx context.Context, c cid.Cid) ([]byte, error)
	Has(ctx context.Context, c cid.Cid) (bool, error)
	Size(ctx context.Context, c cid.Cid) (int, error)
}

// Finder finds the peers that hold shards of a model.
type Finder interface {
	Holders(ctx context.Context, model cid.Cid) ([]peer.AddrInfo, error)
}

// Want is what a fetch is to bring. Next lists blocks that are lacking now, at
// most some thousand; none means that the fetch is complete. Put keeps a
// verified block.
type Want interface {
	Next(ctx context.Context) ([]cid.Cid, error)
	Put(ctx context.Context, c cid.Cid, data []byte) error
}

// Exchange gives blocks to peers and gets them from peers.
type Exchange struct {
	host host.Host
	find Finder
	door *door
	bs   *bitswap.Bitswap
	law  *judge
	log  *slog.Logger

	mu      sync.Mutex
	closed  bool
	fetches map[*fetch]context.CancelCauseFunc // under way
	done    sync.WaitGroup                     // for them
}

// New starts to give blocks over a host, and is ready to get some.
func New(h host.Host, have Blocks, find Finder, log *slog.Logger) *Exchange {
	x := &Exchange{host: h, find: find, door: newDoor(h), log: log, fetches: map[*fetch]context.CancelCauseFunc{}}
	answers := client.DefaultDontHaveTimeoutConfig()
	answers.DontHaveTimeout, answers.MinTimeout, answers.MaxTimeout = answerTime, answerTime, giveUp/2
	x.law = newJudge(bsnet.NewFromIpfsHost(x.door, bsnet.Prefix(protocol.DHTPrefix),
		bsnet.SupportedProtocols([]libprotocol.ID{bsnet.ProtocolBitswap}))) // no older versions
	ways := newWays(x.law)
	x.bs = bitswap.New(context.Background(), ways, finder{x}, shelf{have},
		bitswap.MaxOutstandingBytesPerPeer(perPeer),
		bitswap.TaskWorkerCount(sendAtOnce),
		bitswap.EngineTaskWorkerCount(sendAtOnce),
		bitswap.WithTaskComparator(ways.before),
		// Several leaves share a link, so each takes long to come. Bitswap
		// would soon ask others for what is already on its way.
		bitswap.WithClientOption(client.WithDontHaveTimeoutConfig(answers)),
		// A running session asks for holders that often; they are at hand.
		bitswap.RebroadcastDelay(lookAgain),
		bitswap.WithClientOption(client.WithDefaultProviderQueryManager(false)),
		bitswap.WithoutDuplicatedBlockStats(),
	)
	ways.server.Store(x.bs.Server)
	x.law.bs.Store(x.bs)
	return x
}

// Close stops giving and getting; fetches end with ErrClosed.
func (x *Exchange) Close() error {
	x.mu.Lock()
	x.closed = true
	for _, cancel := range x.fetches {
		cancel(ErrClosed)
	}
	x.mu.Unlock()
	x.done.Wait()
	x.door.close()
	return x.bs.Close()
}

// Stats are bytes of blocks given to and taken from peers since the start,
// those that came twice or unasked included.
func (x *Exchange) Stats() (given, taken uint64) {
	st, err := x.bs.Stat()
	if err != nil {
		return 0, 0
	}
	return st.DataSent, st.DataReceived
}

// Progress of a fetch.
type Progress struct {
	Blocks  int64 // got so far
	Bytes   int64
	Holders int // peers that are connected and said to hold some of it
}

// Manifest gets a model's manifest, verified against its CID.
func (x *Exchange) Manifest(ctx context.Context, model cid.Cid) ([]byte, error) {
	w := &one{c: model}
	err := x.Fetch(ctx, model, w, nil)
	return w.data, err
}

// one wants a single block.
type one struct {
	c    cid.Cid
	data []byte
}

func (w *one) Next(context.Context) ([]cid.Cid, error) {
	if w.data != nil {
		return nil, nil
	}
	return []cid.Cid{w.c}, nil
}

func (w *one) Put(_ context.Context, _ cid.Cid, data []byte) error {
	w.data = data
	return nil
}

// Fetch gets all that want lacks from the holders of a model. It ends with
// ErrNotFound when no block came for a minute. progress may be nil; it is
// called after each block, by one goroutine at a time.
func (x *Exchange) Fetch(ctx context.Context, model cid.Cid, want Want, progress func(Progress)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &fetch{x: x, model: model, want: want, progress: progress, seed: maphash.MakeSeed(), pace: newPace(), last: time.Now()}
	if err := x.begin(f, cancel); err != nil {
		return err
	}
	defer x.end(f)
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		f.keepLooking(ctx)
	}()
	err := f.run(ctx)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	cancel(nil)
	<-looking
	return err
}

func (x *Exchange) begin(f *fetch, cancel context.CancelCauseFunc) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrClosed
	}
	x.fetches[f] = cancel
	x.done.Add(1)
	return nil
}

func (x *Exchange) end(f *fetch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.fetches, f)
	x.done.Done()
}

// holders are the connected peers that are said to hold some of the models
// being fetched.
func (x *Exchange) holders() []peer.AddrInfo {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []peer.AddrInfo
	for f := range x.fetches {
		for _, p := range f.connected() {
			if !among(all, p.ID) {
				all = append(all, p)
			}
		}
	}
	return all
}

// finder answers bitswap's search for providers with the holders of the
// models being fetched, whatever block it asks for.
type finder struct{ x *Exchange }

func (f finder) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	all := f.x.holders()
	out := make(chan peer.AddrInfo, len(all))
	for _, p := range all {
		out <- p
	}
	close(out)
	return out
}

// shelf shows this node's blocks to bitswap as a blockstore. Bitswap never
// writes to it: what a fetch brings goes through Want.Put.
type shelf struct{ have Blocks }

var errReadOnly = errors.New("exchange: bitswap does not write")

func (s shelf) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	data, err := s.have.Get(ctx, c)
	if err != nil { // bitswap knows one way of not having a block
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return blocks.NewBlockWithCid(data, c)
}

func (s shelf) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	n, err := s.have.Size(ctx, c)
	if err != nil {
		return 0, ipld.ErrNotFound{Cid: c}
	}
	return n, nil
}

func (s shelf) Has(ctx context.Context, c cid.Cid) (bool, error) { return s.have.Has(ctx, c) }
func (s shelf) DeleteBlock(context.Context, cid.Cid) error       { return errReadOnly }
func (s shelf) Put(context.Context, blocks.Block) error          { return errReadOnly }
func (s shelf) PutMany(context.Context, []blocks.Block) error    { return errReadOnly }

func (s shelf) AllKeysChan(context.Context) (<-chan cid.Cid, error) {
	none := make(chan cid.Cid)
	close(none)
	return none, nil
}
