package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/urfave/cli/v2"
	"github.com/urfave/cli/v2/altsrc"

	"github.com/shoalnet/shoal/cmd/shoal/doctor"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/keys"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/node/text"
)

func doctorCommand() *cli.Command {
	settings := nodeFlags()
	for _, f := range settings { // `shoal node --help` explains them
		hide(f)
	}
	return &cli.Command{
		Name: "doctor", Usage: "find out what is wrong with this node, and what to type",
		Description: "Examines the home, the machine, the node if one is running, and the network, and changes nothing.\n" +
			"It also takes the flags of `shoal node`, and then reports what a node with those flags would run into.\n" +
			"The exit code is 0 if nothing is wrong (warnings do not count), else 1.",
		Flags: append([]cli.Flag{
			homeFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "deep", Usage: "check everything on disk against its hashes, not only a part"},
			&cli.BoolFlag{Name: "offline", Usage: "do not look for peers if no node is running"},
			&cli.StringFlag{Name: "sysroot", Value: "/", Hidden: true, Usage: "root of the system's files, for tests"},
		}, settings[1:]...),
		Action: func(c *cli.Context) error { return runDoctor(c, settings) },
	}
}

// hide leaves a flag out of the help.
func hide(f cli.Flag) {
	switch f := f.(type) {
	case *altsrc.StringFlag:
		f.Hidden = true
	case *altsrc.BoolFlag:
		f.Hidden = true
	case *altsrc.IntFlag:
		f.Hidden = true
	case *altsrc.DurationFlag:
		f.Hidden = true
	case *altsrc.StringSliceFlag:
		f.Hidden = true
	case *cli.StringFlag:
		f.Hidden = true
	case *cli.BoolFlag:
		f.Hidden = true
	}
}

func runDoctor(c *cli.Context, settings []cli.Flag) error {
	if err := noArgs(c); err != nil {
		return err
	}
	f, err := gather(c, settings)
	if err != nil {
		return err
	}
	found := doctor.Examine(f)
	if c.Bool("json") {
		err = printJSON(c.App.Writer, found)
	} else {
		err = printFindings(c.App.Writer, found)
	}
	if err == nil && doctor.Worst(found) == doctor.Bad {
		return status(1)
	}
	return err
}

// printFindings prints each finding, and below it what to type.
func printFindings(w io.Writer, found []doctor.Finding) error {
	marks := map[doctor.State]string{doctor.OK: "ok  ", doctor.Warn: "warn", doctor.Bad: "BAD "}
	if isTerminal(w) {
		marks = map[doctor.State]string{doctor.OK: "\x1b[32mok  \x1b[0m", doctor.Warn: "\x1b[33mwarn\x1b[0m", doctor.Bad: "\x1b[1;31mBAD \x1b[0m"}
	}
	count, indent, width := map[doctor.State]int{}, strings.Repeat(" ", 16), columns(w)
	for _, v := range found {
		count[v.State]++
		fmt.Fprintf(w, "%s  %-8s  %s\n", marks[v.State], v.Check, strings.TrimPrefix(wrapped(indent+cell(v.What), indent, width), indent))
		if v.Fix != "" {
			fmt.Fprintln(w, wrapped(indent+"→ "+cell(v.Fix), indent+"  ", width))
		}
	}
	switch {
	case count[doctor.Bad] > 0:
		_, err := fmt.Fprintf(w, "\n%d wrong, %d to look at; arrows show what to type\n", count[doctor.Bad], count[doctor.Warn])
		return err
	case count[doctor.Warn] > 0:
		_, err := fmt.Fprintf(w, "\nnothing is wrong, %d to look at\n", count[doctor.Warn])
		return err
	}
	_, err := fmt.Fprintln(w, "\nall is right")
	return err
}

// leavesChecked is how many bytes of the store are read without --deep, in about a second.
const leavesChecked = 512 << 20

