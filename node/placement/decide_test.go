package placement

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

const ms = time.Millisecond

var noon = epoch.Add(12 * time.Hour)

// A model of 30 blocks of 100 MB.
var thirty = ModelInfo{ID: "M", Blocks: 30, BlockBytes: 100 * mb}

func span(text string) protocol.Span {
	s, err := protocol.ParseSpan(text)
	if err != nil {
		panic(err)
	}
	return s
}

// has is a peer that has served a span for an hour, at 100 rows a second for
// ten blocks, with so much load now and over ten minutes. It is trusted, so that
// its word counts.
func has(peer, of string, load float64) Peer {
	return Peer{ID: peer, Expires: noon.Add(time.Minute), Lent: 10 * gb, Trusted: true, Serves: []Served{
		{Model: "M", Span: span(of), Ready: true, Auto: true, Since: noon.Add(-time.Hour), Row: ms, Load: load, LoadLong: load}}}
}

func (p Peer) with(change func(*Peer, *Served)) Peer {
	p.Serves = slices.Clone(p.Serves)
	change(&p, &p.Serves[0])
	return p
}

func loaded(_ *Peer, s *Served) { s.Ready, s.Loaded = false, true }

func idler(peer string, lent int64) Peer {
	return Peer{ID: peer, Expires: noon.Add(time.Minute), Lent: lent}
}

func (d Decision) String() string {
	wait := ""
	if w := d.Due.Sub(noon); d.Action != Stay && w > 0 {
		wait = fmt.Sprintf(" in %s", w.Round(time.Second))
	}
	switch d.Action {
	case Serve:
		return fmt.Sprintf("%s %s%s", d.Model, d.Span, wait)
	case Leave:
		return "leave" + wait
	}
	return "stay"
}

