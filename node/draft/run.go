package draft

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/engine"
)

// chunk is how many rows a pass has at most of what a lane has not computed yet.
const chunk = 64

// Loaded is an engine of a drafter, and how it is to be used.
type Loaded struct {
	Engine  Engine
	Takes   time.Duration // per guess, as measured
	Context int           // tokens of a session, at most; 0: as many as there are cells
	Idle    time.Duration // after how long without anybody who wants guesses Run ends
}

// run is a drafter with an engine. Only Run's goroutine uses it.
type run struct {
	Loaded
	d       *Drafter
	info    engine.Info
	depth   int
	longest int // tokens of a session
	lanes   map[*Session]*lane
	free    []int // slots without a lane
	left    []int // of them, those that still hold something
	used    int   // cells
	turn    int   // of the session that comes first in the next pass
}

// lane is what the engine has computed of a session.
type lane struct {
	seq    int
	cached []int32
}

// item is a session's part of a pass.
type item struct {
	s      *Session
	lane   *lane
	round  int
	from   int     // positions of the lane that stay
	tokens []int32 // that follow them
	asks   bool    // for the token after these
	out    engine.Output
}

// Run guesses with an engine until ctx ends, or nobody has wanted guesses for a while: it
// returns nil then, and else an error of the engine, with which nothing more can be done.
// The caller closes the engine, which also ends a Run whose engine hangs. One Run may be
// under way at a time.
func (d *Drafter) Run(ctx context.Context, l Loaded) error {
	r := newRun(d, l)
	d.start(l.Takes)
	defer d.stop()
	rest := time.NewTimer(l.Idle)
	defer rest.Stop()
	for ctx.Err() == nil {
		items := r.plan()
		if len(items) > 0 {
			if err := r.pass(ctx, items); err != nil && ctx.Err() == nil {
				return err
			}
			rest.Reset(l.Idle)
			continue
		}
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-rest.C:
			return nil
		}
	}
	return nil
}

func newRun(d *Drafter, l Loaded) *run {
	r := &run{Loaded: l, d: d, info: l.Engine.Info(), lanes: map[*Session]*lane{}}
	r.depth, r.longest = min(Depth, r.info.Rollback), r.info.KVTokens
	if l.Context > 0 {
		r.longest = min(r.longest, l.Context)
	}
	for seq := range r.info.MaxSeqs {
		r.free = append(r.free, seq)
	}
	return r
}

// start notes that there is an engine.
func (d *Drafter) start(takes time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running, d.first, d.takes = true, takes, takes
	for _, s := range d.sessions {
		s.unable = false
	}
}

// stop notes that there is none any more.
func (d *Drafter) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = false
}

// plan returns what the next pass computes: of each session that wants guesses the row of
// its last guess, or a chunk of what it has to catch up with.
func (r *run) plan() (items []*item) {
	d := r.d
	d.mu.Lock()
	defer d.mu.Unlock()
	r.clear()
	rows, n := 0, len(d.sessions)
	for i := range n {
		s := d.sessions[(r.turn+i)%n]
		if !s.wants || s.unable || s.over || len(s.made) >= r.depth || s.length() == 0 || rows == r.info.MaxBatch {
			continue
		}
		if it := r.item(s, min(chunk, r.info.MaxBatch-rows)); it != nil {
			rows += len(it.tokens)
			items = append(items, it)
		}
	}
	r.turn++
	return items
}

// clear takes the lanes of sessions that have ended, and where slots or cells are short of
// those that want no guesses now. Called with Drafter.mu held.
func (r *run) clear() {
	open := make(map[*Session]bool, len(r.d.sessions))
	for _, s := range r.d.sessions {
		open[s] = true
	}
	short := len(r.free) == 0 || r.used > r.info.KVTokens/2
	for s, l := range r.lanes {
		if !open[s] || s.unable || short && !s.wants {
			delete(r.lanes, s)
			r.free, r.left = append(r.free, l.seq), append(r.left, l.seq)
			r.used -= len(l.cached)
		}
	}
}

