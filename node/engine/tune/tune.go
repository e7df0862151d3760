// Package tune chooses how many threads of the processor compute, while they do.
//
// A pass that computes on more threads than there are idle cores waits at each of the
// library's barriers for a thread that has no core: on two cores beside two busy
// loops, two threads do a fifth of what one does. What is idle changes all the time,
// so the number of threads is chosen by measuring passes of few rows: now and then a
// few of them try another number. Fewer threads stay if they are hardly slower, more
// only if they are clearly faster, so that nothing is taken from the machine's owner
// for nothing.
package tune

import (
	"math/bits"
	"slices"
	"time"
)

const (
	smallPass   = 31 // rows; larger passes are prefill, and never trials
	trialPasses = 4  // decide; the slowest is left out
	probeEvery  = 1500 * time.Millisecond
	fewerStay   = 1.04 // of the time with the number in use
	moreStay    = 0.93

	// Where cores are busy, more threads take many times as long. A trial ends when two
	// passes took so much longer, and the next one is after a pause twice as long.
	hopeless = 1.3
	longest  = 8 * probeEvery
)

// Threads chooses a number of threads. It is not safe for concurrent use: the engine's
// lock is around it.
type Threads struct {
	set     func(n int)
	options []int // 1, 2, 4, ... and the most
	at      int   // index of the number in use
	trial   int   // index under trial; at: none
	down    bool  // the next trial is of fewer threads
	next    time.Time
	pause   time.Duration // before the next trial

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
	t := &Threads{set: set, down: true, pause: probeEvery}
	for n := 1; n < most; n *= 2 {
		t.options = append(t.options, n)
	}
	t.options = append(t.options, most)
	t.at = len(t.options) - 1
	t.trial = t.at
	return t
}

// Number is how many threads are in use.
func (t *Threads) Number() int { return t.options[t.trial] }

func (t *Threads) off(rows int) bool { return t.set == nil || rows > smallPass || len(t.options) < 2 }

// Before is called before a pass of so many rows.
func (t *Threads) Before(rows int) {
	size := bits.Len(uint(rows))
	if t.off(rows) || t.trial != t.at || !t.inUse[size].full() || time.Now().Before(t.next) {
		return
	}
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
	t.set(t.options[t.trial])
}

// After is called after a pass, with the time that it took.
func (t *Threads) After(rows int, took time.Duration) {
	if t.off(rows) {
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
	if t.trial > t.at && t.tried.seen > 1 && t.tried.least() > hopeless*t.inUse[size].mean() {
		t.down = true
		t.pause = min(2*t.pause, longest)
		t.stay()
		return
	}
	if !t.tried.full() {
		return
	}
	t.pause = probeEvery
	enough := moreStay
	if t.trial < t.at {
		enough = fewerStay
	}
	if t.tried.mean() < enough*t.inUse[size].mean() {
		// One better may not be the best: go on at once in this direction.
		t.at, t.abandon, t.inUse = t.trial, 0, [6]window{}
		t.inUse[size] = t.tried
		return
	}
	t.down = !t.down
	t.stay()
}

// stay ends a trial in favour of what was in use.
func (t *Threads) stay() {
	t.trial, t.abandon = t.at, 0
	t.set(t.options[t.at])
	t.next = time.Now().Add(t.pause)
}
