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
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/shoalnet/shoal/node/exchange/bitswap"
	"github.com/shoalnet/shoal/protocol"
)

const (
	windowMost       = 32               // blocks asked for at once, at most
	windowLeast      = 2                // leaves asked for at once, at first and over slow links
	sessionsPerFetch = 8                // of bitswap
	impatient        = 3 * time.Second  // without a block, before a round is repeated; doubles
	giveUp           = 60 * time.Second // without a block, before the fetch fails
)

// fetch is one call of Exchange.Fetch.
type fetch struct {
	x          *Exchange
	model      cid.Cid
	want       Want
	progress   func(Progress) // may be nil
	seed       maphash.Seed   // of this fetch's order
	window     *window
	total      int // leaves of the model; 0: not known, and nothing comes in bulk
	origins    int // that the fetch began with
	scheduler  *scheduler
	viaBitswap *sourceState
	fail       context.CancelCauseFunc
	buffers    chan []byte // for leaves on their way in; nil ones are not allocated yet
	heard      chan holder // holders that peers named
	workers    sync.WaitGroup
	newHolder  atomic.Bool  // a holder has joined that the bitswap sessions do not know
	meeting    atomic.Int32 // holders to which a connection is being made

	mu          sync.Mutex
	looked      bool // for holders, at least once
	holders     []holder
	bulk        map[peer.ID]holderState
	relayed     map[peer.ID]*relayedPeer // holders to which only a relay leads
	overRelays  int64                    // bytes that these sent
	headingLeft int64                    // bytes of the header's leaves that are missing
	weights     bool                     // something is wanted that no relay carries
	roundBegan  time.Time
	askedOthers time.Time     // when other peers were asked for what some did not send
	lastCame    time.Time     // when something last came, or the fetch began
	longestGap  time.Duration // recent, between two blocks
	storing     int           // blocks that have come and are not on disk yet

	reporting sync.Mutex
	sum       Progress
	rated     time.Time // when sum.Rate was computed
	since     int64     // sum.Bytes at that time
}

// holderState is how a holder is asked for leaves.
type holderState int

const (
	joining holderState = iota // it has not answered yet
	inBulk
	byBitswap
)

// maxHolders bounds the holders that are known of a model because peers named
// them.
const maxHolders = 64

// errAgain ends a round that is to be repeated.
var errAgain = errors.New("exchange: ask again")

// run asks round by round. After a round in which nothing came, the next waits
// twice as long.
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

