package placement

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// randomCuts are rules as models have them: some kinds of block that each part needs,
// or places where parts may begin.
func randomCuts(rng *rand.Rand, blocks int) *protocol.Cuts {
	c := &protocol.Cuts{Blocks: blocks, Why: "each part is so"}
	phase := 1 + rng.IntN(4)
	for b := 1; b < blocks; b++ {
		if b%phase == 0 {
			c.Edges = append(c.Edges, b)
		}
	}
	period := 2 + rng.IntN(5)
	needs := []protocol.Need{{Kind: "rare"}, {Kind: "common"}}
	for b := range blocks {
		kind := &needs[1]
		if b%period == period-1 {
			kind = &needs[0]
		}
		kind.Blocks = append(kind.Blocks, b)
	}
	if len(needs[0].Blocks) > 0 && rng.IntN(4) > 0 {
		c.Needs = needs
	}
	return c
}

// In networks whose nodes have room for a model in parts that are allowed, the model
// becomes whole, and no node ever serves a span that is not allowed, whatever the
// nodes' operators and those that die leave between them.
func TestCutModelsBecomeWhole(t *testing.T) {
	t.Parallel()
	for seed := range seeds(t, 8) {
		rng := rand.New(rand.NewPCG(uint64(seed), 9))
		m := ModelInfo{ID: "A", Blocks: 8 + rng.IntN(40), BlockBytes: 100 * mb, KVBytes: 1024, KVTokens: 1024}
		m.Cuts = randomCuts(rng, m.Blocks)
		parts := m.Cuts.Divide(m.Blocks, 1+rng.IntN(6))
		s := newSim(t, []ModelInfo{m}, func(string, time.Duration) float64 { return 10 })
		s.rules.Copies = 1
		var longest protocol.Span
		for _, p := range parts {
			if p.Len() > longest.Len() {
				longest = p
			}
		}
		// A few more than it takes: where one's operator has chosen the middle of a
		// model, a part goes on either side.
		for i := range 2*len(parts) + 2 {
			n := &simNode{from: time.Duration(rng.IntN(60)) * time.Second, Self: Self{ID: fmt.Sprint("n", i), Lent: m.Bytes(longest),
				Speed: 1e11, Download: 1e8, Held: map[string][]bool{}}}
			switch {
			case i == 0 && rng.IntN(2) == 0: // its operator has it serve a part of the model
				from := rng.IntN(m.Blocks)
				near := m.Cuts.Nearest(protocol.Span{From: from, To: from + 1})
				n.fixed = &Served{Model: m.ID, Span: near[0], Loaded: true, Since: epoch, Row: time.Millisecond}
			case i == 1 && rng.IntN(2) == 0:
				n.dies = 6 * time.Minute
			}
			s.nodes = append(s.nodes, n)
		}
		s.run(25 * time.Minute)
		if !s.whole[m.ID] {
			var served []string
			s.each(m.ID, func(n *simNode, x *Served) { served = append(served, n.ID+" "+x.Span.String()) })
			t.Errorf("seed %d: %d blocks in parts of at most %d are not whole: %v; %+v", seed, m.Blocks, longest.Len(), served, m.Cuts)
		}
		s.each(m.ID, func(n *simNode, x *Served) {
			if !m.Cuts.Allows(x.Span) {
				t.Errorf("seed %d: %s serves %s, which is not allowed", seed, n.ID, x.Span)
			}
		})
	}
}
