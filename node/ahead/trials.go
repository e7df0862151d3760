package ahead

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	tryBusy  = 0.85 // from which on guesses must win a trial
	tryFor   = 2 * time.Second
	keepFor  = 20 * time.Second
	longer   = 8               // times keepFor, at most, after trials that were lost
	spread   = 2 * time.Second // random part of waiting, so that stages do not try in step
	mustGain = 1.02            // tokens of all, with guesses to without
	mustKeep = 0.95            // tokens of sessions that have nothing to guess
	enough   = 20              // of their tokens, or they are not heard
	least    = 0.25            // of the rows that could be in flight, in a trial after one that was lost
)

type phase uint8

const (
	free    phase = iota // guesses run; no trial has been needed
	waiting              // for a trial, a random while
	without              // a trial, first half
	with                 // a trial, second half
	kept                 // guesses won
	barred               // they lost
)

// Trials compare, while stages are busy, the final tokens per second with guesses and
// without, of all sessions that begin at one stage: a session alone would always find
// that guesses pay, at the cost of its neighbours. Guesses win if all sessions together
// gain, and those that have nothing to guess lose hardly anything. The first trial is of
// half as many as could be in flight, or of all if there is nobody to disturb; after one
// that was won the next is of twice as many, and after one that was lost it comes later,
// and is of a quarter. Trials are safe for concurrent use.
type Trials struct {
	mu    sync.Mutex
	rng   *rand.Rand
	phase phase
	share float64 // of the rows that could be in flight
	lost  int     // trials in a row
	began time.Time
	until time.Time
	now   tally // since the phase began
	off   tally // without guesses
}

// tally counts final tokens.
type tally struct{ all, others float64 }

// NewTrials makes the trials of a stage. Seed should differ between stages.
func NewTrials(seed uint64) *Trials {
	return &Trials{rng: rand.New(rand.NewPCG(seed, 0)), share: 1}
}

// token counts a final token, of a session that repeats itself or not.
func (t *Trials) token(at time.Time, busy float64, repeats bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(at, busy)
	t.now.all++
	if !repeats {
		t.now.others++
	}
}

// allowed returns the share of the rows that could be in flight which may be, with the
// busiest stage of a session so busy.
func (t *Trials) allowed(at time.Time, busy float64) float64 {
	if t == nil {
		return 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(at, busy)
	switch t.phase {
	case waiting, without, barred:
		return 0
	case free:
		return 1
	}
	return t.share
}

// advance goes to the phase that is due.
func (t *Trials) advance(at time.Time, busy float64) {
	if t.phase != free && at.Before(t.until) {
		return
	}
	switch t.phase {
	case free:
		if busy > tryBusy {
			t.share = 0
			t.enter(waiting, at, t.random())
		}
	case waiting, kept, barred:
		if busy <= tryBusy && t.phase == kept && t.share == 1 {
			t.phase, t.lost = free, 0
			return
		}
		t.enter(without, at, tryFor)
	case without:
		t.off = t.perSecond(at)
		switch {
		case !t.heard():
			t.share = 1
		case t.lost > 0:
			t.share = least
		default:
			t.share = min(1, max(0.5, 2*t.share))
		}
		t.enter(with, at, tryFor)
	case with:
		t.decide(at)
	}
}

// decide ends a trial. A gain counts if chance is not likely to have made it.
func (t *Trials) decide(at time.Time) {
	got := t.perSecond(at)
	must := mustGain + 1/math.Sqrt(max(1, t.off.all*tryFor.Seconds()))
	if got.all > must*t.off.all && (!t.heard() || got.others > mustKeep*t.off.others) {
		t.lost = 0
		t.enter(kept, at, keepFor+t.random())
		return
	}
	t.share = 0
	t.enter(barred, at, min(keepFor<<t.lost, longer*keepFor)+t.random())
	t.lost = min(t.lost+1, longer)
}

// heard reports whether there are sessions that have nothing to guess.
func (t *Trials) heard() bool { return t.off.others*tryFor.Seconds() >= enough }

func (t *Trials) enter(p phase, at time.Time, d time.Duration) {
	t.phase, t.began, t.until, t.now = p, at, at.Add(d), tally{}
}

func (t *Trials) perSecond(at time.Time) tally {
	s := max(at.Sub(t.began).Seconds(), 1e-3)
	return tally{t.now.all / s, t.now.others / s}
}

func (t *Trials) random() time.Duration { return time.Duration(t.rng.Int64N(int64(spread))) }
