package main

import (
	"errors"
	"fmt"
	"strings"
)

// The table is between these lines of README.
const (
	begin = "<!-- clients: written by `make clients` -->"
	end   = "<!-- clients: end -->"
)

// row is a client's line of the table.
func row(c client, out outcome) string {
	cells := []string{c.version(), c.language, "`" + c.api + "`"}
	for _, name := range cases {
		why, taken := out[name]
		switch {
		case !taken:
			cells = append(cells, "–")
		case why == "":
			cells = append(cells, "ok")
		default:
			cells = append(cells, "FAIL")
		}
	}
	return "| " + strings.Join(cells, " | ") + " |"
}

// key returns what two rows of the same client have in common.
func key(row string) string {
	cells := strings.SplitN(row, "|", 5)
	if len(cells) < 5 {
		return ""
	}
	name, _, _ := cutLast(strings.TrimSpace(cells[1]), " ")
	return name + " " + cells[2] + cells[3]
}

// insert replaces rows of the table in text, by clients' names, and keeps the others of
// the list as they are.
func insert(text string, rows map[string]string) (string, error) {
	before, rest, ok := strings.Cut(text, begin+"\n")
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", errors.New("the text has no table of clients")
	}
	was := map[string]string{}
	for _, line := range strings.Split(old, "\n") {
		was[key(line)] = line
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n\n| client | language | asks | %s |\n|%s\n", before, begin, strings.Join(cases, " | "), strings.Repeat("---|", 3+len(cases)))
	for _, c := range clients {
		line := rows[c.name]
		if line == "" {
			line = was[key(row(c, nil))]
		}
		if line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String() + "\n" + end + after, nil
}
