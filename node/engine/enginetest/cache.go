package enginetest

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// cachePrompt returns n tokens of any vocabulary of 403 and more.
func cachePrompt(n int) []int32 {
	prompt := make([]int32, n)
	for i := range prompt {
		prompt[i] = int32(i*37%400 + 3)
	}
	return prompt
}

// testSameWhoeverElse: what a session computes does not depend on who came before it
// and who is there besides, to the last bit.
func (b Backend) testSameWhoeverElse(t *testing.T) {
	if !b.Steady {
		t.Skip("not claimed")
	}
	for _, name := range []string{tinyModel, "SmolLM2-135M-Instruct.Q4_1.gguf"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			c := b.cut(t, b.model(t, name), 1)
			p := &protocol.Sampling{TopLogprobs: 3}
			prompt := cachePrompt(45)
			want := c.Generate(t, 0, prompt, 40, 64, p)
			for n := range 3 { // sessions that stay, of lengths that fill no page
				c.Pass(t, n+1, 0, prompt[:20+n*7], nil)
			}
			if got := c.Generate(t, 0, prompt, 40, 64, p); !slices.EqualFunc(got, want, sameToken) {
				t.Errorf("beside others: %v, alone %v", got, want)
			}
			c.Remove(t, 2, 0) // a hole, and what lies behind it
			if got := c.Generate(t, 0, prompt, 40, 64, p); !slices.EqualFunc(got, want, sameToken) {
				t.Errorf("in a hole: %v, alone %v", got, want)
			}
		})
	}
}

// testExact: in exact mode a row computes the same alone and in company, and in a
// chunk.
func (b Backend) testExact(t *testing.T) {
	if !b.Exact {
		t.Skip("not claimed")
	}
	for _, name := range []string{tinyModel, "stories260K.gguf"} {
		t.Run(name, func(t *testing.T) {
			c := b.cutBy(t, b.model(t, name), 2, b.Load, func(cfg *engine.Config) { cfg.Exact = true })
			p := &protocol.Sampling{TopLogprobs: 3}
			prompt := cachePrompt(40)
			want := c.Generate(t, 0, prompt, 60, 64, p)
			whole := append(slices.Clone(prompt), IDs(want[:30])...) // as a repair would replay it
			again := c.Generate(t, 1, whole, 30, 64, p)
			if !slices.EqualFunc(again, want[30:], sameToken) {
				t.Errorf("replayed in chunks: %v, row by row %v", again, want[30:])
			}
		})
	}
}

func sameToken(a, b sample.Token) bool { return a.ID == b.ID && slices.Equal(a.Top, b.Top) }
