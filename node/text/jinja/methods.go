package jinja

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// arg returns an argument by position or name.
func (a args) arg(i int, id string) (any, bool) {
	if i < len(a.pos) {
		return a.pos[i], true
	}
	for n, x := range a.names {
		if x == id {
			return a.named[n], true
		}
	}
	return nil, false
}

func (a args) text(i int, id, other string) string {
	v, ok := a.arg(i, id)
	if !ok {
		return other
	}
	s, ok := v.(string)
	if !ok {
		fail("%s is to be a text, not a %s", id, kind(v))
	}
	return s
}

func (a args) int(i int, id string, other int) int {
	v, ok := a.arg(i, id)
	if !ok || v == nil {
		return other
	}
	n, ok := integer(v)
	if !ok {
		fail("%s is to be a number, not a %s", id, kind(v))
	}
	return int(max(min(n, 1<<31-1), -1<<31))
}

func (a args) bool(i int, id string) bool {
	v, _ := a.arg(i, id)
	return truth(v)
}

// must returns a required argument.
func (a args) must(i int, id string) any {
	v, ok := a.arg(i, id)
	if !ok {
		fail("%s is missing", id)
	}
	return v
}

// method returns a value's method of a name, or nil. Methods that change lists
// and dicts do not exist, as in Jinja's sandbox.
func method(v any, id string) any {
	switch x := v.(type) {
	case string:
		if m := stringMethods[id]; m != nil {
			return callable(func(r *run, a args) any {
				r.work(len(x) >> 6)
				return m(r, x, a)
			})
		}
	case *dict:
		if m := dictMethods[id]; m != nil {
			return callable(func(r *run, a args) any { return m(r, x, a) })
		}
	case []any, tuple:
		if m := listMethods[id]; m != nil {
			items, _ := sequence(v)
			return callable(func(r *run, a args) any { return m(r, items, a) })
		}
	}
	return nil
}

var dictMethods = map[string]func(*run, *dict, args) any{
	"keys":   func(_ *run, d *dict, _ args) any { return slices.Clip(d.keys) },
	"values": func(_ *run, d *dict, _ args) any { return slices.Clip(d.values) },
	"items":  func(r *run, d *dict, _ args) any { return r.pairs(d) },
	"copy":   func(_ *run, d *dict, _ args) any { return d },
	"get": func(_ *run, d *dict, a args) any {
		if v, ok := d.get(a.must(0, "key")); ok {
			return v
		}
		v, _ := a.arg(1, "default")
		return v
	},
}

// pairs returns a dict's keys with their values.
func (r *run) pairs(d *dict) []any {
	r.charge(len(d.keys) * 5 * itemSize)
	out := make([]any, len(d.keys))
	for i, k := range d.keys {
		out[i] = tuple{k, d.values[i]}
	}
	return out
}

var listMethods = map[string]func(*run, []any, args) any{
	"copy": func(_ *run, l []any, _ args) any { return l },
	"count": func(r *run, l []any, a args) any {
		r.work(len(l))
		n := int64(0)
		for _, x := range l {
			if r.equal(x, a.must(0, "value")) {
				n++
			}
		}
		return n
	},
	"index": func(r *run, l []any, a args) any {
		r.work(len(l))
		i := slices.IndexFunc(l, func(x any) bool { return r.equal(x, a.must(0, "value")) })
		if i < 0 {
			fail("the list has no such item")
		}
		return int64(i)
	},
}

// stripped returns a method that strips characters from one or both ends.
func stripped(left, right bool) func(*run, string, args) any {
	return func(_ *run, s string, a args) any { return strip(s, a, left, right) }
}

