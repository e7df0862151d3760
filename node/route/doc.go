// Package route decides, from offers and measured round trips, along which
// stages a session runs and what that will cost, and which span a node should
// serve. It is pure: no clock, no socket, no goroutine.
//
// # Routes
//
// A decode step goes once around the ring: it costs every stage's compute and
// queue, and one way of every hop, from the last stage back to the first
// included. [Plan] finds the ring of least cost by dynamic programming over
// (first stage, stage), since only the closing hop depends on the first. A
// split that is slower than a route with fewer stages therefore never wins;
// [Compare] says what one costs that is forced.
//
// A stage runs the span its engine has loaded, whole: hops join where one span
// ends and the next begins.
//
// # Whose word counts
//
// An offer is a claim, and a claim costs nothing. So [Choose] asks first whether
// the node itself, or peers that its operator trusts, have all of the model: then
// that is the route, however fast others say they are, for what does not leave
// cannot be read. While these are full, a prompt waits some seconds ([ErrOwnFull]),
// and then goes on to others, as its user would. Where they have only a part of it,
// all routes give activations away, and speed decides; but their stages count half,
// so that a stranger's must be twice as fast.
//
// Strangers cost what [Price] makes of their claims: times what was seen, with
// marks for what went wrong on top. Who never did a session is a newcomer, and so
// is, for a day, who did fewer than a quarter of those of the best known beside
// him. A newcomer costs the median at best, is in a route only if there is no other,
// or in its turn, and then as the only one of it. A turn comes every tenth session:
// one who is given only those never comes to a quarter, so that a liar who is
// quick, and whose nonsense nobody can tell from an answer, gets one prompt in ten
// and no more. Where nobody is known, all are taken at once: a network that has
// just begun, and the first prompt of a new client, are as fast as ever.
//
// Peers that lied are used where there is nobody else, as are newcomers that
// failed. How much of a mark is left is the caller's to say.
//
// # Placement
//
// Nobody places spans. Every node asks [Rules.Decide] now and then what to do
// about the span of its own choice, over the signed offers it knows:
//
//	every ten seconds, in a second of its own, and when self.Last is due:
//		d := rules.Decide(now, self, peers, models)
//		self.Last = d
//		if d.Action == Stay || now.Before(d.Due) {
//			continue
//		}
//		self.Last = Decision{}
//		Serve: offer the span at once as not ready, so that others see it, and
//		       fetch it. A span served till now is served until that is done;
//		       then drain it, load the new one, measure it, and offer it as
//		       loaded, and as ready when a probe has come through.
//		Leave: withdraw the span from the offer, drain it, unload it.
//
// What a node without a span takes, in this order:
//
//  1. what is missing of a model for its spans to join from the first block to
//     the last, if the nodes at hand have room for all of that;
//  2. what is asked for more than its servers can well do ([Rules].Hot): the
//     weakest window counts most, as in Petals, and time spent on a download
//     counts against it. Too small for the whole span, it begins, or goes on
//     with, a second way through it together with others;
//  3. what has too few copies to lose one ([Rules].Copies), likewise;
//  4. a part of what is missing, in the hope of others;
//  5. nothing: then it stands by.
//
// New spans begin and end where others do, or fill a gap exactly; others would
// join nothing.
//
// Who serves a span goes to where blocks are missing; or, after a minimum
// stay, to a span that is hot, if that is worth clearly more than what it
// leaves; or it drops a span that has long been idle and has copies enough. It
// never leaves if its model would then not be whole: from the same offers all
// nodes find the same set of servers that keep a model whole, whatever all the
// others do, and the keepers stay. Only within a model that is not whole does a
// keeper change its span, if less is missing then.
//
// The same need is seen by all at once. Who goes first is settled by a hash of
// node and need, and the others wait: what the first does is in its offer
// before the next would act. Load figures are means, the thresholds for coming
// and going are far apart, and a wish to leave must last; so a demand that
// goes up and down by half moves hardly anybody.
//
// # Lying offers
//
// A span counts as ready only if it has answered the node that decides, within
// the last ten minutes ([Served].Answered), and only since then. What has not is
// treated as one that is about to be: who joins waits for it no longer than
// Patience, and who would leave does not rely on it. Nobody leaves a span whose
// other copies are all of strangers that he has known for less than a day, or all
// of one group of addresses, however well they answer: keys are free, and machines
// that compute are had by the hour. A single other copy is of one group, so it is
// never enough, unless its peer is trusted. In a network younger than a day nobody
// gives up a duplicate therefore, and nobody moves from a span that is served well
// to one that is not, but to mend his own model: that is the price, and idle nodes
// come all the time.
//
// What is left to a lying offer is to make a span look hot. That is bounded, for
// each server is believed to be asked for at most twice what it can do and adds as
// much to what can be done, and only one that answers is asked for anything.
package route
