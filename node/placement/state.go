package placement

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// view is the network as one node sees it.
type view struct {
	Rules
	now    time.Time
	self   Self
	peers  []Peer // others whose offers have not expired, by ID
	states []*modelState
	own    *modelState // of the model served
}

// server is one span of one node.
type server struct {
	Served
	peer  string
	of    *Peer   // nil: this node itself
	order uint64  // among the model's servers, in which they leave
	speed float64 // rows per second
	goes  bool    // its node has announced another span
}

// modelState is one model as the offers show it. The figures per block count only
// spans that join others from the model's first block to its last.
type modelState struct {
	*ModelInfo
	servers []server        // what is ready or may soon be, this node's included
	missing []protocol.Span // what it would take for the spans to join
	cuts    []int           // where joined spans begin and end

	demand1m  []float64 // rows per second that are requested
	demand10m []float64 // the same as seen over ten minutes
	supply    []float64 // rows per second that ready servers can compute
	base      []float64 // the same without this node
	coming    []float64 // the same of spans not ready yet
	copies    []int     // servers, ready or not
	relied    []int     // ready servers that have settled
	in, out   map[int]float64

	joined    func(protocol.Span) bool // reports that a span lies on a way from the first block to the last
	blockTime float64                  // seconds a row takes in a block at a typical server
	keepers   map[string]bool          // see keeps
	settled   func(*server) bool
}

