package swarms

import (
	"log/slog"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol/member"
)

// Both sides of a bridge enter its network at a node that listens to other machines and may
// use relays of the open network, as nodes do unless they are told otherwise.
func TestBridgeOutside(t *testing.T) {
	t.Parallel()
	lending, using := book(t), book(t)
	lab, office := found(t, lending, "lab"), found(t, using, "office")
	_, code, err := lab.Lend(office.BridgeAsk(), swarm.BridgeTerms{Roles: member.Use, Life: time.Hour}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := using.AcceptBridge(code, ""); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*swarm.Book{"lab": lending, "office": using} {
		nets, err := Open(Config{
			Network: network.Config{ListenAddrs: []string{"/ip4/0.0.0.0/udp/0/quic-v1"}, Version: "test"},
			Private: true, Book: b, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nets.Close() })
		if got := nets.Swarms(); len(got) != 2 || got[0].Name != name {
			t.Errorf("the networks of %s are %+v", name, got)
		}
	}
}