func strip(s string, a args, left, right bool) string {
	of := pySpace
	if v, ok := a.arg(0, "chars"); ok && v != nil {
		chars := a.text(0, "chars", "")
		of = func(r rune) bool { return strings.ContainsRune(chars, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, of)
	}
	if right {
		s = strings.TrimRightFunc(s, of)
	}
	return s
}

// affixed returns a method that compares the beginning or end of a text with
// one text, or with several.
func affixed(has func(s, affix string) bool) func(*run, string, args) any {
	return func(r *run, s string, a args) any {
		v := a.must(0, "prefix")
		s, _, ok := window(s, a, 1)
		if !ok {
			return false
		}
		if t, ok := v.(tuple); ok {
			return slices.ContainsFunc(t, func(x any) bool { return has(s, r.str(x)) })
		}
		return has(s, a.text(0, "prefix", ""))
	}
}

// placed returns a method that finds a text's position, in characters.
func placed(find func(s, sub string) int, must bool) func(*run, string, args) any {
	return func(_ *run, s string, a args) any {
		part, from, ok := window(s, a, 1)
		i := -1
		if ok {
			i = find(part, textArg(a, "sub"))
		}
		if i < 0 {
			if must {
				fail("the text is not there")
			}
			return int64(-1)
		}
		return int64(from + runes(part[:i]))
	}
}

// textArg returns the first argument, which must be a text.
func textArg(a args, id string) string {
	a.must(0, id)
	return a.text(0, id, "")
}

// all returns a method that reports whether a text has only characters of a
// class.
func all(of func(rune) bool) func(*run, string, args) any {
	return func(_ *run, s string, _ args) any {
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !of(r) }) < 0
	}
}

func mapped(f func(string) string) func(*run, string, args) any {
	return func(r *run, s string, _ args) any {
		r.charge(len(s))
		return f(s)
	}
}

var stringMethods map[string]func(*run, string, args) any

func init() { // in init because some methods refer to the table
	stringMethods = map[string]func(*run, string, args) any{
		"strip": stripped(true, true), "lstrip": stripped(true, false), "rstrip": stripped(false, true),
		"startswith": affixed(strings.HasPrefix), "endswith": affixed(strings.HasSuffix),
		"find": placed(strings.Index, false), "rfind": placed(strings.LastIndex, false),
		"index": placed(strings.Index, true), "rindex": placed(strings.LastIndex, true),
		"upper": mapped(upper), "lower": mapped(lower), "casefold": mapped(casefold),
		"title": mapped(titled), "capitalize": mapped(capitalized), "swapcase": mapped(swapped),
		"isdigit": all(isDigit), "isdecimal": all(unicode.IsDigit), "isnumeric": all(isNumeric), "isalpha": all(unicode.IsLetter),
		"isalnum": all(func(r rune) bool { return unicode.IsLetter(r) || isNumeric(r) }), "isspace": all(pySpace),
		"isupper": inCase(isUpper, isLower), "islower": inCase(isLower, isUpper), "istitle": isTitle,
		"isidentifier": isIdentifier, "isprintable": isPrintable, "isascii": isASCII, "expandtabs": expandTabs,
		"split": func(r *run, s string, a args) any { return r.split(s, a, false) }, "rsplit": func(r *run, s string, a args) any { return r.split(s, a, true) },
		"splitlines": splitLines,
		"join":       func(r *run, s string, a args) any { return r.join(r.items(a.must(0, "iterable")), s) },
		"replace": func(r *run, s string, a args) any {
			a.must(1, "new")
			return r.replace(s, a.text(0, "old", ""), a.text(1, "new", ""), a.int(2, "count", -1))
		},
		"count": func(_ *run, s string, a args) any {
			part, _, ok := window(s, a, 1)
			if !ok {
				return int64(0)
			}
			return int64(strings.Count(part, textArg(a, "sub")))
		},
		"removeprefix": func(_ *run, s string, a args) any { return strings.TrimPrefix(s, a.text(0, "prefix", "")) },
		"removesuffix": func(_ *run, s string, a args) any { return strings.TrimSuffix(s, a.text(0, "suffix", "")) },
		"partition": func(_ *run, s string, a args) any {
			sep := separator(a)
			if i := strings.Index(s, sep); i >= 0 {
				return tuple{s[:i], sep, s[i+len(sep):]}
			}
			return tuple{s, "", ""}
		},
		"rpartition": func(_ *run, s string, a args) any {
			sep := separator(a)
			if i := strings.LastIndex(s, sep); i >= 0 {
				return tuple{s[:i], sep, s[i+len(sep):]}
			}
			return tuple{"", "", s}
		},
		"ljust":  func(r *run, s string, a args) any { return s + r.padding(s, a, a.text(1, "fillchar", " ")) },
		"rjust":  func(r *run, s string, a args) any { return r.padding(s, a, a.text(1, "fillchar", " ")) + s },
		"center": func(r *run, s string, a args) any { return r.centered(s, a, a.text(1, "fillchar", " ")) },
		"zfill": func(r *run, s string, a args) any {
			sign := ""
			if s != "" && (s[0] == '-' || s[0] == '+') {
				sign = s[:1]
			}
			return sign + r.padding(s, a, "0") + s[len(sign):]
		},
		"format": func(r *run, s string, a args) any { return r.formatFields(s, a) },
	}
}

