package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/proc"
	nodeserve "github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// Shell is what the command provides to a benchmark: its output, and functions that only
// the command can perform.
type Shell struct {
	Out, Err io.Writer
	JSON     bool                                                                                      // print JSON
	Load     engine.Loader                                                                             // loads a span into this process
	Import   func(ctx context.Context, home, source string) error                                      // puts a model into the store of a new home
	Export   func(ctx context.Context, model, file string) error                                       // writes a model of the user's home to a file
	Gateway  func(p link.Params, home string, bootstrap []string) (api string, stop func(), err error) // a light client in this process
	Token    func(home string) string                                                                  // of that client
	Whole    func(library, path string, threads, rows, cells int) (Whole, error)                       // a model computed by llama.cpp's library alone
}

// Options of a benchmark. Each benchmark reads only those that concern it.
type Options struct {
	Model    string // GGUF file or name; "": the model inside this program
	Draft    string // that guesses for Model, a GGUF file or name; "": none
	Nodes    int    // stages of the network
	Rounds   int    // measurements of each variant
	Tokens   int    // of an answer
	Threads  int    // of each engine, at most; 0: the cores
	Nice     int    // of the engine
	Loops    int    // busy loops beside it
	Seconds  int    // of each part of Load
	Sessions int    // answers at once
	RTT      string // between any two nodes, such as 40ms

	Engine  string // that computes; "": the built-in one
	Library string // folder of its library
	Against string // folder of the library, or the programs, that is compared with
}

// UsageError is a mistake in the options.
type UsageError string

// Error implements error.
func (e UsageError) Error() string { return string(e) }

// progress shows on a terminal what is being measured.
func (s Shell) progress(format string, args ...any) {
	if term.IsTerminal(s.Err) {
		fmt.Fprintf(s.Err, "\r\x1b[K"+format, args...)
	}
}

// bench is the state that every benchmark has: a temporary directory, and the model in a
// store.
type bench struct {
	Shell
	Options
	ctx    context.Context
	dir    string
	source string // what a testnet can import
	model  *store.Model

	spawner *testnet.Spawner // of programs that are compared with; nil: there are none
}

// prepared runs a benchmark and cleans up after it.
func prepared(ctx context.Context, sh Shell, o Options, run func(*bench) error) (err error) {
	if err := beEngine(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return err
	}
	b := &bench{Shell: sh, Options: o, ctx: ctx, dir: dir}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b.progress("importing the model")
	defer b.progress("")
	if err := b.findSource(); err != nil {
		return err
	}
	s, err := b.importModel()
	if err != nil {
		return err
	}
	defer s.Close()
	return run(b)
}

// Stages compares decoding through several nodes with one node and with the engine
// alone.
func Stages(ctx context.Context, sh Shell, o Options) error { return prepared(ctx, sh, o, stages) }

// Engine compares the engine in this process with one in a process of its own.
func Engine(ctx context.Context, sh Shell, o Options) error { return prepared(ctx, sh, o, engines) }

// Load decodes beside busy programs, second by second.
func Load(ctx context.Context, sh Shell, o Options) error { return prepared(ctx, sh, o, load) }

// Link compares decoding over a distance with what the distance alone takes.
func Link(ctx context.Context, sh Shell, o Options) error { return prepared(ctx, sh, o, distance) }

// Serve compares many sessions at once with one and with the engine alone.
func Serve(ctx context.Context, sh Shell, o Options) error { return prepared(ctx, sh, o, serve) }

// beEngine restarts this program with the environment of an engine's process, unless it
// has it already, so that an engine in this process is as fast as one in a child.
func beEngine() error {
	env := engine.Spinning(os.Environ())
	if slices.Equal(env, os.Environ()) {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return proc.Become(exe, os.Args, env)
}

// findSource turns the model's name into a file, unless it is the built-in model.
func (b *bench) findSource() error {
	b.source = cmp.Or(b.Model, testnet.TinyModel)
	if b.source == testnet.TinyModel || filepath.IsAbs(b.source) {
		return nil
	}
	file := filepath.Join(b.dir, filepath.Base(b.source)+".gguf")
	if err := b.Export(b.ctx, b.source, file); err != nil {
		return err
	}
	b.source = file
	return nil
}

// importModel imports the model into a temporary store: engines load stage files, here as
// in a node.
func (b *bench) importModel() (*store.Store, error) {
	dir := filepath.Join(b.dir, "home")
	if err := b.Import(b.ctx, dir, b.source); err != nil {
		return nil, err
	}
	s, err := store.Open(home.Home(dir).Store(), store.Options{})
	if err == nil {
		b.model = s.Models()[0]
	}
	return s, err
}

// engine loads the whole model: into this process, or into a child.
func (b *bench) engine(child bool, threads int) (e engine.Engine, err error) {
	cfg := engine.Config{
		KVTokens: benchSeqs * benchContext, MaxSeqs: benchSeqs, MaxBatch: benchChunk,
		Threads: threads, Nice: b.Nice,
	}
	load := b.Load
	if child {
		load = engine.InChild()
	}
	return b.engineOf(b.model.Manifest().All(), cfg, load)
}

// engineOf loads a span of the model as cfg says, of which it fills in the rest.
func (b *bench) engineOf(span protocol.Span, cfg engine.Config, load engine.Loader) (e engine.Engine, err error) {
	cfg.From, cfg.To, cfg.Engine, cfg.Library = span.From, span.To, b.Engine, b.Library
	err = nodeserve.WithFiles(b.ctx, b.model, span, cfg, func(filled engine.Config) (err error) {
		e, err = load(b.ctx, filled, nil)
		return err
	})
	return e, err
}

// spread summarizes measurements of one variant.
type spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	return spread{s[len(s)/2], s[0], s[len(s)-1]}
}

// ratios compares two variants round by round.
func ratios(a, b []float64) spread {
	var out []float64
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	return spreadOf(out)
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s to %s)", term.Rate(s.Median), term.Rate(s.Low), term.Rate(s.High))
}

// ratio formats a spread of ratios.
func (s spread) ratio() string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Low, s.High)
}

// target is the required value of a figure.
type target struct {
	Got  float64 `json:"got"`
	Want float64 `json:"want"`
	Met  bool    `json:"met"`
}

func atLeast(want, got float64) target { return target{got, want, got >= want} }
func atMost(want, got float64) target  { return target{got, want, got <= want} }

func (t target) String() string {
	if t.Met {
		return "as it should be"
	}
	return fmt.Sprintf("MISSED, %.3g was wanted", t.Want)
}

// report prints a result: as JSON, or the lines of a table.
func (b *bench) report(result any, table func(w io.Writer)) error {
	b.progress("")
	if b.JSON {
		return term.PrintJSON(b.Out, result)
	}
	fmt.Fprintf(b.Out, "%s, %d blocks; tokens/s\n\n", term.Safe(b.model.Name()), b.model.Manifest().Blocks)
	w := tabwriter.NewWriter(b.Out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}
