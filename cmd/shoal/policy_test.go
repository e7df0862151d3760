package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/store"
)

const rulesFile = `# mine
lend = [
  "strangers: share 10%; hours mon-fri 20:00-08:00, sat-sun; models smollm2* tiny",
  "swarm lab role use,serve: share 90%", # the others
]
use = ["swarm", "llama3.2:*: mine"]
`

// ruled makes a home with a configuration file.
func ruled(t *testing.T, text string) (home string) {
	t.Helper()
	t.Setenv("SHOAL_QUIET_BUILD", "1")
	home = t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

func texts(p policy.Policy) (out []string) {
	for _, r := range p.Rules() {
		if !r.Default {
			out = append(out, r.Text)
		}
	}
	return out
}

// Rules come whole from the file, from flags, from the environment, and from a change of
// settings; and those of a running node follow a change and a reload at once.
func TestRuleSettings(t *testing.T) {
	home := ruled(t, rulesFile)
	file := filepath.Join(home, "config.toml")
	own, got := runningSettings(t, "--home", home)
	last := func() node.Config { return (*got)[len(*got)-1] }
	done, err := own.ChangeSettings(t.Context(), api.SettingsChange{Set: map[string]any{"lend": "strangers: hours sat, sun; sessions 2, guests of anna: nothing"}})
	if err != nil || strings.Join(done.Applied, " ") != "lend" || strings.Join(texts(last().Policy), "|") != "strangers: hours sat, sun; sessions 2|guests of anna: nothing" {
		t.Errorf("%+v, %v, %q", done, err, texts(last().Policy))
	}
	if raw, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(raw), "# mine\nlend = [\"strangers: hours sat, sun; sessions 2\", \"guests of anna: nothing\"]\n") {
		t.Errorf("%s, %v", raw, err)
	}
	if done, err = own.ChangeSettings(t.Context(), api.SettingsChange{Set: map[string]any{"use": []any{"mine"}}}); err != nil || strings.Join(last().Use.Rules(), "|") != "mine" {
		t.Errorf("%+v, %v, %q", done, err, last().Use.Rules())
	}
	for name, bad := range map[string]string{"lend": "strangers: share 20%; speed 3", "use": "nobody"} {
		var e *api.Error
		_, err := own.ChangeSettings(t.Context(), api.SettingsChange{Set: map[string]any{name: bad}})
		if !errors.As(err, &e) || e.Kind != api.BadInput || e.Param != name || !strings.Contains(e.Message, bad) {
			t.Errorf("%s: %+v", bad, err)
		}
	}
	if err := os.WriteFile(file, []byte(rulesFile), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"strangers: share 10%; hours mon-fri 20:00-08:00, sat-sun; models smollm2* tiny", "swarm lab role use,serve: share 90%"}
	if done, err = own.ReloadSettings(t.Context()); err != nil || strings.Join(done.Applied, " ") != "lend use" || strings.Join(texts(last().Policy), "|") != strings.Join(want, "|") {
		t.Errorf("reloaded: %+v, %v, %q", done, err, texts(last().Policy))
	}
	list := func(args ...string) string {
		for _, s := range configOf(t, args...) {
			if s.Name == "lend" {
				raw, _ := json.Marshal(s.Value)
				return string(raw)
			}
		}
		return ""
	}
	if got := list("--lend", want[1], "--lend", "strangers: nothing, members: share 5%"); got != `["swarm lab role use,serve: share 90%","strangers: nothing","members: share 5%"]` {
		t.Errorf("flags: %s", got)
	}
	t.Setenv("SHOAL_LEND", strings.Join(want, ", "))
	if got := list(); !strings.Contains(got, "swarm lab role use,serve") || strings.Count(got, `","`) != 1 {
		t.Errorf("the environment: %s", got)
	}
}

// A mistake in a rule is named with its file, its line, the rule and its part.
func TestRulePlace(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"in a list": {strings.Replace(rulesFile, "share 90%", "shair 90%", 1), `line 4: lend: rule 2, "swarm lab role use,serve: shair 90%": "shair" is no part of a rule`},
		"alone":     {"\nlend = [\"everyone: nothing\"]\n", `line 2: lend: rule 1, "everyone: nothing": "everyone"`},
		"of use":    {"use = [\"mine\",\n\n\"theirs\"]\n", `line 3: use: rule 2, "theirs"`},
	} {
		home := ruled(t, c.text)
		for _, args := range [][]string{{"config"}, {"policy", "ls"}, {"policy", "test", "--as", "strangers"}} {
			var stdout, stderr bytes.Buffer
			if code := run(append(append([]string{"shoal"}, args...), "--home", home), &stdout, &stderr); code != 2 || !strings.Contains(stderr.String(), filepath.Join(home, "config.toml")+", "+c.says) {
				t.Errorf("%s, %v: exit %d, %s", name, args, code, &stderr)
			}
		}
	}
}

