package network

import (
	"testing"

	"github.com/multiformats/go-multiaddr"
)

func TestGroupOf(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"/ip4/198.51.100.7/udp/4001/quic-v1", "198.51.100.0/24"},
		{"/ip4/198.51.100.200/tcp/1", "198.51.100.0/24"},
		{"/ip6/2001:db8:1:2::3/udp/4001/quic-v1", "2001:db8:1::/48"},
		{"/ip6/::ffff:198.51.100.7/tcp/1", "198.51.100.0/24"},
		{"/ip4/192.168.1.5/tcp/1", "192.168.1.5"},
		{"/ip6/fd00::5/tcp/1", "fd00::5"},
		{"/ip4/127.0.0.1/tcp/1", ""},
		{"/ip6/::1/tcp/1", ""},
		{"/dns4/node.example/tcp/1", ""},
	} {
		got, ok := GroupOf(multiaddr.StringCast(c.addr))
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: group %q, %v; want %q", c.addr, got, ok, c.want)
		}
	}
}
