// Package allowance counts what guests of another swarm have used of this one today, over
// all of its nodes, and says when that is all they may.
//
// # What is counted
//
// A token is a position that was computed through all blocks of a model, of a prompt or
// of an answer. A node that serves 10 of 30 blocks counts a third of a token per row. So
// the nodes of a route count a token once together, whatever way it went and whoever
// served the rest of it, and positions that are computed again after a node was lost count
// again. Guesses in vain do not count (node/stage, bill.go). Counts are whole millionths of a
// token. A day begins at 00:00 UTC.
//
// # How nodes agree
//
// Each node counts its own work and tells the others its own sum (Book.Mine), which only
// grows within a day; Book.Heard keeps the greatest that each of them has told. The total
// is this node's sum and the others'. Nobody tells another's sum, so a node cannot be made
// to believe a wrong one but by the node that it is about: a member that lies can end the
// guests' day, as it could by refusing them, but cannot prolong it.
//
// A node has to tell its sum when it has grown by a share of what is left (Book.Due): the
// more is left and the fewer nodes there are, the less often. With n nodes each tells at
// the latest after a 4n-th of what is left, and no less than a token. So a message is due
// O(n log(limit)) times a day, and when the limit is near, each token is told.
//
// # By how much the limit is exceeded
//
// A session is ended by the first pass after which the known total reaches the limit. So
// what is computed beyond it is at most what all nodes compute while a message is under way
// from one to the others, a quarter of that which did not have to be told yet, the pass that
// ends each session, and the one before. With n nodes at r tokens per second each, and
// messages that take d seconds, that is n*(1.25*r*d + 2 passes). d is the 50 ms in which a
// node gathers what it has to tell, the way, and the rest of an exchange that may be under way
// with the other. A pass is a token of each session, or as many of a prompt as the node
// computes at a time. For ten nodes at 50 tokens per second that are 0.1 s from each other,
// with one answer each, it is some 115 tokens.
//
// Nodes that cannot reach each other do not know of each other's work: each part of a
// divided swarm ends at the limit by itself, so k parts allow k times as much. Stopping
// instead would end all guests' answers whenever a node is switched off.
//
// # Why not the alternative
//
// Shares of the limit per node would never exceed it, but guests use whichever node is
// near, and most of the shares would go unused. One node that counts for all would have
// to be asked before each pass, and nobody could be served without it.
//
// The package does no I/O and starts nothing. It is told the time.
package allowance
