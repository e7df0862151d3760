package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/urfave/cli/v2/altsrc"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/testnet/link"
)

// networkFlags are the flags for joining a network, which a node and a light client share.
func networkFlags() []cli.Flag {
	return []cli.Flag{
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "bootstrap", EnvVars: []string{"SHOAL_BOOTSTRAP"}, Usage: "`ADDRESS` of a peer to join through, as printed by `shoal status`; may be repeated"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "relay", EnvVars: []string{"SHOAL_RELAY"}, Usage: "`ADDRESS` of a node of the open network through which private swarms may reach each other's members, as `shoal status` prints it there; it sees neither their keys nor what they say; may be repeated; off: use none (default: those of --bootstrap and those that are known)"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "open", EnvVars: []string{"SHOAL_OPEN"}, Usage: "be in the open network, too: lend to strangers, and use what they lend (default: only your own machines and those you let in)"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "no-mdns", EnvVars: []string{"SHOAL_NO_MDNS"}, Usage: "do not look for nodes on the LAN"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "trust", EnvVars: []string{"SHOAL_TRUST"}, Usage: "`PEER` ID of a node that is yours or a friend's: prompts go to trusted nodes first, and their prompts come first here; may be repeated"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "use", EnvVars: []string{"SHOAL_USE"}, Usage: "whose machines may compute your own prompts, as a `RULE`: mine (this node and trusted ones), swarm (your private swarms, too) or anybody; for some models alone as in \"llama*: mine\"; may be repeated (default: anybody)"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "fastest", EnvVars: []string{"SHOAL_FASTEST"}, Usage: "also send prompts through strangers when they are faster than this node and trusted nodes, even if those serve the whole model"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "catalog", EnvVars: []string{"SHOAL_CATALOG"}, Usage: "`FILE` that lists models by short names, in addition to the built-in catalogue and catalog.d in the home; need not be signed; may be repeated"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "catalog-key", EnvVars: []string{"SHOAL_CATALOG_KEY"}, Usage: "also trust catalogues signed with this `KEY`, not only the project's; may be repeated"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "ahead", Value: "auto", EnvVars: []string{"SHOAL_AHEAD"}, Usage: "guess the next tokens of an answer and send them ahead, so that distance between nodes costs less; answers stay the same: auto (where that is faster) or off"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "otlp", EnvVars: []string{"SHOAL_OTLP", "OTEL_EXPORTER_OTLP_ENDPOINT"}, Usage: "send traces to the OpenTelemetry collector at `URL`, such as http://127.0.0.1:4318 (default: none)"}),
		&cli.StringFlag{Name: "link", EnvVars: []string{"SHOAL_LINK"}, Hidden: true, Usage: "emulated link, for testnets"},
	}
}

