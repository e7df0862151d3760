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
)

// TinyModel is the model that the binary carries.
const TinyModel = "tinytales"

// MaxNodes keeps a slip of the finger from forking a machine to death.
const MaxNodes = 256

// Config says what network to start. Binary and Nodes are required.
type Config struct {
	Binary   string      // the shoal executable
	Nodes    int         // processes, at most MaxNodes
	Replicas int         // nodes a span; 0 is 1
	Model    string      // a GGUF file, what `shoal model add` takes besides, or "" for TinyModel
	Link     link.Params // between any two nodes; the zero value is plain loopback
	Cuts     bool        // links can be cut; nodes then are on the emulated link whatever Link says

	Dir     string   // of the network; "": a temporary one, removed by Close
	Keep    bool     // do not remove a temporary Dir
	Threads int      // a node; 0: the cores divided among the nodes, at least 1
	Args    []string // more arguments of `shoal node`
	Env     []string // more environment of the nodes, "NAME=value"

	StopGrace time.Duration // between SIGTERM and SIGKILL; 0 is 10 s
	Log       io.Writer     // also gets the nodes' logs, a line at a time with the node's name; may be nil
	Events    func(Event)   // what happens, in order, one call at a time; may be nil; must not call the Testnet

	// ClientConfig writes a client's configuration file into its directory;
	// bootstrap are multiaddrs with /p2p/. nil: the client has the
	// environment alone (SHOAL_BOOTSTRAP).
	ClientConfig func(dir string, bootstrap []string) error

	// Gateway starts a client of the network with an API of its own, so that
	// the API outlives any node that a test kills. It gives the API's
	// host:port, and how to stop it. nil: clients get the API of a node.
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

// divide gives each of n nodes its span: the blocks are spread evenly over
// n/replicas stages, of which there are no more than blocks.
func divide(blocks, n, replicas int) []Span {
	stages := min(n/replicas, blocks)
	spans := make([]Span, n)
	for i := range spans {
		s := i % stages
		spans[i] = Span{From: s * blocks / stages, To: (s + 1) * blocks / stages}
	}
	return spans
}

// baseEnv is this process's environment without what configures shoal.
func baseEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SHOAL_") {
			env = append(env, kv)
		}
	}
	return env
}
