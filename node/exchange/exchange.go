package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	boxo "github.com/ipfs/boxo/exchange"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/shoalnet/shoal/protocol"
)

const (
	window    = 32               // blocks under way at once
	perPeer   = 16 << 20         // bytes bitswap may have outstanding to a peer; 1 MiB, the default, costs up to three quarters of the rate
	lookAgain = 5 * time.Second  // how often holders are looked for during a fetch
	giveUp    = 60 * time.Second // without a block
	impatient = 3 * time.Second  // without a block, before it is asked for again; doubles
)

// ErrNotFound says that nobody reachable gave the block asked for.
var ErrNotFound = errors.New("no reachable peer has it")

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
	host   host.Host
	find   Finder
	bs     *bitswap.Bitswap
	log    *slog.Logger
	cancel context.CancelFunc

	mu      sync.Mutex
	holders map[cid.Cid][]peer.AddrInfo // by model, of the fetches under way
}

// New starts to give blocks over a host, and is ready to get some.
func New(h host.Host, have Blocks, find Finder, log *slog.Logger) *Exchange {
	ctx, cancel := context.WithCancel(context.Background())
	x := &Exchange{host: h, find: find, log: log, cancel: cancel, holders: map[cid.Cid][]peer.AddrInfo{}}
	x.bs = bitswap.New(ctx, bsnet.NewFromIpfsHost(h, bsnet.Prefix(protocol.DHTPrefix)), finder{x}, shelf{have},
		bitswap.MaxOutstandingBytesPerPeer(perPeer),
		bitswap.WithoutDuplicatedBlockStats(),
	)
	return x
}

// Close stops giving and getting.
func (x *Exchange) Close() error {
	x.cancel()
	return x.bs.Close()
}

// Stats are bytes given to and taken from peers since the start.
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
	Holders int // peers that are asked
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
	f := &fetch{x: x, model: model, want: want, progress: progress, last: time.Now()}
	defer f.forget()
	f.look(ctx)
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		f.keepLooking(ctx, cancel)
	}()
	err := f.run(ctx)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	cancel(nil)
	<-looking
	return err
}

type fetch struct {
	x        *Exchange
	model    cid.Cid
	want     Want
	progress func(Progress)
	asked    atomic.Int64

	mu      sync.Mutex
	sum     Progress
	last    time.Time     // of the last block
	longest time.Duration // between two blocks
}

// errAgain ends a round that is to be repeated.
var errAgain = errors.New("exchange: ask again")

func (f *fetch) run(ctx context.Context) error {
	for patience := impatient; ; {
		before := f.blocks()
		err := f.round(ctx, patience)
		if !errors.Is(err, errAgain) {
			return err
		}
		f.x.log.Debug("nothing comes; asking again", "model", f.model, "after", patience)
		if patience *= 2; f.blocks() > before {
			patience = impatient
		}
	}
}

// round asks in a bitswap session of its own until all is there, or nothing
// has come for long. What a peer sent to a connection that broke, bitswap asks
// for again only after most of a minute, a new session at once.
func (f *fetch) round(ctx context.Context, patience time.Duration) error {
	rctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.NewTicker(impatient / 4)
	defer watch.Stop()
	began := time.Now()
	go func() {
		for {
			select {
			case <-rctx.Done():
				return
			case <-watch.C:
			}
			f.mu.Lock()
			idle, limit := min(time.Since(f.last), time.Since(began)), max(patience, 4*f.longest)
			f.mu.Unlock()
			if idle > limit {
				cancel(errAgain)
				return
			}
		}
	}()
	session := f.x.bs.NewSession(rctx)
	for {
		need, err := f.want.Next(rctx)
		if err == nil && len(need) > 0 {
			err = f.all(rctx, session, need)
		}
		if cause := context.Cause(rctx); cause != nil && err != nil {
			return cause
		}
		if err != nil || len(need) == 0 {
			return err
		}
	}
}

func (f *fetch) all(ctx context.Context, session boxo.Fetcher, need []cid.Cid) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(window)
	for _, c := range need {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return f.get(gctx, session, c) })
	}
	return errors.Join(g.Wait(), ctx.Err())
}

func (f *fetch) blocks() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sum.Blocks
}

func (f *fetch) get(ctx context.Context, session boxo.Fetcher, c cid.Cid) error {
	b, err := session.GetBlock(ctx, c)
	if err != nil {
		return err
	}
	if err := f.want.Put(ctx, c, b.RawData()); err != nil {
		return fmt.Errorf("keeping block %s: %w", c, err)
	}
	if err := f.x.bs.NotifyNewBlocks(ctx, b); err != nil && ctx.Err() == nil {
		f.x.log.Debug("announcing a block", "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.sum.Blocks > 0 {
		f.longest = max(f.longest, now.Sub(f.last))
	}
	f.last = now
	f.sum.Blocks++
	f.sum.Bytes += int64(len(b.RawData()))
	f.sum.Holders = int(f.asked.Load())
	if f.progress != nil {
		f.progress(f.sum)
	}
	return nil
}

// keepLooking finds holders that appear during the fetch, and gives up when
// nothing comes any more.
func (f *fetch) keepLooking(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.mu.Lock()
		idle := time.Since(f.last)
		f.mu.Unlock()
		if idle > giveUp {
			cancel(fmt.Errorf("%w: nothing came for %s from %d peers", ErrNotFound, giveUp, f.asked.Load()))
			return
		}
		if idle > lookAgain {
			f.look(ctx)
		}
	}
}

// look finds and connects to holders.
func (f *fetch) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	found, err := f.x.find.Holders(ctx, f.model)
	if err != nil {
		f.x.log.Debug("looking for holders", "model", f.model, "error", err)
	}
	var wg sync.WaitGroup
	var reached atomic.Int64
	for _, p := range found {
		if p.ID == f.x.host.ID() {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := f.x.host.Connect(ctx, p); err == nil {
				reached.Add(1)
			}
		}()
	}
	wg.Wait()
	f.asked.Store(reached.Load())
	f.x.mu.Lock()
	f.x.holders[f.model] = found
	f.x.mu.Unlock()
}

func (f *fetch) forget() {
	f.x.mu.Lock()
	delete(f.x.holders, f.model)
	f.x.mu.Unlock()
}

// finder answers bitswap's search for providers with the holders of the
// models being fetched, whatever block it asks for.
type finder struct{ x *Exchange }

func (f finder) FindProvidersAsync(ctx context.Context, _ cid.Cid, count int) <-chan peer.AddrInfo {
	f.x.mu.Lock()
	seen := map[peer.ID]bool{f.x.host.ID(): true}
	var all []peer.AddrInfo
	for _, list := range f.x.holders {
		for _, p := range list {
			if !seen[p.ID] && (count <= 0 || len(all) < count) {
				seen[p.ID] = true
				all = append(all, p)
			}
		}
	}
	f.x.mu.Unlock()
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
