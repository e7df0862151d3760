package jinja

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The values of templates are Python's: nil (None), bool, int64, float64,
// string, []any (a list), tuple, *dict, *namespace, *loop, callable, and
// undefined. Lists and dicts never change once created, as in Jinja's immutable
// sandbox.
type (
	tuple []any

	// dict keeps its keys in order of insertion.
	dict struct {
		keys   []any
		values []any
		at     map[any]int // by the result of dictKey
	}

	// undefined is the value of a missing name; nearly every operation on it
	// fails.
	undefined struct{ what string }

	// pairsOf is a dict that is yet to be built from Go values.
	pairsOf []any

	namespace struct{ attrs map[string]any }

	callable func(r *run, a args) any
)

// args are the arguments of a call.
type args struct {
	pos   []any
	names []string
	named []any
}

func newDict() *dict { return &dict{at: map[any]int{}} }

// tupleKey is a tuple used as a key, and undefinedKey what is undefined.
type (
	tupleKey     string
	undefinedKey struct{}
)

// dictKey maps equal keys to one value: in Python 1, 1.0 and true are the same
// key.
func dictKey(key any) any {
	switch k := key.(type) {
	case string, nil:
		return k
	case undefined: // all are equal
		return undefinedKey{}
	case tuple:
		var b strings.Builder
		for _, x := range k {
			key := dictKey(x)
			s := fmt.Sprintf("%T %v", key, key)
			fmt.Fprintf(&b, "%d:%s", len(s), s)
			if b.Len() > 1<<12 {
				fail("a key of a dict is too long")
			}
		}
		return tupleKey(b.String())
	}
	if f, ok := number(key); ok {
		return f
	}
	fail("a %s is no key of a dict", kind(key))
	return nil
}

func (d *dict) set(key, value any) {
	k := dictKey(key)
	if i, ok := d.at[k]; ok {
		d.values[i] = value
		return
	}
	d.at[k] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, value)
}

func (d *dict) get(key any) (any, bool) {
	i, ok := d.at[dictKey(key)]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// failure is what the interpreter panics with: an error of the template, or of
// its input.
type failure struct{ message string }

func fail(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

// kind returns Python's name of a value's type.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "string"
	case []any:
		return "list"
	case tuple:
		return "tuple"
	case *dict:
		return "dict"
	case undefined:
		return "undefined value"
	case callable:
		return "function"
	}
	return "object"
}

