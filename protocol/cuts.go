package protocol

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
)

// ErrCut is wrapped when blocks of a model cannot be computed apart from others.
var ErrCut = errors.New("the model cannot be cut there")

// Cuts says into which spans a model may be cut. A nil *Cuts allows all. The whole
// model is always allowed. It is safe for concurrent use, as nothing changes it.
type Cuts struct {
	Blocks int    `json:"blocks"`           // of the model
	Edges  []int  `json:"edges"`            // blocks before which a cut may be, ascending; the model's ends are not among them
	Needs  []Need `json:"needs,omitempty"`  // each span has a block of each
	Not    []int  `json:"not,omitempty"`    // lengths that no span may have
	Why    string `json:"reason,omitempty"` // why not everywhere: "each part ..."
}

// Need is a kind of block that no span may be without.
type Need struct {
	Kind   string `json:"kind"`
	Blocks []int  `json:"blocks"` // those of the kind, ascending
}

// Anywhere reports whether every span is allowed.
func (c *Cuts) Anywhere() bool {
	return c == nil || len(c.Edges) == c.Blocks-1 && len(c.Needs) == 0 && len(c.Not) == 0
}

// Allows reports whether a span may be computed apart from the other blocks.
func (c *Cuts) Allows(s Span) bool {
	switch {
	case c == nil:
		return true
	case !s.Valid(c.Blocks):
		return false
	case s.Len() == c.Blocks:
		return true
	case !c.edge(s.From), !c.edge(s.To), slices.Contains(c.Not, s.Len()):
		return false
	}
	for _, n := range c.Needs {
		if i, _ := slices.BinarySearch(n.Blocks, s.From); i == len(n.Blocks) || n.Blocks[i] >= s.To {
			return false
		}
	}
	return true
}

func (c *Cuts) edge(at int) bool {
	if at == 0 || at == c.Blocks {
		return true
	}
	_, ok := slices.BinarySearch(c.Edges, at)
	return ok
}

// Check returns an ErrCut that names the reason and the nearest spans that are allowed
// where a span of the model is not.
func (c *Cuts) Check(s Span, model string) error {
	if c.Allows(s) {
		return nil
	}
	near := c.Nearest(s)
	words := make([]string, len(near))
	for i, n := range near {
		words[i] = n.String()
	}
	last := len(words) - 1
	list := strings.Join(words[:last], ", ") + " or " + words[last]
	if last == 0 {
		list = words[0]
	}
	return fmt.Errorf("%w: blocks %s of %s: %s; nearest: %s", ErrCut, s, model, c.Why, list)
}

// Nearest returns up to three spans that are allowed, the most similar one first: the
// shortest that contains s, the longest within it, and the nearest with one of its
// ends. There is always one: the whole model.
func (c *Cuts) Nearest(s Span) []Span {
	s.From, s.To = max(0, min(s.From, c.Blocks-1)), max(1, min(s.To, c.Blocks))
	var over, under, kept *Span
	better := func(best **Span, t Span) {
		if *best == nil || distance(s, t) < distance(s, **best) {
			*best = &t
		}
	}
	for _, from := range c.ends() {
		for _, to := range c.ends() {
			t := Span{from, to}
			if !c.Allows(t) {
				continue
			}
			if t.Contains(s) {
				better(&over, t)
			}
			if s.Contains(t) {
				better(&under, t)
			}
			if t.From == s.From || t.To == s.To {
				better(&kept, t)
			}
		}
	}
	var out []Span
	for _, t := range []*Span{over, under, kept} {
		if t != nil && !slices.Contains(out, *t) {
			out = append(out, *t)
		}
	}
	slices.SortStableFunc(out, func(a, b Span) int { return cmp.Compare(distance(s, a), distance(s, b)) })
	return out
}

// Shortest is the length of the shortest span that is allowed.
func (c *Cuts) Shortest() int {
	if c.Anywhere() {
		return 1
	}
	least, ends := c.Blocks, c.ends()
	for i, from := range ends {
		for _, to := range ends[i+1:] {
			if to-from >= least {
				break
			}
			if c.Allows(Span{from, to}) {
				least = to - from
			}
		}
	}
	return least
}

