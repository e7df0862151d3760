package constrain

import (
	"errors"
	"math/big"
	"strconv"
)

// Multiples of a number: an automaton that knows the remainder of the digits so far.

// maxMultiple bounds the remainders: a multiple of 0.05 is one of 5 hundredths.
const maxMultiple = 2000

// steps splits a number into a count of decimal places and the multiple of their unit: 0.05
// is 5 of 2 places. ok is false if either is too large.
func steps(of *big.Rat) (multiple, places int, ok bool) {
	unit := big.NewInt(1)
	for ; places <= fractionDigits; places++ {
		n := new(big.Rat).Mul(of, new(big.Rat).SetInt(unit))
		if n.IsInt() {
			if !n.Num().IsInt64() || n.Num().Int64() > maxMultiple {
				return 0, 0, false
			}
			return int(n.Num().Int64()), places, true
		}
		unit.Mul(unit, big.NewInt(10))
	}
	return 0, 0, false
}

// common returns the least number that is a multiple of both.
func common(a, b *big.Rat) *big.Rat {
	if a == nil {
		return b
	}
	x, y := new(big.Int).Mul(a.Num(), b.Denom()), new(big.Int).Mul(b.Num(), a.Denom())
	d := new(big.Int).Mul(a.Denom(), b.Denom())
	g := new(big.Int).GCD(nil, nil, x, y)
	return new(big.Rat).SetFrac(x.Mul(x.Div(x, g), y), d)
}

// remainders accepts the decimals that are multiples of n units of so many places.
func remainders(n, places int) *automaton {
	d := &automaton{}
	add := func(accept bool) int {
		d.states = append(d.states, place{accept: accept})
		return len(d.states) - 1
	}
	edge1 := func(from int, c rune, to int) {
		d.states[from].edges = append(d.states[from].edges, edge{c, c, to})
	}
	unit := 1 % n // of a one before the point
	for range places {
		unit = unit * 10 % n
	}
	start, sign := add(false), add(false)
	// Before the point, by the remainder in units; then the zero that nothing
	// follows but a point.
	whole := make([]int, n)
	for r := range n {
		whole[r] = add(r == 0)
	}
	zero := add(true)
	// After the point, by the number of places so far and the remainder.
	fraction := make([][]int, places+1)
	for p := range fraction {
		fraction[p] = make([]int, n)
		for r := range n {
			fraction[p][r] = add(p > 0 && r == 0)
		}
	}
	edge1(start, '-', sign)
	for c := range 10 {
		to := whole[c*unit%n]
		if c == 0 {
			to = zero
		}
		edge1(start, rune('0'+c), to)
		if c > 0 || places > 0 { // there is no -0
			edge1(sign, rune('0'+c), to)
		}
	}
	for r := range n {
		if places > 0 {
			edge1(whole[r], '.', fraction[0][r])
		}
		for c := range 10 {
			edge1(whole[r], rune('0'+c), whole[(r*10+c*unit)%n])
		}
	}
	if places > 0 {
		edge1(zero, '.', fraction[0][0])
	}
	for p := range places {
		weight := 1 % n // of a digit at this place, in units
		for range places - p - 1 {
			weight = weight * 10 % n
		}
		for r := range n {
			for c := range 10 {
				edge1(fraction[p][r], rune('0'+c), fraction[p+1][(r+c*weight)%n])
			}
		}
	}
	return d
}

// multiples returns the multiples of a number within bounds; nil: none.
func multiples(lo, hi *bound, of *big.Rat) (*expr, error) {
	n, places, ok := steps(of)
	if !ok {
		return nil, errors.New("is supported up to " + strconv.Itoa(maxMultiple) + " of the unit of its last decimal place")
	}
	if places == 0 {
		lo, hi = wholeBounds(lo, hi)
	}
	d, err := remainders(n, places).trim()
	if err != nil {
		return nil, err
	}
	if lo != nil && lo.at.Sign() == 0 && !lo.exclusive && hi == nil { // no sign
		lo, d.states[0].edges = nil, d.states[0].edges[1:]
	}
	if lo == nil && hi == nil {
		arcs, accept := spellings(d, bytesIn)
		return countCharacters(arcs, accept, 1, wholeDigits+places+1, empty)
	}
	within, err := determineNumbers(numbers(lo, hi, places))
	if err != nil {
		return nil, err
	}
	if d, err = both(within, d); err != nil {
		return nil, err
	}
	arcs, accept := spellings(d, bytesIn)
	return graph(arcs, accept, empty), nil
}

// wholeBounds moves bounds to the nearest integers within them.
func wholeBounds(lo, hi *bound) (*bound, *bound) {
	a, b := wholeWithin(lo, hi)
	to := func(n *big.Int) *bound {
		if n == nil {
			return nil
		}
		return &bound{at: new(big.Rat).SetInt(n)}
	}
	return to(a), to(b)
}

func bytesIn(ranges []rune) *expr {
	e := &expr{kind: kindByte}
	for i := 0; i < len(ranges); i += 2 {
		e.set.add(byte(ranges[i]), byte(ranges[i+1]))
	}
	return e
}

const numberBytes = "-.0123456789"

// determineNumbers makes an automaton of an expression of decimals.
func determineNumbers(e *expr) (*automaton, error) {
	if ok, _ := prune(e); !ok {
		return nil, errNothing
	}
	m, err := newMachine(&Vocab{}, e)
	if err != nil {
		return nil, err
	}
	d := &automaton{}
	index := map[*state]int{m.start: 0}
	for list := []*state{m.start}; len(list) > 0; list = list[1:] {
		p := place{accept: list[0].ended}
		for i := range len(numberBytes) {
			m.effort = 0
			next := m.step(list[0], numberBytes[i])
			if next == dead {
				continue
			}
			to, ok := index[next]
			if !ok {
				if to = len(index); to > maxAutomaton/2 {
					return nil, errPattern
				}
				index[next] = to
				list = append(list, next)
			}
			p.edges = append(p.edges, edge{rune(numberBytes[i]), rune(numberBytes[i]), to})
		}
		d.states = append(d.states, p)
	}
	return d.trim()
}
