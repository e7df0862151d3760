package constrain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// automaton is a deterministic automaton over characters. Its first state is
// the initial one, and each of its states can reach an accepting one.
type automaton struct{ states []place }

type place struct {
	accept bool
	edges  []edge // by character, disjoint
}

type edge struct {
	lo, hi rune
	to     int
}

const (
	maxAutomaton = 4000 // states of an automaton
	maxEdges     = 40_000
	maxDetermine = 1 << 22 // visits of an instruction
	maxPattern   = 2000    // bytes
	maxAhead     = 8       // lookaheads
)

var errPattern = errors.New("is too large; make it simpler")

// except accepts any string but the given ones.
func except(names []string) (*automaton, error) {
	d := &automaton{states: []place{{accept: true}}}
	next := []map[rune]int{{}}
	for _, s := range names {
		at := 0
		for _, c := range s {
			to, ok := next[at][c]
			if !ok {
				to = len(d.states)
				next[at][c] = to
				next = append(next, map[rune]int{})
				d.states = append(d.states, place{accept: true})
			}
			at = to
		}
		d.states[at].accept = false
	}
	free := len(d.states)
	d.states = append(d.states, place{accept: true, edges: []edge{{0, unicode.MaxRune, free}}})
	for i, known := range next {
		chars := make([]rune, 0, len(known))
		for c := range known {
			chars = append(chars, c)
		}
		slices.Sort(chars)
		from := rune(0)
		for _, c := range chars {
			if from < c {
				d.states[i].edges = append(d.states[i].edges, edge{from, c - 1, free})
			}
			d.states[i].edges = append(d.states[i].edges, edge{c, c, known[c]})
			from = c + 1
		}
		d.states[i].edges = append(d.states[i].edges, edge{from, unicode.MaxRune, free})
	}
	return d.trim()
}

// both accepts what both automata accept.
func both(a, b *automaton) (*automaton, error) {
	type pair struct{ a, b int }
	d := &automaton{}
	index := map[pair]int{}
	var list []pair
	find := func(p pair) int {
		i, ok := index[p]
		if !ok {
			i = len(list)
			index[p] = i
			list = append(list, p)
		}
		return i
	}
	find(pair{})
	for i := 0; i < len(list); i++ {
		if len(list) > maxAutomaton {
			return nil, errPattern
		}
		x, y := &a.states[list[i].a], &b.states[list[i].b]
		p := place{accept: x.accept && y.accept}
		for j, k := 0, 0; j < len(x.edges) && k < len(y.edges); {
			e, f := x.edges[j], y.edges[k]
			if lo, hi := max(e.lo, f.lo), min(e.hi, f.hi); lo <= hi {
				p.edges = append(p.edges, edge{lo, hi, find(pair{e.to, f.to})})
			}
			if e.hi < f.hi {
				j++
			} else {
				k++
			}
		}
		d.states = append(d.states, p)
	}
	return d.trim()
}

// trim removes the states that cannot reach an accepting one, and surrogates, which are
// not characters.
func (d *automaton) trim() (*automaton, error) {
	for i := range d.states {
		d.states[i].edges = withoutSurrogates(d.states[i].edges)
	}
	before := make([][]int, len(d.states))
	var work []int
	alive := make([]bool, len(d.states))
	for i, p := range d.states {
		for _, e := range p.edges {
			before[e.to] = append(before[e.to], i)
		}
		if p.accept {
			alive[i] = true
			work = append(work, i)
		}
	}
	for len(work) > 0 {
		i := work[len(work)-1]
		work = work[:len(work)-1]
		for _, j := range before[i] {
			if !alive[j] {
				alive[j] = true
				work = append(work, j)
			}
		}
	}
	if !alive[0] {
		return nil, errNothing
	}
	for i := range d.states {
		d.states[i].edges = slices.DeleteFunc(d.states[i].edges, func(e edge) bool { return !alive[e.to] })
	}
	if d.size() > maxEdges {
		return nil, errPattern
	}
	return d, nil
}

