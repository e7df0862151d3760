package constrain

import (
	"errors"
	"fmt"
	"maps"
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

// annotations do not restrict values.
var annotations = []string{
	"title", "description", "default", "example", "examples", "$schema", "$id", "$comment", "$anchor", "$vocabulary",
	"deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema", "$defs", "definitions", "strict",
}

// schemas compiles the schemas of one document.
type schemas struct {
	*builder
	root *document
	memo map[string]*expr
}

// part is a schema within the document. A list of parts applies several schemas
// to one value.
type part struct {
	doc     *document
	pointer string
}

func (p part) child(keys ...string) part {
	c := p
	for _, k := range keys {
		if c.doc.kind == '[' {
			i, _ := strconv.Atoi(k)
			c.doc = c.doc.items[i]
		} else {
			c.doc = c.doc.get(k)
		}
		c.pointer += "/" + escape(k)
	}
	return c
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

func escape(key string) string { return escaper.Replace(key) }

func (p part) bad(keyword, format string, args ...any) error {
	return &SchemaError{p.pointer, keyword, fmt.Sprintf(format, args...)}
}

// schema returns the expression of a JSON schema's values. Errors are
// *SchemaError.
func (b *builder) schema(raw []byte) (*expr, error) {
	doc, err := readDocument(raw)
	if err != nil {
		return nil, &SchemaError{Problem: "is not valid JSON: " + err.Error()}
	}
	s := &schemas{builder: b, root: doc, memo: map[string]*expr{}}
	e, err := s.compile([]part{{doc, ""}})
	if errors.Is(err, errNothing) {
		return nil, &SchemaError{Problem: errNothing.Error()}
	}
	return e, err
}

// compile returns the expression of the values that satisfy all of the parts.
func (s *schemas) compile(parts []part) (*expr, error) {
	var key strings.Builder
	for _, p := range parts {
		key.WriteString(p.pointer)
		key.WriteByte('\n')
	}
	if e := s.memo[key.String()]; e != nil { // possibly incomplete: the schema refers to itself
		return e, nil
	}
	e := &expr{kind: kindEither}
	s.memo[key.String()] = e
	r := newRules(part{})
	if len(parts) > 0 {
		r.where = parts[0]
	}
	for _, p := range parts {
		if err := s.gather(r, p); err != nil {
			return e, s.soften(err)
		}
	}
	ways, err := s.expand(r)
	e.alts = ways
	return e, err
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
	refs    map[string]bool // references followed on the way here
	choices [][]part        // one alternative of each must hold

	types    int
	enum     []*document
	enumAt   part
	others   string // a keyword that enum values are not checked against
	lo, hi   *bound
	fraction int // digits after the point; fractionDigits: the default maximum
	shortest int
	longest  int // -1: no limit
	texts    []textRule
	objects  []objectRule
	required []string
	fewest   int // members
	most     int // -1: no limit
	items    []part
	prefix   []part
	open     bool // items may follow those of the prefix
	fewItems int
	mostItem int // -1: no limit
	implied  int // types that keywords without a type refer to
}

type textRule struct {
	where   part
	keyword string
	pattern string
}

// objectRule is what one schema requires of an object's members.
type objectRule struct {
	where   part
	names   []string
	props   map[string]part
	pattern *textRule // from patternProperties
	byName  part
	more    *part // additionalProperties; nil: unrestricted
}

func newRules(where part) *rules {
	return &rules{where: where, refs: map[string]bool{}, types: tAny, fraction: fractionDigits, longest: -1, most: -1, mostItem: -1, open: true}
}

func (r *rules) clone() *rules {
	c := *r
	c.refs = maps.Clone(r.refs)
	c.choices, c.texts, c.objects = slices.Clone(r.choices), slices.Clone(r.texts), slices.Clone(r.objects)
	c.required, c.items, c.prefix, c.enum = slices.Clone(r.required), slices.Clone(r.items), slices.Clone(r.prefix), slices.Clone(r.enum)
	return &c
}

// expand returns the alternatives for satisfying rules, resolving one choice
// after another.
func (s *schemas) expand(r *rules) ([]*expr, error) {
	if len(r.choices) == 0 {
		e, err := s.emit(r)
		if err != nil {
			return nil, s.soften(err)
		}
		return []*expr{e}, nil
	}
	choice := r.choices[0]
	r.choices = r.choices[1:]
	var ways []*expr
	alone := s.says(r)
	for _, p := range choice {
		if alone { // shared with every other reference to it
			e, err := s.compile([]part{p})
			if err != nil {
				return nil, err
			}
			ways = append(ways, e)
			continue
		}
		c := r.clone()
		if err := s.spend(r.where, 1+(len(r.enum)+len(r.required)+len(r.objects)+len(r.items)+len(r.texts))/16); err != nil {
			return nil, err
		}
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

// says reports whether rules contain anything besides choices.
func (s *schemas) says(r *rules) bool {
	fresh := newRules(r.where)
	return len(r.choices) == 0 && r.types == fresh.types && r.enum == nil && r.lo == nil && r.hi == nil && r.fraction == fresh.fraction &&
		r.shortest == 0 && r.longest < 0 && r.texts == nil && r.objects == nil && r.required == nil && r.fewest == 0 && r.most < 0 &&
		r.items == nil && r.prefix == nil && r.open && r.fewItems == 0 && r.mostItem < 0
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
	case d.kind == 't' && d.text == "true":
		return nil
	case d.kind == 't':
		return errNothing
	case d.kind != '{':
		return p.bad("", "must be an object, true or false")
	}
	for _, m := range d.members {
		if err := s.keyword(r, p, m.name, m.value); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(d.members, func(m member) bool { return objectKeywords[m.name] }) {
		r.implied |= tObject
		return s.gatherObject(r, p)
	}
	return nil
}

// objectKeywords are read together.
var objectKeywords = map[string]bool{"properties": true, "additionalProperties": true, "patternProperties": true}

func (s *schemas) gatherObject(r *rules, p part) error {
	o := objectRule{where: p, props: map[string]part{}}
	if v := p.doc.get("properties"); v != nil {
		if v.kind != '{' {
			return p.bad("properties", "must be an object")
		}
		for _, m := range v.members {
			o.names = append(o.names, m.name)
			o.props[m.name] = p.child("properties", m.name)
		}
	}
	if v := p.doc.get("additionalProperties"); v != nil {
		more := p.child("additionalProperties")
		o.more = &more
	}
	if v := p.doc.get("patternProperties"); v != nil {
		if v.kind != '{' {
			return p.bad("patternProperties", "must be an object")
		}
		if len(v.members) > 1 || len(o.names) > 0 || o.more != nil && (o.more.doc.kind != 't' || o.more.doc.text != "false") {
			return p.bad("patternProperties", "is supported with one pattern, without properties, and with additionalProperties false or left out")
		}
		for _, m := range v.members {
			o.pattern = &textRule{p, "patternProperties", m.name}
			o.byName = p.child("patternProperties", m.name)
		}
	}
	r.objects = append(r.objects, o)
	return nil
}

// follow resolves a $ref.
func (s *schemas) follow(p part, v *document) (part, error) {
	if v.kind != '"' {
		return p, p.bad("$ref", "must be a string")
	}
	pointer, ok := strings.CutPrefix(v.text, "#")
	if ok {
		var err error
		if pointer, err = unescape(pointer); err != nil {
			ok = false
		}
	}
	if !ok || pointer != "" && pointer[0] != '/' {
		return p, p.bad("$ref", "%.64q: references are supported within the schema, as #/$defs/NAME", v.text)
	}
	to := s.root.at(pointer)
	if to == nil {
		return p, p.bad("$ref", "%.64q is not in the schema", v.text)
	}
	return part{to, pointer}, nil
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
