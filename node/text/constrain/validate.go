package constrain

import (
	"errors"
	"math/big"
	"slices"
	"unicode/utf8"
)

// fits reports whether a value satisfies a schema, for values that the schema lists and
// for names of members: of these, a list of keywords leaves some or none. A format is an
// annotation here.
func (s *schemas) fits(p part, v *document) (bool, error) {
	if err := s.spend(p, 1+(len(v.members)+len(v.items)+len(v.text))/16); err != nil {
		return false, err
	}
	d := p.doc
	switch {
	case d.isTrue():
		return true, nil
	case d.isFalse():
		return false, nil
	case d.kind != '{':
		return false, p.bad("", "must be an object, true or false")
	}
	if n := d.get("nullable"); n != nil && n.isTrue() && v.kind == 'n' {
		return true, nil
	}
	for _, m := range d.members {
		if ok, err := s.fitsKeyword(p, m.name, m.value, v); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// all reports whether a value satisfies all of the schemas.
func (s *schemas) all(parts []part, v *document) (bool, error) {
	for _, p := range parts {
		if ok, err := s.fits(p, v); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// typesOfValue returns the type of a value, as bits.
func typesOfValue(v *document) int {
	t := map[byte]int{'n': tNull, 't': tBool, '"': tString, '[': tList, '{': tObject, '0': tNumber}[v.kind]
	if v.kind == '0' {
		if q, err := rational(v); err == nil && q.IsInt() {
			t = tInteger
		}
	}
	return t
}

// fitsKeyword reports whether a value satisfies one keyword of a schema.
func (s *schemas) fitsKeyword(p part, name string, k, v *document) (bool, error) {
	fitsAny := func(list []*document) (count int, err error) {
		for _, x := range list {
			ok, err := s.fits(part{doc: x}, v)
			if err != nil {
				return 0, err
			}
			if ok {
				count++
			}
		}
		return count, nil
	}
	switch name {
	case "type":
		set, err := typesOf(p, k)
		return set&typesOfValue(v) != 0, err
	case "enum":
		return slices.ContainsFunc(k.items, v.same), nil
	case "const":
		return k.same(v), nil
	case "$ref":
		to, _, err := s.follow(p, k)
		if err != nil {
			return false, err
		}
		return s.fits(to, v)
	case "allOf":
		n, err := fitsAny(k.items)
		return n == len(k.items), err
	case "anyOf":
		n, err := fitsAny(k.items)
		return n > 0, err
	case "oneOf":
		n, err := fitsAny(k.items)
		return n == 1, err
	case "not":
		ok, err := s.fits(part{doc: k}, v)
		return !ok, err
	case "if":
		ok, err := s.fits(part{doc: k}, v)
		next := p.doc.get(map[bool]string{true: "then", false: "else"}[ok])
		if err != nil || next == nil {
			return true, err
		}
		return s.fits(part{doc: next}, v)
	case "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef":
		if name == "unevaluatedProperties" && v.kind != '{' || name == "unevaluatedItems" && v.kind != '[' {
			return true, nil
		}
		return false, p.bad(name, "is not supported beside enum or const")
	}
	switch v.kind {
	case '"':
		return s.fitsText(p, name, k, v.text)
	case '0':
		return fitsNumber(p, name, k, v)
	case '[':
		return s.fitsList(p, name, k, v)
	case '{':
		return s.fitsObject(p, name, k, v)
	}
	return true, nil
}

func (s *schemas) fitsText(p part, name string, k *document, text string) (bool, error) {
	switch name {
	case "minLength", "maxLength":
		return within(p, name, k, utf8.RuneCountInString(text))
	case "pattern", unlikeKeyword:
		ok, err := s.likes(p, name, k.text, text)
		return ok == (name == "pattern"), err
	case exceptKeyword:
		return !slices.ContainsFunc(k.items, func(x *document) bool { return x.text == text }), nil
	}
	return true, nil
}

// likes reports whether a text matches a pattern.
func (s *schemas) likes(p part, keyword, pattern, text string) (bool, error) {
	d, err := s.regex(p, keyword, pattern)
	if errors.Is(err, errNothing) {
		return false, nil
	}
	return err == nil && d.accepts(text), err
}

// within compares a count with a limit.
func within(p part, name string, k *document, n int) (bool, error) {
	limit, err := countOf(p, name, k)
	if name[:3] == "min" {
		return n >= limit, err
	}
	return n <= limit, err
}

func fitsNumber(p part, name string, k, v *document) (bool, error) {
	switch name {
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf":
	default:
		return true, nil
	}
	if k.kind != '0' {
		return true, nil // true and false are read with the bound
	}
	limit, err := rational(k)
	if err != nil {
		return false, p.bad(name, "%.64s %s", k.text, err)
	}
	at, err := rational(v)
	if err != nil {
		return false, nil //nolint:nilerr // too large for any bound to admit it
	}
	if name == "multipleOf" {
		return limit.Sign() > 0 && new(big.Rat).Quo(at, limit).IsInt(), nil
	}
	c := at.Cmp(limit)
	if name == "maximum" || name == "exclusiveMaximum" {
		c = -c
	}
	return c > 0 || c == 0 && !exclusive(p.doc, name), nil
}

func (s *schemas) fitsList(p part, name string, k, v *document) (bool, error) {
	switch name {
	case "minItems", "maxItems":
		return within(p, name, k, len(v.items))
	case "uniqueItems":
		for i := range v.items {
			if k.isTrue() && slices.ContainsFunc(v.items[:i], v.items[i].same) {
				return false, nil
			}
		}
	case "prefixItems", "items", "additionalItems":
		prefix := p.doc.get("prefixItems")
		if items := p.doc.get("items"); items != nil && items.kind == '[' {
			prefix = items
		}
		if name == "additionalItems" && prefix == nil {
			return true, nil
		}
		n := 0
		if prefix != nil {
			n = len(prefix.items)
		}
		for i, x := range v.items {
			item := k
			if k.kind == '[' {
				if i >= n {
					return true, nil
				}
				item = k.items[i]
			} else if i < n {
				continue
			}
			if ok, err := s.fits(part{doc: item}, x); err != nil || !ok {
				return false, err
			}
		}
	case "contains":
		n := 0
		for _, x := range v.items {
			ok, err := s.fits(part{doc: k}, x)
			if err != nil {
				return false, err
			}
			if ok {
				n++
			}
		}
		least, most, err := containsLimits(p)
		return n >= least && (most < 0 || n <= most), err
	}
	return true, nil
}

// containsLimits returns how many items must match a schema's contains; most < 0: no
// limit.
func containsLimits(p part) (least, most int, err error) {
	least, most = 1, -1
	if k := p.doc.get("minContains"); k != nil {
		if least, err = countOf(p, "minContains", k); err != nil {
			return 0, 0, err
		}
	}
	if k := p.doc.get("maxContains"); k != nil {
		if most, err = countOf(p, "maxContains", k); err != nil {
			return 0, 0, err
		}
	}
	return least, most, nil
}

func (s *schemas) fitsObject(p part, name string, k, v *document) (bool, error) {
	switch name {
	case "minProperties", "maxProperties":
		return within(p, name, k, len(v.members))
	case "required":
		return !slices.ContainsFunc(k.items, func(n *document) bool { return v.get(n.text) == nil }), nil
	case "properties":
		for _, m := range k.members {
			if x := v.get(m.name); x != nil {
				if ok, err := s.fits(part{doc: m.value}, x); err != nil || !ok {
					return false, err
				}
			}
		}
	case "propertyNames":
		for _, m := range v.members {
			if ok, err := s.fits(part{doc: k}, textOf(m.name)); err != nil || !ok {
				return false, err
			}
		}
	case "patternProperties", "additionalProperties":
		return s.fitsOthers(p, name, k, v)
	case "dependentRequired", "dependentSchemas", "dependencies":
		for _, m := range k.members {
			if v.get(m.name) == nil {
				continue
			}
			if m.value.kind == '[' {
				if slices.ContainsFunc(m.value.items, func(n *document) bool { return v.get(n.text) == nil }) {
					return false, nil
				}
			} else if ok, err := s.fits(part{doc: m.value}, v); err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}

// fitsOthers checks the members that properties does not name.
func (s *schemas) fitsOthers(p part, name string, k, v *document) (bool, error) {
	patterns, named := p.doc.get("patternProperties"), p.doc.get("properties")
	for _, m := range v.members {
		matched := false
		if patterns != nil {
			for _, x := range patterns.members {
				like, err := s.likes(p, "patternProperties", x.name, m.name)
				if err != nil {
					return false, err
				}
				matched = matched || like
				if like && name == "patternProperties" {
					if ok, err := s.fits(part{doc: x.value}, m.value); err != nil || !ok {
						return false, err
					}
				}
			}
		}
		if name == "additionalProperties" && !matched && (named == nil || named.get(m.name) == nil) {
			if ok, err := s.fits(part{doc: k}, m.value); err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}
