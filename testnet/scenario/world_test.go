package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/testnet"
)

// toyNet is a network of names: it does what it is told, tells the world as a
// testnet does, and keeps a list.
type toyNet struct {
	w    *world
	mu   sync.Mutex
	log  []string
	fail string // the call that fails
	born int
}

const toyBlocks = 8

// toy is a world of nodes that serve: two halves, replicas times.
func toy(s *Scenario) (*world, *toyNet) {
	w := newWorld(s, func(string) {})
	net := &toyNet{w: w}
	for i := range s.Nodes {
		net.up(testnet.NodeName(i), i%2)
	}
	net.born = s.Nodes
	w.start(net, toyBlocks)
	return w, net
}

func (n *toyNet) up(name string, half int) {
	n.w.event(testnet.Event{Node: name, Event: testnet.EventStarted})
	n.w.event(testnet.Event{Node: name, Event: testnet.EventServing, From: half * 4, To: half*4 + 4, Ready: true})
}

func (n *toyNet) did(format string, args ...any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	n.log = append(n.log, call)
	if call == n.fail {
		return errors.New("it does not")
	}
	return nil
}

func (n *toyNet) calls() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.log, ", ")
}

func (n *toyNet) half(name string) int {
	var i int
	_, _ = fmt.Sscanf(name, "node%d", &i)
	return (i - 1) % 2
}

func (n *toyNet) Kill(name string) error {
	err := n.did("kill %s", name)
	n.w.event(testnet.Event{Node: name, Event: testnet.EventExited})
	return err
}

func (n *toyNet) Stop(name string) error {
	err := n.did("stop %s", name)
	n.w.event(testnet.Event{Node: name, Event: testnet.EventExited})
	return err
}

func (n *toyNet) Signal(name string, sig syscall.Signal) error { return n.did("%s %s", sig, name) }

func (n *toyNet) SignalEngine(name string, sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		n.w.event(testnet.Event{Node: name, Event: testnet.EventEngine})
	}
	return n.did("%s engine of %s", sig, name)
}

func (n *toyNet) Cut(a, b []string) (func() error, error) {
	what := strings.Join(a, "+") + " | " + strings.Join(b, "+")
	return func() error { return n.did("heal %s", what) }, n.did("cut %s", what)
}

func (n *toyNet) Restart(_ context.Context, name string) error {
	err := n.did("restart %s", name)
	n.up(name, n.half(name))
	return err
}

func (n *toyNet) AddNode(_ context.Context, span string) (testnet.Node, error) {
	n.mu.Lock()
	name := testnet.NodeName(n.born)
	n.born++
	n.mu.Unlock()
	err := n.did("join %s", span)
	n.up(name, n.half(name))
	return testnet.Node{Name: name}, err
}

const ms = time.Millisecond

// runs does faults to a toy network of four nodes, each half on two.
func runs(t *testing.T, s *Scenario, faults ...Fault) (*world, *toyNet) {
	t.Helper()
	if s.Nodes == 0 {
		s.Nodes, s.Replicas = 4, 2
	}
	s.Duration, s.Faults = time.Minute, faults
	w, net := toy(s)
	w.run(t.Context())
	return w, net
}

