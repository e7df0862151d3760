package scenario

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// WriteHTML writes the report as one self-contained page: a table, and a timeline of
// nodes, faults, sessions and stalls.
func (r *Report) WriteHTML(out io.Writer) error {
	v := view{Report: r, span: max(r.Took, 1), Lines: r.summary(), States: states, Exactness: r.explained()}
	v.Title = fmt.Sprintf("%s: %d nodes, every span on %d, %d sessions at once, faults for %v", r.Scenario, r.Nodes, r.Replicas, r.AtOnce, time.Duration(r.Duration))
	if err := r.Err(); err != nil {
		v.Verdict = err.Error()
	}
	v.ticks()
	v.marks()
	v.nodes()
	v.workers()
	v.rate()
	return page.Execute(out, &v)
}

// view is what the page shows, in percent of the time axis.
type view struct {
	*Report
	span      Moment
	Title     string
	Verdict   string // "": everything went well
	Lines     [][2]string
	States    []string
	Exactness string
	Ticks     []mark
	Marks     []mark // faults, across all rows
	NodeRows  []row
	Workers   []row
	Rates     []bar
	MostRate  float64
}

type row struct {
	Name, Note string
	Bars       []bar
	Marks      []mark
}

// bar is a segment of a row; Class says what it shows.
type bar struct {
	Left, Width float64
	Height      float64 // percent, of a rate
	Class       string
	Title       string
	Inner       []bar // in percent of the bar
}

type mark struct {
	Left  float64
	Text  string
	Title string
}

func (v *view) at(m Moment) float64 { return percent(m, v.span) }

func percent(part, whole Moment) float64 {
	p := 100 * float64(part) / float64(max(whole, 1))
	return float64(int64(min(max(p, 0), 100)*1000)) / 1000
}

func (v *view) bar(from, to Moment, class, title string) bar {
	left := v.at(from)
	return bar{Left: left, Width: max(0, v.at(to)-left), Class: class, Title: title}
}

// ticks returns about ten ticks of the axis, at round times.
func (v *view) ticks() {
	step := Moment(time.Second)
	for _, s := range []int{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200} {
		if step = Moment(s) * Moment(time.Second); v.span/step <= 12 {
			break
		}
	}
	for at := Moment(0); at <= v.span; at += step {
		v.Ticks = append(v.Ticks, mark{Left: v.at(at), Text: time.Duration(at).String()})
	}
}

func (v *view) marks() {
	for _, f := range v.Faults {
		if f.Skipped == "" {
			v.Marks = append(v.Marks, mark{Left: v.at(f.At), Title: f.title(), Text: f.Kind})
		}
	}
}

func (f *FaultRecord) title() string {
	s := fmt.Sprintf("%s at %s", f.what(), f.At)
	if f.Until > 0 {
		s += fmt.Sprintf(", until %s", f.Until)
	}
	if f.Error != "" {
		s += ": " + f.Error
	}
	return s
}

func (v *view) nodes() {
	for _, n := range v.NodeList {
		r := row{Name: n.Name, Note: fmt.Sprintf("%d-%d", n.From, n.To)}
		for _, p := range n.Past {
			r.Bars = append(r.Bars, v.bar(p.From, p.To, "st-"+p.State, fmt.Sprintf("%s %s, %s to %s", n.Name, p.State, p.From, p.To)))
		}
		for _, f := range v.Faults {
			if f.Skipped == "" && slices.Contains(f.hit(), n.Name) {
				r.Marks = append(r.Marks, mark{Left: v.at(f.At), Title: f.title(), Text: letters[f.Kind]})
			}
		}
		v.NodeRows = append(v.NodeRows, r)
	}
}

// letters stand for kinds of faults on the timeline.
var letters = map[string]string{
	Kill: "✕", Stop: "◼", Hang: "‖", HangEngine: "‖", KillEngine: "✕", Slow: "▽", Partition: "⚡", Join: "+", Rejoin: "↑",
}

func (v *view) workers() {
	rows := make([]row, v.AtOnce)
	for i := range rows {
		rows[i].Name = fmt.Sprintf("worker %d", i+1)
	}
	failed := map[int]string{}
	for _, f := range v.Failures {
		failed[f.Session] = f.What
	}
	for _, s := range v.sessions {
		r := &rows[s.Worker-1]
		r.Bars = append(r.Bars, v.session(s, failed[s.ID]))
	}
	v.Workers = rows
}

// session returns the bar of a session: pale until its first token, red where it stalled
// for a repair.
func (v *view) session(s *Session, failed string) bar {
	title := &strings.Builder{}
	fmt.Fprintf(title, "session %d: %d tokens, %s to %s\n%s", s.ID, len(s.Tokens), s.Begin, s.End, v.prompts[s.Prompt])
	class := "session"
	switch {
	case failed != "":
		class += " failed"
		fmt.Fprintf(title, "\n%s", strings.TrimSpace(failed+" "+s.Error))
	case s.Cancelled:
		class += " cancelled"
	}
	b := v.bar(s.Begin, s.End, class, "")
	inner := func(from, to Moment, class string) {
		left := percent(from-s.Begin, s.End-s.Begin)
		b.Inner = append(b.Inner, bar{Left: left, Width: percent(to-s.Begin, s.End-s.Begin) - left, Class: class})
	}
	if len(s.Tokens) > 0 {
		inner(s.Begin, s.Tokens[0].At, "wait")
	}
	for _, c := range s.Recoveries {
		from, to := stood(s, c.Token)
		inner(from, to, "stall")
		fmt.Fprintf(title, "\nstalled %.0f ms at token %d, %d positions again: %s", (to - from).ms(), c.Token, c.Replayed, c.Why)
	}
	b.Title = title.String()
	return b
}

// stood returns the time between the last token before a repair and the next.
func stood(s *Session, token int) (from, to Moment) {
	from, to = s.Begin, s.End
	if token > 0 && token <= len(s.Tokens) {
		from = s.Tokens[token-1].At
	}
	if token < len(s.Tokens) {
		to = s.Tokens[token].At
	}
	return from, to
}

// rate returns bars for the number of tokens in each interval.
func (v *view) rate() {
	const most = 300
	part := max(v.span/most, Moment(250*time.Millisecond))
	counts := make([]float64, v.span/part+1)
	for _, s := range v.sessions {
		for _, t := range s.Tokens {
			if i := int(t.At / part); i >= 0 && i < len(counts) {
				counts[i] += 1 / part.seconds()
			}
		}
	}
	for _, c := range counts {
		v.MostRate = max(v.MostRate, c)
	}
	for i, c := range counts {
		from := Moment(i) * part
		b := v.bar(from, from+part, "rate", fmt.Sprintf("%.0f tokens/s at %s", c, from))
		b.Height = 100 * c / max(v.MostRate, 1)
		v.Rates = append(v.Rates, b)
	}
}
