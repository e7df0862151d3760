package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol/gguf"
	"github.com/shoalnet/shoal/testnet"
)

func benchCommand() *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag {
		return append(more,
			&cli.StringFlag{Name: "model", Usage: "GGUF `FILE`, or name of a model in the home (default: the model inside this program)"},
			homeFlag(), jsonFlag())
	}
	rounds := &cli.IntFlag{Name: "rounds", Value: 8, Usage: "measurements of each variant, in turns"}
	nodes := &cli.IntFlag{Name: "nodes", Value: 3, Usage: "stages of the network"}
	tokens := &cli.IntFlag{Name: "tokens", Value: 64, Usage: "tokens of an answer"}
	threads := &cli.IntFlag{Name: "threads", Usage: "threads of each engine, at most (default: the cores)"}
	return &cli.Command{
		Name: "bench", Usage: "measure this program on this machine",
		Description: "Machines are never quite idle: variants are measured in turns, and what is shown is the median, with the lowest and the highest of all rounds.\nRatios are of measurements of the same round.",
		Action:      needSubcommand,
		Subcommands: []*cli.Command{
			{Name: "stages", Usage: "decode through several nodes, through one, and by the engine alone", Flags: flags(nodes, rounds, tokens, threads), Action: benchmark(benchStages)},
			{Name: "engine", Usage: "the engine alone: in this process, and in one of its own", Flags: flags(rounds, threads), Action: benchmark(benchEngine)},
			{
				Name: "load", Usage: "decode beside busy programs, second by second",
				Flags: flags(threads,
					&cli.IntFlag{Name: "loops", Value: 2, Usage: "busy loops"},
					&cli.IntFlag{Name: "nice", Usage: "how far the engine stands back behind them"},
					&cli.IntFlag{Name: "seconds", Value: 20, Usage: "without the load, with it, and without it again: each so long"}),
				Action: benchmark(benchLoad),
			},
			{
				Name: "link", Usage: "decode over an emulated distance, beside what the distance alone takes",
				Flags:  flags(nodes, rounds, tokens, &cli.StringFlag{Name: "rtt", Value: "40ms", Usage: "round trip between any two nodes"}),
				Action: benchmark(benchLink),
			},
			{
				Name: "serve", Usage: "many sessions at once: against one, and against the engine alone",
				Flags:  flags(append(benchServeFlags(), nodes, rounds, tokens, threads)...),
				Action: benchmark(benchServe),
			},
			benchFetchCommand(),
			benchGiveCommand(),
			{Name: "spin", Hidden: true, Flags: []cli.Flag{&cli.IntFlag{Name: "loops"}}, Action: benchSpin},
		},
	}
}

// bench is what every benchmark has: a directory that goes when it ends, and
// the model as it lies in a store.
type bench struct {
	*cli.Context
	ctx    context.Context
	dir    string
	source string // what a testnet can import
	model  *store.Model
}

// benchmark prepares a benchmark and cleans up after it.
func benchmark(run func(*bench) error) cli.ActionFunc {
	return func(c *cli.Context) (err error) {
		if err := noArgs(c); err != nil {
			return err
		}
		for _, name := range []string{"nodes", "rounds", "tokens", "loops", "seconds", "sessions"} {
			if slices.Contains(c.FlagNames(), name) && c.Int(name) < 1 {
				return usageError{fmt.Sprintf("--%s must be at least 1", name)}
			}
		}
		if err := beEngine(); err != nil {
			return err
		}
		dir, err := os.MkdirTemp("", "shoal-bench-")
		if err != nil {
			return err
		}
		b := &bench{Context: c, ctx: c.Context, dir: dir}
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
}

// beEngine starts this program anew in the environment of an engine's process,
// unless that is where it is: an engine in this process is to be as fast.
func beEngine() error {
	env := engine.Spinning(os.Environ())
	if slices.Equal(env, os.Environ()) {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(exe, os.Args, env)
}

// progress shows on a terminal what is going on.
func (b *bench) progress(format string, args ...any) {
	if w := b.App.ErrWriter; isTerminal(w) {
		fmt.Fprintf(w, "\r\x1b[K"+format, args...)
	}
}

// findSource turns --model into a file, unless it is the model inside.
func (b *bench) findSource() error {
	b.source = cmp.Or(absolute(b.String("model")), testnet.TinyModel)
	if b.source == testnet.TinyModel || filepath.IsAbs(b.source) {
		return nil
	}
	cl, done, err := connect(b.Context, false)
	if err != nil {
		return err
	}
	defer done()
	file := filepath.Join(b.dir, filepath.Base(b.source)+".gguf")
	if err := cl.Export(b.ctx, api.ExportRequest{Model: b.source, Path: file}, nil); err != nil {
		return err
	}
	b.source = file
	return nil
}

// importModel puts the model into a store of its own: engines are given stage
// files, here as in a node.
func (b *bench) importModel() (*store.Store, error) {
	home := filepath.Join(b.dir, "home")
	n, err := newNode(node.Config{Home: home, Client: true, NoMDNS: true, ListenAddrs: loopbackAddrs()})
	if err != nil {
		return nil, err
	}
	_, err = n.Client().Add(b.ctx, api.AddRequest{Source: b.source}, nil)
	if err := errors.Join(err, n.Close()); err != nil {
		return nil, err
	}
	s, err := store.Open(filepath.Join(home, "store"), store.Options{})
	if err == nil {
		b.model = s.Models()[0]
	}
	return s, err
}

// engine loads the whole model: into this process, or into a child.
func (b *bench) engine(child bool, threads int) (e engine.Engine, err error) {
	cfg := engine.Config{
		To: int(b.model.Manifest().Blocks), KVTokens: benchSeqs * benchContext, MaxSeqs: benchSeqs, MaxBatch: benchChunk,
		Threads: threads, Nice: b.Int("nice"),
	}
	defaults := func(md *gguf.Header) (out []gguf.KV) {
		for k, v := range engine.Defaults(md) {
			out = append(out, gguf.KV{Key: k, Value: v})
		}
		return out
	}
	err = b.model.StageFile(b.ctx, b.model.Manifest().All(), defaults, func(path string) (err error) {
		cfg.Path = path
		load := ggml.Load
		if child {
			load = engine.InChild()
		}
		e, err = load(b.ctx, cfg, nil)
		return err
	})
	return e, err
}

// spread is what measurements of one thing gave.
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
	return fmt.Sprintf("%s (%s to %s)", rate(s.Median), rate(s.Low), rate(s.High))
}

// ratio is a spread of numbers around one.
func (s spread) ratio() string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Low, s.High)
}

// target is what a figure ought to be.
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
	if b.Bool("json") {
		return printJSON(b.App.Writer, result)
	}
	fmt.Fprintf(b.App.Writer, "%s, %d blocks; tokens/s\n\n", safe(b.model.Name()), b.model.Manifest().Blocks)
	w := tabwriter.NewWriter(b.App.Writer, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}
