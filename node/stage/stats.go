package stage

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// stats are a stage's counters since its start.
type stats struct {
	opened, closed, tokens, passes, rows, replayed atomic.Int64

	refused atomic.Int64

	mu     sync.Mutex
	load   Load
	opens  float64 // Opens of about the last minute, refused ones included
	noRoom float64 // of those, refused for lack of space
	mark   struct {
		at                    time.Time
		rows, opened, refused int64
	}
	decode time.Duration   // moving average: a pass with decodes only
	first  []time.Duration // the first of such passes, sorted; at most firstPasses
	single time.Duration   // moving average: a pass of one row
	base   time.Duration   // moving average: what a pass takes beyond its rows at their cost in a full one
	row    time.Duration   // moving average: each further row of decode
	round  time.Duration   // moving average: between two decodes of one session
	recent [16]mark        // decode rows of the last seconds, for a rate

	// For those who would run ahead through this stage:
	sharing int           // sessions that share passes of decodes
	wire    time.Duration // moving average: to write a row to the successor
	busy    float64       // share of the last second or two in which the engine computed
	busyAt  time.Time     // when that was last updated: the end of a pass
	final   float64       // tokens per second that have come through this stage and were final
	finalAt time.Time
}

const lately = 2 * time.Second // over which shares and rates are averaged

// share records how many sessions share passes of decodes.
func (t *stats) share(sessions int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sharing = sessions
}

// wrote records how long it took to write a row to the successor.
func (t *stats) wrote(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wire += (took - t.wire) / 16
}

// settled records tokens that came through this stage and are final.
func (t *stats) settled(tokens int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = t.final*fading(now.Sub(t.finalAt)) + float64(max(0, tokens))/lately.Seconds()
	t.finalAt = now
}

// fading returns what is left of an average after a time.
func fading(d time.Duration) float64 { return math.Exp(-d.Seconds() / lately.Seconds()) }

// worked records a pass for the busy share. Called with mu held.
func (t *stats) worked(took time.Duration, now time.Time) {
	since := now.Sub(t.busyAt)
	if since > 0 {
		t.busy += (min(1, took.Seconds()/since.Seconds()) - t.busy) * (1 - fading(since))
	}
	t.busyAt = now
}

// toll returns what a row of a guess costs here, as frames sum it up.
func (t *stats) toll(now time.Time) sums {
	t.mu.Lock()
	defer t.mu.Unlock()
	more := t.row
	if more == 0 {
		more = t.decode / 5 // as measured on machines of today
	}
	busy := t.busy * fading(now.Sub(t.busyAt))
	final := t.final * fading(now.Sub(t.finalAt))
	floor := min(1, max(0, (busy-0.6)/0.3)) * final * (t.decode/2 + more/2).Seconds()
	return sums{
		rowUs:   uint32(min(max(t.decode, t.wire).Microseconds(), mostUs)),
		priceUs: uint32(min((time.Duration(t.sharing)*more + t.wire).Microseconds(), mostUs)),
		busy:    uint32(255 * busy), floor: uint32(255 * min(1, floor)),
	}
}

// firstPasses is how many passes of decodes are looked at together before the moving
// average begins.
const firstPasses = 48

// decoded records a pass with decodes only. A stage is offered as soon as a few have come,
// while its machine may still be busy with starting: their median counts, so that a pass
// that was held up does not. Called with mu held.
func (t *stats) decoded(took time.Duration) {
	if len(t.first) == firstPasses {
		t.decode += (took - t.decode) / 16
		return
	}
	at, _ := slices.BinarySearch(t.first, took)
	t.first = slices.Insert(t.first, at, took)
	t.decode = t.first[len(t.first)/2]
}

type mark struct {
	second int64
	rows   int64
}

// Status is a stage's load at one moment.
type Status struct {
	Sessions     int           // open
	QueuedRows   int           // rows that wait for a pass
	KVFree       int           // KV cells that sessions have not taken and will probably not need
	TokensPerS   float64       // decode rows per second, over the last ten seconds
	DecodePass   time.Duration // moving average of a pass of decodes; 0: none yet
	Opened       int64         // sessions since the start
	Passes, Rows int64         // since the start
	Replayed     int64         // bytes sent again for sessions that lost a stage
	KVKept       int           // KV cells of ended sessions' prefixes, which count as free
	Used         time.Time     // when a session that counts as use was last open
}

