package exchange

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

const (
	lookEvery = 250 * time.Millisecond // a source without work looks for some
	aliveTime = 5 * time.Second        // a source that sent something within this time is active
	graceTime = 2 * time.Second        // to meet peers, before an origin is asked
	graceMost = 15 * time.Second       // the same, while a connection to some peer is being made
	enough    = 10 * time.Second       // if peers are done within this time, no origin is asked
)

// errOvertaken ends a request whose leaves other sources have sent.
var errOvertaken = errors.New("another was faster")

// scheduler decides which source is asked for which leaf.
//
// Each source is assigned the rarest leaf it has that nobody is asked for
// (fewest peers have it); ties follow this fetch's random order. Faster sources
// return sooner and so get more. At the end, a source without work takes over a
// leaf that a slower one is still sending; whichever comes second is cancelled.
//
// What a swarm is short of is the upload of origins and of holders that do not
// fetch. So each leaf has one owner, who gets it from there for the whole swarm
// (ownership.go).
type scheduler struct {
	f *fetch

	mu         sync.Mutex
	wake       chan struct{} // closed and replaced when there may be work
	open       []*openLeaf   // in this fetch's order; some may be done
	byNumber   map[int]*openLeaf
	openLeaves int         // that have not come
	bytesLeft  int64       // of those
	storing    int         // leaves that have come and are not on disk yet
	peersWith  map[int]int // peers that have a leaf, by its number
	swarmWith  map[int]int // those of them that fetch
	sources    map[*sourceState]struct{}
	fromPeer   time.Time     // when bytes of a leaf last came from a peer
	peerBytes  int64         // of leaves that came from peers
	ownBytes   int64         // of leaves that this node was the first of the swarm to have
	ownAt      time.Time     // when the last of those came
	ownTook    time.Duration // for those to come, without pauses
	passedAt   time.Time     // when a member was last passed over
	began      time.Time
}

// openLeaf is a leaf that is missing.
type openLeaf struct {
	need       Need
	requests   []*request // that are under way
	done       bool
	sharedAt   time.Time // when another member first had it; zero: none has had it
	orphanedAt time.Time // when the last other member that had it was lost, or it was opened
}

// request is some leaves that one source was asked for, in the order in which
// they come.
type request struct {
	ctx       context.Context
	cancel    context.CancelCauseFunc
	source    *sourceState
	leaves    []*openLeaf
	arrived   int // leaves
	open      int // leaves that no source has sent
	sinceLast time.Time
}

func newScheduler(f *fetch) *scheduler {
	return &scheduler{
		f: f, wake: make(chan struct{}), byNumber: map[int]*openLeaf{}, peersWith: map[int]int{}, swarmWith: map[int]int{},
		sources: map[*sourceState]struct{}{}, began: time.Now(), fromPeer: time.Now(),
	}
}

// add adds leaves that are not open yet.
func (s *scheduler) add(need []Need) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range need {
		if t := s.byNumber[n.Number]; t != nil && !t.done {
			continue
		}
		t := &openLeaf{need: n, orphanedAt: time.Now()}
		s.byNumber[n.Number] = t
		s.open = append(s.open, t)
		s.openLeaves++
		s.bytesLeft += int64(n.Size)
	}
	slices.SortStableFunc(s.open, func(a, b *openLeaf) int {
		return cmp.Compare(s.f.hash(a.need.CID), s.f.hash(b.need.CID))
	})
	s.wakeAll()
}

// wakeAll wakes the workers that wait in next. Called with mu held.
func (s *scheduler) wakeAll() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// openBits sets the bits of the leaves that are open.
func (s *scheduler) openBits(bits []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.open {
		if !t.done && t.need.Number>>3 < len(bits) {
			protocol.SetBit(bits, t.need.Number)
		}
	}
}

// peerHas takes what a peer reports to have and to want. It returns how many leaves the peer has got since it joined.
func (s *scheduler) peerHas(m *swarmPeer, st *protocol.LeavesState) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.gone {
		return m.gotLeaves
	}
	if st.Total != 0 {
		s.setState(m, st)
	}
	for _, n := range st.Got {
		i := int(n)
		if protocol.Bit(m.held, i) {
			continue
		}
		s.creditLeaf(m, i)
		protocol.SetBit(m.held, i)
		s.peersWith[i]++
		if m.inSwarm {
			s.addHolder(m, i, 1)
		}
		m.gotLeaves++
		if protocol.Bit(m.wanted, i) {
			m.leavesLeft--
		}
	}
	s.wakeAll()
	return m.gotLeaves
}

