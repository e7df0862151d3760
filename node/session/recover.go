package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
)

// breakdown is what is wrong with the route.
type breakdown struct {
	why      error // nil: nothing
	lost     []*stage
	suspect  *stage // the links to it are broken; it may be lost
	broken   bool   // only the streams to the lost stages ended: they may accept the session again
	optional bool   // the lost stages still work, and stay if there are no others
	hangs    bool   // the lost stage finishes no pass, or far more slowly than predicted
}

// deadline decides when a token is overdue, from what was predicted and what was
// measured.
type deadline struct {
	prefill   time.Duration // predicted time to the first token
	step      time.Duration // between two tokens: predicted, then measured
	predicted time.Duration // between two tokens
	roundTrip time.Duration // to the farthest stage and back
	waitBegan time.Time     // when the last token came, or the wait for the next began
	steady    bool          // the last wait ended with a token
	due       time.Duration // after waitBegan the token is overdue
	rows      int           // to compute for the token
}

const (
	lookEvery = 50 * time.Millisecond
	slack     = 150 * time.Millisecond // that a busy machine may add to any time
	atLeast   = 700 * time.Millisecond // without progress, before a stage that answers is suspected
)

func newDeadline(req *Request) deadline {
	return deadline{prefill: req.Prefill, step: req.Step, predicted: req.Step}
}

// opened takes the time of opening all stages, which is one or two round trips.
func (d *deadline) opened(took time.Duration) { d.roundTrip = took }

// expect begins the wait for a token that is predicted to take a time, for which
// the stages compute some rows.
func (d *deadline) expect(now time.Time, predicted time.Duration, rows int) {
	d.waitBegan, d.due, d.steady, d.rows = now, 4*(predicted+d.roundTrip)+slack, false, rows
}

// token ends the wait for a token and begins the next. How long a token took whose row
// was sent ahead says nothing about one whose row is not.
func (d *deadline) token(now time.Time, ahead bool) {
	if d.steady && !ahead {
		d.step = max(d.step-d.step/16, now.Sub(d.waitBegan)) // the longest recent time
	}
	d.waitBegan, d.due, d.steady, d.rows = now, 4*d.step+slack, true, 1
}

// silentAfter is how long a live stage may send nothing: two Pings and a round
// trip.
func (d *deadline) silentAfter() time.Duration { return 2*beat + d.roundTrip + slack }

// stuckAfter is how long a stage that has work may finish no pass.
func (d *deadline) stuckAfter() time.Duration { return max(atLeast, 4*d.due) }

// inspect finds out what is wrong if a token is overdue: a stage that is silent, one
// that makes no progress, or a link that does not deliver.
func (s *session) inspect(now time.Time) (b breakdown) {
	if now.Sub(s.deadline.waitBegan) < s.deadline.due {
		return b
	}
	for i, g := range s.stages {
		if quiet := now.Sub(g.heard); quiet > s.deadline.silentAfter() {
			b.lost = append(b.lost, g)
			b.why = g.fail(i, protocol.Errorf(protocol.Code_CODE_TIMEOUT, "it has been silent for %s", quiet.Round(time.Millisecond)))
		}
	}
	if b.why != nil || now.Sub(s.deadline.waitBegan) < s.deadline.stuckAfter() {
		return b
	}
	for i, g := range s.stages {
		if !g.busy && g.waiting == 0 {
			continue
		}
		if now.Sub(g.progressed) >= s.deadline.stuckAfter() {
			b.lost, b.optional, b.hangs = []*stage{g}, !g.busy, true // a stage that has work and does none may wait for its successor
			b.why = g.fail(i, protocol.Errorf(protocol.Code_CODE_TIMEOUT, "it hangs"))
		}
		if wait := now.Sub(s.deadline.waitBegan); wait > s.deadline.ceiling(s.failedRepairs) {
			i, g = s.blamed()
			b.lost, b.hangs = []*stage{g}, false
			b.why = g.fail(i, protocol.Errorf(protocol.Code_CODE_TIMEOUT, "it has been computing for %s, by its own word, and no token came", wait.Round(time.Second)))
		}
		return b // some stage works: it is slow, not lost
	}
	due := len(s.ids)            // a stage may have more, of guesses
	for i, g := range s.stages { // no stage has work: one did not receive it
		if g.length < due || i > 0 && g.line < s.stages[i-1].line {
			b.suspect = g
			b.why = g.fail(i, protocol.Errorf(protocol.Code_CODE_TIMEOUT, "nothing reaches it"))
			return b
		}
	}
	b.why = protocol.Errorf(protocol.Code_CODE_TIMEOUT, "no progress")
	return b
}

