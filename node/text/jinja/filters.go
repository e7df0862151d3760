package jinja

import (
	"html"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

func (r *run) filter(id string, v any, a args) any {
	f := filters[id]
	if f == nil {
		fail("there is no filter %q", id)
	}
	r.weigh(v)
	return f(r, v, a)
}

func (r *run) test(id string, v any, a args) bool {
	t := tests[id]
	if t == nil {
		fail("there is no test %q", id)
	}
	r.weigh(v)
	return t(r, v, a)
}

// onText turns a function on strings into a filter.
func onText(f func(string) string) func(*run, any, args) any {
	return func(r *run, v any, _ args) any {
		s := r.str(v)
		r.charge(len(s))
		return f(s)
	}
}

var filters map[string]func(*run, any, args) any

func init() { // in init because some filters refer to the table
	filters = map[string]func(*run, any, args) any{
		"upper": onText(upper), "lower": onText(lower), "capitalize": onText(capitalized),
		"title": onText(titleFilter), "string": onText(func(s string) string { return s }), "safe": func(_ *run, v any, _ args) any { return v },
		"e": onText(escapeHTML), "escape": onText(escapeHTML), "forceescape": onText(escapeHTML), "urlencode": urlFilter,
		"trim":      func(r *run, v any, a args) any { return strip(r.str(v), a, true, true) },
		"wordcount": func(r *run, v any, _ args) any { return int64(len(strings.FieldsFunc(r.str(v), notWord))) },
		"center": func(r *run, v any, a args) any {
			if _, ok := a.arg(0, "width"); !ok {
				a.pos = []any{int64(80)}
			}
			return r.centered(r.str(v), a, " ")
		},
		"replace": func(r *run, v any, a args) any {
			return r.replace(r.str(v), r.str(a.must(0, "old")), r.str(a.must(1, "new")), a.int(2, "count", -1))
		},
		"indent": indentFilter, "truncate": truncateFilter,
		"format": func(r *run, v any, a args) any {
			if len(a.names) > 0 {
				return r.format(r.str(v), dictOfArgs(args{names: a.names, named: a.named}))
			}
			return r.format(r.str(v), tuple(a.pos))
		},
		"wordwrap": wrapFilter,
		"length":   lengthFilter, "count": lengthFilter,
		"default": defaultFilter, "d": defaultFilter,
		"first":   func(r *run, v any, _ args) any { return end(r.items(v), 0, "first") },
		"last":    func(r *run, v any, _ args) any { items := r.items(v); return end(items, len(items)-1, "last") },
		"reverse": reverseFilter,
		"list":    func(r *run, v any, _ args) any { return slices.Clip(r.items(v)) },
		"items": func(r *run, v any, _ args) any {
			switch x := v.(type) {
			case undefined:
				return []any{}
			case *dict:
				return r.pairs(x)
			}
			fail("items takes a dict, not a %s", kind(v))
			return nil
		},
		"join": func(r *run, v any, a args) any {
			items := r.items(v)
			if at, ok := a.arg(1, "attribute"); ok {
				items = r.all(items, at)
			}
			sep, _ := a.arg(0, "d")
			if sep == nil {
				sep = ""
			}
			return r.join(items, r.str(sep))
		},
		"attr": func(r *run, v any, a args) any {
			if m := method(v, r.str(a.must(0, "name"))); m != nil {
				return m
			}
			return undefined{"attribute " + r.str(a.pos[0])}
		},
		"map": mapFilter, "select": selectFilter(false, true), "reject": selectFilter(false, false),
		"selectattr": selectFilter(true, true), "rejectattr": selectFilter(true, false),
		"sort": sortFilter, "dictsort": dictSort, "unique": uniqueFilter, "groupby": groupFilter,
		"min": extreme(-1), "max": extreme(1), "sum": sumFilter,
		"batch": batchFilter, "slice": sliceFilter,
		"int": intFilter, "float": floatFilter, "round": roundFilter,
		"abs": func(r *run, v any, _ args) any {
			n, ok := number(v)
			switch {
			case !ok:
				fail("abs takes a number, not a %s", kind(v))
			case n < 0:
				return r.arithmetic("*", v, int64(-1))
			}
			return r.arithmetic("+", v, int64(0))
		},
		"tojson": jsonFilter, "pprint": func(r *run, v any, _ args) any { return r.repr(v) },
	}
}

func notWord(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) }

