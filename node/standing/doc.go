// Package standing records what this node has itself observed of each peer:
// since when it knows the peer, what the peer did for this node's sessions and
// how fast, compared with what it claimed, and how it failed. The record is
// this node's own, by its own clock; nothing in it comes from other peers.
//
//	Meet      a peer was connected
//	Ran       a session over some peers ended well
//	Mark      a peer failed, kept a session waiting, or lied
//	Answered  a span of a peer returned a token
//	Explore   the turn of a newcomer: one session in ten
//
// # Marks
//
// A mark decays exponentially. Its half-life is five minutes for a failure,
// since a machine that restarts deserves another chance; ten minutes for
// keeping a session waiting; and half a day for a lie, such as a token that the
// required format does not allow, which no honest machine sends.
//
// # Prices
//
// A peer claims how long a block takes it, and Ran observes how long it took.
// The client of a route of several stages sees only the sum. Time beyond the
// expected sum is attributed to the stages with the least known history, so
// that a stranger's claim costs the stranger. Trust in a claim returns slowly
// and is lost fast.
//
// # Bounds
//
// Keys are free. When the book is full it forgets first the peers that never
// did any work, the most recently met first, so that no number of made-up peers
// makes it forget an old one. A forgotten peer is a newcomer again, as is a
// liar with a new key.
package standing
