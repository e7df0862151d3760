package network

import (
	"cmp"
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
	offersGroup   = 64  // offers per group of addresses
	offersModel   = 256 // offers that are known to be about a model
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
	about map[cid.Cid][]*word // the same offers by each model that they are about, up to offersModel
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
	under  int // models under which it is known
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
			h.leave(m, w)
		}
	}
}

// add inserts the first offer of a peer. It reports whether there was room: an
// offer that is about models is known under one of them, or not at all.
func (h *heard) add(w *word) bool {
	h.all[w.From] = w
	h.bytes += len(w.Envelope)
	models := w.Models()
	for _, m := range models {
		h.enter(m, w)
	}
	if w.under == 0 && len(models) > 0 {
		h.forget(w.From)
		return false
	}
	return true
}

// enter has an offer known under a model. If too many are, it takes the place of
// another that is worth no more, or has none: one that is about a popular model
// and a rare one is still known under the rare one.
func (h *heard) enter(m cid.Cid, w *word) {
	if list := h.about[m]; len(list) >= offersModel {
		old := h.least(slices.Values(list), w)
		if old == nil {
			return
		}
		if h.leave(m, old); old.under == 0 {
			h.forget(old.From)
		}
	}
	h.about[m] = append(h.about[m], w)
	w.under++
}

// leave takes an offer from those known under a model.
func (h *heard) leave(m cid.Cid, w *word) {
	i := slices.Index(h.about[m], w)
	if i < 0 {
		return
	}
	w.under--
	if h.about[m] = slices.Delete(h.about[m], i, i+1); len(h.about[m]) == 0 {
		delete(h.about, m)
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
	return room && h.add(w)
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
// sample.
func (h *heard) evict(w *word, kind func(*word) bool) bool {
	looked := 0
	old := h.least(func(yield func(*word) bool) {
		for _, o := range h.all {
			if kind != nil && !kind(o) {
				continue
			}
			if looked++; kind == nil && looked > evictAmong || !yield(o) {
				return
			}
		}
	}, w)
	if old == nil {
		return false
	}
	h.forget(old.From)
	return true
}

// least returns which of some offers w may take the place of: an expired one, or
// else one that is worth no more than w, of the lowest rank and from the group
// with the most offers; nil if there is none.
func (h *heard) least(offers iter.Seq[*word], w *word) *word {
	now, least := time.Now(), h.rank(w)
	groups := map[string][]*word{}
	for o := range offers {
		if now.After(o.Expires()) {
			return o
		}
		switch r := h.rank(o); {
		case r > least:
			continue
		case r < least:
			least = r
			clear(groups)
		}
		groups[o.group] = append(groups[o.group], o)
	}
	var most []*word
	for _, g := range groups {
		if len(g) > len(most) {
			most = g
		}
	}
	if len(most) == 0 {
		return nil
	}
	return most[rand.IntN(len(most))]
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

// tellable returns the offers to pass on to others, at most most: with near, half
// of them those of the nearest peers; then those of connected peers, those that
// came from their signers, and the rest. Each class is
// in random order, with one offer of each group of addresses before a second of
// any. A fixed order would let peers decide what fills the list, because a peer
// can choose its ID.
func (n *Network) tellable(list []*protocol.Offer, most int, near bool) []*protocol.Offer {
	var out []*protocol.Offer
	if near {
		list = slices.DeleteFunc(slices.Clone(list), func(o *protocol.Offer) bool { return o.From == n.host.ID() })
		out = nearest(list, most/2, func(o *protocol.Offer) peer.ID { return o.From }, n.RTT, n.Group)
	}
	ranks := make([][]*word, 3)
	n.mu.Lock()
	for _, o := range list {
		if w := n.offers.all[o.From]; w != nil && !slices.Contains(out, o) {
			r := n.offers.rank(w)
			ranks[r] = append(ranks[r], w)
		}
	}
	n.mu.Unlock()
	for _, rank := range slices.Backward(ranks) {
		for _, w := range draw(rank, most-len(out), func(w *word) string { return w.group }) {
			out = append(out, w.Offer)
		}
	}
	return out
}

// nearGroup is how many of the nearest peers may be of one group of addresses, so
// that one machine next door does not stand for the neighbourhood.
const nearGroup = 2

// nearest returns those of a list whose peers have the shortest round trips, at
// most most. Peers whose round trip is not known are left out.
func nearest[T any](list []T, most int, id func(T) peer.ID, rtt func(peer.ID) (time.Duration, bool), group func(peer.ID) string) (out []T) {
	type place struct {
		it  T
		rtt time.Duration
	}
	var places []place
	for _, it := range list {
		if d, ok := rtt(id(it)); ok {
			places = append(places, place{it, d})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.rtt, b.rtt) })
	groups := map[string]int{}
	for _, p := range places {
		if g := group(id(p.it)); len(out) < most && groups[g] < nearGroup {
			groups[g]++
			out = append(out, p.it)
		}
	}
	return out
}

// draw returns elements at random, one of each group before a second of any; of
// more groups than elements are wanted, any, however many are in them.
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
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for round := 0; len(out) < min(most, len(list)); round++ {
		for _, g := range order {
			if round < len(groups[g]) && len(out) < most {
				out = append(out, groups[g][round])
			}
		}
	}
	return out
}
