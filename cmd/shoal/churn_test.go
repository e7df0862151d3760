package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/scenario"
)

// churnCmd is `shoal testnet run` in a directory that has a scenario.
func churnCmd(t *testing.T, text string, args ...string) (cmd *exec.Cmd, out, errOut *bytes.Buffer, dir string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "some.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, exe, append([]string{"testnet", "run"}, args...)...)
	out, errOut = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, errOut
	cmd.Env = append(os.Environ(), "SHOAL_QUIET_BUILD=1", "TMPDIR="+dir)
	return cmd, out, errOut, dir
}

// Node 3 hangs while node 1, which has the same blocks, is away: whatever runs
// then must be repaired.
const shortChurn = `
about = "a kill, a hang and a cut"
nodes = 4
replicas = 2
duration = "12s"
exact = false

[sessions]
count = 3
distinct = 4
max_tokens = 60

[[fault]]
kind = "kill"
target = "node1"
at = "1s"
rejoin = "3s"

[[fault]]
kind = "hang"
target = "node3"
at = "3s"
for = "2s"

[[fault]]
kind = "partition"
groups = [["node1", "node2"], ["node3", "node4"]]
at = "9s"
for = "2s"
`

// TestChurn: sessions outlive what a scenario does to their nodes, and the
// report says so.
func TestChurn(t *testing.T) {
	t.Parallel()
	cmd, out, errOut, dir := churnCmd(t, shortChurn, "--json", "some.toml", "--report", "page.html", "--dir", "net")
	err := cmd.Run()
	if t.Failed() || err != nil {
		logs, _ := filepath.Glob(filepath.Join(dir, "net", "*", "node.log"))
		for _, name := range append(logs, filepath.Join(dir, "net", "client.log")) {
			raw, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", name, raw)
		}
		t.Fatalf("%v\n%s%s", err, out, errOut)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(out.Bytes(), &fields); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	number := func(key string) (n float64) {
		if err := json.Unmarshal(fields[key], &n); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		return n
	}
	if number("sessions") < 3 || number("finished") != number("sessions") {
		t.Errorf("%v of %v sessions finished", number("finished"), number("sessions"))
	}
	for _, key := range []string{"lost", "duplicated", "reordered", "refused", "skipped"} {
		if n := number(key); n != 0 {
			t.Errorf("%v %s", n, key)
		}
	}
	var stall scenario.Quantiles
	if err := json.Unmarshal(fields["stall_ms"], &stall); err != nil || stall.N == 0 {
		t.Errorf("no session was repaired: %v", err)
	}
	t.Logf("%v sessions, %v differ; stall %s", number("sessions"), number("differing"), stall)
	if errOut.Len() > 0 {
		t.Errorf("it is not quiet in a pipe:\n%s", errOut)
	}
	page, err := os.ReadFile(filepath.Join(dir, "page.html"))
	if err != nil || !bytes.Contains(page, []byte("a kill, a hang and a cut")) {
		t.Errorf("the page: %v", err)
	}
	if lines, err := os.ReadFile(filepath.Join(dir, "net", "sessions.jsonl")); err != nil || bytes.Count(lines, []byte("\n")) != int(number("sessions")) {
		t.Errorf("the record: %v", err)
	}
}

// TestChurnInterrupted: Ctrl-C ends a run in order, with the report so far.
func TestChurnInterrupted(t *testing.T) {
	t.Parallel()
	// The cut leaves sessions without a route, and a file that tells when.
	const text = "allow_gap = true\nnodes = 2\nduration = \"1h\"\n" +
		"[[fault]]\nkind = \"partition\"\ngroups = [[\"client\"], [\"node1\"]]\nat = \"0s\"\nfor = \"1h\"\n"
	cmd, out, errOut, dir := churnCmd(t, text, "some.toml")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var net string
	eventually(t, 2*time.Minute, "the faults have begun", func() bool {
		found, _ := filepath.Glob(testnet.CutsFile(filepath.Join(dir, "shoal-run-*"), testnet.Client))
		if len(found) == 1 {
			net = filepath.Dir(filepath.Dir(found[0]))
		}
		return net != ""
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("%v\n%s", err, errOut)
	}
	for _, want := range []string{"some: 2 nodes", "interrupted by the end of this run", "1 partition"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s%s", want, out, errOut)
		}
	}
	if _, err := os.Stat(net); !os.IsNotExist(err) {
		t.Errorf("%s is still there", net)
	}
}

// TestChurnUsage: mistakes are named before anything starts.
func TestChurnUsage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text string
		args []string
		want string
	}{
		{"", nil, "contrib/scenarios"},
		{"", []string{"a.toml", "b.toml"}, "contrib/scenarios"},
		{"", []string{"none.toml"}, "no such file"},
		{"nodes = 2\nduratoin = \"1s\"\n", []string{"some.toml"}, `some.toml: there is no setting "duratoin"`},
		{shortChurn, []string{"some.toml", "--nodes", "3"}, "-nodes"},
		{shortChurn, []string{"some.toml", "--duration", "-1s"}, "--duration"},
		{shortChurn, []string{"--seed", "x", "some.toml"}, "seed"},
	} {
		cmd, out, errOut, _ := churnCmd(t, tc.text, tc.args...)
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(errOut.String(), tc.want) || out.Len() > 0 {
			t.Errorf("%v: %v, want exit 2 and %q\n%s%s", tc.args, err, tc.want, out, errOut)
		}
	}
}
