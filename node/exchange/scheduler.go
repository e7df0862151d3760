package exchange

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/shoalnet/shoal/protocol"
)

const (
	lookAround = 250 * time.Millisecond // how often a source without work looks for some
	aliveTime  = 5 * time.Second        // since a mate's last news: it makes progress
	graceTime  = 2 * time.Second        // for peers to be met, before an origin is asked
	graceMost  = 15 * time.Second       // the same, while some are being joined
	enough     = 10 * time.Second       // peers that are done so soon need no origin

	// An owner that brings nothing is passed over after gaps times the swarm's
	// mean time between two leaves of one member, and not before patienceLeast;
	// after patienceFirst while nothing is known of the swarm's speed.
	gaps          = 8
	patienceLeast = 10 * time.Second
	patienceFirst = 30 * time.Second
	starveTime    = giveUp * 2 / 3 // without a byte, before anything is asked of anyone
	starveStep    = time.Second    // later for each member that comes before
	ahead         = 4              // leaves that tell nothing of a member's speed
	mostTries     = 6              // of a source, in a row
	pauseMost     = 30 * time.Second
	runLeaves     = 8 // leaves in a row whose first source is the same
)

// errBad marks what an honest source does not send.
var errBad = errors.New("it sends what is not what it was asked for")

// errTaken ends an errand whose leaves another source has brought.
var errOvertaken = errors.New("another was faster")

// permanent is a failure that another try would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// later is a failure with a word on when to try again.
type later struct {
	error
	after time.Duration
}

func (l later) Unwrap() error { return l.error }

// Need is a block that is lacking. What a leaf's number and place are, is
// needed by sources other than bitswap; Number is -1 where they are not known.
type Need struct {
	CID    cid.Cid
	Number int
	Size   int // bytes
	File   int // of the model's, and where in it the leaf begins
	Offset int64
}

// source is somewhere leaves come from: a peer in bulk, an origin, or, as one,
// all peers that only speak bitswap.
type source interface {
	name() string
	mayAsk(n Need) bool     // it may be asked for the leaf; called with desk.mu held
	batch(rate float64) int // how many to ask for at once, by its rate in bytes a second
	workers() int           // how often at once
	// get asks for leaves and calls got with each as it comes; nothing has
	// been checked then.
	get(ctx context.Context, ask []Need, got func(i int, data []byte) error) error
}

// desk hands out work: which source is to bring which leaf.
//
// Of what a source can give, and nobody is at, it is given what fewest mates
// have, in this fetch's own order; who gives faster comes back for more sooner.
// Holders that do not fetch, and origins, are what a swarm is short of. So each
// leaf has one mate, the same in all mates' eyes (see owner), that is to get it
// from there; the others have it from that mate, and take its part over only if
// it will not be done soon. An origin is asked for nothing that a mate has, or
// that other peers give fast enough. At the end, a source with nothing left to
// do takes over what a slow one is at; who comes second is called off.
type scheduler struct {
	f    *fetch
	salt uint64 // own salt

	mu          sync.Mutex
	wake        chan struct{}     // closed and replaced when there may be work
	open        []*openLeaf       // some may be done
	byNumber    map[int]*openLeaf // by number
	openLeaves  int               // open
	bytesLeft   int64             // bytes
	storing     int               // leaves that have come and are being kept
	bitswapOnly bool              // there are holders that only bitswap reaches
	peersWith   map[int]int       // how many mates have a leaf
	swarmWith   map[int]int       // and of those that fetch
	sources     map[*sourceState]struct{}
	fromPeer    time.Time     // bytes of a leaf came from a peer
	peerBytes   int64         // bytes that came from peers
	ownBytes    int64         // bytes that this node was the first of the swarm to have
	ownAt       time.Time     // the last of those came
	ownTook     time.Duration // to get those, without pauses
	passedAt    time.Time     // a member was passed over
	began       time.Time
}

// task is a leaf that is lacking.
type openLeaf struct {
	need           Need
	requests       []*request
	done           bool
	holdersChanged time.Time // some other member of the swarm has had it, or none has
}

// errand is a source at work on some leaves.
type request struct {
	ctx       context.Context
	cancel    context.CancelCauseFunc
	source    *sourceState
	leaves    []*openLeaf
	arrived   int // that comes next
	open      int // that nobody has brought
	sinceLast time.Time
}

