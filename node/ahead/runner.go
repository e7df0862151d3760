package ahead

import "time"

// MaxInFlight is the default bound on a session's guesses in flight.
const MaxInFlight = 32

// Config is what a Runner must know of its session.
type Config struct {
	// MaxInFlight bounds the guesses in flight: by what the client asked for, and what all
	// stages can take back. 0: there are none.
	MaxInFlight int

	// MaxTokens is how many final tokens may still come, all calls of Token together; 0:
	// unknown.
	MaxTokens int

	// End says whether a token ends the answer; nil: none does. A guess that ends the
	// answer is not sent, since what its row would produce is not wanted.
	End func(token int32) bool

	// Trials are shared by all sessions whose first stage is the same one; nil: none are
	// held.
	Trials *Trials
}

// Measures are what a final token's frame says about the ring. The zero value is
// nothing known.
type Measures struct {
	// Trip is the time from the sending of the row to this token, of a row that was no
	// guess; 0: it was one, or it is unknown (after the prompt, and after a repair).
	Trip time.Duration

	PriceUs uint32  // what one more row adds to the work of all, microseconds
	RowUs   uint32  // the time that the slowest stage takes per row, microseconds
	Busy    float64 // the share of its time in which the busiest stage computes, 0 to 1
	Floor   float64 // the largest of the stages' Floor, 0 to 1
}

// Counts are a Runner's guesses so far.
type Counts struct {
	Sent  int           // handed out by Next
	Kept  int           // right
	Wrong int           // in vain: wrong, behind a wrong one, or lost with a stage
	Saved time.Duration // trips that right guesses saved; not what wrong ones cost
}

// repeating is the share of tokens guessed from which on an answer counts as one that
// repeats other text.
const repeating = 0.5

// guess is a guess in flight.
type guess struct {
	token int32
	place cursor // where it was copied from
}

// Runner guesses the tokens of one session. It is not safe for concurrent use.
type Runner struct {
	cfg      Config
	own      table // prompt and final tokens
	expected table
	threads  [2]thread // in own and in expected
	trust    trust
	pace     pace

	draft    []int32 // a drafter's guesses for the tokens after the last final one
	run      int     // of them that were right in a row
	drafting drafting

	line []guess // in flight, the oldest first
	tip  cursor  // the guess after the last of line
	sure float64 // the product of the shares of line

	luck   float64 // the share of recent tokens that were guessed, sent or not
	final  int     // final tokens
	counts Counts
}

// New makes the Runner of one session.
func New(cfg Config) *Runner {
	r := &Runner{cfg: cfg, trust: newTrust(), drafting: drafting{filled: untried}}
	r.threads[0] = thread{text: &r.own, found: copied, join: resumed, home: -1}
	r.threads[1] = thread{text: &r.expected, found: expected, join: rejoined, home: -1}
	return r
}

// Prompt appends tokens of the prompt: all of it, or a chunk. After a repair that made
// this stage the first one, the tokens of the answer so far are part of it.
func (r *Runner) Prompt(tokens []int32) { r.own.add(tokens...) }

// Expect gives the text that the client expects as the answer, before the first Token.
// It is believed no more than it turns out right.
func (r *Runner) Expect(tokens []int32) {
	r.expected.add(tokens...)
	if len(r.expected.text) > 0 {
		t := &r.threads[1]
		t.best, t.home = cursor{text: &r.expected, from: expected}, 0
	}
}

// Token takes the next final token and reports whether its row has been sent already, as
// a guess. If it has not, all guesses in flight are void, and the row of y is to be sent
// next unless y ends the answer.
func (r *Runner) Token(y int32, at time.Time, m Measures) (hit bool) {
	r.final++
	r.pace.measure(at, m)
	r.luck -= r.luck * recent
	if r.first() == y {
		r.luck += recent
	}
	r.cfg.Trials.token(at, r.pace.busy, r.luck > repeating)
	if len(r.line) > 0 {
		hit = r.line[0].token == y
		if hit {
			r.line = append(r.line[:0], r.line[1:]...)
			r.counts.Kept++
			r.counts.Saved += r.pace.gained()
		} else {
			r.pace.lost(r.void())
		}
	}
	table, ok := r.copy(r.choose(nil))
	r.drafting.learn(ok && table == y, len(r.draft) > 0 && r.draft[0] == y)
	r.own.add(y)
	tail := r.own.text[max(0, len(r.own.text)-longest):]
	for i := range r.threads {
		r.threads[i].step(y, tail, &r.trust)
	}
	r.scoreDraft(y)
	if _, ok := r.copy(r.tip); !ok || len(r.line) == 0 {
		r.tip = r.choose(r.line)
	}
	r.sure = 1
	for _, g := range r.line {
		r.sure *= r.trust.of(g.place)
	}
	return hit
}

