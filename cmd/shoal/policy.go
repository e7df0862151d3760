package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/lending"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol/member"
)

func policyCommand() *cli.Command {
	flags := append(configFlags()[:2:2], &cli.StringFlag{Name: "config", EnvVars: []string{"SHOAL_CONFIG"}, Usage: "the file with the rules, if no node is running (default: config.toml in the home)"})
	return &cli.Command{
		Name: "policy", Usage: "list and test the rules of who may have what of this machine, and whose machines your prompts go to",
		Description: "Rules are settings, `lend` and `use`. For example, in config.toml in the home:\n\n" +
			"lend = [\n" +
			"  \"strangers: share 20%; sessions 2; models smollm2* tiny*; hours 22:00-07:00\",\n" +
			"  \"swarm lab role serve: share 100%\",\n" +
			"  \"guests of anna: share 10%; tokens 100000/day\",\n" +
			"]\n" +
			"use = [\"swarm\", \"llama*: mine\"]\n\n" +
			"Who: anybody, strangers, members, guests, guests of NAME, trusted, swarm NAME, swarm NAME role ROLE, peer ID.\n" +
			"What, with semicolons: nothing; share PART of the machine's time and room while others want them (default 100%); cap PART at any time; models NAMES; context N tokens per session; sessions N at once; tokens N/day, /hour or /minute; hours TIMES.\n" +
			"Of the rules about a peer only the most specific count, and of those the first that fits. Your own prompts are subject to none.",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list the rules in effect", Flags: flags, Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				return withPolicies(c, func(p api.Policies) error { return listPolicy(c, p) })
			}},
			{
				Name: "test", Usage: "print what somebody may have, and which rule says so",
				Description: "For example:\n\n" +
					"shoal policy test --as strangers --model llama3.2:3b\n" +
					"shoal policy test --as lab/serve",
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "as", Required: true, Usage: "`WHO`: a peer's ID, a member's machine, SWARM or SWARM/ROLE, strangers, members, guests, guests of NAME, or trusted"},
					&cli.StringFlag{Name: "model", Usage: "for this `MODEL` (default: any)"},
					&cli.StringFlag{Name: "at", Usage: "at this `TIME`, such as 2026-12-01T23:30 (default: now)"},
				}, flags...),
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					t := api.PolicyTest{As: c.String("as"), Model: c.String("model")}
					if s := c.String("at"); s != "" {
						at, err := time.ParseInLocation("2006-01-02T15:04", s, time.Local)
						if err != nil {
							return usageError{fmt.Sprintf("--at %q: write a time like 2026-12-01T23:30", s)}
						}
						t.At = &at
					}
					return withPolicies(c, func(p api.Policies) error { return testPolicy(c, p, t) })
				},
			},
		},
	}
}

// withPolicies calls do with the rules of the home: those of the running node if there is
// one, or else those of the file.
func withPolicies(c *cli.Context, do func(api.Policies) error) error {
	if cl := running(c.Context, c.String("home")); cl != nil {
		if err := do(cl); err != nil || c.Bool("json") {
			return err
		}
		if st, err := cl.Status(c.Context); err == nil && !st.Open {
			fmt.Fprintln(c.App.Writer, "No stranger can connect: this node is not in the open network.")
		}
		return nil
	}
	o, err := fileSettings(c)
	if err != nil {
		return err
	}
	var cfg node.Config
	path := o.path
	if !fileExists(path) {
		path = os.DevNull
	}
	if cfg, _, err = o.read(path); err != nil {
		return err
	}
	h := home.Home(c.String("home"))
	book, broken, err := swarm.Look(swarm.Config{Home: string(h), Log: slog.Default()})
	if err != nil {
		return err
	}
	for _, err := range broken {
		remark(c.App.ErrWriter, "shoal: warning: "+err.Error())
	}
	at := atRest{book: book}
	if fileExists(h.Key()) { // else it would be made
		if key, err := network.LoadKey(h.Key()); err == nil {
			at.self, _ = peer.IDFromPrivateKey(key)
		}
	}
	trusted := func(p peer.ID) bool {
		for _, t := range cfg.Trust {
			if t == p.String() {
				return true
			}
		}
		return at.Own(p)
	}
	called, err := namesAtRest(string(h), cfg)
	if err != nil {
		return err
	}
	desk := lending.New(lending.Config{Network: at, Trusted: trusted, Names: func(cid.Cid) []string { return nil }}, lending.Rules{Lend: cfg.Policy, Use: cfg.Use})
	return do(lending.Owner{Desk: desk, Known: swarm.Owned(book), Find: called})
}

