package stage

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Who gets room: KV cells and slots. doc.go has the rules, here in the order in
// which an Open meets them: expected, fits, yielding; and for a session under
// way, grow and relieve.

const (
	ahead      = 64               // cells that a session takes beyond what it needs: a chunk of a prompt
	shares     = 4                // a group has a right to one part in so many
	firstStep  = 5 * time.Second  // for a client to send the first one
	resumeTime = 15 * time.Second // for Resume, after an Open that waits: the others' Opens may take ten
	idleTime   = 2 * time.Second  // without work, and the client's turn: idle
	fedTime    = 10 * time.Second // the same where other stages may be at work on it
	yieldTime  = 2 * time.Second  // for sessions that yield to be gone
	struckTime = time.Minute      // who opened and did not begin has no share for so long
	keptTime   = 30 * time.Second // what a group has kept, within its share, is safe from those beyond theirs
)

// applicant is who wants room.
type applicant struct {
	group   string
	trusted bool
	slots   int // 1, or 0 for a session under way
	need    int // cells that it will probably use, besides those that it has claimed
	first   int // cells at once
}

// holding is what sessions hold together.
type holding struct{ slots, cells int }

func (h *holding) add(cells int) { h.slots++; h.cells += cells }

// applicant is who a peer is when it wants room: one of those who share with it.
func (s *Stage) applicant(p peer.ID) applicant {
	a := applicant{group: p.String(), trusted: s.cfg.Trusted != nil && s.cfg.Trusted(p)}
	if s.cfg.Group != nil {
		a.group = s.cfg.Group(p)
	}
	return a
}

// expected is how many cells a session will probably use: its beginning, which
// the chain of hashes tells, and half of what may follow.
func expected(o *protocol.Open) int {
	total := int(o.MaxTokensTotal)
	begun := min(total, (len(o.Prefix)+1)*protocol.PrefixBlock)
	return begun + (total-begun)/2
}

// share is what a group has a right to: a part, and never less than one session
// of the greatest length.
func (s *Stage) share() holding {
	return holding{max(1, s.cfg.MaxSeqs/shares), max(s.cfg.KVTokens/shares, s.cfg.MaxContext)}
}

// claim is how many cells a session counts for: an idle one for those that it
// has, one that works for those that it will have. Called with mu held.
func (sess *session) claim(now time.Time) int {
	if sess.ended || sess.idleAt(now) {
		return sess.cells
	}
	return max(sess.cells, sess.expected)
}

// idleAt says that a session has not worked for a while, and is not held up by
// this stage. Pings are no work. Called with stage.mu held.
func (sess *session) idleAt(now time.Time) bool {
	return now.Sub(sess.worked) >= sess.patience() && !sess.computing && !sess.ready()
}

// patience is how long a session may be without work. Called with stage.mu held.
func (sess *session) patience() time.Duration {
	if sess.clientsTurn() {
		return idleTime
	}
	return fedTime
}

// clientsTurn says that no other stage can be what a session waits for. Called
// with stage.mu held.
func (sess *session) clientsTurn() bool {
	return !sess.halted && (sess.stages == 1 || sess.stage.cfg.first() && !sess.stepped)
}

// overdue says that a client has not begun with what it opened. Called with
// stage.mu held.
func (sess *session) overdue(now time.Time) bool {
	age := now.Sub(sess.tally.opened)
	switch {
	case sess.stepped || sess.ended:
		return false
	case sess.halted:
		return age > resumeTime
	}
	return sess.stage.cfg.first() && !sess.open.Wait && age > firstStep
}

// claims sums up the sessions that have not ended, by group, and all together.
// Called with mu held.
func (s *Stage) claims(now time.Time) (groups map[string]*holding, trusted, all holding) {
	groups = map[string]*holding{}
	for _, sess := range s.sessions {
		cells := sess.claim(now)
		all.add(cells)
		if sess.ended {
			continue
		}
		if groups[sess.group] == nil {
			groups[sess.group] = &holding{}
		}
		groups[sess.group].add(cells)
		if sess.trusted {
			trusted.add(cells)
		}
	}
	return groups, trusted, all
}

