package enginetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// testBadBatches: a bad batch is refused, and leaves no trace.
func (b Backend) testBadBatches(t *testing.T) {
	c := b.cut(t, b.models()[0].File(t, Blocks), 2)
	greedy := &protocol.Sampling{TopLogprobs: 20}
	prompt := RandomPrompt(20)
	want := c.First(t, prompt, 64, greedy)
	c.Pass(t, 0, 0, prompt[:10], nil)
	tokens := func(rows []engine.Row, ids ...int32) *engine.Batch { return &engine.Batch{Rows: rows, Tokens: ids} }
	one := []engine.Row{{Pos: 10}}
	hidden := func(v float32) []float32 { return slices.Repeat([]float32{v}, rWidth) }
	for _, bad := range []struct {
		name  string
		stage int
		batch *engine.Batch
	}{
		{"no rows", 0, tokens(nil)},
		{"too many rows", 0, tokens(make([]engine.Row, 65), make([]int32, 65)...)},
		{"no such slot", 0, tokens([]engine.Row{{Seq: 4, Pos: 10}}, 1)},
		{"a slot below none", 0, tokens([]engine.Row{{Seq: -1, Pos: 10}}, 1)},
		{"a position below none", 0, tokens([]engine.Row{{Pos: -1}}, 1)},
		{"a gap", 0, tokens([]engine.Row{{Pos: 12}}, 1)},
		{"a position once more", 0, tokens([]engine.Row{{Pos: 9}}, 1)},
		{"no token", 0, tokens(one)},
		{"outside the vocabulary", 0, tokens(one, Vocab)},
		{"a token below none", 0, tokens(one, -1)},
		{"hidden states for the first stage", 0, &engine.Batch{Rows: one, Hidden: hidden(1)}},
		{"an output in the middle", 0, &engine.Batch{Rows: one, Tokens: []int32{1}, Outputs: []engine.Output{{}}}},
		{"tokens for the second stage", 1, tokens(one, 1)},
		{"half a hidden state", 1, &engine.Batch{Rows: one, Hidden: hidden(1)[1:]}},
		{"no number", 1, &engine.Batch{Rows: one, Hidden: hidden(float32(math.NaN()))}},
		{"infinite", 1, &engine.Batch{Rows: one, Hidden: hidden(float32(math.Inf(1)))}},
		{"an output after no row", 1, &engine.Batch{Rows: one, Hidden: hidden(1), Outputs: []engine.Output{{Row: 1}}}},
		{"an output before all rows", 1, &engine.Batch{Rows: one, Hidden: hidden(1), Outputs: []engine.Output{{Row: -1}}}},
	} {
		if _, err := c[bad.stage].Run(t.Context(), bad.batch); !errors.Is(err, engine.ErrBatch) {
			t.Errorf("%s: %v", bad.name, err)
		}
	}
	if err := c[0].CopyPrefix(0, 1, engine.PrefixPage); !errors.Is(err, engine.ErrBatch) {
		t.Errorf("a prefix longer than its sequence: %v", err)
	}
	// A failed pass of a row has taken back what lies behind it.
	c.Remove(t, 0, 0)
	if got := c.First(t, prompt, 64, greedy); Apart(want, got) > b.noise() {
		t.Errorf("after bad batches %v, before %v", got, want)
	}
}

// both loads in this process, and in one of its own.
func (b Backend) both() map[string]engine.Loader {
	return map[string]engine.Loader{"in process": b.Load, "in a child": engine.InChild()}
}

