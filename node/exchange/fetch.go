package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/shoalnet/shoal/node/exchange/bitswap"
	"github.com/shoalnet/shoal/protocol"
)

const (
	windowMost       = 32               // blocks under way at once, at most
	windowLeast      = 2                // and leaves at first, and over slow links
	quick            = 5 * time.Second  // for a leaf to come: more at once
	slow             = 20 * time.Second // fewer
	sessionsPerFetch = 8                // of bitswap, a fetch
	impatient        = 3 * time.Second  // without a block, before all is asked for again; doubles
	lookNow          = time.Second      // how often holders are looked for: while there are none,
	lookAgain        = 5 * time.Second  // while nothing comes,
	lookMore         = 30 * time.Second // and while blocks come
	lookTime         = 10 * time.Second // for a search
	dialTime         = 5 * time.Second
	giveUp           = 60 * time.Second // without a block
)

// fetch is one under way.
type fetch struct {
	x          *Exchange
	model      cid.Cid
	want       Want
	progress   func(Progress)
	seed       maphash.Seed
	window     *window
	total      int // leaves of the model; 0: not known, and nothing comes in bulk
	scheduler  *scheduler
	viaBitswap *sourceState
	fail       context.CancelCauseFunc
	buffers    chan []byte // for leaves on their way in
	heard      chan peer.AddrInfo
	workers    sync.WaitGroup
	newHolder  atomic.Bool // a holder that the sessions do not know
	meeting    atomic.Int32

	mu          sync.Mutex
	looked      bool
	holders     []peer.AddrInfo
	bulk        map[peer.ID]holderState
	roundBegan  time.Time     // the round
	askedOthers time.Time     // were asked for what some did not send
	lastCame    time.Time     // something came, or the fetch began
	longestGap  time.Duration // that something took to come, lately
	storing     int           // blocks that have come and are being kept

	reporting sync.Mutex
	sum       Progress
	rated     time.Time // sum.Rate was
	since     int64     // bytes, then
}

// bulkState says how a holder is asked for leaves.
type holderState int

const (
	joining holderState = iota // it is not known yet
	inBulk
	byBitswap
)

// maxHolders are known of a model, if more are told of by peers.
const maxHolders = 64

// errAgain ends a round that is to be repeated.
var errAgain = errors.New("exchange: ask again")

// run asks round by round. Patience that was in vain doubles.
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

// round asks in bitswap sessions of its own until all is there, or nothing has
// come for long. What a peer sent to a connection that broke, bitswap asks for
// again only after most of a minute, new sessions at once.
func (f *fetch) round(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.mark(&f.roundBegan)
	go f.stallTimer(ctx, cancel, patience)
	for {
		need, err := f.want.Next(ctx)
		blocks, leaves := f.split(need)
		if err == nil && len(blocks) > 0 {
			err = f.getBlocks(ctx, f.shuffle(blocks))
		} else if err == nil && len(leaves) > 0 {
			f.scheduler.add(leaves)
			err = f.fetchByBitswap(ctx)
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			if errors.Is(err, errAgain) {
				f.awaitTakenBack(need)
			}
		}
		if err != nil || len(need) == 0 {
			return err
		}
	}
}

// split tells leaves that any source can bring from blocks for bitswap.
func (f *fetch) split(need []Need) (blocks []cid.Cid, leaves []Need) {
	for _, n := range need {
		if n.CID.Prefix().Codec != cid.Raw || n.Number < 0 || n.Number >= f.total || n.Size <= 0 || n.Size > protocol.LeafSize {
			blocks = append(blocks, n.CID)
		} else {
			leaves = append(leaves, n)
		}
	}
	return blocks, leaves
}

func (f *fetch) mark(t *time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*t = time.Now()
}

// ask gets a block.
type ask func(ctx context.Context, c cid.Cid) ([]byte, error)

// sessions begins bitswap sessions, which share the blocks. A single one comes
// to prefer the holders that happened to be the first.
func (f *fetch) sessions(ctx context.Context) (get ask, end func()) {
	// They outlive what is asked in them, and so take it back.
	ctx, end = context.WithCancel(context.WithoutCancel(ctx))
	var all [sessionsPerFetch]bitswap.Session
	for i := range all {
		all[i] = f.x.bitswap.Session(ctx)
	}
	for _, p := range f.connected() { // bitswap gives up one that failed for a moment
		f.x.bitswap.Connected(p.ID)
	}
	return func(ctx context.Context, c cid.Cid) ([]byte, error) {
		return all[f.hash(c)%sessionsPerFetch].GetBlock(ctx, c)
	}, end
}

