package outer

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	aRelay = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
	aFront = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
	nested = "/ip4/5.0.0.1/udp/4001/quic-v1/p2p/" + aRelay + "/p2p-circuit/p2p/" + aFront + "/p2p-circuit"
)

// TestAddresses: an address of a circuit between outer hosts is told from all others, and
// says which relay it leads through.
func TestAddresses(t *testing.T) {
	relay, front := decode(t, aRelay), decode(t, aFront)
	if got := join(multiaddr.StringCast("/ip4/5.0.0.1/udp/4001/quic-v1"), relay, front); got.String() != nested {
		t.Errorf("an address is %s", got)
	}
	at, who, ok := split(multiaddr.StringCast(nested))
	if !ok || who != front || at.String() != "/ip4/5.0.0.1/udp/4001/quic-v1/p2p/"+aRelay+"/p2p-circuit" {
		t.Errorf("it is split into %s and %s, %v", at, who, ok)
	}
	info, ok := RelayIn(multiaddr.StringCast(nested))
	if !ok || info.ID != relay || len(info.Addrs) != 1 || info.Addrs[0].String() != "/ip4/5.0.0.1/udp/4001/quic-v1" {
		t.Errorf("its relay is %v, %v", info, ok)
	}
	for _, a := range []string{
		"/ip4/5.0.0.1/udp/4001/quic-v1", "/ip4/5.0.0.1/tcp/1/p2p/" + aRelay + "/p2p-circuit", "/p2p-circuit",
		"/ip4/5.0.0.1/tcp/1/p2p/" + aRelay, "/ip4/5.0.0.1/tcp/1/p2p/" + aRelay + "/p2p-circuit/p2p/" + aFront,
	} {
		if Is(multiaddr.StringCast(a)) {
			t.Errorf("%s is one of a circuit between outer hosts", a)
		}
	}
	for _, a := range []string{"/p2p-circuit/p2p/" + aFront + "/p2p-circuit", "/ip4/5.0.0.1/tcp/1/p2p-circuit/p2p/" + aFront + "/p2p-circuit", "/p2p/" + aRelay + "/p2p-circuit/p2p/" + aFront + "/p2p-circuit"} {
		if info, ok := RelayIn(multiaddr.StringCast(a)); ok {
			t.Errorf("%s leads through %v", a, info)
		}
	}
}

func decode(t *testing.T, s string) peer.ID {
	t.Helper()
	id, err := peer.Decode(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// FuzzAddr: what is split can be put together again.
func FuzzAddr(f *testing.F) {
	f.Add(multiaddr.StringCast(nested).Bytes())
	f.Add(multiaddr.StringCast("/p2p-circuit").Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := multiaddr.NewMultiaddrBytes(raw)
		if err != nil {
			return
		}
		at, front, ok := split(a)
		if ok && !multiaddr.Join(at, p2p(front), circuit).Equal(a) {
			t.Errorf("%s is split into %s and %s", a, at, front)
		}
		if info, ok := RelayIn(a); ok && (!Is(a) || len(info.Addrs) != 1) {
			t.Errorf("%s leads through %v", a, info)
		}
	})
}

// FuzzRelays: a file of relays that is not whole has none that cannot be dialled.
func FuzzRelays(f *testing.F) {
	f.Add([]byte(`[["/ip4/5.0.0.1/tcp/1/p2p/` + aRelay + `"]]`))
	f.Add([]byte(`[[],["/ip4/5.0.0.1/tcp/1"]]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list := parseRelays(raw)
		if len(list) > wantedRelays {
			t.Errorf("%d relays", len(list))
		}
		for _, p := range list {
			if p.ID == "" || len(p.Addrs) > 4 {
				t.Errorf("a relay is %v", p)
			}
		}
	})
}
