package constrain

import (
	"math/big"
	"strings"
)

// The maximum digits of an unbounded number: what 64 bits hold, and few enough
// that a model cannot write digits endlessly.
const (
	wholeDigits    = 18
	fractionDigits = 16
)

// digit is shared by all formats, and several are compiled at once: prune finds it marked.
var digit = func() *expr {
	e := bytesOf('0', '9')
	e.productive = true
	return e
}()

func digits(least, most int) *expr { return repeat(digit, least, most) }

func anyInteger() *expr {
	return either(oneOf("0"), seq(optional(oneOf("-")), bytesOf('1', '9'), digits(0, wholeDigits-1)))
}

func anyNumber() *expr {
	return seq(optional(oneOf("-")), either(oneOf("0"), seq(bytesOf('1', '9'), digits(0, wholeDigits-1))),
		optional(seq(oneOf("."), digits(1, fractionDigits))),
		optional(seq(oneOf("eE"), optional(oneOf("+-")), digits(1, 2))))
}

// bound is a bound of a number; nil: none.
type bound struct {
	at        *big.Rat
	exclusive bool
}

// integers returns the integers from lo to hi; nil: unbounded.
func integers(lo, hi *big.Int) *expr {
	zero := new(big.Int)
	if lo != nil && hi != nil && lo.Cmp(hi) > 0 {
		return never()
	}
	var ways []*expr
	if lo == nil || lo.Sign() < 0 {
		var least, most *big.Int // of the absolute value of a negative number
		if lo != nil {
			most = new(big.Int).Neg(lo)
		}
		least = big.NewInt(1)
		if hi != nil && hi.Sign() < 0 {
			least = new(big.Int).Neg(hi)
		}
		ways = append(ways, seq(oneOf("-"), whole(least, most)))
	}
	if hi == nil || hi.Sign() >= 0 {
		if lo == nil || lo.Sign() < 0 {
			lo = zero
		}
		ways = append(ways, whole(lo, hi))
	}
	return either(ways...)
}

// whole returns the integers from lo to hi, neither negative; hi nil:
// unbounded.
func whole(lo, hi *big.Int) *expr {
	a := lo.String()
	if hi == nil {
		hi, _ = new(big.Int).SetString(strings.Repeat("9", max(wholeDigits, len(a)+1)), 10)
	}
	b := hi.String()
	if lo.Cmp(hi) > 0 {
		return never()
	}
	var ways []*expr
	for n := len(a); n <= len(b); n++ {
		from, to := a, b
		if n > len(a) {
			from = "1" + strings.Repeat("0", n-1)
		}
		if n < len(b) {
			to = strings.Repeat("9", n)
		}
		ways = append(ways, between(from, to))
	}
	return either(ways...)
}

// between returns the strings of digits from lo to hi, which have equal length.
func between(lo, hi string) *expr {
	n := len(lo)
	switch {
	case n == 0:
		return empty
	case lo[0] == hi[0]:
		return seq(bytesOf(lo[0], lo[0]), between(lo[1:], hi[1:]))
	case strings.Trim(lo[1:], "0") == "" && strings.Trim(hi[1:], "9") == "":
		return seq(bytesOf(lo[0], hi[0]), digits(n-1, n-1))
	}
	ways := []*expr{
		seq(bytesOf(lo[0], lo[0]), between(lo[1:], strings.Repeat("9", n-1))),
		seq(bytesOf(hi[0], hi[0]), between(strings.Repeat("0", n-1), hi[1:])),
	}
	if lo[0]+1 < hi[0] {
		ways = append(ways, seq(bytesOf(lo[0]+1, hi[0]-1), digits(n-1, n-1)))
	}
	return either(ways...)
}

// numbers returns the numbers within bounds, written without an exponent.
func numbers(lo, hi *bound, fraction int) *expr {
	var ways []*expr
	negative := func(b *bound) *bound {
		if b == nil {
			return nil
		}
		return &bound{new(big.Rat).Neg(b.at), b.exclusive}
	}
	if lo == nil || lo.at.Sign() < 0 {
		least := &bound{new(big.Rat), true} // there is no -0
		if hi != nil && hi.at.Sign() < 0 {
			least = negative(hi)
		}
		ways = append(ways, seq(oneOf("-"), decimals(least, negative(lo), fraction)))
	}
	if hi == nil || hi.at.Sign() >= 0 {
		if lo == nil || lo.at.Sign() < 0 {
			lo = &bound{new(big.Rat), false}
		}
		ways = append(ways, decimals(lo, hi, fraction))
	}
	return either(ways...)
}

