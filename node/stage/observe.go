package stage

import (
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Observer is told what a stage does, for metrics and traces. The loop, the
// senders and the readers call it in the middle of their work: it must not wait,
// and is called by several goroutines at once.
type Observer interface {
	// Asked tells of an Open: the code that refused it, CODE_UNKNOWN if none did.
	Asked(refused protocol.Code)
	// Pass tells of a pass and its rows.
	Pass(rows int)
	// Step tells how long a step spent in a part of its way.
	Step(phase Phase, part Part, took time.Duration)
	// Closed tells of a session that has ended.
	Closed(r Report)
}

// Phase of a session that a step belongs to.
type Phase uint8

// Phases. A step of one row is a decode, as it is for the batches.
const (
	control Phase = iota // no step
	Prefill
	Decode
)

// Part of a step's way through a stage.
type Part uint8

// Parts, in the order of the way: until a pass took the step, the whole pass
// that it was in, and until a socket had taken a frame that came of it.
const (
	Wait Part = iota
	Compute
	Send
)

// Report is what a session was to a stage.
type Report struct {
	Trace                  string // as its Open had it
	Index, Stages          int
	Opened                 time.Time
	Outcome                string // "bye", "silent" (nothing came from the client), or a code's name
	Passes, Rows           int64  // that it was in, and had computed
	Wait, Compute, Sending time.Duration
}

// unobserved is a stage without an Observer.
type unobserved struct{}

func (unobserved) Asked(protocol.Code)             {}
func (unobserved) Pass(int)                        {}
func (unobserved) Step(Phase, Part, time.Duration) {}
func (unobserved) Closed(Report)                   {}

// tally adds up a session for its report.
type tally struct {
	opened       time.Time
	passes, rows atomic.Int64
	spent        [3]atomic.Int64 // nanoseconds a Part
}

// phase of a step.
func (st *step) phase() Phase {
	if st.rows == 1 {
		return Decode
	}
	return Prefill
}

// spent takes note of a step's time.
func (sess *session) spent(phase Phase, part Part, took time.Duration) {
	sess.tally.spent[part].Add(int64(took))
	sess.stage.cfg.Observer.Step(phase, part, took)
}

// sent takes note of a frame that a socket has taken.
func (sess *session) sent(phase Phase, took time.Duration) { sess.spent(phase, Send, took) }

func (sess *session) report(outcome string) Report {
	t := &sess.tally
	sum := func(p Part) time.Duration { return time.Duration(t.spent[p].Load()) }
	return Report{
		Trace: sess.open.Trace, Index: int(sess.open.Index), Stages: int(sess.open.Stages), Opened: t.opened, Outcome: outcome,
		Passes: t.passes.Load(), Rows: t.rows.Load(), Wait: sum(Wait), Compute: sum(Compute), Sending: sum(Send),
	}
}
