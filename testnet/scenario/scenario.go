package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// Kinds of faults.
const (
	Kill       = "kill"        // as a power cut would
	Stop       = "stop"        // SIGTERM: the node drains and leaves
	Hang       = "hang"        // the node's process is suspended for a time
	KillEngine = "kill-engine" // the engine crashes; the node lives
	HangEngine = "hang-engine" // the engine is suspended for a time; the node answers
	Slow       = "slow"        // the engine gets only a share of its time
	Partition  = "partition"   // no link between two groups for a time
	Join       = "join"        // one more node, which holds nothing yet
	Rejoin     = "rejoin"      // a node that is down comes back
)

// Targets other than a node's name.
const (
	Random     = "random"
	RoundRobin = "round-robin"
)

const (
	maxSessions = 256
	maxTokens   = 1 << 16
	maxFaults   = 100000
	maxDuration = 24 * time.Hour
	minEvery    = 100 * time.Millisecond
)

// Scenario is a network, its load, and what goes wrong meanwhile.
type Scenario struct {
	Name     string      // default: the file's
	About    string      // for people
	Nodes    int         // at the start
	Replicas int         // nodes per span
	Model    string      // as in testnet.Config
	Link     link.Params // between any two nodes
	NodeArgs []string    // additional arguments for `shoal node`
	Groups   []Group     // nodes that differ from the others
	Duration time.Duration
	Seed     uint64
	Exact    bool          // every text must equal the undisturbed one
	AllowGap bool          // faults may leave blocks without a server
	Settle   time.Duration // a node counts as live this long after it is ready

	Sessions Sessions
	Faults   []Fault
}

// Group is nodes with an engine of their own.
type Group struct {
	Nodes  []string // their names
	Engine string   // as the node's flag takes it; "": as the others'
	Args   []string // additional arguments for `shoal node`
}

