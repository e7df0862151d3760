package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/width"

	"github.com/shoalnet/shoal/node/api"
)

// draw returns the lines that show a snapshot on a terminal: none wider than columns
// and, unless height is 0, no more than fit. past has the tokens per second of the last
// seconds.
func draw(l look, past []float64, columns, height int, colour bool) []string {
	p := &page{width: max(columns, 20), colour: colour}
	p.head(l)
	p.serving(l.Serving)
	p.fetches(l.Fetches)
	rest := len(l.Peers) + 3
	if height > 0 {
		rest = height - len(p.lines) - 1
	}
	if height > 0 && rest > len(l.Peers)+5 && len(past) > 1 {
		p.chart(past)
		rest = height - len(p.lines) - 1
	}
	p.peers(l.Peers, rest)
	if height > 0 {
		if len(p.lines) > height-1 {
			p.lines = p.lines[:height-1]
		}
		for len(p.lines) < height-1 {
			p.lines = append(p.lines, "")
		}
		foot := "q quits"
		if l.API != "" {
			foot += "; the page is http://" + l.API
		}
		if l.Error != "" {
			foot = p.paint("1;31", cell(l.Error))
		}
		p.line(foot)
	}
	return p.lines
}

// page collects lines.
type page struct {
	width  int
	colour bool
	lines  []string
}

// paint colours a text with an SGR code of ECMA-48.
func (p *page) paint(sgr, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

// line adds a line, cut at the page's width. Escape sequences take no width.
func (p *page) line(s string) {
	var b strings.Builder
	n, escape := 0, false
	for _, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			w := runeWidth(r)
			if n+w > p.width {
				continue
			}
			n += w
		}
		b.WriteRune(r)
	}
	p.lines = append(p.lines, b.String())
}