// TestFaults: each does what its name says, and undoes it.
func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for want, f := range map[string]Fault{
			"kill node1":                              {Kind: Kill, Target: "node1", Rejoin: -1},
			"kill node2, restart node2":               {Kind: Kill, Target: "node2", Rejoin: ms},
			"stop node3, restart node3":               {Kind: Stop, Target: "node3", Rejoin: 0},
			"stopped (signal) node1, continued node1": {Kind: Hang, Target: "node1", For: 2 * ms},
			"killed engine of node4":                  {Kind: KillEngine, Target: "node4"},
			"stopped (signal) engine of node1, continued engine of node1": {Kind: HangEngine, Target: "node1", For: ms},
			"cut node1+node2 | node3+client, heal node1+node2 | node3+client": {
				Kind: Partition, Groups: [][]string{{"node1", "node2"}, {"node3", "client"}}, For: ms,
			},
			"cut node2 | node1+node3+node4+client, heal node2 | node1+node3+node4+client": {Kind: Partition, Target: "node2", For: ms},
			"join auto": {Kind: Join, Span: "auto"},
		} {
			s := &Scenario{AllowGap: f.Groups != nil}
			w, net := runs(t, s, f)
			if got := net.calls(); got != want {
				t.Errorf("%s: did %s, want %s", f.Kind, got, want)
			}
			rec := w.faults[0]
			if rec.Error != "" || rec.Skipped != "" || rec.Kind != f.Kind || len(rec.Nodes) == 0 {
				t.Errorf("%s: %+v", f.Kind, rec)
			}
			for _, n := range w.nodes {
				down := f.Kind == Kill && f.Rejoin < 0 && n.name == f.Target
				starting := f.Kind == KillEngine && n.name == f.Target
				want := Up
				if down {
					want = Down
				} else if starting {
					want = Starting
				}
				if n.state() != want || n.taken || n.out {
					t.Errorf("%s: afterwards %s is %s, taken %v, want %s", f.Kind, n.name, n.state(), n.taken, want)
				}
			}
			if len(w.cuts) > 0 {
				t.Errorf("%s: still cut", f.Kind)
			}
		}
	})
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, net := runs(t, &Scenario{}, Fault{Kind: Slow, Target: "node1", Share: 0.4, For: 2 * turn})
		log := net.log
		if len(log) < 4 || len(log)%2 != 0 {
			t.Fatal(log)
		}
		for i, call := range log {
			if want := []string{"stopped (signal) engine of node1", "continued engine of node1"}[i%2]; call != want {
				t.Errorf("call %d: %s", i, call)
			}
		}
		var states []string
		for _, p := range w.nodes[0].past {
			states = append(states, p.State)
		}
		if got := strings.Join(states, " "); got != "up slow up" {
			t.Error(got)
		}
	})
}

// TestLastReplica: nothing takes the last server of a block away, unless that
// is allowed.
func TestLastReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kill := func(target string, at time.Duration) Fault {
			return Fault{Kind: Kill, Target: target, At: at, Rejoin: -1}
		}
		// node1 and node3 have the first half: only one of them may go.
		s := &Scenario{}
		_, net := runs(t, s, kill("node1", 0), Fault{Kind: Kill, Target: Random, Every: 100 * ms, From: 10 * ms, To: 500 * ms, Rejoin: -1})
		if got := net.calls(); got != "kill node1, kill node2" && got != "kill node1, kill node4" {
			t.Errorf("did %s", got)
		}
		if got := s.Duration; got != time.Minute {
			t.Error(got)
		}
		w, net := runs(t, &Scenario{AllowGap: true}, kill("node1", 0), kill("node3", 20*ms))
		if got := net.calls(); got != "kill node1, kill node3" {
			t.Errorf("with gaps allowed: %s", got)
		}
		if w.routeLocked("") {
			t.Error("a route without the first half")
		}
		skipped, net := runs(t, &Scenario{}, kill("node1", 0), Fault{Kind: Kill, Target: "node3", Every: 100 * ms, From: 20 * ms, To: 30 * ms, Rejoin: -1})
		if got := net.calls(); got != "kill node1" || !strings.Contains(skipped.faults[1].Skipped, "without node3 there would be no route") {
			t.Errorf("did %s: %+v", got, skipped.faults[1])
		}
	})
}

// TestWaits: a fault that cannot be yet happens as soon as it can.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, net := runs(t, &Scenario{},
			Fault{Kind: Kill, Target: "node1", Rejoin: 200 * ms},
			Fault{Kind: Kill, Target: "node3", At: 20 * ms, Rejoin: -1})
		if got := net.calls(); got != "kill node1, restart node1, kill node3" {
			t.Errorf("did %s", got)
		}
		if last := w.faults[len(w.faults)-1]; last.At < Moment(200*ms) || last.Planned != Moment(20*ms) {
			t.Errorf("%+v", last)
		}
		// A node counts only some time after it is ready.
		w, net = runs(t, &Scenario{Settle: 300 * ms},
			Fault{Kind: Kill, Target: "node1", At: 310 * ms, Rejoin: ms},
			Fault{Kind: Kill, Target: "node3", At: 320 * ms, Rejoin: -1})
		if got := net.calls(); got != "kill node1, restart node1, kill node3" {
			t.Errorf("did %s", got)
		}
		if last := w.faults[len(w.faults)-1]; last.At < Moment(610*ms) {
			t.Errorf("before node1 had settled: %+v", last)
		}
	})
}