// blamed is the first stage that claims to work. After a repair that brought no
// token it is the next one, for which the first may be waiting.
func (s *session) blamed() (pos int, g *stage) {
	var at []int
	for i, g := range s.stages {
		if g.busy || g.waiting > 0 {
			at = append(at, i)
		}
	}
	pos = at[s.failedRepairs%len(at)]
	return pos, s.stages[pos]
}

const (
	recoverTime = 45 * time.Second       // for all attempts at a repair
	maxFailed   = 12                     // repairs in a row that bring no token
	avoidTime   = 30 * time.Second       // for which a peer that failed is the last choice
	othersTime  = 500 * time.Millisecond // to find other peers, before those are asked again
	firstPause  = 50 * time.Millisecond
	maxPause    = 2 * time.Second
)

// recover repairs the route: it replaces the stages that were lost, and no others,
// and continues the session in a new epoch.
//
//	halt     all stages that are left stop, and report how far they are
//	replan   stages for the blocks that were lost are found and opened
//	resume   each stage is told where to continue, and from where to send its
//	         successor again what it has computed before
//	feed     the first stage gets the tokens that it is missing
//
// Tokens on their way arrive before a stage's Halted, so after the halt the client
// has all tokens that were drawn.
func (s *session) recover(ctx context.Context, b breakdown) error {
	rec := Recovery{Why: b.why.Error(), Err: b.why, Token: s.out.Tokens, Begin: s.deadline.waitBegan}
	var said *protocol.Error
	if errors.As(b.why, &said) {
		rec.Code = said.Code
	}
	err := s.repair(ctx, b, &rec)
	if ctx.Err() == nil && !s.ended { // otherwise nobody waits for the session
		rec.Stall, rec.Failed = time.Since(rec.Begin), err != nil
		s.out.Recoveries = append(s.out.Recoveries, rec)
	}
	if err == nil {
		err = s.notify(rec, s.stages)
	}
	return err
}

// repair calls tryRepair until it succeeds, or recoverTime is over.
func (s *session) repair(ctx context.Context, b breakdown, rec *Recovery) error {
	end := time.Now().Add(recoverTime)
	retry := backoff.Backoff{First: firstPause, Most: maxPause}
	if s.failedRepairs++; s.failedRepairs > maxFailed {
		return fmt.Errorf("%w; %d repairs of the route brought nothing", b.why, maxFailed)
	}
	begun := *rec
	begun.Lost = hopsOf(b.lost)
	if err := s.notify(begun, nil); err != nil {
		return err
	}
	for {
		err := s.tryRepair(ctx, &b, rec)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var stop *halt
		if errors.As(err, &stop) {
			return stop.err
		}
		if time.Now().After(end) || !transient(err) {
			return fmt.Errorf("%w; and no way on was found: %w", b.why, err)
		}
		if err := retry.Wait(ctx); err != nil {
			return err
		}
	}
}

// notify calls Request.Repair.
func (s *session) notify(rec Recovery, ring []*stage) error {
	if s.req.Repair == nil {
		return nil
	}
	return s.req.Repair(rec, hopsOf(ring))
}

// hopsOf lists the hops of stages.
func hopsOf(stages []*stage) (hops []Hop) {
	for _, g := range stages {
		hops = append(hops, g.hop)
	}
	return hops
}

// halt is an error that ends the session, not only the attempt to repair it.
type halt struct{ err error }

func (h *halt) Error() string { return h.err.Error() }

// transient reports whether another attempt may succeed.
func transient(err error) bool {
	var e *protocol.Error
	if !errors.As(err, &e) {
		return true // no route, for now
	}
	return e.Code != protocol.Code_CODE_BAD_REQUEST && e.Code != protocol.Code_CODE_TOO_LONG && e.Code != protocol.Code_CODE_FORBIDDEN
}

