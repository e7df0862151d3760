package stage

import (
	"errors"
	"fmt"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// What every stage does with the rows of guesses (doc.go, "Running ahead").

func wrongBase(base, due int) error {
	return fmt.Errorf("a step at position %d, where %d was due", base, due)
}

var errTag = errors.New("the tag of a guess, where none can be")

var errTagKey = fmt.Errorf("a tag_key has %d bytes", protocol.TagKeySize)

// parseLine checks the part of a step that is about guesses.
func (sess *session) parseLine(p *protocol.Step, st *step) error {
	st.sums, st.guesses = sumsOf(p), p.Guesses
	if sess.stage.cfg.first() { // which takes known tokens alone, and counts the lines itself
		if sess.lead == nil {
			return nil // what else is for its guesses is not kept
		}
		if len(p.Expected) > sess.reserved || !inVocabulary(p.Expected, sess.stage.cfg.Vocab) {
			return errors.New("an expected answer that is too long, or has tokens that are not in the vocabulary")
		}
		st.most, st.expected = int(min(p.MaxInFlight, protocol.MaxInFlight)), p.Expected
		return nil
	}
	if p.Tag != 0 && (st.rows != 1 || !st.sample || sess.embeds()) {
		return errTag
	}
	st.line, st.tag, st.settled = p.Line, p.Tag, int(min(p.Settled, uint32(sess.reserved)))
	return nil
}

// guessed reports whether a step is of a guess that is not known to be right.
func (st *step) guessed() bool { return st.tag != 0 }

// firstLine begins the first line of an epoch that goes on from a position. Called with
// stage.mu held.
func (sess *session) firstLine(at int) {
	sess.line, sess.dead, sess.settled, sess.sound = 0, false, min(sess.settled, at), min(sess.sound, at)
	sess.lead.restart(at)
}

// beginLine makes a line of guesses begin at a position: what was computed or waits from
// there on is void. Called with stage.mu held.
func (sess *session) beginLine(line uint32, base int) {
	var keep []*step
	for _, st := range sess.pending {
		if st.base < base {
			keep = append(keep, st)
		} else {
			sess.stage.left(st)
		}
	}
	sess.pending = keep
	if sess.running != nil && sess.running.base >= base {
		sess.running.void = true
	}
	sess.line, sess.dead = line, false
	sess.length, sess.truncate = base, true
	sess.settled, sess.sound = min(sess.settled, base), min(sess.sound, base)
	if sess.lead != nil {
		sess.lead.flight = nil
	}
	if sess.next != nil {
		sess.next.dropGuesses(base)
	}
}

// settle records that the tokens of positions before n are known. Called with stage.mu
// held.
func (sess *session) settle(n int) { sess.settled = max(sess.settled, min(n, sess.length)) }

// sure returns how many positions are computed of tokens that are known. Those that wait to
// be taken back do not count: a known token may have been queued in the place of a wrong
// guess whose row is in the cache still. Called with stage.mu held.
func (sess *session) sure() int { return min(sess.computed, sess.settled, sess.sound) }

// weed drops the rows of wrong guesses before they are computed: the last stage has drawn
// the token. It returns the sessions that have a tag where none can be. Called by the loop
// with mu held.
func (s *Stage) weed() (bad []*session) {
	if !s.cfg.last() {
		return nil
	}
	for _, sess := range s.sessions {
		if len(sess.pending) == 0 || !sess.pending[0].guessed() || sess.ended {
			continue
		}
		st := sess.pending[0]
		id, ok := sess.drawnAt(st.base)
		switch {
		case !ok || len(sess.tagKey) != protocol.TagKeySize:
			sess.drop()
			bad = append(bad, sess)
		case st.tag == protocol.GuessTag(sess.tagKey, st.epoch, st.line, uint32(st.base), id):
			st.tag, st.right = 0, true
			sess.settle(st.base + 1)
		default:
			sess.drop()
			sess.dead, sess.length = true, st.base
		}
	}
	return bad
}

// drawnAt returns the token of the answer at a position. Called by the loop with stage.mu
// held.
func (sess *session) drawnAt(position int) (id int32, ok bool) {
	i := position - int(sess.promptTokens())
	switch {
	case i < 0 || i >= len(sess.sampled)+len(sess.given):
		return 0, false
	case i >= len(sess.sampled):
		return sess.given[i-len(sess.sampled)], true
	}
	return sess.sampled[i], true
}

// sums are what a row's frame adds up on its way, as the wire has it.
type sums struct{ rowUs, priceUs, busy, floor uint32 }

func sumsOf(p *protocol.Step) sums {
	return sums{min(p.RowUs, mostUs), min(p.PriceUs, mostUs), min(p.Busy, 255), min(p.Floor, 255)}
}

// sureAfter is the least time after which a guess counts as right that waits for cells
// between the first stage and the last.
const sureAfter = time.Second

// comesLater reports whether a step gives way to decodes of known tokens: that of a
// guess, unless it has waited longer than half a trip round the ring beyond one. Called
// with mu held.
func (s *Stage) comesLater(st *step, now time.Time) bool {
	_, lap := s.stats.costs()
	return st.guessed() && (lap == 0 || now.Sub(st.queued) < lap+lap/2)
}

// unsure reports whether a session's next step is of a guess that may be wrong. Only the
// first and the last stage know of each; for one between them a guess is right whose next
// position's token is known, and one for which no other has come for long. Called with mu
// held.
func (s *Stage) unsure(sess *session, now time.Time) bool {
	st := sess.pending[0]
	if !st.guessed() || sess.settled > st.base {
		return false
	}
	_, lap := s.stats.costs()
	return s.cfg.first() || now.Sub(st.queued) < max(lap+lap/2, sureAfter)
}

// aheadOf writes the part about guesses into the frame of a step that was computed. It
// returns how many positions are known to be final, and whether the session may run
// ahead. Called with mu held.
func (s *Stage) aheadOf(w work, head *protocol.Step) (settled int, runs bool) {
	sess := w.sess
	runs = w.step.sums != (sums{})
	head.Tag, head.Settled = w.step.tag, uint32(w.step.settled)
	if l := sess.lead; l != nil && l.most > 0 {
		runs = true
		head.Settled, head.Guesses = uint32(sess.settled), uint32(l.sent)
	}
	return sess.settled, runs
}

const mostUs = 60e6 // a sum, at most

func (x sums) measures() Measures {
	return Measures{RowUs: x.rowUs, PriceUs: x.priceUs, Busy: float64(x.busy) / 255, Floor: float64(x.floor) / 255}
}

// sum writes sums into a frame, with this stage's own part added.
func (s *Stage) sum(x sums, p *protocol.Step) {
	own := s.stats.toll(time.Now())
	p.RowUs = max(x.rowUs, own.rowUs, 1)
	p.PriceUs = min(x.priceUs+own.priceUs, mostUs)
	p.Busy, p.Floor = max(x.busy, own.busy), max(x.floor, own.floor)
}
