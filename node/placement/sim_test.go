package placement

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// A network in virtual time: nodes that know each other by offers which take
// some seconds to arrive, downloads that take bytes over rate, and a demand by
// model that is spread over whoever serves. Every second the whole is checked:
// a model that was whole stays whole.

const (
	offerLife = time.Minute      // of a simulated offer, issued every tick
	tick      = 10 * time.Second // between two decisions of a node
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type simNode struct {
	Self
	from  time.Duration // joins then
	dies  time.Duration // without a word; 0: never
	fixed *Served       // its operator's choice
	lies  string        // what it serves is not there: "" it tells the truth, "mute", or "answers" probes
	met   time.Duration // before the simulation begins
	group string        // of addresses; "": its own

	next            *Served // announced, not ready
	fetched, loaded time.Duration
	load, refused   []float64 // by second, since the span is served
	sent            []sentOffer
}

type sentOffer struct {
	at   time.Duration
	peer Peer
}

type sim struct {
	t      testing.TB
	out    *strings.Builder // nil: nothing is written
	last   string           // line of it
	rules  Rules
	models []ModelInfo
	nodes  []*simNode
	demand func(model string, at time.Duration) float64 // rows a second

	now      time.Duration
	whole    map[string]bool
	moves    int // decisions to serve or leave that were carried out
	lastMove time.Duration
	asked    map[string]float64
	done     map[string]float64
	minute   time.Duration // between two summaries
	cover    map[string][]bool
	delays   map[[2]string]time.Duration
}

func newSim(t testing.TB, models []ModelInfo, demand func(string, time.Duration) float64) *sim {
	return &sim{t: t, rules: DefaultRules(), models: models, demand: demand, minute: time.Minute,
		whole: map[string]bool{}, cover: map[string][]bool{}, delays: map[[2]string]time.Duration{}, asked: map[string]float64{}, done: map[string]float64{}}
}

// printf writes a line, unless it says what the last one said.
func (s *sim) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if s.out != nil && line != s.last {
		sec := int(s.now.Seconds())
		fmt.Fprintf(s.out, "%02d:%02d %s\n", sec/60, sec%60, line)
		s.last = line
	}
}

func (s *sim) model(id string) *ModelInfo {
	return &s.models[slices.IndexFunc(s.models, func(m ModelInfo) bool { return m.ID == id })]
}

func (n *simNode) alive(now time.Duration) bool {
	return now >= n.from && (n.dies == 0 || now < n.dies)
}

// served are the spans that sessions can use.
func (n *simNode) served() (list []*Served) {
	if n.lies != "" {
		return nil
	}
	for _, s := range []*Served{n.fixed, n.Serving} {
		if s != nil && s.Loaded {
			list = append(list, s)
		}
	}
	return list
}

// delay is what an offer takes from one node to another: one to five seconds.
func (s *sim) delay(from, to string) time.Duration {
	d, ok := s.delays[[2]string{from, to}]
	if !ok {
		d = time.Duration(1+order(from, to)%5) * time.Second
		s.delays[[2]string{from, to}] = d
	}
	return d
}

// issue sends a node's offer.
func (s *sim) issue(n *simNode) {
	p := Peer{ID: n.ID, Expires: epoch.Add(s.now + offerLife), Lent: n.Lent, Held: map[string][]bool{}}
	for m, held := range n.Held {
		p.Held[m] = slices.Clone(held)
	}
	for _, x := range []*Served{n.fixed, n.Serving, n.next} {
		if x != nil {
			p.Serves = append(p.Serves, *x)
		}
	}
	n.sent = append(n.sent, sentOffer{s.now, p})
	for len(n.sent) > 2 && s.now-n.sent[1].at > 10*time.Second {
		n.sent = n.sent[1:]
	}
}

// sees are the offers that have reached a node.
func (s *sim) sees(n *simNode) (list []Peer) {
	for _, q := range s.nodes {
		for i := len(q.sent) - 1; i >= 0; i-- {
			if q == n || q.sent[i].at+s.delay(q.ID, n.ID) <= s.now {
				list = append(list, s.witnessed(q, q.sent[i].peer))
				break
			}
		}
	}
	return list
}

