package ahead

const (
	shortest   = 3  // tokens of a match, at least
	longest    = 32 // at most: longer ones count as this long
	candidates = 16 // matches of the last three tokens that are compared, the newest first
	hops       = 4 * candidates
)

// table is a text of tokens that finds earlier occurrences of what it, or another text,
// ends with. Runs of three tokens with the same hash are chained, the newest first. It
// takes 8 bytes per token, and 2 to 4 more for the hash table.
type table struct {
	text []int32
	prev []int32 // by index of a run's last token: the end of the run before it in the chain; 0: none
	head []int32 // by hash: the end of the newest run; 0: none
}

// add appends tokens to the text.
func (t *table) add(tokens ...int32) {
	for _, x := range tokens {
		t.text = append(t.text, x)
		t.prev = append(t.prev, 0)
		if len(t.text) > 2*len(t.head) {
			t.grow()
		} else {
			t.chain(len(t.text))
		}
	}
}

// grow doubles the hash table and chains all runs again.
func (t *table) grow() {
	t.head = make([]int32, max(64, 2*len(t.head)))
	for end := 1; end <= len(t.text); end++ {
		t.chain(end)
	}
}

// chain enters the run of tokens that ends before index end.
func (t *table) chain(end int) {
	if end < shortest {
		return
	}
	slot := t.slot(t.text[end-shortest : end])
	t.prev[end-1] = t.head[slot]
	t.head[slot] = int32(end)
}

// slot is the place in head of a run of three tokens.
func (t *table) slot(run []int32) int {
	h := uint64(uint32(run[0]))<<32 | uint64(uint32(run[1]))
	h = (h ^ h>>29) * 0x9E3779B97F4A7C15
	h = (h ^ h>>32 ^ uint64(uint32(run[2]))) * 0xD6E8FEB86659FD93
	return int(h >> 33 & uint64(len(t.head)-1))
}

// find returns the index of the token that follows the longest match of tail's end in the
// text, the newest of equals, and the length of the match; 0, 0 if there is none.
func (t *table) find(tail []int32) (at, length int) {
	if len(tail) < shortest || len(t.head) == 0 {
		return 0, 0
	}
	left := candidates
	end := int(t.head[t.slot(tail[len(tail)-shortest:])])
	for n := 0; end > 0 && left > 0 && n < hops; n++ {
		if m := t.match(end, tail); end < len(t.text) && m >= shortest {
			if left--; m > length {
				at, length = end, m
			}
			if m == len(tail) || m == longest {
				break
			}
		}
		end = int(t.prev[end-1])
	}
	return at, length
}

// match is the number of tokens before index end that are the same as those at tail's end.
func (t *table) match(end int, tail []int32) int {
	m, most := 0, min(end, len(tail), longest)
	for m < most && t.text[end-1-m] == tail[len(tail)-1-m] {
		m++
	}
	return m
}
