package placement

import (
	"fmt"
	"math"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// option is a span that the node could serve.
type option struct {
	p      *modelState
	span   protocol.Span
	worth  float64 // compares options of one kind
	order  uint64  // breaks ties; different for every node
	nodes  int     // how many nodes should take it
	key    string  // names the need, the same for all nodes
	left   int     // blocks that are still missing then
	behind int     // how many others go first in any case
	reason string
}

func (v *view) option(p *modelState, s protocol.Span, worth float64) option {
	return option{p: p, span: s, worth: worth, nodes: 1, key: s.String(), order: order(v.self.ID, p.ID, s.String())}
}

// fetch is how long it takes to download the blocks of a span that are not on disk.
func (v *view) fetch(p *modelState, s protocol.Span) time.Duration {
	rate := v.self.Download
	if !(rate > 0) {
		rate = UnknownDownload
	}
	bytes := float64(lacking(v.self.Held[p.ID], s)) * float64(p.BlockBytes)
	return time.Duration(min(bytes/rate, maxClaim.Seconds()) * float64(time.Second))
}

// lacking counts the blocks of a span that are not on disk.
func lacking(held []bool, s protocol.Span) (n int) {
	for b := s.From; b < s.To; b++ {
		if b >= len(held) || !held[b] {
			n++
		}
	}
	return n
}

// paid is the share of the expected stay that remains after fetching, by which the
// worth of an option is multiplied; 0 if the download takes longer than the stay.
func (v *view) paid(p *modelState, s protocol.Span) float64 {
	return max(0, 1-float64(v.fetch(p, s))/float64(max(1, v.Stay)))
}

// gaps are options that fill missing blocks of models: with whole, of models for which
// this node and the others available have room for all missing blocks; without, of
// the other models, in the hope that more nodes come.
func (v *view) gaps(whole bool) (list []option) {
	for _, p := range v.states {
		gaps := p.missing
		if len(gaps) > 0 && v.own == p { // its own span would be given up
			gaps = p.Cuts.Missing(p.Blocks, p.without(v.self.ID))
		}
		others := func(q *Peer) bool { return q.idle() || v.movable(q) }
		if len(gaps) == 0 || (v.own == p || v.fillable(p, length(gaps), others)) != whole {
			continue
		}
		for _, o := range v.pieces(p, gaps) {
			// Nobody can use the model until then: the share of its blocks filled per second.
			o.worth = float64(length(gaps)-o.left) / float64(p.Blocks) / (LoadTime + v.fetch(p, o.span)).Seconds()
			o.reason = fmt.Sprintf("nobody serves blocks %s of %s", listed(gaps), p.name())
			list = append(list, o)
		}
	}
	return list
}

// pieces are the spans that this node could take of some gaps: several gaps with what
// is between them, or the part of one gap that fits, or the part that is on disk
// already. If a gap takes more than one node, the pieces are of equal size, so that as
// many nodes as possible have room for a copy of one; but a node that repairs its own
// model takes as much as it can.
func (v *view) pieces(p *modelState, gaps []protocol.Span) (list []option) {
	add := func(s protocol.Span, closed, begin int) {
		o := v.option(p, s, 0)
		o.key = fmt.Sprint("from ", begin) // one node at a time, whatever the length of its piece
		o.left = length(gaps) - closed
		list = append(list, o)
	}
	for i, g := range gaps {
		for j := i + 1; j < len(gaps); j++ {
			if s := (protocol.Span{From: g.From, To: gaps[j].To}); p.Bytes(s) <= v.self.Lent {
				add(s, length(gaps[i:j+1]), g.From)
			}
		}
		if room := p.room(v.self.Lent, g.From, g.To); room > 0 {
			if n := p.part(g, room, v.own == p); n > 0 {
				add(protocol.Span{From: g.From, To: g.From + n}, n, g.From)
			}
		}
		held := longestHeld(v.self.Held[p.ID], g)
		if n := p.room(v.self.Lent, held.From, held.To); n > 0 && p.leaves(g, protocol.Span{From: held.From, To: held.From + n}) {
			add(protocol.Span{From: held.From, To: held.From + n}, n, g.From)
		}
	}
	return list
}

// part is how many blocks of a gap, from its first one on, a node with room for so many
// takes: such a share that as few nodes as possible fill the gap with equal ones, or as
// much as it can; 0 if no part fits that leaves a rest that others can serve.
func (p *modelState) part(gap protocol.Span, room int, all bool) int {
	if all || room >= gap.Len() {
		n := min(room, gap.Len())
		for ; n > 0 && !p.leaves(gap, protocol.Span{From: gap.From, To: gap.From + n}); n-- {
		}
		return n
	}
	parts := (gap.Len() + room - 1) / room
	if p.Cuts.Anywhere() {
		return (gap.Len() + parts - 1) / parts
	}
	for ; parts <= gap.Len(); parts++ {
		list := p.Cuts.Parts(gap, parts)
		if len(list) == 0 || len(list) < parts {
			break // not into as many
		}
		if list[0].Len() <= room {
			return list[0].Len()
		}
	}
	return p.part(gap, room, true)
}

// leaves reports that a piece of a gap can be served, and what it leaves of the gap, too.
func (p *modelState) leaves(gap, piece protocol.Span) bool {
	left := func(s protocol.Span) bool {
		return s.Len() == 0 || len(p.Cuts.Parts(s, 1)) > 0 || len(p.Cuts.Parts(s, 2)) > 0
	}
	return p.Cuts.Allows(piece) && left(protocol.Span{From: gap.From, To: piece.From}) && left(protocol.Span{From: piece.To, To: gap.To})
}

// ways are pieces of a second way through spans that are too long for this node:
// where only a big node serves all of a model, three small ones can do the same
// together. It is begun only if the idle nodes have room for all of it, and after
// those that have room for the whole span.
func (v *view) ways(p *modelState, wanted func(protocol.Span) (worth float64, reason string)) (list []option) {
	done := map[protocol.Span]bool{}
	for _, s := range p.servers {
		w := s.Span
		if s.goes || done[w] || !p.joined(w) || p.Bytes(w) <= v.self.Lent {
			continue
		}
		done[w] = true
		worth, reason := wanted(w)
		if worth <= 0 {
			continue
		}
		gaps := p.Cuts.Missing(p.Blocks, p.loose(w))
		if len(gaps) == 0 || !v.fillable(p, length(gaps), (*Peer).idle) {
			continue
		}
		for _, o := range v.pieces(p, gaps) {
			o.worth = worth * v.paid(p, o.span) / float64(length(gaps))
			o.key += " through " + w.String()
			o.reason = reason + ", and are begun a second time"
			o.behind = len(v.able(option{p: p, span: w}, (*Peer).idle))
			if o.worth > 0 {
				list = append(list, o)
			}
		}
	}
	return list
}

// loose are the spans within w that join nothing yet, and everything outside w.
func (p *modelState) loose(w protocol.Span) (spans []protocol.Span) {
	for _, s := range p.servers {
		if !s.goes && w.Contains(s.Span) && !p.joined(s.Span) {
			spans = append(spans, s.Span)
		}
	}
	for _, s := range []protocol.Span{{From: 0, To: w.From}, {From: w.To, To: p.Blocks}} {
		if s.Len() > 0 {
			spans = append(spans, s)
		}
	}
	return spans
}

// without are the spans that peers other than one serve or are about to serve.
func (p *modelState) without(peer string) (spans []protocol.Span) {
	for _, s := range p.servers {
		if !s.goes && s.peer != peer {
			spans = append(spans, s.Span)
		}
	}
	return spans
}

// longestHeld is the longest run of blocks of g that are on disk.
func longestHeld(held []bool, g protocol.Span) (longest protocol.Span) {
	run := protocol.Span{From: g.From, To: g.From}
	for b := g.From; b < min(g.To, len(held)); b++ {
		if !held[b] {
			run.From = b + 1
		}
		if run.To = b + 1; run.Len() > longest.Len() {
			longest = run
		}
	}
	return longest
}

// fillable reports that this node and some others have room for so many blocks of the
// model.
func (v *view) fillable(p *modelState, blocks int, others func(*Peer) bool) bool {
	least := p.Cuts.Shortest()
	useful := func(lent int64) int {
		if n := p.room(lent, 0, p.Blocks); n >= least {
			return n
		}
		return 0
	}
	room := useful(v.self.Lent)
	for i := range v.peers {
		if q := &v.peers[i]; room < blocks && q.takes(p.ID) && others(q) {
			room += useful(q.Lent)
		}
	}
	return room >= blocks
}

// hot are options on spans whose servers are asked for more than they can do well;
// with split, pieces of such spans that are too long for this node.
func (v *view) hot(split bool) (list []option) {
	for _, p := range v.states {
		can := make([]float64, p.Blocks)
		for b := range can {
			can[b] = p.supply[b] + p.coming[b]
		}
		wanted := func(s protocol.Span) (float64, string) {
			much := need(p.demand1m, can, s)
			if much < v.Hot {
				return 0, ""
			}
			return p.gain(s, v.speed(p, s)),
				fmt.Sprintf("blocks %s of %s are asked for %.0f %% of what their servers can do", s, p.name(), 100*much)
		}
		if worth, _ := wanted(p.all()); worth <= 0 || len(p.missing) > 0 {
			continue
		}
		if split {
			list = append(list, v.ways(p, wanted)...)
			continue
		}
		for _, o := range v.fitting(p, wanted) {
			speed := v.speed(p, o.span)
			for b := o.span.From; b < o.span.To; b++ {
				o.nodes = max(o.nodes, int(min(1e6, math.Ceil((p.demand1m[b]/v.Goal-can[b])/speed))))
			}
			list = append(list, o)
		}
	}
	return list
}

// spares are options on spans with too few copies to lose one; with split, pieces of
// such spans that are too long for this node.
func (v *view) spares(split bool) (list []option) {
	for _, p := range v.states {
		wanted := func(s protocol.Span) (float64, string) {
			few, n, weakest := 0, v.Copies, math.Inf(1)
			for b := s.From; b < s.To; b++ {
				if p.copies[b] < v.Copies {
					few++
				}
				n = min(n, p.copies[b])
				weakest = min(weakest, p.supply[b]+p.coming[b])
			}
			// Between windows that lack as many copies the weakest comes first
			// (Petals' rule): a hundredth is enough to tell them apart.
			return float64(few) / float64(p.Blocks) * (1 + 0.01/(1+weakest)),
				fmt.Sprintf("blocks %s of %s have %d of %d copies", s, p.name(), n, v.Copies)
		}
		switch {
		case len(p.missing) > 0:
		case split:
			list = append(list, v.ways(p, wanted)...)
		default:
			list = append(list, v.fitting(p, wanted)...)
		}
	}
	return list
}

// fitting are options on the wanted spans that fit and join others: those that are
// served already, and from each cut those that end at another cut.
func (v *view) fitting(p *modelState, wanted func(protocol.Span) (worth float64, reason string)) (list []option) {
	ends := map[protocol.Span]bool{}
	for _, s := range p.servers {
		if !s.goes && p.joined(s.Span) && p.Bytes(s.Span) <= v.self.Lent && p.Cuts.Allows(s.Span) {
			ends[s.Span] = true
		}
	}
	for _, from := range p.cuts {
		far := from + p.room(v.self.Lent, from, p.Blocks)
		for i := len(p.cuts) - 1; i >= 0 && p.cuts[i] > from; i-- {
			if t := (protocol.Span{From: from, To: p.cuts[i]}); t.To <= far && p.Cuts.Allows(t) {
				ends[t] = true
				break
			}
		}
	}
	for s := range ends {
		worth, reason := wanted(s)
		o := v.option(p, s, worth*v.paid(p, s))
		o.reason = reason
		if o.worth > 0 {
			list = append(list, o)
		}
	}
	return list
}

// speed is what this node would do, in rows per second: as measured if it serves the
// model, else from its speed with other blocks, else as a typical server.
func (v *view) speed(p *modelState, s protocol.Span) float64 {
	switch own := v.self.Serving; {
	case own != nil && own.Model == p.ID && own.Row > 0:
		return p.rate(own.Row, s.Len())
	case v.self.Speed > 0 && p.BlockBytes > 0:
		return min(v.self.Speed/float64(p.BlockBytes), 1e6) / float64(s.Len())
	}
	return p.rate(0, s.Len())
}