// setState takes a report that lists all that a peer has and wants. Called with
// mu held.
func (s *scheduler) setState(m *swarmPeer, st *protocol.LeavesState) {
	for i := range s.f.total {
		if m.held != nil && protocol.Bit(st.Held, i) && !protocol.Bit(m.held, i) {
			s.creditLeaf(m, i)
			m.gotLeaves++
		}
	}
	s.count(m, -1)
	m.held, m.wanted, m.leavesLeft = st.Held, st.Wanted, 0
	for i := range s.f.total {
		if protocol.Bit(m.wanted, i) && !protocol.Bit(m.held, i) {
			m.leavesLeft++
		}
	}
	m.inSwarm = m.inSwarm || m.leavesLeft > 0
	s.count(m, 1)
}

// count adds (by = 1) or removes (by = -1) all leaves that a peer has. Called
// with mu held.
func (s *scheduler) count(m *swarmPeer, by int) {
	for i := range s.f.total {
		if protocol.Bit(m.held, i) {
			s.peersWith[i] += by
			if m.inSwarm {
				s.addHolder(m, i, by)
			}
		}
	}
}

// addHolder notes that one member more (by = 1) or fewer (by = -1) has a leaf.
// Called with mu held.
func (s *scheduler) addHolder(m *swarmPeer, leaf, by int) {
	was := s.swarmWith[leaf]
	s.swarmWith[leaf] += by
	t := s.byNumber[leaf]
	switch {
	case t == nil || m.unreliable:
	case was == 0 && t.sharedAt.IsZero():
		t.sharedAt = time.Now()
	case was+by == 0:
		t.orphanedAt = time.Now()
	}
}

// peerLacks notes that a peer does not have a leaf that it claimed to have. Such
// a peer owns no leaves any more.
func (s *scheduler) peerLacks(m *swarmPeer, leaf int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if protocol.Bit(m.held, leaf) {
		m.held[leaf>>3] &^= 1 << (leaf & 7)
		s.peersWith[leaf]--
		if m.inSwarm {
			s.addHolder(m, leaf, -1)
		}
		m.unreliable = true
	}
}

// addSource makes a source known. leave forgets it.
func (s *scheduler) addSource(st *sourceState) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sources[st] = struct{}{}
	s.wakeAll()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sources, st)
		if st.swarmPeer != nil {
			s.count(st.swarmPeer, -1)
			st.swarmPeer.held, st.swarmPeer.wanted, st.swarmPeer.gone = nil, nil, true
		}
		s.wakeAll()
	}
}

// sourceless reports whether leaves are open, and none of them has a source
// besides bitswap.
func (s *scheduler) sourceless() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := slices.ContainsFunc(s.open, func(t *openLeaf) bool { return !t.done })
	for st := range s.sources {
		if st == s.f.viaBitswap {
			continue
		}
		for _, t := range s.open {
			if !t.done && st.src.mayAsk(t.need) {
				return false
			}
		}
	}
	return open && s.storing == 0
}

