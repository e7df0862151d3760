package constrain

import (
	"math/bits"
	"unicode/utf8"
)

// expr is an expression for what may come next. Expressions form a graph, with
// cycles for a pattern's states and for schemas that refer to themselves.
type expr struct {
	kind     kind
	set      class   // of kindByte
	mark     int32   // of kindMark: the control token
	a, b     *expr   // seq: both; repeat: a only
	alts     []*expr // of kindEither
	min, max int     // of kindRepeat; max < 0: unbounded
	text     bool    // of kindRepeat: repeats the characters of a string, so that plain text can continue in it
	less     *expr   // of kindRepeat: the rest after one repetition; built on demand
	lazy     lazy    // of kindLazy, and of kindGap: the series

	productive bool // it can be completed
}

type kind uint8

const (
	kindEmpty  kind = iota // nothing
	kindByte               // one byte of a set
	kindMark               // one control token
	kindSeq                // a, then b
	kindEither             // one of alts; without any: impossible
	kindRepeat             // a, min to max times
	kindLazy               // alternatives that are built on demand
	kindGap                // the end of an item in a series
)

// class is a set of bytes.
type class [4]uint64

func (c *class) add(lo, hi byte) {
	for b := int(lo); b <= int(hi); b++ {
		c[b>>6] |= 1 << (b & 63)
	}
}

func (c *class) has(b byte) bool { return c[b>>6]>>(b&63)&1 != 0 }

func (c *class) size() (n int) {
	for _, w := range c {
		n += bits.OnesCount64(w)
	}
	return n
}

// The builders. Equal expressions are shared, and never changed.

var empty = &expr{kind: kindEmpty, productive: true}

func bytesOf(ranges ...byte) *expr {
	e := &expr{kind: kindByte}
	for i := 0; i+1 < len(ranges); i += 2 {
		e.set.add(ranges[i], ranges[i+1])
	}
	return e
}

// oneOf is one byte of chars.
func oneOf(chars string) *expr {
	e := &expr{kind: kindByte}
	for i := range len(chars) {
		e.set.add(chars[i], chars[i])
	}
	return e
}

func seq(list ...*expr) *expr {
	out := empty
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == empty:
		case out == empty:
			out = list[i]
		default:
			out = &expr{kind: kindSeq, a: list[i], b: out}
		}
	}
	return out
}

// literal is exactly the bytes of s.
func literal(s string) *expr {
	list := make([]*expr, len(s))
	for i := range len(s) {
		list[i] = single[s[i]]
	}
	return seq(list...)
}

// single has each byte by itself.
var single = func() (all [256]*expr) {
	for b := range all {
		all[b] = bytesOf(byte(b), byte(b))
		all[b].productive = true
	}
	return all
}()

func either(list ...*expr) *expr {
	if len(list) == 1 {
		return list[0]
	}
	return &expr{kind: kindEither, alts: list}
}

func repeat(e *expr, least, most int) *expr {
	switch {
	case most >= 0 && least > most:
		return never()
	case most == 0:
		return empty
	}
	return &expr{kind: kindRepeat, a: e, min: least, max: most}
}

func optional(e *expr) *expr { return either(empty, e) }

// never is an expression that cannot match.
func never() *expr { return &expr{kind: kindEither} }

// prune removes what can never be completed, so that everything an answer
// begins can be completed. It reports whether anything is left, and returns the
// number of expressions.
func prune(root *expr) (ok bool, count int) {
	all, users := reachable(root)
	work := append([]*expr(nil), all...)
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		if !e.productive && ends(e) {
			e.productive = true
			work = append(work, users[e]...)
		}
	}
	for _, e := range all {
		switch e.kind {
		case kindEither:
			kept := make([]*expr, 0, len(e.alts))
			for _, k := range e.alts {
				if k.productive {
					kept = append(kept, k)
				}
			}
			e.alts = kept
		case kindRepeat:
			if !e.a.productive {
				e.max = 0
			}
		}
	}
	return root.productive, len(all)
}

// reachable returns all parts of an expression, itself included, and what each is a part
// of.
func reachable(root *expr) (all []*expr, users map[*expr][]*expr) {
	all = []*expr{root}
	seen := map[*expr]bool{root: true}
	users = map[*expr][]*expr{}
	for i := 0; i < len(all); i++ {
		e := all[i]
		each(e, func(k *expr) {
			users[k] = append(users[k], e)
			if !seen[k] {
				seen[k] = true
				all = append(all, k)
			}
		})
	}
	return all, users
}

func each(e *expr, f func(*expr)) {
	switch e.kind {
	case kindSeq:
		f(e.a)
		f(e.b)
	case kindRepeat:
		f(e.a)
	case kindEither:
		for _, k := range e.alts {
			f(k)
		}
	case kindLazy: // it can always be completed
		for _, k := range e.lazy.parts() {
			f(k)
		}
	}
}

// ends reports whether e can be completed, as far as is known about its parts.
func ends(e *expr) bool {
	switch e.kind {
	case kindByte:
		return e.set.size() > 0
	case kindSeq:
		return e.a.productive && e.b.productive
	case kindRepeat:
		return e.min == 0 || e.a.productive
	case kindEither:
		for _, k := range e.alts {
			if k.productive {
				return true
			}
		}
		return false
	}
	return true
}

// span is a byte from lo to hi.
type span struct{ lo, hi byte }

// spelled is one of several spellings, which share their common beginnings: so
// few alternatives are open at once, however many characters a pattern accepts.
func spelled(list [][]span) *expr {
	last := &expr{kind: kindByte}
	var ways []*expr
	var firsts []span
	rests := map[span][][]span{}
	for _, s := range list {
		if len(s) == 1 {
			last.set.add(s[0].lo, s[0].hi)
			continue
		}
		if rests[s[0]] == nil {
			firsts = append(firsts, s[0])
		}
		rests[s[0]] = append(rests[s[0]], s[1:])
	}
	for _, f := range firsts {
		ways = append(ways, seq(bytesOf(f.lo, f.hi), spelled(rests[f])))
	}
	if last.set.size() > 0 {
		ways = append(ways, last)
	}
	return either(ways...)
}

// runes returns the UTF-8 encodings of the characters from lo to hi.
func runes(lo, hi rune) (out [][]span) {
	var split func(lo, hi rune)
	split = func(lo, hi rune) {
		if lo > hi {
			return
		}
		for _, end := range []rune{0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff} {
			if lo <= end && end < hi {
				split(lo, end)
				split(end+1, hi)
				return
			}
		}
		if lo >= 0xd800 && hi <= 0xdfff { // surrogates are not characters
			return
		}
		for i := 1; i < utf8.RuneLen(lo); i++ { // split until the bytes vary independently
			m := rune(1)<<(6*i) - 1
			if lo&^m == hi&^m {
				continue
			}
			if lo&m != 0 {
				split(lo, lo|m)
				split(lo|m+1, hi)
				return
			}
			if hi&m != m {
				split(lo, hi&^m-1)
				split(hi&^m, hi)
				return
			}
		}
		a, b := utf8.AppendRune(nil, lo), utf8.AppendRune(nil, hi)
		s := make([]span, len(a))
		for i := range a {
			s[i] = span{a[i], b[i]}
		}
		out = append(out, s)
	}
	split(lo, hi)
	return out
}
