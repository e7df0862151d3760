package session

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// What a session does when no token comes although all stages claim to work. Such a
// claim costs a stage nothing, so it ends no wait: past a deadline a second route is
// opened, with a session of its own, and the route that brings the token first is
// kept. The first route is not given up before: a slow machine may be honest, and
// the second route slower still.

const (
	firstPatience = 1500 * time.Millisecond // with the first token, at least: weights may be cold
	nextPatience  = 2 * time.Second         // with others, at least

	// Patience with the first token, at most, whatever was predicted: in all, and
	// in addition per row to compute.
	mostPatience, rowPatience = 5 * time.Second, 100 * time.Millisecond

	// Without a second route, a session waits this long, in all and in addition per
	// row, for a stage that claims to compute. It only ends waits that would not end.
	ceiling, rowCeiling = 2 * time.Minute, time.Second

	seenFactor = 8 // predicted times that a token may take, whatever was measured
)

// patience is how long a session waits for a token before it seeks a second route:
// four times what was predicted or measured. What was measured is capped, or a stage
// could take longer and longer.
func (d *deadline) patience() time.Duration {
	if !d.steady {
		return min(max(d.due, firstPatience), mostPatience+time.Duration(d.rows)*rowPatience)
	}
	return max(nextPatience, min(d.due, seenFactor*d.predicted))
}

// ceiling is how long a session waits for a token at all. Each repair that brought
// no token halves it; otherwise a dozen would take half an hour.
func (d *deadline) ceiling(failedRepairs int) time.Duration {
	return max((ceiling+time.Duration(d.rows)*rowCeiling)>>min(failedRepairs, 4), 4*d.due)
}

// errTooLong means that the answer so far does not fit the Open of a second route.
var errTooLong = errors.New("the answer is too long to go on elsewhere while the first route lives")

// second is a second route.
type second struct {
	ring
	suspect *stage // of the first route, which the second avoids
	cancel  context.CancelFunc
	ids     []int32
	plan    *Plan
	since   time.Time // when its stages began to compute; zero: not yet
}

// prepared is a second route that is open, or why there is none.
type prepared struct {
	x     *second
	err   error
	again time.Time // if there is none: when to seek another
}

// errNotSooner means that waiting is better than any second route.
var errNotSooner = errors.New("no other route would give the token sooner")

// hedge seeks a second route if a token is overdue, and gives up one that is overdue
// itself. A stage that finishes no pass is replaced only if there is no second route
// and another peer can take its place. Otherwise the session waits: the stage may
// be slow.
func (s *session) hedge(ctx context.Context, now time.Time, b breakdown) breakdown {
	x := s.second
	switch {
	case s.req.Second == nil:
		return b
	case x != nil && !x.since.IsZero() && now.Sub(x.since) > max(4*x.plan.Prefill, firstPatience):
		for _, g := range x.stages {
			s.avoid[g.hop.Peer] = now
		}
		s.dropSecond()
		s.nextSecond = now.Add(now.Sub(s.deadline.waitBegan)) // otherwise one route after another would compute for nothing
	case x != nil || now.Before(s.nextSecond):
	case b.hangs && s.noSecond:
		if s.hasReplacement(ctx, b) {
			return b
		}
		s.nextSecond = now.Add(now.Sub(s.deadline.waitBegan))
	case b.hangs:
		s.seekSecond(ctx, b.lost[0], 4)
	case now.Sub(s.deadline.waitBegan) >= s.deadline.patience():
		s.seekSecond(ctx, s.suspected(), 1)
	}
	return breakdown{}
}

// hasReplacement reports whether other peers can serve the blocks of a lost stage.
func (s *session) hasReplacement(ctx context.Context, b breakdown) bool {
	i := s.position(b.lost[0])
	gap := Gap{Span: b.lost[0].hop.Span, Before: s.neighbour(i - 1), After: s.neighbour(i + 1), Tokens: s.maxTokens(), Rows: len(s.ids), Route: hopsOf(s.stages)}
	s.avoid[b.lost[0].hop.Peer] = time.Now()
	_, err := s.replan(ctx, gap, true)
	return err == nil
}

// seekSecond finds a second route without a stage's peer, and opens it if it is
// predicted to bring the token sooner than waiting. How long the wait would be is
// not known. It is taken to be the time waited so far, multiplied by times.
func (s *session) seekSecond(ctx context.Context, suspect *stage, times time.Duration) {
	x := &second{ring: ring{epoch: 1, tagKey: s.newTagKey()}, suspect: suspect, ids: s.ids}
	if _, err := rand.Read(x.id[:]); err != nil {
		return
	}
	gap := Gap{Span: s.fullSpan(), Tokens: s.maxTokens(), Rows: len(s.ids), Route: hopsOf(s.stages),
		Avoid: append(s.avoided(time.Now()), suspect.hop.Peer)}
	s.second, s.seconds = x, s.seconds+1
	ctx, x.cancel = context.WithCancel(ctx)
	last, trip, chain := s.deadline.waitBegan, s.deadline.roundTrip, s.chain
	go func() {
		p := prepared{x: x, again: time.Now().Add(time.Since(last))}
		if x.plan, p.err = s.req.Second(ctx, gap); p.err == nil {
			if due := last.Add((x.plan.Prefill + trip) / times); !time.Now().Before(due) {
				p.err = s.openBeside(ctx, x, chain)
			} else {
				p.err, p.again = errNotSooner, due
			}
		}
		select {
		case s.prepared <- p:
		case <-s.over:
			x.leave()
		}
	}()
}