// witnessed is an offer with what other nodes know of its node: that it answers,
// if it does; and unless something else is said, they have known it for long.
func (s *sim) witnessed(q *simNode, p Peer) Peer {
	p.Met, p.Group = epoch.Add(-q.met), cmp.Or(q.group, q.ID)
	if q.met == 0 {
		p.Met = epoch.Add(-48 * time.Hour)
	}
	p.Serves = slices.Clone(p.Serves)
	for i := range p.Serves {
		if x := &p.Serves[i]; x.Ready && q.lies != "mute" {
			x.First, x.Answered = x.Since, epoch.Add(s.now)
		}
	}
	return p
}

// supply is the rows a second by block that a model's joined ready spans do.
func (s *sim) supply(m *ModelInfo) (by []float64, in func(protocol.Span) bool, whole bool) {
	var spans []protocol.Span
	s.each(m.ID, func(_ *simNode, x *Served) { spans = append(spans, x.Span) })
	in = joined(m.Blocks, spans)
	by = make([]float64, m.Blocks)
	s.each(m.ID, func(_ *simNode, x *Served) {
		for b := x.Span.From; in(x.Span) && b < x.Span.To; b++ {
			by[b] += 1 / (x.Row.Seconds() * float64(x.Span.Len()))
		}
	})
	return by, in, len(m.Cuts.Missing(m.Blocks, spans)) == 0
}

func (s *sim) each(model string, f func(*simNode, *Served)) {
	for _, n := range s.nodes {
		if !n.alive(s.now) {
			continue
		}
		for _, x := range n.served() {
			if x.Model == model {
				f(n, x)
			}
		}
	}
}

// work spreads the demand of this second.
func (s *sim) work() {
	for i := range s.models {
		m := &s.models[i]
		by, in, whole := s.supply(m)
		if s.whole[m.ID] && !whole && !s.died() {
			s.t.Fatalf("%s: %s is not whole any more: %v\n%s", s.now, m.ID, by, s.out)
		}
		s.covered(m)
		if whole != s.whole[m.ID] {
			s.printf("%s %s", m.ID, map[bool]string{true: "is whole", false: "is not whole any more"}[whole])
		}
		s.whole[m.ID] = whole
		asked := s.demand(m.ID, s.now)
		done := min(asked, slices.Min(by))
		s.asked[m.ID] += asked
		s.done[m.ID] += done
		s.each(m.ID, func(n *simNode, x *Served) {
			if !x.Ready && in(x.Span) && epoch.Add(s.now).Sub(x.Since) > 2*time.Second { // a probe comes through
				x.Ready, x.Since = true, epoch.Add(s.now)
			}
			load, refused := 0.0, 0.0
			for b := x.Span.From; in(x.Span) && b < x.Span.To; b++ {
				load = max(load, min(1, done/max(by[b], 1e-9)))
			}
			if load > 0.999 && asked > done {
				refused = 1 - done/asked
			}
			n.load, n.refused = append(n.load, load), append(n.refused, refused)
			x.Load, x.LoadLong, x.Refused = mean(n.load, 60), mean(n.load, 600), mean(n.refused, 60)
		})
	}
}

// covered fails when a block that was served is no more, unless a node of a
// model that is not whole is on its way to mend it.
func (s *sim) covered(m *ModelInfo) {
	now := make([]bool, m.Blocks)
	s.each(m.ID, func(_ *simNode, x *Served) {
		for b := x.Span.From; b < x.Span.To; b++ {
			now[b] = true
		}
	})
	mends := slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.next != nil && n.next.Model == m.ID })
	for b, was := range s.cover[m.ID] {
		if was && !now[b] && !s.died() && (s.whole[m.ID] || !mends) {
			s.t.Fatalf("%s: block %d of %s is left", s.now, b, m.ID)
		}
	}
	s.cover[m.ID] = now
}

