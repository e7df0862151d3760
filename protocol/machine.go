package protocol

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MachineName returns a machine's name as it may be shown: printable characters on one
// line, at most MaxMachineName bytes. Other characters are left out. It changes nothing
// of its own results.
func MachineName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r):
			return -1
		case r == ' ' || unicode.IsPrint(r):
			return r
		}
		return -1
	}, s)
	s = strings.TrimSpace(s)
	for len(s) > MaxMachineName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimSpace(s)
}
