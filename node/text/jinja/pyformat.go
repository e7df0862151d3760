package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// layout is how Python writes a value into a text: what stands behind a % or after
// the colon of a field.
type layout struct {
	fill      rune
	align     byte // '<', '>', '^', '=' (between sign and digits); 0: by the value
	sign      byte // '+', ' ' or 0
	alt       bool // 0x before the digits
	width     int
	group     byte // between thousands: ',', '_' or 0
	precision int  // -1: none
	verb      byte // 0: by the value
}

const (
	maxWidth     = 1 << 16
	maxPrecision = 1 << 10
)

// format formats values into a text like Python's % operator. It takes a tuple, a
// dict for places with names, or a single value.
func (r *run) format(s string, with any) string {
	values, isTuple := with.(tuple)
	if !isTuple {
		values = tuple{with}
	}
	named, _ := with.(*dict)
	var b strings.Builder
	at, byName := 0, false
	value := func() any {
		if at >= len(values) {
			fail("a format has more places than values")
		}
		at++
		return values[at-1]
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		var v any
		key := strings.HasPrefix(s[i:], "(")
		if key {
			end := strings.IndexByte(s[i:], ')')
			if end < 0 || named == nil {
				fail("a format names a value, and there is no dict of them")
			}
			found, ok := named.get(s[i+1 : i+end])
			if !ok {
				fail("a format names a value %q that is not there", s[i+1:i+end])
			}
			v, byName = found, true
			i += end + 1
		}
		l, n := percentLayout(s[i:], value)
		i += n
		if i >= len(s) {
			fail("a format ends in the middle")
		}
		l.verb = s[i]
		if l.verb == '%' {
			b.WriteByte('%')
			continue
		}
		if !key {
			v = value()
		}
		out := r.percent(l, v)
		r.charge(len(out))
		b.WriteString(out)
	}
	r.charge(len(s))
	if at < len(values) && !byName && (named == nil || at > 0 || isTuple) {
		fail("a format has fewer places than values")
	}
	return b.String()
}

// percentLayout reads what stands between a % and its letter, and returns how long
// that is.
func percentLayout(s string, value func() any) (l layout, n int) {
	l = layout{fill: ' ', align: '>', precision: -1}
	left := false
	for ; n < len(s) && strings.IndexByte("-+ #0", s[n]) >= 0; n++ {
		switch s[n] {
		case '-':
			left = true
		case '+':
			l.sign = '+'
		case ' ':
			l.sign = max(l.sign, ' ')
		case '#':
			l.alt = true
		case '0':
			l.fill, l.align = '0', '='
		}
	}
	count := func() int {
		if strings.HasPrefix(s[n:], "*") {
			n++
			w, ok := integer(value())
			if !ok {
				fail("* takes a number")
			}
			return int(max(-maxWidth-1, min(w, maxWidth+1)))
		}
		from := n
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		w, _ := strconv.Atoi(s[from:n])
		return w
	}
	if l.width = count(); l.width < 0 {
		left, l.width = true, -l.width
	}
	if strings.HasPrefix(s[n:], ".") {
		n++
		l.precision = max(0, count())
	}
	if left {
		l.fill, l.align = ' ', '<'
	}
	for n < len(s) && strings.IndexByte("hlL", s[n]) >= 0 { // sizes, which Python ignores
		n++
	}
	return l, n
}

// percent writes a value as a % format does.
func (r *run) percent(l layout, v any) string {
	l.bound()
	if l.precision > 0 && strings.IndexByte("diuxXo", l.verb) >= 0 {
		fail("%%.%d%c is no format", l.precision, l.verb)
	}
	switch l.verb {
	case 's', 'r', 'a':
		text := r.str(v)
		if l.verb != 's' {
			text = r.repr(v)
		}
		if l.verb == 'a' {
			text = asciiOf(text)
		}
		if l.fill == '0' {
			l.fill, l.align = ' ', '>'
		}
		return l.text(text)
	case 'c':
		if s, ok := v.(string); ok {
			if runes(s) != 1 {
				fail("%%c takes a character")
			}
			return l.text(s)
		}
		return l.number(v)
	case 'd', 'i', 'u':
		if f, isFloat := v.(float64); isFloat && math.Abs(f) < 1<<62 {
			v = int64(f)
		}
		l.verb = 'd'
	}
	if strings.IndexByte("dxXofFeEgG", l.verb) < 0 {
		r, _ := utf8.DecodeRuneInString(string(l.verb))
		fail("%%%c is no format", r)
	}
	return l.number(v)
}

func (l *layout) bound() {
	if l.width > maxWidth || l.precision > maxPrecision {
		fail("a format asks for too much")
	}
}

// text writes a text within the layout.
func (l layout) text(s string) string {
	if l.precision >= 0 {
		s = string([]rune(s)[:min(l.precision, runes(s))])
	}
	return l.pad("", s)
}

