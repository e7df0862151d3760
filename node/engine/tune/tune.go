// Package tune chooses how many threads of the processor compute, while they do.
//
// A pass that computes on more threads than there are idle cores waits at each of the
// library's barriers for a thread that has no core: on two cores beside two busy
// loops, two threads do a fifth of what one does. What is idle changes all the time,
// so the number of threads is chosen by measuring passes of few rows: now and then a
// few of them try another number. Fewer threads stay if they are hardly slower, more
// only if they are clearly faster, so that nothing is taken from the machine's owner
// for nothing. After a trial that was clearly worse the next one waits longer, unless
// passes become slower.
//
// Passes of many rows always use the most threads. Between two barriers they compute for
// milliseconds, so that waiting at them costs little even on a busy machine, and what is
// best for single rows of a small model, often one thread, is half their speed.
package tune

import (
	"math/bits"
	"slices"
	"time"
)

const (
	smallPass   = 31 // rows; larger passes are prefill, which uses the most threads
	trialPasses = 4  // decide; the slowest is left out
	probeEvery  = 1500 * time.Millisecond
	fewerStay   = 1.04 // of the time with the number in use
	moreStay    = 0.93

	// A trial ends when two passes took so much longer: where cores are busy, more threads
	// take many times as long, and where they are idle, fewer do. The pause before the next
	// one then doubles, unless passes come to take so many times what they took.
	hopeless = 1.3
	longest  = 8 * probeEvery
	slower   = 1.25
)

// Threads chooses a number of threads. It is not safe for concurrent use: the engine's
// lock is around it.
type Threads struct {
	set     func(n int)
	options []int         // 1, 2, 4, ... and the most
	at      int           // index of the number in use
	trial   int           // index under trial; at: none
	now     int           // what set was last called with
	down    bool          // the next trial is of fewer threads
	last    time.Time     // when the last trial ended
	pause   time.Duration // from then to the next one
	usual   [6]float64    // of passes with the number in use when the last trial ended; 0: unknown

	// Only passes of about as many rows are compared: 1, 2-3, 4-7, ...
	inUse [6]window
	tried window
	size  int // of those under trial

	abandon int // passes of other sizes during the trial
}

// window is the last few passes with one number of threads.
type window struct {
	of   [trialPasses]time.Duration // a row
	seen int
}

func (w *window) add(d time.Duration) {
	w.of[w.seen%trialPasses] = d
	w.seen++
}

func (w *window) full() bool { return w.seen >= trialPasses }

// least is the shortest of all.
func (w *window) least() float64 { return float64(slices.Min(w.of[:min(w.seen, trialPasses)])) }

// mean of all but the slowest.
func (w *window) mean() float64 {
	var sum, slowest time.Duration
	for _, d := range w.of {
		sum += d
		slowest = max(slowest, d)
	}
	return float64(sum-slowest) / (trialPasses - 1)
}

// New returns one that begins with the most threads there may be, which the engine
// uses already. set changes the number of the next passes; nil: it stays.
func New(most int, set func(n int)) *Threads {
	t := &Threads{set: set, down: true, now: most}
	for n := 1; n < most; n *= 2 {
		t.options = append(t.options, n)
	}
	t.options = append(t.options, most)
	t.at = len(t.options) - 1
	t.trial = t.at
	return t
}

// Number is how many threads the pass has that is under way or was last.
func (t *Threads) Number() int { return t.now }

func (t *Threads) fixed() bool { return t.set == nil || len(t.options) < 2 }

// Before is called before a pass of so many rows.
func (t *Threads) Before(rows int) {
	if t.fixed() {
		return
	}
	if rows > smallPass {
		t.use(len(t.options) - 1)
		return
	}
	if size := bits.Len(uint(rows)); t.trial == t.at && t.due(size) {
		t.begin(size)
	}
	t.use(t.trial)
}

// use has the next passes computed by a number of threads.
func (t *Threads) use(option int) {
	if n := t.options[option]; n != t.now {
		t.now = n
		t.set(n)
	}
}

// due reports whether passes of a size are to try another number.
func (t *Threads) due(size int) bool {
	w, since := &t.inUse[size], time.Since(t.last)
	if !w.full() || since < min(t.pause, probeEvery) {
		return false
	}
	return since >= t.pause || t.usual[size] > 0 && w.mean() > slower*t.usual[size]
}

// begin begins a trial.
func (t *Threads) begin(size int) {
	if t.at == 0 {
		t.down = false
	} else if t.at == len(t.options)-1 {
		t.down = true
	}
	t.trial++
	if t.down {
		t.trial -= 2
	}
	t.tried, t.size = window{}, size
}

// After is called after a pass, with the time that it took.
func (t *Threads) After(rows int, took time.Duration) {
	if t.fixed() || rows > smallPass {
		return
	}
	size := bits.Len(uint(rows))
	per := took / time.Duration(rows)
	if t.trial == t.at {
		t.inUse[size].add(per)
		return
	}
	if size != t.size {
		if t.abandon++; t.abandon > 4*trialPasses { // such passes do not come any more
			t.stay()
		}
		return
	}
	t.tried.add(per)
	pause := t.pause
	if t.tried.seen > 1 && t.tried.least() > hopeless*t.inUse[size].mean() {
		t.down = !t.down
		t.stay()
		t.pause = min(max(2*pause, probeEvery), longest)
		return
	}
	if !t.tried.full() {
		return
	}
	enough := moreStay
	if t.trial < t.at {
		enough = fewerStay
	}
	if t.tried.mean() < enough*t.inUse[size].mean() {
		// One better may not be the best: go on at once in this direction.
		t.at, t.abandon, t.inUse, t.usual = t.trial, 0, [6]window{}, [6]float64{}
		t.inUse[size], t.pause = t.tried, 0
		return
	}
	t.down = !t.down
	t.stay()
}

// stay ends a trial in favour of what was in use.
func (t *Threads) stay() {
	t.trial, t.abandon = t.at, 0
	t.last, t.pause = time.Now(), probeEvery
	for i := range t.usual {
		if w := &t.inUse[i]; w.full() {
			t.usual[i] = w.mean()
		}
	}
}