// TestPartitionNeedsRoute: one half of the model on each side is a gap.
func TestPartitionNeedsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		apart := Fault{Kind: Partition, Groups: [][]string{{"node1", "node3"}, {"node2", "node4"}}, Every: 100 * ms, To: 50 * ms, For: ms}
		w, net := runs(t, &Scenario{}, apart)
		if net.calls() != "" || !strings.Contains(w.faults[0].Skipped, "no route") {
			t.Errorf("did %s", net.calls())
		}
		across := Fault{Kind: Partition, Groups: [][]string{{"node1", "node2"}, {"node3", "node4"}}, For: 300 * ms}
		w, net = runs(t, &Scenario{}, across,
			Fault{Kind: Kill, Target: "node1", At: 20 * ms, Rejoin: -1},  // node3 and node4 are left
			Fault{Kind: Kill, Target: "node4", At: 100 * ms, Rejoin: -1}, // not before node2 and node3 meet again
		)
		if calls := net.log; calls[len(calls)-1] != "kill node4" || !slices.Contains(calls[:len(calls)-1], "heal node1+node2 | node3+node4") {
			t.Errorf("did %s", net.calls())
		}
		if w.nodes[1].events != 1 || w.nodes[3].events != 2 {
			t.Errorf("faults: node2 %d, node4 %d", w.nodes[1].events, w.nodes[3].events)
		}
	})
}

func TestRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, net := runs(t, &Scenario{},
			Fault{Kind: Kill, Target: "node2", Rejoin: -1},
			Fault{Kind: Rejoin, Target: Random, At: 50 * ms},
			Fault{Kind: Rejoin, Target: Random, Every: 100 * ms, From: 80 * ms, To: 90 * ms}) // nobody is left to
		if got := net.calls(); got != "kill node2, restart node2" {
			t.Errorf("did %s", got)
		}
	})
}

// TestErrors: what fails is told; a node that ends by itself is a crash.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Scenario{Nodes: 4, Replicas: 2, Duration: time.Minute, Faults: []Fault{{Kind: Kill, Target: "node1", Rejoin: ms}}}
		var said []string
		w, net := toy(s)
		w.say = func(line string) { said = append(said, line) }
		net.fail = "restart node1"
		w.run(t.Context())
		w.event(testnet.Event{Node: "node2", Event: testnet.EventExited, Error: "node2 ended unexpectedly"})
		if w.faults[0].Error != "it does not" {
			t.Errorf("%+v", w.faults[0])
		}
		if want := "kill node1, rejoin node1, kill node1 failed: it does not, node2 ended unexpectedly"; strings.Join(said, ", ") != want {
			t.Errorf("said %q", said)
		}
		if len(w.crashes) != 1 {
			t.Errorf("crashes %v", w.crashes)
		}
	})
}

// TestInterrupted: what hangs or is cut goes on when the caller gives up.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Scenario{Nodes: 4, Replicas: 2, Duration: time.Minute, Faults: []Fault{
			{Kind: Hang, Target: "node1", For: time.Hour},
			{Kind: Partition, Target: "node2", For: time.Hour},
			{Kind: Kill, Target: "node3", At: time.Hour},
		}}
		w, net := toy(s)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*ms, cancel)
		w.run(ctx)
		log := slices.Sorted(slices.Values(net.log))
		want := "continued node1, cut node2 | node1+node3+node4+client, heal node2 | node1+node3+node4+client, stopped (signal) node1"
		if got := strings.Join(log, ", "); got != want {
			t.Errorf("did %s", got)
		}
		for _, f := range w.faults {
			if f.Error != "" {
				t.Errorf("%+v", f)
			}
		}
	})
}
