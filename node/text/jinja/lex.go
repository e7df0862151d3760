package jinja

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kinds of tokens of a template.
type tokenKind int

const (
	tokEOF   tokenKind = iota
	tokData            // text outside of tags
	tokOpen            // {{
	tokClose           // }}
	tokBegin           // {%
	tokEnd             // %}
	tokName
	tokString // its text is the value
	tokInt
	tokFloat
	tokOp // an operator or a bracket
)

type lexeme struct {
	kind tokenKind
	text string
	line int
}

// lexer splits a template into tokens. It trims like Hugging Face's settings:
// the newline after a block or comment is dropped (trim_blocks), and so are the
// blanks before one that begins its line (lstrip_blocks).
type lexer struct {
	src   string
	at    int
	fresh bool // the last tag consumed the newline after it
	toks  []lexeme

	counted, newlines int // newlines is the number of newlines before the position counted
}

// lex returns a template's tokens; like the whole interpreter, it fails by
// panic.
func lex(src string) []lexeme {
	src = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(src)
	l := &lexer{src: strings.TrimSuffix(src, "\n"), fresh: true}
	for l.at < len(l.src) {
		tag := l.nextTag()
		data := l.src[l.at:tag]
		if tag == len(l.src) {
			l.add(tokData, data)
			l.at = tag
			break
		}
		kind := l.src[tag+1]
		inner := tag + 2
		sign := byte(0)
		if inner < len(l.src) && (l.src[inner] == '-' || l.src[inner] == '+') {
			sign = l.src[inner]
			inner++
		}
		l.add(tokData, l.trimmed(data, sign, kind))
		l.at = inner
		switch kind {
		case '#':
			l.comment()
		case '{':
			l.tag(tokOpen, tokClose, "}}")
		default:
			if !l.raw() {
				l.tag(tokBegin, tokEnd, "%}")
			}
		}
	}
	l.add(tokEOF, "")
	return l.toks
}

func (l *lexer) line() int {
	l.newlines += strings.Count(l.src[l.counted:l.at], "\n")
	l.counted = l.at
	return l.newlines + 1
}

func (l *lexer) add(kind tokenKind, text string) {
	if kind == tokData && text == "" {
		return
	}
	l.toks = append(l.toks, lexeme{kind, text, l.line()})
}

