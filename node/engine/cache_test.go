package engine

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ollama/ollama/model/input"

	"github.com/shoalnet/shoal/node/engine/sample"
)

// What a session computes does not depend on who came before it and who is
// there besides, to the last bit.
func TestSameWhoeverElse(t *testing.T) {
	for _, path := range []string{tiny, "SmolLM2-135M-Instruct.Q4_1.gguf"} {
		t.Run(path, func(t *testing.T) {
			if path != tiny {
				path = shared(t, path)
			}
			c := load(t, path, 1, nil)
			p := sample.Params{TopLogprobs: 3}
			prompt := make([]int32, 45)
			for i := range prompt {
				prompt[i] = int32(i*37%400 + 3)
			}
			want := c.generate(t, 0, prompt, 40, 64, p)
			for n := range 3 { // sessions that stay, of lengths that fill no page
				c.prefillOnly(t, n+1, prompt[:20+n*7])
			}
			if got := c.generate(t, 0, prompt, 40, 64, p); !slices.EqualFunc(got, want, sameToken) {
				t.Errorf("beside others: %v, alone %v", got, want)
			}
			for _, e := range c { // a hole, and what lies behind it
				if err := e.Remove(2, 0); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.generate(t, 0, prompt, 40, 64, p); !slices.EqualFunc(got, want, sameToken) {
				t.Errorf("in a hole: %v, alone %v", got, want)
			}
		})
	}
}

// In exact mode a row computes the same alone and in company, and in a chunk.
func TestExact(t *testing.T) {
	for _, path := range []string{tiny, "stories260K.gguf"} {
		t.Run(path, func(t *testing.T) {
			if path != tiny {
				path = shared(t, path)
			}
			c := load(t, path, 2, func(cfg Config) (Engine, error) {
				cfg.Exact = true
				return Load(context.Background(), cfg, nil)
			})
			p := sample.Params{TopLogprobs: 3}
			prompt := make([]int32, 40)
			for i := range prompt {
				prompt[i] = int32(i*37%400 + 3)
			}
			want := c.generate(t, 0, prompt, 60, 64, p)
			whole := append(slices.Clone(prompt), ids(want[:30])...) // as a repair would replay it
			again := c.generate(t, 1, whole, 30, 64, p)
			if !slices.EqualFunc(again, want[30:], sameToken) {
				t.Errorf("replayed in chunks: %v, row by row %v", again, want[30:])
			}
		})
	}
}

func sameToken(a, b sample.Token) bool { return a.ID == b.ID && slices.Equal(a.Top, b.Top) }

func (c chain) prefillOnly(t testing.TB, seq int, ids []int32) {
	t.Helper()
	c.pass(t, seq, 0, ids, nil)
}

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
