package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// running settings: those of `shoal node` with these arguments, and what Adjust was
// called with.
func runningSettings(t *testing.T, args ...string) (*ownSettings, *[]node.Config) {
	t.Helper()
	var own *ownSettings
	flags := nodeFlags()
	app := &cli.App{Flags: flags, Writer: io.Discard, Action: func(c *cli.Context) error {
		now, err := settingsNow(c, flags)
		if err != nil {
			return err
		}
		cfg, err := nodeConfig(c)
		own = newOwnSettings(c, now, cfg.APIKey)
		return err
	}}
	args = append([]string{"shoal"}, args...)
	app.Metadata = map[string]any{givenFlags: arrange(app, args).set}
	if err := app.Run(args); err != nil {
		t.Fatal(err)
	}
	var got []node.Config
	own.bind(func(c node.Config) error { got = append(got, c); return nil })
	return own, &got
}

// TestChangeSettings: a change is applied as far as it can be, written, and reported.
func TestChangeSettings(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "config.toml")
	if err := os.WriteFile(file, []byte("# mine\nmemory = \"1GiB\" # enough\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOAL_NICE", "7")
	own, got := runningSettings(t, "--home", home, "--pause-load", "30%", "--trust", "12D3KooWNXus9EFcWYF2nUGQq5RpgbHJrty5kNSng5WkZ4RBGbZ3")
	done, err := own.ChangeSettings(t.Context(), api.SettingsChange{Set: map[string]any{
		"memory": "2GiB", "max-sessions": 4.0, "kv-tokens": "4096", "pause-load": 0.0, "nice": "3", "api-origin": []any{"https://a.example"}, "lend-on-battery": true, "resume-after": "90s", "api-key": "hush",
	}})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(done.Applied)
	var over []string
	for _, o := range done.Overridden {
		over = append(over, o.Name)
	}
	if want := []string{"api-key", "api-origin", "lend-on-battery", "max-sessions", "memory", "resume-after"}; !slices.Equal(done.Applied, want) ||
		!slices.Equal(done.Restart, []string{"kv-tokens"}) || !slices.Equal(over, []string{"nice", "pause-load"}) {
		t.Errorf("%+v", done)
	}
	if c := (*got)[0]; len(*got) != 1 || c.Memory != 2<<30 || c.MaxSessions != 4 || c.Lend.PauseLoad != 0.3 || !c.Lend.OnBattery || c.APIKey != "hush" || len(c.Trust) != 1 || c.Nice != 7 {
		t.Errorf("the node was told %+v", *got)
	}
	raw, err := os.ReadFile(file)
	if want := "# mine\nmemory = \"2GiB\" # enough\napi-key = \"hush\"\n"; err != nil || !strings.HasPrefix(string(raw), want) || !strings.Contains(string(raw), "pause-load = \"0\"") {
		t.Errorf("%v\n%s", err, raw)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	all, err := own.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		switch s.Name {
		case "memory":
			if s.Value != "2GiB" || s.From != file+", line 2" || !s.Live || s.Default != "" {
				t.Errorf("%+v", s)
			}
		case "kv-tokens":
			if s.Value != 0 || s.Next != 4096 || s.Live {
				t.Errorf("%+v", s)
			}
		case "api-key":
			if s.Value != secret {
				t.Errorf("%+v", s)
			}
		}
	}
	if done, err = own.ChangeSettings(t.Context(), api.SettingsChange{Unset: []string{"memory", "kv-tokens"}}); err != nil || !slices.Equal(done.Applied, []string{"memory", "kv-tokens"}) || (*got)[1].Memory != 0 {
		t.Errorf("unset: %+v, %v", done, err)
	}
	if err := os.WriteFile(file, []byte("api-key = \"other\"\nfastest = true\nspan = \"all\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	done, err = own.ReloadSettings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(done.Applied); !slices.Contains(done.Applied, "api-key") || !slices.Contains(done.Applied, "fastest") || !slices.Equal(done.Restart, []string{"span"}) || (*got)[2].APIKey != "other" {
		t.Errorf("reloaded: %+v", done)
	}
}

// TestChangeSettingsRefused: a change that is wrong anywhere changes nothing.
func TestChangeSettingsRefused(t *testing.T) {
	home := t.TempDir()
	own, got := runningSettings(t, "--home", home)
	for _, c := range []struct {
		name   string
		change api.SettingsChange
		param  string
	}{
		{"unknown", api.SettingsChange{Set: map[string]any{"memroy": "1GiB"}}, "memroy"},
		{"unknown to unset", api.SettingsChange{Unset: []string{"quux"}}, "quux"},
		{"one of two", api.SettingsChange{Set: map[string]any{"memory": "1GiB", "pause-load": "300%"}}, "pause-load"},
		{"no number", api.SettingsChange{Set: map[string]any{"threads": "two"}}, "threads"},
		{"half a number", api.SettingsChange{Set: map[string]any{"threads": 1.5}}, "threads"},
		{"no list", api.SettingsChange{Set: map[string]any{"trust": 3.0}}, "trust"},
		{"a list of numbers", api.SettingsChange{Set: map[string]any{"trust": []any{3.0}}}, "trust"},
		{"an object", api.SettingsChange{Set: map[string]any{"quota": map[string]any{}}}, "quota"},
		{"checked by the node", api.SettingsChange{Set: map[string]any{"kv": "f8"}}, "kv"},
		{"no time", api.SettingsChange{Set: map[string]any{"resume-after": "soon"}}, "resume-after"},
		{"home", api.SettingsChange{Set: map[string]any{"home": "/"}}, "home"},
		{"config", api.SettingsChange{Set: map[string]any{"config": "/"}}, "config"},
	} {
		_, err := own.ChangeSettings(t.Context(), c.change)
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != api.BadInput || e.Param != c.param || strings.HasPrefix(e.Message, "--") {
			t.Errorf("%s: %v (%+v)", c.name, err, e)
		}
	}
	left, err := os.ReadDir(home)
	if len(*got) > 0 || len(left) > 0 || err != nil {
		t.Errorf("applied %v; in the home: %v, %v", *got, left, err)
	}
}

// TestConfigSetWithoutNode: the commands write the file, and can mend one that is wrong.
func TestConfigSetWithoutNode(t *testing.T) {
	t.Setenv("SHOAL_QUIET_BUILD", "1")
	home := t.TempDir()
	try := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := run(append([]string{"shoal", "config"}, args...), &out, &out); code != want {
			t.Errorf("%v: exit %d\n%s", args, code, &out)
		}
		return out.String()
	}
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte("memory = \"much\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	try(2, "get", "--home", home, "memory")
	try(2, "set", "--home", home, "threads", "1") // memory is still wrong
	if out := try(0, "set", "--home", home, "memory", "1GiB"); !strings.Contains(out, "no node is running") {
		t.Error(out)
	}
	if out := try(0, "get", "--home", home, "memory"); out != "1GiB\n" {
		t.Error(out)
	}
	try(0, "unset", "--home", home, "memory")
	if out := try(0, "get", "--json", "--home", home, "memory"); !strings.Contains(out, `"from":"default"`) {
		t.Error(out)
	}
	try(1, "reload", "--home", home)
	try(2, "set", "--home", home, "memory")
}
