package swarm

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/protocol/member"
)

// stranger starts a node of the open network that relays.
func stranger(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService(relay.WithInfiniteLimits()), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// TestJoinThroughAStranger: a code whose only addresses are at a relay of the open network
// lets another machine in; the relay sees neither key, and a second machine is told that
// the code is spent. The code is a QR code, too.
func TestJoinThroughAStranger(t *testing.T) {
	t.Parallel()
	r := stranger(t)
	anna, ben, carl := newMachine(t, "anna").runs(), newMachine(t, "ben"), newMachine(t, "carl")
	home := anna.found("lab")
	home.inviting.Add(1) // keeps the door open
	d, err := home.attached().opened()
	if err != nil {
		t.Fatal(err)
	}
	if err := home.doorOutside(d, func() []peer.AddrInfo { return []peer.AddrInfo{{ID: r.ID(), Addrs: r.Addrs()}} }); err != nil {
		t.Fatal(err)
	}
	d.outer.Await(t.Context())
	at := d.outer.Addrs()
	if len(at) == 0 || !outer.Is(at[0]) {
		t.Fatalf("the door is at %v", at)
	}
	now := time.Now()
	code, err := member.NewTicket(home.ID(), home.Self(), at, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := home.addTicket(&ticket{Key: proofKey(code.Secret), Roles: once.Roles, Uses: once.Uses, Created: now, Expires: code.Expires}, now); err != nil {
		t.Fatal(err)
	}
	there := ben.join(code.String())
	if there.Name() != "lab" {
		t.Errorf("joined %s", there.Name())
	}
	if _, err := carl.Join(t.Context(), code.String()); !errors.Is(err, ErrSpent) {
		t.Errorf("the second to come: %v", err)
	}
	for _, p := range r.Network().Peers() {
		if p == home.Self() || p == there.Self() {
			t.Error("the relay has seen the key of a member")
		}
	}
	if own := d.outer.ID(); own == home.Self() || !slices.Contains(r.Network().Peers(), own) {
		t.Errorf("the relay sees %v", r.Network().Peers())
	}
}

// TestCodesFitOnAScreen: a code with as many relayed addresses as one can have is a QR code
// that fits on a terminal of 100 columns.
func TestCodesFitOnAScreen(t *testing.T) {
	var at []multiaddr.Multiaddr
	for _, relay := range []string{"/ip4/5.0.0.1/udp/4001/quic-v1", "/ip4/5.1.0.1/udp/4001/quic-v1", "/ip6/2a00:1234:5678::1/udp/4001/quic-v1"} {
		at = append(at, multiaddr.StringCast(relay+aRelay+"/p2p-circuit"+aFront+"/p2p-circuit"))
	}
	at = append(at, addrsOf("/ip4/192.168.1.2/udp/4001/quic-v1")...)
	named := ticketAddrs(at)
	if len(named) != member.MaxTicketAddrs || outer.Is(named[2]) {
		t.Errorf("a code names %v", named)
	}
	home := newMachine(t, "anna").found("lab")
	ticket, err := member.NewTicket(home.ID(), home.Self(), named, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	rows, err := api.QR(ticket.String())
	if err != nil || len(rows) > 90 {
		t.Errorf("%d letters are a QR code of %d rows, %v", len(ticket.String()), len(rows), err)
	}
	t.Logf("%d letters, %d rows", len(ticket.String()), len(rows))
}

// TestOutsideOfASwarm: a network has a key of its own for relays, which stays the same, and
// asks those through which members are reached, too. Without relays it has none.
func TestOutsideOfASwarm(t *testing.T) {
	home := newMachine(t, "anna").found("lab")
	home.learn(issued(t, home), "", addrsOf("/ip4/5.0.0.1/udp/1/quic-v1"+aRelay+"/p2p-circuit"+aFront+"/p2p-circuit", "/ip4/5.0.0.1/tcp/1"+aRelay+"/p2p-circuit"+aFront+"/p2p-circuit", "/ip4/5.0.0.9/tcp/1"))
	if cfg := home.Network(network.Config{}); cfg.Outside != nil {
		t.Error("it uses relays that nobody has named")
	}
	cfg := home.Network(network.Config{Outside: &network.Outside{Known: func() []peer.AddrInfo { return []peer.AddrInfo{{ID: "known"}} }}})
	again := home.Network(network.Config{Outside: &network.Outside{}})
	if cfg.Outside.Key.Equals(home.key) || !cfg.Outside.Key.Equals(again.Outside.Key) {
		t.Error("the key that relays see is the member's, or another each time")
	}
	all := cfg.Outside.Known()
	if len(all) != 2 || all[0].ID != "known" || "/p2p/"+all[1].ID.String() != aRelay || len(all[1].Addrs) != 2 {
		t.Errorf("relays are %v", all)
	}
}
