package text

// symbol is a part of a word, in a linked list that merging shortens.
type symbol struct {
	at, size   int32 // in the word's bytes; size 0: merged into the symbol before
	prev, next int32 // -1: none
	id         int32 // -1: not in the vocabulary
}

// candidate is a pair of neighbours that may merge, or another item in a
// priority queue: lowest key first, leftmost among equals.
type candidate struct {
	key         float64
	left, right int32
	size        int32 // of both; if it has changed since, the candidate is outdated
	id          int32 // of the merge's result
}

func (c candidate) before(o candidate) bool {
	return c.key < o.key || c.key == o.key && c.left < o.left
}

// candidates is a heap.
type candidates []candidate

func (h *candidates) push(c candidate) {
	*h = append(*h, c)
	s := *h
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !c.before(s[up]) {
			break
		}
		s[i] = s[up]
		i = up
	}
	s[i] = c
}

func (h *candidates) pop() candidate {
	s := *h
	top, last := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	*h = s
	i := 0
	for {
		down := 2*i + 1
		if down >= len(s) {
			break
		}
		if down+1 < len(s) && s[down+1].before(s[down]) {
			down++
		}
		if !s[down].before(last) {
			break
		}
		s[i] = s[down]
		i = down
	}
	if len(s) > 0 {
		s[i] = last
	}
	return top
}

// merger merges the symbols of one word after another, reusing its memory.
type merger struct {
	syms  []symbol
	queue candidates
	// join returns the result of merging two neighbours and its key; lower keys
	// merge first.
	join func(left, right symbol) (id int32, key float64, ok bool)
}

func (m *merger) reset() { m.syms, m.queue = m.syms[:0], m.queue[:0] }

// add appends a symbol to the word.
func (m *merger) add(size int, id int32) {
	n := int32(len(m.syms))
	s := symbol{size: int32(size), prev: n - 1, next: -1, id: id}
	if n > 0 {
		last := &m.syms[n-1]
		s.at, last.next = last.at+last.size, n
	}
	m.syms = append(m.syms, s)
}

func (m *merger) consider(left, right int32) {
	if left < 0 || right < 0 {
		return
	}
	l, r := m.syms[left], m.syms[right]
	if id, key, ok := m.join(l, r); ok {
		m.queue.push(candidate{key, left, right, l.size + r.size, id})
	}
}

// merge merges neighbours, best pair first, until no pair can merge.
func (m *merger) merge(on *patience) error {
	for i := 1; i < len(m.syms); i++ {
		m.consider(int32(i-1), int32(i))
	}
	for len(m.queue) > 0 {
		if err := on.err(); err != nil {
			return err
		}
		c := m.queue.pop()
		l, r := &m.syms[c.left], &m.syms[c.right]
		if l.size == 0 || r.size == 0 || l.size+r.size != c.size {
			continue // one of the two has merged with another since
		}
		l.size, l.id, l.next = c.size, c.id, r.next
		r.size = 0
		if r.next >= 0 {
			m.syms[r.next].prev = c.left
		}
		m.consider(l.prev, c.left)
		m.consider(c.left, l.next)
	}
	return nil
}

// each calls f for the remaining symbols in order.
func (m *merger) each(f func(symbol)) {
	if len(m.syms) == 0 {
		return
	}
	for i := int32(0); i >= 0; i = m.syms[i].next {
		f(m.syms[i])
	}
}
