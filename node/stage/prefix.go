package stage

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// kept is the beginning of a session that has ended: its KV, and what was sent
// on of it. It serves the next session of the same client that begins alike,
// and goes when its room is needed: it counts as free.
type kept struct {
	client peer.ID
	group  string
	since  time.Time
	codec  protocol.TensorCodec
	prefix []uint64
	tokens int // a multiple of protocol.PrefixBlock
	seq    int
	buf    *replay // nil at the last stage
}

// origin is where a new session's beginning comes from: an ended session,
// whose slot it takes over, or one under way, whose cells it shares.
type origin struct {
	tokens int
	ended  *kept
	live   *session
}

// findPrefix gives the longest beginning that is at hand. Called with mu held.
func (s *Stage) findPrefix(client peer.ID, codec protocol.TensorCodec, prefix []uint64, most int) (o origin) {
	most -= most % protocol.PrefixBlock
	for _, k := range s.kept {
		if n := min(k.tokens, most, protocol.SharedPrefix(k.prefix, prefix)); k.client == client && k.codec == codec && n > o.tokens {
			o = origin{tokens: n, ended: k}
		}
	}
	for _, sess := range s.sessions {
		n := min(sess.computed, most, protocol.SharedPrefix(sess.prefix, prefix))
		n -= n % protocol.PrefixBlock
		if sess.peer == client && sess.open.Codec == codec && !sess.ended && n > o.tokens {
			o = origin{tokens: n, live: sess}
		}
	}
	return o
}

// Kept is how many tokens of a client's prefix this stage has.
func (s *Stage) Kept(client peer.ID, prefix []uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := 0
	for codec := range protocol.TensorCodec_name {
		best = max(best, s.findPrefix(client, protocol.TensorCodec(codec), prefix, len(prefix)*protocol.PrefixBlock).tokens)
	}
	return best
}

// mayEvict says that an applicant may have a kept beginning given up: beyond
// its own share only its own, what is older, and what others keep beyond theirs.
// Called with mu held.
func (s *Stage) mayEvict(k *kept, a applicant, beyond bool, keeps map[string]*holding, now time.Time) bool {
	share := s.share()
	return !beyond || k.group == a.group || now.Sub(k.since) > keptTime ||
		keeps[k.group].slots > share.slots || keeps[k.group].cells > share.cells
}

// keeps sums up what is kept, by group. Called with mu held.
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

// evictable is how many slots and cells an applicant can have of what is kept.
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

// evict gives up ended sessions' beginnings, the oldest first, until there are
// the free slot and the cells that an applicant needs at once. False: there
// is not enough. Called with mu held.
func (s *Stage) evict(a applicant, now time.Time) bool {
	full := func() bool { return s.kvUsed+s.kvKept+a.first > s.cfg.KVTokens || len(s.free) < a.slots }
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

// giveUp forgets a kept beginning. Called with mu held.
func (s *Stage) giveUp(k *kept) {
	s.take(k)
	s.ops = append(s.ops, op{run: func() error { return s.engine.Remove(k.seq, 0) }})
	s.free = append(s.free, k.seq) // the loop runs ops before any pass
	if k.buf != nil {
		k.buf.close()
	}
}

// take takes a kept beginning off the list. Called with mu held.
func (s *Stage) take(k *kept) {
	for i, x := range s.kept {
		if x == k {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			s.kvKept -= k.tokens
			return
		}
	}
}

// keep makes a kept beginning of a session that has ended; false if nothing of
// it is worth it. The loop calls it, before it would free the session's slot.
func (s *Stage) keep(sess *session) bool {
	s.mu.Lock()
	n := min(sess.computed, len(sess.prefix)*protocol.PrefixBlock)
	n -= n % protocol.PrefixBlock
	prefix := sess.prefix
	s.mu.Unlock()
	if n == 0 || s.ctx.Err() != nil || s.engine.Remove(sess.seq, int32(n)) != nil {
		return false
	}
	if sess.buf != nil {
		if sess.buf.truncate(n); !sess.buf.has(n) {
			return false // a session that goes on from it could not be moved
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &kept{client: sess.peer, group: sess.group, since: time.Now(), codec: sess.open.Codec, prefix: prefix[:n/protocol.PrefixBlock], tokens: n, seq: sess.seq, buf: sess.buf}
	for _, old := range append([]*kept(nil), s.kept...) { // what the new one contains
		if old.client == k.client && old.codec == k.codec && old.tokens <= n && protocol.SharedPrefix(old.prefix, k.prefix) == old.tokens {
			s.giveUp(old)
		}
	}
	s.kept = append(s.kept, k)
	s.kvKept += n
	return true
}

// begin brings a new session's slot to where its origin leaves off, and gives
// how many positions that is: none if the origin turns out to be of no use.
func (s *Stage) begin(sess *session, o origin) int {
	if o.tokens == 0 {
		return 0
	}
	err := s.do(func() error {
		if o.ended != nil {
			return s.engine.Remove(sess.seq, int32(o.tokens))
		}
		s.mu.Lock()
		alive := s.sessions[o.live.key] == o.live && o.live.computed >= o.tokens
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

// inherit gives a session what its origin sent on, for replay.
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
	if sess.ended || !buf.has(o.tokens) {
		buf.close()
		return errNoReplay
	}
	sess.buf = buf
	return nil
}