// lack is what an applicant lacks. Called with mu held.
func (s *Stage) lack(a applicant, now time.Time) holding {
	groups, _, all := s.claims(now)
	slots, cells := s.evictable(a, s.beyond(groups, a, now), now)
	return holding{
		slots: a.slots - len(s.free) - slots,
		cells: max(all.cells+a.need, s.kvUsed+s.kvKept-cells+a.first) - s.cfg.KVTokens,
	}
}

// strike takes note of a group that opened a session and did not begin with it.
// Called with mu held.
func (s *Stage) strike(group string, now time.Time) {
	maps.DeleteFunc(s.struck, func(_ string, since time.Time) bool { return now.Sub(since) > struckTime })
	s.struck[group] = now
}

// shareOf is what a group has a right to now. Called with mu held.
func (s *Stage) shareOf(group string, now time.Time) holding {
	if since, ok := s.struck[group]; ok && now.Sub(since) <= struckTime {
		return holding{}
	}
	return s.share()
}

// beyond says that an applicant would have more than its share. Called with mu
// held.
func (s *Stage) beyond(groups map[string]*holding, a applicant, now time.Time) bool {
	share, has := s.shareOf(a.group, now), groups[a.group]
	if has == nil {
		has = &holding{}
	}
	return !a.trusted && (has.slots+a.slots > share.slots || has.cells+a.need > share.cells)
}

// yielders lists the sessions that would yield to an applicant, the first to go
// first: those that are idle, then those that others have beyond their share,
// the youngest first, and for the sake of those who are trusted, strangers' that
// have what is only lent to them. Who is beyond his own share is yielded to by
// nobody, and nobody yields to his own: so two can never drive each other out.
// Called with mu held.
func (s *Stage) yielders(a applicant, now time.Time) (list []*session) {
	groups, trusted, _ := s.claims(now)
	if s.beyond(groups, a, now) {
		return nil
	}
	var idle, others []*session
	for _, sess := range s.sessions {
		switch {
		case sess.ended || sess.group == a.group || sess.trusted && !a.trusted:
		case sess.idleAt(now):
			idle = append(idle, sess)
		case !sess.trusted:
			others = append(others, sess)
		}
	}
	slices.SortFunc(idle, func(x, y *session) int {
		if x.stepped != y.stepped {
			return map[bool]int{false: -1, true: 1}[x.stepped]
		}
		return x.worked.Compare(y.worked)
	})
	slices.SortFunc(others, func(x, y *session) int { return cmp.Compare(y.born, x.born) })
	list = idle
	for _, sess := range idle {
		groups[sess.group].slots--
		groups[sess.group].cells -= sess.claim(now)
	}
	lent := a.trusted && trusted.slots == 0 && trusted.cells+a.need <= s.share().cells
	var last []*session
	for _, sess := range others {
		has, share := groups[sess.group], s.shareOf(sess.group, now)
		if has.slots > share.slots || has.cells > share.cells {
			has.slots--
			has.cells -= sess.claim(now)
			list = append(list, sess)
		} else if lent {
			last = append(last, sess)
		}
	}
	return append(list, last...)
}

// yielding picks from the yielders as many as make up for what is lacking; none
// if all of them would not. worth is how many cells come free with one.
func yielding(from []*session, lack holding, worth func(*session) int) (list []*session) {
	for _, sess := range from {
		if lack.slots <= 0 && lack.cells <= 0 {
			break
		}
		if w := worth(sess); w > 0 || lack.slots > 0 {
			list = append(list, sess)
			lack.slots--
			lack.cells -= w
		}
	}
	if lack.slots > 0 || lack.cells > 0 {
		return nil
	}
	return list
}

