package constrain

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
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
		to, err := s.follow(p, v)
		if err != nil {
			return err
		}
		if r.refs[to.pointer] {
			return p.bad(name, "it refers to itself")
		}
		r.refs[to.pointer] = true
		return s.gather(r, to)
	case "allOf", "anyOf", "oneOf":
		if v.kind != '[' || len(v.items) == 0 {
			return p.bad(name, "must be a list of schemas")
		}
		var list []part
		for i := range v.items {
			list = append(list, p.child(name, strconv.Itoa(i)))
		}
		if name != "allOf" {
			r.choices = append(r.choices, list)
			return nil
		}
		for _, q := range list {
			if err := s.gather(r, q); err != nil {
				return err
			}
		}
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
	case "pattern":
		if v.kind != '"' {
			return p.bad(name, "must be a string")
		}
		r.implied |= tString
		r.other(name)
		r.texts = append(r.texts, textRule{p, name, v.text})
	case "format":
		return r.readFormat(p, v)
	case "required":
		r.implied |= tObject
		if v.kind != '[' {
			return p.bad(name, "must be a list of names")
		}
		for _, n := range v.items {
			if n.kind != '"' {
				return p.bad(name, "must be a list of names")
			}
			if !slices.Contains(r.required, n.text) {
				r.required = append(r.required, n.text)
			}
		}
	case "items", "prefixItems", "additionalItems":
		return r.readItems(p, name, v)
	case "uniqueItems":
		if v.text != "false" {
			return p.bad(name, "this keyword is not supported: what has come before cannot be compared")
		}
	default:
		if objectKeywords[name] || slices.Contains(annotations, name) || strings.HasPrefix(name, "x-") {
			if name == "$id" && p.pointer != "" {
				return p.bad(name, "is supported at the root alone")
			}
			return nil
		}
		return p.bad(name, "this keyword is not supported")
	}
	return nil
}

func (r *rules) other(keyword string) {
	if r.others == "" {
		r.others = keyword
	}
}

func (r *rules) readTypes(p part, v *document) error {
	names := v.items
	if v.kind == '"' {
		names = []*document{v}
	} else if v.kind != '[' || len(names) == 0 {
		return p.bad("type", "must be a type or a list of types")
	}
	set := 0
	for _, n := range names {
		t := typeNames[n.text]
		if n.kind != '"' || t == 0 {
			return p.bad("type", "%.64q is no type", n.text)
		}
		set |= t
	}
	if r.types &= set; r.types == 0 {
		return errNothing
	}
	return nil
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
	r.other(name)
	if v.kind == 't' && strings.HasPrefix(name, "exclusive") {
		return p.bad(name, "must be a number: true and false are of an older JSON Schema")
	}
	if v.kind != '0' {
		return p.bad(name, "must be a number")
	}
	at, err := rational(v)
	if err != nil {
		return p.bad(name, "%.64s %s", v.text, err)
	}
	b := &bound{at, strings.HasPrefix(name, "exclusive")}
	to, sign := &r.lo, 1
	if strings.HasSuffix(strings.ToLower(name), "maximum") {
		to, sign = &r.hi, -1
	}
	if *to == nil || b.at.Cmp((*to).at) == sign || b.at.Cmp((*to).at) == 0 && b.exclusive {
		*to = b
	}
	return nil
}

// readMultiple accepts 1, 0.1, 0.01 and so on, which set the number of decimal
// places.
func (r *rules) readMultiple(p part, v *document) error {
	r.implied |= tNumber
	r.other("multipleOf")
	if v.kind == '0' {
		if of, err := rational(v); err == nil && of.Num().Cmp(big.NewInt(1)) == 0 {
			places := strings.TrimPrefix(of.Denom().String(), "1")
			if of.Denom().Sign() > 0 && strings.HasPrefix(of.Denom().String(), "1") && strings.Trim(places, "0") == "" && len(places) <= fractionDigits {
				r.fraction = min(r.fraction, len(places))
				return nil
			}
		}
	}
	return p.bad("multipleOf", "is supported of 1, 0.1, 0.01 and so on")
}

func (r *rules) readCount(p part, name string, v *document, of int, least, most *int) error {
	r.implied |= of
	r.other(name)
	n := -1
	if q, err := rational(v); v.kind == '0' && err == nil && q.IsInt() && q.Num().IsInt64() && q.Sign() >= 0 {
		n = int(min(q.Num().Int64(), 2*maxCount))
	}
	switch {
	case n < 0:
		return p.bad(name, "must be a count")
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
	pattern, ok := formats[v.text]
	if !ok {
		return p.bad("format", "%.64q is not supported; known are %s", v.text, formatNames())
	}
	r.implied |= tString
	r.other("format")
	r.texts = append(r.texts, textRule{p, "format", pattern})
	return nil
}

func formatNames() string {
	names := []string{"int32", "int64", "float", "double"}
	for name := range formats {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (r *rules) readItems(p part, name string, v *document) error {
	r.implied |= tList
	r.other(name)
	if v.kind == '[' && (name == "items" || name == "prefixItems") { // "items" had this meaning until 2019
		if r.prefix != nil {
			return p.bad(name, "cannot be combined with another list of first items")
		}
		r.prefix = []part{}
		for i := range v.items {
			r.prefix = append(r.prefix, p.child(name, strconv.Itoa(i)))
		}
		return nil
	}
	switch {
	case name == "prefixItems":
		return p.bad(name, "must be a list of schemas")
	case v.text == "false" && v.kind == 't':
		r.open = false
	default:
		r.items = append(r.items, p.child(name))
	}
	return nil
}
