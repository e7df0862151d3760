package constrain

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sync"
)

// Limits of a machine at run time.
const (
	maxEffort = 1 << 18 // cell look-ups per token
	maxStates = 4096    // kept; 2 KiB each
	maxCells  = 1 << 16 // kept
	maxMasks  = 64      // kept; one bit per token of the vocabulary each
)

// ErrTooWide means that a format has too many alternatives open at once.
var ErrTooWide = errors.New("the format leaves too many ways open at once; make it simpler")

// ErrNoToken means that no token of the vocabulary can follow.
var ErrNoToken = errors.New("the model's vocabulary has no token that could go on in this format")

// Machine tracks a format byte by byte. What may come next is a set of stacks,
// each a list of cells: an expression and what follows it. Sets are built when
// first reached and kept while there is room, so that most steps are a table
// look-up. It is safe for concurrent use.
type Machine struct {
	vocab *Vocab
	start *state

	mu     sync.Mutex
	cells  map[stack]*cell
	built  map[lazy]*built
	states map[string]*state
	masks  int
	count  uint32 // of cells, used to order them
	round  uint64 // of close
	effort int    // since the lock was taken
	err    error  // permanent: the machine cannot continue
}

// stack is an expression and what follows it; nil: the end.
type stack struct {
	e    *expr
	rest *cell
}

// cell is a stack; equal stacks share one cell.
type cell struct {
	stack
	id   uint32
	seen uint64 // the last round of close that visited it
}

// state is a set of stacks. Stacks whose top is not a byte or a control token
// are expanded until it is.
type state struct {
	heads []*cell
	ended bool // the answer may end here
	plain int  // this many characters of plain text may follow, whatever they are
	next  *[256]*state
	mask  []uint64 // of tokens, without those that end the answer
}

var dead = &state{}

func newMachine(v *Vocab, root *expr) (*Machine, error) {
	m := &Machine{vocab: v}
	m.forget()
	m.start = m.close([]*cell{m.cell(root, nil)})
	return m, m.err
}

// forget makes room. States that are still referenced keep working.
func (m *Machine) forget() {
	for _, s := range m.states {
		s.next, s.mask = nil, nil
	}
	m.cells, m.states, m.masks = map[stack]*cell{}, map[string]*state{}, 0
	m.built = map[lazy]*built{}
}

func (m *Machine) cell(e *expr, rest *cell) *cell {
	m.effort++
	key := stack{e, rest}
	if c := m.cells[key]; c != nil {
		return c
	}
	m.count++
	c := &cell{stack: key, id: m.count}
	m.cells[key] = c
	return c
}

// close returns the state of a set of stacks.
func (m *Machine) close(work []*cell) *state {
	s := &state{}
	m.round++
	for len(work) > 0 {
		c := work[len(work)-1]
		work = work[:len(work)-1]
		if c == nil {
			s.ended = true
			continue
		}
		if c.seen == m.round {
			continue
		}
		c.seen = m.round
		if m.effort > maxEffort {
			m.err = ErrTooWide
			return dead
		}
		switch e := c.e; e.kind {
		case kindEmpty:
			work = append(work, c.rest)
		case kindByte, kindMark, kindGap:
			s.heads = append(s.heads, c)
		case kindSeq:
			work = append(work, m.cell(e.a, m.cell(e.b, c.rest)))
		case kindEither:
			for _, k := range e.alts {
				work = append(work, m.cell(k, c.rest))
				if m.effort > maxEffort {
					break
				}
			}
		case kindLazy:
			for _, k := range m.ways(e.lazy) {
				work = append(work, m.cell(k, c.rest))
			}
		case kindRepeat:
			if e.min == 0 {
				work = append(work, c.rest)
			}
			if e.max == 0 {
				break
			}
			work = append(work, m.cell(e.a, m.cell(fewer(e), c.rest)))
			if e.text {
				if s.plain = max(s.plain, e.max); e.max < 0 {
					s.plain = math.MaxInt
				}
			}
		}
	}
	slices.SortFunc(s.heads, func(a, b *cell) int { return int(a.id) - int(b.id) })
	key := make([]byte, 0, 4*len(s.heads)+9)
	for _, c := range s.heads {
		key = binary.LittleEndian.AppendUint32(key, c.id)
	}
	if s.ended {
		key = append(key, 1)
	}
	if old := m.states[string(key)]; old != nil {
		return old
	}
	m.states[string(key)] = s
	return s
}

// fewer returns the rest of a repetition after one repetition.
func fewer(e *expr) *expr {
	if e.min == 0 && e.max < 0 {
		return e
	}
	if e.less == nil {
		less := *e
		less.less = nil
		if less.min = max(0, e.min-1); e.max > 0 {
			less.max--
		}
		e.less = &less
	}
	return e.less
}

// step returns the state after one more byte; dead if the byte must not come.
func (m *Machine) step(s *state, b byte) *state {
	if s.next == nil {
		if s == dead {
			return dead
		}
		s.next = new([256]*state)
	} else if n := s.next[b]; n != nil {
		return n
	}
	var rest []*cell
	for _, c := range s.heads {
		if c.e.kind == kindByte && c.e.set.has(b) {
			rest = append(rest, c.rest)
		}
	}
	m.effort += len(s.heads) / 4
	n := dead
	if rest != nil {
		if len(m.states) >= maxStates || len(m.cells)+len(m.built) >= maxCells {
			m.forget()
			s.next = new([256]*state)
		}
		n = m.close(rest)
	}
	s.next[b] = n
	return n
}