// observe makes a view of the offers: those that have expired are left out, claims
// of strangers are cut down to what this node has seen, and models are summarized.
func (r Rules) observe(now time.Time, self Self, peers []Peer, models []ModelInfo) *view {
	v := &view{Rules: r, now: now, self: self}
	if self.Serving != nil {
		s := *self.Serving
		s.Auto, v.self.Serving = true, &s
	}
	for _, p := range peers {
		if !now.Before(p.Expires) {
			continue // its node may be gone
		}
		p.Serves = slices.Clone(p.Serves)
		if p.ID == self.ID { // what it chose itself is in self
			p.Serves = slices.DeleteFunc(p.Serves, func(s Served) bool { return s.Auto })
			p.Lent = 0
		} else if !p.Trusted {
			for i := range p.Serves {
				v.witness(&p.Serves[i])
			}
		}
		v.peers = append(v.peers, p)
	}
	// In one order everywhere, or sums differ in their last digits and nodes
	// in their opinion.
	slices.SortFunc(v.peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	for i := range models {
		v.promoteLoaded(&models[i])
		p := v.summarize(&models[i])
		v.states = append(v.states, p)
		if self.Serving != nil && self.Serving.Model == p.ID {
			v.own = p
		}
	}
	return v
}

// witness cuts a stranger's claim down to what this node has seen itself.
func (v *view) witness(s *Served) {
	switch {
	case !s.Ready:
	case s.Answered.IsZero() || v.now.Sub(s.Answered) >= v.Fresh:
		s.Ready, s.Loaded = false, true
	case s.First.After(s.Since):
		s.Since = s.First
	}
}

// promoteLoaded counts loaded spans as ready where blocks of the model are missing:
// no probe can come through there, so they cannot become ready. Where others make
// the model whole, a span that does not become ready has a fault, and counts as it is.
func (v *view) promoteLoaded(m *ModelInfo) {
	var loaded []*Served
	var ready []protocol.Span
	each := func(s *Served) {
		switch {
		case s.Model != m.ID || !s.Span.Valid(m.Blocks):
		case s.Ready:
			ready = append(ready, s.Span)
		case s.Loaded:
			loaded = append(loaded, s)
		}
	}
	for i := range v.peers {
		for j := range v.peers[i].Serves {
			each(&v.peers[i].Serves[j])
		}
	}
	if v.self.Serving != nil {
		each(v.self.Serving)
	}
	if len(m.Cuts.Missing(m.Blocks, ready)) == 0 {
		return
	}
	for _, s := range loaded {
		s.Ready = true
	}
}

// summarize makes the state of one model.
func (v *view) summarize(m *ModelInfo) *modelState {
	p := &modelState{ModelInfo: m}
	p.settled = func(s *server) bool { return s.Ready && !s.goes && v.now.Sub(s.Since) >= v.Settle }
	add := func(peer string, of *Peer, s Served, goes bool) {
		late := !s.Ready && v.now.Sub(s.Since) > v.Patience
		if s.Model == m.ID && s.Span.Valid(m.Blocks) && !late {
			p.servers = append(p.servers, server{Served: s, peer: peer, of: of, order: order(peer, m.ID), goes: goes})
		}
	}
	for i := range v.peers {
		q := &v.peers[i]
		moving := slices.ContainsFunc(q.Serves, func(s Served) bool { return s.Auto && !s.Ready && !s.Loaded })
		for _, s := range q.Serves {
			add(q.ID, q, s, moving && s.Auto && s.Ready)
		}
	}
	if v.self.Serving != nil {
		add(v.self.ID, nil, *v.self.Serving, false)
	}
	var spans []protocol.Span
	var rows, known float64
	for _, s := range p.servers {
		if !s.goes {
			spans = append(spans, s.Span)
		}
		if s.Ready && s.Row > 0 {
			rows += sane(s.Row).Seconds()
			known++
		}
	}
	p.blockTime = max(1e-6, rows/max(1, known))
	if known == 0 {
		p.blockTime = 1e-3
	}
	p.missing = m.Cuts.Missing(m.Blocks, spans)
	p.joined = joined(m.Blocks, spans)
	p.sum(v)
	return p
}

func (m *ModelInfo) all() protocol.Span { return protocol.Span{From: 0, To: m.Blocks} }

// sum fills in the figures per block.
func (p *modelState) sum(v *view) {
	for _, f := range []*[]float64{&p.demand1m, &p.demand10m, &p.supply, &p.base, &p.coming} {
		*f = make([]float64, p.Blocks)
	}
	p.copies, p.relied = make([]int, p.Blocks), make([]int, p.Blocks)
	p.in, p.out = map[int]float64{}, map[int]float64{}
	cut := map[int]bool{}
	for i := range p.servers {
		s := &p.servers[i]
		s.speed = p.rate(s.Row, s.Span.Len())
		if !p.joined(s.Span) {
			continue
		}
		short, long := v.asked(s)
		for b := s.Span.From; b < s.Span.To; b++ {
			p.demand1m[b] += short
			p.demand10m[b] += long
			switch {
			case s.goes:
				continue
			case s.Ready:
				p.supply[b] += s.speed
			default:
				p.coming[b] += s.speed
			}
			p.copies[b]++
			if s.Ready && s.peer != v.self.ID {
				p.base[b] += s.speed
			}
			if p.settled(s) {
				p.relied[b]++
			}
		}
		if !s.goes {
			cut[s.Span.From], cut[s.Span.To] = true, true
			p.out[s.Span.From] += s.speed
			p.in[s.Span.To] += s.speed
		}
	}
	for b := range cut {
		p.cuts = append(p.cuts, b)
	}
	slices.Sort(p.cuts)
}

// asked returns the demand that a server's sessions put on it, in rows per second,
// over the last minute and over the last ten. A server that refuses sessions is full,
// and its demand exceeds its capacity; since a refused session goes on to ask the
// next server, the demand is capped at twice the capacity.
func (v *view) asked(s *server) (short, long float64) {
	if !s.Ready {
		return 0, 0
	}
	short = share(s.Load)
	if refused := min(share(s.Refused), 0.5); refused >= v.Refused {
		short = 1 / (1 - refused)
	}
	return short * s.speed, max(short, share(s.LoadLong)) * s.speed
}

// share limits a peer's figure to the range from 0 to 1.
func share(x float64) float64 {
	if !(x > 0) { // NaN, too
		return 0
	}
	return min(x, 1)
}

// rate is what a server of so many blocks does, in rows per second.
func (p *modelState) rate(row time.Duration, blocks int) float64 {
	t := p.blockTime
	if row > 0 {
		t = max(1e-6, sane(row).Seconds())
	}
	return 1 / (t * float64(blocks))
}

// swamped is the need of a block that no server is there for.
const swamped = 100

// need is the ratio of demand to capacity at the block of s where it is largest.
func need(want, can []float64, s protocol.Span) (most float64) {
	for b := s.From; b < s.To; b++ {
		most = max(most, ratio(want[b], can[b]))
	}
	return most
}

func ratio(want, can float64) float64 {
	if want <= 0 {
		return 0
	}
	return min(swamped, want/max(can, 1e-9))
}

// others returns how many settled servers there are besides s, at the block where
// they are fewest, and how busy they would be without it. Every row goes through
// every block, so the highest demand of any block counts: a span may be idle only
// because another one holds the rows up.
func (p *modelState) others(s *server) (copies int, busy float64) {
	copies = math.MaxInt
	asked := slices.Max(p.demand10m)
	for b := s.Span.From; b < s.Span.To; b++ {
		n, can := p.relied[b], p.supply[b]
		if p.joined(s.Span) {
			n, can = n-1, can-s.speed
		}
		copies, busy = min(copies, n), max(busy, ratio(asked, can))
	}
	return copies, busy
}

// gain is what a server of the given speed is worth to a span, in addition to the
// servers other than this node: the decrease of the sum, over the model's blocks, of
// need to the fourth power. The power makes the weakest window count most, as in
// Petals (petals/server/block_selection.py), and still distinguishes options where
// two windows are equally weak. Since every move of every node decreases the same
// sum, by at least a quarter of what is at stake, the nodes come to rest (a potential
// game: Monderer and Shapley, 1996).
func (p *modelState) gain(s protocol.Span, speed float64) float64 {
	// A span can receive no more rows than the spans before it send, and likewise after it.
	if s.From > 0 {
		speed = min(speed, p.in[s.From])
	}
	if s.To < p.Blocks {
		speed = min(speed, p.out[s.To])
	}
	var sum float64
	for b := s.From; b < s.To; b++ {
		can := p.base[b] + p.coming[b]
		sum += math.Pow(ratio(p.demand1m[b], can), 4) - math.Pow(ratio(p.demand1m[b], can+speed), 4)
	}
	return sum / float64(p.Blocks)
}

// joined reports which spans lie on a way from the first block to the last.
func joined(blocks int, spans []protocol.Span) func(protocol.Span) bool {
	sorted := slices.Clone(spans)
	slices.SortFunc(sorted, func(a, b protocol.Span) int { return cmp.Compare(a.From, b.From) })
	from, to := map[int]bool{0: true}, map[int]bool{blocks: true}
	for _, s := range sorted {
		if from[s.From] {
			from[s.To] = true
		}
	}
	slices.SortFunc(sorted, func(a, b protocol.Span) int { return cmp.Compare(b.To, a.To) })
	for _, s := range sorted {
		if to[s.To] {
			to[s.From] = true
		}
	}
	return func(s protocol.Span) bool { return from[s.From] && to[s.To] }
}

func listed(spans []protocol.Span) string {
	var words []string
	for _, s := range spans {
		words = append(words, s.String())
	}
	return strings.Join(words, ", ")
}

// length is the number of blocks in all spans together.
func length(spans []protocol.Span) (n int) {
	for _, s := range spans {
		n += s.Len()
	}
	return n
}

// safe reports that the node may leave its span: each block is also served by a peer
// that it trusts, or by strangers that are of at least two groups of addresses and of
// which at least one was met longer ago than Known.
func (v *view) safe() bool {
	for b := v.self.Serving.Span.From; b < v.self.Serving.Span.To; b++ {
		known, groups := false, map[string]bool{}
		for i := range v.own.servers {
			s := &v.own.servers[i]
			switch {
			case s.peer == v.self.ID || !v.own.settled(s) || b < s.Span.From || b >= s.Span.To:
			case s.of.Trusted:
				known, groups[""], groups["trusted"] = true, true, true
			default:
				known = known || v.now.Sub(s.of.Met) >= v.Known
				groups[s.of.Group] = true
			}
		}
		if !known || len(groups) < 2 {
			return false
		}
	}
	return true
}

// keeps reports that a peer is a keeper: one that stays, whatever the others do.
// Starting from all settled servers, in an order that is the same for every node,
// each server is removed if no block is uncovered and no way broken without it. Those
// that remain are the keepers. All others may then leave at the same instant and the
// model is still whole, and when one of them leaves, the keepers remain the same.
// Servers that have not settled are not relied on, since not every node knows them.
func (p *modelState) keeps(peer string) bool {
	if p.keepers == nil {
		p.keepers = p.findKeepers()
	}
	return p.keepers[peer]
}

func (p *modelState) findKeepers() map[string]bool {
	var list []*server             // in the order in which they leave
	var fresh []protocol.Span      // not settled
	cover := make([]int, p.Blocks) // by settled ones
	for i := range p.servers {
		switch s := &p.servers[i]; {
		case p.settled(s):
			list = append(list, s)
			count(cover, s.Span, 1)
		case s.Ready && !s.goes:
			fresh = append(fresh, s.Span)
		}
	}
	slices.SortFunc(list, func(a, b *server) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.peer, b.peer))
	})
	gaps := func(without *server) (settled, all int) {
		var spans []protocol.Span
		for _, s := range list {
			if s != without {
				spans = append(spans, s.Span)
			}
		}
		return length(p.Cuts.Missing(p.Blocks, spans)), length(p.Cuts.Missing(p.Blocks, append(spans, fresh...)))
	}
	settled, all := gaps(nil)
	keepers := map[string]bool{}
	for _, s := range slices.Clone(list) {
		if !s.Auto {
			continue // leaves only when its operator decides so
		}
		a, b := gaps(s)
		if a > settled || b > all || slices.Min(cover[s.Span.From:s.Span.To]) < 2 {
			keepers[s.peer] = true
			continue
		}
		list = slices.DeleteFunc(list, func(x *server) bool { return x == s })
		count(cover, s.Span, -1)
	}
	return keepers
}

func count(cover []int, s protocol.Span, n int) {
	for b := s.From; b < s.To; b++ {
		cover[b] += n
	}
}
