package enginetest

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// testStages: one stage, three and five give the same tokens, whatever the chunks.
func (b Backend) testStages(t *testing.T) {
	for _, path := range []string{tinyModel, "stories260K.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			path := b.model(t, path)
			prompt := []int32{1, 40, 77, 300, 12, 5, 260, 99, 31, 8, 400, 211, 90, 18, 44, 3, 17, 9, 100, 350}
			for _, p := range []*protocol.Sampling{{}, {Temperature: 0.8, TopK: 40, Seed: 7}} {
				want := IDs(b.cut(t, path, 1).Generate(t, 0, prompt, 40, 64, p))
				for _, n := range []int{3, 5} {
					if got := IDs(b.cut(t, path, n).Generate(t, 0, prompt, 40, 64, p)); !slices.Equal(got, want) {
						t.Errorf("%d stages, %v: %v, want %v", n, p, got, want)
					}
				}
			}
		})
	}
}

// changed is a prompt with another token at i.
func changed(prompt []int32, i int) []int32 {
	out := slices.Clone(prompt)
	out[i] = (out[i] + 1) % Vocab
	return out
}

// kinds counts the different tokens.
func kinds(tokens []int32) int {
	return len(slices.Compact(slices.Sorted(slices.Values(tokens))))
}

// testRandomModels: a small random model of every architecture answers alike in one
// stage and in three, whatever the chunks, and after steps were taken back.
func (b Backend) testRandomModels(t *testing.T) {
	greedy, drawn := &protocol.Sampling{TopLogprobs: 20}, &protocol.Sampling{Temperature: 0.9, TopK: 40, Seed: 11}
	prompt := RandomPrompt(50) // four windows
	for _, r := range b.models() {
		t.Run(r.Name, func(t *testing.T) {
			path := r.File(t, Blocks)
			one, three := b.cut(t, path, 1), b.cut(t, path, b.stages(r, 3))
			for _, p := range []*protocol.Sampling{greedy, drawn} {
				want := IDs(one.Generate(t, 0, prompt, 30, 16, p))
				if got := IDs(three.Generate(t, 0, prompt, 30, 16, p)); !slices.Equal(got, want) {
					t.Errorf("three stages, %v: %v, want %v", p, got, want)
				}
				if kinds(want) < 6 {
					t.Errorf("a dull answer: %v", want)
				}
			}
			b.testChunks(t, one, prompt)
			b.testInput(t, one, prompt)
			b.testTakenBack(t, three, prompt, drawn)
			b.testTogether(t, three, prompt)
			b.testPrefix(t, three, prompt, drawn)
		})
	}
	for _, arch := range engine.Supported() {
		if !slices.ContainsFunc(RandomModels(), func(r Model) bool { return r.Arch == arch }) {
			t.Errorf("there is no random model of %s", arch)
		}
	}
}

// testChunks: the first token does not depend on how a prompt was cut.
func (b Backend) testChunks(t *testing.T, c Chain, prompt []int32) {
	t.Helper()
	p := &protocol.Sampling{TopLogprobs: 20}
	want := c.Prefill(t, 0, prompt, len(prompt), p)
	for seq, chunk := range []int{1, 7, 16} {
		got := c.Prefill(t, seq+1, prompt, chunk, p)
		if d := Apart(want, got); d > b.near() {
			t.Errorf("chunks of %d: %v, all at once: %v (%.4f apart)", chunk, got, want, d)
		}
	}
	for seq := range 4 {
		c.Remove(t, seq, 0)
	}
}

// testInput: the answer depends on every part of the prompt.
func (b Backend) testInput(t *testing.T, c Chain, prompt []int32) {
	t.Helper()
	p := &protocol.Sampling{TopLogprobs: 20}
	want := c.First(t, prompt, 16, p)
	if d := Apart(want, c.First(t, prompt, 16, p)); d > b.noise() {
		t.Errorf("the same prompt once more: %.4f apart", d)
	}
	for _, i := range []int{0, len(prompt) / 2, len(prompt) - 1} {
		if Apart(want, c.First(t, changed(prompt, i), 16, p)) <= b.noise() {
			t.Errorf("token %d of the prompt does not matter", i)
		}
	}
}

// testTakenBack: what was taken back leaves no trace.
func (b Backend) testTakenBack(t *testing.T, c Chain, prompt []int32, p *protocol.Sampling) {
	t.Helper()
	first := c.Prefill(t, 0, prompt, 16, p)
	want := c.GoOn(t, 0, len(prompt), first.ID, 20, p)
	for _, keep := range []int{0, 5, 13} {
		next := first.ID
		if keep > 0 {
			next = want[keep-1]
		}
		at := len(prompt) + keep
		c.Remove(t, 0, at)
		c.GoOn(t, 0, at, (next+1)%Vocab, 4, p) // elsewhere
		c.Remove(t, 0, at)
		if got := c.GoOn(t, 0, at, next, 20-keep, p); !slices.Equal(got, want[keep:]) {
			t.Errorf("taken back to %d: %v, want %v", at, got, want[keep:])
		}
	}
	c.Remove(t, 0, 0)
}

