package scenario

import (
	"cmp"
	"slices"
)

// verdict is the result of comparing a session's tokens with the undisturbed run's.
type verdict struct {
	lost, duplicated, reordered int
	differs                     bool
	at                          int // the first token that differs
}

func (v *verdict) clean() bool { return *v == verdict{} }

// judge compares a session's tokens with those of the undisturbed run. ended reports
// whether the answer is complete; an incomplete one is compared as far as it goes.
func judge(came []Came, want []int32, ended bool) verdict {
	var v verdict
	got, numbered := inOrder(came, &v)
	for i, t := range got {
		if t.Index >= len(want) || t.ID != want[t.Index] {
			v.differs, v.at = true, t.Index
			if numbered && v.reordered == 0 && v.lost == 0 && v.duplicated == 0 || !numbered {
				v.explain(ids(got), want, i)
			}
			return v
		}
	}
	if ended && len(got)+v.lost < len(want) {
		v.lost = len(want) - len(got)
	}
	return v
}

func ids(tokens []Token) (all []int32) {
	for _, t := range tokens {
		all = append(all, t.ID)
	}
	return all
}

// inOrder sorts tokens by index and counts those that came twice, too late, or not at all
// although later ones did.
func inOrder(came []Came, v *verdict) (got []Token, numbered bool) {
	numbered = !slices.ContainsFunc(came, func(c Came) bool { return c.Index < 0 })
	seen := map[int]bool{}
	most := -1
	for i, c := range came {
		t := c.Token
		if !numbered {
			t.Index = i
		}
		switch {
		case seen[t.Index]:
			v.duplicated++
			continue
		case t.Index < most:
			v.reordered++
		}
		seen[t.Index], most = true, max(most, t.Index)
		got = append(got, t)
	}
	slices.SortFunc(got, func(a, b Token) int { return cmp.Compare(a.Index, b.Index) })
	v.lost = most + 1 - len(got)
	return got, numbered
}

const (
	farthest = 32 // tokens by which a text may have slipped
	sure     = 4  // tokens that must agree again, unless the text ends before
)

// explain checks whether a text that differs from i on only lacks tokens, repeats some, or
// has them in another order, whatever their indexes are.
func (v *verdict) explain(got, want []int32, i int) {
	a, b := got[i:], want[min(i, len(want)):]
	for k := 1; k <= farthest; k++ {
		if k < len(b) && agree(a, b[k:]) {
			v.lost += k
			v.differs = false
			return
		}
		if k <= i && k <= len(a) && slices.Equal(a[:k], got[i-k:i]) && agree(a[k:], b) {
			v.duplicated += k
			v.differs = false
			return
		}
		if k >= 2 && k <= len(a) && k <= len(b) && sameSet(a[:k], b[:k]) && (agree(a[k:], b[k:]) || len(a) == k && len(b) == k) {
			v.reordered += k
			v.differs = false
			return
		}
	}
}

// agree reports whether two texts are equal as far as both go.
func agree(a, b []int32) bool {
	n := min(len(a), len(b))
	return n > 0 && (n >= sure || len(a) == len(b)) && slices.Equal(a[:n], b[:n])
}

func sameSet(a, b []int32) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
