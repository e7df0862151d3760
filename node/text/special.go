package text

import "strings"

// trie holds the tokens to search for in a text.
type trie struct {
	next map[byte]*trie
	id   int32 // of the token that ends here, plus one
}

func (t *trie) add(s string, id int32) {
	if s == "" {
		return
	}
	for i := range len(s) {
		if t.next == nil {
			t.next = map[byte]*trie{}
		}
		n := t.next[s[i]]
		if n == nil {
			n = &trie{}
			t.next[s[i]] = n
		}
		t = n
	}
	if t.id == 0 {
		t.id = id + 1
	}
}

// longest returns the longest token that s begins with; size 0: none.
func (t *trie) longest(s string) (id int32, size int) {
	for i := range len(s) {
		if t = t.next[s[i]]; t == nil {
			break
		}
		if t.id > 0 {
			id, size = t.id-1, i+1
		}
	}
	return id, size
}

// piece is a run of plain text, or a token found in the text.
type piece struct {
	text  string
	token int32 // -1: plain text
}

// partition finds special tokens in a text as llama.cpp does: first all
// occurrences of the longest token, then the next longest in the remaining
// text, and so on.
func (t *Tokenizer) partition(text string, search *trie) []piece {
	var queue candidates
	consider := func(at int32, most int) {
		rest := text[at:]
		if id, size := search.longest(rest[:min(len(rest), most)]); size > 0 {
			// Longest token first; of equally long ones, the one with the
			// lowest number.
			queue.push(candidate{key: float64(id) - float64(size)*(1<<32), left: at, size: int32(size), id: id})
		}
	}
	if search.next != nil {
		for i := range len(text) {
			if search.next[text[i]] != nil {
				consider(int32(i), len(text))
			}
		}
	}
	if len(queue) == 0 {
		if text == "" {
			return nil
		}
		return []piece{{text, -1}}
	}
	taken := make([]bool, len(text))
	found := map[int32]candidate{} // by position
	for len(queue) > 0 {
		c := queue.pop()
		free := int32(0)
		for free < c.size && !taken[c.left+free] {
			free++
		}
		if free < c.size { // a shorter one may fit here
			consider(c.left, int(free))
			continue
		}
		found[c.left] = c
		from, to := t.strip(text, taken, c)
		for i := from; i < to; i++ {
			taken[i] = true
		}
	}
	return collect(text, taken, found)
}

// strip returns the range of text that a token takes, including blanks beside
// it that no other token has taken.
func (t *Tokenizer) strip(text string, taken []bool, c candidate) (from, to int32) {
	from, to = c.left, c.left+c.size
	blank := func(i int32) bool { return !taken[i] && strings.IndexByte(" \t\n\v\f\r", text[i]) >= 0 }
	for t.lstrip[c.id] && from > 0 && blank(from-1) {
		from--
	}
	for t.rstrip[c.id] && int(to) < len(text) && blank(to) {
		to++
	}
	return from, to
}

// collect returns the tokens and the text between them.
func collect(text string, taken []bool, found map[int32]candidate) []piece {
	var pieces []piece
	for i := 0; i < len(text); {
		if c, ok := found[int32(i)]; ok {
			pieces = append(pieces, piece{"", c.id})
			i += int(c.size)
			continue
		}
		from := i
		for i < len(text) && !taken[i] {
			i++
		}
		if i > from {
			pieces = append(pieces, piece{text[from:i], -1})
			continue
		}
		i++ // a blank that a token has taken
	}
	return pieces
}
