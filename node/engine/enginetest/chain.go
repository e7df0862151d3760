package enginetest

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Tiny writes the model inside the program to a file and returns its path.
func Tiny(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := os.WriteFile(path, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ReadHeader returns a model file's bytes, and its header.
func ReadHeader(t testing.TB, path string) (*gguf.Header, []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return h, raw
}

// StageFile writes what a store would hand to the engine: the model behind a
// header that lists only what the span needs, and holes for the rest.
func StageFile(t testing.TB, path string, from, to int) string {
	t.Helper()
	h, raw := ReadHeader(t, path)
	if err := engine.Check(h); err != nil {
		t.Fatal(err)
	}
	tied := !slices.ContainsFunc(h.Tensors, func(t gguf.Tensor) bool { return t.Name == "output.weight" })
	needs := func(name string) bool {
		head, rest, _ := strings.Cut(name, ".")
		switch {
		case head == "blk":
			n, _, _ := strings.Cut(rest, ".")
			i, _ := strconv.Atoi(n)
			return from <= i && i < to
		case head == "token_embd":
			return from == 0 || tied && to == h.Blocks()
		case strings.HasPrefix(head, "output"):
			return to == h.Blocks()
		}
		return true
	}
	var defaults []gguf.KV
	for k, v := range engine.Defaults(h) {
		defaults = append(defaults, gguf.KV{Key: k, Value: v})
	}
	const prefix = 1 << 20
	head, err := h.Stage(defaults, func(t gguf.Tensor) int64 {
		if !needs(t.Name) {
			return -1
		}
		return prefix + h.DataOffset + int64(t.Offset)
	})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), fmt.Sprintf("%d-%d.gguf", from, to))
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range h.Tensors {
		if needs(p.Name) {
			at := h.DataOffset + int64(p.Offset)
			if _, err := f.WriteAt(raw[at:at+int64(p.Bytes())], prefix+at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func blocksOf(t testing.TB, path string) int {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	h, err := gguf.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h.Blocks()
}

// Chain is a model cut into stages.
type Chain []engine.Engine

// Cut cuts a model into n stages of about the same length, as StageFile does, and
// loads each by load. edit changes what they may use; nil: nothing.
func Cut(t testing.TB, path string, n int, load engine.Loader, edit func(*engine.Config)) Chain {
	t.Helper()
	return CutBy(t, StageFile, path, n, load, edit)
}

// Stager writes the file of blocks [from, to) of a model for a back end, and returns
// its path.
type Stager func(t testing.TB, path string, from, to int) string

// CutBy is Cut with stage files that stage makes.
func CutBy(t testing.TB, stage Stager, path string, n int, load engine.Loader, edit func(*engine.Config)) Chain {
	t.Helper()
	blocks := blocksOf(t, path)
	var c Chain
	for i := range n {
		from, to := blocks*i/n, blocks*(i+1)/n
		cfg := engine.Config{Path: stage(t, path, from, to), From: from, To: to, KVTokens: 2048, MaxSeqs: 4, MaxBatch: 64}
		if edit != nil {
			edit(&cfg)
		}
		e, err := load(t.Context(), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		c = append(c, e)
	}
	return c
}

// Pass takes consecutive tokens of a sequence through all stages.
func (c Chain) Pass(t testing.TB, seq, base int, ids []int32, out *engine.Output) []sample.Token {
	t.Helper()
	b := &engine.Batch{Tokens: ids}
	for i := range ids {
		b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(base + i)})
	}
	for i, e := range c {
		if i == len(c)-1 && out != nil {
			out.Row, out.Position = len(ids)-1, uint64(base+len(ids))
			b.Outputs = []engine.Output{*out}
		}
		res, err := e.Run(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if i == len(c)-1 {
			return res.Tokens
		}
		b = &engine.Batch{Rows: b.Rows, Hidden: res.Hidden}
	}
	return nil
}

// Generate answers a prompt, which is computed in chunks of so many tokens, with n
// tokens, and empties the slot.
func (c Chain) Generate(t testing.TB, seq int, prompt []int32, n, chunk int, p *protocol.Sampling) []sample.Token {
	t.Helper()
	got := []sample.Token{c.Prefill(t, seq, prompt, chunk, p)}
	for at := len(prompt); len(got) < n; at++ {
		last := got[len(got)-1].ID
		got = append(got, c.Pass(t, seq, at, []int32{last}, &engine.Output{Sampling: p})[0])
	}
	c.Remove(t, seq, 0)
	return got
}

// IDs of tokens.
func IDs(tokens []sample.Token) []int32 {
	out := make([]int32, len(tokens))
	for i, t := range tokens {
		out[i] = t.ID
	}
	return out
}

// Prefill computes a prompt in chunks and returns the token after it.
func (c Chain) Prefill(t testing.TB, seq int, prompt []int32, chunk int, p *protocol.Sampling) sample.Token {
	t.Helper()
	at := 0
	for ; at+chunk < len(prompt); at += chunk {
		c.Pass(t, seq, at, prompt[at:at+chunk], nil)
	}
	return c.Pass(t, seq, at, prompt[at:], &engine.Output{Sampling: p})[0]
}

// First is the first token after a prompt. It is computed in the same cells of
// an empty cache each time, so that equal prompts have equal results.
func (c Chain) First(t testing.TB, prompt []int32, chunk int, p *protocol.Sampling) sample.Token {
	t.Helper()
	got := c.Prefill(t, 0, prompt, chunk, p)
	c.Remove(t, 0, 0)
	return got
}

// GoOn returns the n tokens after one that is not computed yet, at position at.
func (c Chain) GoOn(t testing.TB, seq, at int, next int32, n int, p *protocol.Sampling) []int32 {
	t.Helper()
	var got []int32
	for i := range n {
		next = c.Pass(t, seq, at+i, []int32{next}, &engine.Output{Sampling: p})[0].ID
		got = append(got, next)
	}
	return got
}

// Remove forgets positions at all stages.
func (c Chain) Remove(t testing.TB, seq, from int) {
	t.Helper()
	for _, e := range c {
		if err := e.Remove(seq, int32(from)); err != nil {
			t.Fatal(err)
		}
	}
}

// Apart is the largest difference between the log probabilities of the best
// tokens; infinite if one of a's five best is not among b's.
func Apart(a, b sample.Token) float64 {
	worst := 0.0
	for i, x := range a.Top {
		j := slices.IndexFunc(b.Top, func(y sample.Top) bool { return y.ID == x.ID })
		if j >= 0 {
			worst = max(worst, math.Abs(float64(x.Logprob-b.Top[j].Logprob)))
		} else if i < 5 {
			return math.Inf(1)
		}
	}
	return worst
}
