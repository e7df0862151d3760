package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

func testnetFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "nodes", Value: 3, Usage: "node processes"},
		&cli.StringFlag{Name: "model", Usage: "GGUF file, URL, or name (default: the model inside this program)"},
		&cli.IntFlag{Name: "replicas", Value: 1, Usage: "nodes that serve each span"},
		&cli.StringFlag{Name: "rtt", Usage: "round trip between any two nodes, such as 40ms"},
		&cli.StringFlag{Name: "rate", Usage: "uplink of each node, such as 100mbit"},
		&cli.StringFlag{Name: "loss", Usage: "packet loss, such as 0.1%"},
		&cli.BoolFlag{Name: "private", Usage: "the nodes are in a private swarm of their own, not in an open network"},
		&cli.StringFlag{Name: "dir", Usage: "directory of the network (default: a temporary one, removed at the end)"},
		&cli.BoolFlag{Name: "keep", Usage: "keep the directory and its logs"},
		&cli.IntFlag{Name: "threads", Usage: "threads per node (default: the cores divided among the nodes)"},
		&cli.BoolFlag{Name: "exact", EnvVars: []string{"SHOAL_EXACT"}, Usage: exactUsage},
		&cli.StringFlag{Name: "draft", EnvVars: []string{"SHOAL_DRAFT"}, Usage: "as of shoal node: auto, off, or a `MODEL` that guesses tokens for the large one, such as a GGUF file"},
	}
}

func testnetCommand() *cli.Command {
	return &cli.Command{
		Name: "testnet", Usage: "run a network of many nodes on this machine", ArgsUsage: "[-- COMMAND ARGS]",
		Description: "Without a command, it prints the network and runs until Ctrl-C. With one, it runs the command once a route is ready, with SHOAL_HOME,\nSHOAL_API, OPENAI_BASE_URL and SHOAL_TESTNET in its environment, and exits with its status.",
		Flags:       append(append(testnetFlags(), jsonFlag()), engineFlags(serve.Auto)...), Action: runTestnet,
		Subcommands: []*cli.Command{churnCommand()}, HideHelpCommand: true,
	}
}

