package constrain

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Words are a model's tokens.
type Words interface {
	VocabSize() int
	Bytes(id int32) []byte
	IsControl(id int32) bool // not text
}

// Vocab is a vocabulary prepared for machines. It is safe for concurrent use.
type Vocab struct {
	words       []string
	control     []bool
	marks       map[string]int32 // control tokens by their text
	all         trie             // of the tokens that are text
	rest        trie             // of the text tokens that are not plain
	plain       []uint64         // plain tokens: short, whole characters, which a JSON string has unescaped
	longestMark int              // bytes
	same        []int32          // another token with the same bytes; -1: none
}

// trie is a trie of tokens in depth-first order.
type trie struct {
	nodes []trieNode
	depth int
}

type trieNode struct {
	end   int32 // index after the last node below
	token int32 // that ends here; -1: none
	depth uint16
	b     byte
}

// shortWord is the maximum characters of a plain token. The few longer tokens
// are checked one by one, so that they do not matter where only a few
// characters may follow.
const shortWord = 16

// maxWord is the longest token that is ever allowed under a format, in bytes.
const maxWord = 1 << 10

// NewVocab prepares a vocabulary. It takes up to a second for 256,000 tokens on
// a busy machine.
func NewVocab(w Words) *Vocab {
	n := w.VocabSize()
	v := &Vocab{
		words: make([]string, n), control: make([]bool, n), marks: map[string]int32{},
		plain: make([]uint64, (n+63)/64), same: make([]int32, n),
	}
	var all []int32
	for i := range n {
		id := int32(i)
		s := string(w.Bytes(id))
		v.same[i] = -1
		if len(s) == 0 || len(s) > maxWord {
			continue
		}
		v.words[i] = s
		if v.control[i] = w.IsControl(id); v.control[i] {
			if _, twice := v.marks[s]; !twice {
				v.marks[s] = id
				v.longestMark = max(v.longestMark, len(s))
			}
			continue
		}
		all = append(all, id)
		if isPlain(s) && utf8.RuneCountInString(s) <= shortWord {
			v.plain[i>>6] |= 1 << (i & 63)
		}
	}
	slices.SortFunc(all, func(a, b int32) int {
		if c := strings.Compare(v.words[a], v.words[b]); c != 0 {
			return c
		}
		return int(a - b)
	})
	v.all = v.trie(all)
	v.rest = v.trie(slices.DeleteFunc(all, func(id int32) bool { return v.plain[id>>6]>>(id&63)&1 != 0 }))
	return v
}

// isPlain reports whether a JSON string has s unescaped.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.ValidString(s)
}

// trie builds a trie of tokens sorted by their text.
func (v *Vocab) trie(ids []int32) (t trie) {
	var open []int32 // the nodes on the path to the last token
	last := ""
	for _, id := range ids {
		w := v.words[id]
		if w == last {
			n := &t.nodes[open[len(open)-1]]
			if v.same[id] < 0 && n.token != id { // the other trie may have linked them
				v.same[id] = n.token
			}
			n.token = id
			continue
		}
		common := 0
		for common < len(last) && common < len(w) && last[common] == w[common] {
			common++
		}
		for len(open) > common {
			t.nodes[open[len(open)-1]].end = int32(len(t.nodes))
			open = open[:len(open)-1]
		}
		for i := common; i < len(w); i++ {
			open = append(open, int32(len(t.nodes)))
			t.nodes = append(t.nodes, trieNode{token: -1, depth: uint16(i + 1), b: w[i]})
		}
		t.nodes[len(t.nodes)-1].token = id
		t.depth = max(t.depth, len(w))
		last = w
	}
	for _, i := range open {
		t.nodes[i].end = int32(len(t.nodes))
	}
	return t
}

// markAt returns the longest control token that a text begins with, and its
// length; 0: none.
func (v *Vocab) markAt(text string) (id int32, n int) {
	for n = min(len(text), v.longestMark); n > 0; n-- {
		if id, ok := v.marks[text[:n]]; ok {
			return id, n
		}
	}
	return 0, 0
}
