package stage

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// The allocation of KV cells and slots. doc.go has the rules. For an Open they
// apply in this order: expected, lack, yielders, makeRoom; for a running session,
// grow and relieve, or spare.

const (
	ahead      = 64               // cells that a session takes beyond what it needs: one prompt chunk
	reserved   = 8                // 1/reserved of the slots is kept for those of full weight
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
	group string
	grant Grant
	slots int // 1, or 0 for a running session
	need  int // cells that it will probably use, besides those that it has claimed
	first int // cells that it needs at once
}

// holding sums up what sessions hold.
type holding struct{ slots, cells int }

func (h *holding) add(cells int) { h.slots++; h.cells += cells }

// exceeds reports whether a holding is more than another.
func (h *holding) exceeds(most holding) bool { return h.slots > most.slots || h.cells > most.cells }

// with returns a holding with what an applicant needs besides; h may be nil.
func (h *holding) with(a applicant) *holding {
	if h == nil {
		h = &holding{}
	}
	return &holding{h.slots + a.slots, h.cells + a.need}
}

// applicant returns a peer with a grant as an applicant, with its group.
func (s *Stage) applicant(p peer.ID, g Grant) applicant {
	a := applicant{group: p.String(), grant: g}
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

// share returns what a group is entitled to within its class: 1/shares, and at least one
// session of full length.
func (s *Stage) share() holding {
	return holding{max(1, (s.cfg.MaxSeqs-s.withheld)/shares), max(s.cfg.KVTokens/shares, s.cfg.MaxContext)}
}

// weight ranks a session where not all can go on: this node's own come first.
func (sess *session) weight() float64 {
	if sess.grant.Own {
		return math.Inf(1)
	}
	return sess.grant.Share
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

// claims sums up the claims of sessions by group, by class, and of all. Those of ended
// ones do not count: what they hold is free before the next pass. Called with mu held.
func (s *Stage) claims(now time.Time) (groups, classes map[string]*holding, all holding) {
	groups, classes = map[string]*holding{}, map[string]*holding{}
	for _, sess := range s.sessions {
		if sess.ended {
			continue
		}
		cells := sess.claim(now)
		all.add(cells)
		add(groups, sess.group, cells)
		add(classes, sess.grant.Class, cells)
	}
	return groups, classes, all
}

func add(to map[string]*holding, name string, cells int) {
	if to[name] == nil {
		to[name] = &holding{}
	}
	to[name].add(cells)
}

// entitled returns what the clients of each class are entitled to together, if an
// applicant comes to those that have sessions: all of the stage by weight, and at least
// one session of full length each. This node's own prompts are entitled to all of it, and
// others to nothing of it if the applicant is one of these. Called with mu held.
func (s *Stage) entitled(a applicant) map[string]holding {
	weights, sum := map[string]float64{a.grant.Class: a.grant.Share}, 0.0
	for _, sess := range s.sessions {
		if !sess.ended {
			weights[sess.grant.Class] = sess.grant.Share
		}
	}
	for _, w := range weights {
		sum += w
	}
	out := map[string]holding{}
	for class, w := range weights {
		if out[class] = (holding{}); !a.grant.Own {
			part := w / sum
			out[class] = holding{max(1, int(part*float64(s.cfg.MaxSeqs-s.withheld))), max(int(part*float64(s.cfg.KVTokens)), s.cfg.MaxContext)}
		}
	}
	if a.grant.Own {
		out[a.grant.Class] = holding{s.cfg.MaxSeqs, s.cfg.KVTokens}
	}
	return out
}

// lack returns the slots and cells that are missing for an applicant. Called with mu
// held.
func (s *Stage) lack(a applicant, now time.Time) holding {
	groups, _, all := s.claims(now)
	slots, cells := s.evictable(a, s.beyond(groups, a, now), now)
	return holding{
		slots: a.slots - (len(s.free) - s.withheld - s.reserve(a)) - slots,
		cells: max(all.cells+a.need, s.kvUsed+s.kvKept-cells+a.first) - s.cfg.KVTokens,
	}
}

// reserve returns how many of the free slots an applicant leaves to those of full weight,
// so that these need not wait until a session has ended for them. Called with mu held.
func (s *Stage) reserve(a applicant) int {
	if a.grant.Own || a.grant.Share >= 1 {
		return 0
	}
	return (s.cfg.MaxSeqs - s.withheld) / reserved
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
	return !a.grant.Own && groups[a.group].with(a).exceeds(s.shareOf(a.group, now))
}

// yielders lists the sessions that may be evicted for an applicant, in the order of
// eviction: idle ones; those of other classes of no more weight that have more than they
// are entitled to; and those of other groups of its own class above their share; of these
// those of the groups that have the more before the younger ones. An applicant whose group
// is above its share evicts only sessions of other classes, one whose class has what it is
// entitled to none of these, and none evicts those of more weight or its own group's. So
// no two groups or classes can keep evicting each other. Called with mu held.
func (s *Stage) yielders(a applicant, now time.Time) (list []*session) {
	groups, classes, _ := s.claims(now)
	parts := s.entitled(a)
	group := !s.beyond(groups, a, now)
	class := !classes[a.grant.Class].with(a).exceeds(parts[a.grant.Class])
	var idle, others, fellows []*session
	for _, sess := range s.sessions {
		fellow := sess.grant.Class == a.grant.Class
		switch {
		case sess.ended || sess.group == a.group && fellow:
		case !a.grant.Own && (sess.grant.Own || sess.grant.Share > a.grant.Share):
		case !(fellow && group || !fellow && class):
		case sess.idleAt(now):
			idle = append(idle, sess)
		case fellow:
			fellows = append(fellows, sess)
		default:
			others = append(others, sess)
		}
	}
	slices.SortFunc(idle, func(x, y *session) int {
		if x.stepped != y.stepped {
			return map[bool]int{false: -1, true: 1}[x.stepped]
		}
		return x.worked.Compare(y.worked)
	})
	leave := func(sess *session) {
		for _, h := range []*holding{groups[sess.group], classes[sess.grant.Class]} {
			h.slots--
			h.cells -= sess.claim(now)
		}
		list = append(list, sess)
	}
	for _, sess := range idle {
		leave(sess)
	}
	young := func(x, y *session) int { return cmp.Compare(y.born, x.born) }
	slices.SortFunc(others, young)
	slices.SortFunc(fellows, young)
	above := func(sess *session) bool { return groups[sess.group].exceeds(s.shareOf(sess.group, now)) }
	var within []*session
	for _, sess := range others {
		switch {
		case !classes[sess.grant.Class].exceeds(parts[sess.grant.Class]):
		case above(sess):
			leave(sess)
		default:
			within = append(within, sess)
		}
	}
	for _, sess := range within {
		if classes[sess.grant.Class].exceeds(parts[sess.grant.Class]) {
			leave(sess)
		}
	}
	for _, sess := range fellows {
		if above(sess) {
			leave(sess)
		}
	}
	return list
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

// Room returns how many KV cells a new session of a client could have: the free ones
// and, within the shares of its class and group, those of sessions that would be evicted
// for it. It is 0 if the rules give it none.
func (s *Stage) Room(c Client) int {
	g, e := s.cfg.Lending.Grant(c, s.want(nil))
	if e != nil {
		return 0
	}
	a := s.applicant(c.Peer, g)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	groups, classes, all := s.claims(now)
	free := max(0, s.cfg.KVTokens-all.cells)
	if a.grant.Own {
		return max(free, s.cfg.KVTokens-groups[a.group].with(a).cells)
	}
	fellows, others := 0, 0
	for _, sess := range s.yielders(a, now) {
		if sess.grant.Class == a.grant.Class {
			fellows += sess.claim(now)
		} else {
			others += sess.claim(now)
		}
	}
	fellows = min(fellows, max(0, s.shareOf(a.group, now).cells-groups[a.group].with(a).cells-free))
	others = min(others, max(0, s.entitled(a)[a.grant.Class].cells-classes[a.grant.Class].with(a).cells-free))
	return free + max(fellows, others)
}

// grow takes the cells for a session's positions before upto, and some ahead if there
// are enough. It returns false if cells are missing. Called with mu held.
func (s *Stage) grow(sess *session, upto int, now time.Time) bool {
	if upto <= sess.cells {
		return true
	}
	for _, want := range []int{min(sess.reserved, upto+ahead), upto} {
		a := applicant{group: sess.group, grant: sess.grant, first: want - sess.cells}
		if s.evict(a, now) {
			s.kvUsed += want - sess.cells
			sess.cells = want
			return true
		}
	}
	return false
}

// spare is grow for the row of a guess: it takes only cells that are free, and that no
// session waits for, and none ahead. Called with mu held.
func (s *Stage) spare(sess *session, upto int) bool {
	more := upto - sess.cells
	switch {
	case more <= 0:
		return true
	case s.starved || s.kvUsed+s.kvKept+more > s.cfg.KVTokens:
		return false
	}
	s.kvUsed += more
	sess.cells = upto
	return true
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
		return cmp.Or(cmp.Compare(y.weight(), x.weight()), cmp.Compare(groups[x.group].cells, groups[y.group].cells), cmp.Compare(x.group, y.group), bytes.Compare(x.key.id[:], y.key.id[:]))
	}
	first := slices.MinFunc(starved, higher)
	st := first.pending[0]
	a := applicant{group: first.group, grant: first.grant, first: st.base + st.rows - first.cells}
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
