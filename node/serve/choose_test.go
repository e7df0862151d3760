package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// clock is an engine that takes a time per row.
type clock struct {
	info engine.Info
	row  time.Duration
	busy func() int // by which the next pass takes longer; nil: 1
}

func (c *clock) Info() engine.Info { return c.info }
func (c *clock) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	took := time.Duration(len(b.Rows)) * c.row
	if c.busy != nil {
		took *= time.Duration(c.busy())
	}
	return &engine.Result{Compute: took, Tokens: make([]sample.Token, len(b.Outputs)), Hidden: make([]float32, len(b.Rows)*c.info.Width)}, nil
}
func (*clock) Remove(int, int32) error          { return nil }
func (*clock) CopyPrefix(int, int, int32) error { return nil }
func (*clock) Close() error                     { return nil }

// ours is a model of an architecture; that of any but llama no built-in engine computes.
func ours(t *testing.T, arch string) *store.Model {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "m.gguf")
	if err := os.WriteFile(file, bytes.ReplaceAll(tinymodel.GGUF(), []byte("llama"), []byte(arch)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	m, err := s.Add(t.Context(), file, store.AddOptions{Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// machine is a server whose engines are clocks.
type machine struct {
	*Server
	rows  map[string]time.Duration // of the engines that load
	busy  map[string]func() int    // how much longer their passes take
	fails map[string]error         // of those that do not
	loads []string
	told  []string
}

func newMachine(t *testing.T, m *store.Model, change func(*Config)) *machine {
	x := &machine{rows: map[string]time.Duration{engine.BuiltIn: time.Millisecond, engine.Llama: time.Millisecond}, fails: map[string]error{}}
	cfg := Config{
		Memory: 1 << 30, Threads: 2, MaxSessions: 2, InProcess: true, Version: "1", Log: slog.New(slog.DiscardHandler), Models: here{m: m},
		Events:  func(e Event) { x.told = append(x.told, e.Error) },
		Engines: Engines{Library: func() (Library, error) { return Library{"/lib", "lib 1"}, nil }},
	}
	cfg.Load = func(_ context.Context, c engine.Config, _ *slog.Logger) (engine.Engine, error) {
		x.loads = append(x.loads, c.Engine)
		if want := map[string]string{engine.Llama: "/lib"}[c.Engine]; c.Library != want {
			t.Errorf("%s opens %q", c.Engine, c.Library)
		}
		if err := x.fails[c.Engine]; err != nil {
			return nil, err
		}
		return &clock{engine.Info{Engine: c.Engine, Width: 8, Blocks: int(m.Manifest().Blocks), To: c.To, From: c.From, KVTokens: c.KVTokens, MaxBatch: c.MaxBatch}, x.rows[c.Engine], x.busy[c.Engine]}, nil
	}
	change(&cfg)
	x.Server = New(cfg)
	return x
}

// every returns a function that returns 1, but n at each nth call and the first.
func every(n int) func() int {
	calls := -1
	return func() int {
		if calls++; calls%n == 0 {
			return n
		}
		return 1
	}
}

// A machine that others use now and then does not spoil the choice; one that is busy all
// the time makes one that counts for the moment.
func TestChoiceOnBusyMachine(t *testing.T) {
	m := ours(t, "llama")
	for name, c := range map[string]struct {
		busy  map[string]func() int
		ratio time.Duration // by which the library is faster
		want  string
		kept  bool
	}{
		"some slow passes":               {map[string]func() int{engine.BuiltIn: every(11), engine.Llama: every(7)}, 2, engine.Llama, true},
		"slow passes of the one":         {map[string]func() int{engine.BuiltIn: every(9)}, 1, engine.BuiltIn, true},
		"busy for longer":                {map[string]func() int{engine.Llama: func() func() int { n := 0; return func() int { n++; return 1 + n%5 } }()}, 4, engine.Llama, false},
		"busy for longer, hardly faster": {map[string]func() int{engine.Llama: func() func() int { n := 0; return func() int { n++; return 1 + n%5 } }()}, 1, engine.BuiltIn, false},
	} {
		x := newMachine(t, m, func(*Config) {})
		x.busy = c.busy
		x.rows[engine.Llama] /= c.ratio
		got, err := x.opens(t, m)
		if err != nil || got != c.want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if kept := x.verdicts.of(x.question(target{m, m.Manifest().All()}, Library{"/lib", "lib 1"})) != ""; kept != c.kept {
			t.Errorf("%s: the verdict was kept: %t", name, kept)
		}
	}
}

// opens loads all of a model, and returns the engine that computes it.
func (x *machine) opens(t *testing.T, m *store.Model) (string, error) {
	t.Helper()
	l, err := add(x.Server, Spec{"m", "all"}).open(t.Context(), target{m, m.Manifest().All()})
	if err != nil {
		return "", err
	}
	return l.engine.Info().Engine, nil
}

func TestWhichEngine(t *testing.T) {
	known, other := ours(t, "llama"), ours(t, "zebra")
	none := func() (Library, error) { return Library{}, errors.New("it is not on this machine") }
	crash := fmt.Errorf("%w: signal: segmentation fault", engine.ErrLost)
	unknown := fmt.Errorf("%w: version 77 is not known", engine.ErrUnsupported)
	faster := func(x *machine) { x.rows[engine.Llama] /= 2 }
	breaks := func(err error) func(*machine) { return func(x *machine) { x.fails[engine.Llama] = err } }
	for name, c := range map[string]struct {
		m      *store.Model
		change func(*Config)
		how    func(*machine)
		want   string // engine, or part of the error
		loads  string
		kind   remedy.Kind
	}{
		"equally fast":             {known, nil, nil, engine.BuiltIn, "ggml llama ggml", ""},
		"the library is faster":    {known, nil, faster, engine.Llama, "ggml llama", ""},
		"exact":                    {known, func(c *Config) { c.Exact = true }, faster, engine.BuiltIn, "ggml", ""},
		"exact, but not built in":  {other, func(c *Config) { c.Exact = true }, nil, engine.Llama, "llama", ""},
		"built in alone":           {known, func(c *Config) { c.Engines.Use = engine.BuiltIn }, faster, engine.BuiltIn, "ggml", ""},
		"the library alone":        {known, func(c *Config) { c.Engines.Use = engine.Llama }, nil, engine.Llama, "llama", ""},
		"not built in":             {other, nil, nil, engine.Llama, "llama", ""},
		"no library":               {known, func(c *Config) { c.Engines.Library = none }, nil, engine.BuiltIn, "ggml", ""},
		"a program without":        {known, func(c *Config) { c.Engines.Library = nil }, nil, engine.BuiltIn, "ggml", ""},
		"neither":                  {other, func(c *Config) { c.Engines.Library = none }, nil, `architecture "zebra"; supported are`, "", remedy.InstallEngine},
		"neither, by word":         {other, func(c *Config) { c.Engines.Use = engine.BuiltIn }, nil, "the built-in engine alone", "", remedy.AnyEngine},
		"demanded, and none":       {known, func(c *Config) { c.Engines.Use, c.Engines.Library = engine.Llama, none }, nil, "not on this machine", "", remedy.InstallEngine},
		"an unknown library":       {known, nil, breaks(unknown), engine.BuiltIn, "ggml llama ggml", ""},
		"one that crashes":         {known, nil, breaks(crash), engine.BuiltIn, "ggml llama ggml", ""},
		"an unknown one, demanded": {known, func(c *Config) { c.Engines.Use = engine.Llama }, breaks(unknown), "version 77", "llama", remedy.ReplaceEngine},
		"a crash, not built in":    {other, nil, breaks(crash), "segmentation fault", "llama", ""},
		"no memory for it":         {known, nil, breaks(engine.ErrMemory), engine.ErrMemory.Error(), "ggml llama", ""},
	} {
		if c.change == nil {
			c.change = func(*Config) {}
		}
		x := newMachine(t, c.m, c.change)
		if c.how != nil {
			c.how(x)
		}
		got, err := x.opens(t, c.m)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) || strings.Join(x.loads, " ") != c.loads {
			t.Errorf("%s: %s, after loading %v", name, got, x.loads)
		}
		if r := remedy.Of(err); c.kind != "" && (r == nil || r.Kind != c.kind || !errors.Is(err, engine.ErrUnsupported)) {
			t.Errorf("%s: %v has the remedy %+v", name, err, r)
		}
	}
}

// A library that fails is told of once, and not tried again for the model; another
// library is.
func TestGiveUp(t *testing.T) {
	m := ours(t, "llama")
	id := "lib 1"
	x := newMachine(t, m, func(c *Config) { c.Engines.Library = func() (Library, error) { return Library{"/lib", id}, nil } })
	x.fails[engine.Llama] = errors.New("its self-test fails")
	for range 3 {
		if got, err := x.opens(t, m); got != engine.BuiltIn {
			t.Fatal(got, err)
		}
		if why := x.gaveUp(); why == nil || !strings.Contains(why.Error(), "its self-test fails") {
			t.Errorf("it was given up because of %v", why)
		}
	}
	if want := []string{"ggml", "llama", "ggml", "ggml", "ggml"}; !slices.Equal(x.loads, want) {
		t.Errorf("loaded %v", x.loads)
	}
	if len(x.told) != 1 || !strings.Contains(x.told[0], "its self-test fails; the built-in engine computes instead") {
		t.Errorf("told %q", x.told)
	}
	id = "lib 2"
	delete(x.fails, engine.Llama)
	x.rows[engine.Llama] /= 3
	if got, err := x.opens(t, m); got != engine.Llama || x.gaveUp() != nil {
		t.Error(got, err, x.gaveUp())
	}
}

// A library that ends its process at a model that nothing else computes is given up for it
// the second time, until there is another library. One that was killed is not: that is the
// system's doing.
func TestCrashes(t *testing.T) {
	m := ours(t, "zebra")
	id := "lib 1"
	x := newMachine(t, m, func(c *Config) { c.Engines.Library = func() (Library, error) { return Library{"/lib", id}, nil } })
	fails := func(why string, given bool) {
		t.Helper()
		x.fails[engine.Llama] = fmt.Errorf("%w: %s", engine.ErrLost, why)
		_, err := x.opens(t, m)
		if errors.Is(err, engine.ErrUnsupported) != given || err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("given up: %v, want %v; %v", !given, given, err)
		}
		if r := remedy.Of(err); r == nil || r.Kind != remedy.ReplaceEngine {
			t.Errorf("%v has the remedy %+v", err, r)
		}
	}
	fails("signal: killed", false)
	fails("signal: killed", false)
	fails("signal: aborted (of one)", false)
	fails("signal: aborted (of two)", true)
	fails("signal: aborted (of two)", true) // from memory
	if err := x.computable(m); !errors.Is(err, engine.ErrUnsupported) || len(x.loads) != 4 {
		t.Errorf("what is known of it after loading %v: %v", x.loads, err)
	}
	id = "lib 2"
	delete(x.fails, engine.Llama)
	if got, err := x.opens(t, m); got != engine.Llama {
		t.Error(got, err)
	}
}

// gaveUp is why the library was given up for the span that was opened last.
func (x *machine) gaveUp() error {
	spans := x.Snapshot().Spans
	return spans[len(spans)-1].GaveUp
}

// What was measured is kept over a restart; with another version it is measured again,
// and then the engine changes only for a clear gain.
func TestVerdicts(t *testing.T) {
	m := ours(t, "llama")
	file, version := filepath.Join(t.TempDir(), "measured.json"), "1"
	for i, c := range []struct {
		version  string
		library  time.Duration // per row, where the built-in engine takes 1 ms
		want     string
		measured bool
	}{
		{"1", 950 * time.Microsecond, engine.BuiltIn, true},
		{"1", time.Microsecond, engine.BuiltIn, false},
		{"2", 800 * time.Microsecond, engine.Llama, true},
		{"2", time.Second, engine.Llama, false},
		{"3", 1100 * time.Microsecond, engine.Llama, true},
		{"4", 1300 * time.Microsecond, engine.BuiltIn, true},
		{"5", 900 * time.Microsecond, engine.BuiltIn, true},
		{"1", 900 * time.Microsecond, engine.BuiltIn, false}, // of an older version that is back
	} {
		version = c.version
		x := newMachine(t, m, func(cfg *Config) { cfg.Measured, cfg.Version = file, version })
		x.rows[engine.Llama] = c.library
		got, err := x.opens(t, m)
		if got != c.want || (len(x.loads) > 1) != c.measured {
			t.Errorf("%d: %s after %v, %v", i, got, x.loads, err)
		}
	}
	for _, damaged := range []string{"", "{", "null", `[{"engine":"x","span":"` + m.ID().String() + ` 0-8"}]`} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		x := newMachine(t, m, func(cfg *Config) { cfg.Measured = file })
		if got, err := x.opens(t, m); got != engine.BuiltIn || len(x.loads) != 3 {
			t.Errorf("after %q: %s, %v, %v", damaged, got, x.loads, err)
		}
	}
}

// A model that no engine here computes is not fetched to be served, and is served as soon
// as there is an engine.
func TestInstalledLater(t *testing.T) {
	m := ours(t, "zebra")
	synctest.Test(t, func(t *testing.T) {
		here := false
		x := newMachine(t, m, func(c *Config) {
			c.Engines.Library = func() (Library, error) {
				if here {
					return Library{"/lib", "lib"}, nil
				}
				return Library{}, errors.New("it is not on this machine")
			}
		})
		s := add(x.Server, Spec{"m", "all"})
		if err := s.keep(t.Context(), target{m, m.Manifest().All()}); !errors.Is(err, engine.ErrUnsupported) || len(x.loads) > 0 {
			t.Errorf("%v, after %v", err, x.loads)
		}
		if err := x.computable(m); err == nil {
			t.Error("taken for computable")
		}
		here = true
		if err := x.computable(m); err != nil {
			t.Error(err)
		}
		if got, err := x.opens(t, m); got != engine.Llama {
			t.Error(got, err)
		}
	})
}

// What an offer says of an engine passes at its border, whatever a library calls itself.
func TestComputes(t *testing.T) {
	v := Span{Loaded: true, Engine: engine.Info{Engine: engine.Llama, Version: "v1\n" + strings.Repeat("x", 100), KVType: "f16", Devices: []engine.Device{{Library: "CUDA"}, {Library: "CPU"}, {Library: "CUDA"}}}}
	e := v.Computes()
	for _, s := range []string{e.Name, e.Version, e.Device, e.Kv} {
		if protocol.MachineName(s) != s {
			t.Errorf("%q", s)
		}
	}
	if e.Device != "CPU+CUDA" || (&Span{}).Computes() != nil {
		t.Errorf("%v", e)
	}
}