// runeWidth returns the number of columns that a terminal uses for a character.
func runeWidth(r rune) int {
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

func textWidth(s string) (n int) {
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// fit makes a text n columns wide.
func fit(s string, n int) string {
	if w := textWidth(s); w <= n {
		return s + strings.Repeat(" ", n-w)
	}
	for textWidth(s) > max(0, n-1) {
		_, k := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-k]
	}
	return s + "…" + strings.Repeat(" ", max(0, n-1-textWidth(s)))
}

func (p *page) head(l look) {
	left := fmt.Sprintf("shoal top   node %s   up %s   version %s", machineText(l.Name, l.Peer), upText(l.UptimeS), cell(l.Version))
	clock := l.Time.Format(time.TimeOnly)
	if room := p.width - len(clock) - 2; room > 20 {
		left = fit(left, room) + "  " + clock
	}
	p.line(p.paint("1", left))
	if l.Paused != "" {
		p.line(p.paint("33", "paused: "+cell(l.Paused)))
	}
	kv := "none"
	if l.KVTokens > 0 {
		used := l.KVTokens - l.KVFree
		kv = fmt.Sprintf("%d of %d (%.0f %%)", used, l.KVTokens, 100*float64(used)/float64(l.KVTokens))
	}
	p.line(fmt.Sprintf("sessions  %-8d tokens/s  %s KV used  %s", l.Sessions, p.paint("1", fmt.Sprintf("%-8s", rate(l.TokensPerS))), kv))
	p.line(fmt.Sprintf("passes/s  %-8s rows/pass %-8s memory   %s of %s lent", rate(l.PassesPerS), rate(l.RowsPass), bytesText(l.MemoryUsed), bytesText(l.Memory)))
	p.line(fmt.Sprintf("queued    %-8d peers     %-8d models   %s on disk", l.Queued, len(l.Peers), bytesText(l.Disk)))
	p.line(fmt.Sprintf("sent      %s, %s/s; received %s, %s/s", bytesText(int64(l.Given)), bytesText(int64(l.GivenPerS)), bytesText(int64(l.Taken)), bytesText(int64(l.TakenPerS))))
	if l.Ahead != nil {
		p.line("answers   " + aheadText(l.Ahead))
	}
}

// aheadText says what the rows of guesses that were sent ahead brought.
func aheadText(a *api.Ahead) string {
	text := fmt.Sprintf("%d guesses sent ahead, %d kept", a.Sent, a.Kept)
	if a.Sent == 1 {
		text = fmt.Sprintf("1 guess sent ahead, %d kept", a.Kept)
	}
	if a.Gain > 0 {
		text += fmt.Sprintf(", %.1f times as fast", a.Gain)
	}
	return text
}

func upText(s int64) string {
	switch d := time.Duration(s) * time.Second; {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return d.String()
	}
}

func (p *page) title(s string) {
	p.line("")
	p.line(p.paint("7", fit(s, p.width)))
}

func (p *page) serving(list []api.Serving) {
	name := min(28, max(12, p.width-60))
	p.title(fmt.Sprintf("%s %-9s %4s %7s %8s %-15s", fit("SERVING", name), "BLOCKS", "SESS", "TOK/S", "STEP", "KV USED") + "  DEVICE, ENGINE")
	if len(list) == 0 {
		p.line("nothing")
	}
	for _, v := range list {
		row := fmt.Sprintf("%s %-9s ", fit(cell(v.Name), name), fmt.Sprintf("%d-%d", v.From, v.To))
		if v.KVTokens == 0 { // it has no engine yet
			p.line(row + p.paint("33", cell(v.State)))
			continue
		}
		used := float64(v.KVTokens-v.KVFree) / float64(v.KVTokens)
		row += fmt.Sprintf("%4d %7s %8s %s %3.0f %%", v.Sessions, rate(v.TokensPerS), fmt.Sprintf("%.1f ms", v.StepMs), bar(used, 10), 100*used)
		if v.Ready {
			row += "   " + cell(strings.Join(append(deviceNames(v.Devices), v.Engine), ", "))
		}
		p.line(row)
		if !v.Ready {
			p.line(p.paint("33", "  "+cell(v.State)))
		}
	}
}

// deviceNames drops a backend's name that the device's name repeats.
func deviceNames(devices []string) (out []string) {
	for _, d := range devices {
		backend, name, _ := strings.Cut(d, " ")
		if strings.HasPrefix(name, backend) {
			d = name
		}
		out = append(out, d)
	}
	return out
}

// bar draws a fraction as a bar n columns wide.
func bar(part float64, n int) string {
	k := min(n, max(0, int(part*float64(n)+0.5)))
	return strings.Repeat("█", k) + strings.Repeat("░", n-k)
}

func (p *page) fetches(list []api.Fetch) {
	if len(list) == 0 {
		return
	}
	name := min(28, max(12, p.width-60))
	p.title("FETCHING")
	for _, f := range list {
		part := float64(f.Done) / float64(max(1, f.Total))
		p.line(fmt.Sprintf("%s %s %3.0f %%  %s of %s, from %d peers", fit(cell(f.Name), name), bar(part, 20), 100*part, bytesText(f.Done), bytesText(f.Total), f.Sources))
	}
}

// chart draws the tokens per second of the last seconds.
func (p *page) chart(past []float64) {
	top := slices.Max(past)
	p.title(fmt.Sprintf("TOKENS/S  the last %d s, up to %s", min(len(past), p.width), rate(top)))
	var b strings.Builder
	for _, v := range past[max(0, len(past)-p.width):] {
		level := 0
		if top > 0 {
			level = int(v / top * 7.999)
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[level])
	}
	p.line(p.paint("36", b.String()))
}

// peers lists peers, nearest first, in at most room lines.
func (p *page) peers(list []api.Peer, room int) {
	p.title(fmt.Sprintf("%-10s %9s %-12s %-14s %s", fmt.Sprintf("PEERS %d", len(list)), "RTT", "VIA", "VERSION", "SERVES"))
	room -= 2
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b api.Peer) int { return cmp.Compare(a.RTTMs, b.RTTMs) })
	for i, v := range sorted {
		if i == room-1 && len(sorted) > room {
			p.line(fmt.Sprintf("… and %d more", len(sorted)-i))
			return
		}
		via := v.Transport
		if v.Relayed {
			via = p.paint("33", fit("relayed", 12))
		}
		p.line(fmt.Sprintf("%-10s %6.1f ms %s %s %s", fit(machineText(v.Name, v.Peer), 10), v.RTTMs, fit(cell(via), 12), fit(cell(strings.TrimPrefix(v.Version, "shoal/")), 14), cell(strings.Join(servesOf(v), ", "))))
	}
}
