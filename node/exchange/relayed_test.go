package exchange

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"

	wire "github.com/shoalnet/shoal/protocol"
)

func hostWith(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append(opts, libp2p.DisableMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// overCircuit connects two hosts over a relay alone.
func overCircuit(t *testing.T, a, b host.Host) {
	t.Helper()
	relay := hostWith(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
	info := peer.AddrInfo{ID: relay.ID(), Addrs: relay.Addrs()}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := client.Reserve(t.Context(), b, info); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	via, err := peer.AddrInfoToP2pAddrs(&info)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: []ma.Multiaddr{via[0].Encapsulate(ma.StringCast("/p2p-circuit"))}}); err != nil {
		t.Fatal(err)
	}
}

// What carries models is refused on a circuit, whoever opens the stream: no byte is
// served, and the circuit goes on.
func TestNoBulkOverRelay(t *testing.T) {
	path := writeModel(t, 2, 1<<20)
	a := newNode(t, hostWith(t, libp2p.NoListenAddrs, libp2p.EnableRelay()), t.TempDir(), &roster{})
	b := newHolder(t, hostWith(t, libp2p.NoListenAddrs, libp2p.EnableRelay()), path, nil)
	overCircuit(t, a.h, b.h)
	served := slices.DeleteFunc(b.h.Mux().Protocols(), func(id protocol.ID) bool {
		return id == wire.HeadingID || !slices.Contains(b.x.lanes()[0].inbound.ids, id)
	})
	if len(served) < 2 {
		t.Fatalf("bitswap and leaves are served: %v", served)
	}
	for _, way := range [][2]*node{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		for _, id := range served {
			s, err := from.h.NewStream(network.WithAllowLimitedConn(t.Context(), "test"), to.h.ID(), id)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = s.Write([]byte{0})
			var reset *network.StreamError
			n, err := s.Read(make([]byte, 1))
			if n != 0 || !errors.As(err, &reset) || !reset.Remote || reset.ErrorCode != wire.ResetRelayed {
				t.Errorf("%s: %d bytes and %v", id, n, err)
			}
			if _, err := from.x.lanes()[0].inbound.NewStream(t.Context(), to.h.ID(), id); !errors.Is(err, errRelayed) {
				t.Errorf("%s is opened over a relay: %v", id, err)
			}
			if _, err := from.x.lanes()[0].dialer.open(t.Context(), to.h.ID(), id); !errors.Is(err, errRelayed) {
				t.Errorf("%s is opened over a relay: %v", id, err)
			}
		}
	}
	if b.given() != 0 {
		t.Errorf("%d bytes were served", b.given())
	}
	if r := <-ping.Ping(t.Context(), a.h, b.h.ID()); r.Error != nil {
		t.Error("the circuit is gone:", r.Error)
	}
}
