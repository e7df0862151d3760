package testnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
)

// timeout is far beyond what anything here takes.
func timeout() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 30*time.Second, errors.New("it takes too long"))
	context.AfterFunc(ctx, cancel)
	return ctx
}

// fake is a config for fake nodes with faults, and a record of the events.
func fake(t *testing.T, nodes int, faults string) (Config, func() []Event) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir()) // to see what stays behind
	var events []Event
	done := make(chan struct{})
	ch := make(chan Event, 1000)
	go func() {
		defer close(done)
		for e := range ch {
			events = append(events, e)
		}
	}()
	conf := Config{
		Binary: exe, Nodes: nodes, Env: []string{"FAKE_NODE=" + faults},
		StopGrace: 20 * time.Second, Events: func(e Event) { ch <- e },
	}
	return conf, func() []Event { close(ch); <-done; return events }
}

// alive tells whether a process runs; a dead one that nobody has waited for
// does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux"
	}
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(bytes.TrimSpace(after), []byte("Z"))
}

func mustBeGone(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		for end := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("process %d is still there", pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
	}
}

// mustBeEmpty checks that no temporary directory stays.
func mustBeEmpty(t *testing.T) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "shoal-testnet-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func pids(events []Event) (all []int) {
	for _, e := range events {
		if e.Event == EventStarted {
			all = append(all, e.PID)
		}
	}
	return all
}

func TestDivide(t *testing.T) {
	for _, tc := range []struct {
		blocks, nodes, replicas int
		want                    string
		cuts                    *protocol.Cuts
	}{
		{12, 3, 1, "0-8 8-12 0-8", &protocol.Cuts{Blocks: 12, Edges: []int{8}}},
		{12, 3, 1, "0-12 0-12 0-12", &protocol.Cuts{Blocks: 12}},
		{30, 3, 1, "0-10 10-20 20-30", nil},
		{10, 3, 1, "0-3 3-6 6-10", nil},
		{5, 1, 1, "0-5", nil},
		{2, 4, 1, "0-1 1-2 0-1 1-2", nil},
		{8, 8, 2, "0-2 2-4 4-6 6-8 0-2 2-4 4-6 6-8", nil},
		{6, 5, 2, "0-3 3-6 0-3 3-6 0-3", nil},
		{4, 3, 3, "0-4 0-4 0-4", nil},
	} {
		var got []string
		for _, s := range divide(tc.blocks, tc.nodes, tc.replicas, tc.cuts) {
			got = append(got, s.String())
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%d blocks on %d nodes, %d times: %s, want %s", tc.blocks, tc.nodes, tc.replicas, s, tc.want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		conf Config
		want string
	}{
		{Config{Nodes: 1}, "executable"},
		{Config{Binary: "x"}, "0 nodes"},
		{Config{Binary: "x", Nodes: 1000}, "1000 nodes"},
		{Config{Binary: "x", Nodes: 2, Replicas: 3}, "3 replicas"},
		{Config{Binary: "/nonexistent/shoal", Nodes: 2}, "no such file"},
		{Config{Binary: os.Args[0], Nodes: 2, Model: "/nonexistent/model.gguf"}, "no such file"},
	} {
		t.Setenv("TMPDIR", t.TempDir())
		n, err := Start(timeout(), tc.conf)
		if err == nil {
			n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.conf, err, tc.want)
		}
		mustBeEmpty(t)
	}
}