// Engines lists the engines that the groups name, and "" for nodes outside of them.
func (s *Scenario) Engines() []string {
	of := map[string]string{}
	for _, g := range s.Groups {
		for _, n := range g.Nodes {
			of[n] = g.Engine
		}
	}
	var all []string
	for i := range s.Nodes {
		all = append(all, of[testnet.NodeName(i)])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// argsOf are the arguments of each node in a group.
func (s *Scenario) argsOf() map[string][]string {
	args := map[string][]string{}
	for _, g := range s.Groups {
		for _, n := range g.Nodes {
			if g.Engine != "" {
				args[n] = append(args[n], "--engine", g.Engine)
			}
			args[n] = append(args[n], g.Args...)
		}
	}
	return args
}

// Sessions are the load.
type Sessions struct {
	Count       int      // at once
	Prompts     []string // asked in turn
	MaxTokens   int
	Temperature float64
	Seed        uint64
}

// Fault is one kind of failure, which happens once or repeatedly.
type Fault struct {
	Kind   string
	Target string        // a node's name, Random or RoundRobin; a partition's is cut from all others
	At     time.Duration // since the faults' beginning, if Every is 0
	Every  time.Duration
	From   time.Duration // of Every: the first time
	To     time.Duration // of Every: none at or after
	For    time.Duration // how long it lasts
	Rejoin time.Duration // a killed or stopped node comes back after; < 0: it does not
	Groups [][]string    // a partition's two sides; testnet.Client may be in one
	Share  float64       // fraction of its time that a slow engine keeps
	Span   string        // of a node that joins
}

// file is the format of a scenario file.
type file struct {
	Name     string    `toml:"name"`
	About    string    `toml:"about"`
	Nodes    int       `toml:"nodes"`
	Replicas *int      `toml:"replicas"`
	Model    string    `toml:"model"`
	RTT      string    `toml:"rtt"`
	Rate     string    `toml:"rate"`
	Loss     string    `toml:"loss"`
	NodeArgs []string  `toml:"node_args"`
	Duration *duration `toml:"duration"`
	Seed     uint64    `toml:"seed"`
	Exact    *bool     `toml:"exact"`
	AllowGap bool      `toml:"allow_gap"`
	Settle   *duration `toml:"settle"`
	Sessions struct {
		Count       *int     `toml:"count"`
		Prompts     []string `toml:"prompts"`
		Distinct    *int     `toml:"distinct"`
		MaxTokens   *int     `toml:"max_tokens"`
		Temperature float64  `toml:"temperature"`
		Seed        uint64   `toml:"seed"`
	} `toml:"sessions"`
	Groups []struct {
		Nodes    []string `toml:"nodes"`
		Engine   string   `toml:"engine"`
		NodeArgs []string `toml:"node_args"`
	} `toml:"group"`
	Faults []faultLine `toml:"fault"`
}

type faultLine struct {
	Kind   string     `toml:"kind"`
	Target string     `toml:"target"`
	At     *duration  `toml:"at"`
	Every  *duration  `toml:"every"`
	From   *duration  `toml:"from"`
	To     *duration  `toml:"to"`
	For    *duration  `toml:"for"`
	Rejoin *duration  `toml:"rejoin"`
	Groups [][]string `toml:"groups"`
	Share  *float64   `toml:"share"`
	Span   string     `toml:"span"`
}

// duration is a time with its unit: a bare number would be nanoseconds.
type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	switch {
	case err != nil:
		return fmt.Errorf("%q: give a time with its unit, as in \"10s\" or \"2m\"", b)
	case v < 0 || v > maxDuration:
		return fmt.Errorf("%q: a time is at least 0 and at most %v", b, maxDuration)
	}
	*d = duration(v)
	return nil
}

// or returns a time, or a default if it is not set.
func (d *duration) or(other time.Duration) time.Duration {
	if d == nil {
		return other
	}
	return time.Duration(*d)
}

func orInt(p *int, other int) int {
	if p == nil {
		return other
	}
	return *p
}

// Load reads a scenario file. A model's path in it is relative to its directory.
func Load(path string) (*Scenario, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Name == "" {
		s.Name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	if m := s.Model; !strings.Contains(m, ":") && !filepath.IsAbs(m) && (strings.ContainsRune(m, '/') || strings.HasSuffix(m, ".gguf")) {
		s.Model = filepath.Join(filepath.Dir(path), m)
	}
	return s, nil
}

// Parse reads a scenario, and refuses unknown settings.
func Parse(b []byte) (*Scenario, error) {
	var f file
	meta, err := toml.Decode(string(b), &f)
	var syntax toml.ParseError
	if errors.As(err, &syntax) {
		return nil, fmt.Errorf("line %d: %s", syntax.Position.Line, syntax.Message)
	} else if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "toml: "))
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("there is no setting %q", unknown[0].String())
	}
	s := &Scenario{
		Name: f.Name, About: f.About, Nodes: f.Nodes, Replicas: orInt(f.Replicas, 1), Model: f.Model, NodeArgs: f.NodeArgs,
		Duration: f.Duration.or(0), Seed: f.Seed, Exact: f.Exact == nil || *f.Exact, AllowGap: f.AllowGap, Settle: f.Settle.or(0),
	}
	if s.Link, err = link.Parse(f.RTT, f.Rate, f.Loss); err != nil {
		return nil, err
	}
	for _, g := range f.Groups {
		s.Groups = append(s.Groups, Group{Nodes: g.Nodes, Engine: g.Engine, Args: g.NodeArgs})
	}
	a := f.Sessions
	s.Sessions = Sessions{
		Count: orInt(a.Count, 1), Prompts: a.Prompts, MaxTokens: orInt(a.MaxTokens, 64), Temperature: a.Temperature, Seed: a.Seed,
	}
	switch {
	case a.Prompts != nil && a.Distinct != nil:
		return nil, errors.New("sessions: give prompts, or how many distinct ones to draw, not both")
	case a.Prompts != nil && len(a.Prompts) == 0:
		return nil, errors.New("sessions.prompts is empty")
	case a.Prompts == nil:
		n := orInt(a.Distinct, 8)
		if n < 1 || n > maxPrompts {
			return nil, fmt.Errorf("sessions.distinct = %d: between 1 and %d", n, maxPrompts)
		}
		s.Sessions.Prompts = drawPrompts(s.Seed, n)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	for i, l := range f.Faults {
		fault, err := s.fault(l)
		if err != nil {
			return nil, fmt.Errorf("fault %d (%s): %w", i+1, l.Kind, err)
		}
		s.Faults = append(s.Faults, fault)
	}
	if err := s.checkGroups(); err != nil {
		return nil, err
	}
	return s, s.checkFaults()
}

