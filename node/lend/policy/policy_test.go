package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol/member"
)

const (
	ann  = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
	bob  = "12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA"
	anna = "00112233445566778899aabbccddeeff"
)

var (
	stranger = Peer{ID: ann}
	friend   = Peer{ID: bob, Trusted: true}
	fellow   = Peer{ID: ann, Swarm: "anna", SwarmID: anna, Roles: member.Use}
	server   = Peer{ID: bob, Swarm: "anna", SwarmID: anna, Roles: member.Use | member.Serve}
	other    = Peer{ID: ann, Swarm: "Lab two", SwarmID: "ff", Roles: member.Use}
	guest    = Peer{ID: ann, Swarm: "anna", SwarmID: anna, Roles: member.Use, Guest: &Guest{Swarm: "Lab two", SwarmID: "ff"}}
	mate     = Peer{ID: bob, Swarm: "anna", SwarmID: anna, Roles: member.Use, Trusted: true}
	self     = Peer{ID: ann, Own: true}
)

func had(n int64) func(time.Duration) int64 { return func(time.Duration) int64 { return n } }

func TestDecide(t *testing.T) {
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC) // a Monday
	night := noon.Add(12 * time.Hour)
	tiny, llama := []string{"tiny", "bafytiny"}, []string{"Llama-3.2:3B", "bafyllama"}
	owners := []string{"someone/smollm2"}
	for i, c := range []struct {
		rules   string // separated by |
		who     Peer
		ask     Ask
		allowed bool
		rule    string // its beginning; "": none
		share   float64
	}{
		{"", self, Ask{Now: noon}, true, "", 1},
		{"anybody: nothing", self, Ask{Now: noon}, true, "", 1},
		{"", stranger, Ask{Now: noon}, true, "strangers: share 20%", 0.2},
		{"", friend, Ask{Now: noon}, true, "trusted: share 100%", 1},
		{"", fellow, Ask{Now: noon}, true, "members: share 100%", 1},
		{"", mate, Ask{Now: noon}, true, "trusted", 1},
		{"", guest, Ask{Now: noon}, true, "guests: share 20%", 0.2},
		{"strangers: nothing|members: nothing|swarm anna: nothing", guest, Ask{Now: noon}, true, "guests: share 20%", 0.2},
		{"anybody: nothing", guest, Ask{Now: noon}, false, "anybody", 0},
		{"guests: nothing", guest, Ask{Now: noon}, false, "guests", 0},
		{"guests: nothing", fellow, Ask{Now: noon}, true, "members", 1},
		{"guests: nothing|guests of lab two: share 5%", guest, Ask{Now: noon}, true, "guests of lab two", 0.05},
		{"guests of FF: share 5%", guest, Ask{Now: noon}, true, "guests of FF", 0.05},
		{"guests of anna: nothing", guest, Ask{Now: noon}, true, "guests: share 20%", 0.2},
		{"strangers: models tiny*", stranger, Ask{Now: noon}, true, "strangers", 1},
		{"anybody: nothing", stranger, Ask{Now: noon}, false, "anybody", 0},
		{"anybody: nothing", friend, Ask{Now: noon}, false, "anybody", 0},
		{"anybody: nothing", fellow, Ask{Now: noon}, false, "anybody", 0},
		{"anybody: nothing|trusted: share 50%", friend, Ask{Now: noon}, true, "trusted", 0.5},
		{"trusted: share 50%|anybody: nothing", friend, Ask{Now: noon}, true, "trusted", 0.5},
		{"strangers: nothing", stranger, Ask{Now: noon}, false, "strangers", 0},
		{"strangers: nothing", friend, Ask{Now: noon}, true, "trusted", 1},
		{"strangers: nothing", fellow, Ask{Now: noon}, true, "members", 1},
		{"members: nothing", fellow, Ask{Now: noon}, false, "members", 0},
		{"members: nothing", stranger, Ask{Now: noon}, true, "strangers", 0.2},
		{"members: nothing|swarm anna: share 30%", fellow, Ask{Now: noon}, true, "swarm anna", 0.3},
		{"members: nothing|swarm anna: share 30%", other, Ask{Now: noon}, false, "members", 0},
		{"swarm ANNA: share 30%", fellow, Ask{Now: noon}, true, "swarm ANNA", 0.3},
		{"swarm " + anna + ": share 30%", fellow, Ask{Now: noon}, true, "swarm 00", 0.3},
		{"swarm lab two: share 40%", other, Ask{Now: noon}, true, "swarm lab two", 0.4},
		{"swarm lab two role use: share 40%", other, Ask{Now: noon}, true, "swarm lab two role", 0.4},
		{"swarm anna: share 30%", other, Ask{Now: noon}, true, "members", 1},
		{"swarm anna: share 30%", stranger, Ask{Now: noon}, true, "strangers", 0.2},
		{"swarm anna: share 30%|swarm anna role serve: share 90%", server, Ask{Now: noon}, true, "swarm anna role serve", 0.9},
		{"swarm anna: share 30%|swarm anna role serve: share 90%", fellow, Ask{Now: noon}, true, "swarm anna: share 30%", 0.3},
		{"swarm anna role use,serve: share 90%", fellow, Ask{Now: noon}, true, "members", 1},
		{"swarm anna role serve: nothing|trusted: share 10%", mate, Ask{Now: noon}, true, "trusted: share 10%", 0.1},
		{"peer " + ann + ": nothing", stranger, Ask{Now: noon}, false, "peer", 0},
		{"peer " + ann + ": nothing", fellow, Ask{Now: noon}, false, "peer", 0},
		{"peer " + ann + ": nothing", friend, Ask{Now: noon}, true, "trusted", 1},
		{"anybody: share 5%|peer " + bob + ": share 70%|trusted: nothing", friend, Ask{Now: noon}, true, "peer", 0.7},
		{"strangers: share 10%|strangers: share 20%", stranger, Ask{Now: noon}, true, "strangers: share 10%", 0.1},
		{"strangers: models tiny*", stranger, Ask{Now: noon, Model: tiny}, true, "strangers", 1},
		{"strangers: models tiny*", stranger, Ask{Now: noon, Model: llama}, false, "strangers", 0},
		{"strangers: models llama-3.2:*", stranger, Ask{Now: noon, Model: llama}, true, "strangers", 1},
		{"strangers: models bafyllama", stranger, Ask{Now: noon, Model: llama}, true, "strangers", 1},
		{"strangers: models *smollm2", stranger, Ask{Now: noon, Model: owners}, true, "strangers", 1},
		{"strangers: models tiny; share 5%|strangers: models llama*; share 10%", stranger, Ask{Now: noon, Model: llama}, true, "strangers: models llama*", 0.1},
		{"strangers: nothing; models llama*", stranger, Ask{Now: noon, Model: llama}, false, "strangers: nothing", 0},
		{"strangers: nothing; models llama*", stranger, Ask{Now: noon, Model: tiny}, true, "strangers: share 20%", 0.2},
		{"strangers: nothing; models llama*|strangers: share 30%", stranger, Ask{Now: noon, Model: tiny}, true, "strangers: share 30%", 0.3},
		{"strangers: hours 22:00-07:00", stranger, Ask{Now: noon}, false, "strangers", 0},
		{"strangers: hours 22:00-07:00", stranger, Ask{Now: night}, true, "strangers", 1},
		{"strangers: hours mon-fri 20:00-08:00, sat-sun; share 40%", stranger, Ask{Now: night}, true, "strangers", 0.4},
		{"strangers: nothing; hours mon-fri 08:00-18:00", stranger, Ask{Now: noon}, false, "strangers", 0},
		{"strangers: nothing; hours mon-fri 08:00-18:00", stranger, Ask{Now: night}, true, "strangers: share 20%", 0.2},
		{"strangers: context 4096", stranger, Ask{Now: noon, Context: 4096}, true, "strangers", 1},
		{"strangers: context 4096", stranger, Ask{Now: noon, Context: 4097}, false, "strangers", 0},
		{"strangers: sessions 2", stranger, Ask{Now: noon, Sessions: 1}, true, "strangers", 1},
		{"strangers: sessions 2", stranger, Ask{Now: noon, Sessions: 2}, false, "strangers", 0},
		{"strangers: tokens 1000/day", stranger, Ask{Now: noon, Tokens: had(999)}, true, "strangers", 1},
		{"strangers: tokens 1000/day", stranger, Ask{Now: noon, Tokens: had(1000)}, false, "strangers", 0},
		{"strangers: share 25%; cap 50%; sessions 1; context 10; tokens 5/minute", stranger, Ask{Now: noon, Context: 10, Tokens: had(4)}, true, "strangers", 0.25},
	} {
		p, err := Parse(strings.Split(c.rules, "|"))
		if err != nil {
			t.Errorf("case %d: %v", i, err)
			continue
		}
		v := p.Decide(c.who, c.ask)
		rule := ""
		if v.Rule != nil {
			rule = v.Rule.Text
		}
		if v.Allowed != c.allowed || !strings.HasPrefix(rule, c.rule) || (c.rule == "") != (rule == "") || v.Allowed && v.Grant.Share != c.share || v.Why == "" || v.Allowed != (v.Part == "") {
			t.Errorf("case %d, %q: %+v by %q", i, c.rules, v, rule)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for rule, part := range map[string]string{
		"strangers":                              "a colon",
		": share 20%":                            "anybody, strangers",
		"strangers:":                             "nothing of what they get",
		"strangers: ;":                           "nothing of what they get",
		"friends: share 20%":                     `"friends"`,
		"swarm: share 20%":                       "swarm NAME",
		"swarm anna role king: share 20%":        `"king"`,
		"peer bob: share 20%":                    "machines' names",
		"peer: share 20%":                        "peer ID",
		"strangers: share":                       "share",
		"strangers: share 0%":                    "more than 0",
		"strangers: share 101%":                  "at most 100%",
		"strangers: share NaN":                   "share",
		"strangers: cap -1":                      "cap",
		"strangers: models":                      "names",
		"strangers: models [a":                   "[a",
		"strangers: context 0":                   "from 1 on",
		"strangers: sessions many":               "many",
		"strangers: tokens 100":                  "100000/day",
		"strangers: tokens 100/year":             "100000/day",
		"strangers: hours":                       "22:00-07:00",
		"strangers: hours noon":                  "noon",
		"strangers: speed 3":                     `"speed"`,
		"strangers: share 20%, sessions 2":       "share",
		"strangers: sessions 1; sessions 2":      "twice",
		"strangers: nothing; share 20%":          "beside nothing",
		"strangers: nothing at all":              "at all",
		"strangers: " + strings.Repeat("x", 1e4): "4096",
	} {
		if _, err := Parse([]string{rule}); !errors.Is(err, ErrRule) || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", rule, err)
		}
	}
	for rule, part := range map[string]string{"nobody": "mine", ": mine": "no model", "[a: mine": "[a", "a:b": "mine"} {
		if _, err := ParseUse([]string{rule}); !errors.Is(err, ErrRule) || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", rule, err)
		}
	}
	if _, err := ParseUse([]string{"mine", "swarm"}); !errors.Is(err, ErrRule) {
		t.Error(err)
	}
}