// The rules of a home whose node does not run are listed and tested from its file.
func TestPolicyCommand(t *testing.T) {
	home := ruled(t, rulesFile+`trust = ["12D3KooWNXus9EFcWYF2nUGQq5RpgbHJrty5kNSng5WkZ4RBGbZ3"]`+"\n")
	shoal := func(args ...string) (string, int) {
		var stdout, stderr bytes.Buffer
		code := run(append(append([]string{"shoal"}, args...), "--home", home), &stdout, &stderr)
		return stdout.String() + stderr.String(), code
	}
	if out, code := shoal("swarm", "new", "--name", "lab"); code != 0 {
		t.Fatal(out)
	}
	file := filepath.Join(t.TempDir(), "x.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	models, err := store.Open(filepath.Join(home, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := models.Add(t.Context(), file, store.AddOptions{Name: "stories:1m"})
	if err == nil {
		err = errors.Join(m.Note("tiny", false), models.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"policy", "ls"}, 0, []string{"swarm lab role use,serve: share 90%\n", "strangers: share 20%   (default)", "  llama3.2:*: mine\n  swarm\n"}},
		{[]string{"policy", "test", "--as", "strangers", "--model", "llama3.2:3b", "--at", "2026-11-30T23:00"}, 0, []string{"strangers may have: nothing\n", "rule: strangers: share 10%", "only about the models smollm2* tiny", "your prompts may go there: no (rule: llama3.2:*: mine)"}},
		{[]string{"policy", "test", "--as", "strangers", "--model", "smollm2:135m", "--at", "2026-11-30T23:00"}, 0, []string{"a share of 10 %, at mon-fri 20:00-08:00, sat-sun\n", "your prompts may go there: no (rule: swarm)"}},
		{[]string{"policy", "test", "--as", "strangers", "--model", "llama3.2"}, 0, []string{"only about the models smollm2* tiny", "your prompts may go there: no (rule: llama3.2:*: mine)"}},
		{[]string{"policy", "test", "--as", "strangers", "--model", "stories", "--at", "2026-11-30T23:00"}, 0, []string{"a share of 10 %"}},
		{[]string{"policy", "test", "--as", "strangers", "--at", "2026-11-30T12:00"}, 0, []string{"outside the rule's hours"}},
		{[]string{"policy", "test", "--as", "lab/use,serve"}, 0, []string{"members of swarm lab with role use,serve may have: a share of 90 %", "your prompts may go there: yes (rule: swarm)"}},
		{[]string{"policy", "test", "--as", "lab"}, 0, []string{"members: share 100%   (default"}},
		{[]string{"policy", "test", "--as", "12D3KooWNXus9EFcWYF2nUGQq5RpgbHJrty5kNSng5WkZ4RBGbZ3"}, 0, []string{"trusted: share 100%"}},
		{[]string{"policy", "test", "--as", "guests of lab"}, 0, []string{"guests: share 20%"}},
		{[]string{"policy", "test", "--as", "somebody"}, 2, []string{`"somebody" is no peer ID`, "--as takes"}},
		{[]string{"policy", "test", "--as", "strangers", "--at", "noon"}, 2, []string{"2026-12-01T23:30"}},
	} {
		out, code := shoal(c.args...)
		if code != c.code {
			t.Errorf("%v: exit %d: %s", c.args, code, out)
		}
		for _, s := range c.says {
			if !strings.Contains(out, s) {
				t.Errorf("%v: no %q in %s", c.args, s, out)
			}
		}
	}
	out, code := shoal("policy", "test", "--as", "lab/serve", "--json")
	var v api.PolicyVerdict
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || !v.Allowed || v.Rule == nil || v.Rule.Text != "members: share 100%" || !v.Use.Allowed {
		t.Errorf("%s, %v", out, err)
	}
	var p api.Policy
	if out, code = shoal("policy", "ls", "--json"); json.Unmarshal([]byte(out), &p) != nil || code != 0 || len(p.Lend) != 2+len(policy.Defaults) || len(p.Use) != 2 {
		t.Errorf("%s", out)
	}
}
