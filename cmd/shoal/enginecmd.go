package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/cmd/shoal/doctor"
	"github.com/shoalnet/shoal/cmd/shoal/install"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/home"
)

// `shoal engine`: what computes here, and more of it.

func engineCommand() *cli.Command {
	library := &cli.StringFlag{Name: "llama", EnvVars: []string{"SHOAL_LLAMA"}, Usage: libraryUsage}
	return &cli.Command{
		Name: "engine", Usage: "list, install and test what computes: the built-in engine, and llama.cpp's library",
		Description: "The built-in engine needs nothing. llama.cpp's library computes many more architectures, on more devices, and often faster;\n" +
			"nodes use it where it is here and they need it or gain by it (`shoal node --engine`).",
		Action: needSubcommand,
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list the engines that are here, with versions and devices",
				Flags: []cli.Flag{library, homeFlag(), jsonFlag()}, Action: listEngines,
			},
			{
				Name: "install", Usage: "install a build of llama.cpp's library for this machine into the home",
				Description: "It fetches a package of npm's that others have built, with the version and checksum that this program has pinned, and takes the\n" +
					"libraries and the licence out of it. The registry is that of npm's settings (npm_config_registry, or `npm config get registry`).\n" +
					"Without a network: `npm pack PACKAGE` elsewhere, and --from here; the checksum is the same.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "accel", Usage: "what it computes on: cpu, cuda, vulkan or metal (default: by the GPUs that are here)"},
					&cli.StringFlag{Name: "from", Usage: "take the package from `PATH`: its .tgz file, or the folder that it lies in"},
					&cli.StringFlag{Name: "registry", EnvVars: []string{"npm_config_registry", "NPM_CONFIG_REGISTRY"}, Usage: "fetch the package from the registry at `URL` (default: npm's setting)"},
					homeFlag(), jsonFlag(),
				}, Action: installEngine,
			},
			{
				Name: "test", Usage: "compute a tiny model with each engine, and compare results and speed",
				Description: "The exit code is 0 if every engine that is here computes as the built-in one does, else 1.",
				Flags:       []cli.Flag{library, homeFlag(), jsonFlag()}, Action: testEngines,
			},
		},
	}
}

// enginesHere are the engines to look at: the built-in one, and every library.
func enginesHere(named, dir string) []probed {
	out := []probed{{Engine: engine.BuiltIn}}
	for i, lib := range llama.All(named, installedEngines(dir)...) {
		out = append(out, probed{Engine: engine.Llama, Dir: lib.Dir, Origin: lib.Origin, Chosen: i == 0})
	}
	return out
}

// probeAll fills in what engines are. What one lacks is in its entry.
func probeAll(c *cli.Context, all []probed, run func(*tiny, *probed, *engine.Child) error) error {
	t, err := newTiny(c.Context)
	if err != nil {
		return err
	}
	defer t.close()
	for i := range all {
		p := &all[i]
		stop := waitingFor(c.App.ErrWriter, "trying "+cell(strings.TrimSpace(p.Engine+" "+p.Dir)))
		_ = t.probe(c.Context, p, func(e *engine.Child) error {
			if run == nil {
				return nil
			}
			return run(t, p, e)
		})
		stop()
		if err := c.Context.Err(); err != nil {
			return err
		}
	}
	return nil
}

