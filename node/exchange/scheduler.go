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
var errTaken = errors.New("another was faster")

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
	can(n Need) bool       // it may be asked for the leaf; called with desk.mu held
	most(rate float64) int // how many to ask for at once, by its rate in bytes a second
	workers() int          // how often at once
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
type desk struct {
	f    *fetch
	self uint64 // own salt

	mu       sync.Mutex
	wake     chan struct{} // closed and replaced when there may be work
	open     []*task       // some may be done
	all      map[int]*task // by number
	leaves   int           // open
	left     int64         // bytes
	keeping  int           // leaves that have come and are being kept
	plain    bool          // there are holders that only bitswap reaches
	avail    map[int]int   // how many mates have a leaf
	inSwarm  map[int]int   // and of those that fetch
	seats    map[*seat]struct{}
	fromPeer time.Time     // bytes of a leaf came from a peer
	peers    int64         // bytes that came from peers
	mine     int64         // bytes that this node was the first of the swarm to have
	mineAt   time.Time     // the last of those came
	took     time.Duration // to get those, without pauses
	passedAt time.Time     // a member was passed over
	began    time.Time
}

// task is a leaf that is lacking.
type task struct {
	need  Need
	at    []*errand
	done  bool
	since time.Time // some other member of the swarm has had it, or none has
}

// errand is a source at work on some leaves.
type errand struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	seat   *seat
	tasks  []*task
	next   int // that comes next
	open   int // that nobody has brought
	since  time.Time
}

// seat is a source's place at the desk.
type seat struct {
	src    source
	mate   *mate   // nil unless it is one
	origin *origin // likewise
	ready  func() bool

	// With desk.mu:
	worker float64 // bytes a second of one worker
	busy   int     // workers
	bytes  int64
	last   time.Time
	until  time.Time // it is not asked
}

