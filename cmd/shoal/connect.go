package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/swarm"
)

const defaultAPI = "127.0.0.1:11500"

// clientFlags are on every command that talks to a node.
func clientFlags() []cli.Flag {
	return append([]cli.Flag{
		homeFlag(), jsonFlag(),
		&cli.StringFlag{Name: "api", EnvVars: []string{"SHOAL_API"}, Usage: "`URL` of the node to use (default: the one running in this home, else a light client for this command)"},
		&cli.StringFlag{Name: "api-key", EnvVars: []string{"SHOAL_API_KEY"}, Usage: "key of that node's API"},
		&cli.StringFlag{Name: "api-key-file", EnvVars: []string{"SHOAL_API_KEY_FILE"}, Usage: "`FILE` with the key of that node's API"},
		&cli.StringFlag{Name: "api-token-file", EnvVars: []string{"SHOAL_API_TOKEN_FILE"}, Usage: "`FILE` with the token (api.token) of the node at --api, for commands that change that node"},
	}, networkFlags()...)
}

// asking wraps a command that takes the named arguments and needs no peers: it talks
// to the running node, or else to one in this process.
func asking(do func(c *cli.Context, cl *api.Client, args []string) error, names ...string) cli.ActionFunc {
	return func(c *cli.Context) error {
		args, err := arguments(c, names...)
		if err != nil {
			return err
		}
		cl, done, err := connect(c, false)
		if err != nil {
			return err
		}
		defer done()
		return do(c, cl, args)
	}
}

// connect returns a client of the running daemon, or else of a node in this process
// that lives as long as the command. The latter joins the network only if join is set;
// otherwise it sees only this home. alone reports whether a command that joins can do
// its work without peers.
func connect(c *cli.Context, join bool, alone ...func(*node.Node) bool) (*api.Client, func(), error) {
	home := c.String("home")
	key, err := keyOf(c)
	if err != nil {
		return nil, nil, err
	}
	if url := c.String("api"); url != "" {
		cl, err := clientOf(c, url)
		if err != nil {
			return nil, nil, err
		}
		cl.Key = key
		return cl, func() {}, nil
	}
	if cl := running(c.Context, home); cl != nil {
		if c.IsSet("catalog") || c.IsSet("catalog-key") {
			return nil, nil, usageError{"a node is running in this home with its own catalogue; start that node with --catalog, or put the file into catalog.d in the home"}
		}
		cl.Key = key
		return cl, func() {}, nil
	}
	cfg, err := joinConfig(c)
	if err != nil {
		return nil, nil, err
	}
	cfg.Client = true
	choice, err := clientConfig(c, &cfg)
	if err != nil {
		return nil, nil, err
	}
	if len(cfg.Network) > 0 { // a testnet's client needs only loopback
		cfg.ListenAddrs = loopbackAddrs()
	}
	var start *swarm.Start
	if join {
		if start, err = begin(&cfg, choice, false, c.App.ErrWriter); err != nil {
			return nil, nil, err
		}
	} else { // alone
		cfg.Private, cfg.Bootstrap = true, nil
	}
	n, err := newNode(cfg)
	if err != nil {
		return nil, nil, err
	}
	if join {
		sayKept(start, c.App.ErrWriter)
		patience, must := 8*time.Second, true
		if slices.ContainsFunc(alone, func(can func(*node.Node) bool) bool { return can(n) }) {
			patience, must = 3*time.Second, false
		}
		ctx, cancel := context.WithTimeout(c.Context, patience)
		err = n.WaitPeers(ctx)
		cancel()
		if err != nil && (must || c.Context.Err() != nil) {
			_ = n.Close()
			if c.Context.Err() != nil {
				return nil, nil, c.Context.Err()
			}
			return nil, nil, lonely(home, start, err)
		}
	}
	return n.Client(), func() { _ = n.Close() }, nil
}

func loopbackAddrs() []string {
	return []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}
}

// clientConfig reads the settings of network and disk from a home's configuration
// file; flags and the environment take precedence. It returns what they say about the open
// network.
func clientConfig(c *cli.Context, cfg *node.Config) (open swarm.Choice, err error) {
	var file struct {
		Open        *bool    `toml:"open"`
		Bootstrap   []string `toml:"bootstrap"`
		Relays      []string `toml:"relay"`
		NoMDNS      bool     `toml:"no-mdns"`
		Use         []string `toml:"use"`
		Catalogs    []string `toml:"catalog"`
		CatalogKeys []string `toml:"catalog-key"`
		Quota       string   `toml:"quota"`
	}
	path := home.Home(cfg.Home).Config()
	if _, err := toml.DecodeFile(path, &file); err != nil && !os.IsNotExist(err) {
		return open, usageError{fmt.Sprintf("the configuration file %s: %s", path, err)}
	}
	if env := os.Getenv("SHOAL_QUOTA"); env != "" {
		file.Quota = env
	}
	if cfg.Quota, err = parseSize("--quota", file.Quota); err != nil {
		return open, err
	}
	if !c.IsSet("bootstrap") {
		cfg.Bootstrap = file.Bootstrap
	}
	if !c.IsSet("relay") {
		cfg.Relays = file.Relays
	}
	if !c.IsSet("no-mdns") {
		cfg.NoMDNS = file.NoMDNS
	}
	if !c.IsSet("use") {
		if cfg.Use, err = policy.ParseUse(file.Use); err != nil {
			return open, ruleProblem(path, "use", err)
		}
	}
	if !c.IsSet("catalog") {
		cfg.Catalogs = file.Catalogs
	}
	if !c.IsSet("catalog-key") {
		cfg.CatalogKeys = file.CatalogKeys
	}
	return cmp.Or(choiceOf(c), said(file.Open)), nil
}

