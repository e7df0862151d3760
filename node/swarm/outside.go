package swarm

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/outer"
)

// maxHeardRelays is how many relays are taken from where other members are reached.
const maxHeardRelays = 8

// outside completes what a network knows of relays of the open network: the key that they
// see, and the relays through which others there are reached. Without a key it uses none.
func (s *Swarm) outside(o *network.Outside, keyFile, keptFile string, heard func() []peer.AddrInfo) *network.Outside {
	if o == nil {
		return nil
	}
	key, err := network.LoadKey(s.path(keyFile))
	if err != nil {
		s.log.Warn("the swarm is not reached through relays of the open network", "swarm", s.Name(), "error", err)
		return nil
	}
	also := o.Known
	return &network.Outside{Key: key, Named: o.Named, Kept: s.path(keptFile), Known: func() (out []peer.AddrInfo) {
		if also != nil {
			out = also()
		}
		return append(out, heard()...)
	}}
}

// heardRelays are relays through which other members are reached.
func (s *Swarm) heardRelays() (out []peer.AddrInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		out = relaysIn(out, m.Addrs)
	}
	return out
}

// heardRelays are relays through which nodes of the lender are reached.
func (b *Bridge) heardRelays() (out []peer.AddrInfo) {
	for _, n := range b.s.nodesOf(b) {
		out = relaysIn(out, n.Addrs)
	}
	return out
}

// relaysIn adds the relays in addresses, as long as there are few.
func relaysIn(out []peer.AddrInfo, addrs []multiaddr.Multiaddr) []peer.AddrInfo {
	for _, a := range addrs {
		relay, ok := outer.RelayIn(a)
		if !ok {
			continue
		}
		i := slices.IndexFunc(out, func(p peer.AddrInfo) bool { return p.ID == relay.ID })
		switch {
		case i < 0 && len(out) < maxHeardRelays:
			out = append(out, relay)
		case i >= 0 && len(out[i].Addrs) < maxAddrs:
			out[i].Addrs = append(out[i].Addrs, relay.Addrs...)
		}
	}
	return out
}

// doorOutside has the door reached through relays. Its key there follows from that of the
// swarm's own outer host, since one key cannot have two places at a relay.
func (s *Swarm) doorOutside(d *door, relays func() []peer.AddrInfo) error {
	own, err := network.LoadKey(s.path(outerKeyFile))
	if err != nil {
		return err
	}
	raw, err := own.Raw()
	if err != nil {
		return err
	}
	seed := sha256.Sum256(append([]byte("shoal-join-relay\n"), raw...))
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		return err
	}
	d.outer, err = outer.New(outer.Config{Key: key, Relays: relays, Kept: s.path(joinRelaysFile), Log: s.log})
	if err != nil {
		return err
	}
	if err := d.outer.Attach(d.host, d.host.Upgrader); err != nil {
		return errors.Join(err, d.outer.Close())
	}
	d.outer.Want(true)
	return nil
}

// caller makes the host with which this node asks to be let in. Relays see a key that
// nobody has seen before.
func caller(key crypto.PrivKey) (h *outer.Bare, leave func(), err error) {
	fresh, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if h, err = outer.NewBare(outer.BareConfig{Key: key}); err != nil {
		return nil, nil, err
	}
	o, err := outer.New(outer.Config{Key: fresh})
	if err != nil {
		_ = h.Close()
		return nil, nil, err
	}
	leave = func() {
		_ = h.Close()
		_ = o.Close()
	}
	if err := o.Attach(h, h.Upgrader); err != nil {
		leave()
		return nil, nil, err
	}
	return h, leave, nil
}
