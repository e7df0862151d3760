// Package placement decides which span of which model a node should serve. It is
// pure: no clock, no socket, no goroutine. The caller passes in the time, its own
// figures and the offers that it knows, and gets a [Decision].
//
//	decide.go   what goes in and comes out, and the decision
//	state.go    one model as the offers show it: demand, supply, gaps, keepers
//	options.go  the spans that a node could take, and what each is worth
//	turn.go     which of many nodes goes first
//
// Nobody assigns spans. Every node asks [Rules.Decide] now and then what to do
// about the span of its own choice:
//
//	every ten seconds, at an offset of its own, and when self.Last is due:
//		d := rules.Decide(now, self, peers, models)
//		self.Last = d
//		if d.Action == Stay || now.Before(d.Due) {
//			continue
//		}
//		self.Last = Decision{}
//		Serve: offer the span at once as not ready, so that others see it, and
//		       fetch it. Keep serving the old span meanwhile; then drain it, load
//		       the new one, measure it, and offer it as loaded, and as ready when
//		       a probe has come through.
//		Leave: withdraw the span from the offer, drain it, unload it.
//
// A node without a span takes the first of these that applies:
//
//  1. blocks that a model lacks for its spans to join from the first block to the
//     last, if the nodes available have room for all of them;
//  2. a span whose servers are asked for more than they can do well ([Rules].Hot).
//     The weakest window counts most, as in Petals, and the time that the download
//     takes counts against it. A node too small for the whole span begins, or
//     continues, a second way through it together with others;
//  3. a span with too few copies to lose one ([Rules].Copies), likewise;
//  4. a part of the missing blocks, in the hope that others come;
//  5. nothing: it stands by.
//
// New spans begin and end where others do, or fill a gap exactly; any other span
// would join nothing.
//
// Not every model can be cut everywhere ([ModelInfo].Cuts). A gap is as large as it must
// be for spans that are allowed to fill it, even if that repeats blocks that others
// serve, and a piece of a gap leaves a rest that can be filled, too.
//
// A node that serves a span moves to where blocks are missing. After a minimum
// stay it may also move to a hot span, if that is clearly worth more than what it
// leaves, or drop a span that has been idle for long and has enough copies. It
// never leaves if its model would then not be whole: from the same offers all
// nodes compute the same set of servers that keeps a model whole, whatever all
// the others do, and these keepers stay. Only within a model that is not whole
// does a keeper change its span, and only if fewer blocks are missing afterwards.
//
// All nodes see the same need at the same time. A hash of node and need settles
// which goes first, and the others wait: the offer of the first shows what it does
// before the next one would act. Load figures are means, the thresholds for coming
// and going are far apart, and a wish to leave must last, so demand that varies by
// half moves hardly any node.
//
// # Lying offers
//
// A span counts as ready only if it has answered the deciding node within the last
// ten minutes ([Served].Answered), and only from its first answer on. Any other
// span is treated as one that is about to be ready: a node that joins waits for it
// no longer than Patience, and a node that would leave does not rely on it. No node
// leaves a span whose other copies all belong to strangers first met less than a day
// ago, or all to one group of addresses, however well they answer: keys are free, and
// machines are rented by the hour. A single other copy is of one group, so it is
// never enough, unless its peer is trusted. Therefore nobody gives up a duplicate in
// a network younger than a day, and nobody moves from a span that is served well to
// one that is not, except to repair its own model. That is the price, and idle nodes
// keep joining.
//
// What remains for a lying offer is to make a span look hot. A server's reported
// demand is capped at twice its capacity, and that capacity also counts as supply,
// so a false "hot" claim has bounded effect; and only a server that answers is
// believed to have any demand.
//
// # Why it is a package of its own
//
// Route and placement share a notion of a peer's span and two one-line functions,
// and nothing else: one is asked per prompt and plans over measured round trips, the
// other is asked every ten seconds and never looks at distance.
package placement
