package llama

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// tiny loads the model inside the program, whole.
func tiny(t testing.TB, edit func(*engine.Config)) *local {
	t.Helper()
	library(t)
	c := enginetest.CutBy(t, stageFile, enginetest.Tiny(t), 1, Load, func(cfg *engine.Config) {
		cfg.Threads = 1
		edit(cfg)
	})
	return c[0].(*local)
}

func wordsOf(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i*37%400 + 3)
	}
	return out
}

// Cells are laid out as sequences need them, and what was computed stays when they
// move; when nobody computes any more, they are given back.
func TestCellsFollowUse(t *testing.T) {
	p := &protocol.Sampling{TopLogprobs: 5}
	small := enginetest.Chain{tiny(t, func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs = 4096, 40 })}
	l := small[0].(*local)
	least := l.kv.cells
	want := small.Generate(t, 0, wordsOf(40), 60, 64, p)
	first := small.Prefill(t, 0, wordsOf(40), 64, p)
	if first.ID != want[0].ID {
		t.Fatalf("%v, before %v", first, want[0])
	}
	next := first.ID
	for i := range 59 { // others come in the middle
		if i < 30 {
			small.Pass(t, i+1, 0, wordsOf(64), nil)
		}
		got := small.Pass(t, 0, 40+i, []int32{next}, &engine.Output{Sampling: p})[0]
		if d := enginetest.Apart(want[i+1], got); d > near {
			t.Fatalf("token %d with %d cells: %v, alone %v (%.4f apart)", i, l.kv.cells, got, want[i+1], d)
		}
		next = want[i+1].ID
	}
	if l.kv.cells < 30*64 || l.kv.cells > 4096 || l.kv.seqs < 31 {
		t.Errorf("%d cells for %d sequences", l.kv.cells, l.kv.seqs)
	}
	for i := range 30 {
		small.Remove(t, i+1, 0)
	}
	l.rested()
	if l.kv.cells != least || l.kv.seqs != 1 {
		t.Errorf("%d cells for %d sequences at rest, at first %d", l.kv.cells, l.kv.seqs, least)
	}
	small.Remove(t, 0, 90)
	if got := small.Pass(t, 0, 90, enginetest.IDs(want)[50:59], &engine.Output{Sampling: p})[0]; enginetest.Apart(want[59], got) > near {
		t.Errorf("after cells were given back: %v, want %v", got, want[59])
	}
}

// The threads of passes wait in a pool, which outlives contexts, and change nothing.
func TestPool(t *testing.T) {
	two := func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs, cfg.Threads = 4096, 4, 2 }
	l, without := tiny(t, two), tiny(t, two)
	if l.pool == nil {
		t.Fatal("this version makes no pool: its parameters are not those that are known")
	}
	defer func(pool unsafe.Pointer) { without.pool = pool }(without.pool)
	without.pool = nil // of the larger context, for one
	p := &protocol.Sampling{TopLogprobs: 5}
	a, b := enginetest.Chain{l}, enginetest.Chain{without}
	want := b.Generate(t, 0, wordsOf(300), 40, 64, p)
	for i, got := range a.Generate(t, 0, wordsOf(300), 40, 64, p) {
		if enginetest.Apart(want[i], got) != 0 {
			t.Fatalf("token %d: %v, without a pool %v", i, got, want[i])
		}
	}
}

// More than there may be is refused, leaves no trace, and fits when others have ended.
func TestCellsEnd(t *testing.T) {
	c := enginetest.Chain{tiny(t, func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs = 512, 4 })}
	l := c[0].(*local)
	pass := func(seq, base, n int) error {
		b := &engine.Batch{Tokens: wordsOf(n)}
		for i := range n {
			b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(base + i)})
		}
		_, err := l.Run(t.Context(), b)
		return err
	}
	for base := 0; base < 512; base += 64 {
		if err := pass(0, base, 64); err != nil {
			t.Fatal(err)
		}
	}
	if err := pass(1, 0, 10); !errors.Is(err, engine.ErrBatch) {
		t.Errorf("beyond the cells: %v", err)
	}
	c.Remove(t, 0, 500)
	if err := pass(1, 0, 10); err != nil {
		t.Errorf("where there is room: %v", err)
	}
}