// seat is a source's place at the desk.
type sourceState struct {
	src       source
	swarmPeer *swarmPeer // nil unless it is one
	origin    *origin    // likewise
	ready     func() bool

	// With desk.mu:
	workerRate  float64 // bytes a second of one worker
	busyWorkers int     // workers
	bytesCame   int64
	lastCame    time.Time
	pausedUntil time.Time // it is not asked
}

func newScheduler(f *fetch) *scheduler {
	return &scheduler{
		f: f, salt: saltOf(f.x.host.ID()), wake: make(chan struct{}), byNumber: map[int]*openLeaf{}, peersWith: map[int]int{}, swarmWith: map[int]int{},
		sources: map[*sourceState]struct{}{}, began: time.Now(), fromPeer: time.Now(),
	}
}

// saltOf is the same for a peer everywhere.
func saltOf(p peer.ID) uint64 {
	sum := sha256.Sum256([]byte(p))
	return binary.LittleEndian.Uint64(sum[:])
}

// mix is SplitMix64's.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// add puts leaves on the desk, those that are not there yet.
func (s *scheduler) add(need []Need) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range need {
		if t := s.byNumber[n.Number]; t != nil && !t.done {
			continue
		}
		t := &openLeaf{need: n, holdersChanged: time.Now()}
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

// tellAll wakes those who wait for work. Called with mu held.
func (s *scheduler) wakeAll() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// wanted are the leaves on the desk, a bit each.
func (s *scheduler) openBits(bits []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.open {
		if !t.done && t.need.Number>>3 < len(bits) {
			protocol.SetBit(bits, t.need.Number)
		}
	}
}

// told takes what a mate says.
func (s *scheduler) peerHas(m *swarmPeer, st *protocol.LeavesState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.gone {
		return
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
}

// whole takes all that a mate has and wants. Called with mu held.
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

// gains notes that a mate got a leaf; if nobody else in the swarm has it, the
// mate brought it in. Called with mu held.
func (s *scheduler) creditLeaf(m *swarmPeer, leaf int) {
	if t := s.byNumber[leaf]; t == nil || t.done || s.swarmWith[leaf] > 0 {
		return
	}
	now := time.Now()
	m.broughtTook += min(s.patience()/4, now.Sub(latest(m.joined, m.broughtAt)))
	m.broughtBytes += int64(s.byNumber[leaf].need.Size)
	m.broughtAt, m.passed = now, false
}

// count adds what a mate holds to what there is. Called with mu held.
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

// shared notes that one more, or one less, in the swarm has a leaf. Called with mu held.
func (s *scheduler) addHolder(m *swarmPeer, leaf, by int) {
	was := s.swarmWith[leaf]
	s.swarmWith[leaf] += by
	if t := s.byNumber[leaf]; t != nil && !m.unreliable && (was == 0 || was+by == 0) {
		t.holdersChanged = time.Now()
	}
}

// lacks notes that a mate does not have a leaf after all.
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

// sit gives a source a place. leave takes it away.
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

// take waits for work and takes some. nil: there is none any more, or ctx or
// until says so.
func (s *scheduler) next(ctx context.Context, st *sourceState, until func() bool) *request {
	tick := time.NewTicker(lookAround)
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

// assign picks what a source is to do now. Called with mu held.
func (s *scheduler) assign(ctx context.Context, st *sourceState) *request {
	tasks := s.pick(st)
	if len(tasks) == 0 {
		if t := s.slowest(st); t != nil {
			tasks = []*openLeaf{t}
		}
	}
	if len(tasks) == 0 {
		return nil
	}
	req := &request{source: st, leaves: tasks, open: len(tasks), sinceLast: time.Now()}
	req.ctx, req.cancel = context.WithCancelCause(ctx)
	for _, t := range tasks {
		t.requests = append(t.requests, req)
	}
	st.busyWorkers++
	return req
}

// pick chooses among what nobody is at. Called with mu held.
func (s *scheduler) pick(st *sourceState) []*openLeaf {
	most := st.src.batch(st.rate())
	type choice struct {
		rank int
		task *openLeaf
	}
	var best []choice
	whole := st.origin != nil && st.origin.whole.Load()
	live := s.open[:0]
	now := time.Now()
	slow := st.origin != nil && s.peersAreSlow()
	s.bitswapOnly = st.origin != nil && s.f.bitswapOnly()
	for _, t := range s.open {
		if t.done {
			continue
		}
		live = append(live, t)
		if len(t.requests) > 0 || !st.src.mayAsk(t.need) {
			continue
		}
		rank, ok := s.rank(st, t, now, slow)
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
		out = append(out, c.task)
	}
	if st.origin != nil && len(out) > 0 && !whole {
		out = s.extendRun(st, out[0], most, now, slow)
	}
	if st.origin != nil {
		slices.SortFunc(out, func(a, b *openLeaf) int { return cmp.Compare(a.need.Offset, b.need.Offset) })
	}
	return out
}

// run extends a leaf to those that follow it in the file, for one request.
// Called with mu held.
func (s *scheduler) extendRun(st *sourceState, t *openLeaf, most int, now time.Time, slow bool) []*openLeaf {
	out := []*openLeaf{t}
	for n := t.need.Number + 1; len(out) < most; n++ {
		last, next := out[len(out)-1].need, s.byNumber[n]
		if next == nil || next.done || len(next.requests) > 0 || next.need.File != last.File || next.need.Offset != last.Offset+int64(last.Size) {
			break
		}
		if _, ok := s.rank(st, next, now, slow); !ok {
			break
		}
		out = append(out, next)
	}
	for n := t.need.Number - 1; len(out) < most; n-- {
		first, prev := out[0].need, s.byNumber[n]
		if prev == nil || prev.done || len(prev.requests) > 0 || prev.need.File != first.File || first.Offset != prev.need.Offset+int64(prev.need.Size) {
			break
		}
		if _, ok := s.rank(st, prev, now, slow); !ok {
			break
		}
		out = slices.Insert(out, 0, prev)
	}
	return out
}

// rank says how much a leaf is for a source to bring; less comes first. Called
// with mu held.
func (s *scheduler) rank(st *sourceState, t *openLeaf, now time.Time, slow bool) (int, bool) {
	rank := s.peersWith[t.need.Number]
	switch {
	case st.origin != nil && !st.origin.http: // a file of this machine
		return rank, true
	case st.origin != nil:
		if s.swarmWith[t.need.Number] > 0 {
			return rank, s.swarmFails(t, now)
		}
		if !slow && (rank > 0 || s.bitswapOnly) {
			return 0, false
		}
	case st.swarmPeer == nil || st.swarmPeer.inSwarm:
		return rank, true
	}
	owner := s.owner(t)
	for owner != nil && s.passOver(owner, t, now) {
		owner = s.owner(t)
	}
	switch {
	case owner == nil:
		return rank, true
	case s.lags(owner, now) && s.after(owner, t) == nil, s.starves(t):
		return rank + 1<<20, true
	}
	return 0, false
}

// before lists...
func (s *scheduler) nextInLine(t *openLeaf, after uint64) (*swarmPeer, uint64) {
	key := uint64(t.need.Number / runLeaves)
	var best *swarmPeer
	least := mix(s.salt ^ key)
	for st := range s.sources {
		m := st.swarmPeer
		if m == nil || m.passed || m.unreliable || !protocol.Bit(m.wanted, t.need.Number) || protocol.Bit(m.held, t.need.Number) {
			continue
		}
		if place := mix(m.salt ^ key); place < least && place > after {
			best, least = m, place
		}
	}
	return best, least
}

// owner is the mate that is to get a leaf from outside of the swarm; nil: this
// node. Called with mu held.
func (s *scheduler) owner(t *openLeaf) *swarmPeer {
	m, _ := s.nextInLine(t, 0)
	return m
}

// after is the mate that comes after another, before this node. Called with mu
// held.
func (s *scheduler) after(m *swarmPeer, t *openLeaf) *swarmPeer {
	n, _ := s.nextInLine(t, mix(m.salt^uint64(t.need.Number/runLeaves)))
	return n
}

// ahead counts the mates that come before this node. Called with mu held.
func (s *scheduler) countBefore(t *openLeaf) (n int) {
	for m, at := s.nextInLine(t, 0); m != nil; m, at = s.nextInLine(t, at) {
		n++
	}
	return n
}

// pass passes over an owner... Called with mu held.
func (s *scheduler) passOver(m *swarmPeer, t *openLeaf, now time.Time) bool {
	last := latest(m.joined, m.broughtAt, t.holdersChanged, s.passedAt)
	if now.Sub(last) <= s.patience() {
		return false
	}
	m.passed, s.passedAt = true, now
	return true
}

// latest is the last of some times.
func latest(list ...time.Time) time.Time { return slices.MaxFunc(list, time.Time.Compare) }

// patience with a member of the swarm that brings nothing. Called with mu held.
func (s *scheduler) patience() time.Duration {
	took, sum := s.ownTook, s.ownBytes
	for st := range s.sources {
		if m := st.swarmPeer; m != nil {
			took += m.broughtTook
			sum += m.broughtBytes
		}
	}
	return patience(took, sum)
}

func patience(took time.Duration, sum int64) time.Duration {
	if sum < protocol.LeafSize/2 {
		return patienceFirst
	}
	return max(patienceLeast, time.Duration(gaps*took.Seconds()*protocol.LeafSize/float64(sum)*float64(time.Second)))
}

// lags says that a member of the swarm gets leaves at less than half the mean
// rate. Called with mu held.
func (s *scheduler) lags(m *swarmPeer, now time.Time) bool {
	took, leaves := now.Sub(s.began), len(s.byNumber)-s.openLeaves
	for st := range s.sources {
		if o := st.swarmPeer; o != nil && o.inSwarm {
			took += now.Sub(o.joined)
			leaves += o.gotLeaves
		}
	}
	return 2*float64(m.gotLeaves+ahead)*took.Seconds() < float64(leaves)*now.Sub(m.joined).Seconds()
}

// swarmFails says that an origin may be asked for what others in the swarm have. Called with mu held.
func (s *scheduler) swarmFails(t *openLeaf, now time.Time) bool {
	quiet := now.Sub(latest(s.fromPeer, t.holdersChanged))
	if quiet < patienceLeast {
		return false
	}
	return quiet > patience(s.fromPeer.Sub(s.began), s.peerBytes)*time.Duration(1+s.countBefore(t)) || s.starves(t)
}

// starves says that nothing comes at all. Called with mu held.
func (s *scheduler) starves(t *openLeaf) bool {
	idle, _, _ := s.f.idle()
	return idle > starveTime && idle > starveTime+time.Duration(s.countBefore(t))*starveStep
}

// alive notes that bytes come from a peer.
func (s *scheduler) bytesCame() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fromPeer = time.Now()
}

// peersAreSlow says that origins may be asked for what peers have as well.
// Called with mu held.
func (s *scheduler) peersAreSlow() bool {
	var rate float64
	for st := range s.sources {
		if st.origin == nil {
			rate += st.rate()
		}
	}
	return float64(s.bytesLeft) > rate*enough.Seconds()
}

// slowest is what another source is at and this one would bring much sooner.
// Called with mu held.
func (s *scheduler) slowest(st *sourceState) *openLeaf {
	now := time.Now()
	var best *openLeaf
	var gain float64
	for _, t := range s.open {
		if t.done || len(t.requests) == 0 || !st.src.mayAsk(t.need) || slices.ContainsFunc(t.requests, func(req *request) bool { return req.source == st }) {
			continue
		}
		if len(t.requests) > 1 && (st.origin == nil || !s.starves(t)) {
			continue
		}
		if st.origin != nil {
			if _, ok := s.rank(st, t, now, true); !ok {
				continue
			}
		}
		mine := 0.5
		if st.workerRate > 0 {
			mine = float64(t.need.Size) / st.workerRate
		}
		if theirs := t.requests[0].timeLeft(t, now); theirs > 1.5*mine+0.1 && theirs-mine > gain {
			best, gain = t, theirs-mine
		}
	}
	return best
}

// rest is how long an errand will take until it brings a leaf, in seconds: by
// its source's rate, or, if it is slower than that, as long as it took already.
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

// rate is a source's, in bytes a second. Called with desk.mu held.
func (st *sourceState) rate() float64 {
	return st.workerRate * float64(max(st.busyWorkers, st.src.workers()))
}

// brought notes that a leaf has come and is being kept; false if another was
// faster.
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
	st.bytesCame += int64(t.need.Size)
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

// kept wakes who waits for work, or for its end.
func (s *scheduler) stored() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.storing--; s.openLeaves+s.storing == 0 {
		s.wakeAll()
	}
}

// rest has all workers of a source pause.
func (s *scheduler) pause(st *sourceState, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.pausedUntil = time.Now().Add(pause)
}

// end gives back what an errand did not bring.
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

// giving counts the sources that gave something lately.
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

// seat has a source work until ctx ends, it proves useless, or leave is called.
func (f *fetch) startSource(ctx context.Context, src source, gone func()) (leave func()) {
	st := &sourceState{src: src}
	st.swarmPeer, _ = src.(*swarmPeer)
	if st.origin, _ = src.(*origin); st.origin != nil && st.origin.http {
		st.ready = func() bool { return f.met() }
	}
	ctx, cancel := context.WithCancel(ctx)
	out := f.scheduler.addSource(st)
	over := make(chan struct{})
	go func() {
		defer close(over)
		g, gctx := errgroup.WithContext(ctx)
		for range src.workers() {
			g.Go(func() error { return f.work(gctx, st) })
		}
		err := g.Wait()
		out()
		if err != nil && ctx.Err() == nil {
			f.giveUpSource(st, err)
			gone()
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

// drop tells why a source is not asked any more.
func (f *fetch) giveUpSource(st *sourceState, err error) {
	name := st.src.name()
	if errors.Is(err, errBad) {
		f.blame(name, err.Error())
		return
	}
	f.x.log.Warn("a source is given up", "source", name, "model", f.model, "error", err)
	if st.origin != nil {
		f.trouble(fmt.Sprintf("%s is not asked any more: %s", name, err))
	}
}

// blame remembers a liar, and names it.
func (f *fetch) blame(name, why string) {
	f.x.ledger.blame(name)
	f.x.log.Warn("a source is dropped for "+badTime.String(), "source", name, "model", f.model, "why", why)
	f.trouble(fmt.Sprintf("%s is dropped: %s", name, why))
}

// work is a worker's: it takes work from the desk until there can be no more.
func (f *fetch) work(ctx context.Context, st *sourceState) error {
	for failed := 0; ; {
		req := f.scheduler.next(ctx, st, nil)
		if req == nil {
			return nil
		}
		ask := make([]Need, len(req.leaves))
		for i, t := range req.leaves {
			ask[i] = t.need
		}
		n := 0
		err := st.src.get(req.ctx, ask, func(i int, data []byte) error {
			n++
			return f.accept(ctx, req, i, data)
		})
		taken := context.Cause(req.ctx) == errOvertaken
		f.scheduler.finish(req)
		var p permanent
		var k keepError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the fetch is over: no fault of the source
		case err == nil || taken:
			failed = 0
			continue
		case errors.As(err, &k):
			f.fail(k.error)
			return nil
		case errors.Is(err, errBad), errors.As(err, &p):
			return err
		}
		if n > 0 {
			failed = 0
		}
		if failed++; failed >= mostTries {
			return err
		}
		f.x.log.Debug("a source fails", "source", st.src.name(), "error", err)
		pause := min(time.Second<<(failed-1)/2, pauseMost)
		var l later
		if errors.As(err, &l) {
			if l.after > 0 {
				f.scheduler.pause(st, min(l.after, 10*pauseMost))
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// keepError says that a leaf came and could not be kept.
type keepError struct{ error }

func (k keepError) Unwrap() error { return k.error }

// accept checks a leaf that has come, and keeps it.
func (f *fetch) accept(ctx context.Context, req *request, i int, data []byte) error {
	t := req.leaves[i]
	sum, err := t.need.CID.Prefix().Sum(data)
	if err != nil || sum != t.need.CID {
		return fmt.Errorf("%w: leaf %d is another", errBad, t.need.Number)
	}
	f.x.ledger.Pass(req.source.src.name(), 0, len(data))
	if m, ok := req.source.src.(*swarmPeer); ok && f.x.opt.Worked != nil {
		f.x.opt.Worked(m.id)
	}
	if req.source.origin == nil {
		f.x.taken.Add(uint64(len(data)))
	} else {
		f.x.origins.Add(uint64(len(data)))
	}
	if !f.scheduler.received(req, i) {
		return nil
	}
	defer f.scheduler.stored()
	if err := f.put(ctx, t.need.CID, t.need.Number, data); err != nil {
		return keepError{err}
	}
	return nil
}
