package ahead

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	tryBusy   = 0.85 // from which on guesses must win a trial
	easeBusy  = 0.7  // below which they need not
	tryFor    = 2 * time.Second
	keepFor   = 20 * time.Second
	mustGain  = 1.02
	spreadFor = 4 * time.Second // random part of keepFor, so that stages do not try in step
)

type phase uint8

const (
	free    phase = iota // guesses run; no trial has been needed
	waiting              // a trial is due, in a random while
	without              // first half of a trial
	with                 // second half
	kept                 // guesses won
	barred               // they lost
)

// Trials compare, while stages are busy, the final tokens per second with guesses and
// without, of all sessions that begin at one stage: a session alone would always find
// that guesses pay, at the cost of its neighbours. It is safe for concurrent use.
type Trials struct {
	mu     sync.Mutex
	rng    *rand.Rand
	phase  phase
	until  time.Time
	began  time.Time // of the half under way
	tokens int       // final ones since then
	rate   float64   // of the first half, per second
}

// NewTrials makes the trials of a stage. Seed should differ between stages.
func NewTrials(seed uint64) *Trials {
	return &Trials{rng: rand.New(rand.NewPCG(seed, 0))}
}

// token counts a final token.
func (t *Trials) token(at time.Time, busy float64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(at, busy)
	t.tokens++
}

// allow says whether guesses may be sent, with the busiest stage of a session so busy.
func (t *Trials) allow(at time.Time, busy float64) bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(at, busy)
	return t.phase != without && t.phase != barred
}

// advance goes to the phase that is due.
func (t *Trials) advance(at time.Time, busy float64) {
	if t.phase == free && busy > tryBusy {
		t.enter(waiting, at, t.random(spreadFor/2))
		return
	}
	if t.phase == barred && busy < easeBusy {
		t.phase = free
	}
	if t.phase == free || at.Before(t.until) {
		return
	}
	switch t.phase {
	case waiting, kept, barred:
		if t.phase != barred && busy <= tryBusy {
			t.phase = free
			return
		}
		t.enter(without, at, tryFor)
	case without:
		t.rate = t.perSecond(at)
		t.enter(with, at, tryFor)
	case with:
		won := barred
		if t.perSecond(at) > mustGain*t.rate {
			won = kept
		}
		t.enter(won, at, keepFor+t.random(spreadFor))
	}
}

func (t *Trials) enter(p phase, at time.Time, d time.Duration) {
	t.phase, t.began, t.until, t.tokens = p, at, at.Add(d), 0
}

func (t *Trials) perSecond(at time.Time) float64 {
	return float64(t.tokens) / max(at.Sub(t.began).Seconds(), 1e-3)
}

func (t *Trials) random(d time.Duration) time.Duration { return time.Duration(t.rng.Int64N(int64(d))) }
