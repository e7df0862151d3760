package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/exchange/bitswap"
)

// ErrNotFound means that no reachable peer or origin sent what was asked for.
var ErrNotFound = errors.New("no reachable peer has it")

// ErrClosed ends a fetch whose Exchange is closed.
var ErrClosed = errors.New("the exchange is closed")

// Blocks is what this node can give; any error means that the block is not here.
type Blocks = bitswap.Blocks

// Finder finds the peers that hold shards of a model. It is safe for concurrent use.
type Finder interface {
	Holders(ctx context.Context, model cid.Cid) ([]peer.AddrInfo, error)
}

// Want is what a fetch is to bring. Next lists blocks that are missing now, some
// thousand at most; none means that the fetch is complete. Put stores a block,
// which has been verified against its CID; it must not keep data. Put is called by
// several goroutines at once. An error of either ends the fetch.
type Want interface {
	Next(ctx context.Context) ([]Need, error)
	Put(ctx context.Context, c cid.Cid, data []byte) error
}

// Origin is where one of a model's files can be had outside of the network.
type Origin struct {
	Where string // an http or https URL, or a path
	File  int    // index of the file in the model
	Size  int64  // of the file, bytes

	// How a URL is reached, and http.Client.CheckRedirect; nil: Go's defaults.
	Transport *http.Transport
	Redirect  func(req *http.Request, via []*http.Request) error
}

// Options of an exchange. The zero value speaks bitswap alone and knows no
// limits.
type Options struct {
	// Leaves returns the leaves of a model whose manifest is here, or nil. If it
	// is not set, there is no bulk.
	Leaves func(model cid.Cid) Leaves
	// Up and Down are bytes per second of blocks, to and from all sources
	// together; 0: no limit.
	Up, Down float64
	// Busy reports whether sessions run here; bulk is then slower. It may be nil.
	Busy func() bool
	// Ledger is the file for what passed between this node and its peers; "": it
	// is forgotten at Close.
	Ledger string
	// Authorize is called with each request to an origin. It may be nil.
	Authorize func(*http.Request)
	Log       *slog.Logger // nil: silent
}

// Exchange sends blocks to peers, and fetches them from peers and origins. It is
// safe for concurrent use.
type Exchange struct {
	have     Blocks
	opt      Options
	ctx      context.Context // ends with Close
	stop     context.CancelFunc
	log      *slog.Logger
	slots    *uploadSlots
	ledger   *ledger
	up, down *rateLimiter
	watchers watchers
	headings allowances
	buffers  sync.Pool // *[]byte for leaves on their way out

	given, taken atomic.Uint64 // bytes of leaves sent and received in bulk
	origins      atomic.Uint64 // bytes of leaves from origins

	joining sync.Mutex              // one change of list at a time
	list    atomic.Pointer[[]*lane] // replaced, never changed

	mu      sync.Mutex
	closed  bool
	fetches map[*fetch]context.CancelCauseFunc // that run
	done    sync.WaitGroup                     // of these
}

// New starts to serve blocks over networks, whose hosts must differ; Join adds others
// later. Close must be called before the hosts are closed.
func New(have Blocks, opt Options, nets ...Net) *Exchange {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	x := &Exchange{
		have: have, opt: opt, log: opt.Log, fetches: map[*fetch]context.CancelCauseFunc{},
		ledger: openLedger(opt.Ledger, opt.Log), up: newRateLimiter(opt.Up, opt.Busy), down: newRateLimiter(opt.Down, opt.Busy),
		watchers: watchers{all: map[cid.Cid]map[*watcher]struct{}{}},
	}
	x.ctx, x.stop = context.WithCancel(context.Background())
	x.slots = &uploadSlots{balance: x.ledger.balance}
	x.list.Store(&[]*lane{})
	for _, n := range nets {
		if err := x.Join(n); err != nil {
			panic(err) // one host twice
		}
	}
	return x
}

// blame drops a peer that sent blocks by bitswap that it was not asked for.
func (x *Exchange) blame(l *lane, p peer.ID) {
	why := errBad.Error()
	if x.ctx.Err() != nil || x.ledger.Bad(p.String()) {
		return
	}
	x.ledger.blame(p.String())
	l.bitswap.Drop(p)
	x.log.Warn("a peer is dropped for "+badTime.String(), "source", p, "why", why)
	x.mu.Lock()
	defer x.mu.Unlock()
	for f := range x.fetches {
		if f.knows(p) {
			f.trouble(fmt.Sprintf("%s is dropped: %s", p, why))
		}
	}
}

// Total adds up what passed between this node and all sources in the ledger, over
// restarts. Bad and Seen are not set.
func (x *Exchange) Total() Account { return x.ledger.total() }

// Account returns what passed between this node and a peer, over restarts.
func (x *Exchange) Account(p peer.ID) Account { return x.ledger.get(p.String()) }

// Limit changes the rates of Options.Up and Options.Down, in bytes per second; 0: no
// limit.
func (x *Exchange) Limit(up, down float64) {
	x.up.set(up)
	x.down.set(down)
}

// Close ends fetches with ErrClosed, waits for them, and stops serving.
func (x *Exchange) Close() error {
	x.mu.Lock()
	x.closed = true
	for _, cancel := range x.fetches {
		cancel(ErrClosed)
	}
	x.mu.Unlock()
	x.done.Wait()
	x.joining.Lock()
	defer x.joining.Unlock()
	x.stop()
	var err error
	for _, l := range x.lanes() {
		err = errors.Join(err, x.leave(l))
	}
	x.list.Store(&[]*lane{})
	x.ledger.save()
	return err
}