// round asks in bitswap sessions of its own until all has come, or nothing has
// come for patience. Blocks that a peer sent to a connection that broke are
// asked for again at once in new sessions; bitswap itself would wait most of a
// minute.
func (f *fetch) round(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.mark(&f.roundBegan)
	go f.stallTimer(ctx, cancel, patience)
	for {
		need, err := f.want.Next(ctx)
		blocks, leaves := f.split(need)
		f.noteNeed(need)
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

// split separates leaves, which any source can bring, from blocks that only
// bitswap can.
func (f *fetch) split(need []Need) (blocks, leaves []Need) {
	for _, n := range need {
		if n.CID.Prefix().Codec != cid.Raw || n.Number < 0 || n.Number >= f.total || n.Size <= 0 || n.Size > protocol.LeafSize {
			blocks = append(blocks, n)
		} else {
			leaves = append(leaves, n)
		}
	}
	return blocks, leaves
}

// mark sets a time of the fetch to now.
func (f *fetch) mark(t *time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*t = time.Now()
}

// ask gets a block.
type ask func(ctx context.Context, n Need) ([]byte, error)

// sessions begins several bitswap sessions, which share the blocks. A single one
// comes to prefer the holders that happened to be the first.
func (f *fetch) sessions(ctx context.Context) (get ask, end func()) {
	// They outlive what is asked in them, and so take it back.
	ctx, end = context.WithCancel(context.WithoutCancel(ctx))
	var in []*[sessionsPerFetch]bitswap.Session // network by network
	for _, l := range f.x.lanes() {
		holders := f.connectedIn(l)
		if len(holders) == 0 && len(f.x.lanes()) > 1 {
			continue // a holder that joins later begins new sessions
		}
		var all [sessionsPerFetch]bitswap.Session
		for i := range all {
			all[i] = l.bitswap.Session(ctx)
		}
		for _, p := range holders { // bitswap gives up one that failed for a moment
			l.bitswap.Connected(p.ID)
		}
		in = append(in, &all)
	}
	get = func(ctx context.Context, n Need) ([]byte, error) {
		return firstOf(ctx, in, func(ctx context.Context, all *[sessionsPerFetch]bitswap.Session) ([]byte, error) {
			return all[f.hash(n.CID)%sessionsPerFetch].GetBlock(ctx, n.CID)
		})
	}
	return get, end
}

// firstOf asks in all networks at once, and returns the first answer. What only bitswap
// brings is small, so that little is lost if it comes twice.
func firstOf[T any](ctx context.Context, in []T, ask func(context.Context, T) ([]byte, error)) ([]byte, error) {
	if len(in) == 1 {
		return ask(ctx, in[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		data []byte
		err  error
	}
	answers := make(chan answer, len(in))
	for _, t := range in {
		go func() {
			data, err := ask(ctx, t)
			answers <- answer{data, err}
		}()
	}
	for range in {
		if a := <-answers; a.err == nil {
			return a.data, nil
		}
	}
	<-ctx.Done() // as bitswap does where there is nobody to ask
	return nil, ctx.Err()
}

// stallTimer ends a round in which nothing comes.
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

// stalled decides what to do when nothing has come for four times the longest
// recent gap (at least patience): nil means to continue with other peers,
// errAgain to repeat the round, ErrNotFound to give up.
func (f *fetch) stalled(patience time.Duration) error {
	idle, here, longest := f.idle()
	if idle > giveUp {
		return fmt.Errorf("%w: nothing came for %s from %d peers%s", ErrNotFound, giveUp, len(f.connected()), f.troubles())
	}
	if idle > impatient && f.forsaken() {
		return fmt.Errorf("%w, and no origin that can be asked has the rest%s", ErrNotFound, f.troubles())
	}
	if why := f.relaysFail(); idle > relayWait && why != "" {
		return fmt.Errorf("%w: %s", ErrNotFound, why)
	}
	if f.newHolder.Load() && here > lookNow { // it may be the only one now
		return errAgain
	}
	long := max(patience, min(4*longest, giveUp/2))
	stalled := here > long
	if !stalled { // a single peer may have
		long = max(long, bitswap.AnswerTime)
	}
	shunned := false
	for _, l := range f.x.lanes() {
		shunned = l.bitswap.Shun(long, f.connectedIn(l), f.x.holders(l)) || shunned
	}
	if shunned {
		f.mark(&f.askedOthers)
		return nil
	}
	if !stalled {
		return nil
	}
	for _, l := range f.x.lanes() {
		l.bitswap.Forgive()
	}
	return errAgain
}

// forsaken reports whether all that is missing was to come from origins that are
// given up, and peers were looked for and none found. Waiting would not help then.
func (f *fetch) forsaken() bool {
	if f.origins == 0 || f.meeting.Load() > 0 || len(f.heard) > 0 || len(f.connected()) > 0 {
		return false
	}
	f.mu.Lock()
	looked := f.looked
	f.mu.Unlock()
	return looked && f.scheduler.sourceless()
}

// troubles lists what went wrong with sources, for an error.
func (f *fetch) troubles() string {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	all := append([]string{""}, f.sum.Trouble...)
	if why := f.noWeights(); why != "" {
		all = append(all, why)
	}
	return strings.Join(all, "; ")
}

// shuffle puts blocks into this fetch's random order, the same each time. So
// holders of different parts are all asked at once, and nodes that fetch the
// same have something to give each other.
func (f *fetch) shuffle(need []Need) []Need {
	slices.SortFunc(need, func(a, b Need) int { return cmp.Compare(f.hash(a.CID), f.hash(b.CID)) })
	return need
}

func (f *fetch) hash(c cid.Cid) uint64 { return maphash.String(f.seed, c.KeyString()) }

// awaitTakenBack waits until bitswap has taken back what was asked for. It does
// not ask a peer again for what it believes to have asked for already.
func (f *fetch) awaitTakenBack(asked []Need) {
	set := cid.NewSet()
	for _, n := range asked {
		set.Add(n.CID)
	}
	for range 100 { // another fetch may want the same
		if !slices.ContainsFunc(f.x.lanes(), func(l *lane) bool { return slices.ContainsFunc(l.bitswap.Wanted(), set.Has) }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// getBlocks gets blocks by bitswap, or over relays. It returns early, without an error, when a
// holder joins: only new sessions use it fully.
func (f *fetch) getBlocks(ctx context.Context, need []Need) error {
	f.newHolder.Store(false)
	byBitswap, end := f.sessions(ctx)
	defer end()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(windowMost)
	for _, n := range need {
		if f.newHolder.Load() || !f.window.start(gctx, n.CID) {
			break
		}
		ways := []ask{byBitswap}
		if n.Heading {
			ways = append(ways, f.byRelay)
		}
		g.Go(func() error {
			b, err := f.get(gctx, func(ctx context.Context, n Need) ([]byte, error) {
				return firstOf(ctx, ways, func(ctx context.Context, by ask) ([]byte, error) { return by(ctx, n) })
			}, n)
			if err != nil {
				return err
			}
			return f.put(ctx, n.CID, -1, b)
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// get asks for a block; window.start has allowed it.
func (f *fetch) get(ctx context.Context, ask ask, n Need) ([]byte, error) {
	done := f.window.asking(n.CID)
	b, err := ask(ctx, n)
	done(err == nil)
	return b, err
}

// fetchByBitswap has bitswap bring leaves until all have come or a holder joins.
// It brings what peers have that do not speak /shoal/leaves/1.
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
			b, err := f.get(req.ctx, ask, need)
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

// put stores a block that has been verified, and announces it to peers.
func (f *fetch) put(ctx context.Context, c cid.Cid, number int, data []byte) error {
	defer f.storingBlock()()
	if err := f.want.Put(ctx, c, data); err != nil {
		return fmt.Errorf("keeping block %s: %w", c, err)
	}
	for _, l := range f.x.lanes() {
		if l.May != nil && !l.May(f.model) {
			continue
		}
		if err := l.bitswap.Notify(ctx, c, data); err != nil {
			f.x.log.Debug("telling of a block", "error", err)
		}
	}
	if number >= 0 {
		f.x.watchers.leafCame(f.model, number)
	}
	f.report(int64(len(data)))
	return nil
}

// buffer returns room for a leaf, which release takes back. It waits while
// windowMost buffers are in use.
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

// storingBlock notes that a block has come and is being stored until done is
// called. Meanwhile nothing counts as stalled: a slow disk is no reason to ask
// again.
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

// idle returns how long nothing has come, in all and in this round, and the
// longest recent gap.
func (f *fetch) idle() (all, here, longest time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storing == 0 {
		all = time.Since(f.lastCame)
		here = min(all, time.Since(f.roundBegan), time.Since(f.askedOthers))
	}
	return all, here, f.longestGap
}

// report counts bytes that were stored and calls progress.
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

// trouble adds a line to what progress reports.
func (f *fetch) trouble(what string) {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	if len(f.sum.Trouble) < 16 && !slices.Contains(f.sum.Trouble, what) {
		f.sum.Trouble = append(f.sum.Trouble, what)
	}
}

// blocks returns the number of blocks stored so far.
func (f *fetch) blocks() int64 {
	f.reporting.Lock()
	defer f.reporting.Unlock()
	return f.sum.Blocks
}