// clientOf returns a client of the node at a URL from the command line. This home's
// token is sent only to this home's own node; another node's token must be given as
// well.
func clientOf(c *cli.Context, url string) (*api.Client, error) {
	if !strings.Contains(url, "://") {
		url = "http://" + hostPort(url)
	}
	cl := &api.Client{Base: strings.TrimSuffix(strings.TrimRight(url, "/"), "/v1")}
	if file := c.String("api-token-file"); file != "" {
		var err error
		cl.Token, err = secretIn("--api-token-file", file)
		return cl, err
	}
	if word, err := node.ReadWord(c.String("home")); err == nil && word.API != "" && cl.Base == "http://"+word.API {
		if own := running(c.Context, c.String("home")); own != nil {
			return own, nil
		}
	}
	return cl, nil
}

// keyOf returns the key of an API, from a flag or a file.
func keyOf(c *cli.Context) (string, error) {
	key, file := c.String("api-key"), c.String("api-key-file")
	switch {
	case file == "":
		return key, nil
	case key != "":
		return "", usageError{"--api-key and --api-key-file cannot be combined"}
	}
	return secretIn("--api-key-file", file)
}

// secretIn reads a file with one secret.
func secretIn(flag, file string) (string, error) {
	raw, err := os.ReadFile(file)
	secret := strings.TrimSpace(string(raw))
	switch {
	case err != nil:
		return "", usageError{fmt.Sprintf("%s %s: %s", flag, file, err)}
	case secret == "" || strings.ContainsAny(secret, "\r\n"):
		return "", usageError{fmt.Sprintf("%s %s: the file must contain one line, the secret", flag, file)}
	}
	return secret, nil
}

// running returns a client of a home's daemon, through its socket or the address in
// api.json; nil if none answers.
func running(ctx context.Context, home string) *api.Client {
	word, _ := node.ReadWord(home) // a full disk may have no room for it
	doors := []*api.Client{api.Unix(cmp.Or(word.Socket, node.DefaultSocket(home)), token(home))}
	if word.API != "" {
		doors = append(doors, &api.Client{Base: "http://" + word.API, Token: token(home)})
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, cl := range doors {
		if _, err := cl.Status(ctx); err == nil {
			return cl
		}
	}
	return nil
}

func token(dir string) string {
	raw, err := os.ReadFile(home.Home(dir).APIToken())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// absolute makes a path absolute, since a daemon has another working directory; names
// and URLs stay.
func absolute(source string) string {
	if strings.Contains(source, "://") || strings.HasPrefix(source, "hf:") {
		return source
	}
	if _, err := os.Stat(source); err != nil && !strings.ContainsAny(source, `/\`) && !strings.HasSuffix(source, ".gguf") {
		return source
	}
	if abs, err := filepath.Abs(source); err == nil {
		return abs
	}
	return source
}

func short(peer string) string {
	if len(peer) <= 8 {
		return peer
	}
	return "…" + peer[len(peer)-8:]
}

// machineText is what to call a machine in a line: its name if that is known, else the
// end of its ID.
func machineText(name, peer string) string {
	if name = cell(name); name != "" {
		return name
	}
	return short(peer)
}

// nodeText is a machine's name and its whole ID.
func nodeText(name, peer string) string {
	if name = cell(name); name != "" {
		return name + ", " + peer
	}
	return peer
}

// spanText explains a span of blocks where it is read first: blocks 0-10, the first 10
// of 30. blocks is how many the model has; 0: not known.
func spanText(from, to, blocks int) string {
	span := fmt.Sprintf("blocks %d-%d", from, to)
	n := to - from
	switch {
	case blocks <= 0 || n <= 0:
		return span
	case n == blocks:
		return fmt.Sprintf("all %d blocks", blocks)
	case from == 0:
		return fmt.Sprintf("%s, the first %d of %d", span, n, blocks)
	case to == blocks:
		return fmt.Sprintf("%s, the last %d of %d", span, n, blocks)
	}
	return fmt.Sprintf("%s, %d of %d", span, n, blocks)
}

func routeText(hops []api.Hop) string {
	var parts []string
	for _, h := range hops {
		part := fmt.Sprintf("%s %d-%d", machineText(h.Name, h.Peer), h.From, h.To)
		switch h.Trust {
		case "own":
			part += " (this node)"
		case "trusted", "new":
			part += " (" + h.Trust + ")"
		}
		if h.Relayed || h.LinkRelayed {
			part += " (relayed)"
		}
		if h.Wire != "" {
			part += " (sends " + cell(h.Wire) + ")"
		}
		parts = append(parts, part)
	}
	text := strings.Join(parts, " → ")
	if len(hops) > 0 && hops[0].SwarmName != "" { // a route lies in one network
		text += " in swarm " + cell(hops[0].SwarmName)
	}
	return text
}
