package lend

import (
	"fmt"
	"time"
)

// Reading is what the machine shows at one time.
type Reading struct {
	Others  float64 // part of all cores that other programs had since the last reading; negative: not known
	Battery bool    // the machine runs on battery
}

// Decider decides, reading by reading. It has no clock of its own.
type Decider struct {
	rules   Rules
	last    time.Time // of the last reading
	load    latch
	battery latch
}

// NewDecider begins a sequence of readings.
func NewDecider(r Rules) *Decider { return &Decider{rules: r} }

// Change replaces the rules. Load that was measured against another limit no longer
// counts; a machine on battery stays so.
func (d *Decider) Change(r Rules) {
	if r.PauseLoad != d.rules.PauseLoad {
		d.load = latch{}
	}
	d.rules = r
}

// Decide takes the next reading and says whether to lend, and if not, why. The
// time zone of now is the one of the hours.
func (d *Decider) Decide(now time.Time, r Reading) (lend bool, why string) {
	d.take(now, r)
	why = d.why(now)
	return why == "", why
}

func (d *Decider) take(now time.Time, r Reading) {
	if d.last.IsZero() {
		d.last = now
		d.battery.on = r.Battery // loading first, only to drain, helps nobody
	}
	dt := max(0, now.Sub(d.last)) // a clock that is set back adds nothing
	d.last = now
	after, resume := d.rules.pauseAfter(), d.rules.resume()
	d.battery.step(dt, r.Battery, !r.Battery, after, resume)
	if r.Others >= 0 { // one that is not known changes nothing
		limit := d.rules.PauseLoad
		d.load.step(dt, r.Others >= limit, r.Others < limit*quietPart, after, resume)
	}
}

// why tells the first reason against lending, in the order in which an owner
// would think of them; none if it is empty. It says nothing that changes with
// each reading.
func (d *Decider) why(now time.Time) string {
	switch r := d.rules; {
	case r.Pause.At(now):
		return r.Pause.why(now)
	case !r.Hours.Contains(now):
		return fmt.Sprintf("outside the hours lent (%s)", r.Hours)
	case d.battery.on && !r.OnBattery:
		return fmt.Sprintf("the machine runs on battery; lent again after %s on mains", r.resume())
	case d.load.on && r.PauseLoad > 0:
		return fmt.Sprintf("other programs use %.0f %% of the machine's cores or more; lent again after %s below %.0f %%",
			100*r.PauseLoad, r.resume(), 100*r.PauseLoad*quietPart)
	}
	return ""
}

// latch is a condition that must last before it counts.
type latch struct {
	on   bool
	held time.Duration // what speaks for a change so far
}

// step takes what was seen for the last dt: above speaks for the condition,
// below against it, and in between for neither.
func (l *latch) step(dt time.Duration, above, below bool, after, resume time.Duration) {
	if l.on {
		l.release(dt, below, resume)
		return
	}
	switch {
	case above:
		l.held += dt
	case below:
		// Not back to nothing: a compiler that pauses to link is no quiet.
		l.held = max(0, l.held-dt)
	}
	if l.held >= after {
		*l = latch{on: true}
	}
}

// release wants the opposite without a break: who has paused for someone does
// not come back between two of his commands.
func (l *latch) release(dt time.Duration, below bool, resume time.Duration) {
	if !below {
		l.held = 0
		return
	}
	if l.held += dt; l.held >= resume {
		*l = latch{}
	}
}
