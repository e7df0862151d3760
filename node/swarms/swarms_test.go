package swarms

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/node/swarm"
)

func open(t *testing.T, private bool, book *swarm.Book) (*joint.Networks, error) {
	t.Helper()
	dir := t.TempDir()
	nets, err := Open(Config{
		Network: network.Config{ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Version: "test"},
		KeyFile: filepath.Join(dir, "key"), PortFile: filepath.Join(dir, "port"), Private: private, Book: book, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		t.Cleanup(func() { nets.Close() })
	}
	return nets, err
}

func book(t *testing.T) *swarm.Book {
	t.Helper()
	b, _, err := swarm.Open(swarm.Config{Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func found(t *testing.T, b *swarm.Book, name string) *swarm.Swarm {
	t.Helper()
	s, err := b.New(name, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names are what the networks are called; that of the open one is empty.
func names(nets *joint.Networks) (out string) {
	for _, s := range nets.Swarms() {
		out += s.Name + "."
	}
	return out
}

// The networks are the open one and those of the swarms, those founded later included. A
// private node that leaves its last swarm is in a network of its own until it has another.
func TestOpen(t *testing.T) {
	t.Parallel()
	b := book(t)
	a := found(t, b, "a")
	nets, err := open(t, false, b)
	if err != nil {
		t.Fatal(err)
	}
	found(t, b, "b")
	if got := names(nets); got != ".a.b." {
		t.Errorf("the networks are %s", got)
	}
	for _, s := range nets.Swarms() {
		if len(s.Addrs) != 2 {
			t.Errorf("network %q listens at %v", s.Name, s.Addrs)
		}
	}
	if err := b.Leave(a, true); err != nil || names(nets) != ".b." {
		t.Errorf("the networks are %s after one was left: %v", names(nets), err)
	}
}

func TestPrivate(t *testing.T) {
	t.Parallel()
	b := book(t)
	a := found(t, b, "a")
	nets, err := open(t, true, b)
	if err != nil {
		t.Fatal(err)
	}
	if nets.Self() != a.Self() {
		t.Error("the node is not who it is in its swarm")
	}
	if err := b.Leave(a, true); err != nil || names(nets) != "." || nets.Swarms()[0].ID == "" {
		t.Errorf("the networks are %s after the last was left: %v", names(nets), err)
	}
	found(t, b, "c")
	if got := names(nets); got != "c." {
		t.Errorf("the networks are %s", got)
	}
}

// A private node without a swarm is alone, makes no key for the open network, and is in
// the first swarm that it joins or founds, as if it had begun there.
func TestAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, b := range []*swarm.Book{nil, book(t)} {
		at := fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", freePort(t))
		nets, err := Open(Config{
			Network: network.Config{ListenAddrs: []string{at}, Version: "test"},
			KeyFile: filepath.Join(dir, "key"), PortFile: filepath.Join(dir, "port"), Private: true, Book: b, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nets.Close() })
		if got := nets.Swarms(); len(got) != 1 || got[0].ID == "" || got[0].Name != "" || got[0].Peers != 0 {
			t.Errorf("alone in %+v", got)
		}
		if err := nets.WaitPeers(t.Context()); !errors.Is(err, network.ErrAlone) {
			t.Errorf("waiting for peers where nobody can be: %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("it has left %v", left)
		}
		if b == nil {
			continue
		}
		a := found(t, b, "a")
		if now := nets.Swarms(); names(nets) != "a." || nets.Self() != a.Self() || len(now[0].Addrs) != 1 || !strings.HasPrefix(now[0].Addrs[0], at) {
			t.Errorf("after %s was founded it is in %+v", a.Name(), now)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := network.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// With no book there is the open network alone.
func TestOpenAlone(t *testing.T) {
	t.Parallel()
	nets, err := open(t, false, nil)
	if err != nil || names(nets) != "." {
		t.Fatal(names(nets), err)
	}
}

// A private node's main swarm that is left and entered again, as for a renewed certificate,
// is where it was: it keeps the operator's address, and another swarm its own port.
func TestReenter(t *testing.T) {
	t.Parallel()
	b, at := book(t), fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", freePort(t))
	a, other := found(t, b, "a"), found(t, b, "b")
	h := &hosts{cfg: Config{Network: network.Config{ListenAddrs: []string{at}, Version: "test"}, Private: true, Book: b, Log: slog.New(slog.DiscardHandler)}}
	if err := b.Run(h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.nets.Close() })
	for _, s := range []*swarm.Swarm{a, other} {
		h.Exit(s)
		if err := h.Enter(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range h.nets.Swarms() {
		if len(s.Addrs) != 1 || strings.HasPrefix(s.Addrs[0], at) != (s.Name == "a") {
			t.Errorf("%s listens at %v, and the operator said %s", s.Name, s.Addrs, at)
		}
	}
	if err := h.nets.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Leave(other, true); err != nil { // a network that is closed already
		t.Error(err)
	}
	if err := h.Enter(a); !errors.Is(err, joint.ErrClosed) {
		t.Errorf("a swarm is entered after the node has left: %v", err)
	}
}
