package scenario

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/testnet/link"
)

const whole = `
name = "all"
nodes = 4
replicas = 2
model = "m.gguf"
rtt = "10ms"
loss = "1%"
node_args = ["--kv", "f32"]
duration = "1m"
seed = 7
exact = false
settle = "2s"

[sessions]
count = 3
prompts = ["one", "two"]
max_tokens = 10
temperature = 0.5
seed = 9

[[fault]]
kind = "kill"
target = "random"
every = "10s"
from = "5s"
to = "40s"
rejoin = "3s"

[[fault]]
kind = "partition"
groups = [["node1"], ["node2", "client"]]
at = "20s"
for = "2s"

[[fault]]
kind = "slow"
target = "node3"
share = 0.25
at = "21s"
for = "1s"

[[fault]]
kind = "join"
at = "22s"

[[fault]]
kind = "hang"
target = "node5"
at = "30s"
for = "1s"
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	const s = time.Second
	want := &Scenario{
		Name: "all", Nodes: 4, Replicas: 2, Model: "m.gguf", Link: link.Params{RTT: 10 * time.Millisecond, Loss: 0.01}, NodeArgs: []string{"--kv", "f32"},
		Duration: 60 * s, Seed: 7, Settle: 2 * s,
		Sessions: Sessions{Count: 3, Prompts: []string{"one", "two"}, MaxTokens: 10, Temperature: 0.5, Seed: 9},
		Faults: []Fault{
			{Kind: Kill, Target: Random, Every: 10 * s, From: 5 * s, To: 40 * s, Rejoin: 3 * s},
			{Kind: Partition, Groups: [][]string{{"node1"}, {"node2", "client"}}, At: 20 * s, For: 2 * s, Rejoin: -1},
			{Kind: Slow, Target: "node3", Share: 0.25, At: 21 * s, For: s, Rejoin: -1},
			{Kind: Join, Span: "auto", At: 22 * s, Rejoin: -1},
			{Kind: Hang, Target: "node5", At: 30 * s, For: s, Rejoin: -1},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.cuts() != true {
		t.Error("a partition needs links that can be cut")
	}
}

func TestDefaults(t *testing.T) {
	s, err := Parse([]byte("nodes = 2\nduration = \"10s\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Replicas != 1 || !s.Exact || s.Sessions.Count != 1 || s.Sessions.MaxTokens != 64 || len(s.Sessions.Prompts) != 8 || s.cuts() {
		t.Errorf("%+v", s)
	}
	seen := map[string]bool{}
	for _, p := range drawPrompts(3, maxPrompts) {
		seen[p] = true
	}
	if len(seen) != maxPrompts {
		t.Errorf("%d distinct prompts of %d", len(seen), maxPrompts)
	}
}

// TestRefused: each mistake is named.
func TestRefused(t *testing.T) {
	const head = "nodes = 4\nreplicas = 2\nduration = \"1m\"\n"
	for text, want := range map[string]string{
		"":                                    "nodes = 0",
		"nodes = 2":                           "duration",
		"nodes = = 2":                         "line 1",
		"nodes = 2\nduration = 30":            "unit",
		"nodes = 2\nduration = \"-1s\"":       "at least 0",
		"nodes = 999\nduration = \"1s\"":      "nodes = 999",
		"nodes = \"x\"\nduration = \"1s\"":    "line 1",
		head + "replica = 2":                  `no setting "replica"`,
		head + "rtt = \"40\"":                 "unit",
		head + "[sessions]\nprompt = 1":       `no setting "sessions.prompt"`,
		head + "[sessions]\ncount = 0":        "sessions.count",
		head + "[sessions]\nprompts = []":     "empty",
		head + "[sessions]\nprompts = [\"\"]": "empty",
		head + "[sessions]\nprompts = [\"a\"]\ndistinct = 2":                                                              "not both",
		head + "[sessions]\ndistinct = 2000":                                                                              "distinct",
		head + "[sessions]\nmax_tokens = 0":                                                                               "max_tokens",
		head + "[sessions]\ntemperature = -1.0":                                                                           "temperature",
		head + "[sessions]\ntemperature = nan":                                                                            "temperature",
		head + "[[fault]]\nat = \"1s\"":                                                                                   "no such kind",
		head + "[[fault]]\nkind = \"explode\"\nat = \"1s\"":                                                               "kill, kill-engine",
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"":                                                          "give at",
		head + "[[fault]]\nkind = \"kill\"\nat = \"1s\"":                                                                  "target",
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"node5\"\nat = \"1s\"":                                              `no node "node5"`,
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"client\"\nat = \"1s\"":                                             `no node "client"`,
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nat = \"2m\"":                                             "ends at 1m0s",
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nat = \"1s\"\nfrom = \"1s\"":                              "with every",
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nat = \"1s\"\nfor = \"1s\"":                               `"for" means nothing`,
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nevery = \"1ms\"":                                         "at least 100ms",
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nevery = \"9s\"\nfrom = \"9s\"\nto = \"9s\"":              "no time",
		head + "[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nevery = \"9s\"\nto = \"2m\"":                             "ends at",
		head + "[[fault]]\nkind = \"hang\"\ntarget = \"random\"\nat = \"1s\"":                                             "for how long",
		head + "[[fault]]\nkind = \"slow\"\ntarget = \"random\"\nat = \"1s\"\nfor = \"1s\"":                               "share",
		head + "[[fault]]\nkind = \"slow\"\ntarget = \"random\"\nat = \"1s\"\nfor = \"1s\"\nshare = 1.0":                  "share",
		head + "[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"":                                               "two groups",
		head + "[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"\ngroups = [[\"node1\"]]":                       "two lists",
		head + "[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"\ngroups = [[\"node1\"], [\"node1\"]]":          "twice",
		head + "[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"\ngroups = [[\"node1\"], [\"node9\"]]":          `"node9"`,
		"nodes = 4\nduration = \"1m\"\n[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nat = \"1s\"":                      "allow_gap",
		"nodes = 256\nduration = \"1m\"\n[[fault]]\nkind = \"join\"\nevery = \"1s\"":                                      "at most 256",
		"nodes = 2\nreplicas = 2\nduration = \"24h\"\n[[fault]]\nkind = \"kill\"\ntarget = \"random\"\nevery = \"100ms\"": "at most 100000",
	} {
		s, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\n-> %+v, %v; want an error with %q", text, s, err, want)
		}
	}
}

// TestContrib: the scenarios that come with the project are valid.
func TestContrib(t *testing.T) {
	files, err := filepath.Glob("../../contrib/scenarios/*.toml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		s, err := Load(f)
		if err != nil {
			t.Error(err)
			continue
		}
		if s.Name+".toml" != filepath.Base(f) || s.About == "" || len(s.Plan()) == 0 {
			t.Errorf("%s: %+v", f, s)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for model, want := range map[string]string{
		"x/m.gguf": filepath.Join(dir, "x/m.gguf"), "m.gguf": filepath.Join(dir, "m.gguf"), "/a/m.gguf": "/a/m.gguf",
		"tinytales": "tinytales", "hf:a/b/m.gguf": "hf:a/b/m.gguf", "https://a/m.gguf": "https://a/m.gguf",
	} {
		path := filepath.Join(dir, "some.toml")
		text := "nodes = 1\nduration = \"1s\"\nmodel = \"" + model + "\"\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Load(path)
		if err != nil || s.Model != want || s.Name != "some" {
			t.Errorf("%s: %+v, %v; want %s", model, s, err, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	files, _ := filepath.Glob("../../contrib/scenarios/*.toml")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		last := time.Duration(0)
		for _, p := range s.Plan() {
			if p.When < last || p.When >= s.Duration {
				t.Fatalf("%v after %v, of %v", p.When, last, s.Duration)
			}
			last = p.When
			if got := p.order(s.Seed, []string{"a", "b"}); len(got) == 0 {
				t.Fatal("a fault without a target")
			}
		}
	})
}

func TestPlan(t *testing.T) {
	s, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range s.Plan() {
		got = append(got, p.Kind+"@"+p.When.String())
	}
	if have, want := strings.Join(got, " "), "kill@5s kill@15s partition@20s slow@21s join@22s kill@25s hang@30s kill@35s"; have != want {
		t.Errorf("%s\nwant %s", have, want)
	}
	s.Duration = 16 * time.Second // as --duration does
	if plan := s.Plan(); plan[1].When != 15*time.Second || plan[2].Kind != Partition {
		t.Errorf("shortened: %+v", plan)
	}
}

func TestOrder(t *testing.T) {
	nodes := []string{"node1", "node2", "node3", "node4"}
	order := func(target string, nth int, seed uint64) string {
		p := Planned{Fault: Fault{Target: target}, Nth: nth}
		return strings.Join(p.order(seed, nodes), " ")
	}
	if got := order("node3", 5, 1); got != "node3" {
		t.Error(got)
	}
	if got := order(RoundRobin, 6, 1); got != "node3 node4 node1 node2" {
		t.Error(got)
	}
	first := map[string]int{}
	for i := range 400 {
		a := order(Random, i, 1)
		if a != order(Random, i, 1) {
			t.Fatal("equal seeds, other orders")
		}
		name, _, _ := strings.Cut(a, " ")
		first[name]++
	}
	for _, n := range nodes {
		if first[n] < 60 {
			t.Errorf("%s is first %d times of 400", n, first[n])
		}
	}
	if strings.Join(nodes, " ") != "node1 node2 node3 node4" {
		t.Error("the list was shuffled in place")
	}
}

// TestRoute: a ring needs all blocks, and links between neighbours and to the
// client.
func TestRoute(t *testing.T) {
	four := []server{{"a", 0, 4}, {"b", 4, 8}, {"c", 0, 4}, {"d", 4, 8}}
	for _, tc := range []struct {
		servers []server
		cut     string // pairs
		want    bool
	}{
		{four, "", true},
		{four[:2], "", true},
		{four[:1], "", false},
		{four[1:2], "", false},
		{four[:2], "a-b", false},
		{four, "a-b", true},
		{four, "a-b c-d", true}, // crosswise
		{four, "a-b c-d a-d c-b", false},
		{four, "a-b a-d", true}, // c has both
		{four, "a-client c-client", false},
		{four, "a-client d-client", true},
		{[]server{{"a", 0, 8}}, "", true},
		{[]server{{"a", 0, 5}, {"b", 3, 8}}, "", true},
		{[]server{{"a", 0, 3}, {"b", 4, 8}}, "", false},
		{[]server{{"a", 0, 3}, {"b", 3, 5}, {"c", 5, 8}}, "c-a", false},
		{nil, "", false},
	} {
		cut := func(a, b string) bool {
			return strings.Contains(" "+tc.cut+" ", " "+a+"-"+b+" ") || strings.Contains(" "+tc.cut+" ", " "+b+"-"+a+" ")
		}
		if got := route(tc.servers, 8, cut); got != tc.want {
			t.Errorf("%v without %q: %v", tc.servers, tc.cut, got)
		}
	}
}

// TestGroups: nodes of a group get its engine, the others none, and groups that name
// unknown nodes, unknown engines or a node twice are refused.
func TestGroups(t *testing.T) {
	const head = "nodes = 3\nduration = \"5s\"\n"
	s, err := Parse([]byte(head + "[[group]]\nnodes = [\"node2\"]\nengine = \"llama\"\nnode_args = [\"--exact\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Engines(); !slices.Equal(got, []string{"", "llama"}) {
		t.Errorf("engines %q", got)
	}
	args := s.argsOf()
	if !slices.Equal(args["node2"], []string{"--engine", "llama", "--exact"}) || len(args) != 1 {
		t.Errorf("arguments %v", args)
	}
	for _, bad := range []string{
		"[[group]]\nengine = \"llama\"\n",
		"[[group]]\nnodes = [\"node4\"]\nengine = \"llama\"\n",
		"[[group]]\nnodes = [\"node1\"]\nengine = \"vllm\"\n",
		"[[group]]\nnodes = [\"node1\", \"node1\"]\nengine = \"ggml\"\n",
	} {
		if _, err := Parse([]byte(head + bad)); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}
