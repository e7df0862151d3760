// Package lint holds checks that no compiler makes: of the units, scripts and other files
// in contrib, each with its own tool if that is installed, and of limits on the sources.
package lint

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"howett.net/plist"
)

// tool returns the path of a program, and skips the test if it is not installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestUnits: systemd accepts the units, and would ignore nothing in them.
func TestUnits(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"system", "user"} {
		source := filepath.Join("../systemd", strings.TrimPrefix(mode, "system"), "shoal.service")
		unit := filepath.Join(t.TempDir(), "shoal.service")
		text := strings.ReplaceAll(read(t, source), "/usr/local/bin/shoal", exe) // one that is there
		if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), analyze, "verify", "--"+mode, "--man=no", unit)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "shoal.service") {
			t.Errorf("%s: %v\n%s", source, err, out)
		}
	}
}

// TestExposure: systemd's rating of the service's exposure does not grow unnoticed. 10
// means fully exposed, 0 not at all.
func TestExposure(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", "--no-pager", "../systemd/shoal.service").CombinedOutput()
	if err != nil {
		t.Errorf("the exposure is above 2.0, or is not known: %v\n%s", err, out)
	}
}

func TestAgent(t *testing.T) {
	var job struct {
		Label            string
		ProgramArguments []string
		ExitTimeOut      int
	}
	format, err := plist.Unmarshal([]byte(read(t, "../launchd/net.shoal.node.plist")), &job)
	if err != nil || format != plist.XMLFormat || job.Label != "net.shoal.node" || len(job.ProgramArguments) != 3 || job.ExitTimeOut < 60 {
		t.Fatalf("%v: %+v", err, job)
	}
	script := job.ProgramArguments[2]
	if out, err := exec.CommandContext(t.Context(), "sh", "-nc", script).CombinedOutput(); err != nil || !strings.HasPrefix(script, "exec ") {
		t.Errorf("%q: %v\n%s", script, err, out)
	}
}

