package testnet

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/shoalnet/shoal/testnet/link"

	"github.com/shoalnet/shoal/protocol"
)

// TinyModel is the model built into the binary.
const TinyModel = "tinytales"

// MaxNodes keeps a typo from overloading the machine with processes.
const MaxNodes = 256

// Config says what network to start. Binary and Nodes are required.
type Config struct {
	Binary   string      // the shoal executable
	Nodes    int         // processes, at most MaxNodes
	Replicas int         // nodes per span; 0 means 1
	Model    string      // anything that `shoal model add` accepts, or "" for TinyModel
	Link     link.Params // between any two nodes; the zero value is plain loopback
	Cuts     bool        // links can be cut; nodes then use the emulated link even if Link is zero
	Private  bool        // the nodes are in a private swarm, which the first one founds, and not in the open network

	Dir     string              // of the network; "": a temporary one, removed by Close
	Keep    bool                // do not remove a temporary Dir
	Threads int                 // per node; 0: the cores divided among the nodes, at least 1
	Args    []string            // additional arguments for `shoal node`
	ArgsOf  map[string][]string // more of them, behind Args, for single nodes by their names
	Env     []string            // additional environment of the nodes, "NAME=value"

	StopGrace time.Duration // between SIGTERM and SIGKILL; 0 means 10 s
	Log       io.Writer     // also receives the nodes' logs, line by line with the node's name; may be nil
	Events    func(Event)   // receives events in order, one call at a time; may be nil; must not call the Testnet

	// ClientConfig writes a client's configuration file into its directory;
	// bootstrap are multiaddrs with /p2p/. nil: the client relies on the
	// environment (SHOAL_BOOTSTRAP).
	ClientConfig func(dir string, bootstrap []string) error

	// Gateway starts a client of the network with its own API, so that the API
	// outlives any node that a test kills. It returns the API's host:port and a
	// function that stops it. In a private network, dir is a home that is in its
	// swarm. nil: clients use the API of a node.
	Gateway func(dir string, bootstrap []string) (api string, stop func(), err error)
}

func (c *Config) setDefaults() error {
	if c.Binary == "" {
		return errors.New("testnet: no shoal executable given")
	}
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		return fmt.Errorf("%d nodes: a testnet has 1 to %d", c.Nodes, MaxNodes)
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Replicas < 1 || c.Replicas > c.Nodes {
		return fmt.Errorf("%d replicas of every span: %d nodes have room for 1 to %d", c.Replicas, c.Nodes, c.Nodes)
	}
	if c.Model == "" {
		c.Model = TinyModel
	}
	if c.Threads == 0 {
		c.Threads = max(1, runtime.NumCPU()/c.Nodes)
	}
	if c.StopGrace == 0 {
		c.StopGrace = 10 * time.Second
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	return nil
}

// Span is the blocks [From, To) of a model.
type Span struct{ From, To int }

func (s Span) String() string { return fmt.Sprintf("%d-%d", s.From, s.To) }

// divide returns the span of each of n nodes: blocks are spread evenly over n/replicas
// stages, but no more stages than blocks, or than the model can be cut into.
func divide(blocks, n, replicas int, cuts *protocol.Cuts) []Span {
	stages := cuts.Divide(blocks, n/replicas)
	spans := make([]Span, n)
	for i := range spans {
		s := stages[i%len(stages)]
		spans[i] = Span{From: s.From, To: s.To}
	}
	return spans
}

// baseEnv returns this process's environment without variables that configure shoal.
func baseEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SHOAL_") {
			env = append(env, kv)
		}
	}
	return env
}
