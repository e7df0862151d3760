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
		b.object(nil, seq(b.string, oneOf(":"), b.gap, b.value), 0, -1), b.list(nil, b.value, 0, -1), b.string, b.number,
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

// spellings returns an automaton's arcs with the bytes by which its characters are
// written.
func spellings(d *automaton, write func(ranges []rune) *expr) (arcs [][]arc, accept []bool) {
	sets := map[string]*expr{} // by their ranges: the same recur
	for _, s := range d.states {
		ranges, to := map[int][]rune{}, []int(nil)
		for _, e := range s.edges {
			if ranges[e.to] == nil {
				to = append(to, e.to)
			}
			ranges[e.to] = append(ranges[e.to], e.lo, e.hi)
		}
		list := []arc(nil)
		for _, k := range to {
			key := string(binaryOf(ranges[k]))
			if sets[key] == nil {
				sets[key] = write(ranges[k])
			}
			list = append(list, arc{sets[key], k})
		}
		arcs, accept = append(arcs, list), append(accept, s.accept)
	}
	return arcs, accept
}

// graph returns what leads through an automaton to its end.
func graph(arcs [][]arc, accept []bool, end *expr) *expr {
	nodes := make([]*expr, len(arcs))
	for i := range nodes {
		nodes[i] = &expr{kind: kindEither}
	}
	for i, list := range arcs {
		if accept[i] {
			nodes[i].alts = append(nodes[i].alts, end)
		}
		for _, a := range list {
			nodes[i].alts = append(nodes[i].alts, seq(a.set, nodes[a.to]))
		}
	}
	return nodes[0]
}

// quoted is a string whose characters an automaton accepts.
func quoted(d *automaton) *expr {
	arcs, accept := spellings(d, inString)
	return seq(oneOf(`"`), graph(arcs, accept, oneOf(`"`)))
}

// quotedCount is a string that an automaton accepts, of least to most characters;
// most < 0: any number.
func quotedCount(d *automaton, least, most int) (*expr, error) {
	if least == 0 && most < 0 {
		return quoted(d), nil
	}
	arcs, accept := spellings(d, inString)
	e, err := countCharacters(arcs, accept, least, most, oneOf(`"`))
	if err != nil {
		return nil, err
	}
	return seq(oneOf(`"`), e), nil
}

// unquoted is a text whose characters an automaton accepts.
func unquoted(d *automaton) *expr {
	arcs, accept := spellings(d, func(ranges []rune) *expr {
		var list [][]span
		for i := 0; i < len(ranges); i += 2 {
			list = append(list, runes(ranges[i], ranges[i+1])...)
		}
		return spelled(list)
	})
	return graph(arcs, accept, empty)
}

// property is a member of an object.
type property struct {
	name     string
	value    *expr
	required bool
}

// maxTally bounds the members of an object times the count that is kept of them.
const maxTally = 100_000

// object has its properties in order, then any number of more, which are members whose
// names are not fixed; more may be nil. It has from fewest to most members; most < 0: no
// limit. The caller bounds len(props) times the larger of the two.
func (b *builder) object(props []property, more *expr, fewest, most int) *expr {
	comma, closing := seq(oneOf(","), b.gap), oneOf("}")
	top := most // counts from here on need not be told apart
	if most < 0 {
		top = max(1, fewest)
	}
	top = min(top, len(props)+1)
	// rest returns what may follow the properties after n members.
	rest := func(n int) *expr {
		end := never()
		if n >= fewest {
			end = closing
		}
		room := most - n
		if most < 0 {
			room = -1
		}
		// A name may be repeated, which reduces the number of members but never
		// increases it.
		if more == nil || room == 0 || fewest-n > 1 {
			return end
		}
		if n > 0 {
			return seq(repeat(seq(comma, more), max(0, fewest-n), room), closing)
		}
		return either(end, seq(more, repeat(seq(comma, more), 0, max(room-1, -1)), closing))
	}
	after := make([]*expr, top+1)
	for n := range after {
		after[n] = rest(n)
	}
	for i := len(props) - 1; i >= 0; i-- {
		p := props[i]
		member := seq(literal(written(p.name)), oneOf(":"), b.gap, p.value)
		now := make([]*expr, top+1)
		for n := range now {
			var ways []*expr
			switch {
			case most >= 0 && n >= most:
			case n == 0:
				ways = append(ways, seq(member, after[min(1, top)]))
			default:
				ways = append(ways, seq(comma, member, after[min(n+1, top)]))
			}
			if !p.required {
				ways = append(ways, after[n])
			}
			now[n] = either(ways...)
		}
		after = now
	}
	return seq(oneOf("{"), after[0])
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