// Load is how full a stage is, from 0 to 1: the largest of the shares of its time,
// KV and sessions in use. Time is counted as rows, each at its cost in a full pass: a
// single session that keeps the engine busy is not much load, since more sessions
// would hardly slow it down.
type Load struct {
	Minute, Ten float64 // means over about one and ten minutes
	Refused     float64 // share of the Opens of about the last minute refused for lack of space
}

// Load returns how full the stage is.
func (s *Stage) Load() Load {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	return s.stats.load
}

// meter updates the load.
func (s *Stage) meter(now time.Time) {
	s.mu.Lock()
	_, _, all := s.claims(now)
	share := max(float64(all.cells)/float64(s.cfg.KVTokens), float64(all.slots)/float64(s.cfg.MaxSeqs-s.withheld))
	s.mu.Unlock()
	t := &s.stats
	t.mu.Lock()
	defer t.mu.Unlock()
	rows, opened, refused := t.rows.Load(), t.opened.Load(), t.refused.Load()
	m := &t.mark
	if dt := now.Sub(m.at).Seconds(); !m.at.IsZero() && dt > 0 {
		share = max(share, float64(rows-m.rows)*s.cfg.Row.Seconds()/dt)
		minute, ten := 1-math.Exp(-dt/60), 1-math.Exp(-dt/600)
		t.load.Minute += (share - t.load.Minute) * minute
		t.load.Ten += (share - t.load.Ten) * ten
		t.noRoom = t.noRoom*(1-minute) + float64(refused-m.refused)
		t.opens = t.opens*(1-minute) + float64(opened-m.opened+refused-m.refused)
		t.load.Refused = 0
		if t.opens > 0.5 {
			t.load.Refused = t.noRoom / t.opens
		}
	}
	m.at, m.rows, m.opened, m.refused = now, rows, opened, refused
}

// pass records one pass. row is what one costs in a full pass.
func (t *stats) pass(rows, decodes int, took, row time.Duration, now time.Time) {
	t.passes.Add(1)
	t.rows.Add(int64(rows))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.worked(took, now)
	t.base += (max(0, took-time.Duration(rows)*row) - t.base) / 16
	if decodes == rows {
		t.decoded(took)
		if rows == 1 {
			if t.single == 0 {
				t.single = took
			}
			t.single += (took - t.single) / 16
		} else if t.single > 0 {
			t.row += (max(0, took-t.single)/time.Duration(rows-1) - t.row) / 16
		}
	}
	m := &t.recent[now.Unix()%int64(len(t.recent))]
	if m.second != now.Unix() {
		*m = mark{second: now.Unix()}
	}
	m.rows += int64(decodes)
}

// lap records the time between two decodes of one session.
func (t *stats) lap(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.round == 0 {
		t.round = d
	}
	t.round += (d - t.round) / 16
}

// costs returns the time of each further row of decode in a pass, and the time between
// two decodes of one session, which is its time around the ring.
func (t *stats) costs() (row, round time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.row, t.round
}

// pace returns what a pass costs beyond its rows, and each further row of decode; 0: not
// known.
func (t *stats) pace() (base, row time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base, t.row
}

func (t *stats) rate(now time.Time) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var n int64
	for _, m := range t.recent {
		if age := now.Unix() - m.second; age > 0 && age <= 10 {
			n += m.rows
		}
	}
	return float64(n) / 10
}

func (t *stats) decodePass() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.decode
}

// retryAfter estimates when a session will have ended: the time of a hundred more
// tokens, between 1 and 30 s.
func (t *stats) retryAfter() time.Duration {
	return max(time.Second, min(30*time.Second, 100*t.decodePass()))
}

// Status returns the stage's load now.
func (s *Stage) Status() Status {
	s.mu.Lock()
	_, _, all := s.claims(time.Now())
	st := Status{Sessions: len(s.sessions), KVFree: max(0, s.cfg.KVTokens-all.cells), KVKept: s.kvKept, Used: s.used}
	for _, sess := range s.sessions {
		st.QueuedRows += sess.queuedRows()
	}
	s.mu.Unlock()
	st.TokensPerS = s.stats.rate(time.Now())
	st.DecodePass = s.stats.decodePass()
	st.Opened = s.stats.opened.Load()
	st.Replayed = s.stats.replayed.Load()
	st.Passes, st.Rows = s.stats.passes.Load(), s.stats.rows.Load()
	return st
}
