package constrain

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// emit returns the values that satisfy rules without choices.
func (s *schemas) emit(r *rules) (*expr, error) {
	if r.enum != nil {
		return s.emitEnum(r)
	}
	types := r.types
	if types == tAny && r.implied != 0 {
		if types = r.implied; types&tNumber != 0 {
			types |= tInteger
		}
	}
	if types == tAny {
		return s.value, nil
	}
	types &^= r.contradicted()
	var ways []*expr
	for _, t := range []struct {
		bit  int
		make func(*rules) (*expr, error)
	}{
		{tNull, func(*rules) (*expr, error) { return literal("null"), nil }},
		{tBool, func(*rules) (*expr, error) { return either(literal("true"), literal("false")), nil }},
		{tNumber, s.emitNumber},
		{tInteger, s.emitInteger},
		{tString, s.emitString},
		{tList, s.emitList},
		{tObject, s.emitObject},
	} {
		if types&t.bit == 0 || t.bit == tInteger && types&tNumber != 0 { // integers are covered by number
			continue
		}
		e, err := t.make(r)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ways = append(ways, e)
	}
	if len(ways) == 0 {
		return nil, errNothing
	}
	return either(ways...), nil
}

// contradicted returns the types that no value can have, because more is
// required than is allowed.
func (r *rules) contradicted() (types int) {
	for _, c := range []struct{ of, least, most int }{
		{tString, r.shortest, r.longest}, {tList, r.fewItems, r.mostItem}, {tObject, r.fewest, r.most},
	} {
		if c.most >= 0 && c.least > c.most {
			types |= c.of
		}
	}
	if r.lo != nil && r.hi != nil && r.lo.at.Cmp(r.hi.at) > 0 {
		types |= tNumber | tInteger
	}
	return types
}

// emitEnum returns the listed values that satisfy all of the schemas.
func (s *schemas) emitEnum(r *rules) (*expr, error) {
	var ways []*expr
	for _, v := range r.enum {
		ok, err := s.all(r.tops, v)
		if err != nil {
			return nil, err
		}
		if ok {
			text := v.String()
			if err := s.spend(r.enumAt, 1+len(text)/16); err != nil {
				return nil, err
			}
			ways = append(ways, literal(text))
		}
	}
	if len(ways) == 0 {
		return nil, errNothing
	}
	return either(ways...), nil
}

func (s *schemas) emitNumber(r *rules) (*expr, error) {
	switch {
	case r.multiple != nil:
		return s.emitMultiple(r, r.multiple)
	case r.lo == nil && r.hi == nil:
		return s.number, nil
	}
	// As precise as the bounds, and more.
	return numbers(r.lo, r.hi, max(fractionDigits, 2*maxPlaces/3)), nil
}

func (s *schemas) emitMultiple(r *rules, of *big.Rat) (*expr, error) {
	if of.IsInt() && of.Num().Cmp(big.NewInt(1)) == 0 {
		return s.whole(r), nil
	}
	if n, places, ok := steps(of); ok && n == 1 {
		return numbers(r.lo, r.hi, places), nil
	}
	e, err := multiples(r.lo, r.hi, of)
	if err != nil && !errors.Is(err, errNothing) {
		return nil, r.multAt.bad("multipleOf", "%s", err)
	}
	if err != nil {
		return nil, err
	}
	return e, s.spend(r.multAt, maxBudget/100)
}

func (s *schemas) emitInteger(r *rules) (*expr, error) {
	if r.multiple != nil {
		return s.emitMultiple(r, common(r.multiple, big.NewRat(1, 1)))
	}
	return s.whole(r), nil
}

func (s *schemas) whole(r *rules) *expr {
	if r.lo == nil && r.hi == nil {
		return s.integer
	}
	return integers(wholeWithin(r.lo, r.hi))
}

// wholeWithin returns the least and the greatest integer within bounds; nil: there is
// none.
func wholeWithin(low, high *bound) (lo, hi *big.Int) {
	// Division rounds down.
	one := big.NewInt(1)
	if low != nil {
		at := new(big.Int).Div(low.at.Num(), low.at.Denom())
		if lo = at; !low.at.IsInt() || low.exclusive {
			lo = at.Add(at, one)
		}
	}
	if high != nil {
		at := new(big.Int).Div(high.at.Num(), high.at.Denom())
		if hi = at; high.at.IsInt() && high.exclusive {
			hi = at.Sub(at, one)
		}
	}
	return lo, hi
}

