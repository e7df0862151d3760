package text

import (
	"cmp"
	"slices"
	"sort"
)

// prefixes finds the tokens that a text begins with, in a sorted list of them.
type prefixes []entry

type entry struct {
	text string
	id   int32
}

// newPrefixes makes a list of some of a vocabulary's tokens. Of equal ones the last
// counts, as in llama.cpp.
func newPrefixes(list []entry) prefixes {
	list = slices.DeleteFunc(list, func(e entry) bool { return e.text == "" })
	slices.SortStableFunc(list, func(a, b entry) int { return cmp.Compare(a.text, b.text) })
	out := list[:0]
	for i, e := range list {
		if i+1 == len(list) || list[i+1].text != e.text {
			out = append(out, e)
		}
	}
	return out
}

// each calls f with each token that s begins with, the shortest first, until f returns
// false.
func (p prefixes) each(s string, f func(id int32, size int) bool) {
	for at := 0; at < len(s) && len(p) > 0; at++ {
		c := s[at]
		p = p[sort.Search(len(p), func(i int) bool { return len(p[i].text) > at && p[i].text[at] >= c }):]
		p = p[:sort.Search(len(p), func(i int) bool { return p[i].text[at] > c })]
		if len(p) > 0 && len(p[0].text) == at+1 && !f(p[0].id, at+1) {
			return
		}
	}
}

// longest returns the longest token that s begins with; size 0: none.
func (p prefixes) longest(s string) (id int32, size int) {
	p.each(s, func(i int32, n int) bool {
		id, size = i, n
		return true
	})
	return id, size
}
