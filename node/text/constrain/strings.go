package constrain

import (
	"encoding/json"
	"strings"
	"unicode"
)

// builder builds the expressions of one format. Those that every schema needs
// are built once.
type builder struct {
	vocab *Vocab
	left  int // remaining compilation budget

	character *expr // of a string, in every JSON spelling
	string    *expr
	gap       *expr // white space after a comma or colon
	value     *expr // any JSON value
	number    *expr
	integer   *expr
}

func newBuilder(v *Vocab) *builder {
	b := &builder{vocab: v, left: maxBudget}
	hex := bytesOf('0', '9', 'a', 'f', 'A', 'F')
	plain := append(runes(0x20, '"'-1), runes('"'+1, '\\'-1)...)
	b.character = either(spelled(append(plain, runes('\\'+1, unicode.MaxRune)...)), seq(oneOf(`\`), either(
		oneOf(`"\/bfnrt`),
		seq(oneOf("u"), either(
			seq(bytesOf('0', '9', 'a', 'c', 'A', 'C', 'e', 'f', 'E', 'F'), hex, hex, hex),
			seq(oneOf("dD"), bytesOf('0', '7'), hex, hex),
			seq(oneOf("dD"), oneOf("89abAB"), hex, hex, literal(`\u`), oneOf("dD"), bytesOf('c', 'f', 'C', 'F'), hex, hex),
		)),
	)))
	b.string = b.text(0, -1)
	// No newlines and no indentation: models are known to write white space
	// endlessly where it is allowed, and it costs as much as any other token.
	b.gap = optional(oneOf(" "))
	b.number, b.integer = anyNumber(), anyInteger()
	b.value = &expr{kind: kindEither}
	b.value.alts = []*expr{
		b.object(nil, &extras{key: b.string, value: b.value, most: -1}), b.list(nil, b.value, 0, -1), b.string, b.number,
		literal("true"), literal("false"), literal("null"),
	}
	return b
}

// text is a string with least to most characters; most < 0: unbounded.
func (b *builder) text(least, most int) *expr {
	chars := repeat(b.character, least, most)
	chars.text = chars.kind == kindRepeat
	return seq(oneOf(`"`), chars, oneOf(`"`))
}

// written returns a value as JSON, with only the escapes that it must have.
func written(v any) string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // a string can always be encoded
	s := strings.TrimSuffix(out.String(), "\n")
	return strings.NewReplacer("\\u2028", "\u2028", "\\u2029", "\u2029").Replace(s)
}

// inString returns the spellings in a string of the characters in ranges, which
// are pairs of bounds.
func inString(ranges []rune) *expr {
	short := map[rune]string{'\b': `\b`, '\t': `\t`, '\n': `\n`, '\f': `\f`, '\r': `\r`, '"': `\"`, '\\': `\\`}
	var plain [][]span
	var ways []*expr
	for i := 0; i < len(ranges); i += 2 {
		from, hi := ranges[i], ranges[i+1]
		for c := from; c <= min(hi, '\\'); c++ {
			s, ok := short[c]
			if !ok && c < 0x20 {
				s, ok = `\u00`+string("0123456789abcdef"[c>>4])+string("0123456789abcdef"[c&15]), true
			}
			if ok {
				plain, ways = append(plain, runes(from, c-1)...), append(ways, literal(s))
				from = c + 1
			}
		}
		plain = append(plain, runes(from, hi)...)
	}
	return either(append(ways, spelled(plain))...)
}

// quoted is a string whose characters an automaton accepts.
func quoted(d *automaton) *expr {
	nodes := make([]*expr, len(d.states))
	for i := range nodes {
		nodes[i] = &expr{kind: kindEither}
	}
	sets := map[string]*expr{} // by their ranges: where characters are counted, the same ranges recur
	for i, s := range d.states {
		if s.accept {
			nodes[i].alts = append(nodes[i].alts, oneOf(`"`))
		}
		ranges, to := map[int][]rune{}, []int(nil)
		for _, e := range s.edges {
			if ranges[e.to] == nil {
				to = append(to, e.to)
			}
			ranges[e.to] = append(ranges[e.to], e.lo, e.hi)
		}
		for _, k := range to {
			key := string(binaryOf(ranges[k]))
			if sets[key] == nil {
				sets[key] = inString(ranges[k])
			}
			nodes[i].alts = append(nodes[i].alts, seq(sets[key], nodes[k]))
		}
	}
	return seq(oneOf(`"`), nodes[0])
}

// property is a member of an object.
type property struct {
	name     string
	value    *expr
	required bool
}

// extras are members whose names are not fixed; most < 0: any number.
type extras struct {
	key, value  *expr // key with its quotes
	least, most int
}

// object has its properties in order, then the extras.
func (b *builder) object(props []property, more *extras) *expr {
	colon, comma, closing := seq(oneOf(":"), b.gap), seq(oneOf(","), b.gap), oneOf("}")
	// What may follow property i-1 if no member has been written yet, and if
	// some have.
	none, some := closing, closing
	if more != nil && more.most != 0 {
		member := seq(more.key, colon, more.value)
		if more.least > 0 {
			none = never()
		}
		none = either(none, seq(member, repeat(seq(comma, member), max(0, more.least-1), more.most-min(1, max(0, more.most))), closing))
		some = seq(repeat(seq(comma, member), more.least, more.most), closing)
	} else if more != nil && more.least > 0 {
		none, some = never(), never()
	}
	for i := len(props) - 1; i >= 0; i-- {
		p := props[i]
		member := seq(literal(written(p.name)), colon, p.value, some)
		later := seq(comma, member)
		if p.required {
			none, some = member, later
		} else {
			none, some = either(member, none), either(later, some)
		}
	}
	return seq(oneOf("{"), none)
}

// list has the items of prefix, as many as are required at least, then those of
// item, which may be nil; most < 0: unbounded.
func (b *builder) list(prefix []*expr, item *expr, least, most int) *expr {
	comma, closing := seq(oneOf(","), b.gap), oneOf("]")
	if most >= 0 && len(prefix) > most {
		prefix = prefix[:most]
	}
	n := len(prefix)
	if n == 0 && item != nil && most != 0 { // the first has no comma before it
		prefix, n = []*expr{item}, 1
	}
	rest := closing
	switch room := most - n; {
	case item == nil && least > n:
		return never()
	case item != nil && most < 0:
		rest = seq(repeat(seq(comma, item), max(0, least-n), -1), closing)
	case item != nil:
		rest = seq(repeat(seq(comma, item), max(0, least-n), room), closing)
	}
	for i := n - 1; i >= 0; i-- {
		rest = seq(prefix[i], rest)
		if i > 0 {
			rest = seq(comma, rest)
		}
		if least <= i {
			rest = either(rest, closing)
		}
	}
	return seq(oneOf("["), rest)
}