// number returns the value of an int, float or bool.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	case bool:
		if n {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// integer returns the value of an int or bool.
func integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case bool:
		if n {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

func truth(v any) bool {
	switch x := v.(type) {
	case nil, undefined:
		return false
	case string:
		return x != ""
	case []any:
		return len(x) > 0
	case tuple:
		return len(x) > 0
	case *dict:
		return len(x.keys) > 0
	}
	n, ok := number(v)
	return !ok || n != 0
}

// sequence returns the items of a list or tuple.
func sequence(v any) ([]any, bool) {
	switch x := v.(type) {
	case []any:
		return x, true
	case tuple:
		return x, true
	}
	return nil, false
}

func (r *run) equal(a, b any) bool { return r.equalTo(a, b, 0) }

// equalTo counts its steps: values with shared parts can be far larger than the
// memory they take.
func (r *run) equalTo(a, b any, depth int) bool {
	r.work(1)
	if depth > maxNesting {
		fail("values nest too deep to compare")
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		if bothInts(a, b) {
			i, _ := integer(a)
			j, _ := integer(b)
			return i == j
		}
		if n, isInt := integer(a); isInt && math.Abs(x) >= 1<<53 && math.Abs(x) < 1<<63 {
			return ok && x == y && int64(y) == n
		}
		if n, isInt := integer(b); isInt && math.Abs(y) >= 1<<53 && math.Abs(y) < 1<<63 {
			return ok && x == y && int64(x) == n
		}
		return ok && x == y
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && x == y
	case undefined:
		_, ok := b.(undefined)
		return ok
	case *dict:
		y, ok := b.(*dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for i, k := range x.keys {
			if v, ok := y.get(k); !ok || !r.equalTo(x.values[i], v, depth+1) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, func(a, b any) bool { return r.equalTo(a, b, depth+1) })
	case tuple:
		y, ok := b.(tuple)
		return ok && slices.EqualFunc(x, y, func(a, b any) bool { return r.equalTo(a, b, depth+1) })
	case *namespace:
		return any(x) == b
	case *loop:
		return any(x) == b
	}
	return false
}

func bothInts(a, b any) bool {
	_, x := integer(a)
	_, y := integer(b)
	return x && y
}

// compare orders two values as Python does, and fails where Python does.
func (r *run) compare(a, b any) int { return r.compareTo(a, b, 0) }

func (r *run) compareTo(a, b any, depth int) int {
	r.work(1)
	if depth > maxNesting {
		fail("values nest too deep to compare")
	}
	if bothInts(a, b) {
		i, _ := integer(a)
		j, _ := integer(b)
		return cmp.Compare(i, j)
	}
	x, okA := number(a)
	y, okB := number(b)
	if okA && okB {
		return cmp.Compare(x, y)
	}
	if s, ok := a.(string); ok {
		if t, ok := b.(string); ok {
			return strings.Compare(s, t)
		}
	}
	s, okA := sequence(a)
	t, okB := sequence(b)
	if okA && okB && kind(a) == kind(b) {
		return slices.CompareFunc(s, t, func(a, b any) int { return r.compareTo(a, b, depth+1) })
	}
	fail("a %s and a %s have no order", kind(a), kind(b))
	return 0
}

// str returns Python's str(), with "" for undefined.
func (r *run) str(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case undefined:
		return ""
	}
	return r.repr(v)
}

func (r *run) repr(v any) string {
	var b strings.Builder
	repr(&b, v, 0)
	r.charge(b.Len())
	return b.String()
}

// repr writes a value like Python's repr().
func repr(b *strings.Builder, v any, depth int) {
	if depth > maxNesting {
		fail("a value nests too deep to write")
	}
	if b.Len() > maxRendered {
		fail("a value is too long to write")
	}
	list := func(items []any) {
		for i, x := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			repr(b, x, depth+1)
		}
	}
	switch x := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[x])
	case int64:
		b.WriteString(strconv.FormatInt(x, 10))
	case float64:
		b.WriteString(pyFloat(x))
	case string:
		quote(b, x)
	case []any:
		b.WriteByte('[')
		list(x)
		b.WriteByte(']')
	case tuple:
		b.WriteByte('(')
		list(x)
		if len(x) == 1 {
			b.WriteByte(',')
		}
		b.WriteByte(')')
	case *dict:
		b.WriteByte('{')
		for i, k := range x.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			repr(b, k, depth+1)
			b.WriteString(": ")
			repr(b, x.values[i], depth+1)
		}
		b.WriteByte('}')
	case undefined:
		b.WriteString("Undefined")
	default:
		fmt.Fprintf(b, "<%s>", kind(v))
	}
}

// pyFloat formats a float as Python does.
func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote writes a string as Python does within other values.
func quote(b *strings.Builder, s string) {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			fmt.Fprintf(b, `\U%08x`, r)
		}
	}
	b.WriteByte(q)
}

// pySpace reports whether Python considers a character white space.
func pySpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// runes returns the number of characters in a text.
func runes(s string) int { return utf8.RuneCountInString(s) }

// toJSON writes a value like json.dumps.
type toJSON struct {
	r          *run
	b          strings.Builder
	lines      bool   // an item per line
	indent     string // per level
	item, pair string // between items, and after a key
	ascii      bool
	sort       bool
}

func (j *toJSON) write(v any, depth int) {
	if depth > maxNesting {
		fail("tojson: a value nests too deep")
	}
	if j.b.Len() > maxRendered {
		fail("tojson: a value is too long")
	}
	switch x := v.(type) {
	case nil:
		j.b.WriteString("null")
	case bool:
		j.b.WriteString(strconv.FormatBool(x))
	case int64:
		j.b.WriteString(strconv.FormatInt(x, 10))
	case float64:
		switch {
		case math.IsNaN(x):
			j.b.WriteString("NaN")
		case math.IsInf(x, 0):
			j.b.WriteString(strings.TrimPrefix(strconv.FormatFloat(x, 'g', -1, 64), "+") + "inity")
		default:
			j.b.WriteString(pyFloat(x))
		}
	case string:
		j.quote(x)
	case *dict:
		j.dict(x, depth)
	default:
		items, ok := sequence(v)
		if !ok {
			fail("tojson: a %s is nothing that JSON knows", kind(v))
		}
		j.group('[', ']', len(items), depth, func(i int) { j.write(items[i], depth+1) })
	}
}

