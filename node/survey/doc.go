// Package survey finds out which peers serve a model, how loaded they are, how far from
// each other, and what this node has observed of them.
//
//	claim.go      models as offers describe them, the likeliest first
//	survey.go     the peers for one route, asked for their load
//	warm.go       the same without asking, from what they said a moment ago
//	pulse.go      the load of all peers, asked in the background, for the page
//	coverage.go   which blocks of a model are served, by whom, and who holds it
//	placement.go  the peers that decisions about placement consider
//	distances.go  round trips between peers
//
// # Trust
//
// Offers are unverified, and a name costs a peer nothing. So claims are weighed by the
// connected peers behind them: how many IP networks these are in, and whether the
// operator trusts them. Offers of other peers only let a model be found by name or CID.
//
// # Which peers are asked
//
// A query for load reveals something about the prompt, and a stranger's offer alone is
// no reason to dial it. So peers are asked in rounds, until a route is found: the
// node itself and the peers that it trusts; known peers; the best; more of them.
//
// # What is not asked again
//
// To ask costs a round trip before every first token. So the peers of a model that is in
// use are asked in the background, once per second until a minute after its last prompt, and
// a route is planned by answers up to three seconds old (Query.Warm) if no other prompt of
// this node is under way: else several would all choose the stage that had time a moment
// ago. If there is no route by these answers, the peers are asked all the same. How much
// of a prompt a peer has cached is not asked in the background, since that would tell it
// which prompts may come: this node remembers it (Survey.Ended).
//
// # Why it is one package
//
// Answering, serving, the library and the page all need it. As long as each looped
// over offers itself there were three caches, three time-outs and 22 loops. Loops
// over the spans of an offer stand here and in package network, and nowhere else: a
// test holds that.
package survey
