package enginetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/contrib/randommodel"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// companyTokens is how long the answers are that are compared.
const companyTokens = 12

// testCompany: for every type of weights and of KV cache for which that is claimed, an
// answer is the same to the last bit whether its rows are computed alone, in passes with
// 1, 7 or 15 others, or in chunks.
func (b Backend) testCompany(t *testing.T) {
	if b.Even == nil {
		t.Skip("not claimed")
	}
	for _, weights := range randommodel.Types() {
		path := RandomFile(t, weights)
		for _, kv := range []string{"f16", "f32"} {
			exact := !b.Even(weights, kv, false)
			if exact && !b.Even(weights, kv, true) {
				continue
			}
			t.Run(fmt.Sprintf("%s with KV in %s, exact %v", weights, kv, exact), func(t *testing.T) {
				c := Cut(t, path, 2, b.Load, func(cfg *engine.Config) {
					cfg.Exact, cfg.KVType, cfg.MaxSeqs, cfg.KVTokens = exact, kv, 16, 16*128
				})
				testCompany(t, c)
			})
		}
	}
}

func testCompany(t *testing.T, c Chain) {
	p := &protocol.Sampling{TopLogprobs: 20}
	prompt := cachePrompt(37)
	want := c.Generate(t, 0, prompt, companyTokens, 64, p)
	for _, chunk := range []int{1, 7} {
		if got := c.Generate(t, 0, prompt, companyTokens, chunk, p); !slices.EqualFunc(got, want, sameToken) {
			t.Errorf("in chunks of %d: %v, want %v", chunk, got, want)
		}
	}
	for _, n := range []int{2, 8, 16} {
		if got := c.together(t, prompt, n, p)[n/2]; !slices.EqualFunc(got, want, sameToken) {
			t.Errorf("with %d others: %v, alone %v", n-1, got, want)
		}
	}
	again := c.Generate(t, 0, append(slices.Clone(prompt), IDs(want[:5])...), companyTokens-5, 64, p) // as a repair replays it
	if !slices.EqualFunc(again, want[5:], sameToken) {
		t.Errorf("replayed: %v, want %v", again, want[5:])
	}
}

// together generates answers to n prompts in common passes, and empties their slots.
// Prompt n/2 is the given one, the others differ from it.
func (c Chain) together(t testing.TB, prompt []int32, n int, p *protocol.Sampling) [][]sample.Token {
	t.Helper()
	answers := make([][]sample.Token, n)
	for seq := range n {
		own := slices.Clone(prompt)
		if seq != n/2 {
			own[3] = int32(seq)
		}
		answers[seq] = []sample.Token{c.Prefill(t, seq, own, 64, p)}
	}
	for at := len(prompt); len(answers[0]) < companyTokens; at++ {
		b := &engine.Batch{}
		for seq, a := range answers {
			b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(at)})
			b.Tokens = append(b.Tokens, a[len(a)-1].ID)
		}
		for i, e := range c {
			if i == len(c)-1 {
				for seq := range n {
					b.Outputs = append(b.Outputs, engine.Output{Row: seq, Sampling: p, Position: uint64(at + 1)})
				}
			}
			res, err := e.Run(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			for seq, token := range res.Tokens {
				answers[seq] = append(answers[seq], token)
			}
			b = &engine.Batch{Rows: b.Rows, Hidden: res.Hidden}
		}
	}
	for seq := range n {
		c.Remove(t, seq, 0)
	}
	return answers
}

// RandomFile writes a small llama of random weights of a type, and returns its path.
func RandomFile(t testing.TB, weights gguf.Type) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), weights.String()+".gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := randommodel.Write(f, randommodel.Small(weights)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