// testTogether: sequences in one pass do not see each other.
func (b Backend) testTogether(t *testing.T, c Chain, prompt []int32) {
	t.Helper()
	p := &protocol.Sampling{TopLogprobs: 20}
	prompts := [][]int32{prompt[:20], prompt[7:16], prompt[20:50]}
	var want []sample.Token
	for _, ids := range prompts {
		want = append(want, c.First(t, ids, 64, p))
	}
	pass := &engine.Batch{}
	var outputs []engine.Output
	for seq, ids := range prompts {
		for i, id := range ids {
			pass.Rows, pass.Tokens = append(pass.Rows, engine.Row{Seq: seq, Pos: int32(i)}), append(pass.Tokens, id)
		}
		outputs = append(outputs, engine.Output{Row: len(pass.Rows) - 1, Sampling: p, Position: uint64(len(ids))})
	}
	for i, e := range c {
		if i == len(c)-1 {
			pass.Outputs = outputs
		}
		res, err := e.Run(t.Context(), pass)
		if err != nil {
			t.Fatal(err)
		}
		for j, got := range res.Tokens {
			if d := Apart(want[j], got); d > b.near() {
				t.Errorf("sequence %d of a pass: %v, alone: %v (%.4f apart)", j, got, want[j], d)
			}
		}
		pass = &engine.Batch{Rows: pass.Rows, Hidden: res.Hidden}
	}
	for seq := range prompts {
		c.Remove(t, seq, 0)
	}
}

// testPrefix: a shared prefix is as good as one's own.
func (b Backend) testPrefix(t *testing.T, c Chain, prompt []int32, p *protocol.Sampling) {
	t.Helper()
	first := c.Prefill(t, 0, prompt, 16, p)
	want := c.GoOn(t, 0, len(prompt), first.ID, 10, p)
	whole := len(prompt) / engine.PrefixPage * engine.PrefixPage
	for _, e := range c {
		if err := e.CopyPrefix(0, 1, int32(whole)); err != nil {
			t.Fatal(err)
		}
		if err := e.CopyPrefix(0, 2, int32(whole)+1); !errors.Is(err, engine.ErrBatch) {
			t.Errorf("a prefix that ends in a page: %v", err)
		}
	}
	c.Remove(t, 0, 0)
	for at := whole; at < len(prompt); at += 16 {
		c.Pass(t, 1, at, prompt[at:min(at+16, len(prompt))], nil)
	}
	if got := c.GoOn(t, 1, len(prompt), first.ID, 10, p); !slices.Equal(got, want) {
		t.Errorf("on a copied prefix: %v, want %v", got, want)
	}
	c.Remove(t, 1, 0)
}

// testWindow: a window of w tokens is the token itself and the w-1 before it.
func (b Backend) testWindow(t *testing.T) {
	p := &protocol.Sampling{TopLogprobs: Vocab}
	for _, c := range []struct {
		name  string
		local int // so many blocks before the first that sees everything
	}{{"gemma2", 1}, {"gemma3", 5}, {"gpt-oss", 1}, {"olmo3", 3}} {
		t.Run(c.name, func(t *testing.T) {
			r := b.randomModel(t, c.name)
			prompt := RandomPrompt(c.local*Window + 10)
			differs := func(blocks, back, chunk int) bool {
				e := b.cut(t, r.File(t, blocks), 1)
				other := changed(prompt, len(prompt)-1-back)
				return Apart(e.First(t, prompt, chunk, p), e.First(t, other, chunk, p)) > b.noise()
			}
			for _, chunk := range []int{4, 64} {
				if !differs(1, Window-1, chunk) || differs(1, Window, chunk) {
					t.Errorf("in chunks of %d one block sees another window than the last %d tokens", chunk, Window)
				}
				if far := c.local*(Window-1) + 1; differs(c.local, far, chunk) || !differs(c.local+1, far, chunk) {
					t.Errorf("in chunks of %d block %d is not the first to see everything", chunk, c.local+1)
				}
			}
		})
	}
}

