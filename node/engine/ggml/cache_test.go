package ggml

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/ollama/ollama/ml"
	"github.com/ollama/ollama/model"
	"github.com/ollama/ollama/model/input"

	"github.com/shoalnet/shoal/node/engine/enginetest"
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
		c.users, c.touched = make([]int, 40), make([]bool, 40)
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

// What memory held before it became a cache's, another session's cells or no number at
// all, is gone when it is cleared lazily; what lies beside it stays.
func TestClearLazily(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("caches are cleared by writing zeros here")
	}
	path := enginetest.StageFile(t, enginetest.RandomModels()[0].File(t, enginetest.Blocks), 0, enginetest.Blocks)
	m, err := model.New(path, ml.BackendParams{AllocMemory: true, NumThreads: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := m.Backend()
	defer b.Close()
	for _, n := range []int{1 << 20, 1<<20 - 1, 5000} { // on whole pages of memory, and not
		kept := b.NewContextSize(3).Layer(0)
		defer kept.Close()
		tensors := make([]ml.Tensor, 3)
		for i := range tensors {
			tensors[i] = kept.Empty(ml.DTypeF32, n)
			tensors[i].FromFloats(slices.Repeat([]float32{float32(math.NaN())}, n))
		}
		if !clearLazily(tensorOf(tensors[1])) {
			t.Fatal("it is not cleared lazily")
		}
		for i, tensor := range tensors {
			ctx := b.NewContext()
			out := tensor.Scale(ctx, 1)
			ctx.Forward(out).Compute(out)
			for at, v := range out.Floats() {
				if i == 1 && v != 0 || i != 1 && v == v {
					t.Fatalf("tensor %d has %v at %d of %d", i, v, at, n)
				}
			}
			ctx.Close()
		}
	}
}