func newDesk(f *fetch) *desk {
	return &desk{
		f: f, self: saltOf(f.x.host.ID()), wake: make(chan struct{}), all: map[int]*task{}, avail: map[int]int{}, inSwarm: map[int]int{},
		seats: map[*seat]struct{}{}, began: time.Now(), fromPeer: time.Now(),
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
func (d *desk) add(need []Need) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range need {
		if t := d.all[n.Number]; t != nil && !t.done {
			continue
		}
		t := &task{need: n, since: time.Now()}
		d.all[n.Number] = t
		d.open = append(d.open, t)
		d.leaves++
		d.left += int64(n.Size)
	}
	slices.SortStableFunc(d.open, func(a, b *task) int {
		return cmp.Compare(d.f.hash(a.need.CID), d.f.hash(b.need.CID))
	})
	d.tellAll()
}

// tellAll wakes those who wait for work. Called with mu held.
func (d *desk) tellAll() {
	close(d.wake)
	d.wake = make(chan struct{})
}

// wanted are the leaves on the desk, a bit each.
func (d *desk) wanted(bits []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.open {
		if !t.done && t.need.Number>>3 < len(bits) {
			protocol.SetBit(bits, t.need.Number)
		}
	}
}

// told takes what a mate says.
func (d *desk) told(m *mate, st *protocol.LeavesState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.gone {
		return
	}
	if st.Total != 0 {
		d.whole(m, st)
	}
	for _, n := range st.Got {
		i := int(n)
		if protocol.Bit(m.held, i) {
			continue
		}
		d.gains(m, i)
		protocol.SetBit(m.held, i)
		d.avail[i]++
		if m.swarm {
			d.shared(m, i, 1)
		}
		m.came++
		if protocol.Bit(m.wanted, i) {
			m.left--
		}
	}
	d.tellAll()
}

// whole takes all that a mate has and wants. Called with mu held.
func (d *desk) whole(m *mate, st *protocol.LeavesState) {
	for i := range d.f.total {
		if m.held != nil && protocol.Bit(st.Held, i) && !protocol.Bit(m.held, i) {
			d.gains(m, i)
			m.came++
		}
	}
	d.count(m, -1)
	m.held, m.wanted, m.left = st.Held, st.Wanted, 0
	for i := range d.f.total {
		if protocol.Bit(m.wanted, i) && !protocol.Bit(m.held, i) {
			m.left++
		}
	}
	m.swarm = m.swarm || m.left > 0
	d.count(m, 1)
}

// gains notes that a mate got a leaf; if nobody else in the swarm has it, the
// mate brought it in. Called with mu held.
func (d *desk) gains(m *mate, leaf int) {
	if t := d.all[leaf]; t == nil || t.done || d.inSwarm[leaf] > 0 {
		return
	}
	now := time.Now()
	m.took += min(d.patience()/4, now.Sub(latest(m.joined, m.broughtAt)))
	m.brought += int64(d.all[leaf].need.Size)
	m.broughtAt, m.passed = now, false
}

// count adds what a mate holds to what there is. Called with mu held.
func (d *desk) count(m *mate, by int) {
	for i := range d.f.total {
		if protocol.Bit(m.held, i) {
			d.avail[i] += by
			if m.swarm {
				d.shared(m, i, by)
			}
		}
	}
}

// shared notes that one more, or one less, in the swarm has a leaf. Called with mu held.
func (d *desk) shared(m *mate, leaf, by int) {
	was := d.inSwarm[leaf]
	d.inSwarm[leaf] += by
	if t := d.all[leaf]; t != nil && !m.unreliable && (was == 0 || was+by == 0) {
		t.since = time.Now()
	}
}

// lacks notes that a mate does not have a leaf after all.
func (d *desk) lacks(m *mate, leaf int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if protocol.Bit(m.held, leaf) {
		m.held[leaf>>3] &^= 1 << (leaf & 7)
		d.avail[leaf]--
		if m.swarm {
			d.shared(m, leaf, -1)
		}
		m.unreliable = true
	}
}

// sit gives a source a place. leave takes it away.
func (d *desk) sit(st *seat) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seats[st] = struct{}{}
	d.tellAll()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.seats, st)
		if st.mate != nil {
			d.count(st.mate, -1)
			st.mate.held, st.mate.wanted, st.mate.gone = nil, nil, true
		}
		d.tellAll()
	}
}

