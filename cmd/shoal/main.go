// Command shoal runs large models on machines that nobody owns all of: a node
// daemon, a client, and a testnet in one program. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
)

// version and date (of its last change, as 2006-01-02) are set by the Makefile, and
// commit by releases; else Go may know it.
var (
	version = "dev"
	date    string
	commit  string
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	engine.ChildMain(ggml.Backend{})
	convert.ChildMain(canCompute)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the first signal asks, the second ends
	app := newApp(stdout, stderr)
	err := app.RunContext(ctx, args)
	return exitCode(ctx, err, stderr)
}

func canCompute(md interface{ Value(key string) any }) error { return engine.Check(md) }

// newNode makes a node of this program: it converts directories, and warns if it
// was built for an older processor.
func newNode(cfg node.Config) (*node.Node, error) {
	cfg.Convert = func(ctx context.Context, c node.Conversion) error {
		return convert.InChild(ctx, nil, c.Dir, c.Out, convert.Options{Quantize: c.Quantize, Temp: c.Temp, Check: canCompute, Progress: c.Progress})
	}
	if w := ggml.BuiltForThisMachine(); w != "" {
		cfg.Warnings = []string{w}
	}
	return node.New(cfg)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name: "shoal", Usage: "run large models together, on machines that nobody owns all of",
		Version: version, Writer: stdout, ErrWriter: stderr, HideHelpCommand: true,
		UseShortOptionHandling: true,
		Description:            firstSteps + "\n\n" + exitCodes,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "log-level", Value: "warn", EnvVars: []string{"SHOAL_LOG_LEVEL"}, Usage: "debug, info, warn or error; logs go to stderr"},
		},
		Commands: []*cli.Command{
			nodeCommand(), configCommand(), promptCommand(), chatCommand(), modelCommand(), peersCommand(), statusCommand(), drainCommand(), topCommand(), doctorCommand(), testnetCommand(), demoCommand(), benchCommand(), completionCommand(), manCommand(), versionCommand(),
		},
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
		OnUsageError:   func(c *cli.Context, err error, _ bool) error { return unknownFlag(err, c.App.Flags) },
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(stderr, "shoal: %s; see `shoal --help`\n", unknownCommand(name, name, c.App.Commands))
		},
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprintf(c.App.Writer, "shoal runs large models together, on machines that nobody owns all of.\n\n%s\n\nAll commands: shoal --help\n", firstSteps)
			return err
		},
		Before: func(c *cli.Context) error {
			if args := c.Args(); args.Present() && c.App.Command(args.First()) == nil {
				return unknownCommand(args.First(), args.First(), c.App.Commands)
			}
			if w := ggml.BuiltForThisMachine(); w != "" && os.Getenv("SHOAL_QUIET_BUILD") == "" {
				fmt.Fprintln(stderr, "shoal: warning:", w)
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
				return usageError{fmt.Sprintf("--log-level %q: use debug, info, warn or error", c.String("log-level"))}
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))
			quietLibraries(level, stderr)
			return nil
		},
	}
	for _, c := range app.Commands {
		usageErrors(c)
	}
	cli.FlagStringer = flagLine
	return app
}

// libraryLine is a flag's line of help as the library writes it.
var libraryLine = cli.FlagStringer

// flagLine leaves out of it the defaults that say nothing, or that the usage has
// said in words.
func flagLine(f cli.Flag) string {
	line := libraryLine(f)
	for _, s := range []string{" (default: false)", " (default: 0)", " (default: -1)"} {
		line = strings.Replace(line, s, "", 1)
	}
	return line
}

// quietLibraries keeps the libraries' own logs, which say again and less well
// what comes back as an error, for those who debug.
func quietLibraries(level slog.Level, stderr io.Writer) {
	if level > slog.LevelDebug {
		gologshim.SetDefaultHandler(slog.DiscardHandler)
		golog.SetAllLoggers(golog.LevelFatal)
		return
	}
	gologshim.SetDefaultHandler(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	golog.SetAllLoggers(golog.LevelWarn)
}

// usageErrors makes flag errors of a command and those below it usage errors.
func usageErrors(c *cli.Command) {
	c.HideHelpCommand = true
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return unknownFlag(err, c.Flags) }
	for _, s := range c.Subcommands {
		usageErrors(s)
	}
}

