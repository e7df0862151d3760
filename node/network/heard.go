package network

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	maxOffers     = 4096
	maxOfferBytes = 16 << 20 // of all envelopes together
	evictAmong    = 256
	offersGroup   = 64 // offers per group of addresses
	// A reply has offers of up to 64 other peers. A peer that the operator
	// named or that has done work may fill it: a newcomer knows one such peer
	// and learns of all others from it. A stranger may pass on a few, so that
	// eight strangers weigh as much.
	hearsayFriend   = 64
	hearsayStranger = 8
)

// heard holds the known offers of other peers and how each was received: from
// its signer, or by hearsay. An offer that came from its signer keeps that mark
// even when its successor comes from another peer: the successor is signed as
// well, and may say that the peer has moved. Guarded by Network.mu.
type heard struct {
	all   map[peer.ID]*word
	about map[cid.Cid][]*word // the same offers by each model that they are about
	bytes int                 // of all envelopes
	here  func(peer.ID) bool  // reports whether a peer is connected
}

func newHeard(here func(peer.ID) bool) heard {
	return heard{all: map[peer.ID]*word{}, about: map[cid.Cid][]*word{}, here: here}
}

// word is an offer and how it was received.
type word struct {
	*protocol.Offer
	met    bool    // it came from its signer at some time
	teller peer.ID // if not, the peer that passed it on
	group  string
}

// rank returns how much would be lost with an offer.
func (h *heard) rank(w *word) int {
	switch {
	case !w.met:
		return 0
	case !h.here(w.From):
		return 1
	}
	return 2
}

func (h *heard) of(p peer.ID) *protocol.Offer {
	if w := h.all[p]; w != nil {
		return w.Offer
	}
	return nil
}

func (h *heard) forget(p peer.ID) {
	if w := h.all[p]; w != nil {
		h.bytes -= len(w.Envelope)
		delete(h.all, p)
		for _, m := range w.Models() {
			i := slices.Index(h.about[m], w)
			if h.about[m] = slices.Delete(h.about[m], i, i+1); len(h.about[m]) == 0 {
				delete(h.about, m)
			}
		}
	}
}

// add inserts the first offer of a peer.
func (h *heard) add(w *word) {
	h.all[w.From] = w
	h.bytes += len(w.Envelope)
	for _, m := range w.Models() {
		h.about[m] = append(h.about[m], w)
	}
}

// concerning iterates over the offers about a model; with cid.Undef, over all.
func (h *heard) concerning(model cid.Cid) iter.Seq[*word] {
	if model.Defined() {
		return slices.Values(h.about[model])
	}
	return maps.Values(h.all)
}

// keep stores an offer that is newer than the known one of its peer, if there
// is room or another can be evicted. most is how many offers a teller may have
// passed on.
func (h *heard) keep(w *word, most int) bool {
	if old := h.all[w.From]; old != nil {
		if old.met && !w.met {
			w.met, w.teller, w.group = true, "", old.group
		}
		h.forget(w.From)
	}
	told := func(o *word) bool { return !o.met && o.teller == w.teller }
	near := func(o *word) bool { return o.group == w.group }
	room := (w.met || h.clear(w, told, most)) && h.clear(w, near, offersGroup)
	for room && (len(h.all) >= maxOffers || h.bytes+len(w.Envelope) > maxOfferBytes) {
		room = h.evict(w, nil)
	}
	if room {
		h.add(w)
	}
	return room
}

// clear evicts as needed so that one more of a kind fits within most.
func (h *heard) clear(w *word, kind func(*word) bool, most int) bool {
	if len(h.all) < most {
		return true
	}
	count := 0
	for _, o := range h.all {
		if kind(o) {
			count++
		}
	}
	return count < most || h.evict(w, kind)
}

// evict removes one offer of a kind, chosen from all of them or from a random
// sample: an expired one, or else one that is worth no more than w, of the
// lowest rank and from the group with the most offers.
func (h *heard) evict(w *word, kind func(*word) bool) bool {
	now, least := time.Now(), h.rank(w)
	groups, looked := map[string][]peer.ID{}, 0
	for p, o := range h.all {
		if kind != nil && !kind(o) {
			continue
		}
		if looked++; kind == nil && looked > evictAmong {
			break
		}
		if now.After(o.Expires()) {
			h.forget(p)
			return true
		}
		switch r := h.rank(o); {
		case r > least:
			continue
		case r < least:
			least = r
			clear(groups)
		}
		groups[o.group] = append(groups[o.group], p)
	}
	var most []peer.ID
	for _, g := range groups {
		if len(g) > len(most) {
			most = g
		}
	}
	if len(most) == 0 {
		return false
	}
	h.forget(most[rand.IntN(len(most))])
	return true
}

// groupOf returns the group of the address from which an offer's signer is
// connected, or else of one that it claims.
func (n *Network) groupOf(o *protocol.Offer) string {
	if n.Connected(o.From) {
		return n.Group(o.From)
	}
	for _, a := range o.Addresses() {
		if g, ok := GroupOf(a); ok {
			return g
		}
	}
	return o.From.String()
}

// tells returns how many offers of others are kept on one peer's word.
func (n *Network) tells(teller peer.ID) int {
	if teller == "" || n.isFriend(teller) {
		return hearsayFriend
	}
	return hearsayStranger
}

// tellable returns the offers to pass on to others: first those of connected
// peers, then those that came from their signers, then the rest. Each class is
// in random order, with one offer of each group of addresses before a second of
// any. A fixed order would let peers decide what fills the list, because a peer
// can choose its ID.
func (n *Network) tellable(list []*protocol.Offer, most int) []*protocol.Offer {
	ranks := make([][]*word, 3)
	n.mu.Lock()
	for _, o := range list {
		if w := n.offers.all[o.From]; w != nil {
			r := n.offers.rank(w)
			ranks[r] = append(ranks[r], w)
		}
	}
	n.mu.Unlock()
	var out []*protocol.Offer
	for _, rank := range slices.Backward(ranks) {
		for _, w := range draw(rank, most-len(out), func(w *word) string { return w.group }) {
			out = append(out, w.Offer)
		}
	}
	return out
}

// draw returns elements at random, one of each group before a second of any.
func draw[T any](list []T, most int, group func(T) string) (out []T) {
	var order []string
	groups := map[string][]T{}
	for _, i := range rand.Perm(len(list)) {
		g := group(list[i])
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], list[i])
	}
	for round := 0; len(out) < min(most, len(list)); round++ {
		for _, g := range order {
			if round < len(groups[g]) && len(out) < most {
				out = append(out, groups[g][round])
			}
		}
	}
	return out
}
