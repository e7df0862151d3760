package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// Whole networks of real processes.

// processes starts a testnet whose nodes are this test binary, if no other is
// named.
func processes(t *testing.T, conf testnet.Config) *testnet.Testnet {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	conf.Binary, conf.Dir = cmp.Or(conf.Binary, exe), t.TempDir()
	conf.Env = append(conf.Env, "SHOAL_QUIET_BUILD=1")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	net, err := testnet.Start(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range net.Nodes() {
				raw, _ := os.ReadFile(n.Log)
				t.Logf("%s:\n%s", n.Name, raw)
			}
		}
	})
	if err := net.WaitReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return net
}

// client is a fresh home that knows a network.
type client struct {
	t    testing.TB
	env  []string
	home string
}

func newClient(t testing.TB, net *testnet.Testnet) *client {
	home, err := net.ClientHome()
	if err != nil {
		t.Fatal(err)
	}
	env := slices.DeleteFunc(net.Env(home, ""), func(kv string) bool { return strings.HasPrefix(kv, "SHOAL_API=") })
	return &client{t: t, home: home, env: append(env, "SHOAL_QUIET_BUILD=1")}
}

// run is one command: what it printed, and how it ended.
func (c *client) run(args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	cmd, out, errOut := c.command(args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if strings.Contains(errOut.String(), "goroutine ") {
		c.t.Errorf("shoal %v panicked:\n%s", args, errOut)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func (c *client) command(args ...string) (cmd *exec.Cmd, out, errOut *bytes.Buffer) {
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	c.t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, exe, args...)
	out, errOut = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, out, errOut
	return cmd, out, errOut
}

// prompt asks with --json and must be answered.
func (c *client) prompt(args ...string) promptResult {
	c.t.Helper()
	out, errOut, code := c.run(append([]string{"prompt", "--json"}, args...)...)
	var r promptResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		c.t.Fatalf("shoal prompt %v: exit %d, %v\n%s%s", args, code, err, out, errOut)
	}
	return r
}

// statusOf asks a node about itself.
func statusOf(t testing.TB, n testnet.Node) api.Status {
	t.Helper()
	exe, _ := os.Executable()
	cmd := exec.CommandContext(t.Context(), exe, "status", "--home", n.Dir, "--json")
	cmd.Env = append(os.Environ(), "SHOAL_QUIET_BUILD=1")
	out, err := cmd.Output()
	var s api.Status
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		t.Fatalf("status of %s: %v\n%s", n.Name, err, out)
	}
	return s
}

func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

var greedy = []string{"--raw", "--temperature", "0", "-n", "120", "Once upon a time"}