// gather collects all facts.
func gather(c *cli.Context, settings []cli.Flag) (*doctor.Facts, error) {
	dir := c.String("home")
	say := func(format string, args ...any) {
		if w := c.App.ErrWriter; isTerminal(w) {
			fmt.Fprintf(w, "\r\x1b[K"+format, args...)
		}
	}
	defer say("")
	f := &doctor.Facts{Program: os.Args[0], Version: version, Slow: ggml.BuiltForThisMachine(), Now: time.Now(), Built: builtAt()}
	say("looking at this machine ...")
	f.Machine = doctor.Look(c.String("sysroot"), ggml.LibraryDirs())
	f.Home = doctor.LookHome(dir, func(path string) error {
		_, err := network.LoadKey(path)
		return err
	})
	f.Home.Default = dir == defaultHome() || dir == os.Getenv("SHOAL_HOME")
	cfg := settingsOf(c, settings, f)
	if err := modelsOf(c, f, cfg.Serve, say); err != nil {
		return nil, err
	}
	say("trying llama.cpp's library ...")
	if err := libraryOf(c, f); err != nil {
		return nil, err
	}
	f.Daemon = wordOf(dir)
	// The process is that node only if it holds the store's lock: the ID may have been
	// reused.
	f.Daemon.Alive = f.Daemon.Alive && f.Home.Locked && (f.Home.Lock.PID == 0 || f.Home.Lock.PID == f.Daemon.PID)
	st, err := foresee(c)
	if err == nil {
		f.Who, f.Kept = foreseenText(&st), st.Kept
		for _, err := range st.Broken {
			f.Broken = append(f.Broken, err.Error())
		}
	}
	cl := running(c.Context, dir)
	if cl != nil {
		f.Daemon.Answers = true
	} else {
		if f.Daemon.Alive {
			f.Daemon.Code = refusal(c.Context, f.Daemon)
		}
		listeners(f, cfg)
		if !c.Bool("offline") && f.Config.Err == "" && err == nil {
			say("looking for peers ...")
			var done func()
			if cl, done = lookAround(c, cfg, &st); cl != nil {
				defer done()
			}
		}
	}
	if cl == nil {
		return f, c.Context.Err()
	}
	say("asking the node ...")
	if f.Status, err = cl.Status(c.Context); err != nil {
		return nil, err
	}
	if f.Daemon.Answers {
		f.Who, f.Kept = networksText(f.Status.Networks, f.Status.Light), f.Kept && f.Status.Open
	}
	if f.Health, err = cl.Health(c.Context); err != nil {
		return nil, err
	}
	f.Peers, err = cl.Peers(c.Context)
	return f, err
}

// settingsOf reads the settings as a node would, and notes what is wrong with them.
func settingsOf(c *cli.Context, settings []cli.Flag, f *doctor.Facts) node.Config {
	cc := &f.Config
	cc.File, cc.Present = configFile(c)
	err := loadConfig(c, settings)
	var cfg node.Config
	if err == nil {
		if cfg, err = nodeConfig(c); err == nil {
			err = cfg.Check()
		}
		if err == nil {
			_, err = network.ParsePeers(cfg.Bootstrap)
		}
		cc.Keys, _ = readSettings(cc.File)
	}
	if err != nil {
		blame(cc, err)
	}
	cc.NoKey = err == nil && cfg.Exposed() && !cfg.APIOpen && cfg.APIKey == "" && !anyKey(f.Home.Dir)
	cc.API, cc.APIKey, cc.Memory, cc.Quota, cc.NoMDNS, cc.Bootstrap = cfg.API, cfg.APIKey != "", cfg.Memory, cfg.Quota, cfg.NoMDNS, cfg.Bootstrap
	cc.Engine, cc.LlamaDir = c.String("engine"), cmp.Or(c.String("llama"), os.Getenv(llama.Variable))
	return cfg
}

