package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol"
)

// `shoal run`, and what `shoal prompt` and `shoal chat` do where nobody serves: a model
// is served by this machine, either by the node that is running in the home, or by one
// in this process that lives as long as the command.

func runCommand() *cli.Command {
	flags := slices.DeleteFunc(answerFlags(), func(f cli.Flag) bool { return f.Names()[0] == "model" })
	return &cli.Command{
		Name: "run", Usage: "chat with a model, or answer one prompt, on this machine; fetch the model first if it is not here", ArgsUsage: "MODEL [TEXT]",
		Description: "MODEL is a name that `shoal search` lists, hf:OWNER/REPO/FILE.gguf, a URL, a GGUF file, or tinytales, the model inside this program.\n" +
			"With TEXT, or text on standard input, it prints the answer and ends; TEXT and a file (< FILE) are joined.\n" +
			"If other nodes serve the model, it uses them. Otherwise the node running in this home serves it from then on (`shoal stop MODEL` ends that)\n" +
			"or, without one, this command does while it runs. For example:\n\n" +
			"shoal run tinytales\n" +
			"shoal run smollm2:135m \"Why is the sky blue?\"",
		Flags:  append(append([]cli.Flag{formatFlag(), thinkFlag()}, engineFlags(serve.Auto)...), append([]cli.Flag{&cli.BoolFlag{Name: "verbose", Usage: "print times and the route after each answer"}}, flags...)...),
		Action: runModel,
	}
}

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Usage: "answer in JSON: \"json\" for any object, or a `FILE` with the JSON schema to follow"}
}

func thinkFlag() cli.Flag {
	return &cli.StringFlag{Name: "think", Usage: "whether a model that can think first does so: on, off, low, medium or high (default: as the model prefers)"}
}

func runModel(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{"name a model: `shoal run tinytales` tries the one inside this program, `shoal search` lists others"}
	}
	model := absolute(c.Args().First())
	g, err := request(c)
	if err != nil {
		return err
	}
	if g.Think, err = thinking(c.String("think")); err != nil {
		return err
	}
	text, err := runText(c)
	if err != nil {
		return err
	}
	if text == "" && c.Bool("json") {
		return usageError{"--json needs a prompt"}
	}
	if g.Format, err = readFormat(c.String("format")); err != nil {
		return err
	}
	cl, done, err := serveHere(c, model, g)
	if err != nil {
		return err
	}
	defer done()
	if text == "" {
		return chatWith(c, cl, g)
	}
	g.Messages = conversation(c.String("system"), text)
	show := &shower{out: c.App.Writer, err: c.App.ErrWriter, brief: !c.Bool("verbose"), json: c.Bool("json"), verbose: c.Bool("verbose")}
	return show.ask(c.Context, cl, g)
}

// thinking reads --think.
func thinking(s string) (string, error) {
	switch s {
	case "", "on", "off", "low", "medium", "high":
		return s, nil
	case "true":
		return "on", nil
	case "false":
		return "off", nil
	}
	return "", usageError{fmt.Sprintf("--think %q: use on, off, low, medium or high", s)}
}

// conversation is a system message, unless it is empty, and a user's.
func conversation(system, text string) (out []api.Message) {
	if system != "" {
		out = append(out, api.Message{Role: "system", Content: system})
	}
	return append(out, api.Message{Role: "user", Content: text})
}

// runText reads the prompt from the arguments and standard input; "" asks for a chat.
// Beside arguments only a file is read: an open pipe that nobody writes to would keep
// the command for ever.
func runText(c *cli.Context) (string, error) {
	text := strings.Join(c.Args().Tail(), " ")
	if isTerminal(os.Stdin) {
		return text, nil
	}
	if st, err := os.Stdin.Stat(); text != "" && (err != nil || !st.Mode().IsRegular()) {
		return text, nil //nolint:nilerr // what is no file is not read
	}
	raw, err := io.ReadAll(io.LimitReader(os.Stdin, 32<<20))
	if err != nil {
		return "", err
	}
	more := strings.TrimSuffix(string(raw), "\n")
	switch {
	case text == "" && more == "":
		return "", api.Errorf(api.BadInput, "the prompt on standard input is empty")
	case text != "" && more != "":
		return text + "\n\n" + more, nil
	}
	return text + more, nil
}

