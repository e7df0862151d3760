package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
)

// Engines are tried by what they are for: each loads the model inside this program, in a
// process of its own, so that a library that crashes takes nothing with it.

// probed is what was found out about an engine.
type probed struct {
	Engine  string   `json:"engine"`
	Version string   `json:"version,omitempty"` // of its library; "": it does not load
	Dir     string   `json:"dir,omitempty"`     // of the library; "": in this program
	Origin  string   `json:"origin,omitempty"`  // what named the folder: named, SHOAL_LIBLLAMA, installed, system, ...
	Usable  bool     `json:"usable"`
	Why     string   `json:"why,omitempty"` // why it is not
	Chosen  bool     `json:"chosen"`        // of the libraries, the one that nodes of this home open
	Devices []device `json:"devices,omitempty"`
	Variant string   `json:"cpu_variant,omitempty"` // of the library's CPU back ends, the one that was taken; "": not known
	Has     []string `json:"backends,omitempty"`    // that lie beside the library
}

// device is one of an engine's.
type device struct {
	Name    string `json:"name"`
	Library string `json:"library"`          // CPU, CUDA, Vulkan, ...
	Memory  uint64 `json:"memory,omitempty"` // bytes; 0: not known
	Free    uint64 `json:"memory_free,omitempty"`
}

// tiny is the model inside this program, laid out for every engine.
type tiny struct {
	dir   string
	model *store.Model
	store *store.Store
}

func newTiny(ctx context.Context) (_ *tiny, err error) {
	t := &tiny{}
	if t.dir, err = os.MkdirTemp("", "shoal-engine-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if err := os.WriteFile(t.file(), tinymodel.GGUF(), 0o600); err != nil {
		return nil, err
	}
	if t.store, err = store.Open(filepath.Join(t.dir, "store"), store.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	t.model, err = t.store.Add(ctx, t.file(), store.AddOptions{Name: tinymodel.Name})
	return t, err
}

func (t *tiny) file() string { return filepath.Join(t.dir, "tiny.gguf") }

func (t *tiny) close() {
	if t.store != nil {
		_ = t.store.Close()
	}
	_ = os.RemoveAll(t.dir)
}

// load loads the model into an engine in a process of its own.
func (t *tiny) load(ctx context.Context, name, library string, devices []string) (e *engine.Child, err error) {
	cfg := engine.Config{
		Engine: name, Library: library, To: int(t.model.Manifest().Blocks), KVTokens: 1024, MaxSeqs: 1, MaxBatch: tinyRows, Devices: devices,
	}
	err = serve.WithFiles(ctx, t.model, t.model.Manifest().All(), cfg, func(filled engine.Config) error {
		e, err = engine.Start(ctx, nil, filled, nil)
		return err
	})
	return e, err
}

// probeTime is how long an engine may take to load the model: a GPU's first start takes
// some seconds.
const probeTime = time.Minute

// probe fills in what an engine is. run, which may be nil, is called with the engine.
func (t *tiny) probe(ctx context.Context, p *probed, run func(*engine.Child) error) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if p.Dir != "" {
		p.Has = backendsIn(p.Dir)
	}
	e, err := t.load(ctx, p.Engine, p.Dir, nil)
	if err != nil {
		p.Why = err.Error()
		return err
	}
	defer e.Close()
	info := e.Info()
	p.Version, p.Variant = info.Version, variantOf(e.Pid())
	for _, d := range info.Devices {
		p.Devices = append(p.Devices, device(d))
	}
	if run != nil {
		err = run(e)
	}
	if p.Usable = err == nil; err != nil {
		p.Why = err.Error()
	}
	return err
}

// backendsIn lists the back ends beside a library: cuda, vulkan, metal, cpu, ...
func backendsIn(dir string) (out []string) {
	for _, pattern := range []string{"*ggml-*", filepath.Join("ggml", "*ggml-*"), filepath.Join("llama.cpp", "*ggml-*")} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, path := range found {
			if m := backendName.FindStringSubmatch(filepath.Base(path)); m != nil && m[1] != "base" && !slices.Contains(out, m[1]) {
				out = append(out, m[1])
			}
		}
	}
	slices.Sort(out)
	return out
}

var (
	backendName = regexp.MustCompile(`ggml-([a-z0-9]+)`)
	variantName = regexp.MustCompile(`libggml-cpu-([a-z0-9_.]+)\.so`)
)

