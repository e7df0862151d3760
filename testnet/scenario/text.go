package scenario

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// exactness explains where texts may differ, and why.
const exactness = `A repaired session computes some positions again, many in a pass, where the first time each
had a pass of its own, and sessions share passes. With the built-in engine on Linux and x86 that
changes nothing. Elsewhere, and with llama.cpp's library, sums may differ in their last bits; where
two tokens are that close, the other one may win, and the text goes on from there. Nodes that are
told to be exact compute the same in any company: node_args = ["--exact"]. A scenario that accepts
differences says exact = false.`

// mixture explains what no setting can change.
const mixture = `Two engines never compute the same last bits: a session that goes through other stages than
the undisturbed one, or whose stage was replaced by one of the other engine, may go on otherwise.`

// mixed reports whether nodes were told to use different engines.
func (r *Report) mixed() bool { return len(r.Engines) > 1 }

// engineText lists the engines.
func (r *Report) engineText() string {
	names := slices.Clone(r.Engines)
	for i, n := range names {
		if n == "" {
			names[i] = "whatever a node chooses"
		}
	}
	return strings.Join(names, ", ")
}

// most is how many failures the text report spells out.
const most = 20

// Write prints the report for a person.
func (r *Report) Write(out io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s: %d nodes, every span on %d, %d sessions at once, faults for %v (seed %d)\n",
		r.Scenario, r.Nodes, r.Replicas, r.AtOnce, time.Duration(r.Duration), r.Seed)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, line := range r.summary() {
		fmt.Fprintf(w, "  %s\t%s\n", line[0], line[1])
	}
	_ = w.Flush()
	r.writeNodes(b)
	r.writeStalls(b)
	r.writeFailures(b)
	_, err := io.WriteString(out, b.String())
	return err
}

// summary returns the report as pairs of label and value.
func (r *Report) summary() [][2]string {
	sessions := fmt.Sprintf("%d begun, %d finished", r.Sessions, r.Finished)
	if r.Refused > 0 {
		sessions += fmt.Sprintf(", %d refused at their beginning", r.Refused)
	}
	if r.Cancelled > 0 {
		sessions += fmt.Sprintf(", %d interrupted by the end of this run", r.Cancelled)
	}
	text := "all equal to the undisturbed run"
	if r.Differing > 0 {
		text = fmt.Sprintf("%d differ from the undisturbed run, %d of them only after a repair, %d that began with positions cached by an earlier session", r.Differing, r.After, r.Inherited)
	}
	lines := [][2]string{
		{"engines", r.engineText()},
		{"sessions", sessions},
		{"tokens", fmt.Sprintf("%d, of which %d lost, %d doubled, %d out of order; %.0f a second (undisturbed %.0f)", r.Tokens, r.Lost, r.Duplicated, r.Reordered, r.Rate, r.CalmRate)},
		{"texts", text},
		{"faults", r.faultText()},
		{"repairs", fmt.Sprintf("%d in %d sessions, %d positions computed again", r.Recoveries, r.Repaired, r.Replayed)},
	}
	if !r.mixed() && (len(r.Engines) == 0 || r.Engines[0] == "") {
		lines = lines[1:]
	}
	if r.Repaired > 0 {
		lines = append(lines,
			[2]string{"stall", r.Stall.String() + " (longest wait for a token, of each repaired session)"},
			[2]string{"repair", r.Repair.String() + " (of that, until a repair let tokens flow again)"},
		)
	}
	return append(lines,
		[2]string{"token to token", r.OtherGap.String() + " without a repair; undisturbed " + r.CalmGap.String()},
		[2]string{"first token", r.TTFT.String() + "; undisturbed " + r.CalmTTFT.String()},
	)
}

func (q Quantiles) String() string {
	if q.N == 0 {
		return "-"
	}
	return fmt.Sprintf("p50 %.0f ms, p99 %.0f ms, longest %.0f ms", q.P50, q.P99, q.Max)
}

func (r *Report) faultText() string {
	var all []string
	for _, kind := range kinds() {
		if n := r.Done[kind]; n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, kind))
		}
	}
	if len(all) == 0 {
		all = append(all, "none")
	}
	text := strings.Join(all, ", ")
	if r.Skipped > 0 {
		text += fmt.Sprintf("; %d were not done", r.Skipped)
	}
	return text
}

// states in the order in which the table has them.
var states = []string{Up, Slowed, CutOff, Leaving, Hung, Starting, Down}

func (r *Report) writeNodes(b *strings.Builder) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	shown := slices.DeleteFunc(slices.Clone(states), func(s string) bool {
		return !slices.ContainsFunc(r.NodeList, func(n NodeReport) bool { return n.Times[s] > 0 })
	})
	fmt.Fprintf(w, "\nNODE\tBLOCKS\tFAULTS\t%s\t\n", strings.ToUpper(strings.Join(shown, "\t")))
	for _, n := range r.NodeList {
		fmt.Fprintf(w, "%s\t%d-%d\t%d\t", n.Name, n.From, n.To, n.Faults)
		for _, s := range shown {
			if n.Times[s] == 0 {
				fmt.Fprint(w, "-\t")
			} else {
				fmt.Fprintf(w, "%s\t", n.Times[s])
			}
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	for _, f := range r.Faults {
		switch {
		case f.Skipped != "":
			fmt.Fprintf(b, "at %s, %s was not done: %s\n", f.Planned, f.Kind, f.Skipped)
		case f.Error != "":
			fmt.Fprintf(b, "at %s, %s failed: %s\n", f.At, f.what(), f.Error)
		}
	}
}

// told is how many of the longest stalls the text report spells out.
const told = 3

func (r *Report) writeStalls(b *strings.Builder) {
	for i, s := range r.Stalls[:min(told, len(r.Stalls))] {
		if i == 0 {
			b.WriteString("\nthe longest stalls:\n")
		}
		fmt.Fprintf(b, "session %d stalled for %.0f ms at %s\n", s.Session, s.Ms, s.At)
		writeRepairs(b, s.Recoveries)
	}
}

func writeRepairs(b *strings.Builder, all []Recovery) {
	for _, c := range all {
		fmt.Fprintf(b, "  repair at token %d, %.0f ms, %d positions again: %s\n", c.Token, c.StallMs, c.Replayed, c.Why)
	}
}

func (r *Report) writeFailures(b *strings.Builder) {
	for _, c := range slices.Concat(r.Crashes, r.Left) {
		fmt.Fprintf(b, "\n%s\n", c)
	}
	for i, f := range r.Failures {
		if i == most {
			fmt.Fprintf(b, "... and %d more; the report in JSON has them all\n", len(r.Failures)-most)
			break
		}
		if i == 0 {
			b.WriteString("\n")
		}
		f.write(b)
	}
	if r.Differing > 0 {
		fmt.Fprintf(b, "\n%s\n", r.explained())
	}
}

func (f *Failure) write(b *strings.Builder) {
	fmt.Fprintf(b, "session %d (worker %d, %s to %s, %q): %s, after %d tokens", f.Session, f.Worker, f.Begin, f.End, f.Prompt, f.What, f.Tokens)
	if f.Cached > 0 {
		fmt.Fprintf(b, "; %d positions were cached by an earlier session", f.Cached)
	}
	b.WriteString("\n")
	if f.Error != "" {
		fmt.Fprintf(b, "  error: %s\n", f.Error)
	}
	writeRepairs(b, f.Recoveries)
}

// explained says why texts may differ.
func (r *Report) explained() string {
	if r.mixed() {
		return exactness + "\n" + mixture
	}
	return exactness
}
