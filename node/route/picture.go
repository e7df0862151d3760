package route

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// view is what one node sees.
type view struct {
	Rules
	now      time.Time
	self     Self
	peers    []Peer // others whose offers have not expired, by ID
	pictures []*picture
	own      *picture // of the model served
}

// server is one span of one node.
type server struct {
	Served
	peer  string
	of    *Peer   // nil: this node itself
	order uint64  // among the model's servers, in which they leave
	speed float64 // rows a second
	goes  bool    // its node has announced another span
}

// picture is one model as the offers show it. The figures by block count only
// spans that join others from the model's first block to its last.
type picture struct {
	*ModelInfo
	servers []server        // what is ready or may soon be, this node's included
	missing []protocol.Span // what it would take for the spans to join
	cuts    []int           // where joined spans begin and end

	want    []float64 // rows a second that are asked for
	calm    []float64 // the same as seen over ten minutes
	supply  []float64 // rows a second that ready servers can do
	base    []float64 // the same without this node
	coming  []float64 // the same of spans not ready yet
	copies  []int     // servers, ready or not
	relied  []int     // ready servers that have settled
	in, out map[int]float64

	joined    func(protocol.Span) bool // says that a span lies on a way from the first block to the last
	blockTime float64                  // seconds a row takes in a block at a typical server
	stay      map[string]bool          // see keeps
	settled   func(*server) bool
}

