package swarms

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	libp2p "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/testnet/nat"
	"github.com/shoalnet/shoal/testnet/natsim"
)

// visitors are the peers that have connected to a node, with what they have shown of
// themselves in the handshake.
type visitors struct {
	mu  sync.Mutex
	all map[peer.ID][]*x509.Certificate
}

func (v *visitors) Connected(_ libp2p.Network, c libp2p.Conn) {
	var q *quic.Conn
	c.As(&q)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all[c.RemotePeer()] = q.ConnectionState().TLS.PeerCertificates
}

// A node of the open network that a private node has as its bootstrap peer, and so as its
// relay, sees a key that is not the swarm's, and no certificate.
func TestBootstrapOutsider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 5 * time.Millisecond
		internet := natsim.New()
		host := func(n *natsim.Net, ip string) *natsim.Host {
			h, err := n.Host(netip.MustParseAddr(ip), delay)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		at := host(internet, "5.0.0.1")
		outsider, err := network.New(network.Config{Key: at.Key, ListenAddrs: []string{at.Addr.String()}, Options: at.Options(), Public: true, Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		seen := &visitors{all: map[peer.ID][]*x509.Certificate{}}
		outsider.Host().Network().Notify(&libp2p.NotifyBundle{ConnectedF: seen.Connected})
		time.Sleep(time.Second)

		b := book(t)
		lab := found(t, b, "lab")
		home := host(internet.Behind(nat.Port, netip.MustParseAddr("6.1.0.1"), delay), "10.1.0.2")
		nets, err := Open(Config{
			Network: network.Config{ListenAddrs: []string{home.Addr.String()}, Options: home.SocketOptions(), Bootstrap: []string{at.Full()}, Version: "test"},
			Private: true, Book: b, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		seen.mu.Lock()
		if len(seen.all) != 1 {
			t.Errorf("%d peers have connected, want the outer host alone", len(seen.all))
		}
		for p, shown := range seen.all {
			if p == lab.Self() || p == nets.Self() {
				t.Error("an outsider has seen the node's key in the swarm")
			}
			if len(shown) != 1 || len(shown[0].SubjectKeyId) > 0 {
				t.Errorf("%s has shown %s", p, fmt.Sprintf("%x", shown[0].SubjectKeyId))
			}
		}
		seen.mu.Unlock()
		if err := nets.Close(); err != nil {
			t.Error(err)
		}
		if err := outsider.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}