// Stats are bytes of blocks since New, including those that came twice or unasked.
type Stats struct {
	Given   uint64 // to peers
	Taken   uint64 // from peers
	Origins uint64 // from origins
}

// Stats returns what has passed so far.
func (x *Exchange) Stats() Stats {
	out := Stats{Given: x.given.Load(), Taken: x.taken.Load(), Origins: x.origins.Load()}
	for _, l := range x.lanes() {
		sent, received := l.bitswap.Stats()
		out.Given += sent
		out.Taken += received
	}
	return out
}

// Progress of a fetch.
type Progress struct {
	Blocks         int64    // stored so far
	Bytes          int64    // of these
	Holders        int      // connected peers that are said to hold some of it
	Peers, Origins int      // sources that sent leaves in the last seconds, without bitswap's peers
	Rate           float64  // bytes per second, smoothed
	Trouble        []string // sources that were dropped, and why
}

// Manifest fetches a model's manifest, verified against its CID. It fails as Fetch
// does.
func (x *Exchange) Manifest(ctx context.Context, model cid.Cid) ([]byte, error) {
	w := &one{c: model}
	err := x.Fetch(ctx, model, w, nil)
	return w.data, err
}

// one is a Want of a single block.
type one struct {
	c    cid.Cid
	data []byte
}

func (w *one) Next(context.Context) ([]Need, error) {
	if w.data != nil {
		return nil, nil
	}
	return []Need{{CID: w.c, Number: -1, Heading: true}}, nil
}

func (w *one) Put(_ context.Context, _ cid.Cid, data []byte) error {
	w.data = bytes.Clone(data)
	return nil
}

// Fetch brings all that want lists from the holders of a model, and from its
// origins what they do not send fast enough. It fails with ErrNotFound when nothing
// came for a minute, with ErrClosed, with ctx's cause, or with want's error.
// progress may be nil; it is called after each block, by one goroutine at a time.
func (x *Exchange) Fetch(ctx context.Context, model cid.Cid, want Want, progress func(Progress), origins ...Origin) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	now := time.Now()
	f := &fetch{
		x: x, model: model, want: want, progress: progress, seed: maphash.MakeSeed(), window: newWindow(), lastCame: now, rated: now,
		fail: cancel, buffers: make(chan []byte, windowMost), heard: make(chan holder, maxHolders), bulk: map[peer.ID]holderState{}, relayed: map[peer.ID]*relayedPeer{},
	}
	for range windowMost {
		f.buffers <- nil
	}
	if have := x.leaves(nil, model); have != nil {
		f.total = have.LeafCount()
	}
	f.origins = len(origins)
	f.scheduler = newScheduler(f)
	f.viaBitswap = &sourceState{src: bitswapSource{}, ready: f.bitswapOnly}
	f.scheduler.addSource(f.viaBitswap)
	if err := x.begin(f, cancel); err != nil {
		return err
	}
	defer x.end(f)
	var seats []func()
	for _, o := range origins {
		src := newOrigin(f, o)
		if x.ledger.Bad(src.name()) {
			f.trouble(fmt.Sprintf("%s is not asked for a while: it sent what is not the model's", src.name()))
			continue
		}
		seats = append(seats, f.startSource(ctx, src, func() {}), src.cl.CloseIdleConnections)
	}
	f.workers.Go(func() { f.keepLooking(ctx) })
	err := f.run(ctx)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	cancel(nil)
	for _, leave := range seats {
		leave()
	}
	f.workers.Wait()
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
	x.watchers.fetchChanged(f.model)
	return nil
}

func (x *Exchange) end(f *fetch) {
	x.mu.Lock()
	delete(x.fetches, f)
	idle := len(x.fetches) == 0
	x.mu.Unlock()
	x.watchers.fetchChanged(f.model)
	if idle {
		for _, l := range x.lanes() {
			l.dialer.hangUp()
		}
	}
	x.done.Done()
}

// Gained tells the peers that fetch a model that this node has got more of it otherwise
// than by a fetch.
func (x *Exchange) Gained(model cid.Cid) { x.watchers.fetchChanged(model) }

// addHearsay tells the fetches of a model about a possible holder.
func (x *Exchange) addHearsay(model cid.Cid, p holder) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for f := range x.fetches {
		if f.model == model {
			f.addHearsay(p)
		}
	}
}

// wanted returns a bit per leaf of a model that is being fetched.
func (x *Exchange) wanted(model cid.Cid, total int) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	var bits []byte
	for f := range x.fetches {
		if f.model == model && f.total > 0 {
			if bits == nil {
				bits = make([]byte, (total+7)/8)
			}
			f.scheduler.openBits(bits)
		}
	}
	return bits
}

// holders lists the peers, connected in a network, that are said to hold some of the
// models that are being fetched.
func (x *Exchange) holders(l *lane) []peer.AddrInfo {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []peer.AddrInfo
	for f := range x.fetches {
		for _, p := range f.connectedIn(l) {
			if !slices.ContainsFunc(all, func(q peer.AddrInfo) bool { return q.ID == p.ID }) {
				all = append(all, p)
			}
		}
	}
	return all
}
