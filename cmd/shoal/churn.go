package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/scenario"
)

func churnCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "run a network under faults, and report how they affected its sessions", ArgsUsage: "FILE",
		Description: "FILE is a scenario, such as those in contrib/scenarios: a network, its load, and which nodes are killed, hang, are cut off,\nslow down, leave, join or come back, and when. The exit code is 0 if every session finished, no token was lost, duplicated or\nout of order, and every text equals that of an undisturbed run.",
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "report", Usage: "write an HTML page with a timeline to `FILE.html`"},
			&cli.Uint64Flag{Name: "seed", DefaultText: "the file's", Usage: "random seed for which nodes the faults hit"},
			&cli.DurationFlag{Name: "duration", DefaultText: "the file's", Usage: "how long faults go on"},
			&cli.StringFlag{Name: "dir", Usage: "directory of the network, which is kept (default: a temporary one, kept after a failure)"},
		},
		Action: runChurn,
	}
}

func runChurn(c *cli.Context) error {
	s, err := scenarioOf(c)
	if err != nil {
		return err
	}
	dir, temporary := c.String("dir"), c.String("dir") == ""
	if temporary {
		if dir, err = os.MkdirTemp("", "shoal-run-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	} else if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	report, err := churn(c, s, dir)
	if report == nil {
		return keepLogs(dir, temporary, err)
	}
	if !report.OK || !temporary {
		report.Logs = dir
		err = errors.Join(err, writeFile(filepath.Join(dir, "sessions.jsonl"), report.WriteSessions))
	}
	if perr := printReport(c, report); err == nil {
		err = perr
	}
	if err == nil {
		err = report.Err()
	}
	if temporary && report.OK {
		_ = os.RemoveAll(dir)
	}
	return err
}

// keepLogs adds to an error where the logs are, if there are any.
func keepLogs(dir string, temporary bool, err error) error {
	logs, _ := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	if len(logs) == 0 || errors.Is(err, context.Canceled) {
		if temporary {
			_ = os.RemoveAll(dir)
		}
		return err
	}
	return fmt.Errorf("%w; logs are in %s", err, dir)
}

// scenarioOf reads the command line and the scenario that it names.
func scenarioOf(c *cli.Context) (*scenario.Scenario, error) {
	if p := c.Lineage()[1]; p.NumFlags() > 0 {
		return nil, usageError{"`shoal testnet run` takes the network from the scenario: put its flags after run"}
	}
	path, err := churnArgs(c)
	if err != nil {
		return nil, err
	}
	s, err := scenario.Load(path)
	if err != nil {
		return nil, usageError{"scenario: " + err.Error()}
	}
	if c.IsSet("seed") {
		s.Seed = c.Uint64("seed")
	}
	if c.IsSet("duration") {
		if s.Duration = c.Duration("duration"); s.Duration <= 0 {
			return nil, usageError{"--duration must be positive"}
		}
	}
	return s, nil
}

// churnArgs returns the file's name. Flags may come after it, too.
func churnArgs(c *cli.Context) (string, error) {
	var files []string
	for rest := c.Args().Slice(); len(rest) > 0; {
		if !strings.HasPrefix(rest[0], "-") {
			files, rest = append(files, rest[0]), rest[1:]
			continue
		}
		set := flag.NewFlagSet("run", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		for _, f := range c.Command.Flags {
			if err := f.Apply(set); err != nil {
				return "", err
			}
		}
		if err := set.Parse(rest); err != nil {
			return "", usageError{err.Error()}
		}
		var err error
		set.Visit(func(f *flag.Flag) { err = errors.Join(err, c.Set(f.Name, f.Value.String())) })
		if err != nil {
			return "", usageError{err.Error()}
		}
		rest = set.Args()
	}
	if len(files) != 1 {
		return "", usageError{"shoal testnet run takes the FILE of one scenario; see contrib/scenarios"}
	}
	return files[0], nil
}

// churn runs a scenario in a directory. The client's log is kept there, too: it tells
// how each session handled the faults.
func churn(c *cli.Context, s *scenario.Scenario, dir string) (*scenario.Report, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	client, err := os.Create(filepath.Join(dir, "client.log"))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if s.Model != "" {
		s.Model = absolute(s.Model)
	}
	args, err := libraryArgs(c, s)
	if err != nil {
		return nil, err
	}
	conf := testnet.Config{
		Binary: exe, Dir: dir, Args: args, ClientConfig: writeClientConfig, Env: []string{"SHOAL_QUIET_BUILD=1", "SHOAL_LOG_LEVEL=info"},
		Gateway: func(home string, bootstrap []string) (string, func(), error) {
			p := s.Link
			p.Cuts = testnet.CutsFile(dir, testnet.Client)
			return startGatewayLog(c, p, home, bootstrap, slog.New(slog.NewTextHandler(client, nil)))
		},
	}
	tell := newTeller(c.App.ErrWriter)
	return scenario.Run(c.Context, s, scenario.Options{
		Testnet: conf, Say: tell.say, Status: tell.status,
		Asker: func(host, home string) scenario.Asker {
			return asker{&api.Client{Base: "http://" + host, Token: token(home)}}
		},
		Left: left,
	})
}

// libraryArgs tells the nodes where llama.cpp's library is, if a scenario has some use it.
func libraryArgs(c *cli.Context, s *scenario.Scenario) ([]string, error) {
	if !slices.Contains(s.Engines(), engine.Llama) {
		return nil, nil
	}
	lib, err := findLibrary("", c.String("home"))
	if err != nil {
		return nil, remedy.For(fmt.Errorf("the scenario has nodes compute with llama.cpp's library, and %w", err), remedy.InstallEngine)
	}
	return []string{"--llama", lib.Dir}, nil
}

// left reports the sessions and KV positions that a node still holds; "" if none.
func left(ctx context.Context, n testnet.Node) (string, error) {
	cl := &api.Client{Base: "http://" + n.API, Token: token(n.Dir)}
	s, err := cl.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, span := range s.Serving {
		if span.Sessions > 0 || span.KVFree < span.KVTokens {
			return fmt.Sprintf("%d sessions and %d of %d KV positions", span.Sessions, span.KVTokens-span.KVFree, span.KVTokens), nil
		}
	}
	return "", nil
}

func printReport(c *cli.Context, r *scenario.Report) error {
	if name := c.String("report"); name != "" {
		if err := writeFile(name, r.WriteHTML); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, r)
	}
	return r.Write(c.App.Writer)
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// asker sends prompts through a node's API.
type asker struct{ api *api.Client }

func (a asker) Ask(ctx context.Context, q scenario.Question, emit func(scenario.Token)) (out scenario.Answer, err error) {
	req := &api.GenerateRequest{Raw: true, Prompt: q.Prompt, MaxTokens: q.MaxTokens}
	req.Sampling.Temperature, req.Sampling.Seed = &q.Temperature, &q.Seed
	var text strings.Builder
	err = a.api.Generate(ctx, req, func(e api.Event) error {
		switch {
		case e.Token != nil:
			text.WriteString(e.Token.Text)
			emit(scenario.Token{Index: e.Token.Index, ID: e.Token.ID})
		case e.Done != nil:
			text.WriteString(e.Done.Text)
			out.Cached = e.Done.Cached
			for _, r := range e.Done.Recoveries {
				out.Recoveries = append(out.Recoveries, recovery(r))
			}
		}
		return nil
	})
	out.Text = text.String()
	return out, err
}

func recovery(r api.Recovery) scenario.Recovery {
	out := scenario.Recovery{Why: r.Why, Token: r.Token, StallMs: r.StallMs, Replayed: r.Replayed}
	for _, h := range r.Lost {
		out.Lost = append(out.Lost, fmt.Sprintf("%s %d-%d", short(h.Peer), h.From, h.To))
	}
	return out
}

func (a asker) Refused(err error) bool {
	return errors.Is(err, &api.Error{Kind: api.NoRoute}) || errors.Is(err, &api.Error{Kind: api.Refused})
}

// teller shows progress on a terminal, and nothing in a pipe.
type teller struct {
	mu    sync.Mutex
	w     io.Writer
	on    bool
	begin time.Time
	line  string // the one that is rewritten
}

func newTeller(w io.Writer) *teller { return &teller{w: w, on: isTerminal(w), begin: time.Now()} }

func (t *teller) say(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on {
		fmt.Fprintf(t.w, "\r\x1b[K%6.1f  %s\n%s", time.Since(t.begin).Seconds(), safe(line), t.line)
	}
}

func (t *teller) status(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on && line != t.line {
		t.line = line
		fmt.Fprintf(t.w, "\r\x1b[K%s", line)
	}
}
