package route

import (
	"cmp"
	"slices"

	"github.com/shoalnet/shoal/protocol"
)

// ChooseSpan says which span a node should serve that can take up to room
// blocks: what nobody serves, else a copy of the span that is the weakest by
// what its servers compute together. held says which blocks are on this node's
// disk already; between equals, the span with the least to download wins.
// Spans are whole, so a copy has the bounds of the original. False: there is
// nothing that fits.
func ChooseSpan(blocks, room int, candidates []Candidate, held func(block int) bool) (protocol.Span, bool) {
	if blocks < 1 || room < 1 {
		return protocol.Span{}, false
	}
	var spans []protocol.Span
	power := map[protocol.Span]float64{} // blocks a second, of all its servers
	for _, c := range candidates {
		if !c.Span.Valid(blocks) {
			continue
		}
		spans = append(spans, c.Span)
		power[c.Span] += 1 / max(1e-9, sane(c.Decode).Seconds()*float64(c.Span.Len()))
	}
	missing := func(s protocol.Span) (n int) {
		for b := s.From; b < s.To; b++ {
			if held == nil || !held(b) {
				n++
			}
		}
		return n
	}
	var options []protocol.Span
	for _, gap := range protocol.Uncovered(blocks, spans) {
		n := min(room, gap.Len())
		options = append(options, protocol.Span{From: gap.From, To: gap.From + n}, protocol.Span{From: gap.To - n, To: gap.To})
	}
	if len(options) > 0 {
		return slices.MinFunc(options, func(a, b protocol.Span) int {
			return cmp.Or(cmp.Compare(b.Len(), a.Len()), cmp.Compare(missing(a), missing(b)), cmp.Compare(a.From, b.From))
		}), true
	}
	for s := range power {
		if s.Len() <= room {
			options = append(options, s)
		}
	}
	if len(options) == 0 {
		return protocol.Span{}, false
	}
	return slices.MinFunc(options, func(a, b protocol.Span) int {
		return cmp.Or(cmp.Compare(power[a], power[b]), cmp.Compare(missing(a), missing(b)), cmp.Compare(a.From, b.From))
	}), true
}