// look makes sense of the offers.
func (r Rules) look(now time.Time, self Self, peers []Peer, models []ModelInfo) *view {
	v := &view{Rules: r, now: now, self: self}
	if self.Serving != nil {
		s := *self.Serving
		s.Auto, v.self.Serving = true, &s
	}
	for _, p := range peers {
		if !now.Before(p.Expires) {
			continue // a ghost
		}
		p.Serves = slices.Clone(p.Serves)
		if p.ID == self.ID { // what it chose itself is known better
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
		v.believe(&models[i])
		p := v.draw(&models[i])
		v.pictures = append(v.pictures, p)
		if self.Serving != nil && self.Serving.Model == p.ID {
			v.own = p
		}
	}
	return v
}

// witness takes of a stranger's claim what this node has seen itself.
func (v *view) witness(s *Served) {
	switch {
	case !s.Ready:
	case s.Answered.IsZero() || v.now.Sub(s.Answered) >= v.Fresh:
		s.Ready, s.Loaded = false, true
	case s.First.After(s.Since):
		s.Since = s.First
	}
}

// believe counts what is loaded as ready if it cannot be more: where blocks
// are missing, no probe comes through. But where others make the model whole,
// a span that does not become ready has a fault.
func (v *view) believe(m *ModelInfo) {
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
	if len(missing(m.Blocks, ready)) == 0 {
		return
	}
	for _, s := range loaded {
		s.Ready = true
	}
}

func (v *view) draw(m *ModelInfo) *picture {
	p := &picture{ModelInfo: m}
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
	p.missing = missing(m.Blocks, spans)
	p.joined = joined(m.Blocks, spans)
	p.sum(v)
	return p
}

func (m *ModelInfo) all() protocol.Span { return protocol.Span{From: 0, To: m.Blocks} }

// sum fills in the figures by block.
func (p *picture) sum(v *view) {
	for _, f := range []*[]float64{&p.want, &p.calm, &p.supply, &p.base, &p.coming} {
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
			p.want[b] += short
			p.calm[b] += long
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

// asked is what a server's sessions ask of it, in rows a second, over the last
// minute and over the last ten. One that refuses is full, and was asked for
// more than it could do; since a session that is refused asks the next server
// too, no more than twice as much is believed.
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

// share makes a peer's figure one between 0 and 1.
func share(x float64) float64 {
	if !(x > 0) { // not a number, too
		return 0
	}
	return min(x, 1)
}

// rate is the rows a second of a server of so many blocks.
func (p *picture) rate(row time.Duration, blocks int) float64 {
	t := p.blockTime
	if row > 0 {
		t = max(1e-6, sane(row).Seconds())
	}
	return 1 / (t * float64(blocks))
}

// swamped is a need beyond all measure: nobody is there to do it.
const swamped = 100

// need is the share of what can be done that is asked for, at the block where
// it is largest.
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

// others tells how many settled servers there are besides one, where they are
// fewest, and how busy they would be without it. Every row goes through every
// block: a span that is idle now because another holds the rows up will be
// asked for as much as that one.
func (p *picture) others(s *server) (copies int, busy float64) {
	copies = math.MaxInt
	asked := slices.Max(p.calm)
	for b := s.Span.From; b < s.Span.To; b++ {
		n, can := p.relied[b], p.supply[b]
		if p.joined(s.Span) {
			n, can = n-1, can-s.speed
		}
		copies, busy = min(copies, n), max(busy, ratio(asked, can))
	}
	return copies, busy
}

// gain is what a server of the given speed is worth to a span, beside those
// who serve it without this node: the fall of the sum, over the model's
// blocks, of need to the fourth power. The power makes the weakest window
// count most, as Petals has it (petals/server/block_selection.py), and still
// tells one option from another where two windows are equally weak. Since all
// nodes lower the same sum with every move, by a quarter or more of what is at
// stake, they come to rest (a potential game: Monderer and Shapley, 1996).
func (p *picture) gain(s protocol.Span, speed float64) float64 {
	// No more comes in where a span begins than others send there.
	if s.From > 0 {
		speed = min(speed, p.in[s.From])
	}
	if s.To < p.Blocks {
		speed = min(speed, p.out[s.To])
	}
	var sum float64
	for b := s.From; b < s.To; b++ {
		can := p.base[b] + p.coming[b]
		sum += math.Pow(ratio(p.want[b], can), 4) - math.Pow(ratio(p.want[b], can+speed), 4)
	}
	return sum / float64(p.Blocks)
}

// joined says which spans lie on a way from the first block to the last.
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

// missing is the least that must be served besides for the spans to join from
// the first block to the last. It is what nobody serves, and more where spans
// overlap without meeting.
func missing(blocks int, spans []protocol.Span) []protocol.Span {
	starts := make([][]int, blocks)
	for _, s := range spans {
		starts[s.From] = append(starts[s.From], s.To)
	}
	// cost[b] is the least number of blocks to add from b to the end, next[b]
	// where the way of least cost goes from b.
	cost, next := make([]int, blocks+1), make([]int, blocks+1)
	for b := blocks - 1; b >= 0; b-- {
		cost[b], next[b] = cost[b+1]+1, -1
		for _, to := range starts[b] {
			if c := cost[to]; c < cost[b] || c == cost[b] && to > next[b] {
				cost[b], next[b] = c, to
			}
		}
	}
	var gaps []protocol.Span
	for b := 0; b < blocks; {
		if next[b] >= 0 {
			b = next[b]
			continue
		}
		from := b
		for b < blocks && next[b] < 0 {
			b++
		}
		gaps = append(gaps, protocol.Span{From: from, To: b})
	}
	return gaps
}

func listed(spans []protocol.Span) string {
	var words []string
	for _, s := range spans {
		words = append(words, s.String())
	}
	return strings.Join(words, ", ")
}

// length is the number of blocks.
func length(spans []protocol.Span) (n int) {
	for _, s := range spans {
		n += s.Len()
	}
	return n
}

// safe says that every block of the node's own span is left, if it goes, to a
// peer that it trusts, or to strangers of whom one has long been known and who are
// not all of one group of addresses.
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

// keeps says that a peer is one of those who stay, whatever the others do.
// From all ready servers, in an order that is the same to everyone, each is
// struck out that can be without a block being uncovered or a way broken; who
// remains is a keeper. So all others may leave at the same instant, and the
// model is still whole; and that one of them leaves changes no keeper. Servers
// that have not settled are not relied on, for not everyone knows them.
func (p *picture) keeps(peer string) bool {
	if p.stay == nil {
		p.stay = p.keepers()
	}
	return p.stay[peer]
}

func (p *picture) keepers() map[string]bool {
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
		return length(missing(p.Blocks, spans)), length(missing(p.Blocks, append(spans, fresh...)))
	}
	settled, all := gaps(nil)
	stay := map[string]bool{}
	for _, s := range slices.Clone(list) {
		if !s.Auto {
			continue // leaves only when its operator says so
		}
		a, b := gaps(s)
		if a > settled || b > all || slices.Min(cover[s.Span.From:s.Span.To]) < 2 {
			stay[s.peer] = true
			continue
		}
		list = slices.DeleteFunc(list, func(x *server) bool { return x == s })
		count(cover, s.Span, -1)
	}
	return stay
}

func count(cover []int, s protocol.Span, n int) {
	for b := s.From; b < s.To; b++ {
		cover[b] += n
	}
}