// testWindowForgets: a cache that gives up what is far behind the window answers
// like one that keeps it all, and refuses to go back to where it has lost the window.
func (b Backend) testWindowForgets(t *testing.T) {
	p := &protocol.Sampling{TopLogprobs: 20}
	prompt := RandomPrompt(700)
	forgetful := func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs = 4096, 2 }
	for _, r := range b.models() {
		if !r.Windowed {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			path := r.File(t, Blocks)
			want := b.cut(t, path, 1).First(t, prompt, 64, p)
			c := b.cutBy(t, path, b.stages(r, 3), b.Load, forgetful)
			like := func(what string, got sample.Token) {
				if d := Apart(want, got); d > b.Near {
					t.Errorf("%s: %v, want %v (%.4f apart)", what, got, want, d)
				}
			}
			like("at first", c.Prefill(t, 0, prompt, 64, p))
			const back = 600
			c.Remove(t, 0, back)
			c.Pass(t, 0, back, prompt[back:back+64], nil)
			like("taken back", c.Pass(t, 0, back+64, prompt[back+64:], &engine.Output{Sampling: p})[0])
			for i, e := range c {
				if err := e.Remove(0, 20); b.Forgets && !errors.Is(err, engine.ErrBatch) {
					t.Errorf("stage %d went back to where the window is lost: %v", i, err)
				} else if !b.Forgets && err != nil {
					t.Errorf("stage %d does not go back: %v", i, err)
				}
			}
			c.Remove(t, 0, 0)
			like("from the beginning", c.First(t, prompt, 64, p))
		})
	}
}

// testLatentAttention: the two forms in which DeepSeek's attention is written are
// the same model.
func (b Backend) testLatentAttention(t *testing.T) {
	p := &protocol.Sampling{TopLogprobs: 20}
	prompt := RandomPrompt(50)
	old := b.cut(t, b.randomModel(t, "deepseek2").File(t, Blocks), 1).First(t, prompt, 64, p)
	latent := b.cut(t, b.randomModel(t, "deepseek2 with latent attention").File(t, Blocks), 1).First(t, prompt, 64, p)
	if d := Apart(old, latent); d > b.Near {
		t.Errorf("%v, expanded: %v (%.4f apart)", latent, old, d)
	}
}

// testMistral3Names: llama.cpp's converter names some of mistral3's keys otherwise
// than Ollama's.
func (b Backend) testMistral3Names(t *testing.T) {
	p := &protocol.Sampling{TopLogprobs: 20}
	prompt := RandomPrompt(50)
	r := b.randomModel(t, "mistral3")
	var edits []gguf.KV
	for _, k := range []struct {
		ollama, llamacpp string
		value            float32
	}{
		{"rope.scaling.beta_fast", "rope.scaling.yarn_beta_fast", 2},
		{"rope.scaling.beta_slow", "rope.scaling.yarn_beta_slow", 0.5},
		{"rope.scaling.mscale", "rope.scaling.yarn_log_multiplier", 1},
		{"rope.scaling.mscale_all_dim", "rope.scaling.yarn_log_multiplier", 1},
		{"rope.scaling_beta", "attention.temperature_scale", 0.2},
	} {
		edits = append(edits, gguf.KV{Key: "mistral3." + k.ollama}, gguf.KV{Key: "mistral3." + k.llamacpp, Value: k.value})
	}
	want := b.cut(t, r.File(t, Blocks), 1).First(t, prompt, 64, p)
	got := b.cut(t, r.File(t, Blocks, edits...), 1).First(t, prompt, 64, p)
	if d := Apart(want, got); d > b.noise() {
		t.Errorf("%v, want %v (%.4f apart)", got, want, d)
	}
}

// testOverflow: what a peer sends may overflow the cache's 16 bits where a model does
// not norm it first, as olmo3. Only the session that it belongs to may suffer.
func (b Backend) testOverflow(t *testing.T) {
	c := b.cut(t, b.randomModel(t, "olmo3").File(t, Blocks), 3)
	batch := func(seq, n int, scale float64) *engine.Batch {
		b := &engine.Batch{}
		for i := range n {
			b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(i)})
		}
		for i := range n * rWidth {
			b.Hidden = append(b.Hidden, float32(scale*math.Sin(float64(i))))
		}
		return b
	}
	for i, e := range c[1:] {
		run := func(seq int) *engine.Result {
			good := batch(seq, 2, 1) // fewer cells than the bad one
			if e.Info().To == Blocks {
				good.Outputs = []engine.Output{{Row: 1, Sampling: &protocol.Sampling{TopLogprobs: 20}}}
			}
			res, err := e.Run(t.Context(), good)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Remove(seq, 0); err != nil {
				t.Fatal(err)
			}
			return res
		}
		want := run(0)
		_, err := e.Run(t.Context(), batch(1, 4, 1e9))
		switch {
		case errors.Is(err, engine.ErrBatch): // and was taken back, so that it can be tried again
		case err == nil && !b.Overflows:
			if err := e.Remove(1, 0); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("stage %d, an overflow: %v", i+1, err)
		}
		for seq := range 2 {
			if got := run(seq); !b.same(got, want) {
				t.Errorf("stage %d, sequence %d after an overflow: %v, want %v", i+1, seq, got, want)
			}
		}
	}
}
