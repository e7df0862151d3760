package ggml

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// tokens are the hidden states of a tiny model's first span after random passes and
// removals of several sequences. between is called between them.
func tokens(t *testing.T, path string, between func(l *local)) (out [][]float32) {
	t.Helper()
	e, err := Load(t.Context(), engine.Config{Path: enginetest.StageFile(t, path, 0, 1), From: 0, To: 1, KVTokens: 1024, MaxSeqs: 4, MaxBatch: 64}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	rng := rand.New(rand.NewPCG(8, 8))
	length := make([]int32, 4)
	for range 60 {
		seq := rng.IntN(4)
		if rng.IntN(3) == 0 {
			length[seq] = rng.Int32N(length[seq] + 1)
			if err := e.Remove(seq, length[seq]); err != nil {
				t.Fatal(err)
			}
		}
		b := &engine.Batch{}
		for range 1 + rng.IntN(40) {
			b.Rows, b.Tokens = append(b.Rows, engine.Row{Seq: seq, Pos: length[seq]}), append(b.Tokens, rng.Int32N(100))
			length[seq]++
		}
		if length[seq] > 240 {
			length[seq] = 0
			b = &engine.Batch{Rows: []engine.Row{{Seq: seq}}, Tokens: []int32{1}}
			if err := e.Remove(seq, 0); err != nil {
				t.Fatal(err)
			}
			length[seq] = 1
		}
		res, err := e.Run(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, res.Hidden)
		between(e.(*local))
	}
	return out
}

// What Trim gives back nobody misses: results are the same to the last bit.
func TestTrimChangesNothing(t *testing.T) {
	for _, m := range enginetest.RandomModels()[:2] {
		path := m.File(t, enginetest.Blocks)
		want := tokens(t, path, func(*local) {})
		got := tokens(t, path, func(l *local) { l.Trim() })
		for i := range want {
			if !slices.Equal(got[i], want[i]) {
				t.Fatalf("%s: pass %d differs", m.Name, i)
			}
		}
	}
}

// Cells of sequences that have ended are given back; those of others stay.
func TestCellsAreGivenBack(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is given back on Linux only")
	}
	e, err := Load(t.Context(), engine.Config{Path: enginetest.StageFile(t, enginetest.RandomModels()[0].File(t, enginetest.Blocks), 0, 1), From: 0, To: 1, KVTokens: 16 << 10, MaxSeqs: 2, MaxBatch: 512}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	l := e.(*local)
	if !l.arch.caches()[0].host {
		t.Skip("a GPU has the cells")
	}
	fill := func(seq int, n int32) {
		for pos := int32(0); pos < n; {
			b := &engine.Batch{}
			for ; len(b.Rows) < 512 && pos < n; pos++ {
				b.Rows, b.Tokens = append(b.Rows, engine.Row{Seq: seq, Pos: pos}), append(b.Tokens, 7)
			}
			if _, err := e.Run(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := l.arch.caches()[0]
	k, v := c.keys[0], c.values[0]
	at := func(cell int) (some bool) {
		ks, _ := tensorStruct(k)
		vs, _ := tensorStruct(v)
		keys := unsafe.Slice((*byte)(unsafe.Add(ks.getData(), k.Stride(2)*cell)), k.Stride(2))
		one := unsafe.Slice((*byte)(unsafe.Add(vs.getData(), v.Stride(0)*cell)), 2)
		other := func(x byte) bool { return x != 0 }
		return slices.ContainsFunc(keys, other) || slices.ContainsFunc(one, other)
	}
	fill(0, 512)  // cells 0-511
	fill(1, 3800) // and those after it
	middle := 3000
	if !at(100) || !at(middle) {
		t.Fatal("the cells are not where this test looks")
	}
	if err := e.Remove(1, 0); err != nil {
		t.Fatal(err)
	}
	l.Trim()
	if at(middle) {
		t.Error("a cell of a sequence that has ended keeps its memory")
	}
	if !at(100) {
		t.Error("a cell of another sequence was given back")
	}
}

// The weights are the file's own pages.
func TestWeightsAreMapped(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("weights are copied on Windows")
	}
	path := enginetest.StageFile(t, enginetest.Tiny(t), 0, 1)
	e, err := Load(t.Context(), engine.Config{Path: path, From: 0, To: 1, KVTokens: 64, MaxSeqs: 1, MaxBatch: 8, Devices: []string{engine.NoDevice}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if l := e.(*local); l.unmap == nil || l.info.Weights == 0 {
		t.Errorf("they are copied; %d bytes", l.info.Weights)
	}
}

// What an engine is estimated to take is what it takes, within a tenth: for models of all
// kinds, few and many cells, sessions and rows.
func TestCostEstimates(t *testing.T) {
	for _, m := range enginetest.RandomModels() {
		path := m.File(t, enginetest.Blocks)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Stat()
		h, err := gguf.Read(f, info.Size())
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range []protocol.Span{{From: 0, To: 3}, {From: 2, To: 7}} {
			for _, cfg := range []engine.Config{
				{KVTokens: 16 << 10, MaxSeqs: 4, MaxBatch: 128},
				{KVTokens: 64 << 10, MaxSeqs: 16, MaxBatch: 256, KVType: "f32"},
				{KVTokens: 32 << 10, MaxSeqs: 1, MaxBatch: 64},
			} {
				cfg.Path, cfg.From, cfg.To = enginetest.StageFile(t, path, span.From, span.To), span.From, span.To
				e, err := Load(t.Context(), cfg, nil)
				if err != nil {
					t.Fatal(err)
				}
				got := e.Info()
				e.Close()
				c := engine.CostOf(h, span, engine.BuiltIn, cfg.KVType)
				kv, pass := c.KV(cfg.KVTokens, cfg.MaxSeqs, cfg.MaxBatch), c.Pass(cfg.KVTokens, cfg.MaxSeqs, cfg.MaxBatch)
				if d := math.Abs(float64(kv)-float64(got.KV)) / float64(got.KV); d > 0.1 {
					t.Errorf("%s %s, %d cells: KV takes %d bytes, estimated %d", m.Name, span, cfg.KVTokens, got.KV, kv)
				}
				if d := math.Abs(float64(kv+pass) - float64(got.KV+got.Graph)); d > 0.1*float64(got.KV+got.Graph) && d > 1<<20 {
					t.Errorf("%s %s, %d cells: KV and a pass take %d bytes, estimated %d", m.Name, span, cfg.KVTokens, got.KV+got.Graph, kv+pass)
				}
			}
		}
	}
}

// A child that rests takes at most 90 MiB beyond its weights, as large as a node makes it.
func TestIdleChild(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what a process takes is read from /proc")
	}
	const model = "../../../../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf"
	path := enginetest.Tiny(t)
	span := protocol.Span{From: 2, To: 4}
	if _, err := os.Stat(model); err == nil {
		path, span = model, protocol.Span{From: 10, To: 20}
	}
	cfg := engine.Config{Path: enginetest.StageFile(t, path, span.From, span.To), From: span.From, To: span.To, KVTokens: 64 << 10, MaxSeqs: 32, MaxBatch: 512}
	e, err := engine.Start(t.Context(), nil, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	b := &engine.Batch{Hidden: make([]float32, 128*e.Info().Width)}
	for i := range 128 {
		b.Rows = append(b.Rows, engine.Row{Pos: int32(i)})
	}
	if _, err := e.Run(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(0, 0); err != nil {
		t.Fatal(err)
	}
	most := int64(e.Info().Weights) + 90<<20
	var rss int64
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", e.Pid()))
		if err != nil {
			t.Skip("the process cannot be looked at: ", err)
		}
		var size, pages int64
		if _, err := fmt.Sscan(string(raw), &size, &pages); err != nil {
			t.Fatal(err)
		}
		if rss = pages * int64(os.Getpagesize()); rss <= most {
			t.Logf("%d MiB, of which %d are weights", rss>>20, e.Info().Weights>>20)
			return
		}
	}
	t.Errorf("it takes %d MiB at rest, %d allowed", rss>>20, most>>20)
}