// TestLife goes through all that a network can do.
func TestLife(t *testing.T) {
	t.Setenv("SHOAL_BOOTSTRAP", "must not reach the nodes")
	conf, events := fake(t, 3, "")
	conf.Link = link.Params{RTT: 40 * time.Millisecond}
	conf.Threads = 2
	var log bytes.Buffer
	conf.Log = &log
	conf.ClientConfig = func(dir string, bootstrap []string) error {
		return os.WriteFile(filepath.Join(dir, "conf"), []byte(strings.Join(bootstrap, "\n")), 0o644)
	}
	net, err := Start(timeout(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	if err := net.WaitReady(timeout(), nil); err != nil {
		t.Fatal(err)
	}
	nodes := net.Nodes()
	var spans []string
	for _, n := range nodes {
		spans = append(spans, Span{n.From, n.To}.String())
		if !n.Ready || n.PID == 0 || n.EnginePID == 0 || n.API == "" || n.Peer == "" || !alive(n.PID) {
			t.Errorf("node: %+v", n)
		}
	}
	if s := strings.Join(spans, " "); s != "0-3 3-6 6-10" {
		t.Errorf("spans %s", s)
	}

	// What the nodes were given.
	read := func(name string) string { b, _ := os.ReadFile(filepath.Join(net.Dir(), name)); return string(b) }
	if got, want := read("node1/held"), "0-1 [tinytales]\n0-3 [tinytales]\n"; got != want {
		t.Errorf("node1 imported %q", got)
	}
	if got, want := read("node3/held"), "6-10 [tinytales]\n"; got != want {
		t.Errorf("node3 imported %q", got)
	}
	if strings.Contains(read("node1/args"), "--bootstrap") {
		t.Error("the first node has a bootstrap node")
	}
	for _, want := range []string{"--span\n3-6", "--model\nbafytiny", "--threads\n2", "--no-mdns", "--json-events", "--listen\n/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0\n",
		"--bootstrap\n/ip4/127.0.0.1/udp/" + strconv.Itoa(nodes[0].PID) + "/quic-v1/p2p/" + nodes[0].Peer} {
		if !strings.Contains(read("node2/args"), want) {
			t.Errorf("node2's arguments have no %q:\n%s", want, read("node2/args"))
		}
	}
	if env := read("node2/env"); !strings.Contains(env, "SHOAL_LINK=rtt=40ms") || strings.Contains(env, "SHOAL_BOOTSTRAP") {
		t.Errorf("node2's environment:\n%s", env)
	}

	// A command in the network.
	code, err := net.Exec(timeout(), []string{"sh", "-c",
		`cp "$SHOAL_TESTNET" "$SHOAL_HOME/state" && env > "$SHOAL_HOME/env" && exit 7`})
	if code != 7 || err != nil {
		t.Errorf("Exec: %d, %v", code, err)
	}
	var s struct {
		Model string
		Nodes []map[string]any
	}
	if err := json.Unmarshal([]byte(read("client1/state")), &s); err != nil || s.Model != "bafytiny" || len(s.Nodes) != 3 {
		t.Errorf("state: %v: %s", err, read("client1/state"))
	}
	for _, key := range []string{"name", "pid", "engine_pid", "peer", "from", "to", "dir", "api"} {
		if _, ok := s.Nodes[1][key]; !ok {
			t.Errorf("state: a node has no %q", key)
		}
	}
	env := read("client1/env")
	for _, want := range []string{"SHOAL_API=http://" + nodes[0].API, "OPENAI_BASE_URL=http://" + nodes[0].API + "/v1",
		"SHOAL_LINK=rtt=40ms", "SHOAL_BOOTSTRAP=/ip4/127.0.0.1/"} {
		if !strings.Contains(env, want+"\n") && !strings.Contains(env, want) {
			t.Errorf("Exec's environment has no %s:\n%s", want, env)
		}
	}
	if conf := read("client1/conf"); strings.Count(conf, "/ip4/127.0.0.1/udp/") != 3 {
		t.Errorf("the client knows %q", conf)
	}
	if code, err := net.Exec(timeout(), []string{"sh", "-c", "kill -9 $$"}); code != 128+9 || err != nil {
		t.Errorf("Exec of a command that a signal ends: %d, %v", code, err)
	}
	if _, err := net.Exec(timeout(), []string{"/nonexistent/command"}); err == nil {
		t.Error("Exec of nothing passes")
	}

	// A node goes and comes back where it was.
	if err := net.Kill("node2"); err != nil {
		t.Fatal(err)
	}
	if n := net.Nodes()[1]; n.PID != 0 || n.Ready || alive(nodes[1].PID) {
		t.Errorf("killed: %+v", n)
	}
	if state := read("testnet.json"); !strings.Contains(state, `"pid": 0`) {
		t.Errorf("the state file does not know:\n%s", state)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	if err := net.WaitReady(ctx, nil); err == nil || !strings.Contains(err.Error(), "served by nobody") {
		t.Errorf("ready without node2: %v", err)
	}
	cancel()
	if err := net.Restart(timeout(), "node2"); err != nil {
		t.Fatal(err)
	}
	if err := net.WaitReady(timeout(), nil); err != nil {
		t.Fatal(err)
	}
	again := net.Nodes()[1]
	if again.PID == nodes[1].PID || again.API != nodes[1].API || listenAddrs(again.Addrs) != listenAddrs(nodes[1].Addrs) {
		t.Errorf("restarted as %+v, was %+v", again, nodes[1])
	}
	if n, err := net.AddNode(timeout(), "auto"); err != nil || n.Name != "node4" {
		t.Errorf("AddNode: %+v, %v", n, err)
	}
	if err := net.Signal("node3", syscall.SIGSTOP); err != nil { // Close copes with it
		t.Error(err)
	}
	if err := net.Kill("node9"); err == nil {
		t.Error("killed a node that is not there")
	}

	if err := net.Close(); err != nil {
		t.Error(err)
	}
	if err := net.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.AddNode(timeout(), "auto"); err == nil {
		t.Error("a closed network takes nodes")
	}
	seen := events()
	mustBeGone(t, pids(seen)...)
	mustBeEmpty(t)
	if !strings.Contains(log.String(), "node2 opening the store\n") {
		t.Errorf("log: %q", log.String())
	}
	// The first node was the last to stop.
	last := seen[len(seen)-1]
	if last.Node != "node1" || last.Event != EventExited {
		t.Errorf("last event: %+v", last)
	}
	for _, e := range seen {
		if e.Error != "" {
			t.Errorf("event: %+v", e)
		}
	}
}

// TestFailedStart: the error tells what the node said, and nothing stays.
func TestFailedStart(t *testing.T) {
	for _, tc := range []struct{ faults, giveUp, want string }{
		{"node1:die", "", "the disk is full"},
		{"node3:die", "", "node3 ended unexpectedly (exit status 3)"},
		{"node2:nonsense", "", "not an event"},
		{"node2:noimport", "", "not a GGUF file"},
		{"node1:mute", "node1 " + EventStarted, "node1 does not listen yet: gave up"},
		{"node2:mute", "node2 " + EventStarted, "node2 does not listen yet: gave up"},
		{"node2:slowimport", "node2 " + EventImport, "gave up"},
	} {
		t.Run(tc.faults, func(t *testing.T) {
			conf, events := fake(t, 3, tc.faults)
			conf.StopGrace = 500 * time.Millisecond
			ctx, cancel := context.WithCancelCause(timeout())
			defer cancel(nil)
			record := conf.Events
			conf.Events = func(e Event) {
				if record(e); e.Node+" "+e.Event == tc.giveUp {
					cancel(errors.New("gave up"))
				}
			}
			net, err := Start(ctx, conf)
			if err == nil {
				net.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			mustBeGone(t, pids(events())...)
			mustBeEmpty(t)
		})
	}
}

func TestNotReady(t *testing.T) {
	conf, _ := fake(t, 2, "node2:late")
	net, err := Start(timeout(), conf)
	if err == nil {
		err = net.WaitReady(timeout(), nil)
		// It may have been ready for an instant; it is not after its end.
		for err == nil {
			err = net.WaitReady(timeout(), nil)
		}
		net.Close()
	}
	if !strings.Contains(err.Error(), "panic: later") {
		t.Errorf("error: %v", err)
	}

	conf, _ = fake(t, 2, "node2:unready")
	if net, err = Start(timeout(), conf); err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := net.WaitReady(ctx, nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "node2") {
		t.Errorf("not ready: %v", err)
	}
}

// TestStubborn: a node that does not hear SIGTERM, and one whose child outlives
// it with the pipes in its hands.
func TestStubborn(t *testing.T) {
	for _, tee := range []bool{false, true} {
		conf, events := fake(t, 2, "node1:orphan,node2:hang,node2:orphan")
		conf.StopGrace = 200 * time.Millisecond
		if tee {
			conf.Log = new(bytes.Buffer)
		}
		net, err := Start(timeout(), conf)
		if err != nil {
			t.Fatal(err)
		}
		if err := net.WaitReady(timeout(), nil); err != nil {
			t.Fatal(err)
		}
		var engines []int
		for _, n := range net.Nodes() {
			if engines = append(engines, n.EnginePID); !alive(n.EnginePID) {
				t.Errorf("%s has no child", n.Name)
			}
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
		mustBeGone(t, append(engines, pids(events())...)...)
		mustBeEmpty(t)
	}
}

func TestKeep(t *testing.T) {
	conf, _ := fake(t, 1, "")
	conf.Keep = true
	net, err := Start(timeout(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := net.Close(); err != nil {
		t.Error(err)
	}
	if log := tail(filepath.Join(net.Dir(), "node1", "node.log"), 5); log != "opening the store" {
		t.Errorf("kept log: %q", log)
	}
}

// TestParentKilled: nodes die with a testnet that cannot stop them any more.
func TestParentKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ties a child's life to its parent's")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "FAKE_PARENT="+t.TempDir())
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var nodes []int
	for lines := bufio.NewScanner(out); len(nodes) < 2 && lines.Scan(); {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil || !alive(pid) {
			t.Fatalf("no node: %q", lines.Text())
		}
		nodes = append(nodes, pid)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	if len(nodes) != 2 {
		t.Errorf("nodes %v", nodes)
	}
	mustBeGone(t, nodes...)
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"event":"listening","peer":"12D3","addrs":["/ip4/127.0.0.1/udp/1/quic-v1"]}` + "\n\n" + `{"event":"stopped"}`))
	f.Add([]byte(`{"event":"serving","from":3,"to":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got []Event
		err := readEvents(bytes.NewReader(b), func(e Event) { got = append(got, e) })
		for _, e := range got {
			listenAddrs(loopback(e.Addrs))
			if e.Event == "" || e.Event == EventServing && (e.From < 0 || e.To < e.From) {
				t.Fatalf("passed %+v", e)
			}
		}
		if err == nil && len(got) == 0 && len(bytes.TrimSpace(b)) > 0 && !slices.Contains([]byte("\r\n"), b[0]) {
			t.Fatalf("%q: neither events nor an error", b)
		}
	})
}
