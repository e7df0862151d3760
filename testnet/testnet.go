package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/protocol"
)

// Testnet is a running network. Its methods may be called from any goroutine.
type Testnet struct {
	conf    Config
	temp    bool // conf.Dir is temporary
	model   Model
	spawner *Spawner

	mu      sync.Mutex
	nodes   []*node
	clients int
	state   string        // path of the state file, once WriteState was called
	changed chan struct{} // closed and replaced when a node's state changes
	cuts    []*cut
	closed  bool
	gateway gateway

	events sync.Mutex     // one event at a time
	exits  sync.WaitGroup // watchers of processes
}

// Model is the network's model, as printed by `shoal model add --json`.
type Model struct {
	ID     string `json:"id"` // CID
	Name   string `json:"name"`
	Blocks int    `json:"blocks"`

	Cuts *protocol.Cuts `json:"cuts"` // the spans that it can be cut into; nil: all
}

// Node is a snapshot of one node.
type Node struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"`        // 0 while it is not running
	EnginePID int    `json:"engine_pid"` // 0 before it serves
	Peer      string `json:"peer"`       // peer ID
	From      int    `json:"from"`
	To        int    `json:"to"`
	Dir       string `json:"dir"`
	API       string `json:"api"` // host:port

	Addrs []string `json:"-"` // multiaddrs with /p2p/
	Ready bool     `json:"-"`
	Log   string   `json:"-"` // path
}

// node is a node with what is needed to start it.
type node struct {
	Node
	span     string // as given to --span
	listen   string // multiaddrs, once known
	proc     *process
	stopping bool
	failure  error // how the last run ended, if unexpectedly
}

// Start imports the model, starts all nodes and waits until they listen. ctx
// bounds the start, not the network's lifetime. After an error nothing is left behind.
func Start(ctx context.Context, conf Config) (*Testnet, error) {
	if err := conf.setDefaults(); err != nil {
		return nil, err
	}
	binary, err := filepath.Abs(conf.Binary)
	if err != nil {
		return nil, err
	}
	conf.Binary = binary
	if conf.Log != nil {
		conf.Log = &lockedWriter{w: conf.Log}
	}
	t := &Testnet{conf: conf, changed: make(chan struct{})}
	if conf.Dir == "" {
		t.temp = true
		if t.conf.Dir, err = os.MkdirTemp("", "shoal-testnet-"); err != nil {
			return nil, err
		}
	} else if t.conf.Dir, err = filepath.Abs(conf.Dir); err != nil {
		return nil, err
	} else if err := os.MkdirAll(t.conf.Dir, 0o700); err != nil {
		return nil, err
	}
	t.spawner = NewSpawner()
	if err := t.start(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Testnet) start(ctx context.Context) error {
	spans, err := t.importModel(ctx)
	if err != nil {
		return err
	}
	// The first node by itself, since the others need its address, and to be let in; then the others.
	for i, span := range spans {
		n := t.addNode(span.String())
		if err := t.run(n); err != nil {
			return err
		}
		if i == 0 {
			if err := t.waitListening(ctx, n); err != nil {
				return err
			}
			if err := t.invite(ctx); err != nil {
				return err
			}
		}
	}
	for _, n := range t.all() {
		if err := t.waitListening(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// nodeDir returns the home of the i-th node, from 0.
func (t *Testnet) nodeDir(i int) string {
	return filepath.Join(t.conf.Dir, NodeName(i))
}

// NodeName returns the name of the i-th node, from 0.
func NodeName(i int) string { return fmt.Sprintf("node%d", i+1) }

func (t *Testnet) addNode(span string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := len(t.nodes)
	dir := t.nodeDir(i)
	n := &node{Node: Node{Name: NodeName(i), Dir: dir, Log: filepath.Join(dir, "node.log")}, span: span}
	t.nodes = append(t.nodes, n)
	return n
}

func (t *Testnet) all() []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*node(nil), t.nodes...)
}

// Model returns the network's model.
func (t *Testnet) Model() Model { return t.model }

// Dir returns the network's directory.
func (t *Testnet) Dir() string { return t.conf.Dir }

// Nodes returns a snapshot of all nodes, in the order of their names.
func (t *Testnet) Nodes() []Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var nodes []Node
	for _, n := range t.nodes {
		nodes = append(nodes, n.Node)
	}
	return nodes
}

func (t *Testnet) find(name string) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("testnet: there is no node %q among node1 to node%d", name, len(t.nodes))
}