// TestSameTokens: as many nodes as one likes, and the same answer; the first of
// them is what the reference program said.
func TestSameTokens(t *testing.T) {
	t.Parallel()
	models := map[string]string{"tinytales": ""}
	for _, name := range []string{"stories260K.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"} {
		path, err := filepath.Abs("../../../shared/models/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Logf("without %s, which is not here", name)
			continue
		}
		models[name] = path
	}
	for name, model := range models {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want [2][]int32
			for _, nodes := range []int{1, 3, 5} {
				// Where a machine is busy, late tokens are computed by another route, too, in
				// passes of other shapes: --exact has those sums be the same to the last bit.
				net := processes(t, testnet.Config{Nodes: nodes, Model: model, Args: []string{"--exact"}})
				c := newClient(t, net)
				cold := c.prompt(greedy...)
				drawn := c.prompt("--seed", "7", "--temperature", "0.9", "--top-p", "0.95", "--repeat-penalty", "1.1", "-n", "60", "--raw", "Tell me about the sea.")
				if len(cold.Route) != nodes || len(cold.Tokens) < 60 || cold.TokensPerS <= 0 || cold.PredictedTokens <= 0 || cold.TTFTMs <= 0 {
					t.Fatalf("%d nodes: %+v", nodes, cold)
				}
				if nodes == 1 {
					want = [2][]int32{cold.Tokens, drawn.Tokens}
				} else if !slices.Equal(cold.Tokens, want[0]) || !slices.Equal(drawn.Tokens, want[1]) {
					t.Errorf("%d nodes answer otherwise than one:\n%v\n%v\n%v\n%v", nodes, cold.Tokens, want[0], drawn.Tokens, want[1])
				}
				if held, _ := filepath.Glob(filepath.Join(c.home, "store/models/*/data.gguf")); len(held) != 1 || allocatedFile(t, held[0]) > 4<<20 {
					t.Errorf("the client holds weights: %v", held)
				}
				if err := net.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func allocatedFile(t testing.TB, path string) int64 {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestEngineKilled: an answer whose engine dies waits until the node has
// restarted it, and is the undisturbed one; the node lives.
func TestEngineKilled(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 3, Link: link.Params{RTT: 30 * time.Millisecond}})
	c := newClient(t, net)
	want := c.prompt(greedy...)
	before := map[string]testnet.Node{}
	kill := fault{"engine killed", func(n testnet.Node) error {
		before[n.Name] = n
		return syscall.Kill(n.EnginePID, syscall.SIGKILL)
	}, func(testnet.Node) error { return nil }}
	hit := false
	for try := 0; try < 4 && !hit; try++ { // the stage chosen may be one that only a probe used
		hit = strike(t, net, c, kill, want)
	}
	if !hit {
		t.Error("no answer lost its engine")
	}
	for _, after := range net.Nodes() {
		if old, killed := before[after.Name]; killed && (after.EnginePID == old.EnginePID || after.PID != old.PID) {
			t.Errorf("node and engine were %d and %d and are now %d and %d", old.PID, old.EnginePID, after.PID, after.EnginePID)
		}
	}
}

// fault is something that befalls a node, and how the node is brought back.
type fault struct {
	name     string
	do, undo func(testnet.Node) error
}

// TestNodeLost: the answer goes on whichever node of a pair is killed, hangs or
// leaves in the middle of it.
func TestNodeLost(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 6, Replicas: 2, Link: link.Params{RTT: 20 * time.Millisecond}})
	c := newClient(t, net)
	want := c.prompt(greedy...)
	restart := func(n testnet.Node) error { return net.Restart(t.Context(), n.Name) }
	for _, f := range []fault{
		{"killed", func(n testnet.Node) error { return net.Kill(n.Name) }, restart},
		{"hangs", func(n testnet.Node) error { return net.Signal(n.Name, syscall.SIGSTOP) }, func(n testnet.Node) error { return net.Signal(n.Name, syscall.SIGCONT) }},
		{"leaves", func(n testnet.Node) error { return net.Stop(n.Name) }, restart},
	} {
		lost := false
		for try := 0; try < 4 && !lost; try++ { // the stage chosen may be one that only a probe used
			lost = strike(t, net, c, f, want)
		}
		if !lost {
			t.Errorf("%s: no answer lost a stage", f.name)
		}
	}
}

// strike has a fault befall a node while an answer is under way, checks the answer, and
// brings the node back. It reports whether the answer was on that node.
func strike(t *testing.T, net *testnet.Testnet, c *client, f fault, want promptResult) bool {
	cmd, out, errOut := c.command(append([]string{"prompt", "--json"}, greedy...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var victim testnet.Node
	seen := map[string]int{} // probes come and go, the answer stays
	for end := time.Now().Add(10 * time.Second); victim.Name == "" && time.Now().Before(end); time.Sleep(80 * time.Millisecond) {
		for _, n := range net.Nodes() {
			if n.From == 0 || !n.Ready || statusOf(t, n).Serving[0].Sessions == 0 {
				seen[n.Name] = 0
			} else if seen[n.Name]++; seen[n.Name] == 3 {
				victim = n
			}
		}
	}
	if victim.Name == "" {
		_ = cmd.Wait()
		return false
	}
	if err := f.do(victim); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", victim.Name, f.name, err, out, errOut)
	}
	var got promptResult
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || !slices.Equal(got.Tokens, want.Tokens) {
		t.Errorf("%s %s: %v: %v after %+v, want %v", victim.Name, f.name, err, got.Tokens, got.Recoveries, want.Tokens)
	}
	for _, r := range got.Recoveries {
		t.Logf("%s %s: stall %.0f ms, %d positions again: %s", victim.Name, f.name, r.StallMs, r.Replayed, r.Why)
	}
	if err := f.undo(victim); err != nil {
		t.Fatal(err)
	}
	if err := net.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return len(got.Recoveries) > 0
}

// TestBootstrapLeaves: who has met the others does not need the one it met them
// by; and without the last block there is no route, which is said.
func TestBootstrapLeaves(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 4, Replicas: 2})
	c := newClient(t, net)
	want := c.prompt(greedy...)
	if err := net.Stop("node1"); err != nil {
		t.Fatal(err)
	}
	if got := c.prompt(greedy...); !slices.Equal(got.Tokens, want.Tokens) {
		t.Errorf("without the bootstrap node: %v, want %v", got.Tokens, want.Tokens)
	}
	if err := net.Kill("node3"); err != nil { // the other that has the first half
		t.Fatal(err)
	}
	var errOut string
	eventually(t, 15*time.Second, "no route", func() bool {
		var code int
		_, errOut, code = c.run("prompt", "hello")
		return code == 3
	})
	if !strings.Contains(errOut, "0-4") {
		t.Errorf("it is not said that blocks 0-4 are missing: %s", errOut)
	}
}

