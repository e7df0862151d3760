package enginetest

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// testAhead: rows of wrong guesses that earlier stages have computed and taken back, as
// often as may be, leave no trace in the answer. The last stage computes none of them.
func (b Backend) testAhead(t *testing.T) {
	p := &protocol.Sampling{Temperature: 0.9, TopK: 40, Seed: 11, TopLogprobs: 5}
	prompt := RandomPrompt(50) // four windows
	const n = 30
	for _, r := range b.models() {
		t.Run(r.Name, func(t *testing.T) {
			c := b.cut(t, r.File(t, Blocks), b.stages(r, 3))
			if slices.ContainsFunc(c, func(e engine.Engine) bool { return e.Info().Rollback == 0 }) {
				t.Skip("it says that it takes no rows back")
			}
			want := c.Generate(t, 0, prompt, n, 16, p)
			rng := rand.New(rand.NewPCG(1, 2))
			got := []sample.Token{c.Prefill(t, 0, prompt, 16, p)}
			for at := len(prompt); len(got) < n; at++ {
				for range rng.IntN(3) {
					c[:len(c)-1].astray(t, at, 1+rng.IntN(8), rng)
				}
				got = append(got, c.Pass(t, 0, at, []int32{got[len(got)-1].ID}, &engine.Output{Sampling: p})[0])
			}
			same := slices.EqualFunc(got, want, sameToken)
			if !b.Steady {
				same = slices.EqualFunc(got, want, func(x, y sample.Token) bool { return x.ID == y.ID && Apart(x, y) <= b.near() })
			}
			if !same {
				t.Errorf("%v\nwithout guesses\n%v", got, want)
			}
		})
	}
}

// astray computes the rows of n wrong guesses, one by one, and takes them back.
func (c Chain) astray(t *testing.T, at, n int, rng *rand.Rand) {
	for i := range n {
		c.Pass(t, 0, at+i, []int32{rng.Int32N(Vocab)}, nil)
	}
	c.Remove(t, 0, at)
}
