package jinja

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// Python's changes of case: those of Unicode, where one character may become
// several ("ß" becomes "SS"), and a sigma at a word's end has a form of its own.

func upper(s string) string    { return cases.Upper(language.Und).String(s) }
func casefold(s string) string { return cases.Fold().String(s) }

// title returns the form that a character has at a word's beginning.
func title(r rune) string {
	if r < 0x80 {
		return string(unicode.ToUpper(r))
	}
	return cases.Title(language.Und, cases.NoLower).String(string(r))
}

// lowerAt returns the small form of a character among others.
func lowerAt(rs []rune, i int) string {
	switch r := rs[i]; r {
	case 'Σ':
		if endsWord(rs, i) {
			return "ς"
		}
		return "σ"
	case 'İ':
		return "i̇"
	default:
		return string(unicode.ToLower(r))
	}
}

// endsWord reports whether letters precede a character, and none follow it.
func endsWord(rs []rune, i int) bool {
	before, behind := i-1, i+1
	for before >= 0 && caseless(rs[before]) {
		before--
	}
	for behind < len(rs) && caseless(rs[behind]) {
		behind++
	}
	return before >= 0 && cased(rs[before]) && (behind == len(rs) || !cased(rs[behind]))
}

// caseless reports whether a character is passed over in the search for a word's
// end (Unicode's Case_Ignorable).
func caseless(r rune) bool {
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk) || strings.ContainsRune("'.:··՟״‘’․‧︓﹒﹕＇．：", r)
}

func isUpper(r rune) bool { return unicode.IsUpper(r) || unicode.Is(unicode.Other_Uppercase, r) }
func isLower(r rune) bool { return unicode.IsLower(r) || unicode.Is(unicode.Other_Lowercase, r) }
func cased(r rune) bool   { return isUpper(r) || isLower(r) || unicode.IsTitle(r) }

func lower(s string) string {
	rs := []rune(s)
	var b strings.Builder
	for i := range rs {
		b.WriteString(lowerAt(rs, i))
	}
	return b.String()
}

// titled is Python's str.title: a letter behind another is small.
func titled(s string) string {
	rs := []rune(s)
	var b strings.Builder
	inWord := false
	for i, r := range rs {
		if inWord {
			b.WriteString(lowerAt(rs, i))
		} else {
			b.WriteString(title(r))
		}
		inWord = cased(r)
	}
	return b.String()
}

// titleFilter is jinja2's title, which splits words at blanks, dashes and opening
// brackets.
func titleFilter(s string) string {
	var b strings.Builder
	for s != "" {
		end := strings.IndexFunc(s, beginsWord)
		if end == 0 {
			end = strings.IndexFunc(s, func(r rune) bool { return !beginsWord(r) })
		}
		if end < 0 {
			end = len(s)
		}
		for i, r := range s[:end] {
			if i == 0 {
				b.WriteString(upper(string(r)))
				continue
			}
			b.WriteString(lower(s[i:end]))
			break
		}
		s = s[end:]
	}
	return b.String()
}

func beginsWord(r rune) bool { return pySpace(r) || strings.ContainsRune("-({[<", r) }

func capitalized(s string) string {
	rs := []rune(s)
	var b strings.Builder
	for i, r := range rs {
		if i == 0 {
			b.WriteString(title(r))
		} else {
			b.WriteString(lowerAt(rs, i))
		}
	}
	return b.String()
}

func swapped(s string) string {
	rs := []rune(s)
	var b strings.Builder
	for i, r := range rs {
		switch {
		case isUpper(r):
			b.WriteString(lowerAt(rs, i))
		case isLower(r):
			b.WriteString(upper(string(r)))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// inCase reports whether a text has letters of one case, and none of another.
func inCase(of, other func(rune) bool) func(*run, string, args) any {
	return func(_ *run, s string, _ args) any {
		return strings.IndexFunc(s, of) >= 0 && strings.IndexFunc(s, func(r rune) bool { return other(r) || unicode.IsTitle(r) }) < 0
	}
}

// isTitle is Python's str.istitle.
func isTitle(_ *run, s string, _ args) any {
	inWord, some := false, false
	for _, r := range s {
		switch {
		case isUpper(r) || unicode.IsTitle(r):
			if inWord {
				return false
			}
			inWord, some = true, true
		case isLower(r):
			if !inWord {
				return false
			}
		default:
			inWord = false
		}
	}
	return some
}

// isDigit reports whether a character counts as a digit: decimal ones, and those
// above or below a line or in a circle.
func isDigit(r rune) bool {
	return unicode.IsDigit(r) || strings.ContainsRune("²³¹", r) || r == 0x2070 || r >= 0x2074 && r <= 0x2079 || r >= 0x2080 && r <= 0x2089 ||
		r >= 0x2460 && r <= 0x2468 || r >= 0x2474 && r <= 0x247c || r >= 0x2488 && r <= 0x2490
}

// isNumeric reports whether a character stands for a number, Chinese ones included.
func isNumeric(r rune) bool {
	return unicode.IsNumber(r) || strings.ContainsRune("〇一二三四五六七八九十百千万億兆零壹貳參肆伍陸柒捌玖拾佰仟萬两兩", r)
}

func isIdentifier(_ *run, s string, _ args) any {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && !unicode.Is(unicode.Nl, r) && (i == 0 || !unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc)) {
			return false
		}
	}
	return s != ""
}

// isPrintable reports whether a text has only characters that repr writes as they are.
func isPrintable(_ *run, s string, _ args) any {
	return strings.IndexFunc(s, func(r rune) bool { return r != ' ' && !unicode.IsPrint(r) }) < 0
}

func isASCII(_ *run, s string, _ args) any {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// expandTabs is Python's str.expandtabs.
func expandTabs(r *run, s string, a args) any {
	size := min(a.int(0, "tabsize", 8), 1<<10)
	r.charge(len(s) + strings.Count(s, "\t")*max(0, size))
	var b strings.Builder
	column := 0
	for _, c := range s {
		switch c {
		case '\t':
			if size > 0 {
				b.WriteString(strings.Repeat(" ", size-column%size))
				column += size - column%size
			}
		case '\n', '\r':
			b.WriteRune(c)
			column = 0
		default:
			b.WriteRune(c)
			column++
		}
	}
	return b.String()
}

// window returns the part of a text that the arguments start and end name, in
// characters, and where it begins; false if start lies behind the text's end.
func window(s string, a args, at int) (part string, from int, ok bool) {
	if len(a.pos) <= at && len(a.names) == 0 {
		return s, 0, true
	}
	rs := []rune(s)
	n := len(rs)
	from, to := a.int(at, "start", 0), a.int(at+1, "end", n)
	if from < 0 {
		from = max(0, from+n)
	}
	if to < 0 {
		to = max(0, to+n)
	}
	if to = min(to, n); from > to {
		return "", 0, false
	}
	return string(rs[from:to]), from, true
}