// next waits until there is work for a source and assigns it. It returns nil
// when ctx ends, when until returns true, or, if until is set, when no leaf is
// open.
func (s *scheduler) next(ctx context.Context, st *sourceState, until func() bool) *request {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil && (until == nil || !until()) {
		ready := st.ready == nil || st.ready()
		s.mu.Lock()
		ready = ready && !time.Now().Before(st.pausedUntil)
		if s.openLeaves+s.storing == 0 && until != nil {
			s.mu.Unlock()
			return nil
		}
		if ready {
			if req := s.assign(ctx, st); req != nil {
				s.mu.Unlock()
				return req
			}
		}
		wake := s.wake
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
	return nil
}

// assign assigns work to a source that is free now; nil: there is none. Called
// with mu held.
func (s *scheduler) assign(ctx context.Context, st *sourceState) *request {
	leaves := s.pick(st)
	if len(leaves) == 0 {
		if t := s.slowest(st); t != nil {
			leaves = []*openLeaf{t}
		}
	}
	if len(leaves) == 0 {
		return nil
	}
	req := &request{source: st, leaves: leaves, open: len(leaves), sinceLast: time.Now()}
	req.ctx, req.cancel = context.WithCancelCause(ctx)
	for _, t := range leaves {
		t.requests = append(t.requests, req)
	}
	st.busyWorkers++
	return req
}

// moment is what rank needs to know besides the leaf, looked up once per choice.
type moment struct {
	now         time.Time
	idle        time.Duration // since anything came to this fetch
	patience    time.Duration // with an owner
	peersSlow   bool          // an origin may be asked for what holders have
	bitswapOnly bool          // there are holders that only bitswap reaches
}

// moment looks at the clock for a source. Called with mu held.
func (s *scheduler) moment(st *sourceState) moment {
	at := moment{now: time.Now(), patience: s.patience()}
	at.idle, _, _ = s.f.idle()
	if st.origin != nil {
		at.peersSlow, at.bitswapOnly = s.peersAreSlow(), s.f.bitswapOnly()
	}
	return at
}

// pick chooses among the leaves that no source is asked for. Called with mu
// held.
func (s *scheduler) pick(st *sourceState) []*openLeaf {
	most := st.src.batch(st.rate())
	type choice struct {
		rank int
		leaf *openLeaf
	}
	var best []choice
	whole := st.origin != nil && st.origin.whole.Load()
	live := s.open[:0]
	at := s.moment(st)
	for _, t := range s.open {
		if t.done {
			continue
		}
		live = append(live, t)
		if len(t.requests) > 0 || !st.src.mayAsk(t.need) {
			continue
		}
		rank, ok := s.rank(st, t, at)
		if !ok || !whole && len(best) == most && rank >= best[most-1].rank {
			continue
		}
		i, _ := slices.BinarySearchFunc(best, rank, func(c choice, r int) int {
			if c.rank <= r { // equals stay in order
				return -1
			}
			return 1
		})
		best = slices.Insert(best, i, choice{rank, t})
		if !whole {
			best = best[:min(len(best), most)]
		}
	}
	clear(s.open[len(live):])
	s.open = live
	var out []*openLeaf
	for _, c := range best {
		out = append(out, c.leaf)
	}
	if st.origin != nil && len(out) > 0 && !whole {
		out = s.extendRun(st, out[0], most, at)
	}
	if st.origin != nil {
		slices.SortFunc(out, func(a, b *openLeaf) int { return cmp.Compare(a.need.Offset, b.need.Offset) })
	}
	return out
}

// extendRun adds the leaves that follow a leaf in the file, and those before it,
// up to what fits one request. Called with mu held.
func (s *scheduler) extendRun(st *sourceState, t *openLeaf, most int, at moment) []*openLeaf {
	out := []*openLeaf{t}
	for n := t.need.Number + 1; len(out) < most; n++ {
		last, next := out[len(out)-1].need, s.byNumber[n]
		if next == nil || next.done || len(next.requests) > 0 || next.need.File != last.File || next.need.Offset != last.Offset+int64(last.Size) {
			break
		}
		if _, ok := s.rank(st, next, at); !ok {
			break
		}
		out = append(out, next)
	}
	for n := t.need.Number - 1; len(out) < most; n-- {
		first, prev := out[0].need, s.byNumber[n]
		if prev == nil || prev.done || len(prev.requests) > 0 || prev.need.File != first.File || first.Offset != prev.need.Offset+int64(prev.need.Size) {
			break
		}
		if _, ok := s.rank(st, prev, at); !ok {
			break
		}
		out = slices.Insert(out, 0, prev)
	}
	return out
}

// rank returns a leaf's rank for a source (lower goes first), and whether the
// source may be asked for it now. Called with mu held.
func (s *scheduler) rank(st *sourceState, t *openLeaf, at moment) (int, bool) {
	rank := s.peersWith[t.need.Number]
	switch {
	case st.origin != nil && !st.origin.http: // a local file costs nobody anything
		return rank, true
	case st.origin != nil:
		if s.swarmWith[t.need.Number] > 0 {
			return rank, s.swarmFails(t, at)
		}
		if !at.peersSlow && (rank > 0 || at.bitswapOnly) {
			return 0, false
		}
	case st.swarmPeer == nil || st.swarmPeer.inSwarm:
		return rank, true
	}
	owner := s.owner(t)
	for owner != nil && s.passOver(owner, t, at) {
		owner = s.owner(t)
	}
	switch {
	case owner == nil:
		return rank, true
	case s.lags(owner, at.now) && s.after(owner, t) == nil, s.starves(t, at):
		return rank + 1<<20, true
	}
	return 0, false
}

// bytesCame notes that bytes of a leaf come from a peer.
func (s *scheduler) bytesCame() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fromPeer = time.Now()
}

