package constrain

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// SchemaError says which part of a JSON schema is not supported or
// contradictory, and where it is.
type SchemaError struct {
	Pointer string // to the schema within the document (RFC 6901); "": the whole document
	Keyword string // "": the schema itself
	Problem string
}

func (e *SchemaError) Error() string {
	where := e.Pointer
	if e.Keyword != "" {
		where += "/" + escape(e.Keyword)
	}
	if where == "" {
		return "the JSON schema " + e.Problem
	}
	return fmt.Sprintf("the JSON schema, at %.200s: %s", where, e.Problem)
}

// Limits of compilation.
const (
	maxBudget = 30_000 // schemas visited, and work that costs as much
	maxExprs  = 1 << 18
	maxCount  = 1_000_000 // items, characters
	maxPlaces = 60        // digits of a bound, on either side of the decimal point
)

// errNothing means that a part of a schema accepts no value. The part is left
// out where an alternative exists.
var errNothing = errors.New("takes no value at all")

// Types of JSON Schema, as bits.
const (
	tNull = 1 << iota
	tBool
	tInteger
	tNumber // including those that are not integers
	tString
	tList
	tObject
	tAny = 1<<iota - 1
)

var typeNames = map[string]int{
	"null": tNull, "boolean": tBool, "integer": tInteger, "number": tNumber | tInteger, "string": tString, "array": tList, "object": tObject,
}

// schemas compiles the schemas of one document.
type schemas struct {
	*builder
	root    *document
	memo    map[string]*expr
	made    map[making]*document
	busy    map[*expr]bool // whose alternatives are not known yet
	regexes map[string]*automaton
	strings map[string]*expr // by what they must satisfy: the same recur
}

// part is a schema within the document. A list of parts applies several schemas
// to one value.
type part struct {
	doc  *document
	bare bool // without its "nullable"
}

func (p part) child(keys ...string) part {
	d := p.doc
	for _, k := range keys {
		if d.kind == '[' {
			i, _ := strconv.Atoi(k)
			d = d.items[i]
		} else {
			d = d.get(k)
		}
	}
	return part{doc: d}
}

// has reports whether a keyword is present.
func (p part) has(keyword string) bool { return p.doc.get(keyword) != nil }

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

func escape(key string) string { return escaper.Replace(key) }

func (p part) bad(keyword, format string, args ...any) error {
	return &SchemaError{p.doc.pointer(), keyword, fmt.Sprintf(format, args...)}
}

// schema returns the expression of a JSON schema's values. Errors are
// *SchemaError.
func (b *builder) schema(raw []byte) (*expr, error) {
	doc, err := readDocument(raw)
	if err != nil {
		return nil, &SchemaError{Problem: "is not valid JSON: " + err.Error()}
	}
	s := &schemas{builder: b, root: doc, memo: map[string]*expr{}, made: map[making]*document{}, busy: map[*expr]bool{}, regexes: map[string]*automaton{}, strings: map[string]*expr{}}
	e, err := s.compile([]part{{doc: doc}})
	if errors.Is(err, errNothing) {
		return nil, &SchemaError{Problem: errNothing.Error()}
	}
	return e, err
}

// compile returns the expression of the values that satisfy all of the parts.
func (s *schemas) compile(parts []part) (*expr, error) {
	key := fmt.Sprint(parts)        // of pointers
	if e := s.memo[key]; e != nil { // possibly incomplete: the schema refers to itself
		return e, nil
	}
	e := &expr{kind: kindEither}
	s.memo[key], s.busy[e] = e, true
	defer delete(s.busy, e)
	r, err := s.rulesOf(parts)
	if err == nil {
		e.alts, err = s.expand(r)
	}
	return e, s.soften(err)
}

// rulesOf returns the rules of several schemas together.
func (s *schemas) rulesOf(parts []part) (*rules, error) {
	r := newRules(parts)
	for _, p := range parts {
		if err := s.gather(r, p); err != nil {
			return r, err
		}
	}
	return r, nil
}

