// Command shoal runs large models across machines of many owners. One program is the
// node's daemon, the client and the testnet. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/store"
)

// The Makefile sets version and date (of the last change, as 2006-01-02), and releases
// set commit; otherwise it comes from Go's build info, if that has it.
var (
	version = "dev"
	date    string
	commit  string
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run is main without os.Exit: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	engine.ChildMain(backends)
	convert.ChildMain(canCompute)
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it; else the terminal was closed, or the connection to it lost
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // the first signal asks it to leave, the second kills it
	app := newApp(stdout, stderr)
	dropEmpty(app)
	line := arrange(app, args)
	app.Metadata = map[string]any{givenFlags: line.set}
	err := app.RunContext(ctx, line.args)
	return exitCode(ctx, err, strings.Join(append([]string{"shoal"}, line.path...), " "), stderr)
}

// backends are the engines that this program has.
var backends = engine.Backends{engine.BuiltIn: ggml.Backend{}, engine.Llama: llama.Backend{}}

// canCompute holds what the converter makes to what a node keeps: another node may have
// an engine for it where this one has none.
func canCompute(md interface{ Value(key string) any }) error { return engine.Plausible(md) }

// newNode creates a node with what only this program links: the converter of model
// directories, and a warning if the engine was built for an older processor.
func newNode(cfg node.Config) (*node.Node, error) {
	cfg.Convert = func(ctx context.Context, c node.Conversion) error {
		return convert.InChild(ctx, nil, c.Dir, c.Out, convert.Options{Quantize: c.Quantize, Temp: c.Temp, Check: canCompute, Progress: c.Progress})
	}
	if w := ggml.BuiltForThisMachine(); w != "" {
		cfg.Warnings = []string{w}
	}
	var n *node.Node
	err := whenFree(cfg.Home, func() (err error) {
		n, err = node.New(cfg)
		return err
	})
	return n, err
}

// whenFree calls open, again if a command has the home's store open. Commands such as
// status hold the home for a moment; a daemon holds it for good.
func whenFree(home string, open func() error) error {
	for end := time.Now().Add(lockTime); ; time.Sleep(50 * time.Millisecond) {
		err := open()
		if !errors.Is(err, store.ErrLocked) || time.Now().After(end) || wordOf(home).Alive {
			return err
		}
	}
}

// lockTime is how long a home may be held by a command that is about to end.
const lockTime = 3 * time.Second

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name: "shoal", Usage: "run large models together, across machines of many owners",
		Version: version, Writer: stdout, ErrWriter: stderr, HideHelpCommand: true,
		UseShortOptionHandling: true,
		Description:            firstSteps + "\n\n" + exitCodes,
		Flags:                  logFlags(),
		Commands: []*cli.Command{
			runCommand(), nodeCommand(), configCommand(), promptCommand(), chatCommand(), embedCommand(), keyCommand(), policyCommand(), swarmCommand(), inviteCommand(), joinCommand(), backupCommand(), modelCommand(), peersCommand(), statusCommand(), pageCommand(), drainCommand(), serviceCommand(), topCommand(), doctorCommand(), testnetCommand(), demoCommand(), benchCommand(), engineCommand(), completionCommand(), manCommand(), versionCommand(),
		},
		ExitErrHandler: func(*cli.Context, error) {}, // run chooses the exit code
		OnUsageError:   func(c *cli.Context, err error, _ bool) error { return unknownFlag(err, c.App.Flags) },
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(stderr, "shoal: %s; see `shoal --help`\n", unknownCommand(name, name, c.App.Commands))
		},
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprintf(c.App.Writer, "shoal runs large models together, across machines of many owners.\n\n%s\n\nAll commands: shoal --help\n", firstSteps)
			return err
		},
		Before: func(c *cli.Context) error {
			if args := c.Args(); args.Present() && c.App.Command(args.First()) == nil {
				return unknownCommand(args.First(), args.First(), c.App.Commands)
			}
			if w := ggml.BuiltForThisMachine(); w != "" && os.Getenv("SHOAL_QUIET_BUILD") == "" {
				fmt.Fprintln(stderr, "shoal: warning:", w)
			}
			return setLogs(c.String("log-level"), c.String("log-format"), stderr)
		},
	}
	app.Commands = slices.Insert(app.Commands, 5, append(shortcuts(), psCommand(), stopCommand())...)
	for _, c := range app.Commands {
		usageErrors(c)
	}
	cli.FlagStringer = flagLine
	return app
}

