package network

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	maxOffers     = 4096
	maxOfferBytes = 16 << 20 // of all envelopes
	evictAmong    = 256
	offersGroup   = 64 // of one group of addresses
	// A reply tells of 64 others, and who was named by the operator, or has
	// proven useful, may: a newcomer knows one such peer and learns of all others
	// from it. A stranger may tell of a few, so that eight of them weigh as much.
	hearsayFriend   = 64
	hearsayStranger = 8
)

// heard are the known offers of other peers, and how they came: from their
// signers, or by hearsay. An offer that came from its signer stays marked so,
// whoever brings the next: that one is signed as well, and may say that the peer
// has moved. It is guarded by Network.mu.
type heard struct {
	all   map[peer.ID]*word
	about map[cid.Cid][]*word // the same by each model that they are about
	bytes int                 // of all envelopes
	here  func(peer.ID) bool  // is connected
}

func newHeard(here func(peer.ID) bool) heard {
	return heard{all: map[peer.ID]*word{}, about: map[cid.Cid][]*word{}, here: here}
}

// word is an offer and how it came.
type word struct {
	*protocol.Offer
	met    bool    // from its signer, at some time
	teller peer.ID // else who told of it
	group  string
}

// rank says how much is lost with an offer.
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

// add puts an offer of a peer of which none is known.
func (h *heard) add(w *word) {
	h.all[w.From] = w
	h.bytes += len(w.Envelope)
	for _, m := range w.Models() {
		h.about[m] = append(h.about[m], w)
	}
}

// concerning iterates over the offers that are about a model; of cid.Undef: all.
func (h *heard) concerning(model cid.Cid) iter.Seq[*word] {
	if model.Defined() {
		return slices.Values(h.about[model])
	}
	return maps.Values(h.all)
}

// keep keeps an offer that is newer than what was known of its peer, if there is
// room or somebody has to go; most is how many a teller may have told of.
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

// clear makes room for one more where there may be most of a kind.
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

// evict forgets one of a kind, or of some that are drawn from all: one that has
// expired, or one that is worth no more than w, of the least rank, and of the
// group of which there are most.
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

// groupOf an offer: where its signer is connected from, or says that it is.
func (n *Network) groupOf(o *protocol.Offer) string {
	if n.host.Network().Connectedness(o.From) == network.Connected {
		return n.Group(o.From)
	}
	for _, a := range o.Addresses() {
		if g, ok := GroupOf(a); ok {
			return g
		}
	}
	return o.From.String()
}

// tells is how many offers of others are kept on one peer's word.
func (n *Network) tells(teller peer.ID) int {
	if teller == "" || n.isFriend(teller) {
		return hearsayFriend
	}
	return hearsayStranger
}

// tellable are the offers that others are told of: those of peers that are here
// first, then those that came from their signers, then the others; of each at
// random, and of each group of addresses one before another has two. What sorts
// first must not be what fills the list: a peer can choose its ID.
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

// draw takes some at random, of each group one before it takes a second of any.
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