func escapeHTML(s string) string { return html.EscapeString(s) }

// urlFilter encodes a text, or pairs as a query.
func urlFilter(r *run, v any, _ args) any {
	var pairs []any
	switch x := v.(type) {
	case *dict:
		pairs = r.pairs(x)
	case []any:
		pairs = x
	default:
		s := r.str(v)
		r.charge(3 * len(s))
		return encodeURL(s)
	}
	parts := make([]string, len(pairs))
	for i, p := range pairs {
		kv, _ := sequence(p)
		if len(kv) != 2 {
			fail("urlencode takes a text, a dict or pairs")
		}
		k, v := r.str(kv[0]), r.str(kv[1])
		r.charge(3*(len(k)+len(v)) + itemSize)
		parts[i] = url.QueryEscape(k) + "=" + url.QueryEscape(v)
	}
	return strings.Join(parts, "&")
}

func encodeURL(s string) string {
	s = url.QueryEscape(s)
	return strings.NewReplacer("+", "%20", "%2F", "/", "%7E", "~").Replace(s)
}

func indentFilter(r *run, v any, a args) any {
	s := r.str(v)
	by, ok := a.arg(0, "width")
	indent, isText := by.(string)
	if n := a.intOr(by, ok, 4); !isText {
		r.charge(n)
		indent = strings.Repeat(" ", n)
	}
	if _, isText := v.(string); !isText {
		fail("indent takes a text, not a %s", kind(v))
	}
	lines := cutLines(s+"\n", false)
	r.charge(len(s) + len(lines)*(len(indent)+itemSize))
	blank := a.bool(2, "blank")
	for i, l := range lines {
		if i == 0 && !a.bool(1, "first") || i > 0 && l == "" && !blank {
			continue
		}
		lines[i] = indent + l
	}
	return strings.Join(lines, "\n")
}

func (a args) intOr(v any, given bool, other int) int {
	if n, ok := integer(v); ok && given {
		return int(max(0, min(n, 1<<20)))
	}
	return other
}