// nodeFlags are a node's settings. The configuration file may set all of them except
// --config and --json-events.
func nodeFlags() []cli.Flag {
	return append([]cli.Flag{
		altsrc.NewStringFlag(homeFlag()),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "name", EnvVars: []string{"SHOAL_NAME"}, Usage: "what to call this machine; only trusted peers are told (default: the host's name)"}),
		&cli.StringFlag{Name: "config", EnvVars: []string{"SHOAL_CONFIG"}, Usage: "TOML `FILE` with the same names as these flags (default: config.toml in the home)"},
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "model", EnvVars: []string{"SHOAL_MODEL"}, Usage: "serve `MODEL`: a name (yours, a peer's, or one that `shoal search` lists), a CID, a GGUF file, a URL, or hf:owner/repo/file.gguf; may be repeated"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "span", Value: "auto", EnvVars: []string{"SHOAL_SPAN"}, Usage: "blocks to serve: FROM-TO, all, or auto"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "public", EnvVars: []string{"SHOAL_PUBLIC"}, Usage: "this machine can be reached from the internet: vouch for it, so that others may reach each other through it from the start"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "no-relay", EnvVars: []string{"SHOAL_NO_RELAY"}, Usage: "do not relay for nodes that cannot reach each other"}),
		altsrc.NewIntFlag(&cli.IntFlag{Name: "listen-port", EnvVars: []string{"SHOAL_LISTEN_PORT"}, Usage: "port for QUIC and TCP; 0: pick a random one on the first start and keep it"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "listen", EnvVars: []string{"SHOAL_LISTEN"}, Usage: "multiaddrs to listen on, instead of all interfaces"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "api", Value: defaultAPI, EnvVars: []string{"SHOAL_API_LISTEN"}, Usage: "`HOST:PORT` of the local HTTP API; beyond loopback callers need a key, which shoal key add makes; off: only the socket for this home's own commands"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "api-key", EnvVars: []string{"SHOAL_API_KEY"}, Usage: "key that API clients must send; other users of this machine can see it in the process list, so prefer --api-key-file"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "api-key-file", EnvVars: []string{"SHOAL_API_KEY_FILE"}, Usage: "`FILE` with the key that API clients must send"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "api-open", EnvVars: []string{"SHOAL_API_OPEN"}, Usage: "let other machines use the API without a key: anyone who can reach it may then send prompts through this node, list models and peers, and make it fetch models of the catalogue"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "metrics", EnvVars: []string{"SHOAL_METRICS"}, Usage: "also serve metrics for Prometheus and the probes /healthz and /readyz at `HOST:PORT`, without a key and without the API, for other machines, too (default: only at the API's address)"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "api-host", EnvVars: []string{"SHOAL_API_HOST"}, Usage: "accept API requests for host `NAME`, such as a proxy's, in addition to localhost and the addresses it listens on; may be repeated; *: any name, for programs only: browsers stay refused, since any site can point its own name at this machine (list names to allow browsers); *.NAME: every name below NAME"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "api-origin", EnvVars: []string{"SHOAL_API_ORIGIN"}, Usage: "let web pages from `ORIGIN` use the API, such as https://chat.example; may be repeated; * stands for any host, a part of one or a port: chrome-extension://*, https://*.example.com, http://localhost:*"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "tls", EnvVars: []string{"SHOAL_TLS"}, Usage: "encrypt the API for other machines, with a self-signed certificate that is kept in the home"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "tls-cert", EnvVars: []string{"SHOAL_TLS_CERT"}, Usage: "use the certificate in this PEM `FILE` instead, which is read again when it changes"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "tls-key", EnvVars: []string{"SHOAL_TLS_KEY"}, Usage: "PEM `FILE` with the key of --tls-cert"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "memory", EnvVars: []string{"SHOAL_MEMORY"}, Usage: "memory to lend, such as 8GiB (default: half of the machine's)"}),
		altsrc.NewIntFlag(&cli.IntFlag{Name: "threads", EnvVars: []string{"SHOAL_THREADS"}, Usage: "threads to lend; 0: as many as make it faster, measured continually"}),
		altsrc.NewIntFlag(&cli.IntFlag{Name: "nice", Value: 5, EnvVars: []string{"SHOAL_NICE"}, Usage: "priority of the engine below other programs, from 0 (equal) to 19 (lowest), as in nice(1)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "kv", Value: "f16", EnvVars: []string{"SHOAL_KV"}, Usage: "number format of the KV cache: f16 or f32"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "exact", EnvVars: []string{"SHOAL_EXACT"}, Usage: exactUsage}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "engine", Value: serve.Auto, EnvVars: []string{"SHOAL_ENGINE"}, Usage: engineUsage}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "llama", EnvVars: []string{"SHOAL_LLAMA"}, Usage: libraryUsage}),
		altsrc.NewIntFlag(&cli.IntFlag{Name: "kv-tokens", EnvVars: []string{"SHOAL_KV_TOKENS"}, Usage: "KV cells per span (default: derived from --memory)"}),
		altsrc.NewIntFlag(&cli.IntFlag{Name: "max-sessions", Value: 32, EnvVars: []string{"SHOAL_MAX_SESSIONS"}, Usage: "concurrent sessions, at most"}),
		altsrc.NewDurationFlag(&cli.DurationFlag{Name: "unload-after", EnvVars: []string{"SHOAL_UNLOAD_AFTER"}, Usage: "unload models that nobody has used for this long, such as 10m, and give all their memory back; the next prompt loads them again, and waits for that; 0: never"}),
		altsrc.NewDurationFlag(&cli.DurationFlag{Name: "drain-time", Value: 30 * time.Second, EnvVars: []string{"SHOAL_DRAIN_TIME"}, Usage: "time for running sessions to move to other nodes when this one leaves"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "device", EnvVars: []string{"SHOAL_DEVICE"}, Usage: "use GPU `NAME`, as status prints it, or none to use no GPU; may be repeated (default: all that are found)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "pause", EnvVars: []string{"SHOAL_PAUSE"}, Usage: "do not lend: on, or until a `TIME` such as 2026-12-01T10:00 (default: off)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "lend-hours", EnvVars: []string{"SHOAL_LEND_HOURS"}, Usage: "local times at which to lend, such as \"22:00-07:00\" or \"mon-fri 20:00-08:00, sat-sun\" (default: always)"}),
		altsrc.NewStringSliceFlag(&cli.StringSliceFlag{Name: "lend", EnvVars: []string{"SHOAL_LEND"}, Usage: "who may have what, as a `RULE` such as \"strangers: share 20%; sessions 2\", \"swarm lab: models llama*; hours 22:00-07:00\" or \"guests: nothing\"; may be repeated; `shoal policy` explains and tests them (default: members and trusted nodes share all, strangers a fifth of it)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "pause-load", Value: fmt.Sprintf("%.0f%%", 100*lend.DefaultPauseLoad), EnvVars: []string{"SHOAL_PAUSE_LOAD"}, Usage: "pause while other programs use this `PART` of the machine's cores, such as 40% or 0.4; 0: never"}),
		altsrc.NewBoolFlag(&cli.BoolFlag{Name: "lend-on-battery", EnvVars: []string{"SHOAL_LEND_ON_BATTERY"}, Usage: "keep lending while the machine runs on battery"}),
		altsrc.NewDurationFlag(&cli.DurationFlag{Name: "resume-after", Value: lend.DefaultResume, EnvVars: []string{"SHOAL_RESUME_AFTER"}, Usage: "lend again once other programs have been idle, or mains power back, for this long"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "quota", EnvVars: []string{"SHOAL_QUOTA"}, Usage: "disk space for models that are not pinned, such as 50GiB (default: no limit)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "up", EnvVars: []string{"SHOAL_UP"}, Usage: "upload models to peers at no more than `RATE`, such as 20mbit or 2MiB per second (default: no limit)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "down", EnvVars: []string{"SHOAL_DOWN"}, Usage: "fetch models at no more than `RATE`, such as 100mbit or 12MiB per second (default: no limit)"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "wire", Value: "f32", EnvVars: []string{"SHOAL_WIRE"}, Usage: "number format of activations on the wire, for this node's own sessions: f32 (exact), f16, q8_0, or auto: f32, but prompts in f16 or q8_0 over links that would keep the slowest stage waiting"}),
		altsrc.NewStringFlag(&cli.StringFlag{Name: "draft", Value: serve.Auto, EnvVars: []string{"SHOAL_DRAFT"}, Usage: "let a small model guess tokens for a large one of which this node has the first blocks, where answers come faster by it; answers stay the same: auto (the smallest model that is whole on this disk, has the same vocabulary and at most a quarter of the weights), off, or `MODEL`"}),
		logSettings()[0], logSettings()[1],
		&cli.BoolFlag{Name: "json-events", Usage: "print events as JSON, one object per line"},
	}, networkFlags()...)
}

func nodeCommand() *cli.Command {
	flags := nodeFlags()
	var settings []setting
	return &cli.Command{
		Name: "node", Aliases: []string{"serve"}, Usage: "run a node: lend this machine, and answer through the local API", Flags: flags,
		Description: "It prints the address of its page first: open that in a browser. Without --model it lends nothing, but still answers through its page and API. For example:\n\n" +
			"shoal node --model smollm2 --memory 8GiB\n\n" +
			"Its first start founds a private swarm for you: only your own machines and those you let in use each other (`shoal invite`). With --open, strangers do, too.\n" +
			"Every flag except --config and --json-events can also be set in config.toml in the home, as in: memory = \"8GiB\"\n" +
			"`shoal config` prints the settings in effect and where each comes from; with --reference, a file to start from.",
		Before: func(c *cli.Context) (err error) {
			if err = inheritLogs(c); err != nil {
				return err
			}
			if settings, err = settingsNow(c, flags); err != nil {
				return err
			}
			return setLogs(c.String("log-level"), c.String("log-format"), c.App.ErrWriter)
		},
		Action: func(c *cli.Context) error { return runNode(c, settings) },
	}
}

// joinConfig reads the settings that a node and a light client share.
func joinConfig(c *cli.Context) (node.Config, error) {
	cfg := node.Config{
		Home: c.String("home"), Version: version, Bootstrap: splitList(c.StringSlice("bootstrap")), Relays: splitList(c.StringSlice("relay")), NoMDNS: c.Bool("no-mdns"), OTLP: c.String("otlp"), Log: slog.Default(),
		Trust: splitList(c.StringSlice("trust")), Fastest: c.Bool("fastest"), Ahead: c.String("ahead"),
		Catalogs: splitList(c.StringSlice("catalog")), CatalogKeys: splitList(c.StringSlice("catalog-key")),
	}
	p, err := link.ParseString(c.String("link"))
	if err != nil {
		return cfg, usageError{err.Error()}
	}
	cfg.Network = p.SocketOptions()
	cfg.Use, err = policy.ParseUse(listOf("use", c.StringSlice("use")))
	if err != nil {
		return cfg, usageError{"--use: " + err.Error()}
	}
	return cfg, nil
}

// nodeConfig reads a node's settings.
func nodeConfig(c *cli.Context) (node.Config, error) {
	cfg, err := joinConfig(c)
	if err != nil {
		return cfg, err
	}
	if err := checkLogs(c.String("log-level"), c.String("log-format")); err != nil {
		return cfg, err
	}
	cfg.Name = c.String("name")
	cfg.ListenPort, cfg.ListenAddrs = c.Int("listen-port"), splitList(c.StringSlice("listen"))
	cfg.Public, cfg.NoRelay = c.Bool("public"), c.Bool("no-relay")
	if cfg.API = hostPort(c.String("api")); cfg.API == "off" {
		cfg.API = ""
	}
	if cfg.APIKey, err = keyOf(c); err != nil {
		return cfg, err
	}
	cfg.APIOpen, cfg.Metrics = c.Bool("api-open"), c.String("metrics")
	cfg.TLSCert, cfg.TLSKey = c.String("tls-cert"), c.String("tls-key")
	cfg.TLS = c.Bool("tls") || cfg.TLSCert != ""
	cfg.Threads, cfg.Nice, cfg.KVType = c.Int("threads"), c.Int("nice"), c.String("kv")
	cfg.APIHosts, cfg.APIOrigins = splitList(c.StringSlice("api-host")), splitList(c.StringSlice("api-origin"))
	cfg.Exact, cfg.Engines = c.Bool("exact"), enginesOf(c, cfg.Home)
	cfg.Engines.Draft = c.String("draft")
	cfg.KVTokens, cfg.MaxSessions, cfg.Devices, cfg.Wire = c.Int("kv-tokens"), c.Int("max-sessions"), splitList(c.StringSlice("device")), c.String("wire")
	if cfg.UnloadAfter = c.Duration("unload-after"); cfg.UnloadAfter < 0 {
		return cfg, usageError{"--unload-after must not be negative"}
	}
	if cfg.DrainTime = c.Duration("drain-time"); cfg.DrainTime <= 0 {
		return cfg, usageError{"--drain-time must be positive"}
	}
	if cfg.Memory, err = parseSize("--memory", c.String("memory")); err != nil {
		return cfg, err
	}
	if cfg.Quota, err = parseSize("--quota", c.String("quota")); err != nil {
		return cfg, err
	}
	if cfg.Up, err = parseRate("--up", c.String("up")); err != nil {
		return cfg, err
	}
	if cfg.Down, err = parseRate("--down", c.String("down")); err != nil {
		return cfg, err
	}
	if cfg.Lend, err = lendRules(c); err != nil {
		return cfg, err
	}
	if cfg.Policy, err = policy.Parse(listOf("lend", c.StringSlice("lend"))); err != nil {
		return cfg, usageError{"--lend: " + err.Error()}
	}
	if _, _, err := (node.ServeSpec{Span: c.String("span")}).Parse(); err != nil {
		return cfg, usageError{"--span: " + err.Error()}
	}
	for _, m := range splitList(c.StringSlice("model")) {
		cfg.Serve = append(cfg.Serve, node.ServeSpec{Model: m, Span: c.String("span")})
	}
	return cfg, nil
}

// hostPort takes a port alone for one of this machine.
func hostPort(s string) string {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < 1<<16 {
		return net.JoinHostPort("127.0.0.1", s)
	}
	return s
}

func runNode(c *cli.Context, settings []setting) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cfg, err := nodeConfig(c)
	if err != nil {
		return err
	}
	say := newNarrator(c.App.ErrWriter, len(cfg.Serve) > 0)
	defer say.close()
	cfg.Events = say.event
	if c.Bool("json-events") {
		cfg.Events = jsonEvents(c.App.Writer)
	}
	own := newOwnSettings(c, settings, cfg.APIKey)
	cfg.Settings = own
	events := cfg.Events
	manager := newManager(cfg)
	cfg.Events = manager.watch(cfg.Events)
	start, err := begin(&cfg, choiceOf(c), true, c.App.ErrWriter)
	if err != nil {
		return err
	}
	n, err := newNode(cfg)
	if err != nil {
		return err
	}
	if s := start.Founded; s != nil {
		events(node.Event{Event: "founded", Name: s.Name(), Peer: s.Self().String()})
	}
	own.bind(n.Adjust)
	s, err := n.Client().Status(c.Context)
	if err == nil {
		say.in(networksText(s.Networks, s.Light), startNotes(&cfg, start), start)
	}
	if err == nil && s.APIClosed {
		fmt.Fprintf(c.App.ErrWriter, "the API at %s has no key yet, so callers on other machines are refused: `shoal key add NAME` makes one, and --api-open admits everyone\n", cfg.API)
	}
	say.watch(n.Client())
	stop := manager.tell(n.Client())
	joined := watchJoin(c.Context, n, namesFellows(start.Book, events))
	err = n.Run(c.Context)
	joined()
	stop()
	if cerr := n.Close(); err == nil {
		err = cerr
	}
	return err
}