func withoutSurrogates(edges []edge) (out []edge) {
	const first, last = 0xd800, 0xdfff
	for _, e := range edges {
		if e.lo > last || e.hi < first {
			out = append(out, e)
			continue
		}
		if e.lo < first {
			out = append(out, edge{e.lo, first - 1, e.to})
		}
		if e.hi > last {
			out = append(out, edge{last + 1, e.hi, e.to})
		}
	}
	return out
}

// others accepts the strings that d does not accept.
func (d *automaton) others() (*automaton, error) {
	free := len(d.states)
	o := &automaton{states: make([]place, free+1)}
	o.states[free] = place{accept: true, edges: []edge{{0, unicode.MaxRune, free}}}
	for i, p := range d.states {
		o.states[i].accept = !p.accept
		from := rune(0)
		for _, e := range p.edges {
			if from < e.lo {
				o.states[i].edges = append(o.states[i].edges, edge{from, e.lo - 1, free})
			}
			o.states[i].edges = append(o.states[i].edges, e)
			from = e.hi + 1
		}
		if from <= unicode.MaxRune {
			o.states[i].edges = append(o.states[i].edges, edge{from, unicode.MaxRune, free})
		}
	}
	return o.trim()
}

// accepts reports whether d accepts a text.
func (d *automaton) accepts(text string) bool {
	at := 0
	for _, c := range text {
		i := slices.IndexFunc(d.states[at].edges, func(e edge) bool { return e.lo <= c && c <= e.hi })
		if i < 0 {
			return false
		}
		at = d.states[at].edges[i].to
	}
	return d.states[at].accept
}

// size returns the number of edges.
func (d *automaton) size() (n int) {
	for i := range d.states {
		n += len(d.states[i].edges)
	}
	return n
}

// compilePattern compiles a regular expression of JSON Schema, which has
// JavaScript's syntax and may match anywhere in a string; whole: it must match all
// of it. Go's package parses it; the two languages agree on everything accepted
// here except \S, which excludes more characters in JavaScript. Of lookahead, which
// Go does not have, what stands at the beginning is followed: further conditions
// on the same string.
func compilePattern(pattern string, whole bool) (*automaton, error) {
	if len(pattern) > maxPattern {
		return nil, errPattern
	}
	ahead, rest := lookaheads(pattern)
	if whole {
		rest = "^(?:" + rest + ")$"
	} else if len(ahead) > 0 {
		rest = "^(?:" + rest + ")"
	}
	all, err := parsePattern(rest)
	for _, a := range ahead {
		if err != nil {
			return nil, err
		}
		var d *automaton
		if d, err = parsePattern("^(?:" + a.pattern + ")"); a.not && errors.Is(err, errNothing) {
			err = nil
			continue
		}
		if err == nil && a.not {
			d, err = d.others()
		}
		if err == nil {
			all, err = both(all, d)
		}
	}
	return all, err
}

// ahead is a condition on what follows.
type ahead struct {
	pattern string
	not     bool
}

// lookaheads splits the lookaheads from the beginning of a pattern. One that does not
// begin with ^ may match anywhere; with lookaheads it is only taken from the beginning
// on. None are returned if the pattern has alternatives, which they are a part of.
func lookaheads(pattern string) (list []ahead, rest string) {
	rest = strings.TrimPrefix(pattern, "^")
	for {
		body, not := strings.CutPrefix(rest, "(?!")
		if !not {
			var is bool
			if body, is = strings.CutPrefix(rest, "(?="); !is {
				break
			}
		}
		n := groupEnd(body)
		if n < 0 || len(list) == maxAhead {
			return nil, pattern
		}
		list, rest = append(list, ahead{body[:n], not}), body[n+1:]
	}
	if list == nil || groupEnd(rest+")") < len(rest) || alternatives(rest) {
		return nil, pattern
	}
	return list, rest
}

// groupEnd returns where the parenthesis is that closes a group whose inside p begins
// with; -1: nowhere.
func groupEnd(p string) int {
	depth, end := 1, -1
	plain(p, func(i int) bool {
		switch p[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				end = i
				return false
			}
		}
		return true
	})
	return end
}

