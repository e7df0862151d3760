package route

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// order ranks nodes for one purpose, the same for everyone and another for
// every purpose. Nobody deals the ranks out: whoever draws a low one for this
// need draws another for the next (rendezvous hashing: Thaler and Ravishankar,
// 1998).
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

// serves says that a peer serves some of an option already.
func (q *Peer) serves(o option) bool {
	return slices.ContainsFunc(q.Serves, func(s Served) bool { return s.Model == o.p.ID && overlap(s.Span, o.span) })
}

func (q *Peer) idle() bool { return q.Lent > 0 && q.auto() == nil }

// free says that a span is its node's own choice and has been ready so long.
func (v *view) free(s *Served, age time.Duration) bool {
	return s.Auto && s.Ready && v.now.Sub(s.Since) >= age
}

// movable says that a peer could leave what it serves.
func (v *view) movable(q *Peer) bool {
	s := q.auto()
	if q.Lent <= 0 || s == nil || !v.free(s, v.Settle) {
		return false
	}
	for _, p := range v.pictures {
		if p.ID == s.Model {
			return !p.keeps(q.ID)
		}
	}
	return false
}

// ahead counts the peers among some that go before this node: who has to fetch
// less, then by order.
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

// turn is how long an idle node waits before it takes an option, and whether
// it is among the first. As many as are needed go first, the others wait for
// those to have been heard of. If they are not, for an operator may have said
// no, the next go, and in each slot as many as went before it: a hundred are
// through in seven slots. Besides, who has long to fetch lets others overtake.
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

// moveTurn is how long a node waits that serves another span. The idle go
// first, then one at a time.
func (v *view) moveTurn(o option, step time.Duration) time.Duration {
	idle, rank := len(v.able(o, (*Peer).idle)), v.ahead(o, v.movable)
	return times(v.Slot, math.Log2(float64(1+idle))) + times(step, 1+math.Log2(float64(1+rank)))
}

// mendTurn is how long a node waits that changes its span within a model,
// though it is relied on: all who are freer go first, and of the others one at
// a time, in an order that does not depend on what each would take. Two that
// changed at once would miss each other again.
func (v *view) mendTurn() time.Duration {
	mine, rank := order(v.self.ID, v.own.ID), 0
	for i := range v.own.servers {
		s := &v.own.servers[i]
		if s.peer != v.self.ID && v.free(&s.Served, 0) && s.order < mine {
			rank++
		}
	}
	return v.Pace * time.Duration(1+rank)
}

// leads says that a node is among the first to leave an idle span: one of
// those who could, or a quarter of the servers. The load of those who stay
// shows only later what the others left them.
func (v *view) leads(copies int) bool {
	mine, rank := order(v.self.ID, v.own.ID), 0
	for i := range v.own.servers {
		s := &v.own.servers[i]
		if s.peer == v.self.ID || s.goes || s.order > mine || !overlap(s.Span, v.self.Serving.Span) {
			continue
		}
		n, busy := v.own.others(s)
		if n >= v.Copies && busy <= v.Cool && v.free(&s.Served, v.MinStay) && !v.own.keeps(s.peer) {
			rank++
		}
	}
	return rank < max(1, copies/4)
}

func overlap(a, b protocol.Span) bool { return a.From < b.To && b.From < a.To }

func times(d time.Duration, x float64) time.Duration { return time.Duration(float64(d) * x) }
