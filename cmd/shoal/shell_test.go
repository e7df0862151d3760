package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestComplete: what may stand for the last word.
func TestComplete(t *testing.T) {
	home := t.TempDir()
	app := newApp(io.Discard, io.Discard)
	for line, want := range map[string]string{
		"doc":                                "doctor",
		"model sh":                           "show",
		"model show --js":                    "--json",
		"--log-level w":                      "warn",
		"--log-level debug stat":             "status",
		"node --wire q":                      "q8_0",
		"node --wire=f1":                     "--wire=f16",
		"node --kv f16 --spa":                "--span",
		"prompt --model nosuch":              "",
		"completion b":                       "bash",
		"completion w":                       "", // hidden
		"doctor --sys":                       "", // hidden
		"testnet -- shoal pro":               "",
		"bench st":                           "stages",
		"model add ":                         "", // a file
		"testnet run ":                       "",
		"model show --home " + home + " tin": "",
	} {
		var got []string
		for _, w := range complete(t.Context(), app, strings.Split(line, " ")) {
			got = append(got, w.text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	all := complete(t.Context(), app, []string{""})
	for _, c := range app.Commands {
		if !c.Hidden && !slices.ContainsFunc(all, func(w word) bool { return w.text == c.Name && w.help == c.Usage }) {
			t.Errorf("%s is not offered", c.Name)
		}
	}
}

// shellHome is a home with a model, and a directory with the program by its name.
func shellHome(t *testing.T) (env []string) {
	p := newPatient(t)
	p.run("model", "add", "--home", p.home, "--name", "tales:tiny", "tinytales")
	bin := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(bin, "shoal")); err != nil {
		t.Fatal(err)
	}
	return append(p.env, "SHOAL_HOME="+p.home, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir(), "TERM=xterm")
}

// TestShellCompletion has real shells complete some words.
func TestShellCompletion(t *testing.T) {
	t.Parallel()
	env := shellHome(t)
	// In each shell: a function that prints what it would complete a line to.
	shells := map[string]string{
		"bash": `source <(shoal completion bash)
line="$1"; read -r -a COMP_WORDS <<<"${line//:/ : }"; [[ $line == *" " ]] && COMP_WORDS+=("")
COMP_LINE="$line" COMP_POINT=${#line} COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _shoal; printf '%s\n' "${COMPREPLY[@]}"`,
		"fish": `shoal completion fish | source; complete -C "$argv[1]"`,
	}
	for shell, script := range shells {
		t.Run(shell, func(t *testing.T) {
			if _, err := exec.LookPath(shell); err != nil {
				t.Skip(shell, " is not installed")
			}
			for line, want := range map[string][]string{
				"shoal doc":              {"doctor"},
				"shoal model ":           {"add", "ls", "pull"},
				"shoal model show t":     {"tales:tiny"},
				"shoal node --kv ":       {"f16", "f32"},
				"shoal prompt --temp":    {"--temperature"},
				"shoal model export zzz": {},
			} {
				args := []string{"-c", script, "x", line}
				if shell == "fish" {
					args = []string{"--no-config", "-c", script, line}
				}
				cmd := exec.CommandContext(t.Context(), shell, args...)
				cmd.Env = env
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%q: %v\n%s", line, err, out)
				}
				var got []string
				for _, l := range strings.Split(strings.TrimSpace(string(out)), "\n") {
					w, _, _ := strings.Cut(l, "\t")
					got = append(got, w)
				}
				for _, w := range want {
					if !slices.Contains(got, w) {
						t.Errorf("%q gives %q, without %q", line, got, w)
					}
				}
				if len(want) == 0 && strings.Join(got, "") != "" {
					t.Errorf("%q gives %q", line, got)
				}
			}
		})
	}
	t.Run("bash, after a colon", func(t *testing.T) {
		if _, err := exec.LookPath("bash"); err != nil {
			t.Skip("bash is not installed")
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-c", shells["bash"], "x", "shoal model show tales:t")
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "tiny\n" { // bash keeps "tales:"
			t.Errorf("%q, %v", out, err)
		}
	})
}

// TestMan: the page has every command and flag, and no tool finds fault with it.
func TestMan(t *testing.T) {
	t.Parallel()
	app := newApp(io.Discard, io.Discard)
	page := manPage(app)
	plain := strings.NewReplacer(`\-`, "-", `\fB`, "", `\fP`, "", `\fI`, "", `\_`, "_").Replace(page)
	var each func(above string, list []*cli.Command)
	each = func(above string, list []*cli.Command) {
		for _, c := range list {
			if c.Hidden {
				continue
			}
			if !strings.Contains(plain, ".SS "+above+" "+c.Name) {
				t.Errorf("%s %s is not in the page", above, c.Name)
			}
			for _, f := range c.Flags {
				if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() && !strings.Contains(plain, "--"+f.Names()[0]) {
					t.Errorf("%s %s --%s is not in the page", above, c.Name, f.Names()[0])
				}
			}
			each(above+" "+c.Name, c.Subcommands)
		}
	}
	each("shoal", app.Commands)
	if strings.Contains(plain, defaultHome()) {
		t.Error("the page names the home of who made it")
	}
	file := filepath.Join(t.TempDir(), "shoal.1")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("mandoc"); err == nil {
		out, _ := exec.Command("mandoc", "-T", "lint", file).Output()
		for _, l := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			if l != "" && !strings.Contains(l, "longer than 80 bytes") && !strings.Contains(l, "missing date") { // of a test, which nobody has dated
				t.Error(l)
			}
		}
	}
	if _, err := exec.LookPath("groff"); err == nil {
		if out, err := exec.Command("sh", "-c", "groff -man -Tutf8 -ww "+file+" 2>&1 >/dev/null").Output(); err != nil || len(out) > 0 {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// TestHelp: every command says what it is for, and every flag what it does.
func TestHelp(t *testing.T) {
	t.Parallel()
	app := newApp(io.Discard, io.Discard)
	var each func(above string, list []*cli.Command)
	each = func(above string, list []*cli.Command) {
		for _, c := range list {
			if c.Hidden {
				continue
			}
			if c.Usage == "" || strings.HasSuffix(c.Usage, ".") || c.Usage[0] >= 'A' && c.Usage[0] <= 'Z' && c.Usage[1] >= 'a' {
				t.Errorf("%s %s: %q should be a phrase, small and without a full stop", above, c.Name, c.Usage)
			}
			for _, f := range c.Flags {
				if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() && usageOf(f) == "" {
					t.Errorf("%s %s --%s has no usage", above, c.Name, f.Names()[0])
				}
			}
			each(above+" "+c.Name, c.Subcommands)
		}
	}
	each("shoal", app.Commands)
	for line, want := range map[string]string{
		"shoal dctor":                "did you mean \"doctor\"?",
		"shoal model lst":            "did you mean \"model ls\"?",
		"shoal prompt --temprature":  "did you mean --temperature?",
		"shoal node --bootstap x":    "did you mean --bootstrap?",
		"shoal testnet --replica":    "did you mean --replicas?",
		"shoal completion bsh":       "did you mean \"completion bash\"?",
		"shoal bench xyzzy":          "there is no command \"bench xyzzy\"; see",
		"shoal status --xyzzy":       "there is no flag --xyzzy; see",
		"shoal peers somebody":       "takes no argument",
		"shoal doctor --log-level x": "use debug, info, warn or error; see `shoal doctor --help`",
		"shoal run":                  "name a model",
		"shoal stop":                 "shoal drain",
	} {
		var out, errOut bytes.Buffer
		if code := run(strings.Split(line, " "), &out, &errOut); code != 2 || !strings.Contains(errOut.String(), want) {
			t.Errorf("%s: exit code %d: %s%s", line, code, out.String(), errOut.String())
		}
	}
	var out, errOut bytes.Buffer
	if code := run([]string{"shoal"}, &out, &errOut); code != 0 || !strings.Contains(out.String(), "shoal demo") || strings.Count(out.String(), "\n") > 12 {
		t.Errorf("without arguments: %d\n%s%s", code, out.String(), errOut.String())
	}
}

// TestJSON: with --json there is JSON on standard output, and nothing else.
func TestJSON(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.add(`model = ["tinytales"]`, `span = "all"`)
	p.node()
	eventually(t, 30e9, "it serves", func() bool {
		st, err := running(t.Context(), p.home).Status(t.Context())
		return err == nil && len(st.Serving) > 0 && st.Serving[0].Ready
	})
	file := filepath.Join(t.TempDir(), "copy.gguf")
	for _, line := range []string{
		"status", "peers", "model ls", "model show tinytales", "model pull tinytales", "model add --name other tinytales", "model export tinytales " + file, "model tokenize tinytales",
		"model verify", "model verify --repair tinytales", "model gc", "model gc --dry-run --unused", "model pin tinytales", "model unpin --span 0-2 tinytales",
		"top --once", "doctor", "prompt -n 4 hello", "drain", "model rm tinytales",
	} {
		args := strings.Fields(line)
		n := 1
		if args[0] == "model" {
			n = 2
		}
		args = slices.Insert(args, n, "--json", "--home", p.home)
		cmd := p.command(args...)
		cmd.Stdin = strings.NewReader("some text")
		out, err := cmd.Output()
		if err != nil && args[0] != "doctor" { // which finds that there are no peers
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		dec := json.NewDecoder(bytes.NewReader(out))
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		if err := dec.Decode(&v); err != io.EOF {
			t.Errorf("%s: more than one value\n%s", line, out)
		}
	}
}
