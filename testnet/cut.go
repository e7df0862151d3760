package testnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/node/files"
)

// Client is the gateway's name in the groups of a cut.
const Client = "client"

// CutsFile returns the path of the cuts of a node, or of Client, in a network's directory,
// for link.Params.Cuts.
func CutsFile(dir, name string) string { return filepath.Join(dir, "cuts", name) }

// cut is a partition: no member of a and no member of b reach each other.
type cut struct{ a, b []string }

// Cut stops all traffic between two groups of nodes; Client may be in one. heal ends this
// cut and no other. The network must have been started with Config.Cuts.
func (t *Testnet) Cut(a, b []string) (heal func() error, err error) {
	if !t.conf.Cuts {
		return nil, errors.New("testnet: the network was started with links that cannot be cut")
	}
	for _, name := range append(append([]string(nil), a...), b...) {
		if name == Client {
			continue
		}
		if _, err := t.find(name); err != nil {
			return nil, err
		}
	}
	c := &cut{a, b}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cuts = append(t.cuts, c)
	return sync.OnceValue(func() error { return t.heal(c) }), t.writeCutsLocked()
}

func (t *Testnet) heal(c *cut) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, o := range t.cuts {
		if o == c {
			t.cuts = append(t.cuts[:i:i], t.cuts[i+1:]...)
			break
		}
	}
	return t.writeCutsLocked()
}

// writeCutsLocked writes, for each node and the client, which addresses it cannot reach.
func (t *Testnet) writeCutsLocked() error {
	listen := map[string]string{}
	for _, n := range t.nodes {
		listen[n.Name] = n.listen
	}
	lines := map[string]*strings.Builder{Client: {}}
	for name := range listen {
		lines[name] = &strings.Builder{}
	}
	for _, c := range t.cuts {
		for _, a := range c.a {
			for _, b := range c.b {
				for _, pair := range [][2]string{{a, b}, {b, a}} {
					for addr := range strings.SplitSeq(listen[pair[1]], ",") {
						fmt.Fprintln(lines[pair[0]], addr)
					}
				}
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(CutsFile(t.conf.Dir, Client)), 0o700); err != nil {
		return err
	}
	for name, text := range lines {
		if err := files.Replace(CutsFile(t.conf.Dir, name), []byte(text.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}
