package stage

import "github.com/shoalnet/shoal/protocol"

// bill is what a session has been charged for: the rows of tokens that are known to be
// right, and not the work of guesses in vain. For whoever sends rows can call them guesses,
// those in vain are free only as long as they are no more than the others, and no more
// than MaxInFlight rows wait for their tokens. Guarded by stage.mu.
type bill struct {
	upto int // positions before it are charged, or were cached
	rows int // charged as right, in all
	vain int // rows of guesses that were computed and given up, and are not charged
}

// owed returns how many more rows the session is to be charged for, of those that were
// computed, and takes it that it is. Called with stage.mu held.
func (sess *session) owed() int {
	b := &sess.bill
	upto := max(sess.sure(), min(sess.computed, sess.sound)-protocol.MaxInFlight)
	right := max(0, upto-b.upto)
	b.upto += right
	b.rows += right
	beyond := max(0, b.vain-b.rows)
	b.vain -= beyond
	return right + beyond
}

// takenBack records that positions from left on were taken back, before they are. Called
// with stage.mu held.
func (sess *session) takenBack(left int) {
	b := &sess.bill
	b.vain += max(0, sess.computed-max(left, b.upto))
	b.upto = min(b.upto, left) // what is computed again counts again
}

// settleUp charges the session for the rest, when it has ended.
func (sess *session) settleUp() {
	s := sess.stage
	if sess.embeds() {
		return
	}
	s.mu.Lock()
	n := sess.owed()
	sess.takenBack(sess.bill.upto)
	n += sess.owed()
	s.mu.Unlock()
	_ = s.charged(sess, n) // it has ended anyway
}

// charged has rows of a session counted. It returns why the session must end, or nil.
func (s *Stage) charged(sess *session, rows int) *protocol.Error {
	if rows == 0 {
		return nil
	}
	e := sess.seat.Spend(rows)
	s.mu.Lock()
	charge := s.charger
	s.mu.Unlock()
	if charge == nil {
		return e
	}
	if own := charge(sess.swarm, rows, s.cfg.Span.Len(), s.cfg.Blocks); own != nil {
		e = own
	}
	return e
}
