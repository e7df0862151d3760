package constrain

import (
	"errors"
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

// emitEnum returns the listed values. They are checked only against the types.
func (s *schemas) emitEnum(r *rules) (*expr, error) {
	keyword := r.others
	if len(r.objects) > 0 || len(r.required) > 0 {
		keyword = "properties"
	}
	if keyword != "" {
		return nil, r.enumAt.bad("enum", "cannot be combined with %s", keyword)
	}
	var ways []*expr
	for _, v := range r.enum {
		t := map[byte]int{'n': tNull, 't': tBool, '"': tString, '[': tList, '{': tObject}[v.kind]
		if v.kind == '0' {
			t = tNumber
			if q, err := rational(v); err == nil && q.IsInt() {
				t |= tInteger
			}
		}
		if r.types&t != 0 {
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
	case r.fraction == 0:
		return s.emitInteger(r)
	case r.lo == nil && r.hi == nil && r.fraction == fractionDigits:
		return s.number, nil
	}
	fraction := r.fraction
	if fraction == fractionDigits { // as precise as the bounds, and more
		fraction = max(fraction, 2*maxPlaces/3)
	}
	return numbers(r.lo, r.hi, min(fraction, maxPlaces)), nil
}

func (s *schemas) emitInteger(r *rules) (*expr, error) {
	if r.lo == nil && r.hi == nil {
		return s.integer, nil
	}
	// Division rounds down.
	var lo, hi *big.Int
	one := big.NewInt(1)
	if r.lo != nil {
		at := new(big.Int).Div(r.lo.at.Num(), r.lo.at.Denom())
		if lo = at; !r.lo.at.IsInt() || r.lo.exclusive {
			lo = at.Add(at, one)
		}
	}
	if r.hi != nil {
		at := new(big.Int).Div(r.hi.at.Num(), r.hi.at.Denom())
		if hi = at; r.hi.at.IsInt() && r.hi.exclusive {
			hi = at.Sub(at, one)
		}
	}
	return integers(lo, hi), nil
}

func (s *schemas) emitString(r *rules) (*expr, error) {
	if len(r.texts) == 0 {
		return s.text(r.shortest, r.longest), nil
	}
	// A pattern is charged by its size: a large one costs as much as hundreds
	// of schemas.
	var all *automaton
	join := func(where part, keyword string, d *automaton, err error) error {
		if err == nil && all != nil {
			d, err = both(all, d)
		}
		if err != nil && !errors.Is(err, errNothing) {
			return where.bad(keyword, "%s", err)
		}
		if all = d; err != nil {
			return err
		}
		return s.spend(where, d.size()/50)
	}
	for _, t := range r.texts {
		if err := s.spend(t.where, maxBudget/300); err != nil {
			return nil, err
		}
		d, err := compilePattern(t.pattern)
		if err := join(t.where, t.keyword, d, err); err != nil {
			return nil, err
		}
	}
	if r.shortest > 0 || r.longest >= 0 {
		d, err := everything(r.shortest, r.longest)
		if err := join(r.texts[0].where, r.texts[0].keyword, d, err); err != nil {
			return nil, err
		}
	}
	return quoted(all), nil
}

func (s *schemas) emitList(r *rules) (*expr, error) {
	var prefix []*expr
	for _, p := range r.prefix {
		e, err := s.compile([]part{p})
		if err != nil {
			return nil, err
		}
		prefix = append(prefix, e)
	}
	var item *expr
	if r.open && (len(r.items) > 0 || len(r.prefix) == 0 || r.fewItems > len(r.prefix)) {
		var err error
		if item, err = s.compile(r.items); err != nil {
			return nil, err
		}
	}
	return s.list(prefix, item, r.fewItems, r.mostItem), nil
}

func (s *schemas) emitObject(r *rules) (*expr, error) {
	var names []string
	for _, o := range r.objects {
		for _, n := range o.names {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	for _, n := range r.required {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	var props []property
	optional := 0
	for _, n := range names {
		required := slices.Contains(r.required, n)
		parts, possible := r.partsOf(n)
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
		if !required {
			optional++
		}
		props = append(props, property{n, e, required})
	}
	more, err := s.emitExtras(r, names)
	if err != nil {
		return nil, err
	}
	need := len(props) - optional
	if optional > 0 && (r.fewest > need || r.most >= 0 && (r.most < len(props) || more != nil)) {
		return nil, r.where.bad("", "minProperties and maxProperties are supported where all properties are required, or none are named")
	}
	if r.most >= 0 && need > r.most {
		return nil, errNothing
	}
	if more != nil {
		// A name may be repeated, which reduces the number of members but never
		// increases it.
		if r.fewest > need+1 {
			return nil, r.where.bad("minProperties", "is supported up to one more than the required ones")
		}
		more.least = max(0, r.fewest-need)
		if r.most >= 0 {
			more.most = r.most - need
		}
	} else if r.fewest > need {
		return nil, errNothing
	}
	return s.object(props, more), nil
}

// partsOf returns the schemas that a member must satisfy; possible is false if
// one of them forbids it.
func (r *rules) partsOf(name string) (parts []part, possible bool) {
	for _, o := range r.objects {
		switch p, ok := o.props[name]; {
		case ok:
			parts = append(parts, p)
		case o.more != nil && o.more.doc.kind == 't' && o.more.doc.text == "false":
			return nil, false
		case o.more != nil:
			parts = append(parts, *o.more)
		}
	}
	return parts, true
}

// emitExtras returns the members that are not named. Where a schema names some
// members and does not mention others, there are none: leaving them out is
// always valid.
func (s *schemas) emitExtras(r *rules, names []string) (*extras, error) {
	var parts []part
	var pattern *textRule
	open := len(names) == 0
	for _, o := range r.objects {
		open = open && o.where.doc.get("properties") == nil
	}
	for _, o := range r.objects {
		switch {
		case o.pattern != nil:
			if pattern != nil || len(names) > 0 {
				return nil, o.where.bad("patternProperties", "cannot be combined with other names of members")
			}
			pattern, open = o.pattern, true
			parts = append(parts, o.byName)
		case o.more == nil:
		case o.more.doc.kind == 't' && o.more.doc.text == "false":
			return nil, nil
		default:
			open = true
			parts = append(parts, *o.more)
		}
	}
	if !open {
		return nil, nil
	}
	value, err := s.compile(parts)
	if err != nil {
		return nil, err
	}
	out := &extras{key: s.string, value: value, most: -1}
	var d *automaton
	if pattern != nil {
		if d, err = compilePattern(pattern.pattern); err != nil {
			return nil, pattern.where.bad(pattern.keyword, "%.64q %s", pattern.pattern, err)
		}
		out.key = quoted(d)
	} else if len(names) > 0 {
		if d, err = except(names); err != nil {
			return nil, r.where.bad("properties", "%s", err)
		}
		out.key = quoted(d)
	}
	return out, nil
}