func TestJoin(t *testing.T) {
	thirds := []Peer{has("a", "0-10", 0.3), has("b", "10-20", 0.3), has("c", "20-30", 0.3)}
	twice := append([]Peer{has("d", "0-10", 0.3), has("e", "10-20", 0.3), has("f", "20-30", 0.3)}, thirds...)
	hot := func(peers []Peer, who string) (out []Peer) {
		for _, p := range peers {
			if strings.Contains(who, p.ID) {
				p = p.with(func(_ *Peer, s *Served) { s.Load = 0.9 })
			}
			out = append(out, p)
		}
		return out
	}
	held := func(of string) map[string][]bool {
		list := make([]bool, 30)
		for b := span(of).From; b < span(of).To; b++ {
			list[b] = true
		}
		return map[string][]bool{"M": list}
	}
	coming := func(s string, ago time.Duration) Peer {
		return has("z", s, 0).with(func(_ *Peer, s *Served) { s.Ready, s.Since = false, noon.Add(-ago) })
	}
	for name, c := range map[string]struct {
		self  Self
		peers []Peer
		want  string
	}{
		"alone, all of it":                {Self{}, nil, "M 0-30"},
		"alone, equal parts":              {Self{Lent: 1700 * mb}, nil, "M 0-15"},
		"alone, what is on disk":          {Self{Lent: gb, Held: held("20-30")}, nil, "M 20-30"},
		"little of it is on disk":         {Self{Lent: gb, Held: held("29-30"), Download: 1e9}, nil, "M 0-10"},
		"too little memory":               {Self{Lent: 99 * mb}, nil, "stay"},
		"nothing lent":                    {Self{Lent: -1}, nil, "stay"},
		"served by the operator's choice": {Self{}, append([]Peer{has("self", "20-30", 0).with(func(_ *Peer, s *Served) { s.Auto = false })}, twice[:5]...), "stay"},
		"a gap":                           {Self{}, []Peer{thirds[0], thirds[2]}, "M 10-20"},
		"a gap and half the room":         {Self{Lent: 600 * mb}, []Peer{thirds[0], thirds[2], idler("h", gb)}, "M 10-15"},
		"two gaps with what is between":   {Self{}, []Peer{thirds[1]}, "M 0-30"},
		"overlapping spans do not join":   {Self{}, []Peer{has("a", "0-16", 0), has("b", "12-30", 0)}, "M 0-12"},
		"a gap goes before what is hot":   {Self{}, []Peer{has("a", "0-10", 1), has("b", "10-20", 1)}, "M 20-30"},
		"a ghost":                         {Self{}, []Peer{thirds[0], thirds[1], thirds[2].with(func(p *Peer, _ *Served) { p.Expires = noon })}, "M 20-30"},
		"somebody is about to":            {Self{}, append(slices.Clone(thirds), coming("0-30", time.Minute)), "stay"},
		"somebody is too long about it":   {Self{}, []Peer{thirds[0], thirds[1], coming("20-30", time.Hour)}, "M 20-30"},
		"somebody will leave it":          {Self{}, []Peer{thirds[0], thirds[1], thirds[2].with(func(p *Peer, _ *Served) { p.Serves = append(coming("0-5", 0).Serves, p.Serves...) })}, "M 20-30"},
		"too few copies":                  {Self{}, thirds, "M 0-30"},
		"too few copies of one span":      {Self{}, twice[1:], "M 0-10"},
		"the weakest of the spans":        {Self{Lent: gb}, []Peer{thirds[0], thirds[1].with(func(_ *Peer, s *Served) { s.Row = 9 * ms }), thirds[2]}, "M 10-20"},
		"enough copies":                   {Self{}, twice, "stay"},
		"a hot span":                      {Self{Lent: gb}, hot(twice, "be"), "M 10-20"},
		"a hot model":                     {Self{}, hot(twice, "abcdef"), "M 0-30"},
		"two hot spans":                   {Self{Lent: 2 * gb}, hot(twice, "becf"), "M 10-30"},
		"hot, but it takes too long":      {Self{Lent: gb, Download: 5e5}, hot(twice, "be"), "stay"},
		"hot, but of it only one is":      {Self{Lent: gb}, hot(twice, "b"), "stay"},
		"refused by one of two":           {Self{Lent: gb}, append(slices.Clone(twice[:3]), thirds[0].with(func(_ *Peer, s *Served) { s.Refused = 0.1 }), thirds[1], thirds[2]), "stay"},
		"refused by all":                  {Self{Lent: gb}, append(slices.Clone(twice[1:3]), thirds[0].with(func(_ *Peer, s *Served) { s.Refused = 0.2 }), thirds[1], thirds[2]), "M 0-10"},
		"no span fits, and nobody helps":  {Self{Lent: gb}, []Peer{has("a", "0-30", 0.9), has("b", "0-30", 0.9)}, "stay"},
		"no span fits, but others help":   {Self{Lent: gb}, []Peer{has("a", "0-30", 0.9), has("b", "0-30", 0.9), idler("h", gb), idler("i", gb)}, "M 0-10"},
		"one is begun again":              {Self{Lent: gb}, []Peer{has("a", "0-30", 0.9), has("b", "0-30", 0.9), coming("0-10", 0), idler("i", gb)}, "M 10-20"},
		"no sense in the figures":         {Self{Lent: gb, Speed: math.NaN(), Download: math.Inf(-1)}, []Peer{has("a", "0-30", math.NaN())}, "stay"},
	} {
		switch c.self.ID = "self"; c.self.Lent {
		case 0:
			c.self.Lent = 10 * gb
		case -1:
			c.self.Lent = 0
		}
		if c.self.Download == 0 {
			c.self.Download = 1e8
		}
		d := DefaultRules().Decide(noon, c.self, c.peers, []ModelInfo{thirty})
		d.Due = noon // who waits how long is another test's
		if d.String() != c.want {
			t.Errorf("%s: %s, want %s (%s)", name, d, c.want, d.Reason)
		}
	}
}