func mean(list []float64, last int) (sum float64) {
	list = list[max(0, len(list)-last):]
	for _, x := range list {
		sum += x
	}
	return sum / float64(max(1, len(list)))
}

func (s *sim) died() bool {
	return slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.dies == s.now && n.dies > 0 })
}

// decide asks a node what to do, and does it.
func (s *sim) decide(n *simNode) {
	d := s.rules.Decide(epoch.Add(s.now), n.Self, s.sees(n), s.models)
	n.Last = d
	if d.Action == Stay || epoch.Add(s.now).Before(d.Due) {
		return
	}
	s.moves, s.lastMove = s.moves+1, s.now
	n.Last = Decision{}
	if d.Action == Leave {
		s.printf("%s leaves %s %s: %s", n.ID, d.Model, d.Span, d.Reason)
		n.Serving, n.load, n.refused = nil, nil, nil
		return
	}
	m := s.model(d.Model)
	bytes := float64(lacking(n.Held[d.Model], d.Span)) * float64(m.BlockBytes)
	fetch := time.Duration(math.Ceil(bytes/n.Download)) * time.Second
	verb := "joins"
	if n.Serving != nil {
		verb = fmt.Sprintf("moves from %s %s to", n.Serving.Model, n.Serving.Span)
	}
	s.printf("%s %s %s %s, %.0f MB in %.0f s: %s", n.ID, verb, d.Model, d.Span, bytes/1e6, fetch.Seconds(), d.Reason)
	n.fetched, n.loaded = s.now+fetch, s.now+fetch+LoadTime
	n.next = &Served{Model: d.Model, Span: d.Span, Auto: true, Since: epoch.Add(s.now),
		Row: time.Duration(float64(m.BlockBytes) / n.Speed * float64(time.Second))}
}

// progress says whether something about a node has changed.
func (s *sim) progress(n *simNode) bool {
	if n.next == nil {
		return false
	}
	switch s.now {
	case n.fetched: // the old span goes, the new one is loaded
		n.Serving, n.load, n.refused = nil, nil, nil
		held := n.Held[n.next.Model]
		if held == nil {
			held = make([]bool, s.model(n.next.Model).Blocks)
			n.Held[n.next.Model] = held
		}
		for b := n.next.Span.From; b < n.next.Span.To; b++ {
			held[b] = true
		}
	case n.loaded:
		n.next.Loaded, n.next.Since = true, epoch.Add(s.now)
		n.Serving, n.next = n.next, nil
		s.printf("%s serves %s %s", n.ID, n.Serving.Model, n.Serving.Span)
	default:
		return false
	}
	return true
}

// step is one second.
func (s *sim) step() {
	for i, n := range s.nodes {
		switch {
		case n.dies == s.now && n.dies > 0:
			s.printf("%s dies", n.ID)
		case !n.alive(s.now):
			continue
		case n.from == s.now && n.from > 2*time.Minute:
			s.printf("%s comes, with %.1f GB", n.ID, float64(n.Lent)/1e9)
		}
		if !n.alive(s.now) {
			continue
		}
		change := s.progress(n)
		// Each decides in a second of its own, and when its wait is over.
		turn := (int(s.now.Seconds())+7*i)%int(tick.Seconds()) == 0
		if n.next == nil && (turn || n.Last.Action != Stay && !epoch.Add(s.now).Before(n.Last.Due)) {
			before := s.moves
			s.decide(n)
			change = change || s.moves != before
		}
		if change || turn || len(n.sent) == 0 {
			s.issue(n)
		}
	}
	s.work()
	if s.now%s.minute == 0 && s.now > 0 {
		s.summary()
	}
	s.now += time.Second
}

