package constrain

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"unicode"
)

// Lists that have no value twice, of more values than could be listed. What was used is
// part of the state. But a state does not know its own text, so the end of an item is a
// gap that only an answer can fill, which has the text: tokens end there at the latest.

// series is such a list of strings or numbers.
type series struct {
	item, next, end *expr
	least, most     int // items; most < 0: no limit
}

// chain is a series after some items: their values, one a line.
type chain struct {
	of   *series
	used string
	n    int
}

func (c chain) parts() []*expr { return []*expr{c.of.item, c.of.next, c.of.end} }

func (c chain) ways(func(lazy) *expr) []*expr {
	s, out := c.of, []*expr{}
	if c.n >= s.least {
		out = append(out, s.end)
	}
	if s.most < 0 || c.n < s.most {
		item := seq(s.item, &expr{kind: kindGap, lazy: c})
		if c.n > 0 {
			item = seq(s.next, item)
		}
		out = append(out, item)
	}
	return out
}

// with returns the chain after one more item; ok is false if it has the value.
func (c chain) with(value string) (chain, bool) {
	if value == "" || slices.Contains(c.values(), value) {
		return c, false
	}
	return chain{c.of, c.used + value + "\n", c.n + 1}, true
}

func (c chain) values() []string { return strings.Split(strings.TrimSuffix(c.used, "\n"), "\n") }

// lastValue returns the string or number that a text ends with, each in one spelling.
func lastValue(text []byte) string {
	if n := len(text); n > 0 && text[n-1] == '"' {
		for i := n - 2; i >= 0; i-- {
			if text[i] != '"' || escaped(text[:i]) {
				continue
			}
			var s string
			if json.Unmarshal(text[i:], &s) != nil {
				return ""
			}
			return written(s)
		}
		return ""
	}
	at := len(text)
	for at > 0 && bytes.IndexByte([]byte("+-.0123456789eE"), text[at-1]) >= 0 {
		at--
	}
	number := string(text[at:])
	if q, ok := new(big.Rat).SetString(number); ok && len(number) < 2*maxPlaces { // exponents have two digits
		return q.RatString()
	}
	return number
}

// escaped reports whether what follows a text is escaped by a backslash.
func escaped(text []byte) bool {
	n := len(text) - len(bytes.TrimRight(text, `\`))
	return n%2 == 1
}

// fill follows the gaps of a state, with the text of the answer so far.
func (m *Machine) fill(s *state, text []byte) *state {
	if !slices.ContainsFunc(s.heads, isGap) {
		return s
	}
	value := lastValue(text)
	var work []*cell
	for _, c := range s.heads {
		if !isGap(c) {
			work = append(work, c)
		} else if next, ok := c.e.lazy.(chain).with(value); ok {
			work = append(work, m.cell(m.lazily(next), c.rest))
		}
	}
	if work == nil {
		return dead
	}
	return m.close(work)
}

func isGap(c *cell) bool { return c.e.kind == kindGap }

// forbid clears the tokens that would complete a value once more, where nothing else
// could follow it.
func (m *Machine) forbid(s *state, text []byte, mask []uint64) {
	seen := map[*expr]bool{}
	for _, c := range s.heads {
		for ; c != nil; c = c.rest {
			if !isGap(c) || seen[c.e] {
				continue
			}
			seen[c.e] = true
			for _, v := range c.e.lazy.(chain).values() {
				for k := range v {
					before, ok := bytes.CutSuffix(text, []byte(v[:k]))
					if !ok || len(before) == 0 || bytes.IndexByte([]byte("[, "), before[len(before)-1]) < 0 {
						continue
					}
					m.forbidToken(s, text, v[k:], mask)
					if v[0] == '"' && k < len(v)-1 { // where nothing but the quote could follow
						m.forbidToken(s, text, v[k:len(v)-1], mask)
					}
				}
			}
		}
	}
}

// forbidToken clears a token after which the value that the text ends with could not be
// completed to a new one.
func (m *Machine) forbidToken(s *state, text []byte, word string, mask []uint64) {
	for id := m.vocab.all.find(word); id >= 0; id = m.vocab.same[id] {
		next, after := m.take(s, id), append(slices.Clone(text), word...)
		if slices.ContainsFunc(next.heads, isQuote) && !slices.ContainsFunc(next.heads, func(c *cell) bool { return !isQuote(c) }) {
			next, after = m.step(next, '"'), append(after, '"')
		}
		if m.fill(next, after) == dead {
			mask[id>>6] &^= 1 << (id & 63)
		}
	}
}

// isQuote reports whether a stack goes on with nothing but a quotation mark.
func isQuote(c *cell) bool { return c.e.kind == kindByte && c.e.set.has('"') && c.e.set.size() == 1 }

// find returns the token of a text, with its likes behind it; -1: there is none.
func (t *trie) find(word string) int32 {
	for i, depth := 0, 1; i < len(t.nodes) && int(t.nodes[i].depth) == depth; {
		n := &t.nodes[i]
		switch {
		case n.b != word[depth-1]:
			i = int(n.end)
		case depth == len(word):
			return n.token
		default:
			i, depth = i+1, depth+1
		}
	}
	return -1
}

// emitFresh returns the lists that have no value twice, of strings or of numbers. A
// pattern might leave nothing that is new after some of its characters.
func (s *schemas) emitFresh(p part, rest []part, fewest, most int) (*expr, error) {
	r, err := s.rulesOf(rest)
	if err != nil {
		return nil, err
	}
	var item *expr
	patterns := slices.ContainsFunc(r.texts, func(t textRule) bool { return t.keyword != "format" || t.not }) || len(r.but) > 0
	switch {
	case len(r.choices) > 0 || patterns:
	case r.types == tString:
		// Each string in one spelling.
		var d *automaton
		if d, _, err = s.textsOf(r); d == nil && err == nil {
			d = &automaton{states: []place{{accept: true, edges: withoutSurrogates([]edge{{0, unicode.MaxRune, 0}})}}}
		}
		if err == nil {
			item, err = quotedCount(d, r.shortest, r.longest)
		}
	case r.types == tInteger:
		item, err = s.emitInteger(r)
	case r.types == tNumber|tInteger:
		item, err = s.emitNumber(r)
	}
	switch {
	case err != nil:
		return nil, err
	case item == nil:
		return nil, p.bad("uniqueItems", "is supported of strings without a pattern, of numbers, and where there are at most %d values", maxListed)
	}
	of := &series{item: item, next: seq(oneOf(","), s.gap), end: oneOf("]"), least: fewest, most: most}
	return seq(oneOf("["), &expr{kind: kindLazy, lazy: chain{of, "", 0}}), nil
}