// item is a session's part of the next pass, of so many rows at most; nil: there is no
// room for it. Called with Drafter.mu held.
func (r *run) item(s *Session, most int) *item {
	n, l := s.length(), r.lanes[s]
	if n > r.longest {
		s.unable = true
		return nil
	}
	if l == nil {
		if len(r.free) == 0 {
			return nil
		}
		l = &lane{seq: r.free[0]}
	}
	from := min(s.agrees(l.cached), n-1)
	to := min(n, from+most)
	if r.used+to-len(l.cached) > r.info.KVTokens {
		return nil
	}
	it := &item{s: s, lane: l, round: s.round, from: from, asks: to == n}
	for i := from; i < to; i++ {
		it.tokens = append(it.tokens, s.at(i))
	}
	if slices.ContainsFunc(it.tokens, func(id int32) bool { return int(id) >= r.info.Vocab }) {
		s.unable = true // padding of the large model's vocabulary
		return nil
	}
	if it.asks {
		it.out = s.output(n)
	}
	if r.lanes[s] == nil {
		r.lanes[s], r.free = l, r.free[1:]
	}
	r.used += to - len(l.cached)
	return it
}

// pass computes a pass, and adds the tokens drawn to the guesses of their sessions.
func (r *run) pass(ctx context.Context, items []*item) error {
	for _, seq := range r.left {
		if err := r.Engine.Remove(seq, 0); err != nil && !errors.Is(err, engine.ErrBatch) {
			return err
		}
	}
	r.left = nil
	b, begin, single := &engine.Batch{}, time.Now(), true
	for _, it := range items {
		if err := r.takeBack(it); err != nil {
			return err
		}
		for i := range it.tokens {
			b.Rows = append(b.Rows, engine.Row{Seq: it.lane.seq, Pos: int32(it.from + i)})
		}
		b.Tokens = append(b.Tokens, it.tokens...)
		if it.asks {
			it.out.Row = len(b.Rows) - 1
			b.Outputs = append(b.Outputs, it.out)
		}
		single = single && len(it.tokens) == 1
	}
	res, err := r.Engine.Run(ctx, b)
	switch {
	case errors.Is(err, engine.ErrBatch):
		return r.refused(ctx, items)
	case err != nil:
		return err
	}
	if single {
		r.d.took(time.Since(begin))
	}
	at := 0
	for _, it := range items {
		it.lane.cached = append(it.lane.cached, it.tokens...)
		if it.asks {
			r.d.guessed(it, res.Tokens[at].ID)
			at++
		}
	}
	return nil
}

// takeBack removes what a lane has beyond the part that stays. Where the engine cannot,
// the lane is empty, and the pass has all of it.
func (r *run) takeBack(it *item) error {
	if it.from >= len(it.lane.cached) {
		return nil
	}
	err := r.Engine.Remove(it.lane.seq, int32(it.from))
	if errors.Is(err, engine.ErrBatch) {
		it.tokens, it.from = append(it.lane.cached[:it.from:it.from], it.tokens...), 0
		err = nil
	}
	it.lane.cached = it.lane.cached[:it.from]
	return err
}

// refused handles items that the engine has refused, of which nothing stays: to find the
// one at fault, each is tried alone.
func (r *run) refused(ctx context.Context, items []*item) error {
	for _, it := range items {
		if len(items) > 1 {
			if err := r.pass(ctx, []*item{it}); err != nil {
				return err
			}
			continue
		}
		r.used -= len(it.tokens)
		r.d.mu.Lock()
		it.s.unable = true
		r.d.mu.Unlock()
	}
	return nil
}

// guessed adds a token to a session's guesses, unless the session has gone another way.
func (d *Drafter) guessed(it *item, id int32) {
	s := it.s
	d.mu.Lock()
	if s.round != it.round || s.length() != it.from+len(it.tokens) {
		d.mu.Unlock()
		return
	}
	if s.over = int(id) >= d.vocab || slices.Contains(s.stops, id); !s.over {
		s.made, s.fresh = append(s.made, id), true
	}
	news := s.fresh && s.wants
	d.mu.Unlock()
	if news {
		s.more()
	}
}