// lendRules reads the rules of when to lend. How much is set by memory, threads and
// devices.
func lendRules(c *cli.Context) (r lend.Rules, err error) {
	if r.Pause, err = lend.ParsePause(c.String("pause")); err != nil {
		return r, usageError{"--pause: " + err.Error()}
	}
	if r.Hours, err = lend.ParseHours(c.String("lend-hours")); err != nil {
		return r, usageError{"--lend-hours: " + err.Error()}
	}
	if r.PauseLoad, err = lend.ParseLoad(c.String("pause-load")); err != nil {
		return r, usageError{"--pause-load: " + err.Error()}
	}
	r.OnBattery = c.Bool("lend-on-battery")
	if r.Resume = c.Duration("resume-after"); r.Resume <= 0 {
		return r, usageError{"--resume-after must be positive"}
	}
	return r, nil
}

// printedEvent is an event as scripts get it: only those about a span name its blocks.
type printedEvent struct {
	Time string `json:"time"` // RFC 3339, UTC
	node.Event
	From *int `json:"from,omitempty"`
	To   *int `json:"to,omitempty"`
}

func jsonEvents(w io.Writer) func(node.Event) {
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	return func(e node.Event) {
		out := printedEvent{Time: time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), Event: e}
		if e.To > 0 {
			out.From, out.To = &e.From, &e.To
		}
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(out)
	}
}