// first returns the guess for the next final token, whether it was sent or not; -1: there
// is none.
func (r *Runner) first() int32 {
	if len(r.line) > 0 {
		return r.line[0].token
	}
	if token, _, ok := r.propose(); ok {
		return token
	}
	return -1
}

// choose returns the place of the guess behind a line: of the threads that agree with it,
// the one that is more likely right.
func (r *Runner) choose(line []guess) (best cursor) {
	for _, t := range r.threads {
		c := t.best
		for _, g := range line {
			if token, ok := r.copy(c); !ok || token != g.token {
				c = cursor{}
				break
			}
			c = c.next()
		}
		if c.text != nil && (best.text == nil || r.trust.of(c) >= r.trust.of(best)) {
			best = c
		}
	}
	return best
}

// propose returns the guess behind the line, and where it comes from.
func (r *Runner) propose() (token int32, place cursor, ok bool) {
	token, ok = r.copy(r.tip)
	hint, from, also := r.drafted()
	if also && (!ok || r.trust.of(from) > r.trust.of(r.tip)) {
		return hint, from, true
	}
	return token, r.tip, ok
}

// Next returns the guess whose row is to be sent now, if any: the token that follows the
// last final token and all guesses in flight. The caller sends it, and asks again until
// there is none, and when a row has left the stage. queued says that rows of this session
// still wait there, to be computed or to be sent on: a guess behind them would come no
// sooner, but the next true row might have to wait for it.
func (r *Runner) Next(at time.Time, queued bool) (token int32, ok bool) {
	n := len(r.line)
	// A row produces the token after its own: the last token's row is not wanted.
	if queued || r.final == 0 || r.cfg.MaxTokens > 0 && r.final+n+1 >= r.cfg.MaxTokens {
		return 0, false
	}
	if n >= r.cfg.MaxInFlight || !r.pace.solvent(at) {
		return 0, false
	}
	most := r.pace.rows(r.sure)
	if n+1 >= most || float64(n) >= r.cfg.Trials.allowed(at, r.pace.busy)*float64(most-1) {
		return 0, false
	}
	token, place, ok := r.propose()
	if !ok || r.cfg.End != nil && r.cfg.End(token) {
		return 0, false
	}
	sure := r.sure * r.trust.of(place)
	if sure < r.pace.theta() {
		return 0, false
	}
	if copied, ok := r.copy(r.tip); ok && copied == token {
		r.tip = r.tip.next()
	} else {
		r.tip = cursor{}
	}
	r.line, r.sure = append(r.line, guess{token, place}), sure
	r.counts.Sent++
	return token, true
}

// copy returns the token at c, which may be a guess in flight itself.
func (r *Runner) copy(c cursor) (int32, bool) {
	if c.text == nil {
		return 0, false
	}
	if c.at < len(c.text.text) {
		return c.text.text[c.at], true
	}
	if i := c.at - len(c.text.text); c.text == &r.own && i < len(r.line) {
		return r.line[i].token, true
	}
	return 0, false
}

// Restart voids the guesses in flight, and forgets what is known of the ring: after a
// repair it is another one. The next row sent is that of the last final token.
func (r *Runner) Restart() {
	r.void()
	r.tip, r.sure = r.choose(r.line), 1
	r.pace.forget()
}

// void empties the line and returns how many guesses were in it.
func (r *Runner) void() int {
	n := len(r.line)
	r.line = r.line[:0]
	r.counts.Wrong += n
	return n
}

// InFlight is the number of guesses whose token is not yet known.
func (r *Runner) InFlight() int { return len(r.line) }

// Counts returns the guesses so far.
func (r *Runner) Counts() Counts { return r.counts }
