package stage

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// kept is the prefix of a session that has ended: its KV, and the activations sent
// on for it. The same client's next session with that prefix reuses it. Its cells
// count as free: it is evicted when they are needed.
type kept struct {
	client peer.ID
	group  string
	share  float64 // weight of the session's class
	since  time.Time
	round  rounding
	prefix []uint64
	tokens int // a multiple of protocol.PrefixBlock
	seq    int
	buf    *replay // nil at the last stage
	ids    []int32 // at a first stage that runs ahead: its tokens
}

// origin is the source of a new session's prefix: an ended session, whose slot it
// takes over, or a running one, whose cells it shares.
type origin struct {
	tokens int
	ended  *kept
	live   *session
}

// ids returns the tokens of an origin at a first stage that runs ahead. Called with mu
// held.
func (o origin) ids() []int32 {
	if o.ended != nil {
		return o.ended.ids[:o.tokens:o.tokens]
	}
	return slices.Clone(o.live.lead.ids[:o.tokens])
}

// findPrefix returns the origin with the longest common prefix. Called with mu held.
func (s *Stage) findPrefix(client peer.ID, of rounding, prefix []uint64, most int) (o origin) {
	most -= most % protocol.PrefixBlock
	for _, k := range s.kept {
		if n := min(k.tokens, most, protocol.SharedPrefix(k.prefix, prefix)); k.client == client && k.round == of && n > o.tokens {
			o = origin{tokens: n, ended: k}
		}
	}
	for _, sess := range s.sessions {
		n := min(sess.sure(), most, protocol.SharedPrefix(sess.prefix, prefix))
		n -= n % protocol.PrefixBlock
		if sess.peer == client && roundingOf(sess.open) == of && !sess.ended && n > o.tokens {
			o = origin{tokens: n, live: sess}
		}
	}
	return o
}

// Kept returns how many tokens of a client's prefix this stage has cached.
func (s *Stage) Kept(client peer.ID, prefix []uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := 0
	for _, of := range roundings() {
		best = max(best, s.findPrefix(client, of, prefix, len(prefix)*protocol.PrefixBlock).tokens)
	}
	return best
}

// mayEvict reports whether a kept prefix may be evicted for an applicant. One
// that is above its share may evict only its own group's, those of less weight, those
// older than keptTime, and those of groups that keep more than their share. Called with
// mu held.
func (s *Stage) mayEvict(k *kept, a applicant, beyond bool, keeps map[string]*holding, now time.Time) bool {
	share := s.share()
	return !beyond || k.group == a.group || k.share < a.grant.Share || now.Sub(k.since) > keptTime ||
		keeps[k.group].slots > share.slots || keeps[k.group].cells > share.cells
}

// keeps sums up the kept prefixes by group. Called with mu held.
func (s *Stage) keeps() map[string]*holding {
	keeps := map[string]*holding{}
	for _, k := range s.kept {
		if keeps[k.group] == nil {
			keeps[k.group] = &holding{}
		}
		keeps[k.group].add(k.tokens)
	}
	return keeps
}

// evictable returns how many slots and cells of kept prefixes an applicant may take.
// Called with mu held.
func (s *Stage) evictable(a applicant, beyond bool, now time.Time) (slots, cells int) {
	keeps := s.keeps()
	for _, k := range s.kept {
		if s.mayEvict(k, a, beyond, keeps, now) {
			keeps[k.group].slots--
			keeps[k.group].cells -= k.tokens
			slots++
			cells += k.tokens
		}
	}
	return slots, cells
}

// evict evicts kept prefixes, the oldest first, until the slot and the cells that an
// applicant needs at once are free. It returns false if that is not enough. Called
// with mu held.
func (s *Stage) evict(a applicant, now time.Time) bool {
	full := func() bool {
		return s.kvUsed+s.kvKept+a.first > s.cfg.KVTokens || a.slots > 0 && len(s.free)-s.withheld-s.reserve(a) < a.slots
	}
	if !full() {
		return true
	}
	groups, _, _ := s.claims(now)
	beyond, keeps := s.beyond(groups, a, now), s.keeps()
	for _, k := range slices.Clone(s.kept) {
		if !full() {
			return true
		}
		if !s.mayEvict(k, a, beyond, keeps, now) {
			continue
		}
		keeps[k.group].slots--
		keeps[k.group].cells -= k.tokens
		s.giveUp(k)
	}
	return !full()
}

