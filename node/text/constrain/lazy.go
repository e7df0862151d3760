package constrain

// Expressions that are built only as far as an answer comes: the product of an automaton
// and a counter, say, has far too many states to build in advance, and one answer visits
// few of them.

// lazy is such an expression. Its values are comparable, and equal ones are one
// expression.
type lazy interface {
	// ways returns the alternatives that e stands for. node returns the expression
	// of another lazy one.
	ways(node func(lazy) *expr) []*expr

	// parts are the expressions that the alternatives are made of.
	parts() []*expr
}

// built is a lazy expression of a machine, and its alternatives once they were needed.
type built struct {
	e    *expr
	alts []*expr
}

// lazily returns the one expression of a lazy one.
func (m *Machine) lazily(l lazy) *expr {
	b := m.built[l]
	if b == nil {
		m.effort++
		b = &built{e: &expr{kind: kindLazy, lazy: l}}
		m.built[l] = b
	}
	return b.e
}

// ways returns the alternatives of a lazy expression.
func (m *Machine) ways(l lazy) []*expr {
	m.lazily(l)
	b := m.built[l]
	if b.alts == nil {
		b.alts = l.ways(m.lazily)
		m.effort += len(b.alts)
	}
	return b.alts
}

// counted is an automaton whose characters are counted.
type counted struct {
	arcs        [][]arc // by state
	accept      []bool
	least, most int // characters; most < 0: no limit
	end         *expr
	short       []int // characters from each state to the nearest end
	long        []int // to the farthest end; -1: there is none
	reach       [][]uint64
}

// arc leads to another state with the characters of a set.
type arc struct {
	set *expr
	to  int
}

// walk is a state of a counted automaton, after n characters.
type walk struct {
	of       *counted
	state, n int
}

func (w walk) parts() (out []*expr) {
	for _, arcs := range w.of.arcs {
		for _, a := range arcs {
			out = append(out, a.set)
		}
	}
	return append(out, w.of.end)
}

func (w walk) ways(node func(lazy) *expr) []*expr {
	c, out := w.of, []*expr{}
	if c.accept[w.state] && w.n >= c.least {
		out = append(out, c.end)
	}
	next := w.n + 1
	if c.most < 0 {
		next = min(next, c.least) // more need not be told apart
	}
	for _, a := range c.arcs[w.state] {
		if c.possible(a.to, next) {
			out = append(out, seq(a.set, node(walk{c, a.to, next})))
		}
	}
	return out
}

// possible reports whether an end within the limits can be reached from a state after n
// characters.
func (c *counted) possible(state, n int) bool {
	need := max(0, c.least-n)
	switch {
	case c.most >= 0 && n+c.short[state] > c.most:
		return false
	case need <= c.short[state]:
		return true
	case c.long[state] >= 0 && need > c.long[state]:
		return false
	case c.most < 0:
		return true
	}
	// The shortest way of at least so many characters has fewer than that and the
	// states together: a cycle in the rest could be left out.
	for k := need; k <= min(c.most-n, need+len(c.arcs)); k++ {
		if c.endsAfter(state, k) {
			return true
		}
	}
	return false
}

// endsAfter reports whether an end can be reached from a state in exactly k characters.
func (c *counted) endsAfter(state, k int) bool {
	words := (len(c.arcs) + 63) / 64
	for len(c.reach) <= k {
		set := make([]uint64, words)
		for i, arcs := range c.arcs {
			found := len(c.reach) == 0 && c.accept[i]
			for _, a := range arcs {
				if len(c.reach) > 0 {
					found = found || c.reach[len(c.reach)-1][a.to>>6]>>(a.to&63)&1 != 0
				}
			}
			if found {
				set[i>>6] |= 1 << (i & 63)
			}
		}
		c.reach = append(c.reach, set)
	}
	return c.reach[k][state>>6]>>(state&63)&1 != 0
}

// maxReach bounds the work and memory of exact lengths: edges, and states, times
// characters.
const maxReach = 1 << 23

// countCharacters returns the strings of an automaton that have from least to most characters;
// most < 0: no limit. Their end follows.
func countCharacters(arcs [][]arc, accept []bool, least, most int, end *expr) (*expr, error) {
	c := &counted{arcs: arcs, accept: accept, least: least, most: most, end: end}
	c.measure()
	edges := 0
	for _, a := range arcs {
		edges += len(a)
	}
	if least > 0 && most >= 0 && (edges+len(arcs))*(min(least, most)+len(arcs)) > maxReach {
		return nil, errPattern
	}
	if !c.possible(0, 0) {
		return nil, errNothing
	}
	return &expr{kind: kindLazy, lazy: walk{c, 0, 0}}, nil
}

// measure finds how far the ends are.
func (c *counted) measure() {
	n := len(c.arcs)
	c.short, c.long = make([]int, n), make([]int, n)
	before := make([][]int, n)
	left := make([]int, n) // arcs whose farthest end is not known yet
	var work []int
	for i, arcs := range c.arcs {
		c.short[i], left[i] = -1, len(arcs)
		for _, a := range arcs {
			before[a.to] = append(before[a.to], i)
		}
		if c.accept[i] {
			c.short[i] = 0
			work = append(work, i)
		}
	}
	for i := 0; i < len(work); i++ {
		for _, k := range before[work[i]] {
			if c.short[k] < 0 {
				c.short[k] = c.short[work[i]] + 1
				work = append(work, k)
			}
		}
	}
	// What leads to no cycle has a farthest end.
	done := make([]bool, n)
	work = work[:0]
	for i := range c.arcs {
		if left[i] == 0 {
			work = append(work, i)
		}
	}
	for i := 0; i < len(work); i++ {
		at := work[i]
		done[at] = true
		for _, a := range c.arcs[at] {
			c.long[at] = max(c.long[at], c.long[a.to]+1)
		}
		for _, k := range before[at] {
			if left[k]--; left[k] == 0 {
				work = append(work, k)
			}
		}
	}
	for i := range done {
		if !done[i] {
			c.long[i] = -1
		}
	}
}

// picks are values of which a list has each at most once.
type picks struct {
	values      []*expr
	alike       [][]int // values that are equal to each, itself included
	next        *expr   // before all but the first
	least, most int     // values in the list; most < 0: no limit
	end         *expr
}

// pick is a list in which some were used: a byte for each value, 0 or 1.
type pick struct {
	of   *picks
	used string
	n    int
}

func (p pick) parts() []*expr { return append([]*expr{p.of.next, p.of.end}, p.of.values...) }

func (p pick) ways(node func(lazy) *expr) []*expr {
	s, out := p.of, []*expr{}
	if p.n >= s.least {
		out = append(out, s.end)
	}
	if s.most >= 0 && p.n >= s.most {
		return out
	}
	for i, v := range s.values {
		if p.used[i] != 0 {
			continue
		}
		used := []byte(p.used)
		for _, k := range s.alike[i] {
			used[k] = 1
		}
		if p.n == 0 {
			out = append(out, seq(v, node(pick{s, string(used), 1})))
		} else {
			out = append(out, seq(s.next, v, node(pick{s, string(used), p.n + 1})))
		}
	}
	return out
}