func TestReview(t *testing.T) {
	self := has("self", "0-10", 0.3)
	rest := []Peer{has("b", "10-20", 0.3), has("c", "20-30", 0.3)}
	group := func(peers ...Peer) []Peer { return append(peers, rest...) }
	others := func(n int, load float64) (list []Peer) {
		for i := range n {
			list = append(list, has(fmt.Sprint("o", i), "0-10", load))
		}
		return list
	}
	other := ModelInfo{ID: "N", Blocks: 10, BlockBytes: 100 * mb}
	busy := func(id string, load float64) Peer {
		return has(id, "0-10", load).with(func(_ *Peer, s *Served) { s.Model = "N" })
	}
	for name, c := range map[string]struct {
		self  Peer
		peers []Peer
		want  string
	}{
		"relied on":                    {self, group(), "stay"},
		"two copies, both kept":        {self, group(others(1, 0)...), "stay"},
		"three copies, idle":           {has("self", "0-10", 0), []Peer{has("o", "0-10", 0), has("o2", "0-10", 0), has("b", "10-20", 0.1), has("c", "20-30", 0.1)}, "leave"},
		"three copies, not idle":       {has("self", "0-10", 0.5), group(others(2, 0.5)...), "stay"},
		"idle, but not for long":       {has("self", "0-10", 0), []Peer{has("o", "0-10", 0).with(func(_ *Peer, s *Served) { s.LoadLong = 0.9 }), has("o2", "0-10", 0), has("b", "10-20", 0), has("c", "20-30", 0)}, "stay"},
		"idle, but the model is not":   {has("self", "0-10", 0.1), []Peer{has("o", "0-10", 0.1), has("o2", "0-10", 0.1), has("b", "10-20", 0.7), has("b2", "10-20", 0.7), has("c", "20-30", 0.1)}, "stay"},
		"the others are not ready":     {has("self", "0-10", 0), group(has("o", "0-10", 0).with(func(_ *Peer, s *Served) { s.Ready = false }), has("o2", "0-10", 0)), "stay"},
		"the others have not settled":  {has("self", "0-10", 0), group(has("o", "0-10", 0).with(func(_ *Peer, s *Served) { s.Since = noon.Add(-9 * time.Second) }), has("o2", "0-10", 0)), "stay"},
		"the others are not proven":    {has("self", "0-10", 0), group(has("o", "0-10", 0).with(loaded), has("o2", "0-10", 0)), "stay"},
		"the others are ghosts":        {has("self", "0-10", 0), group(has("o", "0-10", 0).with(func(p *Peer, _ *Served) { p.Expires = noon }), has("o2", "0-10", 0)), "stay"},
		"not long enough there":        {has("self", "0-10", 0).with(func(_ *Peer, s *Served) { s.Since = noon.Add(-time.Minute) }), group(others(4, 0)...), "stay"},
		"not ready":                    {has("self", "0-10", 0).with(func(_ *Peer, s *Served) { s.Ready = false }), group(others(4, 0)...), "stay"},
		"another model is hot":         {self, append(group(others(1, 0.2)...), busy("x", 1), busy("y", 1)), "N 0-10"},
		"it is hot, but so is this":    {has("self", "0-10", 0.7), append(group(others(1, 0.7)...), busy("x", 1), busy("y", 1)), "stay"},
		"it is hot, but this would be": {has("self", "0-10", 0.5), append(group(others(1, 0.5)...), busy("x", 1), busy("y", 1)), "stay"},
		"it is hot, but needs us here": {self, append(group(), busy("x", 1), busy("y", 1)), "stay"},
		"another has a gap":            {self, append(group(others(1, 0.2)...), has("x", "0-4", 0).with(func(_ *Peer, s *Served) { s.Model = "N" })), "N 4-10"},
		"a gap, but who would stay?":   {self, append(group(), has("x", "0-4", 0).with(func(_ *Peer, s *Served) { s.Model = "N" })), "stay"},
		"a gap beside it":              {self, rest[:1], "M 0-30"},
		"a gap, and no room for it":    {self.with(func(p *Peer, _ *Served) { p.Lent = gb }), rest[:1], "stay"},
		"the rest was lost":            {self, nil, "M 0-30"},
		"spans miss each other":        {has("self", "0-16", 0), []Peer{has("b", "14-30", 0)}, "M 0-14"},
		"its model is not allowed":     {busy("self", 0).with(func(_ *Peer, s *Served) { s.Model = "X" }), nil, "stay"},
	} {
		// The node that is asked comes first in no order: whoever else is free
		// goes first, or waits.
		peers := append([]Peer{c.self}, c.peers...)
		models := []ModelInfo{thirty}
		if strings.Contains(name, "hot") || strings.Contains(name, "gap") && !strings.Contains(name, "it") {
			models = append(models, other)
		}
		id := first("self", func(id string) bool {
			d := decideAs(c.self, id, peers, models)
			return d.Action != Stay
		})
		d := decideAs(c.self, id, peers, models)
		wait := d.Due.Sub(noon)
		d.Due = noon
		if d.String() != c.want {
			t.Errorf("%s: %s, want %s (%s)", name, d, c.want, d.Reason)
		}
		if d.Action != Stay && wait < DefaultRules().Slot {
			t.Errorf("%s: after only %s", name, wait)
		}
	}
}

