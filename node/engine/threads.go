package engine

import (
	"reflect"
	"time"
	"unsafe"

	"github.com/ollama/ollama/ml"
)

// A pass that computes on more threads than there are idle cores waits at each
// of ggml's barriers for a thread that has no core: on two cores beside two
// busy loops, two threads give a fifth of what one gives. What is idle changes
// all the time, so the number of threads is chosen by measuring passes of few
// rows: now and then a few of them try another number, and the faster stays.
// Between trials nothing is measured twice, so a tuned engine pays about
// trialPasses in probeEvery.
const (
	smallPass   = 8 // rows; larger passes are never trials, they vary too much
	trialPasses = 3 // the best of so many decides
	probeEvery  = 1500 * time.Millisecond
	gain        = 0.93 // another number must be this much faster to stay
)

// tuner chooses the number of CPU threads. It is used under the compute lock.
type tuner struct {
	set     func(n int)
	options []int // 1, 2, 4, ... and the most
	at      int   // index of the number in use

	best   time.Duration // of recent passes with it, a row
	recent [trialPasses]time.Duration
	seen   int

	trial     int // index under trial; at: none
	trialBest time.Duration
	trialLeft int
	nextProbe time.Time
	direction int // of the next trial: -1 or 1
}

func newTuner(b ml.Backend, most int) *tuner {
	t := &tuner{direction: -1, nextProbe: time.Now().Add(probeEvery)}
	for n := 1; n < most; n *= 2 {
		t.options = append(t.options, n)
	}
	t.options = append(t.options, most)
	t.at = len(t.options) - 1
	t.trial = t.at
	if cpu := cpuBackend(b); cpu != nil {
		t.set = func(n int) { setThreads(cpu, n) }
	}
	return t
}

func (t *tuner) before(rows int) {
	if t.set == nil || rows > smallPass || len(t.options) < 2 {
		return
	}
	if t.trialLeft == 0 && t.seen >= trialPasses && time.Now().After(t.nextProbe) {
		if t.at+t.direction < 0 || t.at+t.direction >= len(t.options) {
			t.direction = -t.direction
		}
		t.trial, t.trialLeft, t.trialBest = t.at+t.direction, trialPasses, 0
		t.set(t.options[t.trial])
	}
}

func (t *tuner) after(rows int, took time.Duration) {
	if t.set == nil || rows > smallPass || len(t.options) < 2 {
		return
	}
	per := took / time.Duration(rows)
	if t.trialLeft == 0 {
		t.recent[t.seen%trialPasses] = per
		t.seen++
		t.best = t.recent[0]
		for _, d := range t.recent[:min(t.seen, trialPasses)] {
			t.best = min(t.best, d)
		}
		return
	}
	if t.trialBest == 0 || per < t.trialBest {
		t.trialBest = per
	}
	if t.trialLeft--; t.trialLeft > 0 {
		return
	}
	if float64(t.trialBest) < gain*float64(t.best) {
		t.at, t.seen = t.trial, 0
	} else {
		t.direction = -t.direction // the other way next time
		t.set(t.options[t.at])
	}
	t.trial = t.at
	t.nextProbe = time.Now().Add(probeEvery)
}

// cpuBackend finds ggml's handle of the CPU backend, which the library keeps
// to itself: the last of the scheduler's backends.
func cpuBackend(b ml.Backend) unsafe.Pointer {
	v := reflect.ValueOf(b)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	list := v.Elem().FieldByName("schedBackends")
	if !list.IsValid() || list.Kind() != reflect.Slice || list.Len() == 0 {
		return nil
	}
	last := list.Index(list.Len() - 1)
	if last.Kind() != reflect.Pointer {
		return nil
	}
	return last.UnsafePointer()
}