func TestUse(t *testing.T) {
	for _, c := range []struct {
		rules string
		model string
		scope Scope
	}{
		{"", "x", Anybody}, {"mine", "x", Mine}, {"Swarm", "x", Swarm}, {"anybody", "x", Anybody},
		{"llama*: mine|swarm", "Llama-3", Mine}, {"llama*: mine|swarm", "tiny", Swarm}, {"swarm|llama-3:8b: mine", "llama-3:8b", Mine},
		{"llama*: mine|llama-3*: swarm", "llama-3", Mine}, {"hf/*: mine", "hf/x", Mine}, {"hf/*: mine", "x", Anybody},
	} {
		u, err := ParseUse(strings.Split(c.rules, "|"))
		if got, rule := u.Scope(c.model, "bafy"); err != nil || got != c.scope || (rule == "") != (got == Anybody && c.rules != "anybody") {
			t.Errorf("%q: %v by %q, %v", c.rules, got, rule, err)
		}
	}
	for _, p := range []struct {
		Peer
		least Scope
	}{{self, Mine}, {friend, Mine}, {mate, Mine}, {fellow, Swarm}, {guest, Anybody}, {stranger, Anybody}} {
		for s := Mine; s <= Anybody; s++ {
			if s.Allows(p.Peer) != (s >= p.least) {
				t.Errorf("%s, %+v", s, p.Peer)
			}
		}
	}
}

