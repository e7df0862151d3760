package constrain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Grammars in llama.cpp's GBNF: rules of the form
//
//	name ::= "text" [a-z] ( other | rule )* {2,3} .    # a comment
//
// the first of which is called root.

const (
	maxGrammar = 64 << 10 // bytes
	maxRules   = 4000
	maxGroups  = 64 // groups in groups
)

// grammar returns the texts of a grammar.
func (b *builder) grammar(text string) (*expr, error) {
	if len(text) > maxGrammar {
		return nil, fmt.Errorf("the grammar is longer than %d KiB", maxGrammar>>10)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("the grammar is not valid UTF-8")
	}
	p := &grammarParser{text: text, any: spelled(runes(0, unicode.MaxRune)), rules: map[string]*grammarRule{}}
	if err := p.parse(); err != nil {
		return nil, err
	}
	root := p.rules["root"]
	if root == nil || !root.defined {
		return nil, fmt.Errorf("the grammar has no rule root")
	}
	for _, name := range p.names {
		if !p.rules[name].defined {
			return nil, fmt.Errorf("the grammar has no rule %.64s, which others name", name)
		}
	}
	if err := p.leftRecursion(); err != nil {
		return nil, err
	}
	return root.e, nil
}

type grammarRule struct {
	e       *expr // either; filled in when the rule is read
	defined bool
}

// grammarParser reads a grammar.
type grammarParser struct {
	text  string
	at    int
	any   *expr // any character
	rules map[string]*grammarRule
	names []string // of rules, in the order in which they were met
}

func (p *grammarParser) fail(format string, args ...any) error {
	return fmt.Errorf("the grammar, line %d: "+format, append([]any{1 + strings.Count(p.text[:min(p.at, len(p.text))], "\n")}, args...)...)
}

func (p *grammarParser) rule(name string) *grammarRule {
	r := p.rules[name]
	if r == nil {
		r = &grammarRule{e: &expr{kind: kindEither}}
		p.rules[name] = r
		p.names = append(p.names, name)
	}
	return r
}

func (p *grammarParser) parse() error {
	for p.space(true); p.at < len(p.text); p.space(true) {
		name := p.name()
		if name == "" {
			return p.fail("a rule must begin with its name")
		}
		p.space(false)
		if !p.eat("::=") {
			return p.fail("::= must follow the name of a rule")
		}
		p.space(true)
		r := p.rule(name)
		if len(p.names) > maxRules {
			return p.fail("there are more than %d rules", maxRules)
		}
		if r.defined {
			return p.fail("%.64s has a rule already", name)
		}
		r.defined = true
		e, err := p.alternatives(false, 0)
		if err != nil {
			return err
		}
		r.e.alts = []*expr{e}
		if p.at < len(p.text) && p.text[p.at] != '\n' && p.text[p.at] != '\r' {
			return p.fail("%.16q cannot be read", p.text[p.at:])
		}
	}
	return nil
}

// space skips blanks and comments, and, if lines is set, line ends.
func (p *grammarParser) space(lines bool) {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r'):
			p.at++
		case c == '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' && p.text[p.at] != '\r' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *grammarParser) eat(word string) bool {
	if strings.HasPrefix(p.text[p.at:], word) {
		p.at += len(word)
		return true
	}
	return false
}

func (p *grammarParser) name() string {
	from := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			break
		}
		p.at++
	}
	return p.text[from:p.at]
}

// alternatives reads sequences that are separated by |. Within a group they go on over
// the ends of lines.
func (p *grammarParser) alternatives(group bool, depth int) (*expr, error) {
	if depth > maxGroups {
		return nil, p.fail("groups nest more than %d deep", maxGroups)
	}
	var ways []*expr
	for {
		e, err := p.sequence(group, depth)
		if err != nil {
			return nil, err
		}
		ways = append(ways, e)
		if !p.eat("|") {
			return &expr{kind: kindEither, alts: ways}, nil
		}
		p.space(true)
	}
}

func (p *grammarParser) sequence(group bool, depth int) (*expr, error) {
	var list []*expr
	for p.at < len(p.text) {
		e, err := p.element(depth)
		if err != nil {
			return nil, err
		}
		if e == nil {
			break
		}
		if e, err = p.repeated(e); err != nil {
			return nil, err
		}
		list = append(list, e)
		p.space(group)
	}
	return seq(list...), nil
}

// element reads a text, a class, a rule's name or a group; nil: there is none.
func (p *grammarParser) element(depth int) (*expr, error) {
	switch c := p.text[p.at]; {
	case c == '"':
		return p.literal()
	case c == '[':
		return p.class()
	case c == '.':
		p.at++
		return p.any, nil
	case c == '(':
		p.at++
		p.space(true)
		e, err := p.alternatives(true, depth+1)
		if err == nil && !p.eat(")") {
			err = p.fail("a group is not closed")
		}
		return e, err
	case c == '<' || c == '!':
		return nil, p.fail("tokens by number or name are not supported: write the text")
	}
	if name := p.name(); name != "" {
		return p.rule(name).e, nil
	}
	return nil, nil
}

func (p *grammarParser) literal() (*expr, error) {
	var b strings.Builder
	for p.at++; ; {
		c, err := p.char('"')
		if err != nil {
			return nil, err
		}
		if c < 0 {
			return literal(b.String()), nil
		}
		b.WriteRune(c)
	}
}

