package jinja

import (
	"strings"
	"unicode"
)

// wrapFilter is jinja2's wordwrap: each line is broken at blanks, and behind dashes
// within words, so that it has at most so many characters.
func wrapFilter(r *run, v any, a args) any {
	s, ok := v.(string)
	if !ok {
		fail("wordwrap takes a text, not a %s", kind(v))
	}
	width, with := a.int(0, "width", 79), "\n"
	if by, ok := a.arg(2, "wrapstring"); ok && by != nil {
		with = r.str(by)
	}
	w := wrapper{width: width, breakLong: true, hyphens: true}
	if _, given := a.arg(1, "break_long_words"); given {
		w.breakLong = a.bool(1, "break_long_words")
	}
	if _, given := a.arg(3, "break_on_hyphens"); given {
		w.hyphens = a.bool(3, "break_on_hyphens")
	}
	if width <= 0 {
		fail("wordwrap takes a width of at least 1")
	}
	r.charge(len(s) * (2 + len(with)))
	var lines []string
	for _, l := range cutLines(s, false) {
		lines = append(lines, strings.Join(w.wrap(l), with))
	}
	return strings.Join(lines, with)
}

// wrapper breaks one line as Python's textwrap does when it neither expands tabs nor
// replaces blanks.
type wrapper struct {
	width              int
	breakLong, hyphens bool
}

func (w wrapper) wrap(s string) (lines []string) {
	chunks := w.chunks(s)
	for len(chunks) > 0 {
		var line []string
		n := 0
		if len(lines) > 0 && blank(chunks[0]) {
			chunks = chunks[1:]
		}
		for len(chunks) > 0 && n+runes(chunks[0]) <= w.width {
			n += runes(chunks[0])
			line, chunks = append(line, chunks[0]), chunks[1:]
		}
		if len(chunks) > 0 && runes(chunks[0]) > w.width { // it fits in no line
			switch {
			case w.breakLong:
				rs := []rune(chunks[0])
				at := w.width - n // may be 0: then what ends the line is not its last blank
				if dash := lastDash(rs[:at]); w.hyphens && dash > 0 {
					at = dash + 1
				}
				line, chunks[0] = append(line, string(rs[:at])), string(rs[at:])
			case len(line) == 0:
				line, chunks = append(line, chunks[0]), chunks[1:]
			}
		}
		if len(line) > 0 && blank(line[len(line)-1]) {
			line = line[:len(line)-1]
		}
		if len(line) > 0 {
			lines = append(lines, strings.Join(line, ""))
		}
	}
	return lines
}

// lastDash returns where the last dash is that does not stand at the beginning, or -1.
func lastDash(rs []rune) int {
	for i := len(rs) - 1; i > 0; i-- {
		if rs[i] == '-' && strings.Trim(string(rs[:i]), "-") != "" {
			return i
		}
	}
	return -1
}

func blank(s string) bool { return strings.TrimFunc(s, wraps) == "" }

// wraps reports whether textwrap breaks lines at a character.
func wraps(r rune) bool { return strings.ContainsRune("\t\n\v\f\r ", r) }

// chunks splits a line into words, blanks between them, and the parts of words that
// end in a dash between letters.
func (w wrapper) chunks(s string) (out []string) {
	for s != "" {
		end := strings.IndexFunc(s, wraps)
		if end == 0 {
			end = strings.IndexFunc(s, func(r rune) bool { return !wraps(r) })
			if end < 0 {
				end = len(s)
			}
			out, s = append(out, s[:end]), s[end:]
			continue
		}
		if end < 0 {
			end = len(s)
		}
		word := s[:end]
		s = s[end:]
		if !w.hyphens {
			out = append(out, word)
			continue
		}
		out = append(out, dashed(word)...)
	}
	return out
}

// dashed splits a word behind its dashes: those after two letters, or a letter and
// a dash between them, and before a letter or a word of two.
func dashed(word string) (out []string) {
	rs := []rune(word)
	from := 0
	letter := func(i int) bool { return i >= 0 && i < len(rs) && (unicode.IsLetter(rs[i]) || rs[i] == '_') }
	for i := range rs {
		if rs[i] != '-' {
			continue
		}
		before := letter(i-1) && letter(i-2) || letter(i-1) && letter(i-3) && rs[i-2] == '-'
		behind := letter(i+1) && (letter(i+2) || i+3 < len(rs) && rs[i+2] == '-' && letter(i+3))
		if before && behind {
			out = append(out, string(rs[from:i+1]))
			from = i + 1
		}
	}
	return append(out, string(rs[from:]))
}
