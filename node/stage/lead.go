package stage

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// What the first stage of a session does to run ahead of its last one (doc.go, "Running
// ahead").

// Guesser guesses the next tokens of one session. It is called by one goroutine at a
// time, and must neither block nor call the stage.
type Guesser interface {
	// Prompt adds tokens that are known before the answer goes on.
	Prompt(tokens []int32)
	// Expect adds tokens that the client expects the answer to repeat.
	Expect(tokens []int32)
	// Token adds a token of the answer. If it is not the oldest guess whose token has not
	// come, all such guesses are void.
	Token(id int32, at time.Time, m Measures)
	// Next returns the next guess, to be sent at once: it follows on the tokens so far and
	// the guesses whose tokens have not come. full: the last one has not left yet.
	Next(at time.Time, full bool) (id int32, ok bool)
}

// Assisted is a Guesser that finds some of its guesses between the calls.
type Assisted interface {
	Guesser
	// Begin is called first. draws is how the last stage draws tokens, without what they are
	// held to; nil: not known. more has Next called soon. Any goroutine may call it, but none
	// that is in a call of this Guesser.
	Begin(draws *protocol.Sampling, more func())
	// Close is called last.
	Close()
}

// Measures are what a session's first stage knows of its ring when a token has come.
type Measures struct {
	Trip    time.Duration // from the row of the token before until this one came; 0: that row was of a guess
	PriceUs uint32        // microseconds that a row adds to those of other sessions, over all stages
	RowUs   uint32        // microseconds per row at the slowest stage
	Busy    float64       // share of its time in which the busiest stage computes
	Floor   float64       // chance of being right below which a guess is not worth its time
}

// lead is what the first stage keeps of a session that may run ahead.
type lead struct {
	mu      sync.Mutex // held while guesser is called; taken before stage.mu
	guesser Guesser    // guarded by mu; nil: there are no guesses in this epoch
	epoch   uint64     // of guesser; guarded by mu
	full    atomic.Bool

	// Guarded by stage.mu. ids is made shorter only with mu held, too.
	ids     []int32   // tokens that are known, by position; after a halt also those that were guessed
	drawing bool      // the prompt is complete in this epoch: what comes are tokens of the answer
	most    int       // guesses on their way at once
	flight  []int32   // those on their way, the oldest first; they follow ids
	sent    int       // guesses, in all
	kept    int       // of them, those that were right
	anchor  time.Time // when the last row of a known token was queued
	at      int       // its position; -1: there is none
}

// newLead returns the lead of a session; nil: it cannot run ahead.
func (s *Stage) newLead(o *protocol.Open) *lead {
	if s.cfg.Guess == nil || !s.cfg.first() || s.cfg.last() || o.Embed > 0 {
		return nil
	}
	return &lead{at: -1}
}

// known is what became of a step of tokens that are known.
type known struct {
	taken    bool
	before   []int32 // the tokens before it
	expected []int32 // that the answer is expected to repeat
	prompt   bool    // of the prompt, or of an answer that goes on
	most     int
	m        Measures
}

// takeKnown queues a step of tokens that are known, unless its row is on its way as a
// guess, and sends guesses after it.
func (sess *session) takeKnown(st *step) error {
	l := sess.lead
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	k, err := sess.queueKnown(st, now)
	if err != nil || !k.taken {
		return err
	}
	if l.epoch != st.epoch {
		l.leave()
		l.epoch = st.epoch
	}
	if l.guesser == nil && k.prompt && k.most > 0 {
		l.guesser = sess.stage.cfg.Guess(k.most)
		if a, ok := l.guesser.(Assisted); ok {
			a.Begin(sess.open.Draws, sess.guessMore)
		}
		l.guesser.Prompt(k.before)
		l.guesser.Expect(k.expected)
	}
	switch {
	case l.guesser == nil:
	case k.prompt:
		l.guesser.Prompt(st.tokens)
	default:
		sess.stage.poke() // the row itself before guesses
		l.guesser.Token(st.tokens[0], now, k.m)
		sess.guess()
	}
	return nil
}

