package ahead

import "time"

const (
	worthwhile = 1.15 // times as fast as the tables alone, or a drafter is not asked
	firstRest  = 64   // tokens without a drafter that was wrong too often, then twice as many
	mostRests  = 4    // doublings of that
	proven     = 32   // guesses after which a drafter that pays has made good what was before
)

// untried is what a drafter may be trusted like that has guessed nothing yet.
var untried = share{2.4, 4}

// drafting decides whether a drafter's guesses are worth having: they take its time, and
// memory and processors of the machine.
type drafting struct {
	tables float64 // the share of recent tokens that the tables guessed
	filled share   // of the others, those that the drafter guessed in time
	on     bool    // its guesses are wanted
	heard  bool    // some have come since they are
	rest   int     // final tokens until it is asked again
	rests  int     // in a row
}

// learn takes what the tables' and the drafter's guess for a final token were.
func (d *drafting) learn(table, drafted bool) {
	d.tables -= d.tables * recent
	if table {
		d.tables += recent
	}
	if d.rest > 0 {
		if d.rest--; d.rest == 0 {
			d.filled = untried
		}
	}
	if d.on && d.heard && !table {
		d.filled.learn(drafted)
	}
}

// gain is how many times as fast the answer comes with a drafter that takes so many
// microseconds per guess, and has the given share of the tokens right that the tables do
// not guess. A token takes a trip, or, if it was guessed, the time of what is slowest.
func (d *drafting) gain(p *pace, filled, takes float64) float64 {
	others := 1 - d.tables
	without := others*p.trip + d.tables*p.row
	with := others*(1-filled)*p.trip + d.tables*p.row + others*filled*max(p.row, takes)
	return without / with
}

// pays reports whether guesses that take so many microseconds each are worth having.
func (d *drafting) pays(p *pace, takes float64) bool {
	if d.rest > 0 || p.trips == 0 || p.busy > tryBusy {
		return false
	}
	if d.gain(p, d.filled.of(), takes) >= worthwhile {
		if d.filled.all > proven {
			d.rests = 0
		}
		return true
	}
	if d.gain(p, untried.of(), takes) >= worthwhile { // it is not too slow, but wrong
		d.rest = firstRest << d.rests
		d.rests = min(d.rests+1, mostRests)
	}
	return false
}

// Drafts reports whether guesses of a drafter that takes so long per guess are worth
// having now: the answer is expected to come at least 1.15 times as fast as with what the
// tables guess. A drafter that is wrong too often is asked again after a while. 0: it is
// not known yet how long it takes.
func (r *Runner) Drafts(takes time.Duration) bool {
	pays := r.cfg.MaxInFlight > 0 && r.drafting.pays(&r.pace, takes.Seconds()*1e6)
	if !pays || !r.drafting.on {
		r.drafting.heard = false
	}
	r.drafting.on = pays
	return pays
}