// char reads a character, or an escaped one; -1: the end.
func (p *grammarParser) char(end byte) (rune, error) {
	if p.at >= len(p.text) || p.text[p.at] == '\n' {
		return 0, p.fail("%c is missing", end)
	}
	if p.text[p.at] == end {
		p.at++
		return -1, nil
	}
	c, n := utf8.DecodeRuneInString(p.text[p.at:])
	p.at += n
	if c != '\\' {
		return c, nil
	}
	if p.at == len(p.text) {
		return 0, p.fail("an escape is cut off")
	}
	e := p.text[p.at]
	p.at++
	if i := strings.IndexByte("nrt0", e); i >= 0 {
		return rune("\n\r\t\x00"[i]), nil
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[e]
	if digits == 0 {
		if e >= utf8.RuneSelf {
			return 0, p.fail("an escape of no meaning")
		}
		return rune(e), nil // of a quote, a bracket or a backslash
	}
	if p.at+digits > len(p.text) {
		return 0, p.fail("an escape is cut off")
	}
	v, err := strconv.ParseUint(p.text[p.at:p.at+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(v)) {
		return 0, p.fail(`\%c%.8s is no character`, e, p.text[p.at:p.at+digits])
	}
	p.at += digits
	return rune(v), nil
}

func (p *grammarParser) class() (*expr, error) {
	p.at++
	not := p.eat("^")
	var pairs [][2]rune
	for {
		lo, err := p.char(']')
		if err != nil {
			return nil, err
		}
		if lo < 0 {
			break
		}
		hi := lo
		if strings.HasPrefix(p.text[p.at:], "-") && !strings.HasPrefix(p.text[p.at:], "-]") {
			p.at++
			if hi, err = p.char(']'); err != nil {
				return nil, err
			}
			if hi < lo {
				return nil, p.fail("a range ends before it begins")
			}
		}
		pairs = append(pairs, [2]rune{lo, hi})
	}
	var list [][]span
	if !not {
		for _, r := range pairs {
			list = append(list, runes(r[0], r[1])...)
		}
		return spelled(list), nil
	}
	slices.SortFunc(pairs, func(a, b [2]rune) int { return int(a[0] - b[0]) })
	from := rune(0)
	for _, r := range pairs {
		list = append(list, runes(from, r[0]-1)...)
		from = max(from, r[1]+1)
	}
	return spelled(append(list, runes(from, unicode.MaxRune)...)), nil
}

// repeated reads *, +, ? or {m,n} behind an element.
func (p *grammarParser) repeated(e *expr) (*expr, error) {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case '*':
			e = repeat(e, 0, -1)
		case '+':
			e = repeat(e, 1, -1)
		case '?':
			e = optional(e)
		case '{':
			least, most, err := p.counts()
			if err != nil {
				return nil, err
			}
			e = repeat(e, least, most)
			continue
		default:
			return e, nil
		}
		p.at++
	}
	return e, nil
}

func (p *grammarParser) counts() (least, most int, err error) {
	end := strings.IndexByte(p.text[p.at:], '}')
	if end < 0 {
		return 0, 0, p.fail("} is missing")
	}
	body := p.text[p.at+1 : p.at+end]
	p.at += end + 1
	from, to, both := strings.Cut(body, ",")
	number := func(s string, otherwise int) int {
		if s = strings.TrimSpace(s); s == "" {
			return otherwise
		}
		n, e := strconv.Atoi(s)
		if e != nil || n < 0 || n > maxCount {
			err = p.fail("{%.20s} is no count of repetitions", body)
		}
		return n
	}
	least = number(from, 0)
	if most = least; both {
		most = number(to, -1)
	}
	if err == nil && (!both && strings.TrimSpace(from) == "" || most >= 0 && most < least) {
		err = p.fail("{%.20s} is no count of repetitions", body)
	}
	return least, most, err
}

// leftRecursion refuses rules that begin with themselves: following them would not end.
func (p *grammarParser) leftRecursion() error {
	names := map[*expr]string{}
	for name, r := range p.rules {
		names[r.e] = name
	}
	root := &expr{kind: kindEither}
	for _, name := range p.names {
		root.alts = append(root.alts, p.rules[name].e)
	}
	nullable := nullables(root)
	state := map[*expr]int{} // 1: on the way; 2: done
	var visit func(e *expr) string
	visit = func(e *expr) string {
		switch {
		case state[e] == 1:
			return "a part"
		case state[e] == 2:
			return ""
		}
		state[e] = 1
		found := ""
		switch e.kind {
		case kindSeq:
			if found = visit(e.a); found == "" && nullable[e.a] {
				found = visit(e.b)
			}
		case kindRepeat:
			found = visit(e.a)
		case kindEither:
			for _, k := range e.alts {
				if found = visit(k); found != "" {
					break
				}
			}
		}
		state[e] = 2
		if found == "a part" && names[e] != "" {
			found = names[e]
		}
		return found
	}
	for _, name := range p.names {
		if found := visit(p.rules[name].e); found != "" {
			return fmt.Errorf("the grammar: the rule %.64s begins with itself: write it as a repetition", found)
		}
	}
	return nil
}

// nullables returns the expressions that can be nothing.
func nullables(root *expr) map[*expr]bool {
	all, users := reachable(root)
	out := map[*expr]bool{}
	work := slices.Clone(all)
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		if out[e] {
			continue
		}
		is := false
		switch e.kind {
		case kindEmpty:
			is = true
		case kindSeq:
			is = out[e.a] && out[e.b]
		case kindRepeat:
			is = e.min == 0 || out[e.a]
		case kindEither:
			is = slices.ContainsFunc(e.alts, func(k *expr) bool { return out[k] })
		}
		if is {
			out[e] = true
			work = append(work, users[e]...)
		}
	}
	return out
}