func truncateFilter(r *run, v any, a args) any {
	s := []rune(r.str(v))
	length, more := a.int(0, "length", 255), []rune(a.text(2, "end", "..."))
	r.charge(len(s) * 4)
	if length < len(more) || a.int(3, "leeway", 5) < 0 {
		fail("truncate to less than its end has")
	}
	if len(s) <= length+a.int(3, "leeway", 5) {
		return string(s)
	}
	cut := string(s[:max(0, min(len(s), length-len(more)))])
	if !a.bool(1, "killwords") {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return cut + string(more)
}

func lengthFilter(r *run, v any, _ args) any {
	switch x := v.(type) {
	case string:
		return int64(runes(x))
	case *dict:
		return int64(len(x.keys))
	}
	return int64(len(r.items(v)))
}

func defaultFilter(_ *run, v any, a args) any {
	other, ok := a.arg(0, "default_value")
	if !ok {
		other = ""
	}
	_, missing := v.(undefined)
	if missing || a.bool(1, "boolean") && !truth(v) {
		return other
	}
	return v
}

func end(items []any, i int, what string) any {
	if len(items) == 0 {
		return undefined{what + " of nothing"}
	}
	return items[i]
}

func reverseFilter(r *run, v any, _ args) any {
	s, isText := v.(string)
	items := slices.Clone(r.items(v))
	slices.Reverse(items)
	r.charge(len(items) * itemSize)
	if isText {
		r.charge(len(s))
		return r.join(items, "")
	}
	return items
}

// along follows a path of names and numbers within a value.
func (r *run) along(v, path any) any {
	if n, ok := integer(path); ok {
		return r.item(v, n)
	}
	for _, part := range strings.Split(r.str(path), ".") {
		if n, err := strconv.Atoi(part); err == nil {
			v = r.item(v, int64(n))
		} else {
			v = r.item(v, part)
		}
	}
	return v
}

func (r *run) all(items []any, path any) []any {
	r.charge(len(items) * itemSize)
	out := make([]any, len(items))
	for i, x := range items {
		out[i] = r.along(x, path)
	}
	return out
}

// some returns the items of a value, or none if it counts as false.
func (r *run) some(v any) []any {
	if !truth(v) {
		return nil
	}
	return r.items(v)
}

func mapFilter(r *run, v any, a args) any {
	items := r.some(v)
	if path, ok := a.arg(1<<30, "attribute"); ok {
		out := r.all(items, path)
		if other, ok := a.arg(1<<30, "default"); ok {
			for i, x := range out {
				if _, missing := x.(undefined); missing {
					out[i] = other
				}
			}
		}
		return out
	}
	r.charge(len(items) * itemSize)
	id := r.str(a.must(0, "filter"))
	rest := args{a.pos[min(1, len(a.pos)):], a.names, a.named}
	out := make([]any, len(items))
	for i, x := range items {
		out[i] = r.filter(id, x, rest)
	}
	return out
}

// selectFilter returns a filter that keeps the items for which a test holds
// (or, with keep false, does not hold), applied to the item or to one of its
// attributes.
func selectFilter(byAttr, keep bool) func(*run, any, args) any {
	return func(r *run, v any, a args) any {
		items, rest := r.some(v), a.pos
		var path any
		if byAttr {
			path = a.must(0, "attribute")
			rest = rest[min(1, len(rest)):]
		}
		out := []any{}
		for _, x := range items {
			of := x
			if byAttr {
				of = r.along(x, path)
			}
			holds := false
			if len(rest) == 0 {
				holds = truth(of)
			} else {
				holds = r.test(r.str(rest[0]), of, args{rest[1:], a.names, a.named})
			}
			if holds == keep {
				out = append(out, x)
			}
		}
		r.charge(len(out) * itemSize)
		return out
	}
}

// folded makes texts equal that differ only in case.
func folded(v any) any {
	if s, ok := v.(string); ok {
		return strings.ToLower(s)
	}
	return v
}

// keyed returns items with the keys by which they are sorted or grouped.
func (r *run) keyed(v any, a args, path any, hasPath bool, minded int) []keyedItem {
	items := r.items(v)
	r.charge(len(items) * 3 * itemSize)
	out := make([]keyedItem, len(items))
	for i, x := range items {
		k := x
		if hasPath && path != nil {
			k = r.along(x, path)
		}
		if !a.bool(minded, "case_sensitive") {
			k = folded(k)
		}
		out[i] = keyedItem{k, x}
	}
	return out
}

type keyedItem struct{ key, item any }

func unkeyed(in []keyedItem) []any {
	out := make([]any, len(in))
	for i, k := range in {
		out[i] = k.item
	}
	return out
}

func (r *run) sorted(in []keyedItem, reverse bool) {
	slices.SortStableFunc(in, func(x, y keyedItem) int {
		r.work(1)
		if reverse {
			x, y = y, x
		}
		return r.compare(x.key, y.key)
	})
}

func sortFilter(r *run, v any, a args) any {
	path, ok := a.arg(2, "attribute")
	in := r.keyed(v, a, path, ok, 1)
	r.sorted(in, a.bool(0, "reverse"))
	return unkeyed(in)
}

func dictSort(r *run, v any, a args) any {
	d, ok := v.(*dict)
	if !ok {
		fail("dictsort takes a dict, not a %s", kind(v))
	}
	by := int64(0)
	if a.text(1, "by", "key") == "value" {
		by = 1
	}
	in := r.keyed(r.pairs(d), a, by, true, 0)
	r.sorted(in, a.bool(2, "reverse"))
	return unkeyed(in)
}

func uniqueFilter(r *run, v any, a args) any {
	path, ok := a.arg(1, "attribute")
	seen, out := newDict(), []any{}
	for _, k := range r.keyed(v, a, path, ok, 0) {
		if _, twice := seen.get(k.key); !twice {
			seen.set(k.key, nil)
			out = append(out, k.item)
		}
	}
	return out
}

func groupFilter(r *run, v any, a args) any {
	in := r.keyed(v, a, a.must(0, "attribute"), true, 2)
	r.sorted(in, false)
	out := []any{}
	for i := 0; i < len(in); {
		n := i
		for n < len(in) && r.equal(in[n].key, in[i].key) {
			n++
		}
		group := newDict() // it is unpacked, or accessed by attribute
		group.set("grouper", r.along(in[i].item, a.must(0, "attribute")))
		group.set("list", unkeyed(in[i:n]))
		out = append(out, tuple{group.values[0], group.values[1]})
		i = n
	}
	return out
}

func extreme(sign int) func(*run, any, args) any {
	return func(r *run, v any, a args) any {
		path, ok := a.arg(1, "attribute")
		in := r.keyed(v, a, path, ok, 0)
		if len(in) == 0 {
			return undefined{"the most of nothing"}
		}
		best := in[0]
		for _, k := range in[1:] {
			if r.compare(k.key, best.key)*sign > 0 {
				best = k
			}
		}
		return best.item
	}
}

func sumFilter(r *run, v any, a args) any {
	items := r.items(v)
	if path, ok := a.arg(0, "attribute"); ok && path != nil {
		items = r.all(items, path)
	}
	total, ok := a.arg(1, "start")
	if !ok {
		total = int64(0)
	}
	for _, x := range items {
		total = r.arithmetic("+", total, x)
	}
	return total
}

func batchFilter(r *run, v any, a args) any {
	items, n := r.items(v), a.int(0, "linecount", 1)
	if n < 1 {
		fail("batch takes a number of at least 1")
	}
	r.charge(len(items) * 2 * itemSize)
	out := []any{}
	for i := 0; i < len(items); i += n {
		out = append(out, slices.Clone(items[i:min(i+n, len(items))]))
	}
	return r.filled(out, n, a)
}

// filled pads the last list to the length of the others, if the caller passed a
// fill value.
func (r *run) filled(lists []any, n int, a args) any {
	with, ok := a.arg(1, "fill_with")
	if !ok || with == nil || len(lists) == 0 {
		return lists
	}
	last, _ := sequence(lists[len(lists)-1])
	r.charge((n - len(last)) * itemSize)
	for len(last) < n {
		last = append(last, with)
	}
	lists[len(lists)-1] = last
	return lists
}

func sliceFilter(r *run, v any, a args) any {
	items, n := r.items(v), a.int(0, "slices", 1)
	if n < 1 || n > maxRange {
		fail("slice takes a number of at least 1")
	}
	r.charge((len(items) + 2*n) * itemSize)
	out := []any{}
	at := 0
	for i := range n {
		size := len(items) / n
		if i < len(items)%n {
			size++
		}
		part := slices.Clone(items[at : at+size])
		if with, ok := a.arg(1, "fill_with"); ok && with != nil && i >= len(items)%n && len(items)%n > 0 {
			part = append(part, with)
		}
		out = append(out, part)
		at += size
	}
	return out
}

func intFilter(_ *run, v any, a args) any {
	other, ok := a.arg(0, "default")
	if !ok {
		other = int64(0)
	}
	switch x := v.(type) {
	case string:
		if n, ok := parseInt(x, a.int(1, "base", 10)); ok {
			return n
		}
		if f, ok := parseFloat(x); ok && math.Abs(f) < 1<<62 {
			return int64(f)
		}
		return other
	case float64:
		if math.Abs(x) < 1<<62 {
			return int64(x)
		}
		if x-x == 0 {
			fail("a number is too large")
		}
		return other
	}
	if n, ok := integer(v); ok {
		return n
	}
	return other
}

// parseInt reads an integer as Python's int() does.
func parseInt(s string, base int) (int64, bool) {
	s, ok := plainDigits(s)
	if base != 0 && (base < 2 || base > 36) || !ok {
		return 0, false
	}
	sign, digits := "", s
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, digits = s[:1], s[1:]
	}
	for b, prefix := range map[int]string{2: "0b", 8: "0o", 16: "0x"} {
		if (base == b || base == 0) && len(digits) > 2 && strings.EqualFold(digits[:2], prefix) {
			base, digits = b, digits[2:]
			break
		}
	}
	if base == 0 {
		base = 10
	}
	if strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
		return 0, false
	}
	n, err := strconv.ParseInt(sign+digits, base, 64)
	return n, err == nil
}