// variantOf is the CPU back end that a process has opened, where the system shows it.
func variantOf(pid int) string {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return ""
	}
	if m := variantName.FindSubmatch(bytes.TrimSpace(maps)); m != nil {
		return string(m[1])
	}
	return ""
}

const (
	tinyRows  = 64
	tinySteps = 64
	tinyTime  = 2 * time.Second // of each measurement, at most

	// What engines may differ by: processors and kernels sum in other orders, and now and
	// then two tokens are equally likely.
	mostOff   = 0.25 // in log probability
	leastSame = tinyRows * 7 / 8
)

// sums are what an engine computes of the rows of a pass.
type sums struct {
	tokens   []int32
	logprobs []float32
}

// computes has an engine compute a fixed text: the likeliest token after each of its own.
func (t *tiny) computes(ctx context.Context, e engine.Engine) (s sums, err error) {
	b := &engine.Batch{}
	if b.Tokens, err = t.tokens(ctx); err != nil {
		return s, err
	}
	for i := range b.Tokens {
		b.Rows = append(b.Rows, engine.Row{Pos: int32(i)})
		b.Outputs = append(b.Outputs, engine.Output{Row: i, Position: uint64(i + 1), Sampling: &protocol.Sampling{Logprobs: true}})
	}
	res, err := e.Run(ctx, b)
	if err != nil {
		return s, err
	}
	for _, t := range res.Tokens {
		s.tokens, s.logprobs = append(s.tokens, t.ID), append(s.logprobs, t.Logprob)
	}
	return s, e.Remove(0, 0)
}

// tokens are those of a text that the model knows how to go on with at each word.
func (t *tiny) tokens(ctx context.Context) ([]int32, error) {
	h, err := t.model.Header()
	if err != nil {
		return nil, err
	}
	reader, err := text.New(h)
	if err != nil {
		return nil, err
	}
	const story = "Once upon a time there was a little fox. The fox was sad, because it was dark and there was no lantern. One day, the fox met a kind old owl. "
	ids, err := reader.Encode(ctx, strings.Repeat(story, 4), text.EncodeOptions{})
	if err == nil && len(ids) < tinyRows {
		err = fmt.Errorf("a text of %d tokens", len(ids))
	}
	return ids[:min(tinyRows, len(ids))], err
}

// like compares two engines' results. The error says how they differ.
func (s sums) like(o sums) (same int, off float64, err error) {
	if len(s.tokens) != tinyRows || len(o.tokens) != tinyRows {
		return 0, 0, fmt.Errorf("%d tokens came for %d rows", len(s.tokens), tinyRows)
	}
	for i, id := range s.tokens {
		if id == o.tokens[i] {
			same++
		}
		off = max(off, math.Abs(float64(s.logprobs[i]-o.logprobs[i]))) // of others, too: such are about equally likely
	}
	if same < leastSame || !(off <= mostOff) {
		return same, off, fmt.Errorf("it computes otherwise than the built-in engine: %d of %d tokens are the same, and log probabilities differ by up to %.3f", same, tinyRows, off)
	}
	return same, off, nil
}

// speeds measures an engine, in rows per second of a prompt and tokens per second.
func speeds(ctx context.Context, e engine.Engine) (prompt, decode float64, err error) {
	pos := 0
	pass := func(rows int) error {
		b := &engine.Batch{Outputs: []engine.Output{{Row: rows - 1, Position: uint64(pos + rows)}}}
		for i := range rows {
			b.Rows, b.Tokens = append(b.Rows, engine.Row{Pos: int32(pos + i)}), append(b.Tokens, int32(7+i))
		}
		pos += rows
		_, err := e.Run(ctx, b)
		return err
	}
	rate := func(passes, rows int) (float64, error) {
		begin, n := time.Now(), 0
		for ; n < passes && time.Since(begin) < tinyTime; n++ {
			if err := pass(rows); err != nil {
				return 0, err
			}
		}
		return float64(n*rows) / time.Since(begin).Seconds(), nil
	}
	if _, err = rate(1, tinyRows); err == nil { // the first pass lays out what later ones use
		prompt, err = rate(4, tinyRows)
	}
	if err == nil {
		decode, err = rate(tinySteps, 1)
	}
	return prompt, decode, cmp.Or(err, e.Remove(0, 0))
}