// tryRepair makes one attempt to repair the route.
func (s *session) tryRepair(ctx context.Context, b *breakdown, rec *Recovery) error {
	s.epoch++
	s.since = s.epoch
	if err := s.haltAll(ctx, b); err != nil {
		return err
	}
	if len(b.lost) == 0 && b.suspect != nil {
		b.lost, b.optional = []*stage{b.suspect}, true
	}
	if s.failedRepairs > 1 && b.optional && len(s.stages) > 1 { // replacing this stage did not help: its predecessor may be at fault
		i := s.position(b.lost[0])
		b.lost = []*stage{s.stages[(max(i, 0)+len(s.stages)-s.failedRepairs%2)%len(s.stages)]}
	}
	old := s.stages
	ring, fresh := s.reopenLost(b)
	err := errors.New("not tried")
	if b.broken {
		b.broken = false
		err = s.openFresh(ctx, ring, fresh, s.deadline.silentAfter())
	}
	if err != nil {
		for _, g := range b.lost {
			s.avoid[g.hop.Peer] = time.Now()
		}
		if ring, fresh, err = s.replaceLost(ctx, b); err == nil {
			err = s.openFresh(ctx, ring, fresh, openTime)
		}
	}
	if err != nil && b.optional { // the old stages stay
		ring, fresh, err = old, nil, nil
	}
	if err != nil {
		return err
	}
	s.setRing(ring)
	for _, g := range old {
		if !slices.Contains(ring, g) {
			rec.Lost = append(rec.Lost, g.hop)
			go g.leave(nil)
		}
	}
	rec.Replayed += s.resume(fresh)
	return nil
}

// setRing sets the stages of the route.
func (s *session) setRing(ring []*stage) {
	s.mu.Lock()
	s.stages = ring
	s.mu.Unlock()
}

// haltAll stops the stages that are left. A stage that does not answer in time is
// lost, too.
func (s *session) haltAll(ctx context.Context, b *breakdown) error {
	for _, g := range s.stages {
		g.halted = false
		if !slices.Contains(b.lost, g) || b.optional {
			stop := &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: s.epoch}}}
			go func() { _ = g.send(stop) }() // that the stream has ended shows when it is read
		}
	}
	wait := time.NewTimer(s.deadline.silentAfter())
	defer wait.Stop()
	for {
		missing := slices.DeleteFunc(slices.Clone(s.stages), func(g *stage) bool {
			return g.halted || slices.Contains(b.lost, g) && !b.optional
		})
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
			if b.optional {
				b.lost, b.optional = nil, false
			}
			b.lost = append(b.lost, missing...)
			return nil
		case ev := <-s.events:
			more, err := s.handleEvent(ev)
			if err != nil {
				return &halt{err}
			}
			for _, g := range more.lost {
				if more.optional {
					continue
				}
				if b.optional {
					b.lost, b.optional = nil, false
				}
				if !slices.Contains(b.lost, g) {
					b.lost = append(b.lost, g)
				}
			}
		}
	}
}

// reopenLost is the ring with new stages on the same peers in place of those that
// were lost.
func (s *session) reopenLost(b *breakdown) (ring, fresh []*stage) {
	for _, g := range s.stages {
		if slices.Contains(b.lost, g) {
			g = &stage{index: g.index, hop: g.hop}
			fresh = append(fresh, g)
		}
		ring = append(ring, g)
	}
	return ring, fresh
}

// replaceLost finds new stages for each run of lost ones. It returns the whole ring,
// and the new stages in it.
func (s *session) replaceLost(ctx context.Context, b *breakdown) (ring, fresh []*stage, err error) {
	n := len(s.stages)
	for i := 0; i < n; i++ {
		if !slices.Contains(b.lost, s.stages[i]) {
			ring = append(ring, s.stages[i])
			continue
		}
		first := i
		for i+1 < n && slices.Contains(b.lost, s.stages[i+1]) {
			i++
		}
		lost := s.stages[first : i+1]
		hops, err := s.replan(ctx, Gap{
			Span:   protocol.Span{From: lost[0].hop.Span.From, To: lost[len(lost)-1].hop.Span.To},
			Before: s.neighbour(first - 1), After: s.neighbour(i + 1), Tokens: s.maxTokens(), Rows: len(s.ids), Route: hopsOf(s.stages),
		}, b.optional)
		if err != nil {
			return nil, nil, err
		}
		for _, h := range hops {
			g := s.newStage(h)
			for _, l := range lost { // a peer that is back is the same stage
				if l.hop.Peer == h.Peer && l.hop.Span == h.Span {
					g.index = l.index
				}
			}
			ring, fresh = append(ring, g), append(fresh, g)
		}
	}
	return ring, fresh, nil
}

// neighbour is the peer at a position of the ring, which wraps around.
func (s *session) neighbour(pos int) peer.ID {
	n := len(s.stages)
	return s.stages[(pos+n)%n].hop.Peer
}

// replan asks for peers other than those that failed. If there are none, and strict
// is false, it asks for any: a peer that was lost may be back.
func (s *session) replan(ctx context.Context, gap Gap, strict bool) ([]Hop, error) {
	if gap.Avoid = s.avoided(time.Now()); len(gap.Avoid) == 0 {
		return s.req.Replan(ctx, gap)
	}
	first, cancel := context.WithTimeout(ctx, othersTime+4*s.deadline.roundTrip)
	hops, err := s.req.Replan(first, gap)
	cancel()
	if err == nil || strict || ctx.Err() != nil {
		return hops, err
	}
	gap.Avoid = nil
	return s.req.Replan(ctx, gap)
}