// TestAnybody: a model is offered in a network if somebody there may have it at some time.
func TestAnybody(t *testing.T) {
	for i, c := range []struct {
		rules         string
		open, trusted bool // in the open network, without and with trusted peers
		swarm         bool
	}{
		{"", true, true, true},
		{"anybody: nothing", false, false, false},
		{"strangers: nothing", false, true, true},
		{"strangers: nothing|members: nothing", false, true, true}, // guests may
		{"strangers: nothing|members: nothing|guests: nothing|trusted: nothing", false, false, false},
		{"anybody: nothing|swarm anna role serve,invite: share 5%", false, false, true},
		{"anybody: nothing|swarm other role serve: share 5%", false, false, false},
		{"anybody: nothing|guests of x: share 5%", false, false, true},
		{"anybody: nothing|peer " + bob + ": share 5%", true, true, true},
		{"anybody: models llama*", false, false, false},
		{"anybody: models tiny; hours 03:00-03:01; sessions 1; tokens 1/day", true, true, true},
		{"anybody: nothing|trusted: share 5%", false, true, true},
	} {
		p, err := Parse(strings.Split(c.rules, "|"))
		if err != nil {
			t.Fatal(err)
		}
		got := []bool{p.Anybody("", "", false, "tiny"), p.Anybody("", "", true, "tiny"), p.Anybody("anna", anna, true, "tiny")}
		if want := []bool{c.open, c.trusted, c.swarm}; !slices.Equal(got, want) {
			t.Errorf("case %d, %q: %v, want %v", i, c.rules, got, want)
		}
	}
}