// ends are all places where a span may begin or end.
func (c *Cuts) ends() []int { return slices.Concat([]int{0}, c.Edges, []int{c.Blocks}) }

// distance is how many blocks two spans' ends differ by.
func distance(a, b Span) int {
	abs := func(n int) int { return max(n, -n) }
	return abs(a.From-b.From) + abs(a.To-b.To)
}

// Divide cuts a model of so many blocks into parts of as equal length as is allowed. It
// returns fewer parts than are wanted where there cannot be as many.
func (c *Cuts) Divide(blocks, parts int) []Span { return c.Parts(Span{0, blocks}, parts) }

// Parts divides a span of a model likewise; of equally good ways it takes the one whose
// first parts are longer. It returns nil where no way is allowed.
func (c *Cuts) Parts(s Span, parts int) []Span {
	parts = max(1, min(parts, s.Len()))
	if c.Anywhere() {
		out := make([]Span, parts)
		for i := range out {
			out[i] = Span{s.From + i*s.Len()/parts, s.From + (i+1)*s.Len()/parts}
		}
		return out
	}
	ends := slices.DeleteFunc(c.ends(), func(at int) bool { return at < s.From || at > s.To })
	if len(ends) < 2 || ends[0] != s.From || ends[len(ends)-1] != s.To {
		return nil
	}
	// cost[i] is the least sum of squared lengths of the parts up to ends[i], with as
	// many parts as there were rounds; 0: it cannot be.
	cost := make([]int, len(ends))
	var before [][]int
	best := 0
	for round := 1; round <= parts; round++ {
		next, from := make([]int, len(ends)), make([]int, len(ends))
		for i, a := range ends {
			if (round > 1) != (i > 0) || i > 0 && cost[i] == 0 {
				continue
			}
			for j := i + 1; j < len(ends); j++ {
				t := Span{a, ends[j]}
				sum := cost[i] + t.Len()*t.Len()
				if (next[j] == 0 || sum <= next[j]) && c.Allows(t) {
					next[j], from[j] = sum, i
				}
			}
		}
		cost, before = next, append(before, from)
		if cost[len(cost)-1] > 0 {
			best = round
		}
	}
	if best == 0 {
		return nil
	}
	out := make([]Span, best)
	for at, round := len(ends)-1, best-1; round >= 0; round-- {
		from := before[round][at]
		out[round] = Span{ends[from], ends[at]}
		at = from
	}
	return out
}

// Missing returns the fewest blocks that must be added to spans for them to join from
// the first block of a model to the last, as runs that can be divided: those that no
// span has, and more where spans overlap without meeting, or where what is left between
// them is not allowed alone.
func (c *Cuts) Missing(blocks int, spans []Span) []Span {
	starts := make([][]int, blocks)
	for _, s := range spans {
		starts[s.From] = append(starts[s.From], s.To)
	}
	// cost[b] is the least number of blocks to add from b to the end, next[b] where the
	// way of least cost goes from b, added[b] whether that takes blocks to add.
	cost, next, added := make([]int, blocks+1), make([]int, blocks+1), make([]bool, blocks+1)
	for b := blocks - 1; b >= 0; b-- {
		cost[b] = math.MaxInt32 // it cannot be
		for to := range c.onward(b) {
			if n := cost[to] + to - b; n < cost[b] {
				cost[b], next[b], added[b] = n, to, true
			}
		}
		for _, to := range starts[b] {
			if n := cost[to]; n < cost[b] || n == cost[b] && (added[b] || to > next[b]) {
				cost[b], next[b], added[b] = n, to, false
			}
		}
	}
	var gaps []Span
	for b := 0; b < blocks; {
		from := b
		for b < blocks && added[b] {
			b = next[b]
		}
		if b > from {
			gaps = append(gaps, Span{from, b})
		}
		if b < blocks {
			b = next[b]
		}
	}
	return gaps
}

// onward lists the blocks before which a span that begins at from may end. Where spans
// may end anywhere, the next one is enough.
func (c *Cuts) onward(from int) iter.Seq[int] {
	return func(yield func(int) bool) {
		if c.Anywhere() {
			yield(from + 1)
			return
		}
		for _, to := range c.ends() {
			if to > from && c.Allows(Span{from, to}) && !yield(to) {
				return
			}
		}
	}
}