func (j *toJSON) dict(d *dict, depth int) {
	order := make([]int, len(d.keys))
	for i := range order {
		order[i] = i
	}
	if j.sort {
		slices.SortStableFunc(order, func(a, b int) int { return j.r.compare(d.keys[a], d.keys[b]) })
	}
	j.group('{', '}', len(order), depth, func(i int) {
		key := d.keys[order[i]]
		if s, ok := key.(string); ok {
			j.quote(s)
		} else {
			k := toJSON{r: j.r}
			k.write(key, depth+1)
			j.quote(k.b.String())
		}
		j.b.WriteString(j.pair)
		j.write(d.values[order[i]], depth+1)
	})
}

func (j *toJSON) group(open, end byte, n, depth int, item func(int)) {
	newline := func(depth int) {
		if j.lines {
			j.b.WriteString("\n" + strings.Repeat(j.indent, depth))
		}
	}
	j.b.WriteByte(open)
	for i := range n {
		if i > 0 {
			j.b.WriteString(j.item)
		}
		newline(depth + 1)
		item(i)
	}
	if n > 0 {
		newline(depth)
	}
	j.b.WriteByte(end)
}

func (j *toJSON) quote(s string) {
	j.b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			j.b.WriteByte('\\')
			j.b.WriteRune(r)
		case r == '\n':
			j.b.WriteString(`\n`)
		case r == '\r':
			j.b.WriteString(`\r`)
		case r == '\t':
			j.b.WriteString(`\t`)
		case r == '\b':
			j.b.WriteString(`\b`)
		case r == '\f':
			j.b.WriteString(`\f`)
		case r < 0x20 || j.ascii && r >= 0x7f && r < 0x10000:
			fmt.Fprintf(&j.b, `\u%04x`, r)
		case j.ascii && r >= 0x10000:
			fmt.Fprintf(&j.b, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			j.b.WriteRune(r)
		}
	}
	j.b.WriteByte('"')
}

// fromGo converts a Go value to a template value. JSON, as bytes, keeps the
// order of its keys, and so do structs. A map's keys are sorted.
func fromGo(v any) any {
	switch x := v.(type) {
	case nil, bool, int64, string, *dict, callable:
		return v
	case int:
		return int64(x)
	case float64: // JSON decoded by Go does not distinguish integers
		if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return int64(x)
		}
		return x
	case pairsOf:
		d := newDict()
		for i := 0; i+1 < len(x); i += 2 {
			d.set(x[i], fromGo(x[i+1]))
		}
		return d
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = fromGo(x[i])
		}
		return out
	case map[string]any:
		d := newDict()
		keys := make([]string, 0, len(x))
		for k := range x {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			d.set(k, fromGo(x[k]))
		}
		return d
	case json.RawMessage:
		return fromJSON(x)
	case []byte:
		return fromJSON(x)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		fail("a %T is nothing that templates know: %v", v, err)
	}
	return fromJSON(raw)
}

func fromJSON(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v := decodeJSON(d, 0)
	if _, err := d.Token(); err != io.EOF {
		fail("bad JSON: something follows its end")
	}
	return v
}

func decodeJSON(d *json.Decoder, depth int) any {
	if depth > maxNesting {
		fail("bad JSON: it nests too deep")
	}
	t, err := d.Token()
	if err != nil {
		fail("bad JSON: %v", err)
	}
	switch x := t.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(x.String(), 10, 64); err == nil {
			return n
		}
		f, err := x.Float64()
		if err != nil {
			fail("bad JSON: %v", err)
		}
		return f
	case json.Delim:
		if x == '[' {
			items := []any{}
			for d.More() {
				items = append(items, decodeJSON(d, depth+1))
			}
			_, _ = d.Token()
			return items
		}
		out := newDict()
		for d.More() {
			key, err := d.Token()
			if err != nil {
				fail("bad JSON: %v", err)
			}
			out.set(key, decodeJSON(d, depth+1))
		}
		_, _ = d.Token()
		return out
	}
	return t
}
