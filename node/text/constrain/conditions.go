package constrain

import (
	"math/big"
	"slices"
	"strconv"
)

// Keywords about what does not hold, or holds only where something else does, are
// rewritten as schemas without them. A schema's opposite is a list of alternatives, one
// for each of its keywords that can fail. Alternatives that cannot be written are left
// out, which leaves out values but allows none that is wrong; where none is left, the
// keyword is refused.

// making names a document that was made from another. It is made once: schemas that refer
// to themselves would have no end else.
type making struct {
	from *document
	as   string
}

func (s *schemas) make(from *document, as string, how func() *document) *document {
	key := making{from, as}
	if s.made[key] == nil {
		s.made[key] = how()
	}
	return s.made[key]
}

// condition reads not, if and the dependencies.
func (s *schemas) condition(r *rules, p part, name string, v *document) error {
	switch name {
	case "not":
		ways, err := s.opposite(part{doc: v}, true)
		switch {
		case err != nil:
			return err
		case ways == nil:
			return p.bad(name, "this one is not supported: its opposite cannot be written down")
		case len(ways) == 0:
			return errNothing
		}
		r.choose(ways...)
		return nil
	case "if":
		return s.branch(r, p, v)
	}
	if v.kind != '{' {
		return p.bad(name, "must be an object")
	}
	for _, m := range v.members {
		if name == "dependentRequired" && m.value.kind != '[' {
			return p.bad(name, "must be an object of lists of names")
		}
		r.choose(
			part{doc: s.make(m.value, "absent", func() *document { return without(m.value, m.name) })},
			part{doc: s.make(m.value, "present", func() *document {
				if m.value.kind == '[' {
					return object(m.value, member{"type", textOf("object")}, member{"required", listOf(append([]*document{textOf(m.name)}, m.value.items...)...)})
				}
				return object(m.value, member{"required", listOf(textOf(m.name))}, member{"allOf", listOf(m.value)})
			})},
		)
	}
	return nil
}

// without is the schema of what does not have a property. Values that are no objects
// satisfy it, too.
func without(at *document, name string) *document {
	return object(at, member{"properties", object(at, member{name, falseDoc})})
}

// branch reads if, then and else.
func (s *schemas) branch(r *rules, p part, v *document) error {
	then, otherwise := p.doc.get("then"), p.doc.get("else")
	if then == nil && otherwise == nil {
		return nil
	}
	if then == nil {
		then = trueDoc
	}
	if otherwise == nil {
		otherwise = trueDoc
	}
	ways := []part{{doc: s.make(v, "then", func() *document { return object(v, member{"allOf", listOf(v, then)}) })}}
	not, err := s.opposite(part{doc: v}, true)
	if err != nil {
		return err
	}
	for i, n := range not {
		ways = append(ways, part{doc: s.make(v, "else"+strconv.Itoa(i), func() *document { return object(v, member{"allOf", listOf(n.doc, otherwise)}) })})
	}
	r.choose(ways...)
	return nil
}

// opposite returns schemas of which each value that satisfies one violates the schema;
// deep: also by what is wrong within a member or an item. nil: none can be written; an
// empty list: no value violates it.
func (s *schemas) opposite(p part, deep bool) ([]part, error) {
	d := p.doc
	if err := s.spend(p, 2); err != nil {
		return nil, err
	}
	switch {
	case d.isFalse():
		return []part{{doc: trueDoc}}, nil
	case d.isTrue():
		return []part{}, nil
	case d.kind != '{':
		return nil, p.bad("", "must be an object, true or false")
	}
	if v := d.get("nullable"); v != nil && v.isTrue() {
		return nil, nil
	}
	out, exact := []part{}, true
	for _, m := range d.members {
		if !assertions[m.name] && !combining[m.name] {
			continue
		}
		ways, err := s.fails(p, m.name, m.value, deep)
		if err != nil {
			return nil, err
		}
		exact = exact && ways != nil
		for i, w := range ways {
			out = append(out, part{doc: s.make(m.value, "not "+strconv.FormatBool(deep)+strconv.Itoa(i), func() *document {
				w := object(m.value, member{"allOf", listOf(w)})
				w.apart = true
				return w
			})})
		}
	}
	if len(out) == 0 && !exact {
		return nil, nil
	}
	return out, nil
}

