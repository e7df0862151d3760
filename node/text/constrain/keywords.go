package constrain

import (
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// assertions are the keywords that require something of a value by themselves, rather
// than by the schemas that they combine. Every other keyword is an annotation.
var assertions = func() map[string]bool {
	all := map[string]bool{}
	for _, k := range []string{
		"type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
		"minLength", "maxLength", "pattern", "format", exceptKeyword, unlikeKeyword,
		"minItems", "maxItems", "items", "prefixItems", "additionalItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems",
		"minProperties", "maxProperties", "required", "properties", "additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties",
	} {
		all[k] = true
	}
	return all
}()

// Keywords of schemas that are made here.
const (
	exceptKeyword = "\x00except" // strings that are not allowed
	unlikeKeyword = "\x00unlike" // a pattern that must not match
)

// keyword adds the requirements of one keyword of a schema.
func (s *schemas) keyword(r *rules, p part, name string, v *document) error {
	switch name {
	case "type":
		return r.readTypes(p, v)
	case "enum":
		if v.kind != '[' {
			return p.bad(name, "must be a list")
		}
		r.narrow(p, v.items)
	case "const":
		r.narrow(p, []*document{v})
	case "$ref":
		return s.refer(r, p, v)
	case "allOf", "anyOf", "oneOf":
		return s.combine(r, p, name, v)
	case "not", "if", "dependentRequired", "dependentSchemas", "dependencies":
		return s.condition(r, p, name, v)
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		return r.readBound(p, name, v)
	case "multipleOf":
		return r.readMultiple(p, v)
	case "minLength", "maxLength":
		return r.readCount(p, name, v, tString, &r.shortest, &r.longest)
	case "minItems", "maxItems":
		return r.readCount(p, name, v, tList, &r.fewItems, &r.mostItem)
	case "minProperties", "maxProperties":
		return r.readCount(p, name, v, tObject, &r.fewest, &r.most)
	case "pattern", unlikeKeyword:
		if v.kind != '"' {
			return p.bad(name, "must be a string")
		}
		r.implied |= tString
		r.texts = append(r.texts, textRule{p, "pattern", v.text, name == unlikeKeyword})
	case exceptKeyword:
		r.implied |= tString
		for _, w := range v.items {
			r.but = append(r.but, w.text)
		}
	case "format":
		return r.readFormat(p, v)
	case "required":
		return r.readRequired(p, v)
	case "propertyNames":
		r.implied |= tObject
		if p := p.child(name); !s.anyName(p.doc) {
			r.names = append(r.names, p)
		}
	case "unevaluatedProperties":
		r.implied |= tObject
		r.rest = append(r.rest, p)
	case "unevaluatedItems":
		if !p.has("items") && !v.isTrue() {
			return p.bad(name, "is supported beside items alone: use items")
		}
	case "uniqueItems":
		if v.isTrue() {
			r.implied |= tList
			r.unique = append(r.unique, p)
		}
	case "$dynamicRef", "$recursiveRef":
		return p.bad(name, "this keyword is not supported")
	case "$id":
		if p.doc != s.root && v.kind == '"' {
			return p.bad(name, "is supported at the root alone")
		}
	}
	return nil
}

// anyName reports whether a schema of names of members says nothing of them.
func (s *schemas) anyName(d *document) bool {
	if d.isTrue() {
		return true
	}
	return d.kind == '{' && !slices.ContainsFunc(d.members, func(m member) bool {
		if m.name == "type" {
			return m.value.text != "string"
		}
		return assertions[m.name] || combining[m.name]
	})
}

// combining are the keywords that combine schemas.
var combining = map[string]bool{
	"$ref": true, "allOf": true, "anyOf": true, "oneOf": true, "not": true, "if": true, "dependentRequired": true, "dependentSchemas": true, "dependencies": true,
	"$dynamicRef": true, "$recursiveRef": true,
}

func (s *schemas) refer(r *rules, p part, v *document) error {
	to, pointer, err := s.follow(p, v)
	if err != nil {
		return err
	}
	if slices.Contains(r.refs, pointer) {
		return p.bad("$ref", "it refers to itself")
	}
	r.refs = append(r.refs, pointer)
	err = s.gather(r, to)
	if n := len(r.refs); n > 0 {
		r.refs = r.refs[:n-1]
	}
	return err
}

func (s *schemas) combine(r *rules, p part, name string, v *document) error {
	if v.kind != '[' || len(v.items) == 0 {
		return p.bad(name, "must be a list of schemas")
	}
	var list []part
	for _, d := range v.items {
		list = append(list, part{doc: d})
	}
	switch name {
	case "anyOf":
		r.choose(list...)
	case "oneOf":
		list, err := s.exclusive(p, list)
		if err != nil {
			return err
		}
		r.choose(list...)
	default:
		for _, q := range list {
			if err := s.gather(r, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rules) readTypes(p part, v *document) error {
	set, err := typesOf(p, v)
	if err != nil {
		return err
	}
	if r.types &= set; r.types == 0 {
		return errNothing
	}
	return nil
}

func typesOf(p part, v *document) (set int, err error) {
	names := v.items
	if v.kind == '"' {
		names = []*document{v}
	} else if v.kind != '[' || len(names) == 0 {
		return 0, p.bad("type", "must be a type or a list of types")
	}
	for _, n := range names {
		t := typeNames[n.text]
		if n.kind != '"' || t == 0 {
			return 0, p.bad("type", "%.64q is no type", n.text)
		}
		set |= t
	}
	return set, nil
}

// narrow restricts the values to those that are also in list.
func (r *rules) narrow(p part, list []*document) {
	if r.enum == nil {
		r.enum, r.enumAt = append([]*document{}, list...), p
		return
	}
	r.enum = slices.DeleteFunc(r.enum, func(v *document) bool {
		return !slices.ContainsFunc(list, v.same)
	})
}

func (r *rules) readBound(p part, name string, v *document) error {
	r.implied |= tNumber
	if v.kind == 't' && strings.HasPrefix(name, "exclusive") { // an older JSON Schema's, read with the bound
		return nil
	}
	if v.kind != '0' {
		return p.bad(name, "must be a number")
	}
	at, err := boundOf(v, strings.HasSuffix(strings.ToLower(name), "maximum"))
	if err != nil {
		return p.bad(name, "%.64s %s", v.text, err)
	}
	b := &bound{at, exclusive(p.doc, name)}
	to, sign := &r.lo, 1
	if strings.HasSuffix(strings.ToLower(name), "maximum") {
		to, sign = &r.hi, -1
	}
	if *to == nil || b.at.Cmp((*to).at) == sign || b.at.Cmp((*to).at) == 0 && b.exclusive {
		*to = b
	}
	return nil
}

// boundOf returns the value of a bound. One with more digits than are followed is
// replaced by a narrower one.
func boundOf(v *document, upper bool) (*big.Rat, error) {
	at, err := rational(v)
	if err == nil || (v.text[0] == '-') == upper {
		return at, err
	}
	if f, e := strconv.ParseFloat(v.text, 64); e == nil && math.Abs(f) < farthest {
		return at, err
	}
	far := new(big.Rat).SetFloat64(farthest)
	if !upper {
		far.Neg(far)
	}
	return far, nil
}

// farthest is a number within all bounds that have too many digits before the point.
const farthest = 1e15

// exclusive reports whether a bound is itself excluded: by its name, or in an older JSON
// Schema, which OpenAPI 3.0 still has, by true beside it.
func exclusive(d *document, name string) bool {
	if strings.HasPrefix(name, "exclusive") {
		return true
	}
	v := d.get("exclusive" + strings.ToUpper(name[:1]) + name[1:])
	return v != nil && v.isTrue()
}

func (r *rules) readMultiple(p part, v *document) error {
	r.implied |= tNumber
	if v.kind == '0' {
		if of, err := rational(v); err == nil && of.Sign() > 0 {
			r.multiple, r.multAt = common(r.multiple, of), p
			return nil
		}
	}
	return p.bad("multipleOf", "must be a number above zero")
}

func (r *rules) readCount(p part, name string, v *document, of int, least, most *int) error {
	r.implied |= of
	n, err := countOf(p, name, v)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(name, "min"):
		if n > maxCount {
			return p.bad(name, "is more than %d", maxCount)
		}
		*least = max(*least, n)
	case n <= maxCount && (*most < 0 || n < *most): // a larger value is no limit
		*most = n
	}
	return nil
}

func countOf(p part, name string, v *document) (int, error) {
	if q, err := rational(v); v.kind == '0' && err == nil && q.IsInt() && q.Num().IsInt64() && q.Sign() >= 0 {
		return int(min(q.Num().Int64(), 2*maxCount)), nil
	}
	return 0, p.bad(name, "must be a count")
}

func (r *rules) readRequired(p part, v *document) error {
	r.implied |= tObject
	if v.kind != '[' {
		return p.bad("required", "must be a list of names")
	}
	for _, n := range v.items {
		if n.kind != '"' {
			return p.bad("required", "must be a list of names")
		}
		if !slices.Contains(r.required, n.text) {
			r.required = append(r.required, n.text)
		}
	}
	return nil
}

// readFormat follows the formats that are known. An unknown one is an annotation.
func (r *rules) readFormat(p part, v *document) error {
	if v.kind != '"' {
		return p.bad("format", "must be a string")
	}
	switch v.text {
	case "float", "double": // OpenAPI's number formats
		r.implied |= tNumber
		return nil
	case "int32", "int64":
		r.implied |= tInteger
		bits := uint(31)
		if v.text == "int64" {
			bits = 63
		}
		most := new(big.Int).Lsh(big.NewInt(1), bits)
		limit := func(to **bound, at *big.Int, sign int) {
			q := new(big.Rat).SetInt(at)
			if *to == nil || q.Cmp((*to).at) == sign {
				*to = &bound{at: q}
			}
		}
		limit(&r.lo, new(big.Int).Neg(most), 1)
		limit(&r.hi, most.Sub(most, big.NewInt(1)), -1)
		return nil
	}
	if pattern, ok := formats[v.text]; ok {
		r.implied |= tString
		r.texts = append(r.texts, textRule{p, "format", pattern, false})
	}
	return nil
}

// gatherList reads the keywords about the items of a list, which belong together.
func (s *schemas) gatherList(r *rules, p part) error {
	var l listRule
	items, prefix := p.doc.get("items"), p.doc.get("prefixItems")
	if items != nil && items.kind == '[' { // until 2019
		if prefix != nil {
			return p.bad("items", "must be a schema beside prefixItems")
		}
		prefix, items = items, p.doc.get("additionalItems")
	}
	if prefix != nil {
		if prefix.kind != '[' {
			return p.bad("prefixItems", "must be a list of schemas")
		}
		for i := range prefix.items {
			l.prefix = append(l.prefix, part{doc: prefix.items[i]})
		}
	}
	if items != nil {
		l.rest = &part{doc: items}
	}
	if prefix != nil || items != nil {
		r.implied |= tList
		r.lists = append(r.lists, l)
	}
	if p.has("contains") {
		r.implied |= tList
		r.contains = append(r.contains, p)
	}
	return nil
}