// serveHere returns a client of a node through which a model answers: the running one
// of this home or at --api, else one in this process. What is missing is fetched, and
// the node serves the model unless others do. It sets the request's model.
func serveHere(c *cli.Context, model string, g *api.GenerateRequest) (*api.Client, func(), error) {
	if c.String("api") != "" || running(c.Context, c.String("home")) != nil {
		if c.IsSet("engine") || c.IsSet("llama") {
			fmt.Fprintln(c.App.ErrWriter, "shoal: warning: a node is running, and its own settings say which engine computes; `shoal config set engine NAME` changes them")
		}
		cl, done, err := connect(c, true)
		if err != nil {
			return nil, nil, err
		}
		if g.Model, err = ensureServed(c, cl, model, "auto"); err != nil {
			done()
			return nil, nil, err
		}
		return cl, done, nil
	}
	n, done, err := ownNode(c)
	if err != nil {
		return nil, nil, err
	}
	cl := n.Client()
	if n.Library().Whole(model) != "" {
		g.Model, err = startServing(c, cl, model, "all")
	} else {
		meetPeers(c, n)
		g.Model, err = ensureServed(c, cl, model, "all")
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return cl, done, nil
}

// lookAroundTime is how long a command looks for peers that it can do without.
const lookAroundTime = 3 * time.Second

// meetPeers waits a moment for peers, which may have the model or serve it.
func meetPeers(c *cli.Context, n *node.Node) {
	defer waitingFor(c.App.ErrWriter, "looking for other nodes")()
	ctx, cancel := context.WithTimeout(c.Context, lookAroundTime)
	defer cancel()
	_ = n.WaitPeers(ctx) // without any, the model's origin is asked
}

// ownKV is how many tokens of context a node in this process has room for, unless the
// settings say otherwise: what one person's chat needs. More would take longer to lay
// out.
const ownKV = 8192

// ownNode starts a node with the home's settings in this process, which serves nothing
// yet. done ends it, and returns when it has left.
func ownNode(c *cli.Context) (*node.Node, func(), error) {
	cfg, open, err := nodeSettings(c)
	if err != nil {
		return nil, nil, err
	}
	start, err := begin(&cfg, open, false, c.App.ErrWriter)
	if err != nil {
		return nil, nil, err
	}
	cfg.Serve, cfg.API = nil, "" // it answers this command, and others through its socket
	cfg.KVTokens = cmp.Or(cfg.KVTokens, ownKV)
	n, err := newNode(cfg)
	if err != nil {
		return nil, nil, err
	}
	sayKept(start, c.App.ErrWriter)
	ctx, cancel := context.WithCancel(c.Context)
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	done := func() {
		cancel()
		<-ended //nolint:errcheck // it ends because it was told to
		_ = n.Close()
	}
	return n, done, nil
}

// nodeSettings reads the settings that a node of the home would run with: flags that
// this command shares with `shoal node`, the environment and the configuration file. open
// is what they say about the open network.
func nodeSettings(c *cli.Context) (cfg node.Config, open swarm.Choice, err error) {
	flags := nodeFlags()
	set := flag.NewFlagSet("", flag.ContinueOnError)
	for _, f := range flags {
		if err := f.Apply(set); err != nil {
			return cfg, open, usageError{err.Error()}
		}
	}
	shared := []string{"home", "engine", "llama"}
	for _, f := range networkFlags() {
		shared = append(shared, f.Names()[0])
	}
	for _, name := range c.LocalFlagNames() {
		if !slices.Contains(shared, name) {
			continue
		}
		values := []string{fmt.Sprint(c.Value(name))}
		if v, ok := c.Value(name).(cli.StringSlice); ok {
			values = v.Value()
		}
		for _, v := range values {
			if err := set.Set(name, v); err != nil {
				return cfg, open, usageError{err.Error()}
			}
		}
	}
	cc := cli.NewContext(c.App, set, nil)
	cc.Context, cc.Command = c.Context, &cli.Command{Flags: flags}
	if err := loadConfig(cc, flags); err != nil {
		return cfg, open, err
	}
	cfg, err = nodeConfig(cc)
	return cfg, choiceOf(cc), err
}

// ensureServed has the node serve a model unless somebody does, and returns what to
// call it.
func ensureServed(c *cli.Context, cl *api.Client, model, span string) (string, error) {
	stop := waitingFor(c.App.ErrWriter, "asking who serves "+cell(model))
	served, err := isServed(c.Context, cl, model)
	stop()
	if err != nil || served {
		return model, err
	}
	return startServing(c, cl, model, span)
}

// isServed reports whether nodes together serve all blocks of a model; of any, if the
// name is empty.
func isServed(ctx context.Context, cl *api.Client, model string) (bool, error) {
	h, err := cl.Health(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(h.Coverage, func(v api.Coverage) bool {
		id, err := cid.Decode(v.Model)
		return err == nil && v.Nodes > 0 && len(v.Missing) == 0 &&
			(model == "" || protocol.MatchModel(model, id, []string{v.Name}) != protocol.MatchNone)
	}), nil
}

// startServing has the node fetch and serve a model, with its progress on a terminal,
// and returns the model's ID.
func startServing(c *cli.Context, cl *api.Client, model, span string) (string, error) {
	if err := fitsHere(c, cl, model, span); err != nil {
		return "", err
	}
	show, end := progressLine(c.App.ErrWriter, "fetching "+cell(model)+":")
	served, err := cl.Serve(c.Context, api.ServeRequest{Model: model, Span: span}, show)
	end()
	if err != nil {
		if err = installWanted(c, err); err != nil {
			return "", err
		}
		if served, err = cl.Serve(c.Context, api.ServeRequest{Model: model, Span: span}, nil); err != nil {
			return "", err
		}
	}
	if served.Waiting != "" {
		err := api.Errorf(api.NoRoute, "the node serves %s of %s, which is what fits into the memory that it lends; the rest must be served by other nodes: %s",
			spanText(served.From, served.To, 0), served.Name, served.Waiting)
		return "", err
	}
	return served.Model, nil
}

// fitsHere returns an error if a model is larger than the memory of this machine, on
// which all of it is to be loaded. What nobody knows the size of may be tried.
func fitsHere(c *cli.Context, cl *api.Client, model, span string) error {
	if span != "all" {
		return nil
	}
	size := int64(0)
	if m, err := cl.Show(c.Context, model); err == nil {
		size = m.Size
	} else if list, err := cl.Search(c.Context, []string{model}); err == nil {
		for _, m := range list {
			if slices.Contains(append(m.Also, m.Name), model) {
				size = m.Size
			}
		}
	}
	if all := serve.MachineMemory(); size > all*9/10 {
		err := fmt.Errorf("%s takes %s and this machine has %s of memory: several machines can serve it together", model, bytesText(size), bytesText(all))
		return api.Errorf(api.Refused, "%w", remedy.For(err, remedy.ServeModel, model))
	}
	return nil
}

// connectAsking is connect for commands that ask for an answer. If no node is running
// in the home and no peer serves the model, but it is whole on this disk, a node in this
// process serves it.
func connectAsking(c *cli.Context, g *api.GenerateRequest) (*api.Client, func(), error) {
	own := ""
	cl, done, err := connect(c, true, func(n *node.Node) bool {
		own = n.Library().Whole(g.Model)
		return own != ""
	})
	if err != nil || own == "" || len(g.Route) > 0 {
		return cl, done, err
	}
	st, err := cl.Status(c.Context)
	if err == nil && st.Peers > 0 {
		stop := waitingFor(c.App.ErrWriter, "asking who serves a model")
		var served bool
		served, err = isServed(c.Context, cl, g.Model)
		stop()
		if served {
			return cl, done, nil
		}
	}
	done()
	if err != nil {
		return nil, nil, err
	}
	if isTerminal(c.App.ErrWriter) {
		fmt.Fprintln(c.App.ErrWriter, "nobody else serves it: the copy on this disk answers")
	}
	n, done, err := ownNode(c)
	if err != nil {
		return nil, nil, err
	}
	if g.Model, err = startServing(c, n.Client(), own, "all"); err != nil {
		done()
		return nil, nil, err
	}
	return n.Client(), done, nil
}

// chatTime is how long a chat waits for somebody who serves the model.
const chatTime = 8 * time.Second

// awaitServed waits until somebody serves a model. The error is an api.NoRoute.
func awaitServed(c *cli.Context, cl *api.Client, model string) error {
	defer waitingFor(c.App.ErrWriter, "looking for a node that serves "+cmp.Or(cell(model), "a model"))()
	for begin := time.Now(); ; {
		served, err := isServed(c.Context, cl, model)
		if served || err != nil {
			return err
		}
		if time.Since(begin) > chatTime {
			return whyUnserved(c.Context, cl, model)
		}
		select {
		case <-c.Context.Done():
			return c.Context.Err()
		case <-time.After(time.Second / 2):
		}
	}
}

// whyUnserved says why nobody serves a model.
func whyUnserved(ctx context.Context, cl *api.Client, model string) error {
	what := "a model"
	if model != "" {
		what = "all blocks of " + model
	}
	err := errors.New("nobody who can be reached serves " + what)
	if h, herr := cl.Health(ctx); herr == nil && h.Paused != "" {
		err = fmt.Errorf("%w; this node is paused: %s", err, h.Paused)
	}
	return api.Errorf(api.NoRoute, "%w", remedy.For(err, remedy.NamePeer))
}

// psCommand and stopCommand are what people who come from Ollama type.

func psCommand() *cli.Command {
	return &cli.Command{Name: "ps", Usage: "list what the node serves", Flags: clientFlags(), Action: asking(func(c *cli.Context, cl *api.Client, _ []string) error {
		s, err := cl.Status(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, s.Serving)
		}
		if len(s.Serving) == 0 {
			remark(c.App.ErrWriter, "nothing is served here; `shoal run MODEL` serves a model and chats with it")
			return nil
		}
		w := newTable(c.App.Writer)
		fmt.Fprintln(w, "NAME\tID\tBLOCKS\tSIZE\tSESSIONS\tUNTIL\tSTATE")
		for _, v := range s.Serving {
			fmt.Fprintf(w, "%s\t%s\t%d-%d\t%s\t%d\t%s\t%s\n", cell(v.Name), short(v.Model), v.From, v.To, bytesText(int64(v.Memory)), v.Sessions, untilText(&v), cell(v.State))
		}
		return w.Flush()
	})}
}

// untilText is when a span is unloaded if nobody uses it.
func untilText(v *api.Serving) string {
	switch {
	case v.Unloaded, !v.Ready:
		return "-"
	case v.ExpiresAt == nil:
		return "forever"
	}
	return "in " + max(0, time.Until(*v.ExpiresAt)).Round(time.Second).String()
}

func stopCommand() *cli.Command {
	return &cli.Command{
		Name: "stop", Usage: "have the running node stop serving a model", ArgsUsage: "MODEL", Flags: clientFlags(),
		Description: "`shoal ps` lists what it serves. The model stays on the disk; `shoal drain` stops the node itself.",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usageError{"name the model to stop serving, as `shoal ps` lists it; `shoal drain` stops the node itself"}
			}
			args, err := arguments(c, "MODEL")
			if err != nil {
				return err
			}
			if c.String("api") == "" && running(c.Context, c.String("home")) == nil {
				return fmt.Errorf("no node is running in %s, so nothing is served there", c.String("home"))
			}
			cl, done, err := connect(c, false)
			if err != nil {
				return err
			}
			defer done()
			stop := waitingFor(c.App.ErrWriter, "waiting for running sessions to move to other nodes")
			err = cl.Stop(c.Context, args[0])
			stop()
			if err != nil || !c.Bool("json") {
				return err
			}
			return printJSON(c.App.Writer, map[string]any{"model": args[0], "stopped": true})
		},
	}
}

// shortcuts are subcommands of `shoal model` by the names that stand alone elsewhere.
func shortcuts() (out []*cli.Command) {
	for _, c := range modelCommand().Subcommands {
		names := map[string]string{"ls": "list", "show": "show", "pull": "pull", "rm": "rm", "search": "search", "add": "add"}
		name, ok := names[c.Name]
		if !ok {
			continue
		}
		if name != c.Name {
			c.Aliases = []string{c.Name}
		}
		c.Description = strings.TrimSpace("The same as `shoal model " + c.Name + "`.\n" + c.Description)
		c.Name = name
		out = append(out, c)
	}
	return out
}
