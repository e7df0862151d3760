package network

import (
	"testing"

	"github.com/multiformats/go-multiaddr"
)

func TestMachineOf(t *testing.T) {
	for _, c := range []struct{ local, remote, want string }{
		{"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2", thisMachine},
		{"/ip4/0.0.0.0/udp/1/quic-v1", "/ip6/::1/udp/2/quic-v1", thisMachine},
		{"/ip4/192.168.1.5/tcp/1", "/ip4/192.168.1.5/tcp/2", thisMachine},
		{"/ip4/203.0.113.4/tcp/1", "/ip4/203.0.113.4/tcp/2", thisMachine},
		{"/ip4/192.168.1.5/tcp/1", "/ip4/192.168.1.6/tcp/2", "192.168.1.6"},
		{"/ip4/192.168.1.5/tcp/1", "/ip6/::ffff:192.168.1.6/tcp/2", "192.168.1.6"},
		{"/ip4/192.168.1.5/tcp/1", "/ip4/203.0.113.4/tcp/2", ""}, // a router's, perhaps
		{"/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::2/tcp/2", "2001:db8::2"},
		{"/ip4/0.0.0.0/tcp/1", "/ip4/0.0.0.0/tcp/2", ""},
		{"/ip4/192.168.1.5/tcp/1", "/dns4/example.org/tcp/2", ""},
	} {
		if got := machineOf(multiaddr.StringCast(c.local), multiaddr.StringCast(c.remote)); got != c.want {
			t.Errorf("from %s, %s is on %q, want %q", c.local, c.remote, got, c.want)
		}
	}
}