// nextTag returns where the next tag begins, or the end.
func (l *lexer) nextTag() int {
	for i := l.at; i < len(l.src)-1; i++ {
		next := strings.IndexByte(l.src[i:len(l.src)-1], '{')
		if next < 0 {
			break
		}
		i += next
		if c := l.src[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
	return len(l.src)
}

// trimmed removes the white space that the tag after a text does not want
// there.
func (l *lexer) trimmed(data string, sign, kind byte) string {
	switch {
	case sign == '-':
		return strings.TrimRightFunc(data, pySpace)
	case sign == '+' || kind == '{':
		return data
	}
	line := strings.LastIndexByte(data, '\n') + 1
	if (line > 0 || l.fresh) && strings.TrimLeftFunc(data[line:], pySpace) == "" {
		return data[:line]
	}
	return data
}

// leave ends a tag whose closing characters end at l.at.
func (l *lexer) leave(sign byte, block bool) {
	from := l.at
	switch {
	case sign == '-':
		rest := l.src[l.at:]
		l.at += len(rest) - len(strings.TrimLeftFunc(rest, pySpace))
	case sign == 0 && block && strings.HasPrefix(l.src[l.at:], "\n"):
		l.at++
	}
	l.fresh = l.at > from && l.src[l.at-1] == '\n'
}

func (l *lexer) comment() {
	end := strings.Index(l.src[l.at:], "#}")
	if end < 0 {
		fail("a comment has no end")
	}
	sign := byte(0)
	if end > 0 {
		if c := l.src[l.at+end-1]; c == '-' || c == '+' {
			sign = c
		}
	}
	l.at += end + 2
	l.leave(sign, true)
}

// raw consumes {% raw %} with everything up to {% endraw %}, if that follows.
func (l *lexer) raw() bool {
	after, ok := l.word(l.at, "raw")
	if !ok {
		return false
	}
	sign := byte(0)
	if strings.HasPrefix(l.src[after:], "-") {
		sign = '-'
		after++
	}
	if !strings.HasPrefix(l.src[after:], "%}") {
		return false
	}
	l.at = after + 2
	l.leave(sign, false)
	for i := l.at; ; {
		next := strings.Index(l.src[i:], "{%")
		if next < 0 {
			fail("raw text has no end")
		}
		i += next
		inner := i + 2
		sign := byte(0)
		if inner < len(l.src) && (l.src[inner] == '-' || l.src[inner] == '+') {
			sign = l.src[inner]
			inner++
		}
		after, ok := l.word(inner, "endraw")
		if ok {
			end := byte(0)
			if after < len(l.src) && (l.src[after] == '-' || l.src[after] == '+') {
				end = l.src[after]
				after++
			}
			if strings.HasPrefix(l.src[after:], "%}") {
				l.add(tokData, l.trimmed(l.src[l.at:i], sign, '%'))
				l.at = after + 2
				l.leave(end, true)
				return true
			}
		}
		i += 2
	}
}

// word returns where a word, with blanks around it, ends.
func (l *lexer) word(at int, word string) (int, bool) {
	blanks := func() {
		rest := l.src[at:]
		at += len(rest) - len(strings.TrimLeftFunc(rest, pySpace))
	}
	blanks()
	if !strings.HasPrefix(l.src[at:], word) {
		return 0, false
	}
	at += len(word)
	blanks()
	return at, true
}

// operators, longer ones first.
var operators = []string{
	"**", "//", "==", "!=", ">=", "<=",
	"+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ".", ":", "|", ",",
}

// tag tokenizes the inside of a tag.
func (l *lexer) tag(open, closing tokenKind, end string) {
	l.add(open, "")
	var brackets []byte
	for {
		rest := l.src[l.at:]
		l.at += len(rest) - len(strings.TrimLeftFunc(rest, pySpace))
		rest = l.src[l.at:]
		if rest == "" {
			fail("line %d: a tag has no end", l.line())
		}
		if len(brackets) == 0 {
			sign := rest[0]
			if sign != '-' && (sign != '+' || closing == tokClose) {
				sign = 0
			}
			tail := rest
			if sign != 0 {
				tail = rest[1:]
			}
			if strings.HasPrefix(tail, end) {
				l.at = len(l.src) - len(tail) + len(end)
				l.add(closing, "")
				l.leave(sign, closing == tokEnd)
				return
			}
		}
		c := rest[0]
		switch {
		case c == '"' || c == '\'':
			l.quoted(c)
			continue
		case c >= '0' && c <= '9':
			l.number()
			continue
		}
		if r, _ := utf8.DecodeRuneInString(rest); r == '_' || unicode.IsLetter(r) {
			n := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
			if n < 0 {
				n = len(rest)
			}
			l.add(tokName, rest[:n])
			l.at += n
			continue
		}
		op := ""
		for _, o := range operators {
			if strings.HasPrefix(rest, o) {
				op = o
				break
			}
		}
		switch op {
		case "":
			fail("line %d: %q does not belong into a tag", l.line(), firstRune(rest))
		case "(", "[", "{":
			brackets = append(brackets, map[string]byte{"(": ')', "[": ']', "{": '}'}[op])
		case ")", "]", "}":
			if n := len(brackets); n == 0 || brackets[n-1] != op[0] {
				fail("line %d: %q closes nothing", l.line(), op)
			}
			brackets = brackets[:len(brackets)-1]
		}
		l.add(tokOp, op)
		l.at += len(op)
	}
}

func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}

// quoted reads a string with Python's escapes.
func (l *lexer) quoted(quote byte) {
	var b strings.Builder
	i := l.at + 1
	for ; ; i++ {
		if i >= len(l.src) {
			fail("line %d: a string has no end", l.line())
		}
		c := l.src[i]
		if c == quote {
			break
		}
		if c != '\\' || i+1 == len(l.src) {
			b.WriteByte(c)
			continue
		}
		i++
		n := l.escape(&b, l.src[i:])
		i += n - 1
	}
	l.add(tokString, b.String())
	l.at = i + 1
}

var escapes = map[byte]string{
	'n': "\n", 't': "\t", 'r': "\r", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\\': "\\", '\'': "'", '"': "\"", '\n': "",
}

// escape writes the character of an escape sequence and returns its length; s
// begins after the backslash.
func (l *lexer) escape(b *strings.Builder, s string) int {
	if v, ok := escapes[s[0]]; ok {
		b.WriteString(v)
		return 1
	}
	n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]
	if n > 0 && len(s) > n {
		if v, err := strconv.ParseUint(s[1:1+n], 16, 32); err == nil {
			b.WriteRune(rune(min(v, unicode.MaxRune+1)))
			return 1 + n
		}
		fail("line %d: %q is no escape", l.line(), s[:1+n])
	}
	octal := 0
	for octal < min(3, len(s)) && s[octal] >= '0' && s[octal] <= '7' {
		octal++
	}
	if octal > 0 {
		v, _ := strconv.ParseUint(s[:octal], 8, 32)
		b.WriteRune(rune(v))
		return octal
	}
	b.WriteByte('\\') // as in Python
	b.WriteByte(s[0])
	return 1
}

func (l *lexer) number() {
	rest := l.src[l.at:]
	digits := func(i int) int {
		for i < len(rest) && (rest[i] >= '0' && rest[i] <= '9' || rest[i] == '_') {
			i++
		}
		return i
	}
	kind, n := tokInt, digits(0)
	if n == 1 && rest[0] == '0' && len(rest) > 1 && strings.IndexByte("xXoObB", rest[1]) >= 0 {
		n = 2
		for n < len(rest) && (rest[n] == '_' || unicode.Is(unicode.ASCII_Hex_Digit, rune(rest[n]))) {
			n++
		}
		l.add(tokInt, rest[:n])
		l.at += n
		return
	}
	// In x.0.1 the numbers are indexes.
	last := l.toks[len(l.toks)-1]
	if !(last.kind == tokOp && last.text == ".") {
		if m := digits(n + 1); n < len(rest) && rest[n] == '.' && m > n+1 {
			kind, n = tokFloat, m
		}
		if n < len(rest) && (rest[n] == 'e' || rest[n] == 'E') {
			i := n + 1
			if i < len(rest) && (rest[i] == '+' || rest[i] == '-') {
				i++
			}
			if m := digits(i); m > i {
				kind, n = tokFloat, m
			}
		}
	}
	l.add(kind, strings.ReplaceAll(rest[:n], "_", ""))
	l.at += n
}
