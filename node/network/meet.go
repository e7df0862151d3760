package network

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/backoff"
)

const (
	fewPeers  = 4                      // with fewer peers than these, meet keeps looking
	drawn     = 8                      // peers dialled per draw
	drawEvery = 500 * time.Millisecond // while no peer is connected
	lookMore  = time.Minute            // while few peers are connected
	saveEvery = time.Minute            // how often the book is saved
	// How often the node looks itself up in the DHT, which asks some twenty peers. At
	// first it does so more often, because each look may show it more of the network.
	tableEvery = 10 * time.Minute
)

// meet finds peers: at the start, when the last one is lost, when one of this
// node's addresses changes, and every lookMore while there are few. It draws
// from the peers that the operator named, the remembered ones, and those it has
// heard of. It also maintains the book of remembered peers.
func (n *Network) meet() {
	wait, looked, saved := backoff.Backoff{First: time.Second, Most: 15 * time.Second}, time.Time{}, time.Now()
	tableWait, refresh := backoff.Backoff{First: time.Second, Most: tableEvery}, time.Time{}
	for n.ctx.Err() == nil {
		places := n.places()
		n.alone.Store(len(places) == 0 && n.mdns == nil && len(n.host.Network().Peers()) == 0)
		switch peers := len(n.host.Network().Peers()); {
		case peers == 0:
			n.search(places)
			looked = time.Now()
		case peers < fewPeers && time.Since(looked) > lookMore:
			n.dialAll(places[:min(len(places), drawn)])
			looked = time.Now()
		}
		if !time.Now().Before(refresh) {
			if n.dht.RoutingTable().Size() == 0 {
				tableWait.Reset()
			}
			refresh = time.Now().Add(tableWait.Next())
			if err := n.dht.Bootstrap(n.ctx); err != nil && n.ctx.Err() == nil {
				n.log.Debug("refreshing the DHT", "error", err)
			}
		}
		if time.Since(saved) > saveEvery {
			n.remember()
			saved = time.Now()
		}
		select {
		case <-n.ctx.Done():
		case <-time.After(wait.Next()):
		case <-n.wake:
			looked = time.Time{}
			wait.Reset()
			tableWait.Reset()
			refresh = time.Time{}
		}
	}
}

// rouse makes meet look for peers at once.
func (n *Network) rouse() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// search dials one draw after another until a peer is connected or all have
// been dialled. It does not wait for one draw to fail before the next: most
// remembered peers may be gone, and then a dial ends only with its timeout.
func (n *Network) search(places []peer.AddrInfo) {
	for list := range slices.Chunk(places, drawn) {
		n.dialAll(list)
		for end := time.Now().Add(drawEvery); time.Now().Before(end); {
			if n.ctx.Err() != nil || len(n.host.Network().Peers()) > 0 {
				return
			}
			select {
			case <-n.ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// dialAll dials peers concurrently and does not wait for them.
func (n *Network) dialAll(list []peer.AddrInfo) {
	for _, p := range list {
		n.wg.Go(func() {
			ctx, cancel := context.WithTimeout(n.ctx, 2*dialTime)
			defer cancel()
			err := n.host.Connect(ctx, p)
			if n.ctx.Err() != nil {
				return
			}
			n.reached(p, err)
			if err != nil {
				n.log.Debug("a known peer cannot be reached", "peer", p.ID, "error", tidy(err))
			}
		})
	}
}

// places returns the peers to dial, up to sixteen draws, in order: random, but
// with some of each kind in each draw, so that hearsay does not crowd out the
// other kinds.
func (n *Network) places() (out []peer.AddrInfo) {
	seen := map[peer.ID]bool{n.host.ID(): true}
	for _, p := range n.host.Network().Peers() {
		seen[p] = true
	}
	kind := func(list []peer.AddrInfo) (out []peer.AddrInfo) {
		for _, i := range rand.Perm(len(list)) {
			if p := list[i]; !seen[p.ID] && len(p.Addrs) > 0 {
				seen[p.ID] = true
				out = append(out, p)
			}
		}
		return out
	}
	kinds := [][]peer.AddrInfo{kind(n.boot), kind(n.book.infos()), nil}
	for _, p := range n.host.Peerstore().PeersWithAddrs() {
		if !seen[p] {
			kinds[2] = append(kinds[2], n.host.Peerstore().PeerInfo(p))
		}
	}
	kinds[2] = kind(kinds[2])
	out = mix(kinds, []int{3, 3, 2})
	return out[:min(len(out), 16*drawn)]
}

// mix takes turns[i] elements of list i in rotation until all lists are empty.
func mix[T any](lists [][]T, turns []int) (out []T) {
	for left := true; left; {
		left = false
		for i := range lists {
			k := min(turns[i], len(lists[i]))
			out = append(out, lists[i][:k]...)
			lists[i] = lists[i][k:]
			left = left || len(lists[i]) > 0
		}
	}
	return out
}

// remember notes the connected peers and saves the book.
func (n *Network) remember() {
	for _, p := range n.Peers() {
		// Addresses where the peer listens, not the port that it dialled from,
		// and only those where it has proven to be: this node dialled it there,
		// or it connected from there.
		addrs := n.host.Peerstore().Addrs(p.ID)
		addrs = slices.DeleteFunc(addrs, func(a multiaddr.Multiaddr) bool { return !n.gate.isProven(p.ID, a) })
		if !p.Relayed {
			n.book.met(p.ID, addrs, p.RTT)
			n.book.relaying(p.ID, n.isRelay(p.ID))
			if p.Offer != nil {
				n.book.serve(p.ID, served(p.Offer))
			}
		}
	}
	if err := n.book.save(); err != nil {
		n.log.Warn("peers cannot be remembered", "error", err)
	}
}

// moved signs the offer again with the current addresses and sends it to the
// connected peers. That an address of this machine has gone is noticed before, by
// watchPlace; of a network that is not this machine's, only here.
func (n *Network) moved(e event.EvtLocalAddressesUpdated) {
	n.resign()
	changed := slices.ContainsFunc(append(slices.Clone(e.Removed), e.Current...), func(a event.UpdatedAddress) bool {
		return a.Action != event.Maintained && private(a.Address)
	})
	if n.cfg.place == nil && changed {
		n.background(func() { n.elsewhere(len(e.Removed) > 0) })
	}
	n.rouse()
}