// suspected is the stage that seems to keep the session waiting: the first that
// reports work, or is missing positions. If a second route without it was sought
// before, it is the next stage.
func (s *session) suspected() *stage {
	i, line := 0, uint32(0)
	for j, g := range s.stages {
		if g.busy || g.waiting > 0 || g.length < len(s.ids) || g.line < line {
			i = j
			break
		}
		line = g.line
	}
	return s.stages[(i+s.seconds)%len(s.stages)]
}

// fullSpan is the span of the whole route.
func (s *session) fullSpan() protocol.Span {
	return protocol.Span{From: s.stages[0].hop.Span.From, To: s.stages[len(s.stages)-1].hop.Span.To}
}

// openBeside opens the stages of a second route.
func (s *session) openBeside(ctx context.Context, x *second, chain []uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, errors.New("no answer in time"))
	defer cancel()
	for i, h := range x.plan.Route {
		x.stages = append(x.stages, &stage{index: uint32(i), hop: h})
	}
	open := func(i int) *protocol.Open {
		o := s.openFrame(&x.ring, i, chain)
		s.sampled(o, x.ids)
		return o
	}
	if last := open(len(x.stages) - 1); len(fitFirst(last)) > 0 { // a second route gets no Resume, which could bring the rest
		return errTooLong
	}
	return s.openAll(ctx, cancel, x.stages, nil, open)
}

// startSecond makes a second route that is open compute.
func (s *session) startSecond(p prepared) {
	if p.x != s.second { // it was dropped meanwhile
		p.x.leave()
		return
	}
	if p.err != nil {
		var at *StageError
		if errors.As(p.err, &at) {
			s.avoid[at.Hop.Peer] = time.Now()
		}
		s.second, s.nextSecond, s.noSecond = nil, p.again, p.err != errNotSooner
		p.x.leave()
		return
	}
	p.x.since = time.Now()
	s.assignRing(&p.x.ring, p.x.ids, nil)
	s.mu.Lock()
	s.beside = p.x.stages
	s.mu.Unlock()
}

// dropSecond gives up the second route, if there is one.
func (s *session) dropSecond() {
	x := s.second
	if x == nil {
		return
	}
	s.second = nil
	x.cancel()
	if x.since.IsZero() {
		return // startSecond ends it when it is prepared
	}
	s.mu.Lock()
	s.beside = nil
	s.mu.Unlock()
	x.leave()
}

// leave ends all stages of a second route.
func (x *second) leave() {
	x.cancel()
	for _, g := range x.stages {
		go g.leave(nil)
	}
}

// handleSecondEvent handles a frame of a stage of the second route. Frames of stages
// that belong to no route any more are ignored.
func (s *session) handleSecondEvent(ev event) error {
	x := s.second
	if x == nil || x.since.IsZero() || !slices.Contains(x.stages, ev.g) {
		return nil
	}
	bad := func() error {
		s.avoid[ev.g.hop.Peer] = time.Now()
		s.dropSecond()
		return nil
	}
	if ev.err != nil {
		return bad()
	}
	if ev.moved != nil {
		return nil
	}
	now := time.Now()
	ev.g.heard = now
	switch k := ev.f.Kind.(type) {
	case *protocol.Frame_Pong:
		ev.g.pong(k.Pong, now)
		return nil
	case *protocol.Frame_Token:
		if ev.g != x.stages[len(x.stages)-1] || int(k.Token.Index) != s.out.Tokens || !s.drawable(k.Token.Id) {
			return bad()
		}
		why := x.suspect.fail(s.position(x.suspect), protocol.Errorf(protocol.Code_CODE_TIMEOUT, "no token came for %s, and another route had one sooner", now.Sub(s.deadline.waitBegan).Round(time.Millisecond)))
		if err := s.moveToSecond(breakdown{why: why, lost: []*stage{x.suspect}}); err != nil {
			return err
		}
		_, err := s.token(ev.g, len(s.stages)-1, k.Token, now)
		return err
	}
	return bad()
}

// switchOver continues on the second route when the first breaks. It returns false
// if no second route computes; one that is being prepared is dropped.
func (s *session) switchOver(b breakdown) (over bool, err error) {
	x := s.second
	if x == nil || x.since.IsZero() {
		s.dropSecond()
		return false, nil
	}
	for _, g := range b.lost {
		s.avoid[g.hop.Peer] = time.Now()
	}
	since, plan, rows := x.since, x.plan, len(x.ids)
	if err := s.moveToSecond(b); err != nil {
		return false, err
	}
	s.deadline.expect(since, plan.Prefill, rows)
	return true, nil
}

// moveToSecond continues the session on the second route.
func (s *session) moveToSecond(b breakdown) error {
	x, old := s.second, s.stages
	rec := Recovery{Why: b.why.Error(), Err: b.why, Token: s.out.Tokens, Begin: s.deadline.waitBegan, Lost: hopsOf(b.lost),
		Replayed: len(x.ids) - 1}
	var said *protocol.Error
	if errors.As(b.why, &said) {
		rec.Code = said.Code
	}
	if err := s.notify(rec, nil); err != nil {
		return err
	}
	s.mu.Lock()
	s.ring, s.beside, s.nextIndex = x.ring, nil, uint32(len(x.stages))
	s.mu.Unlock()
	s.second = nil
	s.deadline.step, s.deadline.predicted, s.deadline.steady = x.plan.Step, x.plan.Step, false // what was measured was the other route's
	for _, g := range old {
		go g.leave(nil)
	}
	rec.Stall = time.Since(rec.Begin)
	s.out.Recoveries = append(s.out.Recoveries, rec)
	return s.notify(rec, s.stages)
}

// avoided lists the peers that failed in the last avoidTime.
func (s *session) avoided(now time.Time) (list []peer.ID) {
	for p, since := range s.avoid {
		if now.Sub(since) > avoidTime {
			delete(s.avoid, p)
			continue
		}
		list = append(list, p)
	}
	return list
}