// testBadModels: what cannot be loaded is refused, with the reason.
func (b Backend) testBadModels(t *testing.T) {
	m := b.models()[0]
	good := m.File(t, Blocks)
	whole := engine.Config{Engine: b.Engine, Path: b.stage(t, good, 0, Blocks), To: Blocks, KVTokens: 256, MaxSeqs: 1, MaxBatch: 8}
	with := func(edit func(*engine.Config)) engine.Config {
		cfg := whole
		edit(&cfg)
		return cfg
	}
	for _, bad := range []struct {
		name        string
		cfg         engine.Config
		unsupported bool
	}{
		{"no such file", with(func(c *engine.Config) { c.Path += "x" }), false},
		{"another architecture", with(func(c *engine.Config) {
			c.Path = m.File(t, Blocks, gguf.KV{Key: "general.architecture", Value: "nothing"},
				gguf.KV{Key: "nothing.block_count", Value: uint32(Blocks)}, gguf.KV{Key: "nothing.attention.head_count", Value: uint32(rHeads)})
		}), true},
		{"no device of that name", with(func(c *engine.Config) { c.Devices = []string{"no such device"} }), true},
		{"more blocks than there are", with(func(c *engine.Config) { c.To = Blocks + 1 }), false},
		{"no block", with(func(c *engine.Config) { c.To = 0 }), false},
		{"without the beginning", with(func(c *engine.Config) { c.Path = b.stage(t, good, 3, Blocks) }), false},
		{"without the end", with(func(c *engine.Config) { c.Path = b.stage(t, good, 0, 3) }), false},
		{"no sequence", with(func(c *engine.Config) { c.MaxSeqs = 0 }), false},
		{"no cell", with(func(c *engine.Config) { c.KVTokens = 0 }), false},
		{"no row", with(func(c *engine.Config) { c.MaxBatch = 0 }), false},
	} {
		for where, load := range b.both() {
			e, err := load(t.Context(), bad.cfg, nil)
			if err == nil {
				t.Errorf("%s, %s: it was loaded", bad.name, where)
				e.Close()
			} else if errors.Is(err, engine.ErrUnsupported) != bad.unsupported || errors.Is(err, engine.ErrLost) {
				t.Errorf("%s, %s: %v", bad.name, where, err)
			}
		}
	}
}

// testMemory: what there is no room for is an error, and no crash.
func (b Backend) testMemory(t *testing.T) {
	path := b.stage(t, b.models()[0].File(t, Blocks), 0, Blocks)
	cfg := engine.Config{Engine: b.Engine, Path: path, To: Blocks, KVTokens: 1 << 38, MaxSeqs: 1, MaxBatch: 8, Devices: []string{engine.NoDevice}}
	refused := func(what string, load engine.Loader, cfg engine.Config) {
		t.Helper()
		if e, err := load(t.Context(), cfg, nil); err == nil {
			t.Errorf("%s: it was loaded", what)
			e.Close()
		} else if !errors.Is(err, engine.ErrMemory) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for where, load := range b.both() {
		refused("more than any machine has, "+where, load, cfg)
	}
	// 2 GiB of keys and values in a process that may have a quarter of that.
	small := cfg
	small.KVTokens, small.Memory = 1<<8, 1<<30
	e, err := engine.InChild()(t.Context(), small, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := e.Info().Fence
	e.Close()
	if !slices.Contains(f.Holds, "memory") {
		t.Skip("no bound of a process's memory here: ", f.Lacks)
	}
	small.KVTokens, small.Memory = 1<<20, 512<<20
	refused("more than a child may have", engine.InChild(), small)
}

// testClosed: an engine that was closed says that it is lost, and can be closed
// again.
func (b Backend) testClosed(t *testing.T) {
	path := b.models()[0].File(t, Blocks)
	for where, load := range b.both() {
		e := b.cutBy(t, path, 1, load, nil)[0]
		for range 2 {
			if err := e.Close(); err != nil {
				t.Errorf("%s: closing: %v", where, err)
			}
		}
		_, err := e.Run(t.Context(), &engine.Batch{Rows: make([]engine.Row, 1), Tokens: make([]int32, 1)})
		for what, err := range map[string]error{"Run": err, "Remove": e.Remove(0, 0), "CopyPrefix": e.CopyPrefix(0, 1, engine.PrefixPage)} {
			if !errors.Is(err, engine.ErrLost) {
				t.Errorf("%s: %s after Close: %v", where, what, err)
			}
		}
	}
}

// testCancel: a context that has ended keeps an engine from being loaded and a pass
// from beginning, and does no other harm.
func (b Backend) testCancel(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	path := b.models()[0].File(t, Blocks)
	p := &protocol.Sampling{TopLogprobs: 20}
	prompt := RandomPrompt(20)
	for where, load := range b.both() {
		if e, err := load(ended, engine.Config{Engine: b.Engine, Path: b.stage(t, path, 0, Blocks), To: Blocks, KVTokens: 256, MaxSeqs: 1, MaxBatch: 8}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: loading: %v", where, err)
			if err == nil {
				e.Close()
			}
		}
		c := b.cutBy(t, path, 1, load, nil)
		want := c.First(t, prompt, 64, p)
		c.Pass(t, 0, 0, prompt[:10], nil)
		if _, err := c[0].Run(ended, &engine.Batch{Rows: []engine.Row{{Pos: 10}}, Tokens: []int32{1}}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: a pass: %v", where, err)
		}
		if got := c.Pass(t, 0, 10, prompt[10:], &engine.Output{Sampling: p})[0]; Apart(want, got) > b.Near {
			t.Errorf("%s: after that %v, want %v", where, got, want)
		}
	}
}
