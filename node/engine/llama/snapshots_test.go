package llama

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/node/engine/llama/random"
	"github.com/shoalnet/shoal/protocol"
)

// hybrid loads the random model of an architecture in spans that begin at the blocks
// named, with keys and values in 32 bits: ties are rarer.
func hybrid(t *testing.T, name string, seqs int, cuts ...int) []engine.Engine {
	t.Helper()
	library(t)
	all := random.Models()
	m := all[slices.IndexFunc(all, func(m random.Model) bool { return m.Name == name })]
	path, err := m.Write(os.Getenv(Variable), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h, raw := enginetest.ReadHeader(t, path)
	var chain []engine.Engine
	for i, from := range cuts {
		to := h.Blocks()
		if i+1 < len(cuts) {
			to = cuts[i+1]
		}
		path, err := write(t.TempDir(), h, raw, protocol.Span{From: from, To: to})
		if err != nil {
			t.Fatal(err)
		}
		e, err := Load(t.Context(), engine.Config{Path: path, From: from, To: to, KVTokens: 4096, MaxSeqs: seqs, MaxBatch: 512, KVType: "f32", Threads: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		chain = append(chain, e)
	}
	return chain
}

// draw takes tokens of a sequence through a chain and returns the one after them.
func draw(t *testing.T, chain []engine.Engine, seq int, at int32, tokens ...int32) int32 {
	t.Helper()
	for most := chain[0].Info().MaxBatch; len(tokens) > most; tokens, at = tokens[most:], at+int32(most) {
		b := &batch{}
		b.add(seq, at, tokens[:most], false)
		if _, err := b.run(t.Context(), chain); err != nil {
			t.Fatal(err)
		}
	}
	b := &batch{}
	b.add(seq, at, tokens, true)
	out, err := b.run(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	return out[seq].ID
}

// story is a prompt of random tokens and what a chain answers to it.
func story(t *testing.T, chain []engine.Engine, seq, length, more int) []int32 {
	t.Helper()
	out := text(3, length)
	out = append(out, draw(t, chain, seq, 0, out...))
	for len(out) < length+more {
		out = append(out, draw(t, chain, seq, int32(len(out)-1), out[len(out)-1]))
	}
	return out
}

// TestTakeBack: a hybrid whose last positions are taken back, anywhere and over and
// over, goes on as it did before; and so does one that begins with another's prefix.
func TestTakeBack(t *testing.T) {
	for _, test := range []struct {
		name  string
		cuts  []int
		times int
	}{
		{"qwen35", []int{0}, 100}, {"qwen35", []int{0, 4, 8}, 20}, {"granitehybrid", []int{0, 8}, 10}, {"nemotron_h", []int{0}, 10}, {"lfm2", []int{0, 4}, 10}, {"mamba2", []int{0, 5}, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			const length, more = 100, 200
			chain := hybrid(t, test.name, 2, test.cuts...)
			text := story(t, chain, 0, length, more)
			have, rng := int32(len(text)-1), rand.New(rand.NewPCG(1, 2))
			ahead := func(seq int, at int32) int32 {
				for range 3 {
					if got := draw(t, chain, seq, at, text[at]); at+1 >= length && int(at)+1 < len(text) && got != text[at+1] {
						t.Fatalf("behind position %d comes token %d, not %d", at, got, text[at+1])
					}
					at++
				}
				return at
			}
			for range test.times {
				have = min(have, length+rng.Int32N(more-4))
				for _, e := range chain {
					if err := e.Remove(0, have); err != nil {
						t.Fatal(have, err)
					}
				}
				have = ahead(0, have)
			}
			shared := have - have%engine.PrefixPage
			for _, e := range chain {
				if err := e.CopyPrefix(0, 1, shared); err != nil {
					t.Fatal(err)
				}
			}
			ahead(1, shared)
			ahead(0, have)
		})
	}
}

// TestTakeBackCompany: sequences of a hybrid that are computed together, and one of
// which is taken back, do not disturb each other.
func TestTakeBackCompany(t *testing.T) {
	chain := hybrid(t, "qwen35", 4, 0, 8)
	alone := make([][]int32, 3)
	for seq := range alone {
		alone[seq] = story(t, chain, seq, 40+seq, 30)
		for _, e := range chain {
			if err := e.Remove(seq, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := make([]int32, 3)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		b := &batch{}
		for _, seq := range rng.Perm(3) { // some read on in their prompts while others answer
			n := int32(1)
			if left := int32(40+seq) - at[seq]; left > 1 {
				n = 1 + rng.Int32N(left)
			}
			if int(at[seq]+n) >= len(alone[seq]) {
				back := at[seq] - rng.Int32N(at[seq])
				for _, e := range chain {
					if err := e.Remove(seq, back); err != nil {
						t.Fatal(err)
					}
				}
				at[seq] = back
				n = 1
			}
			b.add(seq, at[seq], alone[seq][at[seq]:at[seq]+n], true)
			at[seq] += n
		}
		got, err := b.run(t.Context(), chain)
		if err != nil {
			t.Fatal(err)
		}
		for seq, drawn := range got {
			if int(at[seq]) >= 40+seq && drawn.ID != alone[seq][at[seq]] {
				t.Fatalf("in company, behind position %d of sequence %d comes %d, not %d", at[seq], seq, drawn.ID, alone[seq][at[seq]])
			}
		}
	}
}

// TestPastIsBounded: copies of states and rows take no more than the engine says; what
// it said can be taken back can be, and no more fails by itself.
func TestPastIsBounded(t *testing.T) {
	chain := hybrid(t, "qwen35", 2, 0, 4)
	last := chain[1].(*local)
	story(t, chain, 0, 500, 10)
	back := int32(last.Info().Back)
	text := story(t, chain, 1, 1500, 300)
	if p := last.kv.pasts; p.states > p.mostStates || p.rows > p.mostRows {
		t.Errorf("%d bytes of states and %d rows, where %d and %d are allowed", p.states, p.rows, p.mostStates, p.mostRows)
	}
	at := int32(len(text)) - 1 - back
	for _, e := range chain {
		if err := e.Remove(1, at); err != nil {
			t.Fatalf("%d positions cannot be taken back: %v", back, err)
		}
	}
	if got := draw(t, chain, 1, at, text[at]); got != text[at+1] {
		t.Errorf("token %d comes, not %d", got, text[at+1])
	}
	if err := last.Remove(1, 1); !errors.Is(err, engine.ErrBatch) {
		t.Errorf("taking back what was given up: %v", err)
	}
	if last.kv.slots[1] != nil {
		t.Error("the slot is not empty")
	}
	for seq := range 2 {
		if err := last.Remove(seq, 0); err != nil {
			t.Fatal(err)
		}
	}
	if p := last.kv.pasts; p.states != 0 || p.rows != 0 {
		t.Errorf("%d bytes of states and %d rows are left of ended sequences", p.states, p.rows)
	}
}