func (s *schemas) emitString(r *rules) (*expr, error) {
	key := fmt.Sprintf("%q %d %d", r.but, r.shortest, r.longest)
	for _, t := range r.texts {
		key += fmt.Sprintf(" %v %q", t.not, t.pattern)
	}
	if e := s.strings[key]; e != nil {
		return e, s.spend(r.where, maxBudget/3000)
	}
	e, err := s.stringOf(r)
	if err == nil {
		s.strings[key] = e
	}
	return e, err
}

func (s *schemas) stringOf(r *rules) (*expr, error) {
	d, where, err := s.textsOf(r)
	switch {
	case err != nil:
		return nil, err
	case d == nil:
		return s.text(r.shortest, r.longest), nil
	}
	e, err := quotedCount(d, r.shortest, r.longest)
	if err != nil && !errors.Is(err, errNothing) {
		return nil, where.where.bad(where.keyword, "beside minLength and maxLength %s", err)
	}
	return e, err
}

// textsOf returns an automaton of the strings that satisfy patterns and formats, and one
// of those; nil: there are none.
func (s *schemas) textsOf(r *rules) (all *automaton, where textRule, err error) {
	join := func(t textRule, d *automaton, err error) error {
		if err == nil && all != nil {
			d, err = both(all, d)
		}
		if err != nil && !errors.Is(err, errNothing) {
			return t.where.bad(t.keyword, "%s", err)
		}
		if all, where = d, t; err != nil {
			return err
		}
		return s.spend(t.where, d.size()/50)
	}
	for _, t := range r.texts {
		d, err := s.regex(t.where, t.keyword, t.pattern)
		if t.not {
			if errors.Is(err, errNothing) {
				continue
			}
			if err == nil {
				d, err = d.others()
			}
		}
		if schemaErr := (*SchemaError)(nil); errors.As(err, &schemaErr) {
			return nil, t, err
		}
		if err := join(t, d, err); err != nil {
			return nil, t, err
		}
	}
	if len(r.but) > 0 {
		d, err := except(r.but)
		if err := join(textRule{where: r.where, keyword: "not"}, d, err); err != nil {
			return nil, where, err
		}
	}
	return all, where, nil
}

// itemsAt returns the schemas of the item at a place; possible is false if there must be
// none.
func (r *rules) itemsAt(i int) (parts []part, possible bool) {
	for _, l := range r.lists {
		switch {
		case i < len(l.prefix):
			parts = append(parts, l.prefix[i])
		case l.rest != nil && l.rest.doc.isFalse():
			return nil, false
		case l.rest != nil:
			parts = append(parts, *l.rest)
		}
	}
	return parts, true
}

func (s *schemas) emitList(r *rules) (*expr, error) {
	places, most := 0, r.mostItem
	for _, l := range r.lists {
		places = max(places, len(l.prefix))
	}
	if err := s.spend(r.where, places*len(r.lists)/16); err != nil {
		return nil, err
	}
	var prefix []*expr
	for i := 0; i <= places; i++ {
		parts, possible := r.itemsAt(i)
		if !possible {
			if most < 0 || most > i {
				most = i
			}
			break
		}
		if i == places {
			break
		}
		e, err := s.compile(parts)
		if err != nil {
			return nil, err
		}
		prefix = append(prefix, e)
	}
	if most >= 0 && r.fewItems > most {
		return nil, errNothing
	}
	rest, _ := r.itemsAt(places)
	fewest := r.fewItems
	if len(r.contains) > 0 {
		var err error
		if prefix, rest, fewest, most, err = s.emitContains(r, prefix, rest, fewest, most); err != nil {
			return nil, err
		}
	}
	if len(r.unique) > 0 && (most < 0 || most > 1) {
		return s.emitUnique(r, prefix, rest, fewest, most)
	}
	// A list whose first items are described, and no others, has no others.
	var item *expr
	described := slices.ContainsFunc(r.lists, func(l listRule) bool { return l.rest != nil })
	if (most < 0 || most > len(prefix)) && (described || len(prefix) == 0 || fewest > len(prefix)) {
		var err error
		if item, err = s.compile(rest); err != nil {
			return nil, err
		}
	}
	return s.list(prefix, item, fewest, most), nil
}

