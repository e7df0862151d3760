package protocol

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMachineName(t *testing.T) {
	for in, want := range map[string]string{
		"attic":                  "attic",
		" Käthes Büro \n":        "Käthes Büro",
		"a\x1b[31mb\tc\x00":      "a[31mbc",
		"\u202eevil":             "evil",
		"\xffnas":                "nas",
		strings.Repeat("é", 40):  strings.Repeat("é", 31),
		strings.Repeat("x", 200): strings.Repeat("x", MaxMachineName),
		"\u200b":                 "",
	} {
		if got := MachineName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzMachineName: a peer's word for its machine is one short line of text.
func FuzzMachineName(f *testing.F) {
	f.Add("attic")
	f.Add("\x1b]0;x\a\u2066\xf0\x9f")
	f.Fuzz(func(t *testing.T, s string) {
		got := MachineName(s)
		if len(got) > MaxMachineName || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\t\x1b\u202e") || MachineName(got) != got {
			t.Errorf("%q: %q", s, got)
		}
	})
}
