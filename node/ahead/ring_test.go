package ahead_test

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/ahead"
)

// ring is a simulated ring of stages in virtual time, single-threaded and the same on every
// run. It models what node/stage does with rows: at most one row of a session per pass,
// true rows and old ones before guesses, stale rows dropped where a newer line has been
// seen, and wrong ones by the last stage before it computes them. Sessions run the real
// Runner. All times are milliseconds.
type ring struct {
	setting
	rng    *rand.Rand
	stages []*simStage
	runs   []*simSession
	events events
	seq    int
	now    float64
	trip   float64 // moving mean of all sessions
	cap    int     // rows of a pass
	output window  // final tokens
	waited float64 // the longest that a true row has waited for a link, less what was on its way
}

// setting is what a ring is made of.
type setting struct {
	stages int
	rtt    float64
	pass   float64 // of one row
	more   float64 // of each further row, as a share of pass
	wire   float64 // serialization of a row on a link
	jitter float64 // of pass, plus or minus
	seed   uint64
}

func (s setting) ideal() float64 {
	n := float64(s.stages)
	return n*s.rtt/2 + n*s.pass + (n-1)*s.wire
}

type simStage struct {
	index  int
	queue  []*simRow
	pass   []*simRow // in work
	link   float64   // when the link to the next stage is free
	busy   window
	share  float64 // sessions per pass, moving mean
	mean   float64 // time of a pass, moving mean
	perRow float64 // of its rows
	newest map[*simSession]int
	passes int
}

type simRow struct {
	of    *simSession
	line  int
	index int // of its input among the final tokens
	token int32
	guess bool
	sent  float64

	price, row, busy, floor float64
}

// simSession is an answer that the last stage is sure to write.
type simSession struct {
	ring   *ring
	cfg    ahead.Config
	text   simText
	start  float64
	repeat bool // begins again when done

	runner *ahead.Runner
	line   int
	index  int // of the next row that stage 0 sends
	dead   int // the line that the last stage has found wrong
	tokens int // final ones, over all repetitions
	at     int // of the answer
	done   float64
	last   float64
	gaps   []float64 // between final tokens
	total  ahead.Counts
	hints  *drafter
	seen   []int // by stage: the pass for which it was looked at
}

// simText is a prompt, what the client expects, and the answer.
type simText struct{ prompt, expected, answer []int32 }

// window measures a rate over about the last second.
type window struct {
	from, sum, rate float64
}

func (w *window) add(now, x float64) {
	w.turn(now)
	w.sum += x
}

func (w *window) turn(now float64) float64 {
	if d := now - w.from; d >= 1000 {
		w.rate, w.from, w.sum = w.sum/d, now, 0
	}
	return w.rate
}

