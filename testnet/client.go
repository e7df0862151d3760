package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
)

// state is the file that SHOAL_TESTNET names.
type state struct {
	Model string `json:"model"` // CID
	Name  string `json:"name"`
	Dir   string `json:"dir"`
	Nodes []Node `json:"nodes"`
}

// WriteState writes the network's state as JSON, and again whenever it changes, so that
// scripts find the running processes. The file is replaced atomically.
func (t *Testnet) WriteState(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = abs
	return t.writeStateLocked()
}

func (t *Testnet) writeStateLocked() error {
	s := state{Model: t.model.ID, Name: t.model.Name, Dir: t.conf.Dir, Nodes: []Node{}}
	for _, n := range t.nodes {
		s.Nodes = append(s.Nodes, n.Node)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return files.Replace(t.state, append(b, '\n'), 0o600)
}

// ClientHome creates an empty directory for a client that knows only this network.
func (t *Testnet) ClientHome() (string, error) {
	t.mu.Lock()
	t.clients++
	dir := filepath.Join(t.conf.Dir, fmt.Sprintf("client%d", t.clients))
	t.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil { // left by an earlier network in this Dir
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if t.conf.ClientConfig != nil {
		if err := t.conf.ClientConfig(dir, t.bootstraps(nil)); err != nil {
			return "", fmt.Errorf("writing a client's configuration: %w", err)
		}
	}
	return dir, nil
}

// gateway is the light client whose API commands use.
type gateway struct {
	once sync.Once
	api  string
	stop func()
	err  error
}

// API returns the host:port of an API of this network: the gateway's, else the first
// running node's.
func (t *Testnet) API() (string, error) {
	if t.conf.Gateway == nil {
		for _, n := range t.Nodes() {
			if n.PID != 0 && n.API != "" {
				return n.API, nil
			}
		}
		return "", errors.New("testnet: no node is running")
	}
	g := &t.gateway
	g.once.Do(func() {
		g.api, g.stop, g.err = t.conf.Gateway(t.gatewayDir(), t.bootstraps(nil))
	})
	return g.api, g.err
}

// Env returns the environment for a command that uses the network from home: the
// command finds the network, an API and the state file, and has the same emulated
// distance to the nodes as they have to each other. It contains no other SHOAL_* variable.
func (t *Testnet) Env(dir, statePath string) []string {
	env := append(baseEnv(),
		"SHOAL_HOME="+dir,
		"SHOAL_API_TOKEN_FILE="+home.Home(dir).APIToken(), // a copy of the API's
		"SHOAL_TESTNET="+statePath,
		"SHOAL_BOOTSTRAP="+strings.Join(t.bootstraps(nil), ","),
		"SHOAL_NO_MDNS=true",
		"SHOAL_OPEN=true",
	)
	if api, err := t.API(); err == nil {
		env = append(env, "SHOAL_API=http://"+api, "OPENAI_BASE_URL=http://"+api+"/v1")
	}
	if os.Getenv("OPENAI_API_KEY") == "" {
		env = append(env, "OPENAI_API_KEY=none") // clients refuse to start without one
	}
	if l := t.conf.Link.String(); l != "" {
		env = append(env, "SHOAL_LINK="+l)
	}
	return env
}

// Exec runs a command with this process's standard streams and Env, and returns its exit
// code: 128 plus the signal's number if a signal ended it. When ctx ends, the command
// gets SIGTERM and, after the stop grace, SIGKILL. An error means that it did not run or
// that ctx ended.
func (t *Testnet) Exec(ctx context.Context, argv []string) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("testnet: no command given")
	}
	if _, err := t.API(); err != nil {
		return 0, err
	}
	home, err := t.ClientHome()
	if err != nil {
		return 0, err
	}
	statePath := filepath.Join(t.conf.Dir, "testnet.json")
	if err := t.WriteState(statePath); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = t.Env(home, statePath)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = max(t.conf.StopGrace, time.Second)
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}
