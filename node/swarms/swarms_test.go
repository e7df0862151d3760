package swarms

import (
	"errors"
	"log/slog"
	"path/filepath"
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
	if _, err := open(t, true, b); !errors.Is(err, ErrNone) {
		t.Error("a private node without a swarm: ", err)
	}
	b = book(t)
	a := found(t, b, "a")
	nets, err := open(t, true, b)
	if err != nil {
		t.Fatal(err)
	}
	if nets.Self() != a.Self() {
		t.Error("the node is not who it is in its swarm")
	}
	if err := b.Leave(a, true); err != nil || names(nets) != "none." {
		t.Errorf("the networks are %s after the last was left: %v", names(nets), err)
	}
	found(t, b, "c")
	if got := names(nets); got != "c." {
		t.Errorf("the networks are %s", got)
	}
}

// With no book there is the open network alone.
func TestOpenAlone(t *testing.T) {
	t.Parallel()
	nets, err := open(t, false, nil)
	if err != nil || names(nets) != "." {
		t.Fatal(names(nets), err)
	}
}