type event struct {
	at  float64
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newRing(s setting) *ring {
	r := &ring{setting: s, rng: rand.New(rand.NewPCG(s.seed, 1)), trip: s.ideal(), cap: 1}
	for i := range s.stages {
		r.stages = append(r.stages, &simStage{index: i, newest: map[*simSession]int{}, mean: s.pass, perRow: s.pass, share: 1})
	}
	return r
}

func (r *ring) after(d float64, do func()) {
	r.seq++
	heap.Push(&r.events, event{r.now + d, r.seq, do})
}

// add starts a session.
func (r *ring) add(text simText, cfg ahead.Config) *simSession {
	cfg.MaxTokens = len(text.answer)
	s := &simSession{ring: r, cfg: cfg, text: text, start: float64(len(r.runs)) * 0.37, seen: make([]int, r.setting.stages)}
	r.runs = append(r.runs, s)
	r.after(s.start, s.begin)
	return s
}

// run goes on until all sessions are done, or for so long.
func (r *ring) run(until float64) {
	r.resize()
	for len(r.events) > 0 {
		e := heap.Pop(&r.events).(event)
		if until > 0 && e.at > until {
			r.now = until
			return
		}
		if r.now = e.at; r.now > 1e7 {
			panic("a session has lost its row")
		}
		e.do()
		if until == 0 && !slices.ContainsFunc(r.runs, func(s *simSession) bool { return s.done == 0 }) {
			return
		}
	}
}

// resize chooses the rows of a pass that make the ring fastest.
func (r *ring) resize() {
	rows := 0.0
	for _, s := range r.runs {
		rows++
		if s.runner != nil {
			rows += float64(s.runner.InFlight())
		}
	}
	best, bestTime := 1, math.Inf(1)
	for b := 1; b <= int(rows); b++ {
		c := r.pass * (1 + r.more*float64(b-1))
		if t := max(float64(r.setting.stages)*(r.rtt/2+c), rows/float64(b)*c); t < bestTime {
			best, bestTime = b, t
		}
	}
	r.cap = best
	r.after(250, r.resize)
}

// begin delivers the token that the prompt has produced.
func (s *simSession) begin() {
	s.runner = ahead.New(s.cfg)
	s.runner.Prompt(s.text.prompt)
	s.runner.Expect(s.text.expected)
	s.at = 0
	s.line++
	s.last = s.ring.now
	s.final(&simRow{index: -1, guess: true})
}

// final takes the token that a row has produced to the first stage.
func (s *simSession) final(of *simRow) {
	r := s.ring
	m := ahead.Measures{PriceUs: uint32(of.price * 1e3), RowUs: uint32(of.row * 1e3), Busy: of.busy, Floor: of.floor}
	if !of.guess {
		m.Trip = time.Duration((r.now - of.sent) * 1e6)
		r.trip += (r.now - of.sent - r.trip) / 50
	}
	y := s.text.answer[s.at]
	s.at++
	s.tokens++
	s.gaps = append(s.gaps, r.now-s.last)
	s.last = r.now
	r.output.add(r.now, 1)
	flying := s.runner.InFlight()
	hit := s.runner.Token(y, clock(r.now), m)
	if s.hints != nil {
		s.hints.final(y)
	}
	if s.at >= s.cfg.MaxTokens || s.at >= len(s.text.answer) {
		c := s.runner.Counts()
		s.total.Sent, s.total.Kept, s.total.Wrong = s.total.Sent+c.Sent, s.total.Kept+c.Kept, s.total.Wrong+c.Wrong
		if s.repeat {
			s.begin()
			return
		}
		s.done = r.now
		return
	}
	if !hit {
		if flying > 0 {
			s.line++
			r.stages[0].adopt(s, s.line)
		}
		s.index = s.at - 1
		s.send(y, false)
	}
	s.ahead()
}

// ahead sends the guesses that may be sent now.
func (s *simSession) ahead() {
	first := s.ring.stages[0]
	for s.done == 0 && s.runner != nil {
		queued := first.link-s.ring.now > s.ring.wire+1e-9 || slices.ContainsFunc(first.queue, func(r *simRow) bool { return r.of == s })
		guess, ok := s.runner.Next(clock(s.ring.now), queued)
		if !ok {
			return
		}
		s.send(guess, true)
	}
}

func (s *simSession) send(token int32, guess bool) {
	row := &simRow{of: s, line: s.line, index: s.index, token: token, guess: guess, sent: s.ring.now}
	s.index++
	s.ring.stages[0].queue = append(s.ring.stages[0].queue, row)
	s.ring.kick(s.ring.stages[0])
}

func clock(ms float64) time.Time { return time.Unix(0, int64(ms*1e6)).UTC() }

// adopt drops what is older than a line that has been seen.
func (st *simStage) adopt(s *simSession, line int) {
	if line > st.newest[s] {
		st.newest[s] = line
		st.queue = slices.DeleteFunc(st.queue, func(r *simRow) bool { return r.of == s && r.line < line })
	}
}

func (r *ring) arrive(st *simStage, row *simRow) {
	if row.line < st.newest[row.of] {
		return
	}
	st.adopt(row.of, row.line)
	st.queue = append(st.queue, row)
	r.kick(st)
}

// kick begins a pass if the stage is idle and has rows.
func (r *ring) kick(st *simStage) {
	if st.pass != nil {
		return
	}
	if st.index == len(r.stages)-1 {
		r.judge(st)
	}
	st.passes++
	var first, then []*simRow
	for _, row := range st.queue {
		if row.of.seen[st.index] == st.passes {
			continue // its rows stay in order, one per pass
		}
		row.of.seen[st.index] = st.passes
		if !row.guess || r.now-row.sent > 1.5*r.trip {
			first = append(first, row)
		} else {
			then = append(then, row)
		}
	}
	pass := append(first, then...)
	if len(pass) == 0 {
		return
	}
	pass = pass[:min(len(pass), r.cap)]
	st.queue = slices.DeleteFunc(st.queue, func(row *simRow) bool { return slices.Contains(pass, row) })
	d := r.pass * (1 + r.more*float64(len(pass)-1)) * (1 + r.jitter*(2*r.rng.Float64()-1))
	st.pass = pass
	st.share += 0.05 * (float64(len(pass)) - st.share)
	st.mean += 0.05 * (d - st.mean)
	st.perRow += 0.05 * (d/float64(len(pass)) - st.perRow)
	r.after(d, func() { r.end(st, d) })
}

// judge has the last stage drop guesses that turned out wrong, and all behind them.
func (r *ring) judge(st *simStage) {
	st.queue = slices.DeleteFunc(st.queue, func(row *simRow) bool {
		s := row.of
		if row.guess && row.line != s.dead && row.token != s.text.answer[row.index] {
			s.dead = row.line
		}
		return row.line == s.dead
	})
}

// end takes the rows of a pass to the next stage, or their tokens to the first.
func (r *ring) end(st *simStage, d float64) {
	pass := st.pass
	st.pass = nil
	st.busy.add(r.now, d)
	busy := min(1, st.busy.turn(r.now))
	perRow := (st.perRow + r.pass*r.more) / 2
	floor := floorOf(busy, r.output.turn(r.now), perRow)
	for _, row := range pass {
		if row.line < st.newest[row.of] {
			continue
		}
		row.price += st.share * r.pass * r.more
		row.row, row.busy, row.floor = max(row.row, st.mean), max(row.busy, busy), max(row.floor, floor)
		if st.index == len(r.stages)-1 {
			r.after(r.rtt/2, func() { row.of.final(row) })
			continue
		}
		row.price += r.wire
		st.link = max(r.now, st.link) + r.wire
		if !row.guess && st.index == 0 {
			r.waited = max(r.waited, st.link-r.now-r.wire)
		}
		next := r.stages[st.index+1]
		r.after(st.link-r.now+r.rtt/2, func() { r.arrive(next, row) })
		if st.index == 0 {
			r.after(st.link-r.now, row.of.ahead)
		}
	}
	r.kick(st)
	if st.index == 0 {
		for _, row := range pass {
			row.of.ahead()
		}
	}
}

// drafter is a slow model that guesses at stage 0: each of its guesses takes some time,
// and is right with a chance of a if those before it were.
type drafter struct {
	of    *simSession
	rng   *rand.Rand
	a     float64
	takes float64
	dies  int // after so many tokens; 0: never

	base  int // final tokens that it knows
	made  []int32
	round int // guesses under way are of the newest one
	asked int // guesses that it began
	idle  bool
}

// final tells the drafter of the session's newest final token.
func (d *drafter) final(y int32) {
	wanted := d.of.runner.Drafts(time.Duration(d.takes * 1e6))
	if i := d.of.at - 1 - d.base; wanted && !d.idle && i >= 0 && i < len(d.made) && d.made[i] == y {
		return
	}
	d.idle = !wanted
	d.base, d.made = d.of.at, nil
	d.round++
	d.think()
}

func (d *drafter) think() {
	if d.idle {
		return
	}
	d.asked++
	round := d.round
	d.of.ring.after(d.takes, func() {
		at := d.base + len(d.made)
		if round != d.round || at >= len(d.of.text.answer) || d.dies > 0 && d.of.at >= d.dies {
			return
		}
		y := d.of.text.answer[at]
		if d.rng.Float64() >= d.a {
			y = -1
		}
		d.made = append(d.made, y)
		d.of.runner.Hint(d.base, d.made)
		d.of.ahead()
		d.think()
	})
}

// floorOf is what a stage reports as its floor (see package stage): perMs counts final
// tokens per millisecond through it, and rowMs is the milliseconds that a row takes there.
func floorOf(busy, perMs, rowMs float64) float64 {
	load := min(1, max(0, (busy-0.6)/0.3))
	return min(1, max(0, load*perMs*rowMs))
}