// bootstrapAddrs picks the addresses to show to people, one for this machine and one
// for elsewhere: QUIC over IPv4 if there is one.
func bootstrapAddrs(addrs []string) (here, there string) {
	better := func(old, a string) bool {
		rank := func(s string) (n int) {
			if strings.Contains(s, "/quic-v1") {
				n++
			}
			if strings.HasPrefix(s, "/ip4/") {
				n += 2
			}
			return n
		}
		return old == "" || rank(a) > rank(old)
	}
	for _, a := range addrs {
		to := &there
		if strings.HasPrefix(a, "/ip4/127.") || strings.HasPrefix(a, "/ip6/::1/") {
			to = &here
		}
		if better(*to, a) {
			*to = a
		}
	}
	return here, there
}

// parseRate reads bits per second (100mbit) or bytes per second (12MiB, 12MiB/s) and
// returns bytes per second; 0: no limit.
func parseRate(flag, s string) (int64, error) {
	low := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s)), "/s")
	if low == "" || low == "0" || low == "unlimited" {
		return 0, nil
	}
	bad := usageError{fmt.Sprintf("%s %q: write a rate per second, like 100mbit or 12MiB", flag, s)}
	if strings.HasSuffix(low, "bit") || strings.HasSuffix(low, "bps") {
		p, err := link.Parse("", low, "")
		if err != nil || p.Rate < 8*minRate {
			return 0, bad
		}
		return int64(p.Rate / 8), nil
	}
	n, err := parseSize(flag, low)
	if err != nil || n < minRate {
		return 0, bad
	}
	return n, nil
}

// minRate is the lowest limit for model transfers, in bytes per second: a leaf must
// still arrive within a few minutes.
const minRate = 4 << 10

// parseSize reads 512MiB, 8GB, 1.5GiB, or plain bytes.
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	units := []struct {
		suffix string
		n      float64
	}{
		{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40}, {"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
		{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1}, {"", 1},
	}
	low := strings.ToLower(strings.TrimSpace(s))
	for _, u := range units {
		if num, ok := strings.CutSuffix(low, u.suffix); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
			if err != nil || v <= 0 || v*u.n > 1<<60 {
				break
			}
			return int64(v * u.n), nil
		}
	}
	return 0, usageError{fmt.Sprintf("%s %q: write a size like 512MiB or 8GiB", flag, s)}
}
