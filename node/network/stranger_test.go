package network

import (
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// TestOtherPeer: where another node has the address that was dialled, the error names
// it, over QUIC and TCP.
func TestOtherPeer(t *testing.T) {
	t.Parallel()
	there, here, gone := join(t, false), join(t, false), join(t, false)
	for _, a := range there.Host().Addrs() {
		if strings.Contains(a.String(), "p2p-circuit") {
			continue
		}
		err := here.Host().Connect(t.Context(), peer.AddrInfo{ID: gone.Self(), Addrs: []multiaddr.Multiaddr{a}})
		if err == nil || tidy(err).Error() != "another node answers there: "+there.Self().String() {
			t.Errorf("%s: %v, tidied to %v", a, err, tidy(err))
		}
	}
	for _, text := range []string{"", "peer id mismatch: ", "peer id mismatch: expected x, but remote key matches ", "peer id mismatch: expected x, but remote key matches y"} {
		if who := otherPeer(errors.New("dial: " + text)); who != "" {
			t.Errorf("%q: %s", text, who)
		}
	}
	if who := otherPeer(errors.New(strings.Repeat("remote key matches ", 3))); who != "" {
		t.Error(who)
	}
}
