package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/shoalnet/shoal/node/api"
)

// isTerminal says that a person reads w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// safe takes away what a terminal would obey: a model's text is hostile.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return -1
	}, s)
}

// cell is safe in one line of a table: a name is a peer's word.
func cell(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, safe(s))
}

// clean is safe on a terminal; a pipe gets the text as it is.
func clean(w io.Writer, s string) string {
	if isTerminal(w) {
		return safe(s)
	}
	return s
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// progressLine shows long work on a terminal, and nothing in a pipe.
func progressLine(w io.Writer, what string) (show func(api.Progress), end func()) {
	if !isTerminal(w) {
		return nil, func() {}
	}
	begin, shown := time.Now(), false
	var first int64 = -1
	return func(p api.Progress) {
			if first < 0 {
				first = p.Done
			}
			shown = true
			rate := float64(p.Done-first) / max(0.1, time.Since(begin).Seconds())
			line := fmt.Sprintf("%s %s", what, bytesText(p.Done))
			if p.Total > 0 {
				line += fmt.Sprintf(" of %s (%d %%)", bytesText(p.Total), 100*p.Done/p.Total)
				if rate > 0 && p.Done < p.Total {
					line += fmt.Sprintf(", %s/s, %s left", bytesText(int64(rate)), time.Duration(float64(p.Total-p.Done)/rate*1e9).Round(time.Second))
				}
			}
			if p.Sources > 0 {
				line += fmt.Sprintf(", from %d peers", p.Sources)
			}
			fmt.Fprintf(w, "\r\x1b[K%s", line)
		}, func() {
			if shown {
				fmt.Fprint(w, "\r\x1b[K")
			}
		}
}

// bytesText writes a size for people.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