// emitContains puts the items that contains asks for behind the first items: wherever
// they stand, the list is valid.
func (s *schemas) emitContains(r *rules, prefix []*expr, rest []part, fewest, most int) ([]*expr, []part, int, int, error) {
	p := r.contains[0]
	fail := func(keyword, why string) ([]*expr, []part, int, int, error) {
		return nil, nil, 0, 0, p.bad(keyword, "%s", why)
	}
	least, limit, err := containsLimits(p)
	switch {
	case err != nil:
		return nil, nil, 0, 0, err
	case len(r.contains) > 1:
		return fail("contains", "is supported once for a list")
	case limit >= 0 && (limit < least || len(prefix) > 0):
		if limit < least {
			return nil, nil, 0, 0, errNothing
		}
		return fail("maxContains", "is not supported beside prefixItems")
	}
	if err := s.spend(p, least); err != nil {
		return nil, nil, 0, 0, err
	}
	wanted := part{doc: p.doc.get("contains")}
	e, err := s.compile(append(slices.Clone(rest), wanted))
	if err != nil {
		return nil, nil, 0, 0, err
	}
	for range least {
		prefix = append(prefix, e)
	}
	fewest = max(fewest, len(prefix))
	if least == 0 {
		fewest = r.fewItems
	}
	if most >= 0 && fewest > most {
		return nil, nil, 0, 0, errNothing
	}
	if limit < 0 {
		return prefix, rest, fewest, most, nil
	}
	// No more than so many: the others must not match, or there are no others.
	not := part{doc: s.make(wanted.doc, "not", func() *document { return object(wanted.doc, member{"not", wanted.doc}) })}
	if ways, err := s.opposite(wanted, true); err == nil && ways != nil && len(ways) > 0 {
		return prefix, append(slices.Clone(rest), not), fewest, most, nil
	}
	if most < 0 || most > limit {
		most = limit
	}
	if fewest > most {
		return fail("maxContains", "is not supported with so many items")
	}
	return prefix, rest, fewest, most, nil
}

// emitUnique returns the lists that have no value twice.
func (s *schemas) emitUnique(r *rules, prefix []*expr, rest []part, fewest, most int) (*expr, error) {
	p := r.unique[0]
	if len(prefix) > 0 {
		return nil, p.bad("uniqueItems", "is not supported beside prefixItems or contains")
	}
	item, err := s.compile(rest)
	if err != nil {
		return nil, err
	}
	if err := s.spend(p, maxBudget/150); err != nil {
		return nil, err
	}
	comma, closing := seq(oneOf(","), s.gap), oneOf("]")
	texts, ok := s.enumerate(item)
	if !ok {
		return s.emitFresh(p, rest, fewest, most)
	}
	all := &picks{next: comma, least: fewest, most: most, end: closing}
	different := 0
	groups, docs := map[string][]int{}, make([]*document, len(texts))
	for i, t := range texts {
		d, err := readDocument([]byte(t))
		if err != nil {
			return nil, p.bad("uniqueItems", "has an item that cannot be compared")
		}
		key := string(d.kind) // of values that may be equal
		if d.kind == '"' || d.kind == '0' {
			key = lastValue([]byte(t))
		}
		docs[i] = d
		groups[key] = append(groups[key], i)
		all.values = append(all.values, literal(t))
	}
	all.alike = make([][]int, len(texts))
	for _, group := range groups {
		if err := s.spend(p, 1+len(group)*len(group)/256); err != nil {
			return nil, err
		}
		for _, i := range group {
			for _, k := range group {
				if docs[i].same(docs[k]) {
					all.alike[i] = append(all.alike[i], k)
				}
			}
			if all.alike[i][0] == i {
				different++
			}
		}
	}
	if different < fewest {
		return nil, errNothing
	}
	return seq(oneOf("["), &expr{kind: kindLazy, lazy: pick{all, string(make([]byte, len(texts))), 0}}), nil
}

// partsOf returns the schemas that a member must satisfy; possible is false if
// one of them forbids it.
func (s *schemas) partsOf(r *rules, name string) (parts []part, possible bool, err error) {
	for _, n := range r.names {
		if ok, err := s.fits(n, textOf(name)); err != nil || !ok {
			return nil, false, err
		}
	}
	known := make([]bool, len(r.rest)) // to each unevaluatedProperties
	for _, o := range r.objects {
		matched := false
		if p, ok := o.props[name]; ok {
			parts, matched = append(parts, p), true
		}
		for i, pattern := range o.patterns {
			ok, err := s.likes(o.where, "patternProperties", pattern, name)
			if err != nil {
				return nil, false, err
			}
			if ok {
				parts, matched = append(parts, o.byName[i]), true
			}
		}
		if !matched && o.more != nil {
			if o.more.doc.isFalse() {
				return nil, false, nil
			}
			parts, matched = append(parts, *o.more), true
		}
		r.know(known, &o, matched)
	}
	return r.unknown(parts, known)
}

// know notes which unevaluatedProperties know of a member that a schema describes.
func (r *rules) know(known []bool, o *objectRule, matched bool) {
	for i, u := range r.rest {
		known[i] = known[i] || matched && slices.Contains(o.scopes, u.doc)
	}
}

