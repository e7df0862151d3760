package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// versionFile is beside a program of a test, and says which version it is.
const versionFile = ".version"

// versionOfTest is the version that this program is to say, if a test has given
// it one.
func versionOfTest() (string, bool) {
	exe, err := os.Executable()
	if err != nil {
		return "", false
	}
	raw, err := os.ReadFile(exe + versionFile)
	return string(raw), err == nil
}

// TestUpgrade: three nodes, of which none has another's blocks, become a newer
// program one after another, as `systemctl restart` does it, in the middle of
// answers. None is lost, none comes out another. Two versions work together
// meanwhile. A node stays who it was, where it was, with what it had.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "shoal")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// As install(1) and package managers do it: whoever runs the old one has it on.
	put := func(version string, program func(path string) error) {
		t.Helper()
		next := binary + ".new"
		if err := program(next); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(binary+versionFile, []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, binary); err != nil {
			t.Fatal(err)
		}
	}
	// A copy: a link would keep the old name of what runs.
	shoal := func(path string) error { return exec.CommandContext(t.Context(), "cp", exe, path).Run() }

	put("v1", shoal)
	net := processes(t, testnet.Config{
		Binary: binary, Nodes: 3, Link: link.Params{RTT: 30 * time.Millisecond}, Args: []string{"--exact", "--drain-time", "1s"},
	})
	c := newClient(t, net)
	want := c.prompt(greedy...)
	if len(want.Route) != 3 {
		t.Fatalf("the route has %d stages", len(want.Route))
	}

	// An engine that is lost before its node is restarted comes from the program
	// that runs, not from what is at its path now.
	if runtime.GOOS == "linux" {
		put("none", func(path string) error { return os.WriteFile(path, []byte("not a program\n"), 0o700) })
		lost := net.Nodes()[1]
		if err := net.SignalEngine(lost.Name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "an engine again", func() bool {
			n := net.Nodes()[1]
			return n.Ready && n.EnginePID != lost.EnginePID && n.PID == lost.PID
		})
	}

	put("v2", shoal)
	repaired := 0
	for _, before := range net.Nodes() {
		type answer struct {
			cmd         *exec.Cmd
			out, errOut *bytes.Buffer
		}
		var answers []answer
		for range 2 {
			cmd, out, errOut := c.command(append([]string{"prompt", "--json"}, greedy...)...)
			cmd.Env = slices.DeleteFunc(slices.Clone(cmd.Env), func(kv string) bool { return strings.HasPrefix(kv, "SHOAL_HOME=") })
			home, err := net.ClientHome()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(cmd.Env, "SHOAL_HOME="+home)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			answers = append(answers, answer{cmd, out, errOut})
		}
		seen := 0 // probes come and go, the answers stay
		eventually(t, time.Minute, "answers are under way", func() bool {
			if s := statusOf(t, before); len(s.Serving) == 1 && s.Serving[0].Sessions >= 2 {
				seen++
			} else {
				seen = 0
			}
			return seen >= 3
		})
		if err := net.Stop(before.Name); err != nil {
			t.Fatal(err)
		}
		if err := net.Restart(t.Context(), before.Name); err != nil {
			t.Fatal(err)
		}
		for _, a := range answers {
			var got promptResult
			if err := a.cmd.Wait(); err != nil {
				t.Fatalf("%s: %v\n%s%s", before.Name, err, a.out, a.errOut)
			}
			if err := json.Unmarshal(a.out.Bytes(), &got); err != nil || !slices.Equal(got.Tokens, want.Tokens) {
				t.Errorf("%s: %v: %v after %+v, want %v", before.Name, err, got.Tokens, got.Recoveries, want.Tokens)
			}
			for _, r := range got.Recoveries {
				repaired++
				t.Logf("%s: stall %.0f ms, %d positions again: %s", before.Name, r.StallMs, r.Replayed, r.Why)
			}
		}
		if err := net.WaitReady(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(net.Nodes(), func(n testnet.Node) bool { return n.Name == before.Name })
		after := net.Nodes()[i]
		s := statusOf(t, after)
		if s.Version != "v2" || after.PID == before.PID {
			t.Errorf("%s is %s, process %d, and was %d", after.Name, s.Version, after.PID, before.PID)
		}
		if was, is := fmt.Sprint(before.Peer, before.Addrs, before.API), fmt.Sprint(after.Peer, after.Addrs, after.API); was != is {
			t.Errorf("it was\n%s\nand is\n%s", was, is)
		}
		if s.Taken != 0 {
			t.Errorf("%s fetched %d bytes that it had", after.Name, s.Taken)
		}
		for _, n := range net.Nodes()[i+1:] {
			if v := statusOf(t, n).Version; v != "v1" {
				t.Errorf("%s, whose turn is still to come, is %s", n.Name, v)
			}
		}
	}
	if repaired == 0 {
		t.Error("no answer met a node that left")
	}
}