// libraryLine formats a flag's line of help as the library does.
var libraryLine = cli.FlagStringer

// flagLine is libraryLine without defaults that carry no information or that the usage
// text already states in words.
func flagLine(f cli.Flag) string {
	line := libraryLine(f)
	for _, s := range []string{" (default: false)", " (default: 0)", " (default: -1)"} {
		line = strings.Replace(line, s, "", 1)
	}
	return line
}

// usageErrors turns flag errors of a command and its subcommands into usage errors.
func usageErrors(c *cli.Command) {
	c.HideHelpCommand = true
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return unknownFlag(err, c.Flags) }
	for _, s := range c.Subcommands {
		usageErrors(s)
	}
}

// build describes this program, for `shoal version`.
type build struct {
	Version string `json:"version"`
	Date    string `json:"date,omitempty"`   // of its last change, as 2006-01-02
	Commit  string `json:"commit,omitempty"` // if that is known
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Level   string `json:"level"`  // instruction set that the engine was compiled for
	Engine  string `json:"engine"` // the engine's module and version
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
	return &cli.Command{Name: "version", Usage: "print version, build and engine", Flags: []cli.Flag{jsonFlag()}, Action: func(c *cli.Context) error {
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

// firstSteps lists what to type first.
const firstSteps = `Chat with a model, here:          shoal run tinytales
See machines share a model:       shoal demo
Serve one to your own machines:   shoal node --model NAME
Let another machine in:           shoal invite, and there: shoal join CODE
Chat from any of them:            shoal chat
See what is wrong:                shoal doctor`

// unknownCommand is the error for a command that does not exist, with the name that was
// probably meant.
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

// unknownFlag adds the name that was probably meant to the error for a flag that does
// not exist, and turns other errors into usage errors.
func unknownFlag(err error, flags []cli.Flag) error {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return usageError{flagProblem(err.Error())}
	}
	name = strings.TrimLeft(name, "-")
	if strings.ContainsAny(name, " \t\n") { // a text, such as "-5 degrees"
		return usageError{"a text that begins with a dash goes behind --"}
	}
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

// flagProblem says what is wrong with a flag's value, in place of Go's words.
func flagProblem(message string) string {
	if name, ok := strings.CutPrefix(message, "flag needs an argument: -"); ok {
		return fmt.Sprintf("--%s needs a value", strings.TrimLeft(name, "-"))
	}
	value, rest, ok := strings.Cut(strings.TrimPrefix(message, "invalid value "), " for flag -")
	name, why, ok2 := strings.Cut(rest, ": ")
	if !ok || !ok2 {
		return message
	}
	if why == "parse error" {
		why = "that is not a value it takes"
	}
	return fmt.Sprintf("--%s %s: %s", name, value, why)
}

// nearestWord returns the entry of a list that was probably meant by word, or "".
func nearestWord(word string, of []string) (near string) {
	best := 0.8 // below it, words are unrelated; 0.7 and 4 are Jaro-Winkler's usual parameters
	for _, s := range of {
		d := smetrics.JaroWinkler(word, s, 0.7, 4)
		if swapped(word, s) {
			d = 1
		}
		if d > best && len(s) > 1 {
			near, best = s, d
		}
	}
	return near
}

// swapped reports that two words differ in the order of two neighbours, which the
// measure above finds unlike in short words: rnu and run.
func swapped(a, b string) bool {
	for i := range len(a) - 1 {
		if len(a) == len(b) && a[:i]+a[i+1:i+2]+a[i:i+1]+a[i+2:] == b {
			return true
		}
	}
	return false
}

// homeFlag is on every command that uses a home.
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

// noArgs refuses arguments that would be ignored.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Sprintf("`%s` takes no argument %q", commandName(c), c.Args().First())}
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