// engines that a group may name.
var engines = []string{"", "auto", "ggml", "llama"}

// checkGroups checks that every group has nodes, and every node at most one group. Nodes
// that join later may be in one.
func (s *Scenario) checkGroups() error {
	seen := map[string]bool{}
	for i, g := range s.Groups {
		if len(g.Nodes) == 0 {
			return fmt.Errorf("group %d: give its nodes, as in nodes = [\"node1\", \"node2\"]", i+1)
		}
		if !slices.Contains(engines, g.Engine) {
			return fmt.Errorf("group %d: there is no engine %q; there are %s", i+1, g.Engine, strings.Join(engines[1:], ", "))
		}
		for _, n := range g.Nodes {
			if !s.mayBe(n) {
				return fmt.Errorf("group %d: there is no node %q", i+1, n)
			}
			if seen[n] {
				return fmt.Errorf("group %d: %s is in two groups", i+1, n)
			}
			seen[n] = true
		}
	}
	return nil
}

// mayBe reports whether a node has this name at some time.
func (s *Scenario) mayBe(name string) bool {
	for i := range testnet.MaxNodes {
		if testnet.NodeName(i) == name {
			return i < s.Nodes || slices.ContainsFunc(s.Faults, func(f Fault) bool { return f.Kind == Join })
		}
	}
	return false
}

func (s *Scenario) check() error {
	a := s.Sessions
	switch {
	case s.Nodes < 1 || s.Nodes > testnet.MaxNodes:
		return fmt.Errorf("nodes = %d: a testnet has 1 to %d", s.Nodes, testnet.MaxNodes)
	case s.Replicas < 1 || s.Replicas > s.Nodes:
		return fmt.Errorf("replicas = %d: %d nodes have room for 1 to %d", s.Replicas, s.Nodes, s.Nodes)
	case s.Duration <= 0:
		return errors.New("duration: say how long it takes, as in \"30s\"")
	case a.Count < 1 || a.Count > maxSessions:
		return fmt.Errorf("sessions.count = %d: between 1 and %d at once", a.Count, maxSessions)
	case a.MaxTokens < 1 || a.MaxTokens > maxTokens:
		return fmt.Errorf("sessions.max_tokens = %d: between 1 and %d", a.MaxTokens, maxTokens)
	case !(a.Temperature >= 0 && a.Temperature <= 10): // NaN is neither
		return fmt.Errorf("sessions.temperature = %v: between 0 and 10", a.Temperature)
	case slices.Contains(a.Prompts, ""):
		return errors.New("sessions.prompts: one is empty")
	}
	return nil
}

// takes lists the settings of each kind of fault, besides its times.
var takes = map[string]string{
	Kill:       "target rejoin",
	Stop:       "target rejoin",
	Hang:       "target for",
	KillEngine: "target",
	HangEngine: "target for",
	Slow:       "target for share",
	Partition:  "target for groups",
	Join:       "span",
	Rejoin:     "target",
}

// fault checks one fault of a scenario by itself.
func (s *Scenario) fault(l faultLine) (Fault, error) {
	allowed, ok := takes[l.Kind]
	if !ok {
		return Fault{}, fmt.Errorf("there is no such kind; there are %s", strings.Join(kinds(), ", "))
	}
	for name, given := range map[string]bool{
		"target": l.Target != "", "for": l.For != nil, "rejoin": l.Rejoin != nil, "groups": l.Groups != nil, "share": l.Share != nil, "span": l.Span != "",
	} {
		if given && !slices.Contains(strings.Fields(allowed), name) {
			return Fault{}, fmt.Errorf("%q means nothing here", name)
		}
	}
	f := Fault{
		Kind: l.Kind, Target: l.Target, At: l.At.or(0), Every: l.Every.or(0), For: l.For.or(0), Rejoin: l.Rejoin.or(-1),
		Groups: l.Groups, Span: l.Span,
	}
	if err := s.times(l, &f); err != nil {
		return Fault{}, err
	}
	if strings.Contains(allowed, "for") && f.For <= 0 {
		return Fault{}, errors.New("say for how long, as in for = \"3s\"")
	}
	switch l.Kind {
	case Slow:
		if l.Share == nil || !(*l.Share > 0 && *l.Share < 1) {
			return Fault{}, errors.New("share: the part of its time that the engine keeps, between 0 and 1")
		}
		f.Share = *l.Share
	case Join:
		if f.Span == "" {
			f.Span = "auto"
		}
	case Partition:
		if (l.Groups == nil) == (l.Target == "") {
			return Fault{}, errors.New("give two groups, or the target that is cut from all others")
		}
		if l.Groups != nil {
			return f, s.groups(l.Groups)
		}
	}
	if l.Kind != Join && f.Target == "" {
		return Fault{}, fmt.Errorf("target: a node's name, %q or %q", Random, RoundRobin)
	}
	return f, nil
}

