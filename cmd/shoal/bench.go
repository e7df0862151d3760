package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/cmd/shoal/bench"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/testnet/link"
)

func benchCommand() *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag {
		return append(more,
			&cli.StringFlag{Name: "engine", Value: engine.BuiltIn, EnvVars: []string{"SHOAL_ENGINE"}, Usage: "what computes: ggml (built in), llama (llama.cpp's library), or auto: llama where it is here"},
			&cli.StringFlag{Name: "llama", EnvVars: []string{"SHOAL_LLAMA"}, Usage: libraryUsage},
			&cli.StringFlag{Name: "model", Usage: "GGUF `FILE`, or name of a model in the home (default: the model inside this program)"},
			homeFlag(), jsonFlag())
	}
	rounds := &cli.IntFlag{Name: "rounds", Value: 8, Usage: "measurements of each variant, interleaved"}
	nodes := &cli.IntFlag{Name: "nodes", Value: 3, Usage: "stages of the network"}
	tokens := &cli.IntFlag{Name: "tokens", Value: 64, Usage: "tokens per answer"}
	threads := &cli.IntFlag{Name: "threads", Usage: "maximum threads per engine (default: the number of cores)"}
	return &cli.Command{
		Name: "bench", Usage: "measure this program on this machine",
		Description: "No machine is ever fully idle, so variants take turns in each round. Results are medians, with the lowest and highest round;\nratios compare measurements of the same round.",
		Action:      needSubcommand,
		Subcommands: []*cli.Command{
			{Name: "stages", Usage: "decode through several nodes, through one, and by the engine alone", Flags: flags(nodes, rounds, tokens, threads), Action: benchmark(bench.Stages)},
			{Name: "engine", Usage: "the engine alone: in this process, and in a child process", Flags: flags(rounds, threads,
				&cli.StringFlag{Name: "against", Usage: "compare with llama.cpp's library in the folder `DIR` instead, which computes whole models by itself: prefill and decode of five weight types, in one stage and three"}), Action: benchmark(engineOrAgainst)},
			{Name: "memory", Usage: "memory of engines that have a part of the model each: idle, with a session, and after it", Flags: flags(nodes, threads,
				&cli.StringFlag{Name: "against", Usage: "also measure an engine of the whole model, and llama.cpp's library in the folder `DIR` alone"}), Action: benchmark(bench.Memory)},
			{Name: bench.WholeCommand, Hidden: true, Flags: flags(threads, tokens, &cli.StringFlag{Name: "against"}), Action: func(c *cli.Context) error {
				return bench.MemoryOfWhole(c.Context, benchShell(c), bench.Options{Against: c.String("against"), Model: c.String("model"), Threads: c.Int("threads"), Tokens: c.Int("tokens")})
			}},
			{
				Name: "load", Usage: "decode while other programs are busy, second by second",
				Flags: flags(threads,
					&cli.IntFlag{Name: "loops", Value: 2, Usage: "busy loops"},
					&cli.IntFlag{Name: "nice", Usage: "priority of the engine below them, as in nice(1)"},
					&cli.IntFlag{Name: "seconds", Value: 20, Usage: "seconds without the load, then with it, then without it again"}),
				Action: benchmark(bench.Load),
			},
			{
				Name: "link", Usage: "decode over an emulated distance, against what the distance alone costs",
				Flags:  flags(nodes, rounds, tokens, &cli.StringFlag{Name: "rtt", Value: "40ms", Usage: "round trip between any two nodes"}),
				Action: benchmark(bench.Link),
			},
			{
				Name: "ahead", Usage: "decode over an emulated distance with guesses that run ahead, against without, by kind of text",
				Flags: flags(nodes, threads,
					&cli.IntFlag{Name: "rounds", Value: 1, Usage: "texts of each kind, at most 3 different ones"},
					&cli.IntFlag{Name: "tokens", Value: 512, Usage: "tokens per answer"},
					&cli.StringFlag{Name: "rtt", Value: "80ms", Usage: "round trip between any two nodes"},
					&cli.StringFlag{Name: "draft", Usage: "with --model, which then writes what it likes: `MODEL` that guesses for it, a GGUF file or a name"},
					&cli.StringFlag{Name: "against", Usage: "compare with llama.cpp's RPC backend instead, whose programs ggml-rpc-server and llama-server are in the folder `DIR`: the same --model over the same distance"}),
				Action: benchmark(aheadOrAgainst),
			},
			{
				Name: "serve", Usage: "many concurrent sessions, against one and against the engine alone",
				Flags: flags(append([]cli.Flag{
					&cli.IntFlag{Name: "sessions", Value: 16, Usage: "concurrent answers"},
					&cli.StringFlag{Name: "rtt", Usage: "round trip between any two nodes, such as 40ms (default: plain loopback)"},
				}, nodes, rounds, tokens, threads)...),
				Action: benchmark(bench.Serve),
			},
			benchFetchCommand(),
			benchGiveCommand(),
			{Name: "spin", Hidden: true, Flags: []cli.Flag{&cli.IntFlag{Name: "loops"}}, Action: func(c *cli.Context) error { return bench.Spin(c.Int("loops")) }},
		},
	}
}