func listEngines(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	all := enginesHere(c.String("llama"), c.String("home"))
	if err := probeAll(c, all, nil); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, map[string]any{"engines": all})
	}
	w := newTable(c.App.Writer)
	fmt.Fprintln(w, "ENGINE\tVERSION\tDEVICES\tWHERE\tSTATE")
	for _, p := range all {
		where := "in this program"
		if p.Dir != "" {
			where = fmt.Sprintf("%s (%s)", p.Dir, p.Origin)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Engine, orDash(cell(p.Version)), orDash(cell(p.devices())), cell(where), cell(p.state()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(all) == 1 {
		remark(c.App.ErrWriter, "llama.cpp's library is not here; `shoal engine install` fetches it")
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// devices names what an engine computes on.
func (p *probed) devices() string {
	var out []string
	for _, d := range p.Devices {
		name := d.Name
		if d.Name == "CPU" && p.Variant != "" {
			name = "CPU (" + p.Variant + ")"
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

func (p *probed) state() string {
	switch {
	case !p.Usable:
		return p.Why
	case p.Engine == engine.Llama && !p.Chosen:
		return "ok; another one is taken before it"
	}
	return "ok"
}

// tested is an engine with what it computed.
type tested struct {
	probed
	Same   int     `json:"same_tokens"` // of Of
	Of     int     `json:"of_tokens"`
	Off    float64 `json:"logprobs_off"` // at most, from the built-in engine's
	Prompt float64 `json:"prompt_tokens_per_s"`
	Decode float64 `json:"tokens_per_s"`
}

func testEngines(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	all := enginesHere(c.String("llama"), c.String("home"))
	results, reference := make([]tested, len(all)), sums{}
	err := probeAll(c, all, func(t *tiny, p *probed, e *engine.Child) error {
		at := slices.IndexFunc(all, func(x probed) bool { return x.Engine == p.Engine && x.Dir == p.Dir })
		r := &results[at]
		got, err := t.computes(c.Context, e)
		if err != nil {
			return err
		}
		if p.Engine == engine.BuiltIn {
			reference = got
		}
		r.Of = tinyRows
		if r.Same, r.Off, err = got.like(reference); err != nil {
			return err
		}
		r.Prompt, r.Decode, err = speeds(c.Context, e)
		return err
	})
	if err != nil {
		return err
	}
	failed := false
	for i := range all {
		results[i].probed = all[i]
		failed = failed || !all[i].Usable
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, map[string]any{"engines": results, "ok": !failed})
	} else {
		err = printTests(c, results)
	}
	if err == nil && failed {
		return status(1)
	}
	return err
}

func printTests(c *cli.Context, results []tested) error {
	w := newTable(c.App.Writer)
	fmt.Fprintln(w, "ENGINE\tVERSION\tDEVICES\tSAME TOKENS\tLOGPROBS OFF\tPROMPT\tDECODE\tSTATE")
	for i := range results {
		r := &results[i]
		same, off, prompt, decode := "-", "-", "-", "-"
		if r.Of > 0 {
			same, off = fmt.Sprintf("%d of %d", r.Same, r.Of), fmt.Sprintf("%.4f", r.Off)
		}
		if r.Decode > 0 {
			prompt, decode = rate(r.Prompt)+" tokens/s", rate(r.Decode)+" tokens/s"
		}
		state := r.state()
		if r.Dir != "" {
			state += "; " + r.Dir
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Engine, orDash(cell(r.Version)), orDash(cell(r.devices())), same, off, prompt, decode, cell(state))
	}
	return w.Flush()
}

// installed is what `shoal engine install --json` prints.
type installed struct {
	Dir     string `json:"dir"`
	Package string `json:"package"`
	Version string `json:"version"`
	Llama   string `json:"llama"`
	Accel   string `json:"accel"`
	Licence string `json:"licence"`
	Bytes   int64  `json:"bytes"` // on disk
	Already bool   `json:"already"`
}

func installEngine(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	out, err := installBuild(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, out)
	}
	fmt.Fprintln(c.App.Writer, out)
	remark(c.App.ErrWriter, "`shoal engine test` tries it; nodes use it from the next load on")
	return nil
}

// String is what people are told.
func (i installed) String() string {
	what := "is installed"
	if i.Already {
		what = "is here already"
	}
	return fmt.Sprintf("llama.cpp %s for %s %s: %s (%s)", i.Llama, i.Accel, what, i.Dir, bytesText(i.Bytes))
}

// installBuild installs the build that the flags name, if they do, or else the one that
// fits this machine.
func installBuild(c *cli.Context) (installed, error) {
	b, err := wantedBuild(c)
	if err != nil {
		return installed{}, err
	}
	under := home.Home(c.String("home")).Engines()
	dir, already := filepath.Join(under, b.Dir()), install.There(under, b)
	if !already {
		fmt.Fprintf(c.App.ErrWriter, "installing %s; licence %s\n", b.Origin(), install.Licence)
		if dir, err = fetchBuild(c, b, under); err != nil {
			return installed{}, err
		}
	}
	n, err := install.ReadNote(dir)
	if err != nil {
		return installed{}, err
	}
	out := installed{Dir: dir, Package: n.Package, Version: n.Version, Llama: n.Llama, Accel: n.Accel, Licence: n.Licence, Already: already}
	for _, size := range n.Files {
		out.Bytes += size
	}
	return out, nil
}

// wantedBuild is the build that --accel names, or that fits this machine.
func wantedBuild(c *cli.Context) (install.Build, error) {
	switch accel := strings.ToLower(c.String("accel")); accel {
	case "":
		var wanted []string
		for _, g := range doctor.Look("/", ggml.LibraryDirs()).GPUs {
			if g.Backend == "hip" { // there is no build with it; the cards have Vulkan, too
				g.Backend = "vulkan"
			}
			wanted = append(wanted, g.Backend)
		}
		return install.Best(append(wanted, "metal", "cpu")...)
	case "cpu", "cuda", "vulkan", "metal":
		return install.For(accel)
	}
	return install.Build{}, usageError{fmt.Sprintf("--accel %q: cpu, cuda, vulkan and metal are known", c.String("accel"))}
}

// fetchBuild installs a build from --from, or from a registry.
func fetchBuild(c *cli.Context, b install.Build, under string) (dir string, err error) {
	show, end := progressLine(c.App.ErrWriter, "fetching "+b.Name()+":")
	said := time.Now()
	progress := func(done, total int64) {
		if time.Since(said) > time.Second/10 {
			said = time.Now()
			show(api.Progress{Done: done, Total: max(done, total)})
		}
	}
	defer end()
	if from := c.String("from"); from != "" {
		return install.From(from, b, under, progress)
	}
	registry := cmp.Or(c.String("registry"), os.Getenv("npm_config_registry"), os.Getenv("NPM_CONFIG_REGISTRY")) // not every command has the flag
	if registry == "" {
		registry = npmRegistry(c.Context)
	}
	byHand := fmt.Sprintf("`npm pack %s@%s` fetches the package on a machine that has npm, and `shoal engine install --from FILE` takes it from there", b.Name(), b.Version)
	if registry == "" {
		return "", fmt.Errorf("no registry is known: --registry URL or npm_config_registry names npm's public one or a mirror of it, and npm, if it were installed here, would know one. %s", byHand)
	}
	dir, err = install.Fetch(c.Context, nil, registry, b, under, progress)
	if errors.Is(err, install.ErrRegistry) && c.Context.Err() == nil {
		err = fmt.Errorf("%w. %s", err, byHand)
	}
	return dir, err
}

// npmRegistry is the address that npm, if it is installed, would fetch packages from.
func npmRegistry(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "config", "get", "registry")
	cmd.Dir = os.TempDir() // no project's settings
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	if s := strings.TrimSpace(string(out)); strings.HasPrefix(s, "http") {
		return s
	}
	return ""
}