// A prefix that is shared takes its cells once.
func TestSharedCells(t *testing.T) {
	l := tiny(t, func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs = 4096, 40 })
	c := enginetest.Chain{l}
	c.Prefill(t, 0, wordsOf(64), 64, nil)
	for seq := range 30 {
		if err := l.CopyPrefix(0, seq+1, 64); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.kv.used(); n != 64 {
		t.Errorf("%d cells", n)
	}
	for seq := range 30 {
		c.Remove(t, seq, 0)
	}
	if n := l.kv.used(); n != 64 {
		t.Errorf("%d cells of the last of them", n)
	}
	c.Remove(t, 30, 40)
	c.Remove(t, 30, 0)
	if n := l.kv.used(); n != 0 {
		t.Errorf("%d cells of none", n)
	}
}

// An idle engine of a third of a small model takes little beside its weights, even
// where much is lent.
func TestIdleMemory(t *testing.T) {
	library(t)
	path := "../../../../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf"
	if _, err := os.Stat(path); err != nil {
		t.Skip("no reference models beside this clone: ", path)
	}
	for _, s := range []protocol.Span{{From: 0, To: 10}, {From: 10, To: 20}, {From: 20, To: 30}} {
		cfg := engine.Config{Engine: engine.Llama, Path: stageFile(t, path, s.From, s.To), From: s.From, To: s.To, KVTokens: 1 << 16, MaxSeqs: 32, MaxBatch: 512}
		e, err := engine.InChild()(t.Context(), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		used := anonymous(t, e.(*engine.Child).Pid())
		i := e.Info()
		t.Logf("%s: %d MiB; KV %d, passes %d, in all %d with %d of weights", s, used>>20, i.KV>>20, i.Graph>>20, i.Host>>20, i.Weights>>20)
		if i.KV < 1<<28 || i.Graph == 0 || i.Host < i.KV+i.Graph+i.Weights {
			t.Errorf("what it says that it takes: %+v", i)
		}
		if used > 90<<20 {
			t.Errorf("%s: %d MiB beside the mapped weights", s, used>>20)
		}
		e.Close()
	}
}

// anonymous is what a process has for itself, in bytes.
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Skip("the system does not tell what a process takes: ", err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Anonymous:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no anonymous memory in ", string(raw))
	return 0
}

// A cache that is laid out once more, without a pass whose result was not finite, has
// what it had.
func TestLaidOutOnceMore(t *testing.T) {
	l := tiny(t, func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs = 512, 4 })
	c := enginetest.Chain{l}
	p := &protocol.Sampling{TopLogprobs: 5}
	want := c.Prefill(t, 0, wordsOf(50), 64, p)
	c.Pass(t, 1, 0, wordsOf(20), nil)
	c.Remove(t, 0, 49)
	l.kv.dirty = true
	l.kv.forget([]engine.Row{{Seq: 1, Pos: 10}})
	if got := c.Pass(t, 0, 49, wordsOf(50)[49:], &engine.Output{Sampling: p})[0]; l.kv.dirty || enginetest.Apart(want, got) > near {
		t.Errorf("%v, want %v", got, want)
	}
	if s := l.kv.slots[1]; s == nil || s.next != 10 {
		t.Errorf("the sequence that was cut: %+v", s)
	}
}

// What an idle engine gives back changes nothing of what it computes.
func TestTrim(t *testing.T) {
	c := enginetest.Chain{tiny(t, func(cfg *engine.Config) { cfg.KVTokens, cfg.MaxSeqs = 4096, 4 })}
	l, p := c[0].(*local), &protocol.Sampling{Logprobs: true}
	want := c.Generate(t, 0, wordsOf(40), 8, 64, p)
	c.Remove(t, 0, 0)
	l.Trim()
	if l.kv.context != nil {
		t.Error("there is a context for no sequence")
	}
	l.Trim()
	first := c.Prefill(t, 0, wordsOf(40), 64, p)
	got := []sample.Token{first}
	for i := range 7 {
		l.Trim()
		got = append(got, c.Pass(t, 0, 40+i, []int32{got[i].ID}, &engine.Output{Sampling: p, Position: uint64(41 + i)})...)
	}
	if !slices.Equal(enginetest.IDs(got), enginetest.IDs(want)) {
		t.Errorf("%v, want %v", enginetest.IDs(got), enginetest.IDs(want))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Trim()
}
