package placement

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"time"
)

// order ranks nodes for one purpose. All nodes compute the same rank, and a node has
// another rank for every purpose (rendezvous hashing: Thaler and Ravishankar, 1998).
func order(words ...string) uint64 {
	h := sha256.New()
	for _, w := range words {
		_, _ = io.WriteString(h, w+"\x00")
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func (q *Peer) takes(model string) bool { return len(q.Takes) == 0 || slices.Contains(q.Takes, model) }

// auto is the span of its own choice that a peer serves, or the one that it is
// about to.
func (q *Peer) auto() (s *Served) {
	for i := range q.Serves {
		if q.Serves[i].Auto && (s == nil || !q.Serves[i].Ready) {
			s = &q.Serves[i]
		}
	}
	return s
}

// serves reports that a peer already serves a part of an option.
func (q *Peer) serves(o option) bool {
	return slices.ContainsFunc(q.Serves, func(s Served) bool { return s.Model == o.p.ID && s.Span.Overlaps(o.span) })
}

func (q *Peer) idle() bool { return q.Lent > 0 && q.auto() == nil }

// free reports that a span is its node's own choice and has been ready for at least age.
func (v *view) free(s *Served, age time.Duration) bool {
	return s.Auto && s.Ready && v.now.Sub(s.Since) >= age
}

// movable reports that a peer could leave what it serves.
func (v *view) movable(q *Peer) bool {
	s := q.auto()
	if q.Lent <= 0 || s == nil || !v.free(s, v.Settle) {
		return false
	}
	for _, p := range v.states {
		if p.ID == s.Model {
			return !p.keeps(q.ID)
		}
	}
	return false
}

// ahead counts the peers among some that go before this node: those that have fewer
// blocks to fetch, or as many and a lower rank.
func (v *view) ahead(o option, among func(*Peer) bool) (n int) {
	mine, lack := order(v.self.ID, o.p.ID, o.key), lacking(v.self.Held[o.p.ID], o.span)
	for _, q := range v.able(o, among) {
		if cmp.Or(cmp.Compare(lacking(q.Held[o.p.ID], o.span), lack), cmp.Compare(order(q.ID, o.p.ID, o.key), mine), cmp.Compare(q.ID, v.self.ID)) < 0 {
			n++
		}
	}
	return n
}

// able are the peers among some that could take an option.
func (v *view) able(o option, among func(*Peer) bool) (list []*Peer) {
	for i := range v.peers {
		if q := &v.peers[i]; q.takes(o.p.ID) && o.p.Bytes(o.span) <= q.Lent && !q.serves(o) && among(q) {
			list = append(list, q)
		}
	}
	return list
}

// turn returns how long an idle node waits before it takes an option, and whether it
// is among the first. As many nodes as are needed go first; the others wait until
// the offers of those would have arrived. If none arrive, because an operator may not
// allow it, the next nodes go, in each slot as many as in all slots before: a hundred
// nodes have had their turn after seven slots. A node that has much to fetch also
// waits for faster ones to overtake it.
func (v *view) turn(o option) (wait time.Duration, first bool) {
	rank := v.ahead(o, (*Peer).idle) + o.behind - o.nodes
	if rank >= 0 {
		wait = times(v.Slot, math.Log2(float64(2+rank)))
	}
	if len(v.able(o, (*Peer).idle)) > 0 {
		wait += min(v.fetch(o.p, o.span)/8, 2*v.Slot)
	}
	return wait, rank < 0
}

// moveTurn is how long a node waits that serves another span: idle nodes go first,
// then the others one at a time.
func (v *view) moveTurn(o option, step time.Duration) time.Duration {
	idle, rank := len(v.able(o, (*Peer).idle)), v.ahead(o, v.movable)
	return times(v.Slot, math.Log2(float64(1+idle))) + times(step, 1+math.Log2(float64(1+rank)))
}

// repairTurn is how long a keeper waits before it changes its span within its model.
// All that are freer to move go first, and keepers one at a time, in an order that
// does not depend on what each would take: two that changed at once could again take
// spans that do not join.
func (v *view) repairTurn() time.Duration {
	mine, rank := order(v.self.ID, v.own.ID), 0
	for i := range v.own.servers {
		s := &v.own.servers[i]
		if s.peer != v.self.ID && v.free(&s.Served, 0) && s.order < mine {
			rank++
		}
	}
	return v.Pace * time.Duration(1+rank)
}

// leads reports that a node is among the first to leave an idle span: the first one of
// those that could, or the first quarter of the servers. The load that they leave to
// the others shows only later.
func (v *view) leads(copies int) bool {
	mine, rank := order(v.self.ID, v.own.ID), 0
	for i := range v.own.servers {
		s := &v.own.servers[i]
		if s.peer == v.self.ID || s.goes || s.order > mine || !s.Span.Overlaps(v.self.Serving.Span) {
			continue
		}
		n, busy := v.own.others(s)
		if n >= v.Copies && busy <= v.Cool && v.free(&s.Served, v.MinStay) && !v.own.keeps(s.peer) {
			rank++
		}
	}
	return rank < max(1, copies/4)
}

func times(d time.Duration, x float64) time.Duration { return time.Duration(float64(d) * x) }

// maxClaim is the longest time that a figure of a peer may claim. A longer one is a
// mistake, or a lie.
const maxClaim = time.Hour

// sane returns a peer's figure within what is possible.
func sane(d time.Duration) time.Duration { return max(0, min(d, maxClaim)) }
