package ggml

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ollama/ollama/model/input"
)

// The books of the cache, against a plain account of who has what.
func TestPagesBooks(t *testing.T) {
	for _, window := range []int32{math.MaxInt32, 40} {
		memory := window
		if window != math.MaxInt32 {
			memory += 30
		}
		c := newPages(window, memory)
		c.cells = 40 * page
		c.users = make([]int, 40)
		rng := rand.New(rand.NewPCG(4, uint64(window)))
		length := map[int]int32{}
		for range 20_000 {
			seq := rng.IntN(6)
			switch rng.IntN(8) {
			case 0:
				at := int32(0)
				if length[seq] > 0 && rng.IntN(2) == 0 {
					at = rng.Int32N(length[seq] + 1)
				}
				if at > 0 && !c.CanResume(seq, at) {
					at = 0
				}
				_ = c.Remove(seq, at, math.MaxInt32)
				length[seq] = at
			case 1:
				dst := (seq + 1) % 6
				c.CopyPrefix(seq, dst, length[seq]/page*page)
				if length[dst] = length[seq] / page * page; !c.CanResume(dst, length[dst]) {
					_ = c.Remove(dst, 0, math.MaxInt32)
					length[dst] = 0
				}
			default:
				pos := length[seq]
				c.slide(input.Batch{Sequences: []int{seq}, Positions: []int32{pos}})
				cell, err := c.place(seq, pos)
				if err != nil {
					_ = c.Remove(seq, 0, math.MaxInt32)
					length[seq] = 0
					continue
				}
				if n := c.users[cell/page]; n != 1 {
					t.Fatalf("wrote into a page that %d sequences have", n)
				}
				length[seq]++
			}
			users := make([]int, len(c.users))
			for s, tb := range c.tables {
				if tb.next != length[s] || len(tb.pages) != up(int(tb.next), page)/page {
					t.Fatalf("sequence %d has %d positions on %d pages, of %d", s, tb.next, len(tb.pages), length[s])
				}
				for i, p := range tb.pages {
					if (p < 0) != (i < tb.first) {
						t.Fatalf("page %d of sequence %d is %d, the first one left %d", i, s, p, tb.first)
					}
					if p >= 0 {
						users[p]++
					}
				}
			}
			if !slices.Equal(users, c.users) {
				t.Fatalf("pages are used %v times, the books say %v", users, c.users)
			}
		}
	}
}