// peersAreSlow reports whether an origin may be asked for leaves that holders
// outside the swarm have as well. Called with mu held.
func (s *scheduler) peersAreSlow() bool {
	var rate float64
	for st := range s.sources {
		if st.origin == nil {
			rate += st.rate()
		}
	}
	return float64(s.bytesLeft) > rate*enough.Seconds()
}

// slowest returns the leaf that another source is sending and that this one
// would bring soonest in comparison; nil: there is none. Called with mu held.
func (s *scheduler) slowest(st *sourceState) *openLeaf {
	at := s.moment(st)
	at.peersSlow = true
	var best *openLeaf
	var gain float64
	for _, t := range s.open {
		if t.done || len(t.requests) == 0 || !st.src.mayAsk(t.need) || slices.ContainsFunc(t.requests, func(req *request) bool { return req.source == st }) {
			continue
		}
		if len(t.requests) > 1 && (st.origin == nil || !s.starves(t, at)) {
			continue
		}
		if st.origin != nil {
			if _, ok := s.rank(st, t, at); !ok {
				continue
			}
		}
		mine := 0.5
		if st.workerRate > 0 {
			mine = float64(t.need.Size) / st.workerRate
		}
		if theirs := t.requests[0].timeLeft(t, at.now); theirs > 1.5*mine+0.1 && theirs-mine > gain {
			best, gain = t, theirs-mine
		}
	}
	return best
}

// timeLeft estimates in how many seconds a request brings a leaf: from its
// source's rate, or, if that time is over, the time it has taken so far. Called
// with scheduler.mu held.
func (req *request) timeLeft(t *openLeaf, now time.Time) float64 {
	var bytes int64
	for _, o := range req.leaves[min(req.arrived, len(req.leaves)):] {
		bytes += int64(o.need.Size)
		if o == t {
			break
		}
	}
	took := now.Sub(req.sinceLast).Seconds()
	if req.source.workerRate <= 0 {
		return took
	}
	if rest := float64(bytes)/req.source.workerRate - took; rest > 0 {
		return rest
	}
	return took
}

// received notes that a leaf has come and is being stored. It returns false if
// another source was faster.
func (s *scheduler) received(req *request, i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, st := req.leaves[i], req.source
	now := time.Now()
	if took := now.Sub(req.sinceLast).Seconds(); took > 0 {
		r := float64(t.need.Size) / took
		if st.workerRate == 0 {
			st.workerRate = r
		}
		st.workerRate += (r - st.workerRate) / 4
	}
	req.arrived, req.sinceLast = i+1, now
	st.lastCame = now
	if st.origin == nil {
		s.fromPeer = now
		s.peerBytes += int64(t.need.Size)
	}
	if t.done {
		return false
	}
	if s.swarmWith[t.need.Number] == 0 {
		s.ownTook += min(s.patience()/4, now.Sub(latest(s.began, s.ownAt)))
		s.ownBytes += int64(t.need.Size)
		s.ownAt = now
	}
	t.done = true
	s.openLeaves--
	s.storing++
	s.bytesLeft -= int64(t.need.Size)
	for _, o := range t.requests {
		if o.open--; o.open == 0 && o != req {
			o.cancel(errOvertaken)
		}
	}
	return true
}

// stored notes that a leaf which was received is on disk. The last one ends the
// fetch.
func (s *scheduler) stored() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.storing--; s.openLeaves+s.storing == 0 {
		s.wakeAll()
	}
}

// pause makes all workers of a source wait.
func (s *scheduler) pause(st *sourceState, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.pausedUntil = time.Now().Add(pause)
}

// finish ends a request and makes the leaves that did not come available to
// other sources.
func (s *scheduler) finish(req *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := false
	for _, t := range req.leaves {
		t.requests = slices.DeleteFunc(t.requests, func(o *request) bool { return o == req })
		open = open || !t.done
	}
	req.source.busyWorkers--
	req.cancel(nil)
	if open {
		s.wakeAll()
	}
}

// active counts the sources that sent something in the last aliveTime.
func (s *scheduler) active(now time.Time) (peers, origins int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.sources {
		switch lately := now.Sub(st.lastCame) < aliveTime; {
		case lately && st.origin != nil:
			origins++
		case lately && st.swarmPeer != nil:
			peers++
		}
	}
	return peers, origins
}