// soften turns a schema that accepts nothing into an expression that never
// matches.
func (s *schemas) soften(err error) error {
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// rules are the combined requirements of several schemas on one value.
type rules struct {
	where   part
	tops    []part   // the schemas, which a listed value is checked against
	refs    []string // references that are being followed
	scopes  []*document
	choices []choice // one alternative of each must hold
	says    bool     // there is more than choices

	types    int
	enum     []*document
	enumAt   part
	lo, hi   *bound
	multiple *big.Rat // nil: of nothing
	multAt   part
	shortest int
	longest  int // -1: no limit
	texts    []textRule
	but      []string // strings that are excluded
	objects  []objectRule
	names    []part // propertyNames
	rest     []part // with unevaluatedProperties
	required []string
	fewest   int // members
	most     int // -1: no limit
	lists    []listRule
	contains []part
	unique   []part // with uniqueItems
	fewItems int
	mostItem int // -1: no limit
	implied  int // types that keywords without a type refer to
}

// choice is a list of schemas, and where it was met.
type choice struct {
	ways   []part
	refs   []string
	scopes []*document
}

type textRule struct {
	where   part
	keyword string
	pattern string
	not     bool // it must not match
}

// objectRule is what one schema requires of an object's members.
type objectRule struct {
	where    part
	scopes   []*document // the schemas whose unevaluatedProperties know of it
	names    []string
	props    map[string]part
	patterns []string
	byName   []part // of the patterns
	more     *part  // additionalProperties; nil: unrestricted
}

// listRule is what one schema requires of a list's items, by their places.
type listRule struct {
	prefix []part
	rest   *part // nil: anything
}

func newRules(parts []part) *rules {
	r := &rules{tops: parts, types: tAny, longest: -1, most: -1, mostItem: -1, where: part{doc: trueDoc}}
	if len(parts) > 0 {
		r.where = parts[0]
	}
	return r
}

func (r *rules) clone() *rules {
	c := *r
	c.choices, c.texts, c.objects, c.lists = slices.Clone(r.choices), slices.Clone(r.texts), slices.Clone(r.objects), slices.Clone(r.lists)
	c.required, c.names, c.rest, c.but = slices.Clone(r.required), slices.Clone(r.names), slices.Clone(r.rest), slices.Clone(r.but)
	c.contains, c.unique, c.enum = slices.Clone(r.contains), slices.Clone(r.unique), slices.Clone(r.enum)
	return &c
}

// choose adds alternatives, of which one must hold.
func (r *rules) choose(ways ...part) {
	r.choices = append(r.choices, choice{ways, slices.Clone(r.refs), slices.Clone(r.scopes)})
}

// expand returns the alternatives for satisfying rules, resolving one choice
// after another. Where values are listed, each is checked against all of it.
func (s *schemas) expand(r *rules) ([]*expr, error) {
	if len(r.choices) == 0 || r.enum != nil {
		e, err := s.emit(r)
		if err != nil {
			return nil, s.soften(err)
		}
		return []*expr{e}, nil
	}
	choice := r.choices[0]
	r.choices = r.choices[1:]
	var ways []*expr
	alone := !r.says && len(r.choices) == 0 && len(choice.scopes) == 0
	for _, p := range choice.ways {
		if alone { // shared with every other reference to it
			e, err := s.compile([]part{p})
			if err != nil {
				return nil, err
			}
			ways = append(ways, e)
			continue
		}
		c := r.clone()
		if err := s.spend(r.where, 1+(len(r.enum)+len(r.required)+len(r.objects)+len(r.lists)+len(r.texts))/16); err != nil {
			return nil, err
		}
		c.refs, c.scopes = slices.Clone(choice.refs), slices.Clone(choice.scopes)
		if err := s.gather(c, p); err != nil {
			if err = s.soften(err); err != nil {
				return nil, err
			}
			continue
		}
		more, err := s.expand(c)
		if err != nil {
			return nil, err
		}
		ways = append(ways, more...)
	}
	return ways, nil
}

// spend deducts from the compilation budget, which bounds work for schemas from
// strangers.
func (b *builder) spend(p part, n int) error {
	if b.left -= n; b.left < 0 {
		return p.bad("", "is too large, or combines too many alternatives")
	}
	return nil
}

// gather adds a schema's requirements.
func (s *schemas) gather(r *rules, p part) error {
	weight := 1 // the size of a schema without its subschemas
	for _, m := range p.doc.members {
		weight += len(m.value.items) + len(m.value.members)
	}
	if err := s.spend(p, weight); err != nil {
		return err
	}
	d := p.doc
	switch {
	case d.isTrue():
		return nil
	case d.isFalse():
		return errNothing
	case d.kind != '{':
		return p.bad("", "must be an object, true or false")
	}
	if v := d.get("nullable"); v != nil && v.isTrue() && !p.bare {
		r.choose(part{doc: d, bare: true}, part{doc: s.make(d, "null", func() *document { return object(d, member{"type", textOf("null")}) })})
		return nil
	}
	scopes := r.scopes
	if d.apart {
		r.scopes = nil
	}
	if p.has("unevaluatedProperties") {
		r.scopes = append(slices.Clone(r.scopes), d)
	}
	for _, m := range d.members {
		if assertions[m.name] {
			r.says = true
		}
		if err := s.keyword(r, p, m.name, m.value); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(d.members, func(m member) bool { return objectKeywords[m.name] }) {
		r.implied |= tObject
		if err := s.gatherObject(r, p); err != nil {
			return err
		}
	}
	if err := s.gatherList(r, p); err != nil {
		return err
	}
	r.scopes = scopes
	return nil
}

// objectKeywords are read together.
var objectKeywords = map[string]bool{"properties": true, "additionalProperties": true, "patternProperties": true}

func (s *schemas) gatherObject(r *rules, p part) error {
	o := objectRule{where: p, props: map[string]part{}, scopes: slices.Clone(r.scopes)}
	if v := p.doc.get("properties"); v != nil {
		if v.kind != '{' {
			return p.bad("properties", "must be an object")
		}
		for _, m := range v.members {
			o.names = append(o.names, m.name)
			o.props[m.name] = part{doc: m.value}
		}
	}
	if p.has("additionalProperties") {
		more := p.child("additionalProperties")
		o.more = &more
	}
	if v := p.doc.get("patternProperties"); v != nil {
		if v.kind != '{' {
			return p.bad("patternProperties", "must be an object")
		}
		for _, m := range v.members {
			if _, err := s.regex(p, "patternProperties", m.name); err != nil {
				return err
			}
			o.patterns = append(o.patterns, m.name)
			o.byName = append(o.byName, part{doc: m.value})
		}
	}
	r.objects = append(r.objects, o)
	return nil
}

// regex compiles a pattern that is in a schema. It is charged by its size: a large
// one costs as much as hundreds of schemas.
func (s *schemas) regex(p part, keyword, pattern string) (*automaton, error) {
	if d, ok := s.regexes[pattern]; ok {
		if d == nil {
			return nil, errNothing
		}
		return d, nil
	}
	if err := s.spend(p, maxBudget/300); err != nil {
		return nil, err
	}
	d, err := compilePattern(pattern, false)
	if err != nil && !errors.Is(err, errNothing) {
		return nil, p.bad(keyword, "%.64q %s", pattern, err)
	}
	s.regexes[pattern] = d
	if err != nil {
		return nil, err
	}
	return d, s.spend(p, d.size()/50)
}

// follow resolves a $ref.
func (s *schemas) follow(p part, v *document) (part, string, error) {
	if v.kind != '"' {
		return p, "", p.bad("$ref", "must be a string")
	}
	ref := v.text
	if id := s.root.get("$id"); id != nil && id.text != "" {
		if rest, ok := strings.CutPrefix(ref, strings.TrimSuffix(id.text, "#")); ok && (rest == "" || rest[0] == '#') {
			ref = "#" + strings.TrimPrefix(rest, "#")
		}
	}
	pointer, ok := strings.CutPrefix(ref, "#")
	if ok {
		var err error
		if pointer, err = unescape(pointer); err != nil {
			ok = false
		}
	}
	if !ok {
		return p, "", p.bad("$ref", "%.64q: references are supported within the schema, as #/$defs/NAME", v.text)
	}
	var to *document
	if pointer == "" || pointer[0] == '/' {
		to = s.root.at(pointer)
	} else {
		if err := s.spend(p, maxBudget/1500); err != nil { // all of the schema is searched
			return p, "", err
		}
		to = s.root.anchor(pointer)
	}
	if to == nil {
		return p, "", p.bad("$ref", "%.64q is not in the schema", v.text)
	}
	return part{doc: to}, pointer, nil
}

// unescape decodes percent-encoding in a URI fragment.
func unescape(s string) (string, error) {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", strconv.ErrSyntax
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", err
		}
		out = append(out, byte(c))
		i += 2
	}
	return string(out), nil
}

func rational(d *document) (*big.Rat, error) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(d.text), "e")
	if n, err := strconv.Atoi(strings.TrimPrefix("0"+exponent, "0")); exponent != "" && (err != nil || n > maxPlaces/2 || n < -maxPlaces/2) || len(mantissa) > maxPlaces/2 {
		return nil, errors.New("has too many digits")
	}
	r, ok := new(big.Rat).SetString(d.text)
	if !ok {
		return nil, errors.New("is no number")
	}
	return r, nil
}