// build is what this program is.
type build struct {
	Version string `json:"version"`
	Date    string `json:"date,omitempty"`   // of its last change, as 2006-01-02
	Commit  string `json:"commit,omitempty"` // if that is known
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Level   string `json:"level"`  // the processors that the engine was compiled for
	Engine  string `json:"engine"` // the module that the engine is of
}

func thisBuild() build {
	b := build{Version: version, Date: date, Commit: commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Level: ggml.Level()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && b.Commit == "" {
			b.Commit = s.Value
		}
	}
	for _, m := range info.Deps {
		if m.Path == ggml.Module {
			b.Engine = m.Path + " " + m.Version
		}
	}
	return b
}

func versionCommand() *cli.Command {
	return &cli.Command{Name: "version", Usage: "tell what this program is", Flags: []cli.Flag{jsonFlag()}, Action: func(c *cli.Context) error {
		if err := noArgs(c); err != nil {
			return err
		}
		b := thisBuild()
		if c.Bool("json") {
			return printJSON(c.App.Writer, b)
		}
		_, err := fmt.Fprintf(c.App.Writer, "shoal %s %s\n%s/%s, engine for %s, %s\n", b.Version, b.Date, b.OS, b.Arch, b.Level, b.Go)
		return err
	}}
}

// firstSteps is what to type first.
const firstSteps = `See it work, with nothing else:   shoal demo
Ask a network:                    shoal chat --bootstrap ADDRESS
Lend this machine to it:          shoal node --model NAME --bootstrap ADDRESS
See what is wrong:                shoal doctor`

// unknownCommand says that there is no such command, and which was perhaps meant.
func unknownCommand(full, name string, commands []*cli.Command) error {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	message := fmt.Sprintf("there is no command %q", full)
	if near := nearestWord(name, names); near != "" {
		message += fmt.Sprintf("; did you mean %q?", strings.TrimSuffix(full, name)+near)
	}
	return usageError{message}
}

// unknownFlag says of a flag that does not exist which was perhaps meant; other
// errors stay.
func unknownFlag(err error, flags []cli.Flag) error {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return usageError{err.Error()}
	}
	name = strings.TrimLeft(name, "-")
	var names []string
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); !ok || v.IsVisible() {
			names = append(names, f.Names()...)
		}
	}
	message := "there is no flag --" + name
	if near := nearestWord(name, names); near != "" {
		message += "; did you mean --" + near + "?"
	}
	return usageError{message}
}

// nearestWord is what somebody probably meant, or "".
func nearestWord(word string, of []string) (near string) {
	best := 0.8 // below it they are other words; the numbers behind it are the measure's own
	for _, s := range of {
		if d := smetrics.JaroWinkler(word, s, 0.7, 4); d > best && len(s) > 1 {
			near, best = s, d
		}
	}
	return near
}

// homeFlag is on every command that has a directory.
func homeFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "home", Value: defaultHome(), EnvVars: []string{"SHOAL_HOME"}, Usage: "keep keys, models and settings in `DIR`"}
}

func defaultHome() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ".shoal"
	}
	return filepath.Join(home, ".shoal")
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON for scripts"}
}

// noArgs refuses arguments that would be passed over.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Sprintf("%s takes no argument %q", c.Command.FullName(), c.Args().First())}
	}
	return nil
}

var errUsage = errors.New("usage")

// usageError is a mistake in the command line.
type usageError struct{ message string }

func (e usageError) Error() string        { return e.message }
func (e usageError) Is(target error) bool { return target == errUsage }

// splitList reads a flag that may be given several times or with commas.
func splitList(values []string) []string {
	var out []string
	for _, v := range values {
		for _, s := range strings.Split(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}