// benchmark is the action of a benchmark of package bench.
func benchmark(run func(context.Context, bench.Shell, bench.Options) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArgs(c); err != nil {
			return err
		}
		for _, name := range []string{"nodes", "rounds", "tokens", "loops", "seconds", "sessions"} {
			if slices.Contains(c.FlagNames(), name) && c.Int(name) < 1 {
				return usageError{fmt.Sprintf("--%s must be at least 1", name)}
			}
		}
		use, library, err := benchEngine(c)
		if err != nil {
			return err
		}
		err = run(c.Context, benchShell(c), bench.Options{
			Engine: use, Library: library, Against: absolute(c.String("against")),
			Model: absolute(c.String("model")), Draft: absolute(c.String("draft")), Nodes: c.Int("nodes"), Rounds: c.Int("rounds"), Tokens: c.Int("tokens"), Threads: c.Int("threads"),
			Nice: c.Int("nice"), Loops: c.Int("loops"), Seconds: c.Int("seconds"), Sessions: c.Int("sessions"), RTT: c.String("rtt"),
		})
		var mistake bench.UsageError
		if errors.As(err, &mistake) {
			return usageError{string(mistake)}
		}
		return err
	}
}

// engineOrAgainst is the benchmark of the engine that the options ask for.
func engineOrAgainst(ctx context.Context, sh bench.Shell, o bench.Options) error {
	if o.Against == "" {
		return bench.Engine(ctx, sh, o)
	}
	return bench.Against(ctx, sh, o)
}

// aheadOrAgainst is the benchmark of run-ahead decode that the options ask for.
func aheadOrAgainst(ctx context.Context, sh bench.Shell, o bench.Options) error {
	if o.Against == "" {
		return bench.Ahead(ctx, sh, o)
	}
	return bench.AheadAgainst(ctx, sh, o)
}

// benchEngine returns the engine to measure: one, so that figures are of what they seem.
func benchEngine(c *cli.Context) (use, library string, err error) {
	e := enginesOf(c, c.String("home"))
	if err := e.Check(); err != nil {
		return "", "", usageError{"--engine " + err.Error()}
	}
	if e.Use == engine.BuiltIn {
		return e.Use, "", nil
	}
	find := e.Library
	if against := c.String("against"); against != "" && c.String("llama") == "" {
		find = func() (serve.Library, error) { return findLibrary(absolute(against), c.String("home")) } // the same for both
	}
	lib, err := find()
	switch {
	case err == nil:
		return engine.Llama, lib.Dir, nil
	case e.Use == serve.Auto:
		return engine.BuiltIn, "", nil
	}
	return "", "", remedy.For(fmt.Errorf("llama.cpp's library is demanded, and %w", err), remedy.InstallEngine)
}

// benchShell provides what benchmarks need from this command.
func benchShell(c *cli.Context) bench.Shell {
	return bench.Shell{
		Out: c.App.Writer, Err: c.App.ErrWriter, JSON: c.Bool("json"), Load: backends.Load, Token: token,
		Whole: func(library, path string, threads, rows, cells int) (bench.Whole, error) {
			return llama.LoadWhole(library, path, threads, rows, cells)
		},
		Import: func(ctx context.Context, home, source string) error {
			n, err := newNode(node.Config{Home: home, Client: true, NoMDNS: true, ListenAddrs: loopbackAddrs()})
			if err != nil {
				return err
			}
			_, err = n.Client().Add(ctx, api.AddRequest{Source: source}, nil)
			return errors.Join(err, n.Close())
		},
		Export: func(ctx context.Context, model, file string) error {
			cl, done, err := connect(c, false)
			if err != nil {
				return err
			}
			defer done()
			return cl.Export(ctx, api.ExportRequest{Model: model, Path: file}, nil)
		},
		Gateway: func(p link.Params, home string, bootstrap []string) (string, func(), error) {
			return startGateway(c, p, home, bootstrap)
		},
	}
}

func benchFetchCommand() *cli.Command {
	return &cli.Command{
		Name: "fetch", Usage: "fetch a model, against curl with sha256sum and plain bitswap over flatfs, and from several sources",
		Description: "Everything runs on this machine over loopback, each source in its own process, with a synthetic model.\n" +
			"Rate-limited sources have 100 Mbit/s each; those cases use a smaller model to finish in reasonable time.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "size", Value: "1GiB", Usage: "approximate size of the model"},
			&cli.StringFlag{Name: "limited-size", Value: "128MiB", Usage: "size of the model for rate-limited sources, at most --size"},
			&cli.IntFlag{Name: "rounds", Value: 3, Usage: "measurements of each case without a limit, interleaved"},
			jsonFlag(),
		},
		Action: benchFetch,
	}
}

func benchFetch(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	size, err := parseSize("--size", c.String("size"))
	if err != nil {
		return err
	}
	limited, err := parseSize("--limited-size", c.String("limited-size"))
	if err != nil {
		return err
	}
	if size < 4<<20 || limited < 4<<20 || c.Int("rounds") < 1 {
		return usageError{"--size and --limited-size must be at least 4MiB, and --rounds 1"}
	}
	return bench.Fetch(c.Context, benchShell(c), bench.FetchOptions{Size: size, Limited: limited, Rounds: c.Int("rounds")})
}

// benchGiveCommand is a source of `bench fetch`, in a process of its own.
func benchGiveCommand() *cli.Command {
	return &cli.Command{
		Name: "give", Hidden: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "store"}, &cli.StringFlag{Name: "flatfs"}, &cli.StringFlag{Name: "file"},
			&cli.Float64Flag{Name: "up"}, &cli.IntFlag{Name: "corrupt"},
		},
		Action: func(c *cli.Context) error {
			return bench.Give(c.Context, c.App.Writer, bench.Source{
				Store: c.String("store"), Flatfs: c.String("flatfs"), Model: c.Args().First(), File: c.String("file"), Up: c.Float64("up"), Corrupt: c.Int("corrupt"),
			})
		},
	}
}