// queueKnown is takeKnown without the guesser. Called with lead.mu held.
func (sess *session) queueKnown(st *step, now time.Time) (k known, err error) {
	s, l := sess.stage, sess.lead
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.ended || sess.halted || st.epoch < sess.epoch {
		s.left(st)
		return k, nil
	}
	k.expected, st.expected = st.expected, nil // a step that waits is to be small
	hit := false
	if n := len(l.flight); n > 0 && st.epoch == sess.epoch {
		if st.base != sess.length-n {
			return k, wrongBase(st.base, sess.length-n)
		}
		if hit = st.rows == 1 && st.tokens[0] == l.flight[0]; hit {
			sess.hit(st)
		} else {
			sess.beginLine(sess.line+1, st.base)
		}
	}
	if !hit {
		if _, err := sess.queueLocked(st); err != nil || st.epoch != sess.epoch { // it came too early
			return k, err
		}
	}
	if st.base > len(l.ids) { // from a peer that has not waited for the session to begin with its prefix
		return k, nil
	}
	l.ids = append(l.ids[:st.base], st.tokens...)
	k.taken, k.before, k.prompt, k.m = true, l.ids[:st.base:st.base], !l.drawing, st.sums.measures()
	if l.at == st.base-1 {
		k.m.Trip = now.Sub(l.anchor)
	}
	if k.prompt {
		l.most, l.drawing = min(st.most, s.cfg.Rollback, protocol.MaxInFlight), st.sample
	} else if !hit {
		l.anchor, l.at = now, st.base
	}
	k.most = l.most
	sess.settle(st.base + st.rows)
	return k, nil
}

// hit records that the oldest guess on its way was right: a step has its token. The row
// is known now, and need not wait behind others' if it still does. Called with stage.mu
// held.
func (sess *session) hit(st *step) {
	l := sess.lead
	l.flight = l.flight[1:]
	l.kept++
	if i := slices.IndexFunc(sess.pending, func(p *step) bool { return p.base == st.base }); i >= 0 {
		sess.pending[i].tag = 0
	}
	sess.worked = time.Now()
	sess.stage.left(st)
}

// restart ends all guesses when an epoch begins that goes on from a position. The client
// may have had tokens that did not come here: if their rows are computed, they were guessed.
// Called with stage.mu held.
func (l *lead) restart(at int) {
	if l == nil {
		return
	}
	if n := at - len(l.ids); n > 0 {
		l.ids = append(l.ids, l.flight[:min(n, len(l.flight))]...)
	}
	l.flight, l.drawing, l.at = nil, false, -1
}

// guess sends guesses, as many as the guesser has. Called with lead.mu held.
func (sess *session) guess() {
	l, s := sess.lead, sess.stage
	for sess.mayGuess() {
		full := sess.sending()
		l.full.Store(full)
		id, ok := l.guesser.Next(time.Now(), full)
		if !ok {
			return
		}
		if !sess.sendGuess(id) {
			l.leave() // it believes that the guess is on its way
			return
		}
		s.poke()
	}
}

// guessOn sends the guesses for which there was no room before. The loop calls it when it
// has taken a row, and the sender when it has sent one.
func (sess *session) guessOn() {
	l := sess.lead
	if l == nil || !l.full.Load() || sess.sending() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full.Swap(false) && l.guesser != nil {
		sess.guess()
	}
}

// guessMore sends the guesses that an Assisted has found meanwhile.
func (sess *session) guessMore() {
	sess.lead.mu.Lock()
	defer sess.lead.mu.Unlock()
	if sess.lead.guesser != nil {
		sess.guess()
	}
}

// leave ends guessing in this epoch. Called with mu held.
func (l *lead) leave() {
	if a, ok := l.guesser.(Assisted); ok {
		a.Close()
	}
	l.guesser = nil
}

// close ends guessing when the session has ended.
func (l *lead) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leave()
}

// guesses returns how many rows of guesses the session has sent ahead here, and how many
// of them were right.
func (sess *session) guesses() (sent, kept int) {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	if l := sess.lead; l != nil {
		return l.sent, l.kept
	}
	return 0, 0
}

// mayGuess reports whether the session has room for another guess. Called with lead.mu
// held.
func (sess *session) mayGuess() bool {
	s, l := sess.stage, sess.lead
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.guesser != nil && !sess.ended && !sess.halted && sess.epoch == l.epoch && l.drawing && len(l.flight) < l.most &&
		sess.length+1 < sess.reserved // the last token's row yields none
}

// sending reports whether rows wait here: for a pass, or for the successor's socket. A row
// of a known token that comes now would find them in its way.
func (sess *session) sending() bool {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(sess.pending) > 0 || sess.next == nil || !sess.next.empty()
}

// sendGuess queues the row of a guess. It returns false if the session does not take it.
func (sess *session) sendGuess(id int32) bool {
	s, l := sess.stage, sess.lead
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.ended || sess.halted || sess.epoch != l.epoch || !inVocabulary([]int32{id}, s.cfg.Vocab) {
		return false
	}
	st := &step{
		epoch: sess.epoch, base: sess.length, rows: 1, sample: true, tokens: []int32{id},
		tag: protocol.GuessTag(sess.tagKey, sess.epoch, sess.line, uint32(sess.length), id),
	}
	if _, err := sess.queueLocked(st); err != nil {
		return false
	}
	l.flight = append(l.flight, id)
	l.sent++
	return true
}
