// Package survey finds out who serves what: the peers of a model, how loaded they
// are, how far from each other, and what this node has seen of them.
//
//	claim.go      models as offers describe them, the likeliest first
//	survey.go     the peers for one route, asked for their load
//	pulse.go      the load of all peers, asked in the background, for the page
//	offers.go     how models are called, and how many peers have them
//	coverage.go   which blocks of a model are served, by whom, and who holds it
//	placement.go  the peers that decisions about placement consider
//	distances.go  round trips between peers
//
// # Whose word counts
//
// What peers offer is their word, and a name costs them nothing. So claims are
// weighed by the peers that are connected: of how many groups of addresses they
// are, and whether the operator trusts them. Offers of others count for being found
// by name and CID, and for nothing else.
//
// # Who is asked
//
// A question about load reveals something of the prompt, and a stranger's offer is
// no reason to dial it. So peers are asked in rounds, until a route is found: the
// node itself and those that it trusts; those that are known; the best; more of
// them.
//
// # Why it is one package
//
// Answering, serving, the library and the page all need it. As long as each looped
// over offers itself there were three caches, three time-outs and 22 loops. Loops
// over the spans of an offer stand here and in package network, and nowhere else: a
// test holds that.
package survey