// take returns the state after one more token; dead if the token must not come.
func (m *Machine) take(s *state, id int32) *state {
	if int(id) >= len(m.vocab.words) || id < 0 {
		return dead
	}
	if m.vocab.control[id] {
		var rest []*cell
		for _, c := range s.heads {
			if c.e.kind == kindMark && c.e.mark == id {
				rest = append(rest, c.rest)
			}
		}
		if rest == nil {
			return dead
		}
		return m.close(rest)
	}
	word := m.vocab.words[id]
	if word == "" {
		return dead
	}
	for i := 0; i < len(word) && s != dead; i++ {
		s = m.step(s, word[i])
	}
	return s
}

// allowed returns a bit per token that is set if the token may come.
func (m *Machine) allowed(s *state) []uint64 {
	if s.mask != nil {
		return s.mask
	}
	v := m.vocab
	mask := make([]uint64, (len(v.words)+63)/64)
	if s.plain >= shortWord {
		copy(mask, v.plain)
		m.walk(s, &v.rest, mask)
	} else {
		m.walk(s, &v.all, mask)
	}
	for _, c := range s.heads {
		if c.e.kind == kindMark {
			mask[c.e.mark>>6] |= 1 << (c.e.mark & 63)
		}
	}
	if m.masks++; m.masks > maxMasks {
		for _, s := range m.states {
			s.mask = nil
		}
		m.masks = 1
	}
	s.mask = mask
	return mask
}

// walk sets the bits of a trie's tokens that may come.
func (m *Machine) walk(s *state, t *trie, mask []uint64) {
	at := make([]*state, t.depth+1) // the state after each number of bytes
	at[0] = s
	for i := 0; i < len(t.nodes); {
		n := &t.nodes[i]
		var next *state
		if from := at[n.depth-1]; from.next != nil {
			next = from.next[n.b]
		}
		if next == nil {
			next = m.step(at[n.depth-1], n.b)
		}
		if next == dead {
			i = int(n.end)
			continue
		}
		at[n.depth] = next
		for id := n.token; id >= 0; id = m.vocab.same[id] {
			mask[id>>6] |= 1 << (id & 63)
		}
		i++
	}
}

// Run is one answer that follows a format. It is safe for concurrent use.
type Run struct {
	m     *Machine
	stops []int32 // they end the answer, and are not text

	mu    sync.Mutex
	ids   []int32
	after []*state // after[i]: after i tokens
	text  []byte   // of ids
	ends  []int    // ends[i]: bytes of text after i tokens
}

// Start starts an answer that ends with one of the given tokens.
func (m *Machine) Start(stops []int32) *Run {
	return &Run{m: m, stops: stops, after: []*state{m.start}, ends: []int{0}}
}

// follow returns the state after the tokens, most of which were usually
// followed before; dead if they violate the format.
func (r *Run) follow(ids []int32) *state {
	n := 0
	for n < min(len(ids), len(r.ids)) && ids[n] == r.ids[n] {
		n++
	}
	r.ids, r.after, r.ends = r.ids[:n], r.after[:n+1], r.ends[:n+1]
	r.text = r.text[:r.ends[n]]
	s := r.after[n]
	for _, id := range ids[n:] {
		if slices.Contains(r.stops, id) {
			return dead
		}
		if s = r.m.take(s, id); s == dead {
			return dead
		}
		text := append(r.text, r.m.vocab.words[id]...)
		if s = r.m.fill(s, text); s == dead {
			return dead
		}
		r.text = text
		r.ids, r.after, r.ends = append(r.ids, id), append(r.after, s), append(r.ends, len(text))
	}
	return s
}

func (r *Run) lock() (unlock func()) {
	r.mu.Lock()
	r.m.mu.Lock()
	r.m.effort = 0
	return func() {
		r.m.mu.Unlock()
		r.mu.Unlock()
	}
}

// Allowed returns the tokens that may follow an answer, as a bitmap of 64-bit
// words, least significant bit first. The result depends only on the format,
// the stops and the answer; calls for an answer that grows by a token are
// merely faster. Errors are ErrTooWide, ErrNoToken, and an answer that violates
// the format.
func (r *Run) Allowed(answer []int32) ([]uint64, error) {
	defer r.lock()()
	s := r.follow(answer)
	if r.m.err != nil {
		return nil, r.m.err
	}
	if s == dead {
		return nil, errors.New("the answer so far does not follow the format")
	}
	mask := slices.Clone(r.m.allowed(s))
	r.m.forbid(s, r.text, mask)
	if r.m.err != nil {
		return nil, r.m.err
	}
	some := uint64(0)
	for _, id := range r.stops {
		if int(id) >= len(r.m.vocab.words) || id < 0 {
			continue
		}
		if mask[id>>6] &^= 1 << (id & 63); s.ended {
			mask[id>>6] |= 1 << (id & 63)
		}
	}
	for _, w := range mask {
		some |= w
	}
	if some == 0 {
		return nil, ErrNoToken
	}
	return mask, nil
}

// Follows reports whether a token may follow an answer. Errors are those of
// Allowed except ErrNoToken.
func (r *Run) Follows(answer []int32, id int32) (bool, error) {
	defer r.lock()()
	s := r.follow(answer)
	ok := s.ended
	if !slices.Contains(r.stops, id) {
		next := r.m.take(s, id)
		ok = next != dead && r.m.fill(next, append(r.text, r.m.vocab.words[id]...)) != dead
	}
	return ok, r.m.err
}