func TestScripts(t *testing.T) {
	shellcheck := tool(t, "shellcheck")
	for _, script := range []string{"../release/release.sh", "../release/install.sh", "../release/preinstall.sh", "../release/postinstall.sh", "../release/preremove.sh", "../changelog/collect.sh", "../accel/glslc", "../../.ci/run"} {
		if out, err := exec.CommandContext(t.Context(), shellcheck, script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

// TestReleaseDryRun: the script knows its targets, and prints what it would do.
func TestReleaseDryRun(t *testing.T) {
	for _, name := range []string{"git", "jq", "gcc", "g++", "objdump", "ssh-keygen"} {
		tool(t, name)
	}
	var env []string
	dry := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{"../release/release.sh", "--dry-run"}, args...)...)
		cmd.Env = append(os.Environ(), append([]string{"VERSION=v1.2.3", "CONTAINER=true"}, env...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if _, err := exec.CommandContext(t.Context(), "git", "rev-parse", "HEAD").Output(); err != nil {
		t.Skip("this is no git repository")
	}
	native := runtime.GOARCH
	if out, err := dry(native); err == nil || !strings.Contains(out, "--unsigned") {
		t.Errorf("without a key: %v\n%s", err, out)
	}
	env = []string{"SIGN_KEY=" + filepath.Join(t.TempDir(), "none")}
	if out, err := dry(native); err == nil || !strings.Contains(out, "there is no key") {
		t.Errorf("with a key that is not there: %v\n%s", err, out)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env = []string{"SIGN_KEY=" + key}
	if out, err := dry(native); err != nil {
		t.Errorf("with a key: %v\n%s", err, out)
	}
	env = []string{"SIGN_KEY=", "MINISIGN_KEY="}
	out, err := dry("--unsigned", native, native+"-baseline")
	if err != nil || strings.Count(out, "\n") != 2 || !strings.Contains(out, "shoal-v1.2.3-linux-"+native+"-baseline: -march=") {
		t.Errorf("%v\n%s", err, out)
	}
	digest := "@sha256:" + strings.Repeat("0a", 32)
	for base, ok := range map[string]bool{"": false, "x:1.26": false, "x@sha256:12": false, "x:1@sha256:" + strings.Repeat("g", 64): false, "x" + digest: true, "x:1" + digest: true} {
		env = []string{"SIGN_KEY=", "BUILD_IMAGE=x" + digest, "RUN_IMAGE=" + base}
		if out, err := dry("--unsigned", "image"); (err == nil) != ok {
			t.Errorf("the base %q: %v\n%s", base, err, out)
		}
	}
	if out, err := dry("sparc"); err == nil || !strings.Contains(out, `no target sparc; there are: amd64`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestChangelog: the notes have every change under its kind, and a file of another
// form is refused.
func TestChangelog(t *testing.T) {
	collect := func(folder ...string) (string, error) {
		args := append([]string{"../changelog/collect.sh", "v1.2.3"}, folder...)
		out, err := exec.CommandContext(t.Context(), "sh", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := collect(); err != nil || !strings.HasPrefix(out, "# shoal v1.2.3\n") {
		t.Errorf("what is unreleased: %v\n%s", err, out)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.md", "Fixed: One & two.\n")
	write("b.md", "Added: Three \\n 100%.\n\nMore of it.\n")
	write("c.md", "Fixed: Four.\n")
	want := "# shoal v1.2.3\n\n## Added\n\n- Three \\n 100%.\n\n  More of it.\n\n## Fixed\n\n- One & two.\n- Four.\n"
	if out, err := collect(dir); err != nil || out != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, out, want)
	}
	for _, text := range []string{"", "Mended: Five.\n", "Five.\n", "Added: five\n", "\nAdded: Five.\n"} {
		write("d.md", text)
		if out, err := collect(dir); err == nil || !strings.Contains(out, "d.md") {
			t.Errorf("%q: %v\n%s", text, err, out)
		}
	}
}

// TestMakeHelp: make help has a line for every target that people use.
func TestMakeHelp(t *testing.T) {
	tool(t, "make")
	out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "--no-print-directory", "help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	targets := regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindStringSubmatch(read(t, "../../Makefile"))
	if targets == nil {
		t.Fatal("the Makefile names no targets")
	}
	for _, name := range strings.Fields(targets[1]) {
		if name == "FORCE" || strings.HasPrefix(name, "install-") { // parts of others
			continue
		}
		if !regexp.MustCompile(`(?m)^  make ` + name + ` +\S`).Match(out) {
			t.Errorf("make help does not explain %s", name)
		}
	}
}

// TestBases: the Containerfile names images only through arguments, which the release
// sets by digest.
func TestBases(t *testing.T) {
	from := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(read(t, "../container/Containerfile"), -1)
	script := read(t, "../release/release.sh")
	for _, m := range from {
		name := strings.Trim(m[1], "${}")
		if m[1] != "${"+name+"}" || !strings.Contains(script, "pinned "+name+" ") || !strings.Contains(script, "--build-arg "+name+"=") {
			t.Errorf("FROM %s, which the release does not give by digest", m[1])
		}
	}
	if len(from) != 2 {
		t.Errorf("%d bases", len(from))
	}
}

// TestSettingsNamed: the settings in the files here are settings of a node.
func TestSettingsNamed(t *testing.T) {
	reference := read(t, "../config/node.toml")
	for _, path := range []string{"../container/Containerfile", "../container/README.md", "../systemd/shoal.service", "../systemd/user/shoal.service"} {
		for _, name := range regexp.MustCompile(`\bSHOAL_[A-Z_]+`).FindAllString(read(t, path), -1) {
			if !regexp.MustCompile(`(?m)^# --.*\b` + name + `\b`).MatchString(reference) {
				t.Errorf("%s sets %s, which no setting is read from", path, name)
			}
		}
	}
}