// unknown adds the schemas of members that are not evaluated elsewhere.
func (r *rules) unknown(parts []part, known []bool) ([]part, bool, error) {
	for i, u := range r.rest {
		if known[i] {
			continue
		}
		v := part{doc: u.doc.get("unevaluatedProperties")}
		if v.doc.isFalse() {
			return nil, false, nil
		}
		parts = append(parts, v)
	}
	return parts, true, nil
}

func (s *schemas) emitObject(r *rules) (*expr, error) {
	var names []string
	seen := map[string]bool{}
	add := func(list []string) {
		for _, n := range list {
			if !seen[n] {
				seen[n] = true
				names = append(names, n)
			}
		}
	}
	for _, o := range r.objects {
		add(o.names)
	}
	add(r.required)
	open := len(names) == 0 && !slices.ContainsFunc(r.objects, func(o objectRule) bool { return o.where.has("properties") })
	opened := open || slices.ContainsFunc(r.objects, func(o objectRule) bool { return len(o.patterns) > 0 || o.more != nil && !o.more.doc.isFalse() }) ||
		slices.ContainsFunc(r.rest, func(p part) bool { return !p.doc.get("unevaluatedProperties").isFalse() })
	keys, err := s.keysOf(r)
	if err != nil {
		return nil, err
	}
	if keys.listed && opened {
		add(keys.list)
	}
	var props []property
	need := 0
	for _, n := range names {
		required := slices.Contains(r.required, n)
		parts, possible, err := s.partsOf(r, n)
		if err != nil {
			return nil, err
		}
		if !possible {
			if required {
				return nil, errNothing
			}
			continue
		}
		e, err := s.compile(parts)
		if err != nil {
			return nil, err
		}
		if required {
			need++
		}
		props = append(props, property{n, e, required})
	}
	var more *expr
	if opened && !keys.listed {
		if more, err = s.emitExtras(r, names, keys, open); err != nil {
			return nil, err
		}
	}
	switch few := len(props) + map[bool]int{true: 1}[more != nil]; {
	case r.most >= 0 && need > r.most:
		return nil, errNothing
	case few < r.fewest && more != nil:
		return nil, r.where.bad("minProperties", "is supported up to one more than the named properties")
	case few < r.fewest:
		return nil, errNothing
	case len(props)*max(r.fewest, min(r.most, len(props)), 1) > maxTally:
		return nil, r.where.bad("", "has too many properties to count them")
	}
	return s.object(props, more, r.fewest, r.most), nil
}

// keys are the names that members may have.
type keys struct {
	listed      bool
	list        []string
	text        *automaton // nil: any
	least, most int
}

// keysOf reads what propertyNames allows.
func (s *schemas) keysOf(r *rules) (k keys, err error) {
	if k.most = -1; len(r.names) == 0 {
		return k, nil
	}
	at := r.names[0]
	n := newRules(append(slices.Clone(r.names), part{doc: s.make(at.doc, "string", func() *document { return object(at.doc, member{"type", textOf("string")}) })}))
	for _, p := range n.tops {
		if err := s.gather(n, p); errors.Is(err, errNothing) { // then there are no members
			return keys{listed: true}, nil
		} else if err != nil {
			return k, err
		}
	}
	values := n.enum
	for i := 0; values == nil && i < len(n.choices); i++ { // a union of literals
		for _, w := range n.choices[i].ways {
			one := s.listed(w.doc, 0)
			if one == nil {
				values = nil
				break
			}
			values = append(values, one...)
		}
	}
	switch {
	case values != nil:
		k.listed = true
		for _, v := range values {
			if ok, err := s.all(n.tops, v); err != nil {
				return k, err
			} else if ok {
				k.list = append(k.list, v.text)
			}
		}
		return k, nil
	case len(n.choices) > 0:
		return k, at.bad("", "names of members may be described by enum, const, pattern, format and length alone")
	}
	k.least, k.most = n.shortest, n.longest
	k.text, _, err = s.textsOf(n)
	if err == nil && k.least > 0 && k.most >= 0 && k.least > k.most {
		err = errNothing
	}
	if errors.Is(err, errNothing) { // then there are no members
		return keys{listed: true}, nil
	}
	return k, err
}

// maxPatterns is how many different patterns names of members may have: each set of them
// that a name can match is a case of its own.
const maxPatterns = 4