// namesAtRest returns what resolves the names of models in a home whose node does not run, as
// that would without its peers.
func namesAtRest(dir string, cfg node.Config) (func(string) []string, error) {
	c, err := library.LookCatalog(dir, cfg.Catalogs, cfg.CatalogKeys)
	if err != nil {
		return nil, err
	}
	return library.LookCalled(dir, c)
}

// atRest is the network of a home whose node does not run. It implements lending.Network.
type atRest struct {
	book *swarm.Book
	self peer.ID // in the open network; "": it has never been there
}

func (a atRest) Own(p peer.ID) bool {
	for _, s := range a.book.Swarms() {
		if s.Self() == p {
			return true
		}
	}
	return p == a.self
}

func (atRest) Group(p peer.ID) string                         { return p.String() }
func (atRest) Vouched(string, peer.ID) (string, member.Roles) { return "", 0 }

func listPolicy(c *cli.Context, p api.Policies) error {
	list, err := p.Policy(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, list)
	}
	w := c.App.Writer
	fmt.Fprintln(w, "Who may have what of this machine; the most specific rules about a peer count, and of those the first that fits:")
	for _, r := range list.Lend {
		note := ""
		if r.Default {
			note = "   (default)"
		}
		fmt.Fprintf(w, "  %s%s\n", cell(r.Text), note)
	}
	fmt.Fprintln(w, "Whose machines may compute your prompts:")
	if len(list.Use) == 0 {
		fmt.Fprintln(w, "  anybody   (default)")
	}
	for _, r := range list.Use {
		fmt.Fprintf(w, "  %s\n", cell(r))
	}
	return nil
}

func testPolicy(c *cli.Context, p api.Policies, t api.PolicyTest) error {
	v, err := p.TestPolicy(c.Context, t)
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Kind == api.BadInput {
		return usageError{withRemedy(err)}
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	return printVerdict(c.App.Writer, v)
}

// printVerdict prints what rules say of somebody.
func printVerdict(w io.Writer, v *api.PolicyVerdict) error {
	may := "nothing"
	if v.Allowed {
		may = grantText(v.Rule)
	}
	fmt.Fprintf(w, "%s may have: %s\n", cell(v.As), may)
	switch {
	case v.Rule == nil:
	case v.Rule.Default:
		fmt.Fprintf(w, "rule: %s   (default, as no rule is about them)\n", cell(v.Rule.Text))
	default:
		fmt.Fprintf(w, "rule: %s\n", cell(v.Rule.Text))
	}
	fmt.Fprintf(w, "why: %s\n", cell(v.Why))
	use := "yes"
	if !v.Use.Allowed {
		use = "no"
	}
	rule := "there is no rule"
	if v.Use.Rule != "" {
		rule = "rule: " + cell(v.Use.Rule)
	}
	_, err := fmt.Fprintf(w, "your prompts may go there: %s (%s)\n", use, rule)
	return err
}

// grantText is what a rule gives, in words.
func grantText(r *api.LendRule) string {
	if r == nil {
		return "everything"
	}
	parts := []string{fmt.Sprintf("a share of %.3g %%", 100*r.Share)}
	if r.Cap > 0 {
		parts = append(parts, fmt.Sprintf("at most %.3g %% of the time", 100*r.Cap))
	}
	if r.Sessions > 0 {
		parts = append(parts, count(r.Sessions, "session")+" at once")
	}
	if r.Context > 0 {
		parts = append(parts, fmt.Sprintf("%d tokens of context", r.Context))
	}
	if r.Tokens > 0 {
		parts = append(parts, fmt.Sprintf("%d tokens per %s", r.Tokens, r.Per))
	}
	if r.Hours != "" {
		parts = append(parts, "at "+r.Hours)
	}
	return cell(strings.Join(parts, ", "))
}

// listOf reads a setting that is a list, as a flag or the file has it.
func listOf(name string, values []string) []string {
	if name == "lend" { // rules have commas of their own
		return policy.Rejoin(values)
	}
	return splitList(values)
}

// checkRules returns an error that names the place of a rule in a configuration file that
// cannot be read.
func checkRules(path, name string, rules []string) (err error) {
	switch name {
	case "lend":
		_, err = policy.Parse(rules)
	case "use":
		_, err = policy.ParseUse(rules)
	}
	return ruleProblem(path, name, err)
}

// ruleProblem is an error about a rule with its place in a file; nil for nil.
func ruleProblem(path, name string, err error) error {
	var rule *policy.RuleError
	if !errors.As(err, &rule) {
		return err
	}
	e := &settingError{file: path, line: lineOf(path, name), key: name, message: name + ": " + err.Error()}
	raw, rerr := os.ReadFile(path)
	if rerr != nil {
		return e
	}
	for i, line := range strings.Split(string(raw), "\n") {
		if i+1 >= e.line && strings.Contains(line, rule.Text) {
			e.line = i + 1
			break
		}
	}
	return e
}