// makeRoom has sessions yield until an applicant fits, for a moment at most. It
// is called with mu held, and gives it up meanwhile.
func (s *Stage) makeRoom(a applicant) bool {
	end := time.NewTimer(yieldTime)
	defer end.Stop()
	for range shares { // others may be quicker, but not for ever
		now := time.Now()
		lack := s.lack(a, now)
		if lack.slots <= 0 && lack.cells <= 0 {
			return true
		}
		list := yielding(s.yielders(a, now), lack, func(sess *session) int { return sess.claim(now) })
		for _, sess := range list {
			if !sess.stepped && sess.clientsTurn() && sess.idleAt(now) {
				s.strike(sess.group, now)
			}
		}
		for _, sess := range s.sessions {
			if sess.ended { // its room is about to come free
				list = append(list, sess)
			}
		}
		if len(list) == 0 {
			return false
		}
		s.mu.Unlock()
		in := s.yield(list, end.C)
		s.mu.Lock()
		if !in {
			return false
		}
	}
	return false
}

// yield ends sessions for the sake of others; their clients find other stages,
// or come back. False: they are not gone in time.
func (s *Stage) yield(list []*session, end <-chan time.Time) bool {
	for _, sess := range list {
		sess.fail(s.busy("others wait for the room of this session"))
	}
	for _, sess := range list {
		select {
		case <-sess.gone:
		case <-end:
			return false
		}
	}
	return true
}

func (s *Stage) busy(why string) *protocol.Error {
	return &protocol.Error{Code: protocol.Code_CODE_BUSY, RetryAfter: s.stats.retryAfter(), Message: why}
}

// Room is how many KV tokens a session of a peer's could have: those that are
// free, and within its share those that others would yield.
func (s *Stage) Room(p peer.ID) int {
	a := s.applicant(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	groups, _, all := s.claims(now)
	free := max(0, s.cfg.KVTokens-all.cells)
	more := free
	for _, sess := range s.yielders(a, now) {
		more += sess.claim(now)
	}
	if !a.trusted {
		left := s.shareOf(a.group, now).cells
		if has := groups[a.group]; has != nil {
			left -= has.cells
		}
		more = min(more, left)
	}
	return max(free, more)
}

// grow sees to it that a session has the cells for its positions before upto,
// and some ahead. Called with mu held.
func (s *Stage) grow(sess *session, upto int, now time.Time) bool {
	if upto <= sess.cells {
		return true
	}
	for _, want := range []int{min(sess.reserved, upto+ahead), upto} {
		a := applicant{group: sess.group, trusted: sess.trusted, first: want - sess.cells}
		if s.evict(a, now) {
			s.kvUsed += want - sess.cells
			sess.cells = want
			return true
		}
	}
	return false
}

// relieve says who yields so that sessions which lack cells can go on: those
// that would yield to a newcomer, else the one that ranks highest. Who ranks
// highest himself waits until others end, so the lowest can always go on; and
// since the sessions of a group rank alike at all stages, they do not wait for
// each other at two of them. Called with mu held.
func (s *Stage) relieve(starved []*session, now time.Time) []*session {
	groups, _, _ := s.claims(now)
	higher := func(x, y *session) int {
		if x.trusted != y.trusted {
			return map[bool]int{false: 1, true: -1}[x.trusted]
		}
		return cmp.Or(cmp.Compare(groups[x.group].cells, groups[y.group].cells), cmp.Compare(x.group, y.group), bytes.Compare(x.key.id[:], y.key.id[:]))
	}
	first := slices.MinFunc(starved, higher)
	st := first.pending[0]
	a := applicant{group: first.group, trusted: first.trusted, first: st.base + st.rows - first.cells}
	lack := holding{cells: s.kvUsed + s.kvKept + a.first - s.cfg.KVTokens}
	if list := yielding(s.yielders(a, now), lack, func(sess *session) int { return sess.cells }); list != nil {
		return list
	}
	last := first
	for _, sess := range s.sessions {
		if !sess.ended && higher(sess, last) > 0 {
			last = sess
		}
	}
	switch {
	case last != first:
		return []*session{last}
	case len(s.kept) > 0: // others' beginnings, which are no reason to wait
		s.giveUp(s.kept[0])
		s.poke()
	}
	return nil
}