func kinds() (names []string) {
	for k := range takes {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// times checks when a fault happens.
func (s *Scenario) times(l faultLine, f *Fault) error {
	if (l.At == nil) == (l.Every == nil) {
		return errors.New("give at = (once), or every = (again and again)")
	}
	if l.At != nil {
		if l.From != nil || l.To != nil {
			return errors.New("from and to go with every")
		}
		if f.At >= s.Duration {
			return fmt.Errorf("at %v: the scenario ends at %v", f.At, s.Duration)
		}
		return nil
	}
	f.From, f.To = l.From.or(f.Every), l.To.or(s.Duration)
	switch {
	case f.Every < minEvery:
		return fmt.Errorf("every %v: at least %v", f.Every, minEvery)
	case f.To > s.Duration:
		return fmt.Errorf("to %v: the scenario ends at %v", f.To, s.Duration)
	case f.From >= f.To:
		return fmt.Errorf("from %v to %v: that is no time", f.From, f.To)
	}
	return nil
}

func (s *Scenario) groups(g [][]string) error {
	if len(g) != 2 || len(g[0]) == 0 || len(g[1]) == 0 {
		return errors.New("groups: two lists of names, as in [[\"node1\"], [\"node2\", \"client\"]]")
	}
	seen := map[string]bool{}
	for _, name := range append(slices.Clone(g[0]), g[1]...) {
		if seen[name] {
			return fmt.Errorf("groups: %s is named twice", name)
		}
		seen[name] = true
	}
	return nil
}

// checkFaults checks the faults together.
func (s *Scenario) checkFaults() error {
	known := map[string]bool{Random: true, RoundRobin: true}
	for i := range s.Nodes {
		known[testnet.NodeName(i)] = true
	}
	count := 0.0
	for _, f := range s.Faults {
		count++
		if f.Every > 0 {
			count += float64(f.To-f.From) / float64(f.Every)
		}
	}
	if count > maxFaults {
		return fmt.Errorf("%.0f faults: at most %d", count, maxFaults)
	}
	joined := s.Nodes
	for _, p := range s.Plan() {
		if p.Kind == Join {
			known[testnet.NodeName(joined)] = true
			joined++
		}
	}
	if joined > testnet.MaxNodes {
		return fmt.Errorf("%d nodes with those that join: a testnet has at most %d", joined, testnet.MaxNodes)
	}
	for i, f := range s.Faults {
		for _, name := range append(slices.Concat(f.Groups...), f.Target) {
			if name != "" && !known[name] && (name != testnet.Client || f.Kind != Partition || f.Target == name) {
				return fmt.Errorf("fault %d (%s): there is no node %q among node1 to node%d", i+1, f.Kind, name, joined)
			}
		}
		if s.Replicas == 1 && !s.AllowGap && slices.Contains([]string{Kill, Stop, Hang, KillEngine, HangEngine}, f.Kind) {
			return fmt.Errorf("fault %d (%s): every span is on one node, so none can be missed; have replicas, or allow_gap = true", i+1, f.Kind)
		}
	}
	return nil
}

// cuts reports whether links must be cuttable.
func (s *Scenario) cuts() bool {
	return slices.ContainsFunc(s.Faults, func(f Fault) bool { return f.Kind == Partition })
}
