package serve

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// tokens are an entry of a header with a vocabulary.
func tokens(list ...string) gguf.KV { return gguf.KV{Key: "tokenizer.ggml.tokens", Value: list} }

// headerOf makes a header as it is read.
func headerOf(t *testing.T, kvs ...gguf.KV) *gguf.Header {
	t.Helper()
	raw, err := (&gguf.Header{Version: 3, KVs: kvs}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(strings.NewReader(string(raw)+strings.Repeat("\x00", 64)), int64(len(raw)+64))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Vocabularies are the same if their tokens are: the number alone does not tell, and those
// that only fill a vocabulary up do not count.
func TestVocabulary(t *testing.T) {
	types := func(list ...int32) gguf.KV { return gguf.KV{Key: "tokenizer.ggml.token_type", Value: list} }
	want, err := vocabularyOf(headerOf(t, tokens("a", "b", "cd")))
	if err != nil || want.tokens != 3 {
		t.Fatal(want, err)
	}
	for _, c := range []struct {
		kvs  []gguf.KV
		same bool
	}{
		{[]gguf.KV{tokens("a", "b", "cd", "[PAD3]", "[PAD4]")}, true},
		{[]gguf.KV{tokens("a", "b", "cd", "<reserved>"), types(1, 1, 1, 5)}, true},
		{[]gguf.KV{tokens("a", "b", "cd"), types(1, 1)}, true},
		{[]gguf.KV{tokens("a", "b", "c")}, false},
		{[]gguf.KV{tokens("b", "a", "cd")}, false},
		{[]gguf.KV{tokens("a", "bc", "d")}, false},
		{[]gguf.KV{tokens("a", "b")}, false},
		{[]gguf.KV{tokens("a", "b", "cd", "e"), types(1, 1, 1, 1)}, false},
	} {
		got, err := vocabularyOf(headerOf(t, c.kvs...))
		if err != nil || (got == want) != c.same {
			t.Errorf("%v: the same: %t, %v", c.kvs, got == want, err)
		}
	}
	for _, kvs := range [][]gguf.KV{nil, {tokens()}, {tokens("[PAD0]")}} {
		if v, err := vocabularyOf(headerOf(t, kvs...)); err == nil {
			t.Errorf("%v: %v", kvs, v)
		}
	}
}

// shelf is a store with the tiny model and twins of it.
type shelf struct {
	Models
	t    *testing.T
	s    *store.Store
	list []*store.Model
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &shelf{t: t, s: s}
}

func (x *shelf) add(name, file string) *store.Model {
	x.t.Helper()
	m, err := x.s.Add(x.t.Context(), file, store.AddOptions{Name: name})
	if err != nil {
		x.t.Fatal(err)
	}
	x.list = append(x.list, m)
	return m
}

func (x *shelf) List() []*store.Model { return x.list }

func (x *shelf) Obtain(_ context.Context, name string, _ *protocol.Span, _ func(done, total int64)) (*store.Model, error) {
	if i := slices.IndexFunc(x.list, func(m *store.Model) bool { return m.Name() == name }); i >= 0 {
		return x.list[i], nil
	}
	return nil, errors.New("nobody knows " + name)
}

// drafter is the drafter of a span on a machine with a shelf's models.
func (x *shelf) drafter(m *store.Model, change func(*Config)) (*machine, *drafting) {
	mc := newMachine(x.t, m, func(c *Config) {
		c.Models, c.Engines, c.Stages = x, Engines{Draft: Auto}, stage.NewServer(slog.New(slog.DiscardHandler), func(peer.ID) bool { return true })
		change(c)
	})
	t := target{m, protocol.Span{From: 0, To: 4}}
	f := mc.newDrafting(t, engine.Info{Vocab: 2048, Rollback: 64}, measured{decode: 1000})
	v := add(mc.Server, Spec{Model: m.Name()})
	v.target, v.draft = t, f
	return mc, f
}

// The smallest model of the same vocabulary drafts that has at most a quarter of the
// weights; one that the operator names may be larger, but not of another vocabulary.
func TestWhichDrafter(t *testing.T) {
	x, tiny := newShelf(t), enginetest.Tiny(t)
	large := x.add("large", tiny)
	_, f := x.drafter(large, func(*Config) {})
	if m, err := f.choose(t.Context()); m != nil || err != nil {
		t.Errorf("alone: %v, %v", m, err)
	}
	half := x.add("half", enginetest.Twin(t, tiny, 4))
	if m, err := f.choose(t.Context()); m != nil || err != nil {
		t.Errorf("with one that is too large: %v, %v", m, err)
	}
	h := headerFile(t, tiny)
	words := slices.Clone(h.Value("tokenizer.ggml.tokens").([]string))
	words[100] += "x"
	x.add("foreign", enginetest.Twin(t, tiny, 1, tokens(words...)))
	if m, err := f.choose(t.Context()); m != nil || err != nil {
		t.Errorf("with one of another vocabulary: %v, %v", m, err)
	}
	small := x.add("small", enginetest.Twin(t, tiny, 1))
	if m, err := f.choose(t.Context()); m != small || err != nil {
		t.Errorf("with one that may: %v, %v", m, err)
	}
	if got := f.drafter.Takes(); got < 1500 || got > 2500 { // of 8 blocks that take 1000 ns each, a bit less than a quarter
		t.Errorf("a guess is expected to take %s", got)
	}
	for name, c := range map[string]struct {
		m    *store.Model
		said string
	}{
		"half":    {half, ""},
		"large":   {large, ""},
		"foreign": {nil, "foreign cannot draft for large: its vocabulary is another one"},
		"nothing": {nil, "nobody knows nothing"},
	} {
		_, f := x.drafter(large, func(cfg *Config) { cfg.Engines.Draft = name })
		m, err := f.choose(t.Context())
		if m != c.m || (err == nil) != (c.said == "") {
			t.Errorf("%s: %v, %v", name, m, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.said) || remedy.Of(err) == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func headerFile(t *testing.T, path string) *gguf.Header {
	t.Helper()
	m := newShelf(t).add("m", path)
	h, err := m.Header()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Only a span that begins a model, and does not end it, has a drafter.
func TestWhoHasDrafter(t *testing.T) {
	x := newShelf(t)
	m := x.add("large", enginetest.Tiny(t))
	info := engine.Info{Vocab: 2048, Rollback: 64}
	for _, c := range []struct {
		span   protocol.Span
		info   engine.Info
		change func(*Config)
		want   bool
	}{
		{protocol.Span{From: 0, To: 4}, info, func(*Config) {}, true},
		{protocol.Span{From: 0, To: 4}, info, func(c *Config) { c.Engines.Draft = "small" }, true},
		{protocol.Span{From: 0, To: 4}, info, func(c *Config) { c.Engines.Draft = NoDraft }, false},
		{protocol.Span{From: 0, To: 4}, info, func(c *Config) { c.Engines.Draft = "" }, false},
		{protocol.Span{From: 0, To: 4}, info, func(c *Config) { c.NoAhead = true }, false},
		{protocol.Span{From: 0, To: 4}, engine.Info{Vocab: 2048}, func(*Config) {}, false},
		{protocol.Span{From: 0, To: 8}, info, func(*Config) {}, false},
		{protocol.Span{From: 2, To: 4}, info, func(*Config) {}, false},
	} {
		mc, _ := x.drafter(m, c.change)
		if f := mc.newDrafting(target{m, c.span}, c.info, measured{}); (f != nil) != c.want {
			t.Errorf("%v, %+v: a drafter: %t", c.span, mc.cfg.Engines, f != nil)
		}
	}
}

// A drafter has memory that no span has reserved, and gives it back when a span wants it.
func TestDrafterMemory(t *testing.T) {
	x, tiny := newShelf(t), enginetest.Tiny(t)
	large, small := x.add("large", tiny), x.add("small", enginetest.Twin(t, tiny, 1))
	mc, f := x.drafter(large, func(c *Config) { c.Memory = 64 << 20 })
	v := mc.spans[0]
	if err := v.reserve(64<<20 - 1<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := f.reserve(small, func() {}); err == nil || !strings.Contains(err.Error(), "small as a drafter: it needs") || remedy.Of(err) == nil {
		t.Errorf("without room: %v", err)
	}
	if err := v.reserve(1 << 20); err != nil {
		t.Fatal(err)
	}
	yielded := 0
	told := make(chan struct{}, 2)
	yield := func() {
		yielded++
		told <- struct{}{}
	}
	z, err := f.reserve(small, yield)
	if err != nil || z.bytes > 63<<20 || z.cells < leastCells {
		t.Fatal(z, err)
	}
	if left := mc.leftFor(nil); left != 63<<20 {
		t.Errorf("spans are left %d bytes", left)
	}
	if !mc.Serves(small) {
		t.Error("the drafter may be removed")
	}
	mc.makeRoom(t.Context())
	if yielded != 0 {
		t.Error("a drafter is unloaded for which there is room")
	}
	if err := v.reserve(64<<20 - z.bytes/2); err != nil {
		t.Errorf("a span is refused memory that a drafter has: %v", err)
	}
	gone := make(chan struct{})
	go func() {
		mc.makeRoom(t.Context())
		close(gone)
	}()
	<-told
	f.release(small)
	<-gone
	if yielded != 1 || mc.Serves(small) || f.snapshot().Loaded {
		t.Errorf("yielded %d times", yielded)
	}
	if _, err := f.reserve(small, yield); err == nil {
		if z2 := f.snapshot().Memory; z2 > z.bytes/2 {
			t.Errorf("%d bytes, where %d are left", z2, z.bytes/2)
		}
		mc.Adjust(Limits{Memory: 32 << 20})
		if yielded != 2 {
			t.Error("a drafter stays where less is lent")
		}
	}
}

// What an engine was found to take counts, and one that does not fit is refused.
func TestDrafterTakes(t *testing.T) {
	x, tiny := newShelf(t), enginetest.Tiny(t)
	large, small := x.add("large", tiny), x.add("small", enginetest.Twin(t, tiny, 1))
	mc, f := x.drafter(large, func(c *Config) { c.Memory = 64 << 20 })
	if _, err := f.reserve(small, func() {}); err != nil {
		t.Fatal(err)
	}
	defer f.release(small)
	for weights, fits := range map[uint64]bool{10 << 20: true, 60 << 20: true, 65 << 20: false} {
		err := f.take(small, &clock{info: engine.Info{Arch: "llama", Weights: weights}})
		if (err == nil) != fits {
			t.Errorf("%d bytes: %v", weights, err)
		}
		if fits && f.snapshot().Memory != int64(weights) {
			t.Errorf("%d bytes are reserved, of %d", f.snapshot().Memory, weights)
		}
	}
	if got := mc.leftFor(nil); got != 64<<20 {
		t.Errorf("spans are left %d bytes", got)
	}
}

// A drafter that can take nothing back is refused.
func TestDrafterRollback(t *testing.T) {
	x, tiny := newShelf(t), enginetest.Tiny(t)
	large, small := x.add("large", tiny), x.add("small", enginetest.Twin(t, tiny, 1))
	mc, f := x.drafter(large, func(*Config) {})
	if _, _, err := f.load(t.Context(), small, size{cells: 1024, batch: 64}); !errors.Is(err, engine.ErrUnsupported) {
		t.Errorf("%v", err)
	}
	mc.fails[engine.BuiltIn] = engine.ErrMemory
	if err := f.run(t.Context(), small); !errors.Is(err, engine.ErrMemory) || f.snapshot().Loaded {
		t.Errorf("%v, %+v", err, f.snapshot())
	}
}