// TestRejoin: commas separate rules, and parts of one.
func TestRejoin(t *testing.T) {
	for given, want := range map[string][]string{
		"":                                 nil,
		"strangers: share 20%; sessions 2": {"strangers: share 20%; sessions 2"},
		"strangers: nothing,swarm lab: share 50%":                                       {"strangers: nothing", "swarm lab: share 50%"},
		"strangers: hours mon-fri 20:00-08:00, sat-sun; share 5%, peer x: share 1%":     {"strangers: hours mon-fri 20:00-08:00, sat-sun; share 5%", "peer x: share 1%"},
		"swarm lab role use,serve: share 90%, guests of lab: nothing, guests: share 1%": {"swarm lab role use,serve: share 90%", "guests of lab: nothing", "guests: share 1%"},
		"strangers: models a, b, members: share 9%":                                     {"strangers: models a, b", "members: share 9%"},
		"nobody: nothing, members: nothing":                                             {"nobody: nothing", "members: nothing"},
	} {
		for _, pieces := range [][]string{{given}, strings.Split(given, ",")} {
			if got := Rejoin(pieces); !slices.Equal(got, want) {
				t.Errorf("%q: %q", pieces, got)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("swarm anna role serve: share 20%; cap 0.5; models a* b; context 5; sessions 1; tokens 1/day; hours 22:00-07:00")
	f.Add("peer " + ann + ": nothing; models x")
	f.Add("llama*: mine")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := Parse([]string{s}); err == nil {
			for _, who := range []Peer{stranger, friend, fellow, self} {
				if v := p.Decide(who, Ask{Model: []string{"x"}, Now: time.Unix(0, 0)}); v.Why == "" || v.Allowed && v.Grant.Share <= 0 {
					t.Errorf("%q: %+v", s, v)
				}
			}
		}
		_, _ = ParseUse([]string{s})
		for _, r := range Rejoin([]string{s}) {
			if strings.TrimSpace(r) == "" {
				t.Errorf("%q: an empty rule", s)
			}
		}
	})
}