// summary is a line of what the last minute was like.
func (s *sim) summary() {
	var parts []string
	idle := 0
	for _, n := range s.nodes {
		if n.alive(s.now) && len(n.served()) == 0 && n.next == nil {
			idle++
		}
	}
	for i := range s.models {
		m := &s.models[i]
		copies := make([]int, m.Blocks)
		servers, coming := 0, 0
		s.each(m.ID, func(_ *simNode, x *Served) {
			servers++
			for b := x.Span.From; b < x.Span.To; b++ {
				copies[b]++
			}
		})
		for _, n := range s.nodes {
			if n.alive(s.now) && n.next != nil && n.next.Model == m.ID {
				coming++
			}
		}
		secs := s.minute.Seconds()
		parts = append(parts, fmt.Sprintf("%s %d servers +%d, copies %d-%d, %.0f of %.0f rows/s", m.ID, servers, coming,
			slices.Min(copies), slices.Max(copies), s.done[m.ID]/secs, s.asked[m.ID]/secs))
		s.asked[m.ID], s.done[m.ID] = 0, 0
	}
	s.printf("-- %s; %d idle, %d moves", strings.Join(parts, "; "), idle, s.moves)
}

func (s *sim) run(until time.Duration) {
	for s.now <= until {
		s.step()
	}
}

// count is how many servers a model has.
func (s *sim) count(model string) (n int) {
	s.each(model, func(*simNode, *Served) { n++ })
	return n
}

func (s *sim) copiesOf(model string) int {
	copies := make([]int, s.model(model).Blocks)
	s.each(model, func(_ *simNode, x *Served) {
		for b := x.Span.From; b < x.Span.To; b++ {
			copies[b]++
		}
	})
	return slices.Min(copies)
}

// capacity is what a model can do, in rows a second.
func (s *sim) capacity(model string) float64 {
	by, _, _ := s.supply(s.model(model))
	return slices.Min(by)
}

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

// golden compares a transcript with the one that was reviewed. Processors that
// fuse a product with a sum differ in last digits, and so, now and then, in who
// comes first.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		return
	}
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("%s:%d: now\n%s\nwas\n%s\n(go test ./node/route -update, then review the difference)", path, i+1, a[i], b[i])
		}
	}
	if len(a) != len(b) {
		t.Fatalf("%s: %d lines, was %d", path, len(a), len(b))
	}
}

const mb, gb = int64(1e6), int64(1e9)

// The sizes of models of 8, 3 and 1 billion parameters in 4 bits.
var (
	modelA = ModelInfo{ID: "A", Blocks: 32, BlockBytes: 128 * mb, EmbedBytes: 280 * mb, HeadBytes: 430 * mb, KVBytes: 4096, KVTokens: 4096}
	modelB = ModelInfo{ID: "B", Blocks: 28, BlockBytes: 58 * mb, EmbedBytes: 320 * mb, HeadBytes: 320 * mb, KVBytes: 4096, KVTokens: 4096}
	modelC = ModelInfo{ID: "C", Blocks: 16, BlockBytes: 35 * mb, EmbedBytes: 200 * mb, HeadBytes: 200 * mb, KVBytes: 2048, KVTokens: 4096}
)

func many(n int) (list []*simNode) {
	for i := range n {
		id := fmt.Sprintf("n%03d", i+1)
		draw := func(what string, from, to float64) float64 {
			return from + float64(order(id, what)%1000)/1000*(to-from)
		}
		list = append(list, &simNode{
			Self: Self{ID: id, Lent: int64(draw("memory", 1, 3.5) * 1e9), Speed: draw("speed", 60e9, 240e9),
				Download: draw("download", 20e6, 100e6), Held: map[string][]bool{}},
			from: time.Duration(draw("from", 0, 60)) * time.Second,
		})
	}
	return list
}

// start gives a node a span that it has served for long.
func start(id, model, of string, lent int64, speed float64, m ModelInfo) *simNode {
	held := make([]bool, m.Blocks)
	for b := span(of).From; b < span(of).To; b++ {
		held[b] = true
	}
	return &simNode{Self: Self{ID: id, Lent: lent, Speed: speed, Download: 50e6, Held: map[string][]bool{model: held},
		Serving: &Served{Model: model, Span: span(of), Ready: true, Loaded: true, Auto: true, Since: epoch.Add(-time.Hour), Row: time.Duration(float64(m.BlockBytes) / speed * 1e9)}}}
}