// fails returns the alternatives in which one keyword of a schema is violated; nil: they
// cannot be written.
func (s *schemas) fails(p part, name string, v *document, deep bool) ([]*document, error) {
	d := p.doc
	one := func(kind string, members ...member) []*document {
		return []*document{object(v, append([]member{{"type", textOf(kind)}}, members...)...)}
	}
	not := func(x *document) *document {
		return s.make(x, "not", func() *document { return object(x, member{"not", x}) })
	}
	switch name {
	case "type":
		set, err := typesOf(p, v)
		if err != nil {
			return nil, err
		}
		return otherTypes(v, set), nil
	case "enum":
		return unlisted(v, v.items), nil
	case "const":
		return unlisted(v, []*document{v}), nil
	case "pattern":
		return one("string", member{unlikeKeyword, v}), nil
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		if v.kind != '0' {
			return []*document{}, nil // true and false are read with the bound
		}
		other := map[bool]string{true: "maximum", false: "minimum"}[name == "minimum" || name == "exclusiveMinimum"]
		if !exclusive(d, name) {
			other = map[string]string{"maximum": "exclusiveMaximum", "minimum": "exclusiveMinimum"}[other]
		}
		return one("number", member{other, v}), nil
	case "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties":
		kind := map[string]string{"Length": "string", "Items": "array", "Properties": "object"}[name[3:]]
		n, err := countOf(p, name, v)
		if err != nil {
			return nil, err
		}
		if name[:3] == "max" {
			return one(kind, member{"min" + name[3:], numberOf(n + 1)}), nil
		}
		if n == 0 {
			return []*document{}, nil
		}
		return one(kind, member{"max" + name[3:], numberOf(n - 1)}), nil
	case "required":
		out := []*document{}
		for _, n := range v.items {
			out = append(out, one("object", without(v, n.text).members...)...)
		}
		return out, nil
	case "not":
		return []*document{v}, nil
	case "$ref":
		to, _, err := s.follow(p, v)
		return []*document{not(to.doc)}, err
	case "allOf":
		out := []*document{}
		for _, x := range v.items {
			out = append(out, not(x))
		}
		return out, nil
	case "anyOf", "oneOf": // none of them
		all := listOf()
		for _, x := range v.items {
			all.items = append(all.items, not(x))
		}
		return []*document{object(v, member{"allOf", all})}, nil
	case "properties":
		if !deep {
			return nil, nil
		}
		out := []*document{}
		for _, m := range v.members {
			if !m.value.isTrue() {
				out = append(out, one("object", member{"required", listOf(textOf(m.name))}, member{"properties", object(v, member{m.name, not(m.value)})})...)
			}
		}
		return out, nil
	case "items":
		if !deep || v.kind == '[' || p.has("prefixItems") {
			return nil, nil
		}
		return one("array", member{"contains", not(v)}), nil
	case "contains":
		if p.has("minContains") || p.has("maxContains") {
			return nil, nil
		}
		return one("array", member{"items", not(v)}), nil
	}
	return nil, nil
}

// otherTypes returns the schema of the values of no type in a set.
func otherTypes(at *document, set int) []*document {
	if set&tInteger != 0 {
		set |= tNumber // numbers that are not integers alone cannot be told
	}
	var names []*document
	for _, n := range []string{"null", "boolean", "string", "array", "object", "number"} {
		if set&typeNames[n] == 0 {
			names = append(names, textOf(n))
		}
	}
	if names == nil {
		return []*document{}
	}
	return []*document{object(at, member{"type", listOf(names...)})}
}