// alternatives reports whether a pattern has alternatives outside of groups.
func alternatives(p string) (found bool) {
	depth := 0
	plain(p, func(i int) bool {
		switch p[i] {
		case '(':
			depth++
		case ')':
			depth--
		case '|':
			found = found || depth == 0
		}
		return true
	})
	return found
}

// plain visits the bytes of a pattern that are neither escaped nor in a class.
func plain(p string, visit func(i int) bool) {
	class := false
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '\\':
			i++
		case class:
			class = p[i] != ']'
		case p[i] == '[':
			class = true
		case !visit(i):
			return
		}
	}
}

func parsePattern(pattern string) (*automaton, error) {
	re, err := syntax.Parse(unicodeEscapes(pattern), syntax.Perl)
	if err != nil {
		var e *syntax.Error
		if errors.As(err, &e) {
			return nil, fmt.Errorf("cannot be taken: %s: %.64q", e.Code, e.Expr)
		}
		return nil, err
	}
	dots(re)
	around := &syntax.Regexp{Op: syntax.OpStar, Sub: []*syntax.Regexp{{Op: syntax.OpAnyChar}}}
	prog, err := syntax.Compile((&syntax.Regexp{Op: syntax.OpConcat, Sub: []*syntax.Regexp{around, re.Simplify(), around}}).Simplify())
	if err != nil {
		return nil, err
	}
	return determine(prog)
}

// unicodeEscapes rewrites \uXXXX in Go's syntax.
func unicodeEscapes(p string) string {
	var out strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] != '\\' || i+1 == len(p) {
			out.WriteByte(p[i])
			continue
		}
		if p[i+1] == 'u' && i+6 <= len(p) && strings.Trim(p[i+2:i+6], "0123456789abcdefABCDEF") == "" {
			out.WriteString(`\x{` + p[i+2:i+6] + `}`)
			i += 5
			continue
		}
		out.WriteString(p[i : i+2])
		i++
	}
	return out.String()
}

// dots gives . its meaning in JavaScript.
func dots(re *syntax.Regexp) {
	if re.Op == syntax.OpAnyCharNotNL {
		*re = syntax.Regexp{Op: syntax.OpCharClass, Rune: []rune{0, '\n' - 1, '\n' + 1, '\r' - 1, '\r' + 1, 0x2027, 0x202a, unicode.MaxRune}}
	}
	for _, s := range re.Sub {
		dots(s)
	}
}

