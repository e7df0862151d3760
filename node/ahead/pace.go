package ahead

import (
	"math"
	"time"
)

const (
	slack      = 0.8 // of the trip that the rows in flight may take at the slowest stage
	likely     = 0.5 // that all guesses in flight are right, for as much as
	full       = 1.1 // of the trip
	leastSure  = 0.05
	unmeasured = 4 // rows in flight while nothing is known of the ring
	recent     = 1. / 16

	longestTrip = time.Hour

	debtShare = 0.03 // of the time so far that wrong guesses may cost
	debtStart = 300 * time.Millisecond
)

// pace says how far ahead a session may run.
type pace struct {
	trips int     // measured
	trip  float64 // their moving mean, microseconds
	quick float64 // about the quickest of late

	price, row  float64 // the latest, microseconds
	busy, floor float64

	begun time.Time
	debt  float64 // cost of the wrong guesses less gain of the right ones, microseconds
}

// measure takes what a final token's frame said.
func (p *pace) measure(at time.Time, m Measures) {
	if p.begun.IsZero() {
		p.begun = at
	}
	if us := min(m.Trip, longestTrip).Seconds() * 1e6; us > 0 {
		p.trips++
		p.trip += (us - p.trip) * max(recent, 1/float64(p.trips))
		if p.quick *= 1 + recent; p.trips == 1 || us < p.quick {
			p.quick = us
		}
	}
	p.price, p.row = float64(m.PriceUs), float64(m.RowUs)
	p.busy, p.floor = bounded(m.Busy), bounded(m.Floor)
}

// bounded is x within 0 and 1; what is no number is 1, the careful end.
func bounded(x float64) float64 {
	if math.IsNaN(x) {
		return 1
	}
	return min(max(x, 0), 1)
}

// rows is the most rows in flight, the last true one included, that are out of the way
// when the next true one is sent. If it is likely to be a while until then, the slowest
// stage is kept busy.
func (p *pace) rows(sure float64) int {
	if p.trips == 0 || p.row == 0 {
		return unmeasured
	}
	n := slack * p.trip / p.row
	if sure >= likely {
		n = max(n, 1+full*p.quick/p.row)
	}
	return int(min(n, math.MaxInt32))
}

// theta is the least chance of being right with which a guess is sent.
func (p *pace) theta() float64 {
	theta := max(leastSure, p.floor)
	if p.trips > 0 {
		theta = max(theta, p.price/p.trip)
	}
	return theta
}

// gained books a right guess, and returns what it saved.
func (p *pace) gained() time.Duration {
	p.debt -= p.trip
	return time.Duration(p.trip * 1e3)
}

// lost books wrong guesses.
func (p *pace) lost(n int) { p.debt += float64(n) * p.price }

// solvent says that guesses have not cost more than they may.
func (p *pace) solvent(at time.Time) bool {
	return time.Duration(p.debt*1e3) <= debtStart+time.Duration(debtShare*float64(at.Sub(p.begun)))
}

// forget drops what was measured of the ring, but not what guesses cost.
func (p *pace) forget() {
	p.trips, p.trip, p.quick, p.price, p.row, p.busy, p.floor = 0, 0, 0, 0, 0, 0, 0
}