// fitFirst removes from an Open the tokens of the answer for which a first frame has
// no room, and returns them.
func fitFirst(o *protocol.Open) (owed []int32) {
	all := o.Sampling.Sampled
	if proto.Size(o) <= protocol.MaxFirst-frameHead {
		return nil
	}
	o.Sampling.Sampled = nil
	n := min(len(all), max(0, protocol.MaxFirst-frameHead-proto.Size(o))/mostOfToken)
	o.Sampling.Sampled = all[:n]
	return all[n:]
}

const (
	frameHead   = 32 // bytes of a frame around its Open, with the answer's length
	mostOfToken = 5  // bytes of a token's ID, at most
)

// openFresh opens the new stages of a ring, which then wait for Resume.
func (s *session) openFresh(ctx context.Context, stages, fresh []*stage, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errors.New("no answer in time"))
	defer cancel()
	whole := &ring{id: s.id, epoch: s.epoch, stages: stages, tagKey: s.tagKey}
	at := func(i int) int { return slices.Index(stages, fresh[i]) }
	err := s.openAll(ctx, cancel, fresh, nil, func(i int) *protocol.Open {
		o := s.openFrame(whole, at(i), s.chain)
		o.Wait, o.Again = true, true
		if s.sampled(o, s.ids); o.Sampling != nil {
			fresh[i].sampledOwed = fitFirst(o)
		}
		return o
	})
	if err != nil {
		for _, g := range fresh {
			go g.leave(nil)
		}
		var where *StageError
		var said *protocol.Error
		if full := errors.As(err, &said) && said.Code == protocol.Code_CODE_BUSY; errors.As(err, &where) && !full {
			s.avoid[where.Hop.Peer] = time.Now()
		}
		return err
	}
	for _, g := range fresh {
		g.length, g.replays = g.cached, true
		g.heard = time.Now()
		go s.read(g)
	}
	return nil
}

// sampled puts the answer so far into the Open of a ring's last stage.
func (s *session) sampled(o *protocol.Open, ids []int32) {
	if o.Sampling != nil {
		o.Sampling = proto.CloneOf(s.req.Sampling)
		o.Sampling.Sampled = ids[len(s.req.Prompt):]
	}
}

// resume tells every stage where to continue, feeds the first, and returns how many
// positions are computed again, added up over the stages.
func (s *session) resume(fresh []*stage) (replayed int) {
	n, now := len(s.stages), time.Now()
	have := len(s.ids) - 1 // the last token's position is computed again, which yields the next token
	for _, g := range s.stages {
		if !slices.Contains(fresh, g) {
			have = min(have, g.length)
		}
	}
	s.tagKey = s.newTagKey() // stages that have left the first or last place learn nothing more
	at := make([]int, n)
	for i, g := range s.stages {
		at[i] = g.backTo(min(have, g.length))
	}
	for i := n - 1; i > 0; i-- { // a stage that cannot send its rows again computes them again
		if at[i-1] > at[i] && !s.stages[i-1].replays {
			at[i-1] = s.stages[i-1].backTo(at[i])
		}
	}
	for i, g := range s.stages {
		r := &protocol.Resume{
			Epoch: s.epoch, At: uint32(at[i]), ForwardFrom: uint32(at[i]), Next: nextHop(s.stages, i), Stages: uint32(n),
			Prev: []byte(s.stages[(i+n-1)%n].hop.Peer), Sampled: g.sampledOwed,
		}
		if i+1 < n {
			r.ForwardFrom = uint32(at[i+1])
		}
		if i == 0 || i+1 == n {
			r.TagKey = s.tagKey
		}
		replayed += len(s.ids) - at[i] - 1
		g.progressed = now
		epoch, from, ids, stages := s.epoch, at[0], s.ids, s.stages
		go func() {
			if g.send(&protocol.Frame{Kind: &protocol.Frame_Resume{Resume: r}}) == nil && i == 0 {
				s.feed(stages, epoch, ids, from)
			}
		}()
	}
	rows := len(s.ids) - slices.Min(at)
	s.deadline.expect(now, s.recomputeTime(rows), rows)
	return replayed
}

// recomputeTime predicts how long it takes to compute positions again.
func (s *session) recomputeTime(rows int) time.Duration {
	per := s.req.Prefill / time.Duration(max(1, len(s.req.Prompt)))
	return per*time.Duration(rows) + s.deadline.step
}
