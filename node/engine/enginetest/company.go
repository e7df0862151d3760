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
// up to 15 others, in chunks, or among holes that others have left.
func (b Backend) testCompany(t *testing.T) {
	if b.Even == nil {
		t.Skip("not claimed")
	}
	for _, weights := range randommodel.Types() {
		path := RandomFile(t, weights)
		some := slices.Contains([]string{"F16", "Q8_0"}, weights.String())
		for _, kv := range []string{"f16", "f32"} {
			if kv == "f32" && !some {
				continue // attention does not depend on the weights' type
			}
			exact := !b.Even(weights, kv, false)
			if exact && !b.Even(weights, kv, true) {
				continue
			}
			t.Run(fmt.Sprintf("%s with KV in %s, exact %v", weights, kv, exact), func(t *testing.T) {
				c := b.cutBy(t, path, 2, b.Load, func(cfg *engine.Config) {
					cfg.Exact, cfg.KVType, cfg.MaxSeqs, cfg.KVTokens = exact, kv, 16, 16*640
				})
				c.testCompany(t, cachePrompt(37))
				if some { // attention over many cells may go another way
					c.testCompany(t, cachePrompt(530))
				}
			})
		}
	}
}

func (c Chain) testCompany(t *testing.T, prompt []int32) {
	t.Helper()
	p := &protocol.Sampling{TopLogprobs: 20}
	want := c.Generate(t, 0, prompt, companyTokens, 64, p)
	check := func(got []sample.Token, format string, args ...any) {
		t.Helper()
		want := want[len(want)-len(got):]
		for i := range got {
			if !sameToken(got[i], want[i]) {
				t.Errorf("%s, after %d positions: %v instead of %v from token %d on", fmt.Sprintf(format, args...), len(prompt), got[i].ID, want[i].ID, i)
				return
			}
		}
	}
	check(c.Generate(t, 0, prompt, companyTokens, 7, p), "in chunks of 7")
	for _, n := range []int{2, 5, 8, 16} {
		at := n / 2 * (n % 3) % n
		check(c.together(t, prompt, n, at, p), "as number %d of %d", at, n)
	}
	replayed := append(slices.Clone(prompt), IDs(want[:5])...)
	check(c.Generate(t, 0, replayed, companyTokens-5, 64, p), "replayed")
	c.Pass(t, 1, 0, prompt[:20], nil)
	c.Pass(t, 2, 0, prompt[:23], nil)
	c.Remove(t, 1, 0)
	check(c.Generate(t, 0, prompt, companyTokens, 64, p), "in a hole")
	c.Remove(t, 2, 0)
}

// together generates answers to n prompts in common passes, and empties their slots. It
// returns that to the given prompt, which is number at; the others differ from it.
func (c Chain) together(t testing.TB, prompt []int32, n, at int, p *protocol.Sampling) []sample.Token {
	t.Helper()
	answers := make([][]sample.Token, n)
	for seq := range n {
		own := slices.Clone(prompt)
		if seq != at {
			own[3] = int32(100 + seq)
		}
		answers[seq] = []sample.Token{c.Prefill(t, seq, own, 64, p)}
	}
	for pos := len(prompt); len(answers[0]) < companyTokens; pos++ {
		b := &engine.Batch{}
		for seq, a := range answers {
			b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(pos)})
			b.Tokens = append(b.Tokens, a[len(a)-1].ID)
		}
		for i, e := range c {
			if i == len(c)-1 {
				for seq := range n {
					b.Outputs = append(b.Outputs, engine.Output{Row: seq, Sampling: p, Position: uint64(pos + 1)})
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
	return answers[at]
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