// startTestnet starts the network that the flags describe and waits until it
// is ready.
func startTestnet(c *cli.Context) (*testnet.Testnet, error) {
	p, err := link.Parse(c.String("rtt"), c.String("rate"), c.String("loss"))
	if err != nil {
		return nil, usageError{err.Error()}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	model := c.String("model")
	if model != "" {
		model = absolute(model)
	}
	if n := c.Int("nodes"); n < 1 || n > testnet.MaxNodes {
		return nil, usageError{fmt.Sprintf("--nodes %d: a testnet has 1 to %d", n, testnet.MaxNodes)}
	}
	if r := c.Int("replicas"); r < 1 || r > c.Int("nodes") {
		return nil, usageError{fmt.Sprintf("--replicas %d: there are %d nodes", r, c.Int("nodes"))}
	}
	args, err := nodeArgs(c)
	if err != nil {
		return nil, err
	}
	if c.Bool("exact") {
		args = append(args, "--exact")
	}
	if d := c.String("draft"); d != "" {
		args = append(args, "--draft", absolute(d))
	}
	fmt.Fprintf(c.App.ErrWriter, "starting %d nodes ...\n", c.Int("nodes"))
	t, err := testnet.Start(c.Context, testnet.Config{
		Binary: exe, Nodes: c.Int("nodes"), Replicas: c.Int("replicas"), Model: model, Link: p, Private: c.Bool("private"),
		Dir: c.String("dir"), Keep: c.Bool("keep"), Threads: c.Int("threads"), ClientConfig: writeClientConfig,
		Args: args, Env: []string{"SHOAL_QUIET_BUILD=1"},
		Gateway: func(dir string, bootstrap []string) (string, func(), error) {
			return startGateway(c, p, dir, bootstrap)
		},
	})
	if err != nil {
		return nil, err
	}
	if err := t.WaitReady(c.Context, nil); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

// startGateway runs a light client with its own API in this process.
func startGateway(c *cli.Context, p link.Params, home string, bootstrap []string) (string, func(), error) {
	return startGatewayLog(c, p, home, bootstrap, slog.Default())
}

func startGatewayLog(c *cli.Context, p link.Params, home string, bootstrap []string, log *slog.Logger) (string, func(), error) {
	listening := make(chan string, 1)
	cfg := node.Config{
		Home: home, Version: version, Client: true, NoMDNS: true, Bootstrap: bootstrap, API: "127.0.0.1:0", Log: log,
		Network: p.SocketOptions(), ListenAddrs: loopbackAddrs(),
		Events: func(e node.Event) {
			if e.Event == "listening" {
				listening <- e.API
			}
		},
	}
	if c.Bool("private") {
		if _, err := begin(&cfg, swarm.BeClosed, false, c.App.ErrWriter); err != nil {
			return "", nil, err
		}
	}
	n, err := newNode(cfg)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop := func() {
		cancel()
		<-ended //nolint:errcheck // it ends because it was told to
		_ = n.Close()
	}
	wait, waited := context.WithTimeout(c.Context, 10*time.Second)
	defer waited()
	if err := n.WaitPeers(wait); err != nil {
		stop()
		return "", nil, err
	}
	select {
	case api := <-listening:
		return api, stop, nil
	case err := <-ended:
		cancel()
		_ = n.Close()
		return "", nil, err
	}
}

// writeClientConfig writes a home with which clients find the testnet and use the
// gateway's API.
func writeClientConfig(dir string, bootstrap []string) error {
	token, err := os.ReadFile(home.Home(filepath.Join(dir, "..", "gateway")).APIToken())
	if err == nil {
		err = os.WriteFile(home.Home(dir).APIToken(), token, 0o600)
	}
	if err != nil {
		return err
	}
	var b []byte
	b = append(b, "open = true\nno-mdns = true\nbootstrap = ["...)
	for i, a := range bootstrap {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendQuote(b, a)
	}
	return os.WriteFile(home.Home(dir).Config(), append(b, "]\n"...), 0o600)
}

func runTestnet(c *cli.Context) (err error) {
	t, err := startTestnet(c)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := t.Close(); err == nil {
			err = cerr
		}
	}()
	if c.Args().Present() {
		code, err := t.Exec(c.Context, c.Args().Slice())
		if err != nil {
			return err
		}
		if code != 0 {
			return status(code)
		}
		return nil
	}
	api, err := t.API()
	if err != nil {
		return err
	}
	home, err := t.ClientHome()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, map[string]any{"model": t.Model(), "nodes": t.Nodes(), "client_home": home, "api": "http://" + api}); err != nil {
			return err
		}
	} else {
		if err := printNodes(c, t); err != nil {
			return err
		}
		exe := os.Args[0]
		fmt.Fprintf(c.App.Writer, "\nopen http://%s in a browser, or ask it from another terminal:\n", api)
		fmt.Fprintf(c.App.Writer, "  %s chat --api http://%s\n", exe, api)
		fmt.Fprintf(c.App.Writer, "  %s prompt --api http://%s \"Tell me a story about a fox and a lantern.\"\n", exe, api)
		fmt.Fprintf(c.App.Writer, "  curl http://%s/v1/chat/completions -H 'Content-Type: application/json' -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'\n", api)
		fmt.Fprintf(c.App.Writer, "logs are in %s/*/node.log; Ctrl-C stops everything\n", t.Dir())
	}
	<-c.Context.Done()
	return nil
}

// printNodes prints one line per node: what it serves, and the disk space that takes.
func printNodes(c *cli.Context, t *testnet.Testnet) error {
	w := newTable(c.App.Writer)
	fmt.Fprintln(w, "NODE\tPEER\tBLOCKS\tON DISK\tAPI")
	for _, n := range t.Nodes() {
		fmt.Fprintf(w, "%s\t%s\t%d-%d\t%s\t%s\n", n.Name, short(n.Peer), n.From, n.To, bytesText(allocated(n.Dir)), n.API)
	}
	return w.Flush()
}

// allocated returns the disk space that the models in a node's directory take.
func allocated(dir string) int64 {
	var sum int64
	_ = filepath.Walk(home.Home(dir).Store(), func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			sum += files.Allocated(info)
		}
		return nil
	})
	return sum
}

func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "start three nodes that each hold a third of a tiny model, and have them answer a prompt", ArgsUsage: "[PROMPT]",
		Flags: append(testnetFlags(), engineFlags(engine.BuiltIn)...), Action: runDemo,
	}
}

func runDemo(c *cli.Context) (err error) {
	begin := time.Now()
	t, err := startTestnet(c)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := t.Close(); err == nil {
			err = cerr
		}
	}()
	if err := printNodes(c, t); err != nil {
		return err
	}
	prompt := "Tell me a story about a fox and a lantern."
	if c.Args().Present() {
		prompt = c.Args().First()
	}
	fmt.Fprintf(c.App.Writer, "\n> %s\n", prompt)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "(ready after %.1f s; a client that holds no weights asks)\n\n", time.Since(begin).Seconds())
	code, err := t.Exec(c.Context, []string{exe, "prompt", "--temperature", "0.7", prompt})
	if err != nil {
		return err
	}
	if code != 0 {
		return status(code)
	}
	return nil
}
