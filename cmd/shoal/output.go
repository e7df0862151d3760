package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
)

// Formatting that commands share with benchmarks.
var (
	isTerminal = term.IsTerminal
	safe       = term.Safe
	printJSON  = term.PrintJSON
	rate       = term.Rate
)

// cell makes a text safe in one line of a table: names come from peers.
func cell(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, safe(s))
}

// clean makes a text safe if w is a terminal; a pipe gets it unchanged.
func clean(w io.Writer, s string) string {
	if isTerminal(w) {
		return safe(s)
	}
	return s
}

// progressLine shows the progress of long work on a terminal, and nothing in a pipe.
// end clears the line and prints which sources were dropped on the way, in both.
func progressLine(w io.Writer, what string) (show func(api.Progress), end func()) {
	var troubles []string
	begin, first, line := time.Now(), int64(-1), &liveLine{w: w}
	var mu sync.Mutex
	now := strings.TrimSuffix(what, ":") // what is waited for while nothing is counted
	wait := func() func() {
		return waiting(w, func() string {
			mu.Lock()
			defer mu.Unlock()
			return now
		})
	}
	rest := wait()
	return func(p api.Progress) {
			if len(p.Trouble) > 0 {
				troubles = p.Trouble
			}
			if p.Done == 0 && p.Total == 0 {
				if p.What != "" {
					mu.Lock()
					now = p.What
					mu.Unlock()
				}
				return
			}
			rest() // what is shown now moves by itself
			if first < 0 {
				first = p.Done
			}
			if p.Rate == 0 {
				p.Rate = float64(p.Done-first) / max(0.1, time.Since(begin).Seconds())
			}
			line.show(progressText(what, p))
			if p.Total > 0 && p.Done >= p.Total {
				rest = wait()
			}
		}, func() {
			rest()
			line.clear()
			for _, t := range troubles {
				fmt.Fprintf(w, "warning: %s\n", safe(t))
			}
		}
}

// progressText formats how much is done, the rate, the time left and the sources.
func progressText(what string, p api.Progress) string {
	line := fmt.Sprintf("%s %s", what, bytesText(p.Done))
	if p.Total > 0 {
		line += fmt.Sprintf(" of %s (%d %%)", bytesText(p.Total), 100*p.Done/p.Total)
		if p.Rate > 0 && p.Done < p.Total {
			line += fmt.Sprintf(", %s/s, %s left", bytesText(int64(p.Rate)), time.Duration(float64(p.Total-p.Done)/p.Rate*1e9).Round(time.Second))
		}
	}
	switch {
	case p.Peers > 0 && p.Origins > 0:
		line += fmt.Sprintf(", from %s and %s", count(p.Peers, "peer"), count(p.Origins, "origin"))
	case p.Peers > 0:
		line += ", from " + count(p.Peers, "peer")
	case p.Origins > 0:
		line += ", from " + count(p.Origins, "origin")
	}
	return line
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// bytesText formats a size for people.
func bytesText(n int64) string { return store.SizeText(n) }
