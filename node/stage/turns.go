package stage

import (
	"cmp"
	"slices"
	"time"
)

// Whose turn it is. Sessions are of classes (Grant), and the classes with work share the
// engine's time by their weights: start-time fair queueing, of which the flows are classes
// and the packets are passes.
//
// Each class has a clock that advances by the time of its passes divided by its weight.
// The class whose clock is furthest behind leads the next pass, and others ride along as
// far as their clocks stay behind the leader's: they are charged only for what their rows
// cost beyond the leader's, since the weights are read once for all. A class that had no
// work begins again where the pass in service began, so that it saves up nothing, and
// what is being computed when it comes counts against whoever has that computed.
//
// A class leads before one of a higher weight only if the whole of its pass is due. So
// the first token of a client of weight 1 waits for those of weight 0.2 no more than a
// fifth of its own time, as long as that is at least five of their passes; and these are
// kept short (yieldPass) for that.

const (
	// yieldPass bounds the prefill in a pass that only classes of less than the full
	// weight have work for, though not below a chunk: whoever has more weight may come.
	yieldPass = 50 * time.Millisecond
	// unknownRow is what a row costs while that is not known. Only its relation to other
	// rows matters.
	unknownRow = time.Millisecond
)

// class is the clients that share a grant. Guarded by Stage.mu.
type class struct {
	grant Grant
	clock float64   // seconds of passes, by weight
	busy  bool      // it had work at the last look
	free  time.Time // when its cap allows the next pass
}

// classOf returns the class of a grant. Called with mu held.
func (s *Stage) classOf(g Grant) *class {
	c := s.classes[g.Class]
	if c == nil {
		c = &class{}
		s.classes[g.Class] = c
	}
	c.grant = g
	return c
}

// forgetClasses forgets the classes without a session, unless their cap holds. Called
// with mu held.
func (s *Stage) forgetClasses(now time.Time) {
	used := map[string]bool{}
	for _, sess := range s.sessions {
		used[sess.grant.Class] = true
	}
	for name, c := range s.classes {
		if !used[name] && !c.free.After(now) {
			delete(s.classes, name)
		}
	}
}

// backlog is the ready steps of one class.
type backlog struct {
	*class
	decodes, prefills []*session // in turn; guesses come last among decodes
	guesses           []*session // of which those are, until they are sorted
	joined            float64    // seconds of rows taken into the pass of another
}

// ready returns the classes with work that their cap allows now, by their clocks, and the
// sessions that have ended. Called with mu held.
func (s *Stage) ready(now time.Time) (list []*backlog, dead []*session) {
	of := map[*class]*backlog{}
	var next time.Time
	for _, sess := range s.sessions {
		switch {
		case sess.ended:
			dead = append(dead, sess)
			continue
		case !sess.ready():
			continue
		}
		c := s.classOf(sess.grant)
		if c.free.After(now) {
			if next.IsZero() || c.free.Before(next) {
				next = c.free
			}
			continue
		}
		w := of[c]
		if w == nil {
			w = &backlog{class: c}
			of[c] = w
			list = append(list, w)
		}
		switch {
		case s.comesLater(sess.pending[0], now):
			w.guesses = append(w.guesses, sess)
		case sess.pending[0].rows == 1:
			w.decodes = append(w.decodes, sess)
		default:
			w.prefills = append(w.prefills, sess)
		}
	}
	for _, c := range s.classes {
		if !c.busy && of[c] != nil {
			c.clock = max(c.clock, s.clock)
		}
		c.busy = of[c] != nil
	}
	for _, w := range list {
		s.takeTurns(w.decodes)
		s.takeTurns(w.guesses)
		s.takeTurns(w.prefills)
		w.decodes = append(w.decodes, w.guesses...)
	}
	slices.SortFunc(list, func(a, b *backlog) int {
		return cmp.Or(cmp.Compare(a.clock, b.clock), cmp.Compare(b.grant.Share, a.grant.Share), cmp.Compare(a.grant.Class, b.grant.Class))
	})
	if !next.IsZero() {
		s.pokeAt(next.Sub(now))
	}
	return list, dead
}

