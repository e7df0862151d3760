package network

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol/member"
	"github.com/shoalnet/shoal/testnet/link"
)

// The nodes of a private swarm are as far from each other as those of the open network if
// their sockets are: over QUIC and over TCP, and also a node that is in both.
func TestEmulatedLinks(t *testing.T) {
	t.Parallel()
	const far = 60 * time.Millisecond
	s := newTestSwarm(t)
	for name, listen := range map[string]string{"QUIC": "/ip4/127.0.0.1/udp/0/quic-v1", "TCP": "/ip4/127.0.0.1/tcp/0"} {
		for _, private := range []bool{false, true} {
			sockets := link.Params{RTT: far}.SocketOptions()
			var pair []*Network
			for range 2 {
				key := newKey(t)
				cfg := Config{Key: key, ListenAddrs: []string{listen}, Sockets: sockets, Version: "test"}
				if private {
					cfg.Swarm = s.of(s.certify(t, key, member.AllRoles, time.Hour))
				}
				n, err := New(cfg)
				if err != nil {
					t.Fatalf("%s, private: %v: %v", name, private, err)
				}
				t.Cleanup(func() { n.Close() })
				pair = append(pair, n)
			}
			a, b := pair[0], pair[1]
			b.gate.name(peer.AddrInfo{ID: a.Self(), Addrs: a.Addrs()})
			if err := b.Host().Connect(t.Context(), peer.AddrInfo{ID: a.Self(), Addrs: a.Addrs()}); err != nil {
				t.Fatalf("%s, private: %v: %v", name, private, err)
			}
			began := time.Now()
			if err := speak(t, b.host, a.Self(), "/ipfs/id/1.0.0"); err != nil {
				t.Fatalf("%s, private: %v: %v", name, private, err)
			}
			if took := time.Since(began); took < far {
				t.Errorf("%s, private: %v: an answer came after %v", name, private, took)
			}
		}
	}
}