// giveUp evicts a kept prefix. Called with mu held.
func (s *Stage) giveUp(k *kept) {
	s.take(k)
	s.ops = append(s.ops, op{run: func() error { return s.engine.Remove(k.seq, 0) }})
	s.free = append(s.free, k.seq) // the loop runs ops before any pass
	if k.buf != nil {
		k.buf.close()
	}
}

// forgetOld gives up kept prefixes that nobody has come back for. Called with mu held.
func (s *Stage) forgetOld(now time.Time) (some bool) {
	for len(s.kept) > 0 && now.Sub(s.kept[0].since) > keptMost {
		s.giveUp(s.kept[0])
		some = true
	}
	return some
}

// take removes a kept prefix from the list. Called with mu held.
func (s *Stage) take(k *kept) {
	for i, x := range s.kept {
		if x == k {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			s.kvKept -= k.tokens
			return
		}
	}
}

// keep keeps the prefix of a session that has ended; it returns false if there is
// nothing worth keeping. The loop calls it before it frees the session's slot.
func (s *Stage) keep(sess *session) bool {
	s.mu.Lock()
	n := min(sess.sure(), len(sess.prefix)*protocol.PrefixBlock)
	n -= n % protocol.PrefixBlock
	prefix := sess.prefix
	s.mu.Unlock()
	if n == 0 || s.ctx.Err() != nil || s.engine.Remove(sess.seq, int32(n)) != nil {
		return false
	}
	if sess.buf != nil {
		if sess.buf.truncate(n); !sess.buf.has(n) {
			return false // a session that continues from it could not be replayed elsewhere
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &kept{client: sess.peer, group: sess.group, share: sess.grant.Share, since: time.Now(), round: roundingOf(sess.open), prefix: prefix[:n/protocol.PrefixBlock], tokens: n, seq: sess.seq, buf: sess.buf}
	if sess.lead != nil {
		k.ids = slices.Clone(sess.lead.ids[:n])
	}
	for _, old := range append([]*kept(nil), s.kept...) { // those that the new one contains
		if old.client == k.client && old.round == k.round && old.tokens <= n && protocol.SharedPrefix(old.prefix, k.prefix) == old.tokens {
			s.giveUp(old)
		}
	}
	s.kept = append(s.kept, k)
	s.kvKept += n
	return true
}

// begin fills a new session's slot with its origin's positions and returns how many
// there are: 0 if the origin cannot be used.
func (s *Stage) begin(sess *session, o origin) int {
	if o.tokens == 0 {
		return 0
	}
	err := s.do(func() error {
		if o.ended != nil {
			return s.engine.Remove(sess.seq, int32(o.tokens))
		}
		s.mu.Lock()
		alive := s.sessions[o.live.key] == o.live && o.live.sure() >= o.tokens
		s.mu.Unlock()
		if !alive {
			return errNoReplay
		}
		return s.engine.CopyPrefix(o.live.seq, sess.seq, int32(o.tokens))
	})
	if err == nil {
		err = s.inherit(sess, o)
	}
	if err != nil {
		if s.do(func() error { return s.engine.Remove(sess.seq, 0) }) != nil {
			sess.fail(protocol.Errorf(protocol.Code_CODE_ENGINE, "the engine refused the session"))
		}
		return 0
	}
	return o.tokens
}

// inherit returns a replay buffer with the activations that a session's origin sent.
func (s *Stage) inherit(sess *session, o origin) error {
	if s.cfg.last() {
		return nil
	}
	var buf *replay
	if o.ended != nil {
		buf = o.ended.buf
		buf.truncate(o.tokens)
	} else {
		buf = o.live.buf.clone(o.tokens)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.lead != nil {
		sess.lead.ids = o.ids()
	}
	if sess.ended || !buf.has(o.tokens) {
		buf.close()
		return errNoReplay
	}
	sess.buf = buf
	return nil
}