// WaitReady waits until all running nodes have reported, after a probe, that they are
// ready, and every block is served by one. progress, which may be nil, is called with each
// change.
func (t *Testnet) WaitReady(ctx context.Context, progress func([]Node)) error {
	for {
		t.mu.Lock()
		changed := t.changed
		ready, failure := t.readyLocked()
		t.mu.Unlock()
		if progress != nil {
			progress(t.Nodes())
		}
		if failure != nil {
			return failure
		}
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the network is not ready: %s: %w", t.missing(), context.Cause(ctx))
		}
	}
}

func (t *Testnet) readyLocked() (bool, error) {
	ready := true
	served := make([]bool, t.model.Blocks)
	for _, n := range t.nodes {
		if n.failure != nil {
			return false, n.failure
		}
		if n.PID == 0 { // stopped on purpose
			continue
		}
		ready = ready && n.Ready
		for b := n.From; n.Ready && b < n.To && b < len(served); b++ {
			served[b] = true
		}
	}
	for _, s := range served {
		ready = ready && s
	}
	return ready, nil
}

// missing names what WaitReady waits for.
func (t *Testnet) missing() string {
	waiting := ""
	for _, n := range t.Nodes() {
		if n.PID != 0 && !n.Ready {
			waiting += " " + n.Name
		}
	}
	if waiting == "" {
		return "some blocks are served by nobody"
	}
	return "waiting for" + waiting
}

// Close stops all nodes, in reverse, and removes a temporary directory.
func (t *Testnet) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	nodes := append([]*node(nil), t.nodes...)
	t.mu.Unlock()

	t.gateway.once.Do(func() { t.gateway.err = errors.New("testnet: closed") })
	if t.gateway.stop != nil {
		t.gateway.stop()
	}
	// The others joined through the first node: it stops last.
	var stops sync.WaitGroup
	for i := len(nodes) - 1; i >= 0; i-- {
		if i == 0 {
			stops.Wait()
		}
		stops.Go(func() { t.stopNode(nodes[i]) })
	}
	stops.Wait()
	t.exits.Wait() // no event comes after Close
	t.spawner.Close()
	if t.temp && !t.conf.Keep {
		if err := os.RemoveAll(t.conf.Dir); err != nil {
			return fmt.Errorf("removing the testnet's directory: %w", err)
		}
	}
	return nil
}

func (t *Testnet) stopNode(n *node) {
	t.mu.Lock()
	n.stopping = true
	p := n.proc
	t.mu.Unlock()
	if p != nil {
		p.stop(t.conf.StopGrace)
		t.ended(n, p)
	}
}

// Stop shuts a node down with SIGTERM, and with SIGKILL if that does not help.
func (t *Testnet) Stop(name string) error {
	n, err := t.find(name)
	if err != nil {
		return err
	}
	t.stopNode(n)
	return nil
}

// Kill kills a node and its children at once, as a power cut would.
func (t *Testnet) Kill(name string) error {
	n, err := t.find(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	n.stopping = true
	p := n.proc
	t.mu.Unlock()
	if p != nil {
		p.kill()
		t.ended(n, p)
	}
	return nil
}

// Signal sends a signal to a node's process: SIGSTOP makes it hang, SIGCONT continues it.
// A node that a signal ends counts as stopped on purpose.
func (t *Testnet) Signal(name string, sig syscall.Signal) error {
	n, err := t.find(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	p := n.proc
	n.stopping = n.stopping || sig != proc.Pause && sig != proc.Continue
	t.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s is not running", name)
	}
	return p.signal(sig)
}

// SignalEngine sends a signal to the process of a node's engine: SIGKILL is its
// crash, which the node survives; SIGSTOP makes it hang.
func (t *Testnet) SignalEngine(name string, sig syscall.Signal) error {
	n, err := t.find(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.EnginePID == 0 {
		return fmt.Errorf("%s has no running engine", name)
	}
	return proc.Signal(n.EnginePID, sig)
}

// Restart starts a node that has ended, in its old directory and on its old
// ports, and waits until it listens. A running one is stopped first.
func (t *Testnet) Restart(ctx context.Context, name string) error {
	n, err := t.find(name)
	if err != nil {
		return err
	}
	t.stopNode(n)
	if err := t.run(n); err != nil {
		return err
	}
	return t.waitListening(ctx, n)
}

// AddNode starts one more node, which holds nothing yet, and waits until it
// listens. span is "FROM-TO" or "auto".
func (t *Testnet) AddNode(ctx context.Context, span string) (Node, error) {
	n := t.addNode(span)
	if err := t.run(n); err != nil {
		return Node{}, err
	}
	if err := t.waitListening(ctx, n); err != nil {
		return Node{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.Node, nil
}