// separator returns the first argument, which must be a text that is not empty.
func separator(a args) string {
	sep := textArg(a, "sep")
	if sep == "" {
		fail("an empty separator separates nothing")
	}
	return sep
}

// padding returns what a text needs to reach the given width.
func (r *run) padding(s string, a args, fill string) string {
	if runes(fill) != 1 {
		fail("a text is filled up with one character, not %d", runes(fill))
	}
	n := max(0, a.int(0, "width", 0)-runes(s))
	r.charge(n * len(fill))
	return strings.Repeat(fill, n)
}

func (r *run) centered(s string, a args, fill string) string {
	pad := r.padding(s, a, fill)
	if fill == "" {
		return s
	}
	n := len(pad) / len(fill)
	width := n + runes(s)
	left := n/2 + (n & width & 1) // Python's choice of the side for an odd one
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left)
}

func (r *run) replace(s, old, with string, count int) string {
	n := strings.Count(s, old)
	if count >= 0 {
		n = min(n, count)
	}
	r.charge(len(s) + n*len(with))
	return strings.Replace(s, old, with, count)
}

func (r *run) join(items []any, sep string) string {
	texts := make([]string, len(items))
	n := 0
	for i, x := range items {
		texts[i] = r.str(x)
		if n += len(texts[i]) + len(sep); n > maxValue {
			break
		}
	}
	r.charge(n)
	return strings.Join(texts, sep)
}

// split splits a text at blanks or at a separator, from either end.
func (r *run) split(s string, a args, fromEnd bool) []any {
	most := a.int(1, "maxsplit", -1)
	v, ok := a.arg(0, "sep")
	var parts []string
	switch {
	case !ok || v == nil:
		parts = splitBlanks(s, most, fromEnd)
	default:
		sep := a.text(0, "sep", "")
		if sep == "" {
			fail("split() takes no empty separator")
		}
		parts = strings.Split(s, sep)
		if n := len(parts) - 1; most >= 0 && n > most {
			if fromEnd {
				parts = append([]string{strings.Join(parts[:n-most+1], sep)}, parts[n-most+1:]...)
			} else {
				parts = append(parts[:most:most], strings.Join(parts[most:], sep))
			}
		}
	}
	return r.texts(parts)
}

func (r *run) texts(parts []string) []any {
	r.charge(len(parts) * 2 * itemSize)
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out
}

func splitBlanks(s string, most int, fromEnd bool) []string {
	if most < 0 {
		return strings.FieldsFunc(s, pySpace)
	}
	var parts []string
	if fromEnd {
		for s = strings.TrimRightFunc(s, pySpace); s != "" && len(parts) < most; s = strings.TrimRightFunc(s, pySpace) {
			i := strings.LastIndexFunc(s, pySpace)
			_, n := utf8.DecodeRuneInString(s[max(i, 0):])
			if i < 0 {
				i, n = 0, 0
			}
			parts = append(parts, s[i+n:])
			s = s[:i]
		}
		if s != "" {
			parts = append(parts, s)
		}
		slices.Reverse(parts)
		return parts
	}
	for s = strings.TrimLeftFunc(s, pySpace); s != "" && len(parts) < most; s = strings.TrimLeftFunc(s, pySpace) {
		i := strings.IndexFunc(s, pySpace)
		if i < 0 {
			i = len(s)
		}
		parts = append(parts, s[:i])
		s = s[i:]
	}
	if s != "" {
		parts = append(parts, s)
	}
	return parts
}

func splitLines(r *run, s string, a args) any { return r.texts(cutLines(s, a.bool(0, "keepends"))) }

// cutLines splits a text at all that Python takes for the end of a line.
func cutLines(s string, keep bool) (parts []string) {
	for s != "" {
		i := strings.IndexAny(s, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			return append(parts, s)
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		if keep {
			parts = append(parts, s[:i+n])
		} else {
			parts = append(parts, s[:i])
		}
		s = s[i+n:]
	}
	return parts
}