// parseFloat reads a number as Python's float() does.
func parseFloat(s string) (float64, bool) {
	s, ok := plainDigits(s)
	if !ok || strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || math.IsInf(f, 0)
}

// plainDigits returns a number's text without blanks around it and without the
// underscores between its digits, which it turns into those of ASCII. It is false
// if an underscore stands elsewhere.
func plainDigits(s string) (string, bool) {
	s = strings.TrimFunc(s, pySpace)
	var b strings.Builder
	last := rune(0)
	for _, r := range s + "\x00" {
		if last == '_' && !isAlnum(r) || r == '_' && !isAlnum(last) {
			return "", false
		}
		last = r
		if r > 0x7f && unicode.IsDigit(r) {
			zero := r
			for unicode.IsDigit(zero-1) && r-zero < 9 {
				zero--
			}
			r = '0' + (r - zero)
		}
		if r != '_' && r != 0 {
			b.WriteRune(r)
		}
	}
	return b.String(), true
}

func isAlnum(r rune) bool { return unicode.IsDigit(r) || unicode.IsLetter(r) }

func floatFilter(_ *run, v any, a args) any {
	if n, ok := number(v); ok {
		return n
	}
	if s, ok := v.(string); ok {
		if f, ok := parseFloat(s); ok {
			return f
		}
	}
	if other, ok := a.arg(0, "default"); ok {
		return other
	}
	return 0.0
}

