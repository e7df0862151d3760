// Package exchange gets what a node lacks of a model from peers that hold it,
// and gives of what it holds.
//
// Blocks travel by bitswap (boxo), under the protocol prefix /shoal. Which
// peers to ask is not bitswap's to find out: shoal announces models, never
// leaves, so the holders of the model are looked up, connected to, and looked
// up again while the fetch lasts; the bitswap sessions ask those. Every block is
// verified against its CID before it reaches the store, whoever sent it, and a
// block that is not what was asked for is as good as not sent.
//
// A fetch asks the store what it lacks and is done when that is nothing, so it
// resumes by itself: first the manifest, then the DAG nodes that list a
// shard's leaves, then the leaves. These are asked for in an order of the
// fetch's own, so that holders of different parts give at the same time, and
// nodes that fetch the same have something to give each other. At most window
// leaves are under way at once, which bounds memory to about that many MiB, and
// fewer on slow links (see pace).
//
// Bitswap as it comes trusts peers and links more than strangers on home lines
// deserve. What is added here, each with a test that fails without it:
//
//   - judge: a peer that says that it has blocks, and does not send them, is not
//     asked for a while if others have them. Bitswap would ask on.
//   - ways: a peer that asks and does not read is not served before others.
//     Bitswap would serve nobody else until its sending timed out.
//   - door: of one peer only some streams are read at once, which bounds the
//     memory that it can take; a message that does not move fails soon.
//   - rounds (see fetch): when nothing comes any more, all is asked for anew;
//     bitswap waits most of a minute after a loss.
//   - sessions: several at once, and new ones when a holder joins, since each
//     comes to prefer the holder it began with.
//
// No boxo type stands in this package's API: its maintainers have announced
// the end of their work on it.
package exchange
