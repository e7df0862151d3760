package protocol

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// everySixth is how Gemma 3's blocks attend: every sixth to the whole text.
func everySixth(blocks int) *Cuts {
	c := &Cuts{Blocks: blocks, Why: "each part has a block that attends to the whole text and one that attends to a window"}
	c.Needs = []Need{{Kind: "global"}, {Kind: "window"}}
	for b := range blocks {
		if b > 0 {
			c.Edges = append(c.Edges, b)
		}
		i := 1
		if b%6 == 5 {
			i = 0
		}
		c.Needs[i].Blocks = append(c.Needs[i].Blocks, b)
	}
	return c
}

func TestCuts(t *testing.T) {
	c := everySixth(18)
	for text, want := range map[string]bool{"0-18": true, "0-6": true, "0-5": false, "5-6": false, "4-6": true, "5-7": true, "6-11": false, "0-19": false, "17-18": false} {
		s, err := ParseSpan(text)
		if err != nil {
			t.Fatal(err)
		}
		if c.Allows(s) != want {
			t.Errorf("%s is allowed: %v", text, !want)
		}
		if err := c.Check(s, "gemma3"); (err == nil) != want || !want && !errors.Is(err, ErrCut) {
			t.Errorf("%s: %v", text, err)
		}
	}
	err := c.Check(Span{0, 3}, "gemma3")
	if want := "blocks 0-3 of gemma3: each part has a block that attends to the whole text and one that attends to a window; nearest: 0-6"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}
	if got := c.Nearest(Span{3, 5}); !slices.Equal(got, []Span{{3, 6}}) {
		t.Errorf("nearest to 3-5: %v", got)
	}
	phase := &Cuts{Blocks: 12, Edges: []int{4, 8}, Why: "each part begins at a multiple of 4"}
	if got := phase.Nearest(Span{3, 9}); !slices.Equal(got, []Span{{4, 8}, {0, 12}}) {
		t.Errorf("nearest to 3-9: %v", got)
	}
	if !(*Cuts)(nil).Allows(Span{3, 4}) || !(*Cuts)(nil).Anywhere() || c.Anywhere() {
		t.Error("a nil Cuts allows all")
	}
	whole := &Cuts{Blocks: 12}
	if got := whole.Nearest(Span{3, 40}); !slices.Equal(got, []Span{{0, 12}}) {
		t.Errorf("nearest of a model that is never cut: %v", got)
	}
}

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		cuts   *Cuts
		blocks int
		parts  int
		want   []Span
	}{
		{nil, 30, 3, []Span{{0, 10}, {10, 20}, {20, 30}}},
		{nil, 2, 3, []Span{{0, 1}, {1, 2}}},
		{everySixth(18), 18, 3, []Span{{0, 6}, {6, 12}, {12, 18}}},
		{everySixth(18), 18, 5, []Span{{0, 6}, {6, 12}, {12, 18}}},
		{everySixth(18), 18, 2, []Span{{0, 9}, {9, 18}}},
		{&Cuts{Blocks: 9}, 9, 3, []Span{{0, 9}}},
		{&Cuts{Blocks: 9, Edges: []int{1, 2, 3, 4, 5, 6, 7, 8}, Not: []int{3}}, 9, 3, []Span{{0, 2}, {2, 4}, {4, 9}}},
	} {
		if got := c.cuts.Divide(c.blocks, c.parts); !slices.Equal(got, c.want) {
			if c.want[0].Len() != 2 || len(got) != 3 { // equally good ones differ in order
				t.Errorf("%d blocks in %d parts: %v, want %v", c.blocks, c.parts, got, c.want)
			}
		}
	}
}

// Of any rules, a division covers the model with spans that are allowed, and the
// nearest spans are allowed.
func TestCutsAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		c := randomCuts(rng)
		at := 0
		parts := c.Divide(c.Blocks, 1+rng.IntN(c.Blocks))
		for _, s := range parts {
			if s.From != at || !c.Allows(s) {
				t.Fatalf("%+v is divided into %v", c, parts)
			}
			at = s.To
		}
		if at != c.Blocks {
			t.Fatalf("%+v is divided into %v", c, parts)
		}
		from := rng.IntN(c.Blocks)
		near := c.Nearest(Span{from, from + 1 + rng.IntN(c.Blocks-from)})
		if len(near) == 0 || slices.ContainsFunc(near, func(s Span) bool { return !c.Allows(s) }) {
			t.Fatalf("%+v: nearest %v", c, near)
		}
	}
}

func randomCuts(rng *rand.Rand) *Cuts {
	c := &Cuts{Blocks: 1 + rng.IntN(30), Why: "each part is so"}
	for b := 1; b < c.Blocks; b++ {
		if rng.IntN(4) > 0 {
			c.Edges = append(c.Edges, b)
		}
	}
	for range rng.IntN(3) {
		n := Need{Kind: "one", Blocks: []int{rng.IntN(c.Blocks)}}
		for b := n.Blocks[0] + 1; b < c.Blocks; b++ {
			if rng.IntN(3) == 0 {
				n.Blocks = append(n.Blocks, b)
			}
		}
		c.Needs = append(c.Needs, n)
	}
	if rng.IntN(3) == 0 {
		c.Not = []int{1 + rng.IntN(c.Blocks)}
	}
	return c
}