// pad fills a value up to the width; head is its sign.
func (l layout) pad(head, s string) string {
	n := max(0, l.width-runes(head)-runes(s))
	fill := func(n int) string { return strings.Repeat(string(l.fill), n) }
	switch l.align {
	case '<':
		return head + s + fill(n)
	case '^':
		return fill(n/2) + head + s + fill(n-n/2)
	case '=':
		return head + fill(n) + s
	}
	return fill(n) + head + s
}

// number writes a number within the layout.
func (l layout) number(v any) string {
	f, ok := number(v)
	if !ok {
		fail("%%%c takes a number, not a %s", max(l.verb, 'd'), kind(v))
	}
	n, isInt := integer(v)
	head, digits := "", ""
	switch verb := l.verb; {
	case verb == 'c':
		if !isInt || n < 0 || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			fail("%%c takes the number of a character")
		}
		return l.pad("", string(rune(n)))
	case isInt && (verb == 0 || strings.IndexByte("dxXob", verb) >= 0):
		base := map[byte]int{'x': 16, 'X': 16, 'o': 8, 'b': 2}[verb]
		if base == 0 {
			base = 10
		}
		digits = strings.TrimPrefix(strconv.FormatInt(n, base), "-")
		if verb == 'X' {
			digits = strings.ToUpper(digits)
		}
		if l.alt && base != 10 {
			head = "0" + string(verb)
		}
		if n < 0 {
			head = "-" + head
		}
	case strings.IndexByte("dxXob", verb) >= 0 && verb != 0:
		fail("%%%c takes an integer, not a %s", verb, kind(v))
	default:
		digits = l.float(math.Abs(f))
		if math.Signbit(f) && f-f == 0 || math.IsInf(f, -1) {
			head = "-"
		}
	}
	if l.sign != 0 && !strings.HasPrefix(head, "-") {
		head = string(l.sign) + head
	}
	if l.group != 0 {
		digits = l.grouped(digits, l.width-len(head))
	}
	return l.pad(head, digits)
}

// float writes a number that is not negative.
func (l layout) float(f float64) string {
	precision := l.precision
	verb := l.verb
	percent := verb == '%'
	switch {
	case math.IsInf(f, 0) || math.IsNaN(f):
		s := "inf"
		if math.IsNaN(f) {
			s = "nan"
		}
		if verb == 'F' || verb == 'E' || verb == 'G' {
			s = strings.ToUpper(s)
		}
		return s
	case verb == 0 && precision < 0:
		return pyFloat(f)
	case percent:
		verb, f = 'f', f*100
	case verb == 0:
		verb = 'g'
	}
	if precision < 0 {
		precision = 6
	}
	small := verb | 0x20
	if small == 'g' {
		precision = max(1, precision)
	}
	s := strconv.FormatFloat(f, small, precision, 64)
	if l.verb == 0 && !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	if verb != small {
		s = strings.ToUpper(s)
	}
	if percent {
		s += "%"
	}
	return s
}

// grouped separates thousands; with zeros as filling, these as well.
func (l layout) grouped(digits string, width int) string {
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(digits)
	}
	whole, rest := digits[:end], digits[end:]
	size := 3
	if l.verb == 'x' || l.verb == 'X' || l.verb == 'o' || l.verb == 'b' {
		size, whole, rest = 4, digits, ""
	}
	split := func(s string) string {
		var parts []string
		for len(s) > size {
			parts = append([]string{s[len(s)-size:]}, parts...)
			s = s[:len(s)-size]
		}
		return strings.Join(append([]string{s}, parts...), string(l.group))
	}
	for l.fill == '0' && l.align == '=' && len(split("0"+whole))+len(rest) <= width {
		whole = "0" + whole
	}
	return split(whole) + rest
}

// asciiOf writes other characters than ASCII's as Python's ascii() does.
func asciiOf(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// formatFields replaces {}, {0} and {name} in a text by arguments, like Python's
// str.format.
func (r *run) formatFields(s string, a args) string {
	f := &fields{r: r, a: a}
	out := f.fill(s, 0)
	r.charge(len(s))
	return out
}

// fields are the places of a str.format.
type fields struct {
	r     *run
	a     args
	next  int  // of those without a name
	named bool // some have a number
}

func (f *fields) fill(s string, depth int) string {
	if depth > 2 {
		fail("format(): fields nest too deep")
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '{' && c != '}' {
			b.WriteByte(c)
			continue
		}
		if depth == 0 && i+1 < len(s) && s[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		end := closing(s[i:])
		if c == '}' || end < 0 {
			fail("format(): a brace stands alone")
		}
		out := f.field(s[i+1:i+end], depth)
		f.r.charge(len(out))
		b.WriteString(out)
		i += end
	}
	return b.String()
}

// closing returns where the brace is that closes the first, or -1.
func closing(s string) int {
	open := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			open++
		case '}':
			if open--; open == 0 {
				return i
			}
		}
	}
	return -1
}

