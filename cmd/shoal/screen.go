package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// What a terminal shows is cut or wrapped at its width; a pipe gets everything.

// columns returns how many columns a terminal has; 0 if w is none.
func columns(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	n, _, err := term.GetSize(int(w.(*os.File).Fd()))
	if err != nil || n <= 0 {
		return 80
	}
	return n
}

// clip cuts a text to n columns, with an ellipsis.
func clip(s string, n int) string {
	if textWidth(s) <= n {
		return s
	}
	return strings.TrimRight(fit(s, n), " ")
}

// wrapped breaks a text at blanks into lines of n columns; all but the first are
// indented as far as indent, or less for a long word. A word that is longer than a line
// stays whole: an address that the terminal itself breaks can still be copied. n = 0:
// one line.
func wrapped(s, indent string, n int) string {
	if n <= 0 || textWidth(s) <= n {
		return s
	}
	var b strings.Builder
	at := 0
	for i, word := range strings.Split(s, " ") {
		w := textWidth(word)
		switch {
		case i == 0:
		case at+1+w <= n:
			b.WriteByte(' ')
			at++
		default:
			at = max(0, min(textWidth(indent), n-w)) // an ID just fits
			b.WriteString("\n" + strings.Repeat(" ", at))
		}
		b.WriteString(word)
		at += w
	}
	return b.String()
}

// remark prints a sentence for a person, wrapped on a terminal.
func remark(w io.Writer, text string) {
	fmt.Fprintln(w, wrapped(text, "  ", columns(w)))
}

// table is a tabwriter whose lines are cut to the terminal's width.
type table struct {
	*tabwriter.Writer
	text bytes.Buffer
	out  io.Writer
}

func newTable(w io.Writer) *table {
	t := &table{out: w}
	t.Writer = tabwriter.NewWriter(&t.text, 0, 0, 2, ' ', 0)
	return t
}

// Flush writes the table. Its errors are those of the writer below.
func (t *table) Flush() error {
	_ = t.Writer.Flush() // into memory
	n := columns(t.out)
	for line := range strings.Lines(t.text.String()) {
		if line = strings.TrimRight(line, " \n"); n > 0 {
			line = clip(line, n)
		}
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	t.text.Reset()
	return nil
}

// facts is a list of names and values, whose values are wrapped at the terminal's width.
type facts struct {
	rows [][2]string
	out  io.Writer
}

// row adds a name and its value; an empty name continues the one above.
func (f *facts) row(name, format string, args ...any) {
	f.rows = append(f.rows, [2]string{name, fmt.Sprintf(format, args...)})
}

// Flush writes the list. Its errors are the writer's.
func (f *facts) Flush() error {
	name := 0
	for _, r := range f.rows {
		name = max(name, textWidth(r[0])+2)
	}
	n := columns(f.out)
	if n > 0 {
		name = min(name, max(14, n/3)) // a model's long name does not narrow all values
	}
	indent := strings.Repeat(" ", name)
	for _, r := range f.rows {
		head := fit(r[0], name)
		if textWidth(r[0]) >= name {
			head = fit(r[0], name-1) + " "
		}
		if _, err := fmt.Fprintln(f.out, strings.TrimRight(wrapped(head+r[1], indent, n), " ")); err != nil {
			return err
		}
	}
	return nil
}

// liveLine is a line on a terminal that is written again and again; in a pipe there is
// none. It is safe for concurrent use.
type liveLine struct {
	w     io.Writer
	mu    sync.Mutex
	shown bool
}

// show replaces the line.
func (l *liveLine) show(text string) {
	n := columns(l.w)
	if n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown = true
	fmt.Fprintf(l.w, "\r\x1b[K%s", clip(cell(text), n-1))
}

// clear removes the line, before something else is printed.
func (l *liveLine) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
	l.shown = false
}

// patience is how long a wait is silent.
const patience = time.Second

// waiting shows what is waited for, and for how long, from the first second on; nothing
// in a pipe. stop ends that and clears the line; it may be called more than once.
func waiting(w io.Writer, what func() string) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	line, begin := &liveLine{w: w}, time.Now()
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(patience)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				line.show(fmt.Sprintf("%s … %.0f s", what(), time.Since(begin).Seconds()))
			case <-done:
				line.clear()
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(done)
		<-gone
	})
}

// waitingFor is waiting for one thing.
func waitingFor(w io.Writer, what string) (stop func()) {
	return waiting(w, func() string { return what })
}
