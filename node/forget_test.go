package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/remedy"
)

// forgetful, in the environment, makes this test binary a program that starts a node
// and does not call engine.ChildMain. It says how, and where to count the program's
// processes. Its name is one that engines' processes get.
const forgetful = "OMP_SHOAL_FORGETFUL"

// forget is that program. It returns the exit code.
func forget() int {
	how, dir, _ := strings.Cut(os.Getenv(forgetful), " ")
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(os.Getpid())), nil, 0o600); err != nil {
		fmt.Println(err)
		return 2
	}
	cfg := node.Config{
		Home: filepath.Join(dir, "home"), NoMDNS: true, Lend: lend.Rules{OnBattery: true}, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"},
		Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}},
	}
	if how == "another" { // as if the program started were another one
		exe, err := fence.ThisProgram()
		if err != nil {
			fmt.Println(err)
			return 2
		}
		cfg.Engine = engine.InChild(exe)
	}
	n, err := node.New(cfg)
	if err == nil {
		err = errors.Join(n.Run(context.Background()), n.Close())
	}
	fmt.Println(err)
	if errors.Is(err, engine.ErrNoChild) && remedy.Of(err) != nil && remedy.Of(err).Kind == remedy.CallChildMain {
		return 1
	}
	return 2
}

// A program that has a node and does not call engine.ChildMain gets an error that
// names it: before anything is started, or from the process that was.
func TestProgramThatForgets(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for how, most := range map[string]int{"itself": 1, "another": 2} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "home"), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), forgetful+"="+how+" "+dir)
		said, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(said), "engine.ChildMain") {
			t.Errorf("%s: %v: %s", how, err, said)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if processes := len(entries) - 1; processes != most { // beside home
			t.Errorf("%s: %d processes, want %d", how, processes, most)
		}
	}
}

// In a process that was started as a child no node begins, not even a client.
func TestNoNodeInAChild(t *testing.T) {
	for _, role := range []string{"engine", "convert"} {
		for _, kv := range fence.Environ(role) {
			if name, value, _ := strings.Cut(kv, "="); value == role {
				t.Setenv(name, value)
			}
		}
		_, err := node.New(node.Config{Home: t.TempDir(), Client: true, NoMDNS: true})
		if !errors.Is(err, engine.ErrNoChild) || remedy.Of(err) == nil {
			t.Errorf("as %s: %v", role, err)
		}
	}
}