func (f *fields) field(s string, depth int) string {
	id, spec, _ := strings.Cut(s, ":")
	id, how, converts := strings.Cut(id, "!")
	v := f.value(id)
	switch {
	case converts && how == "r":
		v = f.r.repr(v)
	case converts && how == "s":
		v = f.r.str(v)
	case converts && how == "a":
		v = asciiOf(f.r.repr(v))
	case converts:
		fail("format(): !%s is no conversion", how)
	}
	if strings.Contains(spec, "{") {
		spec = f.fill(spec, depth+1)
	}
	return f.r.written(v, spec)
}

// value follows a field's name: an argument, then keys in brackets or behind dots.
func (f *fields) value(id string) any {
	end := strings.IndexAny(id, ".[")
	if end < 0 {
		end = len(id)
	}
	var v any
	switch n, err := strconv.Atoi(id[:end]); {
	case end == 0:
		if f.named {
			fail("format(): some fields have numbers, and some have none")
		}
		v = f.a.must(f.next, "")
		f.next++
	case err == nil:
		if f.named = true; f.next > 0 {
			fail("format(): some fields have numbers, and some have none")
		}
		if n < 0 {
			fail("format(): no argument %d", n)
		}
		v = f.a.must(n, "")
	default:
		v = f.a.must(1<<30, id[:end])
	}
	for id = id[end:]; id != ""; {
		var key string
		if id[0] == '[' {
			var ok bool
			if key, id, ok = strings.Cut(id[1:], "]"); !ok {
				fail("format(): a bracket stays open")
			}
		} else {
			stop := strings.IndexAny(id[1:], ".[")
			if stop < 0 {
				stop = len(id) - 1
			}
			key, id = id[1:1+stop], id[1+stop:]
		}
		var at any = key
		if n, err := strconv.Atoi(key); err == nil {
			at = int64(n)
		}
		if v = f.r.item(v, at); is[undefined](v) {
			fail("format(): there is no %s", key)
		}
	}
	return v
}

// written writes a value by the specification after a field's colon:
// [[fill]align][sign][#][0][width][group][.precision][type].
func (r *run) written(v any, spec string) string {
	if spec == "" {
		return r.str(v)
	}
	l := layout{fill: ' ', precision: -1}
	rs := []rune(spec)
	aligns := func(r rune) bool { return strings.ContainsRune("<>^=", r) }
	switch {
	case len(rs) > 1 && aligns(rs[1]):
		l.fill, l.align, rs = rs[0], byte(rs[1]), rs[2:]
	case aligns(rs[0]):
		l.align, rs = byte(rs[0]), rs[1:]
	}
	take := func(of string) byte {
		if len(rs) == 0 || !strings.ContainsRune(of, rs[0]) {
			return 0
		}
		c := byte(rs[0])
		rs = rs[1:]
		return c
	}
	digits := func() (n int, ok bool) {
		for c := take("0123456789"); c != 0; c = take("0123456789") {
			n, ok = min(n*10+int(c-'0'), 1<<20), true
		}
		return n, ok
	}
	l.sign = take("+- ")
	if l.sign == '-' {
		l.sign = 0
	}
	l.alt = take("#") != 0
	if take("0") != 0 && l.align == 0 {
		l.fill, l.align = '0', '='
	}
	l.width, _ = digits()
	l.group = take(",_")
	if take(".") != 0 {
		var ok bool
		if l.precision, ok = digits(); !ok {
			fail("format(): a precision is missing")
		}
	}
	l.verb = take("sdxXobcfFeEgGn%")
	l.bound()
	if len(rs) > 0 {
		fail("format(): %q is no specification", spec)
	}
	if l.verb == 'n' {
		l.verb = 0
	}
	return r.inLayout(v, l)
}

func (r *run) inLayout(v any, l layout) string {
	_, isBool := v.(bool)
	_, isNumber := number(v)
	if text, ok := v.(string); ok || isBool && l.verb == 0 {
		if !ok {
			text = r.str(v)
		}
		if l.verb != 0 && l.verb != 's' || l.sign != 0 || l.align == '=' && l.fill != '0' {
			fail("format(): a text cannot be written as a number")
		}
		if l.align == 0 || l.align == '=' {
			l.align = '<'
		}
		return l.text(text)
	}
	if !isNumber || l.verb == 's' {
		fail("format(): a %s has no such form", kind(v))
	}
	if l.align == 0 {
		l.align = '>'
	}
	if _, isInt := integer(v); isInt && l.precision >= 0 && (l.verb == 0 || strings.IndexByte("dxXobc", l.verb) >= 0) {
		fail("format(): an integer has no precision")
	}
	return l.number(v)
}