// determine builds an automaton from a program by the subset construction.
func determine(prog *syntax.Prog) (*automaton, error) {
	cuts := map[rune]bool{0: true}
	for i := range prog.Inst {
		in := &prog.Inst[i]
		switch in.Op {
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
				return nil, errors.New(`cannot be taken: \b, \B and (?m) are not supported`)
			}
		case syntax.InstRune, syntax.InstRune1:
			if len(in.Rune) == 1 {
				first := in.Rune[0]
				cuts[first], cuts[first+1] = true, true
				for r := unicode.SimpleFold(first); r != first; r = unicode.SimpleFold(r) {
					cuts[r], cuts[r+1] = true, true
				}
			}
			for k := 0; k+1 < len(in.Rune); k += 2 {
				cuts[in.Rune[k]], cuts[in.Rune[k+1]+1] = true, true
			}
		case syntax.InstRuneAnyNotNL:
			cuts['\n'], cuts['\n'+1] = true, true
		}
	}
	starts := make([]rune, 0, len(cuts))
	for r := range cuts {
		if r <= unicode.MaxRune {
			starts = append(starts, r)
		}
	}
	slices.Sort(starts)
	// closed follows instructions that consume no character. The set keeps
	// those that consume one, and those that wait for the end.
	closed := func(from []uint32, begin, end bool) (set []uint32, match bool) {
		seen := map[uint32]bool{}
		work := slices.Clone(from)
		for len(work) > 0 {
			pc := work[len(work)-1]
			work = work[:len(work)-1]
			if seen[pc] {
				continue
			}
			seen[pc] = true
			switch in := &prog.Inst[pc]; in.Op {
			case syntax.InstAlt, syntax.InstAltMatch:
				work = append(work, in.Out, in.Arg)
			case syntax.InstCapture, syntax.InstNop:
				work = append(work, in.Out)
			case syntax.InstEmptyWidth:
				op := syntax.EmptyOp(in.Arg)
				if op&syntax.EmptyBeginText != 0 && !begin {
					continue
				}
				if op&syntax.EmptyEndText != 0 && !end {
					set = append(set, pc)
					continue
				}
				work = append(work, in.Out)
			case syntax.InstMatch:
				set, match = append(set, pc), true
			case syntax.InstFail:
			default:
				set = append(set, pc)
			}
		}
		slices.Sort(set)
		return set, match
	}
	d := &automaton{}
	index := map[string]int{}
	var sets [][]uint32
	find := func(set []uint32) int {
		key := string(binaryOf(set))
		i, ok := index[key]
		if !ok {
			i = len(sets)
			index[key] = i
			sets = append(sets, set)
		}
		return i
	}
	first, _ := closed([]uint32{uint32(prog.Start)}, true, false)
	sets = append(sets, first) // no other set equals it, even one with the same instructions
	for i, work := 0, 0; i < len(sets); i++ {
		if work += len(starts) * len(sets[i]); len(sets) > maxAutomaton || work > maxDetermine {
			return nil, errPattern
		}
		// ^ after $ can still match if the string is empty so far.
		_, match := closed(sets[i], i == 0, true)
		p := place{accept: match}
		targets := map[string]int{} // of sets of instructions; -1: none
		for k, lo := range starts {
			hi := rune(unicode.MaxRune)
			if k+1 < len(starts) {
				hi = starts[k+1] - 1
			}
			var out []uint32
			for _, pc := range sets[i] {
				switch in := &prog.Inst[pc]; in.Op {
				case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
					if in.MatchRune(lo) {
						out = append(out, in.Out)
					}
				}
			}
			if out == nil {
				continue
			}
			key := string(binaryOf(out))
			to, ok := targets[key]
			if !ok {
				to = -1
				if set, _ := closed(out, false, false); len(set) > 0 {
					to = find(set)
				}
				targets[key] = to
			}
			if to < 0 {
				continue
			}
			if n := len(p.edges); n > 0 && p.edges[n-1].to == to && p.edges[n-1].hi == lo-1 {
				p.edges[n-1].hi = hi
			} else {
				p.edges = append(p.edges, edge{lo, hi, to})
			}
		}
		d.states = append(d.states, p)
	}
	return d.trim()
}

// binaryOf returns a key for maps.
func binaryOf[T uint32 | rune](list []T) (b []byte) {
	for _, x := range list {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}

// formats are the supported values of "format", as patterns.
var formats = map[string]string{
	"date":      "^" + dateRE + "$",
	"time":      "^" + timeRE + "$",
	"date-time": "^" + dateRE + "T" + timeRE + "$",
	"duration":  `^P(\d{1,4}W|(\d{1,4}Y(\d{1,4}M(\d{1,4}D)?)?|\d{1,4}M(\d{1,4}D)?|\d{1,4}D)(T` + spanRE + `)?|T` + spanRE + `)$`,
	"email":     `^[A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,31})?@` + hostRE + `\.[A-Za-z]{2,8}$`,
	"hostname":  "^" + hostRE + "$",
	"ipv4":      `^` + byteRE + `(\.` + byteRE + `){3}$`,
	"ipv6":      `^([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}$`,
	"uuid":      `^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`,
	"uri":       `^[a-z][a-z0-9+.-]{1,15}://` + hostRE + `(:\d{1,4})?(/[A-Za-z0-9._~-]*)*(\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?$`,
}

const (
	yearRE = `\d{4}`
	// Years with a 29th of February in the Gregorian calendar.
	leapRE = `(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)`
	dateRE = `(` + yearRE + `-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))|` + leapRE + `-02-29)`
	timeRE = `([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)`
	spanRE = `(\d{1,4}H(\d{1,4}M(\d{1,4}S)?)?|\d{1,4}M(\d{1,4}S)?|\d{1,4}S)`
	hostRE = `[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?){0,3}`
	byteRE = `(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`
)