// watch ends a round in which nothing comes.
func (f *fetch) stallTimer(ctx context.Context, end context.CancelCauseFunc, patience time.Duration) {
	tick := time.NewTicker(impatient / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f.stalled(patience); err != nil {
			end(err)
			return
		}
	}
}

// stalled says how to go on when nothing comes: with others (nil), anew, or not
// at all. That is after four times as long as anything took to come lately, but
// not without patience.
func (f *fetch) stalled(patience time.Duration) error {
	idle, here, longest := f.idle()
	if idle > giveUp {
		f.reporting.Lock()
		why := strings.Join(append([]string{""}, f.sum.Trouble...), "; ")
		f.reporting.Unlock()
		return fmt.Errorf("%w: nothing came for %s from %d peers%s", ErrNotFound, giveUp, len(f.connected()), why)
	}
	if f.newHolder.Load() && here > lookNow { // it may be the only one now
		return errAgain
	}
	long := max(patience, min(4*longest, giveUp/2))
	stalled := here > long
	if !stalled { // a single peer may have
		long = max(long, bitswap.AnswerTime)
	}
	if f.x.bitswap.Shun(long, f.connected(), f.x.holders()) {
		f.mark(&f.askedOthers)
		return nil
	}
	if !stalled {
		return nil
	}
	f.x.bitswap.Forgive()
	return errAgain
}

// shuffle puts blocks in an order of this fetch's own, the same each time. So
// holders of different parts are all asked at once, and nodes that fetch the
// same have something to give each other.
func (f *fetch) shuffle(need []cid.Cid) []cid.Cid {
	slices.SortFunc(need, func(a, b cid.Cid) int { return cmp.Compare(f.hash(a), f.hash(b)) })
	return need
}

func (f *fetch) hash(c cid.Cid) uint64 { return maphash.String(f.seed, c.KeyString()) }