// emitExtras returns a member that is not named; nil: there are none. Where a schema
// names some members and does not mention others, there are none: leaving them out is
// always valid.
func (s *schemas) emitExtras(r *rules, names []string, k keys, open bool) (*expr, error) {
	var patterns []string
	for _, o := range r.objects {
		for _, p := range o.patterns {
			if !slices.Contains(patterns, p) {
				patterns = append(patterns, p)
			}
		}
	}
	if len(patterns) > maxPatterns {
		return nil, r.where.bad("patternProperties", "has more than %d patterns", maxPatterns)
	}
	var ways []*expr
	for set := range 1 << len(patterns) {
		parts, described, err := r.extrasOf(patterns, set)
		if err != nil || !described && !open {
			if errors.Is(err, errNothing) || err == nil {
				continue
			}
			return nil, err
		}
		key, err := s.key(r, patterns, set, names, k)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		value, err := s.compile(parts)
		if err != nil {
			return nil, err
		}
		ways = append(ways, seq(key, oneOf(":"), s.gap, value))
	}
	if len(ways) == 0 {
		return nil, nil
	}
	return either(ways...), nil
}

// extrasOf returns the schemas of a member whose name matches a set of the patterns, and
// whether any schema describes it.
func (r *rules) extrasOf(patterns []string, set int) (parts []part, described bool, err error) {
	known := make([]bool, len(r.rest))
	for _, o := range r.objects {
		matched := false
		for i, p := range o.patterns {
			if set>>slices.Index(patterns, p)&1 != 0 {
				parts, matched = append(parts, o.byName[i]), true
			}
		}
		if !matched && o.more != nil {
			if o.more.doc.isFalse() {
				return nil, false, errNothing
			}
			parts, matched = append(parts, *o.more), true
		}
		described = described || matched
		r.know(known, &o, matched)
	}
	all, possible, err := r.unknown(parts, known)
	if !possible {
		return nil, false, errNothing
	}
	return all, described || len(all) > len(parts), err
}

// key returns the names that match exactly a set of the patterns, are none of the given
// ones, and are allowed.
func (s *schemas) key(r *rules, patterns []string, set int, names []string, k keys) (*expr, error) {
	if len(patterns) == 0 && len(names) == 0 && k.text == nil {
		return s.text(k.least, k.most), nil
	}
	all := k.text
	join := func(d *automaton, err error) error {
		if err == nil && all != nil {
			d, err = both(all, d)
		}
		if err != nil && !errors.Is(err, errNothing) {
			return r.where.bad("properties", "%s", err)
		}
		if all = d; err != nil {
			return err
		}
		return s.spend(r.where, d.size()/50)
	}
	for i, p := range patterns {
		d, err := s.regex(r.where, "patternProperties", p)
		if set>>i&1 == 0 {
			if errors.Is(err, errNothing) {
				continue
			}
			if err == nil {
				d, err = d.others()
			}
		}
		if err := join(d, err); err != nil {
			return nil, err
		}
	}
	if len(names) > 0 {
		if err := join(except(names)); err != nil {
			return nil, err
		}
	}
	e, err := quotedCount(all, k.least, k.most)
	if err != nil && !errors.Is(err, errNothing) {
		return nil, r.where.bad("propertyNames", "%s", err)
	}
	return e, err
}

const (
	maxListed     = 256  // values of which a list has each at most once
	maxListedText = 8192 // bytes of them
	maxListing    = 20_000
)

// enumerate returns the texts of an expression, if they are few.
func (s *schemas) enumerate(e *expr) (texts []string, ok bool) {
	work := maxListing
	var visit func(e *expr, depth int, then func(text string) bool, text string) bool
	visit = func(e *expr, depth int, then func(text string) bool, text string) bool {
		if work--; work < 0 || depth > 400 || s.busy[e] {
			return false
		}
		switch e.kind {
		case kindEmpty:
			return then(text)
		case kindByte:
			for c := range 256 {
				if e.set.has(byte(c)) && !then(text+string([]byte{byte(c)})) {
					return false
				}
			}
			return true
		case kindSeq:
			return visit(e.a, depth+1, func(t string) bool { return visit(e.b, depth+1, then, t) }, text)
		case kindEither:
			for _, k := range e.alts {
				if !visit(k, depth+1, then, text) {
					return false
				}
			}
			return true
		case kindRepeat:
			if e.max < 0 || e.max > maxListed {
				return false
			}
			if e.min == 0 && !then(text) {
				return false
			}
			if e.max == 0 {
				return true
			}
			rest := &expr{kind: kindRepeat, a: e.a, min: max(0, e.min-1), max: e.max - 1}
			return visit(e.a, depth+1, func(t string) bool { return visit(rest, depth+1, then, t) }, text)
		}
		return false
	}
	size := 0
	ok = visit(e, 0, func(t string) bool {
		size += len(t)
		if !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
		return len(texts) <= maxListed && size <= maxListedText
	}, "")
	return texts, ok
}
