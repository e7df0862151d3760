package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range clients {
		if seen[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		seen[c.name] = true
		for _, p := range c.packages {
			if _, version, ok := cutLast(p, "@"); !ok || version == "" {
				t.Errorf("%s: %s has no version", c.name, p)
			}
		}
		if c.agent != nil {
			continue
		}
		l, ok := languages[c.language]
		if !ok {
			t.Fatalf("%s is written in %s", c.name, c.language)
		}
		if _, err := os.Stat(filepath.Join(l.folder, c.program)); err != nil {
			t.Error(err)
		}
	}
	if _, err := choose("codex,nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("an unknown client: %v", err)
	}
}

// TestInsert: a row that was taken again replaces the old one, others stay, and rows of
// clients that left the list go.
func TestInsert(t *testing.T) {
	t.Parallel()
	a, b := clients[0], clients[1]
	old := strings.Replace(row(a, outcome{"list": "it hangs", "chat": ""}), a.version(), "openai 1.0.0", 1)
	kept := row(b, outcome{"chat": ""})
	text := "before\n" + begin + "\n" + old + "\n" + kept + "\n| gone 1.0 | Perl | `/v1` | ok |\n" + end + "\nafter\n"
	if !strings.Contains(old, "| FAIL | ok | – |") {
		t.Errorf("a row is %s", old)
	}
	fresh := row(a, outcome{"list": "", "chat": "", "stream": ""})
	got, err := insert(text, map[string]string{a.name: fresh})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, "---|\n"+fresh+"\n"+kept+"\n\n"+end) || strings.Contains(got, "1.0.0") || strings.Contains(got, "Perl") ||
		!strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "\nafter\n") {
		t.Errorf("the text is now\n%s", got)
	}
	if again, err := insert(got, nil); err != nil || again != got {
		t.Errorf("not the same without new rows: %v\n%s", err, again)
	}
	if _, err := insert("nothing", nil); err == nil {
		t.Error("a text without the table is accepted")
	}
}