// roundFilter rounds as Python does: to the nearest number, of two equally near ones
// to the even one, and by the number's exact value (2.675 is a little less than
// that). An integer stays one.
func roundFilter(_ *run, v any, a args) any {
	method, places := a.text(1, "method", "common"), a.int(0, "precision", 0)
	f, ok := number(v)
	if !ok {
		fail("round takes a number, not a %s", kind(v))
	}
	scale := math.Pow10(max(-400, min(places, 400)))
	switch method {
	case "common":
		if n, ok := integer(v); ok {
			return roundedInt(n, places)
		}
		return rounded(f, places)
	case "ceil":
		return math.Ceil(f*scale) / scale
	case "floor":
		return math.Floor(f*scale) / scale
	default:
		fail("round knows no method %q", method)
	}
	return nil
}

func rounded(f float64, places int) float64 {
	switch {
	case places > 330 || f-f != 0:
		return f
	case places >= 0:
		out, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'f', places, 64), 64)
		return out
	case places < -310:
		return math.Copysign(0, f)
	}
	scale := math.Pow10(-places)
	return math.RoundToEven(f/scale) * scale
}

func roundedInt(n int64, places int) int64 {
	if places >= 0 {
		return n
	}
	if places < -18 {
		return 0
	}
	scale := int64(math.Pow10(-places))
	low := n - (n%scale+scale)%scale
	if rest := n - low; rest*2 > scale || rest*2 == scale && low/scale%2 != 0 {
		low += scale
	}
	return low
}

func jsonFilter(r *run, v any, a args) any {
	j := toJSON{r: r, item: ", ", pair: ": ", ascii: a.bool(0, "ensure_ascii"), sort: a.bool(3, "sort_keys")}
	if by, ok := a.arg(1, "indent"); ok && by != nil {
		j.lines = true
		if s, isText := by.(string); isText {
			j.indent = s
		} else {
			j.indent = strings.Repeat(" ", min(a.intOr(by, true, 0), 64))
		}
		j.item = ","
	}
	if by, ok := a.arg(2, "separators"); ok && by != nil {
		parts, _ := sequence(by)
		if len(parts) != 2 {
			fail("tojson: separators are two texts")
		}
		j.item, j.pair = r.str(parts[0]), r.str(parts[1])
	}
	j.write(v, 0)
	r.charge(j.b.Len())
	return j.b.String()
}

// kinds returns a test for a kind of value.
func kinds(of func(any) bool) func(*run, any, args) bool {
	return func(_ *run, v any, _ args) bool { return of(v) }
}

