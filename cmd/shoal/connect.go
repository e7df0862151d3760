package main

import (
	"context"
	"encoding/json"
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
)

const defaultAPI = "127.0.0.1:11500"

// clientFlags are on every command that asks a node.
func clientFlags() []cli.Flag {
	return append([]cli.Flag{
		homeFlag(), jsonFlag(),
		&cli.StringFlag{Name: "api", EnvVars: []string{"SHOAL_API"}, Usage: "`URL` of the node to ask (default: the one that runs in this home, else a light client of its own)"},
		&cli.StringFlag{Name: "api-key", EnvVars: []string{"SHOAL_API_KEY"}, Usage: "key of that node's API"},
	}, networkFlags()...)
}

// asking is the action of a command that takes the named arguments and asks the
// node that runs, or else one of this home alone.
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

// connect gives a client of the daemon that runs, or of a node in this process
// that lasts as long as the command. Without a network the latter sees only
// this home. alone says that a command which joins can do without peers.
func connect(c *cli.Context, join bool, alone ...func(*node.Node) bool) (*api.Client, func(), error) {
	home := c.String("home")
	if url := c.String("api"); url != "" {
		if !strings.Contains(url, "://") {
			url = "http://" + url
		}
		return &api.Client{Base: strings.TrimSuffix(strings.TrimRight(url, "/"), "/v1"), Token: token(home), Key: c.String("api-key")}, func() {}, nil
	}
	if cl := running(c.Context, home); cl != nil {
		if c.IsSet("catalog") || c.IsSet("catalog-key") {
			return nil, nil, usageError{"the node that runs in this home has a catalogue of its own; start that with --catalog, or put the file into catalog.d in the home"}
		}
		cl.Key = c.String("api-key")
		return cl, func() {}, nil
	}
	cfg, err := joinConfig(c)
	if err != nil {
		return nil, nil, err
	}
	cfg.Client = true
	if err := clientConfig(c, &cfg); err != nil {
		return nil, nil, err
	}
	if !join {
		cfg.Bootstrap, cfg.NoMDNS = nil, true
	}
	if len(cfg.Network) > 0 || !join {
		// A testnet's client, or one that talks to nobody, needs loopback only.
		cfg.ListenAddrs = loopbackAddrs()
	}
	n, err := node.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	if join {
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
			return nil, nil, api.Errorf(api.NoRoute, "no node runs in %s, and %s", home, err)
		}
	}
	return n.Client(), func() { _ = n.Close() }, nil
}

func loopbackAddrs() []string {
	return []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}
}

// clientConfig reads what a home's configuration file says about the network
// and the disk; flags and environment come first.
func clientConfig(c *cli.Context, cfg *node.Config) error {
	var file struct {
		Bootstrap   []string `toml:"bootstrap"`
		NoMDNS      bool     `toml:"no-mdns"`
		Catalogs    []string `toml:"catalog"`
		CatalogKeys []string `toml:"catalog-key"`
		Quota       string   `toml:"quota"`
	}
	path := filepath.Join(cfg.Home, "config.toml")
	if _, err := toml.DecodeFile(path, &file); err != nil && !os.IsNotExist(err) {
		return usageError{fmt.Sprintf("the configuration file %s: %s", path, err)}
	}
	if env := os.Getenv("SHOAL_QUOTA"); env != "" {
		file.Quota = env
	}
	var err error
	if cfg.Quota, err = parseSize("--quota", file.Quota); err != nil {
		return err
	}
	if !c.IsSet("bootstrap") {
		cfg.Bootstrap = file.Bootstrap
	}
	if !c.IsSet("no-mdns") {
		cfg.NoMDNS = file.NoMDNS
	}
	if !c.IsSet("catalog") {
		cfg.Catalogs = file.Catalogs
	}
	if !c.IsSet("catalog-key") {
		cfg.CatalogKeys = file.CatalogKeys
	}
	return nil
}

// running finds the daemon of a home by the word it has left.
func running(ctx context.Context, home string) *api.Client {
	raw, err := os.ReadFile(filepath.Join(home, "api.json"))
	if err != nil {
		return nil
	}
	var word struct {
		API string `json:"api"`
	}
	if json.Unmarshal(raw, &word) != nil || word.API == "" {
		return nil
	}
	cl := &api.Client{Base: "http://" + word.API, Token: token(home)}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := cl.Status(ctx); err != nil {
		return nil
	}
	return cl
}

func token(home string) string {
	raw, err := os.ReadFile(filepath.Join(home, "api.token"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// absolute makes a path one that a daemon elsewhere understands; names and
// URLs stay.
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

func routeText(hops []api.Hop) string {
	var parts []string
	for _, h := range hops {
		part := fmt.Sprintf("%s %d-%d", short(h.Peer), h.From, h.To)
		switch h.Trust {
		case "own":
			part += " (this node)"
		case "trusted", "new":
			part += " (" + h.Trust + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " → ")
}