// TestFetchKilled: what a node has fetched before it is killed, it does not
// fetch again; a byte that changes on its disk, it does.
func TestFetchKilled(t *testing.T) {
	t.Parallel()
	original := filepath.Join(t.TempDir(), "tales.gguf") // under another name than the one inside the program
	if err := os.WriteFile(original, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	size := int64(len(tinymodel.GGUF()))
	net := processes(t, testnet.Config{Nodes: 1, Model: original, Link: link.Params{RTT: 2 * time.Millisecond, Rate: 8e6}})
	source := net.Nodes()[0]
	c := newClient(t, net)

	pull, _, errOut := c.command("model", "pull", "tales")
	if err := pull.Start(); err != nil {
		t.Fatal(err)
	}
	data := func() string {
		m, _ := filepath.Glob(filepath.Join(c.home, "store/models/*/data.gguf"))
		if len(m) != 1 {
			return ""
		}
		return m[0]
	}
	eventually(t, 30*time.Second, "a third is fetched", func() bool { return data() != "" && allocatedFile(t, data()) > size/3 })
	if err := pull.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = pull.Wait()
	there := allocatedFile(t, data())
	if there >= size {
		t.Fatalf("nothing was missing when it was killed: %s", errOut)
	}
	before := int64(statusOf(t, source).Given)
	if out, errOut, code := c.run("model", "pull", "tales"); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	if again := int64(statusOf(t, source).Given) - before; again > size-there+3<<20 || again == 0 {
		t.Errorf("%d of %d bytes were there, and %d were fetched", there, size, again)
	}
	copied := filepath.Join(t.TempDir(), "copy.gguf")
	if _, errOut, code := c.run("model", "export", "tales", copied); code != 0 {
		t.Fatal(errOut)
	}
	if sum(t, original) != sum(t, copied) {
		t.Error("the copy is not the original")
	}
}

// TestFlippedByte: a byte that changes on a node's disk is found before it is
// computed with, and fetched again.
func TestFlippedByte(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 4, Replicas: 2})
	c := newClient(t, net)
	want := c.prompt(greedy...)
	if err := net.Stop("node3"); err != nil {
		t.Fatal(err)
	}
	damaged := net.Nodes()[2]
	given := func() (sum uint64) {
		for _, n := range net.Nodes() {
			if n.Name != damaged.Name {
				sum += statusOf(t, n).Given
			}
		}
		return sum
	}
	files, _ := filepath.Glob(filepath.Join(damaged.Dir, "store/models/*/data.gguf"))
	if len(files) != 1 {
		t.Fatal(files)
	}
	flip(t, files[0])
	before := given()
	if err := net.Restart(t.Context(), "node3"); err != nil {
		t.Fatal(err)
	}
	if err := net.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if again := given() - before; again == 0 || again > 2<<20 {
		t.Errorf("%d bytes were fetched for one that had changed", again)
	}
	if err := net.Stop("node1"); err != nil {
		t.Fatal(err)
	}
	if got := c.prompt(greedy...); !slices.Equal(got.Tokens, want.Tokens) {
		t.Errorf("computed with a damaged block: %v, want %v", got.Tokens, want.Tokens)
	}
}

func sum(t testing.TB, path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))
}

// flip changes one byte in the middle of what a sparse file holds.
func flip(t testing.TB, path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const seekData = 3 // SEEK_DATA
	at, err := f.Seek(allocatedFile(t, path)/2, seekData)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestEngineHangs: an engine that hangs in a pass keeps its node from leaving no
// longer than such a pass may take.
func TestEngineHangs(t *testing.T) {
	t.Parallel()
	var stopped atomic.Bool
	net := processes(t, testnet.Config{Nodes: 1, StopGrace: time.Minute, Args: []string{"--drain-time", "1s"}, Events: func(e testnet.Event) {
		if e.Event == testnet.EventStopped {
			stopped.Store(true)
		}
	}})
	n := net.Nodes()[0]
	c := newClient(t, net)
	if err := syscall.Kill(n.EnginePID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	cmd, _, _ := c.command(append([]string{"prompt"}, greedy...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the engine is asked", func() bool {
		st := statusOf(t, n)
		return len(st.Serving) == 1 && st.Serving[0].Sessions > 0
	})
	if err := net.Stop(n.Name); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !stopped.Load() {
		t.Error("the node had to be killed")
	}
	if err := syscall.Kill(n.EnginePID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the engine outlives its node: %v", err)
	}
}
