// Package standing keeps what this node has itself seen of each peer: since when
// it knows it, what it did for this node's sessions and how fast, against what it
// claimed, and in what it failed. It is this node's own record by its own clock;
// nothing in it is another's word.
//
//	Meet      a peer was there
//	Ran       a session ended well over some peers
//	Mark      a peer failed, kept a session waiting, or lied
//	Answered  a span of a peer's gave a token
//	Explore   the turn of a newcomer: one session in ten
//
// # Marks
//
// A mark fades: half of it is left after a while, five minutes for a failure,
// which a machine that starts again deserves, ten for one that kept a session
// waiting, and half a day for a lie, such as a token that a format does not have,
// which no honest machine tells.
//
// # Prices
//
// A peer says what a block takes it, and Ran sees what it did take. The client
// of a route of several stages sees only their sum: what it is above what was
// expected is laid to the stages whose ways are known least, so that a stranger's
// claim costs the stranger. Claims are believed again slowly, and disbelieved
// fast.
//
// # Bounds
//
// Keys are free. Of more peers than the book has room for it forgets those first
// that never did any work, the youngest acquaintances first, so that no number of
// made-up peers makes it forget an old one. What was forgotten is a newcomer
// again, which is what a liar with a new key is as well.
package standing
