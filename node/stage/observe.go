package stage

import (
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Observer receives what a stage does, for metrics and traces. The loop, the senders
// and the readers call it while they work, so it must not block and must be safe for
// concurrent use.
type Observer interface {
	// Asked reports an Open: the code that it was refused with, CODE_UNKNOWN if it
	// was accepted.
	Asked(refused protocol.Code)
	// Pass reports a pass and its rows.
	Pass(rows int)
	// Step reports how long a step spent in a part of its path.
	Step(phase Phase, part Part, took time.Duration)
	// Closed reports a session that has ended.
	Closed(r Report)
}

// Phase of a session that a step belongs to.
type Phase uint8

// Phases. A step of one row is a decode, as in the batches.
const (
	control Phase = iota // not a step
	Prefill
	Decode
)

// Part of a step's path through a stage.
type Part uint8

// Parts in order: until a pass takes the step, the whole pass that contains it, and
// until the socket has accepted the resulting frame.
const (
	Wait Part = iota
	Compute
	Send
)

// Report sums up an ended session at one stage.
type Report struct {
	Trace                  string // the trace context of its Open
	Index, Stages          int
	Opened                 time.Time
	Outcome                string // "bye", "silent" (its client sent nothing any more), or a code's name
	Passes, Rows           int64  // passes with rows of it, and rows computed
	Wait, Compute, Sending time.Duration
	Guesses, Kept          int64 // rows of guesses that this stage sent ahead as the first, and those that were right
}

// unobserved is a stage without an Observer.
type unobserved struct{}

func (unobserved) Asked(protocol.Code)             {}
func (unobserved) Pass(int)                        {}
func (unobserved) Step(Phase, Part, time.Duration) {}
func (unobserved) Closed(Report)                   {}

// say logs what a client has caused. Clients may cause as much as they like, so there is
// a limit; the metrics count everything.
func (s *Stage) say(what string, attrs ...any) {
	if s.lines.Allow() {
		s.cfg.Log.Info(what, attrs...)
	}
}

// tally adds up a session for its report.
type tally struct {
	opened       time.Time
	passes, rows atomic.Int64
	spent        [3]atomic.Int64 // nanoseconds per Part
}

// phase returns a step's phase.
func (st *step) phase() Phase {
	if st.rows == 1 {
		return Decode
	}
	return Prefill
}

// spent records a step's time.
func (sess *session) spent(phase Phase, part Part, took time.Duration) {
	sess.tally.spent[part].Add(int64(took))
	sess.stage.cfg.Observer.Step(phase, part, took)
}

// sent records a frame that a socket has accepted.
func (sess *session) sent(phase Phase, took time.Duration) { sess.spent(phase, Send, took) }

func (sess *session) report(outcome string) Report {
	t := &sess.tally
	sum := func(p Part) time.Duration { return time.Duration(t.spent[p].Load()) }
	guesses, kept := sess.guesses()
	return Report{
		Trace: sess.open.Trace, Index: int(sess.open.Index), Stages: int(sess.open.Stages), Opened: t.opened, Outcome: outcome,
		Passes: t.passes.Load(), Rows: t.rows.Load(), Wait: sum(Wait), Compute: sum(Compute), Sending: sum(Send),
		Guesses: int64(guesses), Kept: int64(kept),
	}
}
