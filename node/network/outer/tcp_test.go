package outer

import (
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/multiformats/go-multiaddr"
)

// A relay says where it sees the port on which the inner host listens over TCP, whether it
// was dialled over TCP or QUIC, and gets no second connection from the outer host's key.
func TestSeenOverTCP(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]host.Host{"TCP": relaying(t, overTCP), "QUIC": relaying(t, overQUIC, overTCP), "QUIC, and TCP twice": relaying(t, overQUIC, overTCP, overTCP)} {
		t.Run(name, func(t *testing.T) {
			inner, err := NewBare(BareConfig{Key: newKey(t), Listen: []multiaddr.Multiaddr{multiaddr.StringCast(overTCP)}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { inner.Close() })
			listens := inner.Network().ListenAddresses()[0].String()
			port := portOf(t, listens)
			seen := make(chan string, 10)
			p := newPair(t, Config{TCPPort: func() int { return port }, Seen: func(_, local, outside multiaddr.Multiaddr) {
				if local.Equal(outside) { // there is no router here
					seen <- outside.String()
				}
			}}, r)
			p.reachable(t, 1)
			for at := range seen {
				if at == listens {
					break
				}
				if strings.Contains(at, "/tcp/") {
					t.Errorf("seen at %s, but it listens at %s", at, listens)
				}
			}
			if n := len(r.Network().ConnsToPeer(p.out.ID())); n != 1 {
				t.Errorf("the outer host has %d connections to its relay", n)
			}
			p.out.Moved()
			if at := <-seen; at == "" {
				t.Error("not seen again after a move")
			}
		})
	}
}

func portOf(t *testing.T, s string) int {
	t.Helper()
	n := 0
	for _, c := range s[strings.LastIndex(s, "/")+1:] {
		n = 10*n + int(c-'0')
	}
	return n
}

// Of what a relay names, it is asked over TCP where it is connected, and nowhere else.
func TestTCPBeside(t *testing.T) {
	said := &pb.Identify{ListenAddrs: [][]byte{{1, 2, 3}}}
	for _, s := range []string{"/ip4/5.0.0.2/tcp/1", "/ip4/5.0.0.1/udp/1/quic-v1", "/ip4/5.0.0.1/tcp/80/ws", "/ip4/5.0.0.1/tcp/2", "/ip6/2a00::1/tcp/3", "/ip4/5.0.0.1/tcp/4", "/ip4/5.0.0.1/tcp/5"} {
		said.ListenAddrs = append(said.ListenAddrs, multiaddr.StringCast(s).Bytes())
	}
	for at, want := range map[string]string{
		"/ip4/5.0.0.1/udp/9/quic-v1": "/ip4/5.0.0.1/tcp/2 /ip4/5.0.0.1/tcp/4", "/ip6/2a00::1/udp/9/quic-v1": "/ip6/2a00::1/tcp/3",
		"/ip4/5.0.0.1/tcp/9": "", "/ip4/5.0.0.7/udp/9/quic-v1": "",
	} {
		var got []string
		for _, a := range tcpBeside(multiaddr.StringCast(at), said) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("connected at %s, it is asked at %v, want %q", at, got, want)
		}
	}
}