// pokeAt wakes the loop after a time. Called with mu held.
func (s *Stage) pokeAt(after time.Duration) {
	if s.alarm == nil {
		s.alarm = time.AfterFunc(after, s.poke)
		return
	}
	s.alarm.Reset(after)
}

// lead moves the class that leads the next pass to the front, and returns how many rows
// that may have at most. Called with mu held.
func (s *Stage) lead(list []*backlog) (most int) {
	most = s.cfg.MaxBatch
	for i, w := range list {
		due := w.clock + s.passOf(w).Seconds()/w.grant.Share
		if slices.ContainsFunc(list, func(h *backlog) bool { return h.grant.Share > w.grant.Share && due > h.clock }) {
			continue
		}
		copy(list[1:i+1], list[:i])
		list[0] = w
		break
	}
	s.clock = list[0].clock
	full := func(w *backlog) bool { return w.grant.Own || w.grant.Share >= 1 }
	if s.cfg.Row > 0 && !slices.ContainsFunc(list, full) {
		most = min(most, len(list[0].decodes)+max(mixedRows, int(yieldPass/s.cfg.Row)))
	}
	return most
}

// passOf estimates a pass that a class leads. Called with mu held.
func (s *Stage) passOf(w *backlog) time.Duration {
	rows := len(w.decodes)
	if len(w.prefills) > 0 {
		rows += w.prefills[0].pending[0].rows
	}
	return s.estimate(rows)
}

// estimate returns what a pass of so many rows costs.
func (s *Stage) estimate(rows int) time.Duration {
	base, _ := s.stats.pace()
	return base + time.Duration(rows)*s.row()
}

// row returns what a row costs in a full pass.
func (s *Stage) row() time.Duration { return cmp.Or(s.cfg.Row, unknownRow) }

// rowsOf returns what rows cost that join a pass, in seconds.
func (s *Stage) rowsOf(rows int) float64 {
	cost := s.row()
	if _, row := s.stats.pace(); rows == 1 && row > 0 {
		cost = min(cost, row)
	}
	return (time.Duration(rows) * cost).Seconds()
}

// joins reports whether a step of rows may join a pass that another class leads, which
// takes until so many seconds of the leader's clock; if so, it is counted. Called with mu
// held.
func (s *Stage) joins(w *backlog, rows int, until float64) bool {
	cost := s.rowsOf(rows)
	if w.clock+(w.joined+cost)/w.grant.Share > until {
		return false
	}
	w.joined += cost
	return true
}

// charge advances the clocks of those whose rows a pass had: the leader's, which is first
// in the batch, by what the others do not pay for. Called with mu held.
func (s *Stage) charge(batch []work, begin time.Time, took time.Duration) {
	rows, all := map[string]int{}, 0
	cost := map[string]float64{}
	for _, w := range batch {
		rows[w.sess.grant.Class] += w.step.rows
		cost[w.sess.grant.Class] += s.rowsOf(w.step.rows)
		all += w.step.rows
	}
	leader := batch[0].sess.grant.Class
	left := took.Seconds()
	pay := func(name string, seconds float64) {
		c := s.classes[name]
		if c == nil { // its last session has ended meanwhile
			return
		}
		c.clock += seconds / c.grant.Share
		if c.grant.Cap > 0 {
			if c.free.Before(begin) {
				c.free = begin
			}
			c.free = c.free.Add(time.Duration(seconds / c.grant.Cap * float64(time.Second)))
		}
	}
	for name, n := range rows {
		if name == leader {
			continue
		}
		share := min(cost[name], took.Seconds()*float64(n)/float64(all))
		pay(name, share)
		left -= share
	}
	pay(leader, left)
}