// take waits for work and takes some. nil: there is none any more, or ctx or
// until says so.
func (d *desk) take(ctx context.Context, st *seat, until func() bool) *errand {
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for ctx.Err() == nil && (until == nil || !until()) {
		ready := st.ready == nil || st.ready()
		d.mu.Lock()
		ready = ready && !time.Now().Before(st.until)
		if d.leaves+d.keeping == 0 && until != nil {
			d.mu.Unlock()
			return nil
		}
		if ready {
			if e := d.assign(ctx, st); e != nil {
				d.mu.Unlock()
				return e
			}
		}
		wake := d.wake
		d.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
	return nil
}

// assign picks what a source is to do now. Called with mu held.
func (d *desk) assign(ctx context.Context, st *seat) *errand {
	tasks := d.pick(st)
	if len(tasks) == 0 {
		if t := d.slowest(st); t != nil {
			tasks = []*task{t}
		}
	}
	if len(tasks) == 0 {
		return nil
	}
	e := &errand{seat: st, tasks: tasks, open: len(tasks), since: time.Now()}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	for _, t := range tasks {
		t.at = append(t.at, e)
	}
	st.busy++
	return e
}

// pick chooses among what nobody is at. Called with mu held.
func (d *desk) pick(st *seat) []*task {
	most := st.src.most(st.rate())
	type choice struct {
		rank int
		task *task
	}
	var best []choice
	whole := st.origin != nil && st.origin.whole.Load()
	live := d.open[:0]
	now := time.Now()
	slow := st.origin != nil && d.peersAreSlow()
	d.plain = st.origin != nil && d.f.plain()
	for _, t := range d.open {
		if t.done {
			continue
		}
		live = append(live, t)
		if len(t.at) > 0 || !st.src.can(t.need) {
			continue
		}
		rank, ok := d.rank(st, t, now, slow)
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
	clear(d.open[len(live):])
	d.open = live
	var out []*task
	for _, c := range best {
		out = append(out, c.task)
	}
	if st.origin != nil && len(out) > 0 && !whole {
		out = d.run(st, out[0], most, now, slow)
	}
	if st.origin != nil {
		slices.SortFunc(out, func(a, b *task) int { return cmp.Compare(a.need.Offset, b.need.Offset) })
	}
	return out
}

// run extends a leaf to those that follow it in the file, for one request.
// Called with mu held.
func (d *desk) run(st *seat, t *task, most int, now time.Time, slow bool) []*task {
	out := []*task{t}
	for n := t.need.Number + 1; len(out) < most; n++ {
		last, next := out[len(out)-1].need, d.all[n]
		if next == nil || next.done || len(next.at) > 0 || next.need.File != last.File || next.need.Offset != last.Offset+int64(last.Size) {
			break
		}
		if _, ok := d.rank(st, next, now, slow); !ok {
			break
		}
		out = append(out, next)
	}
	for n := t.need.Number - 1; len(out) < most; n-- {
		first, prev := out[0].need, d.all[n]
		if prev == nil || prev.done || len(prev.at) > 0 || prev.need.File != first.File || first.Offset != prev.need.Offset+int64(prev.need.Size) {
			break
		}
		if _, ok := d.rank(st, prev, now, slow); !ok {
			break
		}
		out = slices.Insert(out, 0, prev)
	}
	return out
}

// rank says how much a leaf is for a source to bring; less comes first. Called
// with mu held.
func (d *desk) rank(st *seat, t *task, now time.Time, slow bool) (int, bool) {
	rank := d.avail[t.need.Number]
	switch {
	case st.origin != nil && !st.origin.http: // a file of this machine
		return rank, true
	case st.origin != nil:
		if d.inSwarm[t.need.Number] > 0 {
			return rank, d.swarmFails(t, now)
		}
		if !slow && (rank > 0 || d.plain) {
			return 0, false
		}
	case st.mate == nil || st.mate.swarm:
		return rank, true
	}
	owner := d.owner(t)
	for owner != nil && d.pass(owner, t, now) {
		owner = d.owner(t)
	}
	switch {
	case owner == nil:
		return rank, true
	case d.lags(owner, now) && d.after(owner, t) == nil, d.starves(t):
		return rank + 1<<20, true
	}
	return 0, false
}

// before lists...
func (d *desk) next(t *task, after uint64) (*mate, uint64) {
	key := uint64(t.need.Number / runLeaves)
	var best *mate
	least := mix(d.self ^ key)
	for st := range d.seats {
		m := st.mate
		if m == nil || m.passed || m.unreliable || !protocol.Bit(m.wanted, t.need.Number) || protocol.Bit(m.held, t.need.Number) {
			continue
		}
		if s := mix(m.salt ^ key); s < least && s > after {
			best, least = m, s
		}
	}
	return best, least
}

// owner is the mate that is to get a leaf from outside of the swarm; nil: this
// node. Called with mu held.
func (d *desk) owner(t *task) *mate {
	m, _ := d.next(t, 0)
	return m
}

// after is the mate that comes after another, before this node. Called with mu
// held.
func (d *desk) after(m *mate, t *task) *mate {
	n, _ := d.next(t, mix(m.salt^uint64(t.need.Number/runLeaves)))
	return n
}

// ahead counts the mates that come before this node. Called with mu held.
func (d *desk) before(t *task) (n int) {
	for m, at := d.next(t, 0); m != nil; m, at = d.next(t, at) {
		n++
	}
	return n
}

// pass passes over an owner... Called with mu held.
func (d *desk) pass(m *mate, t *task, now time.Time) bool {
	last := latest(m.joined, m.broughtAt, t.since, d.passedAt)
	if now.Sub(last) <= d.patience() {
		return false
	}
	m.passed, d.passedAt = true, now
	return true
}

// latest is the last of some times.
func latest(list ...time.Time) time.Time { return slices.MaxFunc(list, time.Time.Compare) }

// patience with a member of the swarm that brings nothing. Called with mu held.
func (d *desk) patience() time.Duration {
	took, sum := d.took, d.mine
	for st := range d.seats {
		if m := st.mate; m != nil {
			took += m.took
			sum += m.brought
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
func (d *desk) lags(m *mate, now time.Time) bool {
	took, leaves := now.Sub(d.began), len(d.all)-d.leaves
	for st := range d.seats {
		if o := st.mate; o != nil && o.swarm {
			took += now.Sub(o.joined)
			leaves += o.came
		}
	}
	return 2*float64(m.came+ahead)*took.Seconds() < float64(leaves)*now.Sub(m.joined).Seconds()
}

// swarmFails says that an origin may be asked for what others in the swarm have. Called with mu held.
func (d *desk) swarmFails(t *task, now time.Time) bool {
	quiet := now.Sub(latest(d.fromPeer, t.since))
	if quiet < patienceLeast {
		return false
	}
	return quiet > patience(d.fromPeer.Sub(d.began), d.peers)*time.Duration(1+d.before(t)) || d.starves(t)
}

// starves says that nothing comes at all. Called with mu held.
func (d *desk) starves(t *task) bool {
	idle, _, _ := d.f.idle()
	return idle > starveTime && idle > starveTime+time.Duration(d.before(t))*starveStep
}

// alive notes that bytes come from a peer.
func (d *desk) alive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fromPeer = time.Now()
}

// peersAreSlow says that origins may be asked for what peers have as well.
// Called with mu held.
func (d *desk) peersAreSlow() bool {
	var rate float64
	for st := range d.seats {
		if st.origin == nil {
			rate += st.rate()
		}
	}
	return float64(d.left) > rate*enough.Seconds()
}

// slowest is what another source is at and this one would bring much sooner.
// Called with mu held.
func (d *desk) slowest(st *seat) *task {
	now := time.Now()
	var best *task
	var gain float64
	for _, t := range d.open {
		if t.done || len(t.at) == 0 || !st.src.can(t.need) || slices.ContainsFunc(t.at, func(e *errand) bool { return e.seat == st }) {
			continue
		}
		if len(t.at) > 1 && (st.origin == nil || !d.starves(t)) {
			continue
		}
		if st.origin != nil {
			if _, ok := d.rank(st, t, now, true); !ok {
				continue
			}
		}
		mine := 0.5
		if st.worker > 0 {
			mine = float64(t.need.Size) / st.worker
		}
		if theirs := t.at[0].rest(t, now); theirs > 1.5*mine+0.1 && theirs-mine > gain {
			best, gain = t, theirs-mine
		}
	}
	return best
}

// rest is how long an errand will take until it brings a leaf, in seconds: by
// its source's rate, or, if it is slower than that, as long as it took already.
func (e *errand) rest(t *task, now time.Time) float64 {
	var bytes int64
	for _, o := range e.tasks[min(e.next, len(e.tasks)):] {
		bytes += int64(o.need.Size)
		if o == t {
			break
		}
	}
	took := now.Sub(e.since).Seconds()
	if e.seat.worker <= 0 {
		return took
	}
	if rest := float64(bytes)/e.seat.worker - took; rest > 0 {
		return rest
	}
	return took
}

// rate is a source's, in bytes a second. Called with desk.mu held.
func (st *seat) rate() float64 { return st.worker * float64(max(st.busy, st.src.workers())) }

// brought notes that a leaf has come and is being kept; false if another was
// faster.
func (d *desk) brought(e *errand, i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, st := e.tasks[i], e.seat
	now := time.Now()
	if took := now.Sub(e.since).Seconds(); took > 0 {
		r := float64(t.need.Size) / took
		if st.worker == 0 {
			st.worker = r
		}
		st.worker += (r - st.worker) / 4
	}
	e.next, e.since = i+1, now
	st.bytes += int64(t.need.Size)
	st.last = now
	if st.origin == nil {
		d.fromPeer = now
		d.peers += int64(t.need.Size)
	}
	if t.done {
		return false
	}
	if d.inSwarm[t.need.Number] == 0 {
		d.took += min(d.patience()/4, now.Sub(latest(d.began, d.mineAt)))
		d.mine += int64(t.need.Size)
		d.mineAt = now
	}
	t.done = true
	d.leaves--
	d.keeping++
	d.left -= int64(t.need.Size)
	for _, o := range t.at {
		if o.open--; o.open == 0 && o != e {
			o.cancel(errTaken)
		}
	}
	return true
}

// kept wakes who waits for work, or for its end.
func (d *desk) kept() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keeping--; d.leaves+d.keeping == 0 {
		d.tellAll()
	}
}

// rest has all workers of a source pause.
func (d *desk) rest(st *seat, pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	st.until = time.Now().Add(pause)
}

// end gives back what an errand did not bring.
func (d *desk) end(e *errand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	open := false
	for _, t := range e.tasks {
		t.at = slices.DeleteFunc(t.at, func(o *errand) bool { return o == e })
		open = open || !t.done
	}
	e.seat.busy--
	e.cancel(nil)
	if open {
		d.tellAll()
	}
}

// giving counts the sources that gave something lately.
func (d *desk) giving(now time.Time) (peers, origins int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for st := range d.seats {
		switch lately := now.Sub(st.last) < aliveTime; {
		case lately && st.origin != nil:
			origins++
		case lately && st.mate != nil:
			peers++
		}
	}
	return peers, origins
}

// seat has a source work until ctx ends, it proves useless, or leave is called.
func (f *fetch) seat(ctx context.Context, src source, gone func()) (leave func()) {
	st := &seat{src: src}
	st.mate, _ = src.(*mate)
	if st.origin, _ = src.(*origin); st.origin != nil && st.origin.http {
		st.ready = func() bool { return f.met() }
	}
	ctx, cancel := context.WithCancel(ctx)
	out := f.desk.sit(st)
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
			f.drop(st, err)
			gone()
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

// drop tells why a source is not asked any more.
func (f *fetch) drop(st *seat, err error) {
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
func (f *fetch) work(ctx context.Context, st *seat) error {
	for failed := 0; ; {
		e := f.desk.take(ctx, st, nil)
		if e == nil {
			return nil
		}
		ask := make([]Need, len(e.tasks))
		for i, t := range e.tasks {
			ask[i] = t.need
		}
		n := 0
		err := st.src.get(e.ctx, ask, func(i int, data []byte) error {
			n++
			return f.accept(ctx, e, i, data)
		})
		taken := context.Cause(e.ctx) == errTaken
		f.desk.end(e)
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
				f.desk.rest(st, min(l.after, 10*pauseMost))
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
func (f *fetch) accept(ctx context.Context, e *errand, i int, data []byte) error {
	t := e.tasks[i]
	sum, err := t.need.CID.Prefix().Sum(data)
	if err != nil || sum != t.need.CID {
		return fmt.Errorf("%w: leaf %d is another", errBad, t.need.Number)
	}
	f.x.ledger.Pass(e.seat.src.name(), 0, len(data))
	if m, ok := e.seat.src.(*mate); ok && f.x.opt.Worked != nil {
		f.x.opt.Worked(m.id)
	}
	if e.seat.origin == nil {
		f.x.taken.Add(uint64(len(data)))
	} else {
		f.x.origins.Add(uint64(len(data)))
	}
	if !f.desk.brought(e, i) {
		return nil
	}
	defer f.desk.kept()
	if err := f.put(ctx, t.need.CID, t.need.Number, data); err != nil {
		return keepError{err}
	}
	return nil
}