// first tries names until one is right: which of several equal nodes goes
// depends on their names. It gives any, if none is.
func first(name string, ok func(string) bool) string {
	for i := range 200 {
		if id := fmt.Sprint(name, i); ok(id) {
			return id
		}
	}
	return name
}

// decideAs asks a node that serves something what to do under another name.
func decideAs(p Peer, id string, peers []Peer, models []ModelInfo) Decision {
	return DefaultRules().Decide(noon, Self{ID: id, Lent: p.Lent, Download: 1e8, Serving: &p.Serves[0]}, peers[1:], models)
}

// A span that would be left to strangers is left only if they answer, one has been
// known for a day, and they are not all of one group of addresses.
func TestLeavesToStrangers(t *testing.T) {
	other := func(id, group string, met, answered time.Duration) Peer {
		return has(id, "0-30", 0).with(func(p *Peer, s *Served) {
			p.Trusted, p.Met, p.Group = false, noon.Add(-met), group
			s.Auto, s.First, s.Answered = false, noon.Add(-met), noon.Add(-answered)
		})
	}
	const day, soon = 25 * time.Hour, time.Minute
	trusted := has("t", "0-30", 0).with(func(_ *Peer, s *Served) { s.Auto = false })
	for name, c := range map[string]struct {
		peers []Peer
		want  string
	}{
		"old ones of two groups":           {[]Peer{other("a", "1", day, soon), other("b", "2", day, soon)}, "leave"},
		"one of them is young":             {[]Peer{other("a", "1", day, soon), other("b", "2", soon, soon)}, "leave"},
		"all are young":                    {[]Peer{other("a", "1", time.Hour, soon), other("b", "2", time.Hour, soon), other("c", "3", time.Hour, soon)}, "stay"},
		"all are of one group":             {[]Peer{other("a", "1", day, soon), other("b", "1", day, soon), other("c", "1", day, soon)}, "stay"},
		"one does not answer":              {[]Peer{other("a", "1", day, soon), other("b", "2", day, 11*time.Minute)}, "stay"},
		"none ever answered":               {[]Peer{other("a", "1", day, 100*365*day), other("b", "2", day, 100*365*day)}, "stay"},
		"one has only begun to":            {[]Peer{other("a", "1", day, soon), other("b", "2", day, soon).with(func(_ *Peer, s *Served) { s.First = noon.Add(-time.Second) })}, "stay"},
		"one is trusted, and one is young": {[]Peer{trusted, other("b", "2", time.Hour, soon)}, "leave"},
	} {
		self := has("self", "0-30", 0)
		id := first("self", func(id string) bool {
			return decideAs(self, id, append([]Peer{self}, c.peers...), []ModelInfo{thirty}).Action != Stay
		})
		d := decideAs(self, id, append([]Peer{self}, c.peers...), []ModelInfo{thirty})
		d.Due = noon
		if d.String() != c.want {
			t.Errorf("%s: %s, want %s (%s)", name, d, c.want, d.Reason)
		}
	}
}