// unlisted returns the schemas of the values that are not in a list.
func unlisted(at *document, list []*document) (out []*document) {
	kinds := map[byte]int{'n': tNull, 't': tBool, '"': tString, '[': tList, '{': tObject, '0': tNumber | tInteger}
	set := 0
	var words []*document
	var numbers []*document
	bools := map[string]bool{"true": true, "false": true}
	for _, v := range list {
		set |= kinds[v.kind]
		switch v.kind {
		case '"':
			words = append(words, v)
		case '0':
			numbers = append(numbers, v)
		case 't':
			delete(bools, v.text)
		}
	}
	out = otherTypes(at, set)
	if words != nil {
		out = append(out, object(at, member{"type", textOf("string")}, member{exceptKeyword, listOf(words...)}))
	}
	if set&tBool != 0 && len(bools) == 1 {
		out = append(out, object(at, member{"enum", listOf(&document{kind: 't', text: map[bool]string{true: "true", false: "false"}[bools["true"]]})}))
	}
	return append(out, around(at, numbers)...)
}

// around returns the schemas of the numbers around and between some.
func around(at *document, list []*document) (out []*document) {
	type number struct {
		doc *document
		at  *big.Rat
	}
	var sorted []number
	for _, v := range list {
		q, err := rational(v)
		if err != nil {
			return nil
		}
		sorted = append(sorted, number{v, q})
	}
	slices.SortFunc(sorted, func(a, b number) int { return a.at.Cmp(b.at) })
	for i := 0; len(sorted) > 0 && i <= len(sorted); i++ {
		members := []member{{"type", textOf("number")}}
		if i > 0 {
			members = append(members, member{"exclusiveMinimum", sorted[i-1].doc})
		}
		if i < len(sorted) {
			members = append(members, member{"exclusiveMaximum", sorted[i].doc})
		}
		out = append(out, object(at, members...))
	}
	return out
}

// maxOverlap is how many alternatives of oneOf may overlap with one.
const maxOverlap = 4

// exclusive returns alternatives of which exactly one can hold.
func (s *schemas) exclusive(p part, list []part) ([]part, error) {
	facts := make([]facts, len(list))
	for i, q := range list {
		if err := s.learn(&facts[i], q, 0); err != nil {
			return nil, err
		}
	}
	total := len(list)
	for _, f := range facts {
		total += len(f.enum) + len(f.fixed) + len(f.required)
		for _, x := range f.fixed {
			total += len(x.values)
		}
	}
	if err := s.spend(p, total*total/2000); err != nil {
		return nil, err
	}
	out := make([]part, len(list))
	for i, q := range list {
		out[i] = q
		with := listOf(q.doc)
		for k, o := range list {
			if k == i || disjoint(&facts[i], &facts[k]) {
				continue
			}
			if d := apart(o.doc, &facts[i], &facts[k]); d != nil {
				with.items = append(with.items, d)
				continue
			}
			ways, err := s.opposite(o, false)
			if err != nil {
				return nil, err
			}
			if ways == nil || len(with.items) > maxOverlap {
				return nil, p.bad("oneOf", "alternatives %d and %d overlap: use anyOf, or give them a property by which they differ", min(i, k)+1, max(i, k)+1)
			}
			either := listOf()
			for _, w := range ways {
				either.items = append(either.items, w.doc)
			}
			if len(either.items) == 0 {
				either.items = []*document{falseDoc}
			}
			with.items = append(with.items, object(o.doc, member{"anyOf", either}))
		}
		if len(with.items) > 1 {
			out[i] = part{doc: s.make(q.doc, "alone", func() *document { return object(q.doc, member{"allOf", with}) })}
		}
	}
	return out, nil
}

// facts are what is easily known of the values of a schema, as far as they are written
// here.
type facts struct {
	types    int
	enum     []*document     // nil: not known
	fixed    []fixed         // values of properties
	names    map[string]bool // of properties
	open     bool            // there may be others
	loose    bool            // null may be allowed besides
	required []string
}

