package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"github.com/urfave/cli/v2/altsrc"
)

// TestArrange: flags may stand behind arguments, "--" ends them, and other programs'
// words stay as they are.
func TestArrange(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for line, want := range map[string]string{
		"prompt hi --json -n 3":                    "prompt --json -n 3 -- hi",
		"prompt hi --model=x there":                "prompt --model=x -- hi there",
		"prompt -qn 3 hi -t 0":                     "prompt -qn 3 -t 0 -- hi",
		"prompt hi -qn 3":                          "prompt -qn 3 -- hi",
		"prompt -- --json -n":                      "prompt -- --json -n",
		"prompt --system --json hi":                "prompt --system --json -- hi",
		"prompt - --json":                          "prompt --json -- -",
		"model pin smollm2 --span 0-5":             "model pin --span 0-5 -- smollm2",
		"model show x --log-level debug":           "--log-level debug model show -- x",
		"--log-level debug status":                 "--log-level debug status",
		"node --log-level debug":                   "--log-level debug node --log-level debug",
		"--log-level debug node":                   "--log-level debug node",
		"run x --json -- -5 + 3":                   "run --json -- x -5 + 3",
		"testnet --nodes 2 -- shoal prompt --json": "testnet --nodes 2 -- shoal prompt --json",
		"testnet shoal prompt --json":              "testnet -- shoal prompt --json",
		"testnet run --seed 3 a.txt --json":        "testnet run --seed 3 --json -- a.txt",
		"completion words --describe tab -- a --b": "completion words --describe tab -- a --b",
		"model lst --json":                         "model lst --json",
		"help model pin":                           "model pin --help",
		"status extra --help":                      "status --help -- extra",
		"serve --span all":                         "serve --span all",
	} {
		args := append([]string{"shoal"}, strings.Fields(line)...)
		if got := strings.Join(arrange(app, args).args[1:], " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// FuzzArrange: no word is lost or made up but the "--" before arguments and what a
// flag of the whole program needs, and the order is stable.
func FuzzArrange(f *testing.F) {
	f.Add("prompt hi --json -n 3")
	f.Add("testnet -- a --b\nmodel\n--log-level")
	app := newApp(io.Discard, io.Discard)
	f.Fuzz(func(t *testing.T, line string) {
		args := append([]string{"shoal"}, strings.Fields(line)...)
		once := arrange(app, args).args
		if again := arrange(app, once).args; len(args) > 1 && args[1] != "help" && !reflect.DeepEqual(once, again) && !strings.Contains(line, "log-level") {
			t.Errorf("%q: %q, and then %q", args, once, again)
		}
	})
}

// TestFlagUsage: what stands in backquotes in a flag's usage is the name of its value.
func TestFlagUsage(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	each(app.Flags, app.Commands, func(f cli.Flag) {
		d := f.(cli.DocGenerationFlag)
		parts := strings.Split(d.GetUsage(), "`")
		name := ""
		if len(parts) > 1 {
			name = parts[1]
		}
		if name != strings.ToUpper(strings.TrimSuffix(name, ".html")) && name != "FILE.html" || name != "" && !d.TakesValue() {
			t.Errorf("--%s: the value is called %q", f.Names()[0], name)
		}
	})
}

// otherValue is a value of a setting that is not its default, on the command line and as
// the configuration file has it.
func otherValue(f fileFlag) (text, toml string, value any) {
	name := f.Names()[0]
	texts := map[string]string{
		"span": "0-5", "api": "127.0.0.1:1", "memory": "1GiB", "engine": "llama", "kv": "f32", "wire": "f16", "ahead": "off", "quota": "1GiB", "up": "1MiB", "down": "1MiB", "pause-load": "0.5",
		"lend-hours": "sat-sun", "otlp": "http://127.0.0.1:4318", "log-level": "error", "log-format": "json", "pause": "on", "metrics": "127.0.0.1:2", "name": "attic",
	}
	switch f.(type) {
	case *altsrc.BoolFlag:
		return "true", "true", true
	case *altsrc.IntFlag:
		return "1", "1", 1.0
	case *altsrc.DurationFlag:
		return "7s", `"7s"`, "7s"
	case *altsrc.StringSliceFlag:
		text = map[string]string{"trust": "12D3KooWHLc8D9jpc9r2BzHgaDJiLPBEYaygPh5Aqj1Bppd5B4zb", "api-origin": "https://a.example", "catalog-key": "a2V5", "lend": "strangers: share 5%; hours sat,sun", "use": "mine"}[name]
		if text == "" {
			text = "some"
		}
		return text, fmt.Sprintf("[%q]", text), []any{text}
	}
	if text = texts[name]; text == "" {
		text = "text"
	}
	return text, fmt.Sprintf("%q", text), text
}

// TestEmptyVariables: for every setting of a node, of whatever kind, a variable that is
// set to nothing does not hide the file, and `shoal config` names the true source.
func TestEmptyVariables(t *testing.T) {
	for _, f := range inFile(nodeFlags()) {
		name, env := f.Names()[0], f.GetEnvVars()[0]
		// The file's own place, and files that must exist.
		if slices.Contains([]string{"home", "api-key-file", "tls-cert", "tls-key"}, name) {
			continue
		}
		text, toml, value := otherValue(f)
		if name == "api-key" {
			value = secret
		}
		home := t.TempDir()
		file := filepath.Join(home, "config.toml")
		if err := os.WriteFile(file, []byte("# mine\n"+name+" = "+toml+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		check := func(what, from string, args ...string) {
			t.Helper()
			for _, s := range configOf(t, append([]string{"--home", home}, args...)...) {
				if s.Name == name && (!reflect.DeepEqual(s.Value, value) || s.From != from) {
					t.Errorf("%s, %s: %+v, want %v from %s", name, what, s, value, from)
				}
			}
		}
		t.Setenv(env, "")
		check("an empty variable", file+", line 2")
		t.Setenv(env, text)
		check("a variable", env)
		arg := "--" + name + "=" + text
		check("a flag beside an equal variable", "--"+name, arg)
		t.Setenv(env, "")
		check("a flag beside an empty variable", "--"+name, arg)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		if code := run([]string{"shoal", "config", "--home", home}, &out, &errOut); code != 0 || !strings.Contains(out.String(), name+" = ") {
			t.Errorf("%s: %d\n%s", name, code, &errOut)
		}
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, name+" = ") && !strings.HasSuffix(line, "# default\n") {
				t.Errorf("an empty variable and nothing else: %s", line)
			}
		}
		_ = os.Unsetenv(env)
	}
}

// TestSpanText: blocks are explained.
func TestSpanText(t *testing.T) {
	for want, in := range map[string][3]int{
		"blocks 0-10, the first 10 of 30": {0, 10, 30}, "blocks 20-30, the last 10 of 30": {20, 30, 30}, "blocks 10-20, 10 of 30": {10, 20, 30},
		"all 30 blocks": {0, 30, 30}, "blocks 0-10": {0, 10, 0},
	} {
		if got := spanText(in[0], in[1], in[2]); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
}

// TestWrapped: no line is wider than the terminal but a word that is, which stays whole.
func TestWrapped(t *testing.T) {
	for _, n := range []int{20, 60, 80, 110} {
		text := wrapped("route attic 0-10 → cellar 10-20 · predicted 12.3 tokens/s, got 11.9 · first token after 120 ms", "  ", n)
		for line := range strings.Lines(text) {
			if textWidth(strings.TrimSuffix(line, "\n")) > n {
				t.Errorf("%d: %q", n, line)
			}
		}
	}
	if got := wrapped("address /ip4/127.0.0.1/udp/1/quic-v1/p2p/xyz", "    ", 20); got != "address\n/ip4/127.0.0.1/udp/1/quic-v1/p2p/xyz" {
		t.Errorf("%q", got)
	}
	if got := clip("fetching 雪 of 10", 12); textWidth(got) > 12 || !strings.HasSuffix(got, "…") {
		t.Errorf("%q", got)
	}
}

// TestHistory: the oldest turns are left out once a message and a quarter of the context
// do not fit, and the count of tokens follows.
func TestHistory(t *testing.T) {
	h := history{limit: 400}
	h.reset("be brief")
	h.add(turn{"a", "b", 0}, 100)
	h.add(turn{"c", "d", 0}, 200)
	if h.makeRoom("short", 0); h.skip != 0 {
		t.Errorf("%d turns are left out of a context that is half full", h.skip)
	}
	h.add(turn{"e", "f", 0}, 320)
	if h.makeRoom("short", 0); h.skip != 1 || len(h.messages(h.skip)) != 5 || len(h.messages(0)) != 7 {
		t.Errorf("%d turns are left out", h.skip)
	}
	h.add(turn{"g", "h", 0}, 320)
	if last := h.turns[3].tokens; last != 100 {
		t.Errorf("a turn of 100 tokens is counted as %d", last)
	}
	if !strings.Contains(h.fullness(), "320 of 400 tokens (80 %); the oldest 1 turn left out") || h.mark() != "(80 % full) > " {
		t.Errorf("%q, %q", h.fullness(), h.mark())
	}
	h.makeRoom(strings.Repeat("long ", 1000), 0)
	if h.skip != 4 || h.skipOne() {
		t.Errorf("%d turns are left out", h.skip)
	}
	if h.reset(""); h.limit != 400 || h.mark() != "> " || len(h.messages(h.skip)) != 0 {
		t.Errorf("%+v", h)
	}
}
