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

// The allocation of KV cells and slots. doc.go has the rules. For an Open they
// apply in this order: expected, lack, yielders, makeRoom; for a running session,
// grow and relieve.

const (
	ahead      = 64               // cells that a session takes beyond what it needs: one prompt chunk
	shares     = 4                // a group is entitled to 1/shares of cells and slots
	firstStep  = 5 * time.Second  // for a client to send its first step
	resumeTime = 15 * time.Second // for Resume after an Open with wait: the other stages' Opens may take 10 s
	idleTime   = 2 * time.Second  // a session without work for this long on its client's turn is idle
	fedTime    = 10 * time.Second // the same while other stages may be working on it
	yieldTime  = 2 * time.Second  // for evicted sessions to end
	struckTime = time.Minute      // how long a group that opened a session and did not begin has no share
	keptMost   = 5 * time.Minute  // how long a prefix is kept at most: its cells take memory
	keptTime   = 30 * time.Second // how long a kept prefix, within its group's share, is safe from groups above theirs
)

// applicant is a session that needs cells, new or running.
type applicant struct {
	group   string
	trusted bool
	slots   int // 1, or 0 for a running session
	need    int // cells that it will probably use, besides those that it has claimed
	first   int // cells that it needs at once
}

// holding sums up what sessions hold.
type holding struct{ slots, cells int }

func (h *holding) add(cells int) { h.slots++; h.cells += cells }

// applicant returns a peer as an applicant, with its group and whether it is trusted.
func (s *Stage) applicant(p peer.ID) applicant {
	a := applicant{group: p.String(), trusted: s.cfg.Trusted != nil && s.cfg.Trusted(p)}
	if s.cfg.Group != nil {
		a.group = s.cfg.Group(p)
	}
	return a
}

// expected returns how many cells a session will probably use: its prompt, whose
// length follows from the number of prefix hashes, and half of the remaining length.
func expected(o *protocol.Open) int {
	if o.Embed > 0 {
		return 0
	}
	total := int(o.MaxTokensTotal)
	begun := min(total, (len(o.Prefix)+1)*protocol.PrefixBlock)
	return begun + (total-begun)/2
}

// cellsAt returns how many cells a session needs at once that has so many positions.
func cellsAt(o *protocol.Open, positions int) int {
	if o.Embed > 0 { // nothing of a text stays in the engine
		return 0
	}
	return min(int(o.MaxTokensTotal), positions+ahead)
}

// share returns what a group is entitled to: 1/shares, and at least one session of
// full length.
func (s *Stage) share() holding {
	return holding{max(1, (s.cfg.MaxSeqs-s.withheld)/shares), max(s.cfg.KVTokens/shares, s.cfg.MaxContext)}
}

// claim returns how many cells a session counts for: those it has if it is idle, else
// those that it is expected to use. Called with mu held.
func (sess *session) claim(now time.Time) int {
	if sess.ended || sess.idleAt(now) {
		return sess.cells
	}
	return max(sess.cells, sess.expected)
}

// idleAt reports whether a session has had no work for its patience, and not because
// of this stage. Pings are not work. Called with stage.mu held.
func (sess *session) idleAt(now time.Time) bool {
	return now.Sub(sess.worked) >= sess.patience() && !sess.computing && !sess.opening && !sess.ready()
}

// patience returns how long a session may be without work. Called with stage.mu held.
func (sess *session) patience() time.Duration {
	if sess.clientsTurn() {
		return idleTime
	}
	return fedTime
}

// clientsTurn reports whether a session can only be waiting for its client, not for
// another stage. Called with stage.mu held.
func (sess *session) clientsTurn() bool {
	return !sess.halted && (sess.stages == 1 || sess.stage.cfg.first() && !sess.stepped)
}

// overdue reports whether a client has not begun a session in time after it was accepted.
// Called with stage.mu held.
func (sess *session) overdue(now time.Time) bool {
	age := now.Sub(sess.accepted)
	switch {
	case sess.stepped || sess.ended || sess.opening:
		return false
	case sess.halted:
		return age > resumeTime
	}
	return sess.stage.cfg.first() && !sess.open.Wait && age > firstStep
}

// claims sums up the claims of sessions by group and of trusted peers, which leave
// out ended ones, and of all sessions. Called with mu held.
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

// lack returns the slots and cells that are missing for an applicant. Called with mu
// held.
func (s *Stage) lack(a applicant, now time.Time) holding {
	groups, _, all := s.claims(now)
	slots, cells := s.evictable(a, s.beyond(groups, a, now), now)
	return holding{
		slots: a.slots - (len(s.free) - s.withheld) - slots,
		cells: max(all.cells+a.need, s.kvUsed+s.kvKept-cells+a.first) - s.cfg.KVTokens,
	}
}

// strike records a group that opened a session and did not begin it. Called with mu
// held.
func (s *Stage) strike(group string, now time.Time) {
	maps.DeleteFunc(s.struck, func(_ string, since time.Time) bool { return now.Sub(since) > struckTime })
	s.struck[group] = now
}

// shareOf returns what a group is entitled to now. Called with mu held.
func (s *Stage) shareOf(group string, now time.Time) holding {
	if since, ok := s.struck[group]; ok && now.Sub(since) <= struckTime {
		return holding{}
	}
	return s.share()
}

// beyond reports whether an applicant's group would exceed its share. Called with mu
// held.
func (s *Stage) beyond(groups map[string]*holding, a applicant, now time.Time) bool {
	share, has := s.shareOf(a.group, now), groups[a.group]
	if has == nil {
		has = &holding{}
	}
	return !a.trusted && (has.slots+a.slots > share.slots || has.cells+a.need > share.cells)
}

// yielders lists the sessions that may be evicted for an applicant, in the order of
// eviction: idle ones; those of groups above their share, the youngest first; and, for
// a trusted applicant within the part reserved for trusted peers, other strangers'. An
// applicant above its share evicts nobody, and none evicts its own group's sessions,
// so two groups cannot keep evicting each other. Called with mu held.
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

// yielding picks as many of the yielders as free the missing slots and cells; none
// if all of them would not be enough. worth returns how many cells one of them frees.
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

// makeRoom evicts sessions until an applicant fits, and waits for them for yieldTime at
// most. It is called with mu held, and releases it while it waits.
func (s *Stage) makeRoom(a applicant) bool {
	end := time.NewTimer(yieldTime)
	defer end.Stop()
	for range shares { // another applicant may take what came free, but not endlessly
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
			if sess.ended { // its cells are about to be freed
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

// yield evicts sessions: their clients take other stages or retry. It returns false
// if they have not ended when end fires.
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

// Room returns how many KV cells a new session of a peer could have: the free ones
// and, within its group's share, those of sessions that would be evicted for it.
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

// grow takes the cells for a session's positions before upto, and some ahead if there
// are enough. It returns false if cells are missing. Called with mu held.
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

// relieve returns the sessions to be evicted so that sessions short of cells can go
// on: those that would be evicted for a new session, else the highest-ranked one. If
// the starved session is itself the highest-ranked, it waits for others to end. So the
// lowest-ranked can always go on; and since the sessions of a group have the same
// order at all stages, they do not wait for each other at two of them. Called with mu
// held.
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
	case len(s.kept) > 0: // other groups' kept prefixes, which are no reason to wait
		s.giveUp(s.kept[0])
		s.poke()
	}
	return nil
}