// decimals returns the decimals from lo to hi, neither negative; hi nil:
// unbounded.
func decimals(lo, hi *bound, fraction int) *expr {
	f := fractions{fraction}
	a, l := parts(lo.at)
	dot := oneOf(".")
	if hi == nil {
		return either(
			seq(literal(a.String()), f.from(l, lo.exclusive)),
			seq(whole(new(big.Int).Add(a, big.NewInt(1)), nil), f.any()))
	}
	b, h := parts(hi.at)
	switch a.Cmp(b) {
	case 1:
		return never()
	case 0:
		ends := never()
		if l == "" && !lo.exclusive && (h != "" || !hi.exclusive) {
			ends = empty
		}
		return seq(literal(a.String()), either(ends, seq(dot, f.both(l, h, lo.exclusive, hi.exclusive, true, fraction))))
	}
	ways := []*expr{seq(literal(a.String()), f.from(l, lo.exclusive)), seq(literal(b.String()), f.to(h, hi.exclusive))}
	next, last := new(big.Int).Add(a, big.NewInt(1)), new(big.Int).Sub(b, big.NewInt(1))
	if next.Cmp(last) <= 0 {
		ways = append(ways, seq(whole(next, last), f.any()))
	}
	return either(ways...)
}

// parts splits a non-negative decimal into its integer part and the digits
// after the point, without trailing zeros.
func parts(r *big.Rat) (*big.Int, string) {
	w, f, _ := strings.Cut(r.FloatString(maxPlaces), ".")
	n, _ := new(big.Int).SetString(w, 10)
	return n, strings.TrimRight(f, "0")
}

// fractions returns the fractional part of a number, with at most this many
// digits.
type fractions struct{ most int }

func (f fractions) any() *expr {
	if f.most == 0 {
		return empty
	}
	return optional(seq(oneOf("."), digits(1, f.most)))
}

// from returns the fractions from .l on.
func (f fractions) from(l string, exclusive bool) *expr {
	if l == "" && !exclusive {
		return f.any()
	}
	return seq(oneOf("."), f.atLeast(l, exclusive, f.most))
}

// to returns the fractions up to .h.
func (f fractions) to(h string, exclusive bool) *expr {
	if h == "" {
		if exclusive {
			return never()
		}
		return empty
	}
	return optional(seq(oneOf("."), f.atMost(h, exclusive, true, f.most)))
}

// atLeast returns the digits, at most n, of fractions of .l or more.
func (f fractions) atLeast(l string, exclusive bool, n int) *expr {
	if l == "" {
		if exclusive {
			return f.positive(n)
		}
		return digits(0, max(0, n))
	}
	if n <= 0 {
		return never()
	}
	same := seq(bytesOf(l[0], l[0]), f.atLeast(l[1:], exclusive, n-1))
	if l[0] == '9' {
		return same
	}
	return either(same, seq(bytesOf(l[0]+1, '9'), digits(0, n-1)))
}

// positive returns n digits that are not all zero.
func (f fractions) positive(n int) *expr {
	if n <= 0 {
		return never()
	}
	return either(seq(bytesOf('1', '9'), digits(0, n-1)), seq(oneOf("0"), f.positive(n-1)))
}

// atMost returns the digits of fractions of .h or less; first: at least one
// digit is required.
func (f fractions) atMost(h string, exclusive, first bool, n int) *expr {
	if h == "" {
		if exclusive {
			return never()
		}
		return repeat(oneOf("0"), 0, n)
	}
	var ways []*expr
	if !first {
		ways = append(ways, empty)
	}
	if n > 0 {
		ways = append(ways, seq(bytesOf(h[0], h[0]), f.atMost(h[1:], exclusive, false, n-1)))
		if h[0] > '0' {
			ways = append(ways, seq(bytesOf('0', h[0]-1), digits(0, n-1)))
		}
	}
	return either(ways...)
}

// both returns the digits of fractions between .l and .h.
func (f fractions) both(l, h string, lex, hex, first bool, n int) *expr {
	if l == "" && h == "" {
		if lex || hex {
			return never()
		}
		least := 0
		if first {
			least = 1
		}
		return repeat(oneOf("0"), least, n)
	}
	var ways []*expr
	if !first && l == "" && !lex {
		ways = append(ways, empty)
	}
	if n > 0 {
		a, b, l1, h1 := byte('0'), byte('0'), l, h
		if l != "" {
			a, l1 = l[0], l[1:]
		}
		if h != "" {
			b, h1 = h[0], h[1:]
		}
		if a == b {
			ways = append(ways, seq(bytesOf(a, a), f.both(l1, h1, lex, hex, false, n-1)))
		} else if a < b {
			ways = append(ways, seq(bytesOf(a, a), f.atLeast(l1, lex, n-1)), seq(bytesOf(b, b), f.atMost(h1, hex, false, n-1)))
			if a+1 < b {
				ways = append(ways, seq(bytesOf(a+1, b-1), digits(0, n-1)))
			}
		}
	}
	return either(ways...)
}