// settle waits until bitswap has taken back what was asked for. What it
// believes to have asked a peer for, it does not ask for again.
func (f *fetch) awaitTakenBack(asked []Need) {
	set := cid.NewSet()
	for _, n := range asked {
		set.Add(n.CID)
	}
	for range 100 { // another fetch may want the same
		if !slices.ContainsFunc(f.x.bitswap.Wanted(), set.Has) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// all gets what is needed, or a part of it if a holder joins: it gets its due in
// new sessions only.
func (f *fetch) getBlocks(ctx context.Context, need []cid.Cid) error {
	f.newHolder.Store(false)
	ask, end := f.sessions(ctx)
	defer end()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(windowMost)
	for _, c := range need {
		if f.newHolder.Load() || !f.window.start(gctx, c) {
			break
		}
		g.Go(func() error {
			b, err := f.get(gctx, ask, c)
			if err != nil {
				return err
			}
			return f.put(ctx, c, -1, b)
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// get asks for a block in bitswap; pace.start has said that it may.
func (f *fetch) get(ctx context.Context, ask ask, c cid.Cid) ([]byte, error) {
	done := f.window.asking(c)
	b, err := ask(ctx, c)
	done(err == nil)
	return b, err
}

// lend has bitswap take its part of the leaves, until all are there or a holder
// joins. Its part is what peers have that do not speak /shoal/leaves/1.
func (f *fetch) fetchByBitswap(ctx context.Context) error {
	f.newHolder.Store(false)
	ask, end := f.sessions(ctx)
	defer end()
	g, gctx := errgroup.WithContext(ctx)
	for f.window.start(gctx, cid.Undef) {
		req := f.scheduler.next(gctx, f.viaBitswap, f.newHolder.Load)
		if req == nil {
			f.window.putBack()
			break
		}
		g.Go(func() error {
			defer f.scheduler.finish(req)
			need := req.leaves[0].need
			b, err := f.get(req.ctx, ask, need.CID)
			switch {
			case err != nil && context.Cause(req.ctx) == errOvertaken:
				return nil
			case err != nil:
				return err
			case !f.scheduler.received(req, 0):
				return nil
			}
			defer f.scheduler.stored()
			return f.put(ctx, need.CID, need.Number, b)
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// plainPeers is bitswap as a source of leaves.
type bitswapSource struct{}

func (bitswapSource) name() string      { return "bitswap" }
func (bitswapSource) mayAsk(Need) bool  { return true }
func (bitswapSource) batch(float64) int { return 1 }
func (bitswapSource) workers() int      { return 1 }
func (bitswapSource) get(context.Context, []Need, func(int, []byte) error) error {
	return errors.New("bitswap is asked by lend")
}

// put keeps a block that has been verified, and tells of it.
func (f *fetch) put(ctx context.Context, c cid.Cid, number int, data []byte) error {
	defer f.storingBlock()()
	if err := f.want.Put(ctx, c, data); err != nil {
		return fmt.Errorf("keeping block %s: %w", c, err)
	}
	if err := f.x.bitswap.Notify(ctx, c, data); err != nil {
		f.x.log.Debug("telling of a block", "error", err)
	}
	if number >= 0 {
		f.x.watchers.leafCame(f.model, number)
	}
	f.report(int64(len(data)))
	return nil
}

// buffer gives room for a leaf, release takes it back. There is room for window
// of them.
func (f *fetch) buffer(ctx context.Context) ([]byte, error) {
	select {
	case b := <-f.buffers:
		if b == nil {
			b = make([]byte, protocol.LeafSize)
		}
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fetch) release(b []byte) { f.buffers <- b }

// keep notes that a block has come, and that it is being kept until done is
// called: a slow disk is no reason to ask again.
func (f *fetch) storingBlock() (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storing == 0 {
		f.longestGap = max(f.longestGap*9/10, min(time.Since(f.lastCame), time.Since(f.askedOthers)))
	}
	f.storing++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.storing--
		f.lastCame = time.Now()
	}
}

// idle is how long nothing has come, in all and in this round, and how long it
// took at most until something came.
func (f *fetch) idle() (all, here, longest time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storing == 0 {
		all = time.Since(f.lastCame)
		here = min(all, time.Since(f.roundBegan), time.Since(f.askedOthers))
	}
	return all, here, f.longestGap
}

func (f *fetch) report(bytes int64) {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	f.sum.Blocks++
	f.sum.Bytes += bytes
	now := time.Now()
	if took := now.Sub(f.rated).Seconds(); took >= 0.5 {
		r := float64(f.sum.Bytes-f.since) / took
		if f.sum.Rate == 0 {
			f.sum.Rate = r
		}
		f.sum.Rate += (r - f.sum.Rate) / 3
		f.rated, f.since = now, f.sum.Bytes
		f.sum.Peers, f.sum.Origins = f.scheduler.active(now)
	}
	if f.progress != nil {
		f.sum.Holders = len(f.connected())
		p := f.sum
		p.Trouble = slices.Clone(p.Trouble)
		f.progress(p)
	}
}

// trouble is told with the progress.
func (f *fetch) trouble(what string) {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	if len(f.sum.Trouble) < 16 && !slices.Contains(f.sum.Trouble, what) {
		f.sum.Trouble = append(f.sum.Trouble, what)
	}
}

func (f *fetch) blocks() int64 {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	return f.sum.Blocks
}

// keepLooking finds holders, also those that appear during the fetch, and those
// that peers tell of.
func (f *fetch) keepLooking(ctx context.Context) {
	tick := time.NewTicker(lookNow)
	defer tick.Stop()
	for {
		f.look(ctx)
		for looked := time.Now(); time.Since(looked) < f.searchPause(); {
			select {
			case <-ctx.Done():
				return
			case p := <-f.heard:
				f.workers.Go(func() {
					dctx, cancel := context.WithTimeout(ctx, dialTime)
					defer cancel()
					f.meet(ctx, dctx, p)
				})
			case <-tick.C:
			}
		}
	}
}

// hear takes a word on where a holder is.
func (f *fetch) addHearsay(p peer.AddrInfo) {
	f.mu.Lock()
	known := p.ID == "" || p.ID == f.x.host.ID() || among(f.holders, p.ID) || len(f.holders) >= maxHolders
	f.mu.Unlock()
	if known {
		return
	}
	select {
	case f.heard <- p:
	default: // it is told again
	}
}

// meet connects to a holder, unless it has lied.
func (f *fetch) meet(ctx, dctx context.Context, p peer.AddrInfo) {
	if p.ID == f.x.host.ID() || f.x.ledger.Bad(p.ID.String()) {
		return
	}
	f.meeting.Add(1)
	defer f.meeting.Add(-1)
	isNew := f.note(p)
	if err := f.x.host.Connect(dctx, p); err != nil {
		return
	}
	if isNew {
		f.newHolder.Store(true)
	}
	if f.total == 0 || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	_, known := f.bulk[p.ID]
	if !known {
		f.bulk[p.ID] = joining
	}
	f.mu.Unlock()
	if !known {
		f.workers.Go(func() { f.join(ctx, p.ID) })
	}
}

func (f *fetch) knows(p peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return among(f.holders, p)
}

// setBulk says whether a holder gives in bulk.
func (f *fetch) setBulk(p peer.ID, does bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if does {
		f.bulk[p] = inBulk
		return
	}
	if f.bulk[p] != byBitswap {
		f.bulk[p] = byBitswap
		f.newHolder.Store(true)
	}
}

func (f *fetch) forgetBulk(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.bulk, p)
}

// plain says that some holder can be asked by bitswap alone.
func (f *fetch) bitswapOnly() bool {
	return slices.ContainsFunc(f.connected(), func(p peer.AddrInfo) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.bulk[p.ID] == byBitswap
	})
}

// company says that peers may be about to be met who have the model.
func (f *fetch) mayMeetPeers() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.looked || len(f.holders) > 0 || len(f.x.host.Network().Peers()) > 0
}

// met says that an origin may be asked: the peers that can be met were met, or
// that took too long.
func (f *fetch) met() bool {
	took := time.Since(f.scheduler.began)
	if took > graceMost || !f.mayMeetPeers() {
		return true
	}
	return took > graceTime && f.meeting.Load() == 0 && !f.joins()
}

// joins says that some holder has been met and not answered yet.
func (f *fetch) joins() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, state := range f.bulk {
		if state == joining {
			return true
		}
	}
	return false
}

// rest is how long not to look for holders.
func (f *fetch) searchPause() time.Duration {
	if len(f.connected()) == 0 {
		return lookNow
	}
	if idle, _, _ := f.idle(); idle > lookAgain {
		return lookAgain
	}
	return lookMore
}

// look finds and connects to holders. Those known before stay: the search may
// have failed, and they are as good as they were.
func (f *fetch) look(ctx context.Context) {
	sctx, cancel := context.WithTimeout(ctx, lookTime)
	found, err := f.x.find.Holders(sctx, f.model)
	cancel()
	if err != nil {
		f.x.log.Debug("looking for holders", "model", f.model, "error", err)
	}
	dctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range found {
		wg.Go(func() { f.meet(ctx, dctx, p) })
	}
	wg.Wait()
	f.mu.Lock()
	f.looked = true
	f.mu.Unlock()
}

// note adds a holder, and says whether it was not known.
func (f *fetch) note(p peer.AddrInfo) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if among(f.holders, p.ID) {
		return false
	}
	f.holders = append(f.holders, p)
	return true
}

// connected are the holders that can be asked: those that are shunned are not.
func (f *fetch) connected() []peer.AddrInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []peer.AddrInfo
	for _, p := range f.holders {
		if f.x.host.Network().Connectedness(p.ID) == network.Connected && !f.x.bitswap.Shuns(p.ID) {
			out = append(out, p)
		}
	}
	return out
}

// pace says how many leaves are under way at once: more and more while they
// come quickly. On a slow link many would all take long, and each that takes a
// minute is one that does not come.
type window struct {
	free  chan struct{}
	mu    sync.Mutex
	size  int
	asked map[cid.Cid]time.Time // first, of those that have not come
}

func newWindow() *window {
	p := &window{free: make(chan struct{}, windowMost), size: windowLeast, asked: map[cid.Cid]time.Time{}}
	for range windowLeast {
		p.free <- struct{}{}
	}
	return p
}

// start waits until a block may be asked for. Nodes always may, they are small.
func (p *window) start(ctx context.Context, c cid.Cid) bool {
	if isNode(c) {
		return ctx.Err() == nil
	}
	select {
	case <-p.free:
		return true
	case <-ctx.Done():
		return false
	}
}

func isNode(c cid.Cid) bool { return c.Defined() && c.Prefix().Codec != cid.Raw }

// back gives back what start allowed and nobody needed.
func (p *window) putBack() { p.free <- struct{}{} }

// begin notes that a block is being asked for.
func (p *window) asking(c cid.Cid) (done func(came bool)) {
	if isNode(c) {
		return func(bool) {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.asked[c]; !again {
		p.asked[c] = time.Now()
	}
	return func(came bool) { p.done(c, came) }
}

func (p *window) done(c cid.Cid, came bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	took, free := time.Since(p.asked[c]), 1
	if came {
		delete(p.asked, c)
	}
	if came && took < quick && p.size < windowMost {
		free = 2
	} else if took > slow && p.size > windowLeast {
		free = 0
	}
	p.size += free - 1
	for range free {
		p.free <- struct{}{}
	}
}

func among(list []peer.AddrInfo, p peer.ID) bool {
	return slices.ContainsFunc(list, func(q peer.AddrInfo) bool { return q.ID == p })
}
