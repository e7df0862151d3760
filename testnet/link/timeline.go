package link

import (
	"container/heap"
	"sync"
	"time"
)

// event is something that happens at a given instant. fire runs on the
// timeline's goroutine and must not block.
type event interface{ fire() }

// timeline runs events at their due times, in the order of the times and, for
// equal ones, in the order they were added. Its goroutine lives while sockets
// hold it.
type timeline struct {
	mu    sync.Mutex
	due   eventHeap
	seq   uint64
	alarm alarm // nil while nobody holds the timeline
	refs  int

	newAlarm func() alarm // for tests; nil is this platform's best
}

// alarm wakes one waiter at an instant. set may be called from any goroutine
// and replaces the instant set before; wait returns at the instant or, after
// close, at once.
type alarm interface {
	set(time.Time)
	wait()
	close()
}

// hold starts the timeline's goroutine, if it does not run yet.
func (t *timeline) hold() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refs++
	if t.refs == 1 {
		if t.newAlarm == nil {
			t.newAlarm = newAlarm
		}
		t.alarm = t.newAlarm()
		if len(t.due) > 0 {
			t.alarm.set(t.due[0].at)
		}
		go t.run(t.alarm)
	}
}

// release ends the goroutine when the last holder releases it. Events due after that
// wait for the next hold.
func (t *timeline) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refs--
	if t.refs == 0 {
		t.alarm.close()
		t.alarm = nil
	}
}

// at adds an event. The caller holds the timeline.
func (t *timeline) at(when time.Time, e event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	heap.Push(&t.due, dueEvent{at: when, seq: t.seq, e: e})
	if t.due[0].seq == t.seq && t.alarm != nil {
		t.alarm.set(when)
	}
}

func (t *timeline) run(a alarm) {
	for {
		a.wait()
		t.mu.Lock()
		for {
			if t.alarm != a { // released
				t.mu.Unlock()
				return
			}
			if len(t.due) == 0 {
				break
			}
			if next := t.due[0].at; time.Now().Before(next) {
				a.set(next)
				break
			}
			e := heap.Pop(&t.due).(dueEvent).e
			t.mu.Unlock()
			e.fire()
			t.mu.Lock()
		}
		t.mu.Unlock()
	}
}

type dueEvent struct {
	at  time.Time
	seq uint64
	e   event
}

type eventHeap []dueEvent

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(dueEvent)) }
func (h *eventHeap) Pop() any {
	o := *h
	e := o[len(o)-1]
	o[len(o)-1] = dueEvent{}
	*h = o[:len(o)-1]
	return e
}

// goAlarm is the portable alarm, on the runtime's timers.
type goAlarm struct {
	timer *time.Timer
	done  chan struct{}
}

func newGoAlarm() *goAlarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &goAlarm{timer: t, done: make(chan struct{})}
}

func (a *goAlarm) set(at time.Time) { a.timer.Reset(time.Until(at)) }
func (a *goAlarm) close()           { close(a.done) }
func (a *goAlarm) wait() {
	select {
	case <-a.timer.C:
	case <-a.done:
	}
}
