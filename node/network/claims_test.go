package network

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Addresses that peers claim count as a stranger's do, those where a peer was reached as
// remembered ones, and neither makes its peer one that the operator named. An address with
// which nothing can be done keeps no network from being opened.
func TestClaimedAddrs(t *testing.T) {
	at := func(addrs ...string) (p peer.AddrInfo) {
		var err error
		if p.ID, err = peer.IDFromPrivateKey(newKey(t)); err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			p.Addrs = append(p.Addrs, multiaddr.StringCast(a))
		}
		return p
	}
	reached, claimed := at("/ip4/127.0.0.1/tcp/1"), at("/ip4/10.255.255.1/tcp/1", "/ip4/10.255.255.1/unix/x")
	n, err := New(Config{
		Key: newKey(t), ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"},
		Reached: []peer.AddrInfo{reached}, Claimed: []peer.AddrInfo{claimed},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, p := range []peer.AddrInfo{reached, claimed} {
		if n.host.ConnManager().IsProtected(p.ID, keptTag) || n.isBootstrap(p.ID) {
			t.Errorf("%s counts as named by the operator", p.Addrs[0])
		}
		if len(n.host.Peerstore().Addrs(p.ID)) == 0 {
			t.Errorf("nobody looks for the peer at %s", p.Addrs[0])
		}
	}
	known := func(p peer.AddrInfo) bool {
		s, _ := spotOf(p.Addrs[0])
		n.gate.mu.Lock()
		defer n.gate.mu.Unlock()
		return n.gate.named[p.ID][s]
	}
	if !known(reached) || known(claimed) || n.gate.allow(claimed.ID, claimed.Addrs[0]) {
		t.Errorf("dialled without a bound: where a peer was reached %v, where one claims to be %v", known(reached), known(claimed))
	}
}