// blame records which setting an error is about, and where it is set.
func blame(cc *doctor.Config, err error) {
	cc.Err = err.Error()
	var e *settingError
	if errors.As(err, &e) {
		cc.Line, cc.Key, cc.Near = e.line, e.key, e.near
		return
	}
	if cc.Key = settingOf(err); cc.Key == "" {
		cc.Err = withRemedy(err)
		return
	}
	if cc.Line = lineOf(cc.File, cc.Key); cc.Line > 0 {
		cc.Err = fmt.Sprintf("the configuration file %s, line %d: %s", cc.File, cc.Line, cc.Err)
		return
	}
	if env := "SHOAL_" + strings.ToUpper(strings.ReplaceAll(cc.Key, "-", "_")); os.Getenv(env) != "" {
		cc.Env = env
	}
}

// settingOf returns the setting that an error names: in its remedy or, as errors of the
// command line do, by its flag. "" if none.
func settingOf(err error) string {
	if errors.Is(err, network.ErrAddress) {
		return "bootstrap"
	}
	for r := remedy.Of(err); r != nil; r = remedy.Of(r.Err) {
		if r.Kind == remedy.Setting && len(r.Args) > 0 {
			return r.Args[0]
		}
	}
	flag, ok := strings.CutPrefix(err.Error(), "--")
	if !ok {
		return ""
	}
	if end := strings.IndexAny(flag, " :"); end > 0 {
		flag = flag[:end]
	}
	return flag
}

// anyKey reports whether a home has a key for callers of the API.
func anyKey(dir string) bool {
	b, err := keys.Open(home.Home(dir).Keys(), slog.Default(), nil)
	return err == nil && b.Any()
}

// modelsOf checks the models on disk.
func modelsOf(c *cli.Context, f *doctor.Facts, serve []node.ServeSpec, say func(string, ...any)) error {
	limit := int64(leavesChecked)
	if c.Bool("deep") {
		limit = 0
	}
	found, err := store.Inspect(c.Context, home.Home(f.Home.Dir).Store(), limit, func(done, total int64) {
		say("checking models: %s of %s", bytesText(done), bytesText(total))
	})
	if c.Context.Err() != nil {
		return c.Context.Err()
	}
	if err != nil && len(found) == 0 {
		return nil //nolint:nilerr // the check of the home reports why it cannot be read
	}
	for _, m := range found {
		wanted := slices.ContainsFunc(serve, func(s node.ServeSpec) bool { return m.Matches(s.Model) })
		v := doctor.Model{ID: m.ID, Name: m.Name, Held: m.Held, Pinned: m.Pinned, Wanted: wanted, Blocks: m.Blocks, Damaged: m.Damaged, Leaves: m.Leaves}
		if m.Err != nil {
			v.Err = m.Err.Error()
		}
		if m.Header != nil {
			v.Doubts = text.Doubts(m.Header)
			if err := engine.Check(m.Header); err != nil && engine.Plausible(m.Header) == nil {
				v.Foreign = err.Error()
			}
		}
		f.Models = append(f.Models, v)
	}
	return nil
}

// libraryOf tries the library that nodes with these settings open.
func libraryOf(c *cli.Context, f *doctor.Facts) error {
	here := enginesHere(f.Config.LlamaDir, f.Home.Dir)
	if len(here) < 2 {
		return nil
	}
	t, err := newTiny(c.Context)
	if err != nil {
		return nil //nolint:nilerr // the disk is full, which another check reports
	}
	defer t.close()
	p := &here[1]
	_ = t.probe(c.Context, p, nil)
	f.Library = doctor.Library{Dir: p.Dir, Version: p.Version, Why: p.Why, Variant: p.Variant, Backends: p.Has}
	return c.Context.Err()
}

// wordOf reads what a daemon has written about itself in its home.
func wordOf(dir string) (d doctor.Daemon) {
	word, err := node.ReadWord(dir)
	if os.IsNotExist(err) {
		return d
	}
	d.Word = err == nil
	d.API, d.Socket, d.PID = word.API, word.Socket, word.PID
	d.Alive = proc.Alive(word.PID)
	return d
}