// fixed are the values that a property can have.
type fixed struct {
	name   string
	values []*document
}

// learn adds what a schema says by itself.
func (s *schemas) learn(f *facts, p part, depth int) error {
	d := p.doc
	if depth == 0 {
		f.types, f.names = tAny, map[string]bool{}
	}
	if d.kind != '{' || depth > 8 {
		f.open = true
		return nil
	}
	if err := s.spend(p, 1+len(d.members)/8); err != nil {
		return err
	}
	for _, m := range d.members {
		switch m.name {
		case "type":
			set, err := typesOf(p, m.value)
			if err != nil {
				return err
			}
			f.types &= set
		case "const", "enum":
			list := m.value.items
			if m.name == "const" {
				list = []*document{m.value}
			}
			f.enum = append(f.enum, list...)
		case "required":
			for _, n := range m.value.items {
				f.required = append(f.required, n.text)
			}
		case "properties":
			for _, q := range m.value.members {
				f.names[q.name] = true
				if one := s.listed(q.value, 0); one != nil {
					f.fixed = append(f.fixed, fixed{q.name, one})
				}
			}
		case "$ref":
			to, _, err := s.follow(p, m.value)
			if err != nil {
				return err
			}
			if err := s.learn(f, to, depth+1); err != nil {
				return err
			}
		case "allOf":
			for _, x := range m.value.items {
				if err := s.learn(f, part{doc: x}, depth+1); err != nil {
					return err
				}
			}
		case "anyOf", "oneOf", "if", "not", "patternProperties", "dependentSchemas", "dependencies", "$dynamicRef":
			f.open = true
		case "additionalProperties":
			f.open = f.open || !m.value.isFalse()
		case "nullable":
			f.loose = f.loose || m.value.isTrue()
		}
	}
	return nil
}

// listed returns the values that a schema lists; nil: it does not.
func (s *schemas) listed(d *document, depth int) []*document {
	if v := d.get("nullable"); v != nil {
		return nil
	}
	if c := d.get("const"); c != nil {
		return []*document{c}
	}
	if e := d.get("enum"); e != nil {
		return e.items
	}
	if ref := d.get("$ref"); ref != nil && depth < 8 {
		if to, _, err := s.follow(part{doc: d}, ref); err == nil {
			return s.listed(to.doc, depth+1)
		}
	}
	return nil
}

// disjoint reports whether no value satisfies both schemas.
func disjoint(a, b *facts) bool {
	if a.loose || b.loose {
		return false
	}
	if a.types&b.types == 0 || differ(a.enum, b.enum) {
		return true
	}
	return a.types&b.types == tObject && slices.ContainsFunc(a.fixed, func(f fixed) bool {
		return b.fixes(f) && (slices.Contains(a.required, f.name) || slices.Contains(b.required, f.name))
	})
}

// differ reports whether two lists of values are known and have none in common.
func differ(x, y []*document) bool {
	return x != nil && y != nil && !slices.ContainsFunc(x, func(v *document) bool { return slices.ContainsFunc(y, v.same) })
}

// fixes reports whether a property has other values here.
func (f *facts) fixes(other fixed) bool {
	return slices.ContainsFunc(f.fixed, func(x fixed) bool { return x.name == other.name && differ(x.values, other.values) })
}

// apart returns what the values of a must also satisfy so that none of them satisfies b:
// a property by which the two differ is required, or one that only b names, and
// requires, is absent. nil: there is none.
func apart(at *document, a, b *facts) *document {
	if a.loose || b.loose || a.types&b.types != tObject {
		return nil
	}
	for _, f := range a.fixed {
		if b.fixes(f) {
			return object(at, member{"required", listOf(textOf(f.name))})
		}
	}
	for _, n := range b.required {
		if !a.names[n] && !slices.Contains(a.required, n) && !a.open && len(a.names) > 0 {
			return without(at, n)
		}
	}
	return nil
}