// ordered returns a test that compares two values.
func ordered(op string) func(*run, any, args) bool {
	return func(r *run, v any, a args) bool { return r.holds(op, v, a.must(0, "other")) }
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

// whole returns an integer, or fails.
func whole(v any) int64 {
	n, ok := integer(v)
	if !ok {
		fail("a %s is neither even nor odd", kind(v))
	}
	return n
}

var tests map[string]func(*run, any, args) bool

func init() {
	isList := func(v any) bool { _, ok := sequence(v); return ok }
	tests = map[string]func(*run, any, args) bool{
		"defined": kinds(func(v any) bool { return !is[undefined](v) }), "undefined": kinds(is[undefined]),
		"none": kinds(func(v any) bool { return v == nil }), "boolean": kinds(is[bool]),
		"true": kinds(func(v any) bool { return v == any(true) }), "false": kinds(func(v any) bool { return v == any(false) }),
		"string": kinds(is[string]), "integer": kinds(is[int64]), "float": kinds(is[float64]), "mapping": kinds(is[*dict]),
		"number": kinds(func(v any) bool { _, ok := number(v); return ok }),
		"sequence": kinds(func(v any) bool {
			return isList(v) || is[string](v) || is[*dict](v) || is[undefined](v)
		}),
		"iterable": kinds(func(v any) bool {
			return isList(v) || is[string](v) || is[*dict](v) || is[undefined](v) || is[*loop](v)
		}),
		"callable": kinds(func(v any) bool { return is[callable](v) || is[undefined](v) }),
		"escaped":  kinds(func(any) bool { return false }),
		"upper": func(r *run, v any, a args) bool {
			return inCase(isUpper, isLower)(r, r.str(v), a) == true
		},
		"lower": func(r *run, v any, a args) bool {
			return inCase(isLower, isUpper)(r, r.str(v), a) == true
		},
		"even": kinds(func(v any) bool { return whole(v)%2 == 0 }),
		"odd":  kinds(func(v any) bool { return whole(v)%2 != 0 }),
		"divisibleby": func(r *run, v any, a args) bool {
			return r.equal(r.arithmetic("%", v, a.must(0, "num")), int64(0))
		},
		"sameas": func(r *run, v any, a args) bool {
			other := a.must(0, "other")
			return kind(v) == kind(other) && r.equal(v, other)
		},
		"filter": func(r *run, v any, _ args) bool { return filters[r.str(v)] != nil },
		"test":   func(r *run, v any, _ args) bool { return tests[r.str(v)] != nil },
		"in":     func(r *run, v any, a args) bool { return r.holds("in", v, a.must(0, "seq")) },
	}
	for op, names := range map[string]string{
		"==": "== eq equalto", "!=": "!= ne", "<": "< lt lessthan", "<=": "<= le", ">": "> gt greaterthan", ">=": ">= ge",
	} {
		for _, id := range strings.Fields(names) {
			tests[id] = ordered(op)
		}
	}
}

// globals are the functions available in every template.
var globals = map[string]any{
	"range": callable(func(r *run, a args) any {
		n := make([]int, len(a.pos))
		for i := range a.pos {
			n[i] = a.int(i, "", 0)
		}
		from, to, step := 0, 0, 1
		switch len(n) {
		case 1:
			to = n[0]
		case 2:
			from, to = n[0], n[1]
		case 3:
			from, to, step = n[0], n[1], n[2]
		default:
			fail("range() takes one to three numbers")
		}
		if step == 0 {
			fail("range() cannot go in steps of 0")
		}
		out := []any{}
		for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
			if len(out) >= maxRange {
				fail("range() gives no more than %d numbers", maxRange)
			}
			out = append(out, int64(i))
		}
		r.charge(len(out) * 2 * itemSize)
		return out
	}),
	"namespace": callable(func(r *run, a args) any {
		ns := &namespace{map[string]any{}}
		d := dictOfArgs(a)
		for i, k := range d.keys {
			ns.attrs[r.str(k)] = d.values[i]
		}
		r.charge(len(d.keys) * 4 * itemSize)
		return ns
	}),
	"dict": callable(func(r *run, a args) any {
		d := dictOfArgs(a)
		r.charge(len(d.keys) * 6 * itemSize)
		return d
	}),
	"cycler": callable(func(_ *run, a args) any {
		if len(a.pos) == 0 {
			fail("cycler() takes what to go through")
		}
		at := 0
		ns := &namespace{map[string]any{"current": a.pos[0]}}
		ns.attrs["next"] = callable(func(*run, args) any {
			v := a.pos[at%len(a.pos)]
			at++
			ns.attrs["current"] = a.pos[at%len(a.pos)]
			return v
		})
		ns.attrs["reset"] = callable(func(*run, args) any {
			at = 0
			ns.attrs["current"] = a.pos[0]
			return nil
		})
		return ns
	}),
	"joiner": callable(func(_ *run, a args) any {
		used := false
		return callable(func(*run, args) any {
			if !used {
				used = true
				return ""
			}
			return a.text(0, "sep", ", ")
		})
	}),
}

// dictOfArgs makes a dict from another one, or from pairs, and from named
// arguments.
func dictOfArgs(a args) *dict {
	out := newDict()
	for _, v := range a.pos {
		if d, ok := v.(*dict); ok {
			for i, k := range d.keys {
				out.set(k, d.values[i])
			}
			continue
		}
		items, ok := sequence(v)
		if !ok {
			fail("a %s makes no dict", kind(v))
		}
		for _, x := range items {
			pair, _ := sequence(x)
			if len(pair) != 2 {
				fail("a dict is made of pairs")
			}
			out.set(pair[0], pair[1])
		}
	}
	for i, id := range a.names {
		out.set(id, a.named[i])
	}
	return out
}