// refusal returns the HTTP status of a node's answer to a request without its token; 0:
// it does not answer.
func refusal(ctx context.Context, d doctor.Daemon) int {
	ask := func(cl *api.Client) int {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cl.Base+"/shoal/v1/status", nil)
		if err != nil {
			return 0
		}
		resp, err := cmp.Or(cl.HTTP, http.DefaultClient).Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	code := 0
	if d.Socket != "" {
		code = ask(api.Unix(d.Socket, ""))
	}
	if code == 0 && d.API != "" {
		code = ask(&api.Client{Base: "http://" + d.API})
	}
	return code
}

// listeners tests the addresses that a node will listen on.
func listeners(f *doctor.Facts, cfg node.Config) {
	if cfg.API != "" {
		f.API = doctor.TryListen("tcp", cfg.API)
	}
	add := func(l doctor.Listener, flag string, kept bool) {
		l.Flag, l.Kept = flag, kept
		f.Ports = append(f.Ports, l)
	}
	for _, s := range cfg.ListenAddrs {
		if a, err := multiaddr.NewMultiaddr(s); err == nil {
			a, _ := multiaddr.SplitFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_QUIC_V1 })
			if network, addr, err := manet.DialArgs(a); err == nil {
				add(doctor.TryListen(network[:3], addr), "listen", false)
			}
		}
	}
	port, kept := cfg.ListenPort, false
	if raw, err := os.ReadFile(filepath.Join(f.Home.Dir, "port")); err == nil && port == 0 {
		port, _ = strconv.Atoi(strings.TrimSpace(string(raw)))
		kept = true
	}
	if port > 0 && port < 65536 && len(cfg.ListenAddrs) == 0 {
		for _, network := range []string{"udp", "tcp"} {
			add(doctor.TryListen(network, net.JoinHostPort("0.0.0.0", strconv.Itoa(port))), "listen-port", kept)
		}
	}
}

// lookTime is how long to look for peers if no node is running.
const lookTime = 4 * time.Second

// lookAround joins the networks in which the home's next start begins, as a light client
// in a directory of its own, with the peers that this home knows. The directory is in the
// home, since it has the keys of its swarms for a moment.
func lookAround(c *cli.Context, cfg node.Config, st *swarm.Start) (*api.Client, func()) {
	in := cfg.Home
	if len(st.Book.Swarms()) == 0 { // nothing of it is secret, and the home may not exist yet
		in = ""
	}
	dir, err := os.MkdirTemp(in, ".shoal-doctor-")
	if err != nil {
		return nil, nil
	}
	gone := func() { _ = os.RemoveAll(dir) }
	if raw, err := os.ReadFile(filepath.Join(cfg.Home, "peers.json")); err == nil {
		_ = os.WriteFile(filepath.Join(dir, "peers.json"), raw, 0o600)
	}
	look := node.Config{Home: dir, Version: version, Client: true, Bootstrap: cfg.Bootstrap, NoMDNS: cfg.NoMDNS, Network: cfg.Network, Private: st.Private}
	for _, s := range st.Book.Swarms() {
		if err := s.Copy(dir); err != nil {
			gone()
			return nil, nil
		}
	}
	if look.Swarms, _, err = swarm.Open(swarm.Config{Home: dir}); err != nil {
		gone()
		return nil, nil
	}
	if len(cfg.ListenAddrs) > 0 && !slices.ContainsFunc(cfg.ListenAddrs, func(a string) bool { return !strings.HasPrefix(a, "/ip4/127.") }) {
		look.ListenAddrs = loopbackAddrs() // a node that stays on this machine
	}
	n, err := newNode(look)
	if err != nil {
		gone()
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(c.Context, lookTime)
	defer cancel()
	if n.WaitPeers(ctx) == nil {
		select { // for offers to arrive
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return n.Client(), func() {
		_ = n.Close()
		gone()
	}
}

// builtAt returns when this program's source was last changed; zero if not known.
func builtAt() time.Time {
	if t, err := time.Parse(time.DateOnly, date); err == nil {
		return t
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t
		}
	}
	return time.Time{}
}
