package testnet

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestCut(t *testing.T) {
	conf, events := fake(t, 3, "node2:orphan")
	conf.Cuts = true
	net, err := Start(timeout(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	if err := net.WaitReady(timeout(), nil); err != nil {
		t.Fatal(err)
	}
	if env, _ := os.ReadFile(net.Nodes()[1].Dir + "/env"); !strings.Contains(string(env), "SHOAL_LINK=cuts="+CutsFile(net.Dir(), "node2")) {
		t.Errorf("node2's environment:\n%s", env)
	}
	// unreached gives whom each node cannot reach, by its file.
	unreached := func() string {
		var all []string
		for _, name := range []string{"node1", "node2", "node3", Client} {
			raw, _ := os.ReadFile(CutsFile(net.Dir(), name))
			lines := strings.Fields(string(raw))
			var others []string
			for _, n := range net.Nodes() {
				if slices.Contains(lines, listenAddrs(loopback(n.Addrs))) {
					others = append(others, n.Name)
				}
			}
			all = append(all, name+":"+strings.Join(others, "+"))
		}
		return strings.Join(all, " ")
	}
	first, err := net.Cut([]string{"node1"}, []string{"node2", "node3"})
	if err != nil {
		t.Fatal(err)
	}
	second, err := net.Cut([]string{"node2"}, []string{Client, "node1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := unreached(), "node1:node2+node3 node2:node1 node3:node1 client:node2"; got != want {
		t.Errorf("cut: %s, want %s", got, want)
	}
	for range 2 { // healing twice is healing once
		if err := first(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := unreached(), "node1:node2 node2:node1 node3: client:node2"; got != want {
		t.Errorf("one healed: %s, want %s", got, want)
	}
	if err := second(); err != nil {
		t.Fatal(err)
	}
	if got, want := unreached(), "node1: node2: node3: client:"; got != want {
		t.Errorf("healed: %s, want %s", got, want)
	}
	if _, err := net.Cut([]string{"node9"}, []string{"node1"}); err == nil {
		t.Error("cut a node that is not there")
	}

	engine := net.Nodes()[1].EnginePID
	if err := net.SignalEngine("node2", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := net.Kill("node2"); err != nil { // reaps it
		t.Error(err)
	}
	mustBeGone(t, engine)
	if err := net.SignalEngine("node2", syscall.SIGKILL); err == nil {
		t.Error("signalled an engine that is gone")
	}
	net.Close()
	mustBeGone(t, pids(events())...)

	conf, _ = fake(t, 1, "")
	if net, err = Start(timeout(), conf); err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	if _, err := net.Cut([]string{"node1"}, []string{Client}); err == nil {
		t.Error("cut a link that cannot be")
	}
}