// Of many equal nodes as many go as are needed, and the others wait.
func TestTurns(t *testing.T) {
	peers := []Peer{has("a", "0-30", 1), has("b", "0-30", 1)}
	for i := range 50 {
		peers = append(peers, idler(fmt.Sprint("i", i), 10*gb))
	}
	waits := func(peers []Peer) (atOnce int, longest time.Duration) {
		for _, p := range peers {
			if len(p.Serves) > 0 {
				continue
			}
			d := DefaultRules().Decide(noon, Self{ID: p.ID, Lent: p.Lent, Download: 1e12}, peers, []ModelInfo{thirty})
			wait := d.Due.Sub(noon)
			if d.Action == Serve && wait < DefaultRules().Slot {
				atOnce++
			}
			longest = max(longest, wait)
		}
		return atOnce, longest
	}
	// Two do all that is asked for; 0.6 of what servers can do is the goal.
	if n, longest := waits(peers); n != 2 || longest > 90*time.Second {
		t.Errorf("%d at once, the last after %s", n, longest)
	}
	if n, _ := waits(append(peers, has("c", "0-30", 1).with(func(_ *Peer, s *Served) { s.Ready, s.Since = false, noon }))); n != 0 {
		t.Errorf("%d at once, though one is about to", n)
	}
	if n, _ := waits(peers[2:]); n != 1 {
		t.Errorf("%d at once for a model that nobody serves", n)
	}
	// Who has it on disk goes first, who may not does not count.
	held := map[string][]bool{"M": make([]bool, 30)}
	for b := range held["M"] {
		held["M"][b] = true
	}
	peers[7].Held = held
	for i, p := range peers[2:] {
		d := DefaultRules().Decide(noon, Self{ID: p.ID, Lent: p.Lent, Download: 1e12, Held: p.Held}, peers[2:], []ModelInfo{thirty})
		if now := d.Due.Sub(noon) < time.Second; now != (i == 5) {
			t.Errorf("%s: %s", p.ID, d)
		}
	}
	for i := range peers {
		peers[i].Takes = []string{"N"}
	}
	for _, p := range peers[2:] {
		d := DefaultRules().Decide(noon, Self{ID: p.ID, Lent: p.Lent, Download: 1e12}, peers[2:], []ModelInfo{thirty})
		if d.Due.Sub(noon) > time.Second {
			t.Errorf("%s: %s", p.ID, d)
		}
	}
}

// A wait is not begun anew by being asked again, and is over when the need is.
func TestWaiting(t *testing.T) {
	r, self := DefaultRules(), Self{ID: "self", Lent: 10 * gb}
	peers := []Peer{idler("a", 10*gb)}
	self.ID = first("self", func(id string) bool {
		return r.Decide(noon, Self{ID: id, Lent: 10 * gb}, peers, []ModelInfo{thirty}).Due.Sub(noon) >= r.Slot
	})
	d := r.Decide(noon, self, peers, []ModelInfo{thirty})
	self.Last = d
	later := r.Decide(noon.Add(10*time.Second), self, peers, []ModelInfo{thirty})
	if d.Action != Serve || later.Action != Serve || !later.Due.Equal(d.Due) {
		t.Errorf("%s, then %s", d, later)
	}
	peers = append(peers, has("b", "0-30", 0), has("c", "0-30", 0))
	if now := r.Decide(noon.Add(20*time.Second), self, peers, []ModelInfo{thirty}); now.Action != Stay {
		t.Error(now)
	}
}

// Whatever peers claim, there is no panic, and what comes out can be served.
func FuzzDecide(f *testing.F) {
	f.Add(0, 10, int64(1), 0.5, 0.1, 5*gb, 10, 30, true)
	f.Fuzz(func(t *testing.T, from, to int, row int64, load, refused float64, lent int64, from2, to2 int, ready bool) {
		a := Served{Model: "M", Span: protocol.Span{From: from, To: to}, Ready: ready, Auto: ready, Row: time.Duration(row), Load: load, LoadLong: refused, Refused: refused, Since: noon.Add(time.Duration(row))}
		b := Served{Model: "M", Span: protocol.Span{From: from2, To: to2}, Ready: true, Auto: true, Row: time.Duration(lent), Load: refused, LoadLong: load, Refused: load}
		c := b
		c.First, c.Answered = noon.Add(-time.Duration(row)), noon.Add(-time.Duration(lent))
		peers := []Peer{{ID: "a", Expires: noon.Add(1), Lent: lent, Serves: []Served{a, b}, Trusted: ready}, {ID: "d", Expires: noon.Add(1), Lent: lent, Serves: []Served{c}, Met: noon.Add(-time.Duration(lent))}, {ID: "b", Expires: noon.Add(1), Lent: row, Serves: []Served{b}}, {ID: "c", Expires: noon.Add(1), Lent: lent}}
		for _, self := range []Self{{ID: "self", Lent: lent, Speed: load, Download: refused}, {ID: "a", Lent: lent, Serving: &a}, {ID: "b", Lent: lent, Serving: &b, Speed: load, Download: load}} {
			d := DefaultRules().Decide(noon, self, peers, []ModelInfo{thirty, {ID: "N"}})
			if d.Action == Serve && (!d.Span.Valid(30) || thirty.Bytes(d.Span) > lent) {
				t.Fatal(d)
			}
			if d.Action != Stay && (d.Due.Before(noon) || d.Due.After(noon.Add(time.Hour))) {
				t.Fatal(d.Due)
			}
		}
	})
}
