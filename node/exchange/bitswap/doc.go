// Package bitswap is boxo's bitswap made safe for peers and links that nobody
// vouches for. It has one way in, New; no type of boxo stands in its API,
// since boxo's maintainers have announced the end of their work on it.
//
// Bitswap by itself trusts its peers more than strangers on home lines
// deserve. What is added, each part with a test that fails without it:
//
//   - guard: a peer that claims to have blocks and does not send them is hidden
//     from bitswap for a minute if other holders are left. Bitswap would keep
//     asking it. Blocks that were not asked for are counted against their sender.
//   - sendQueue: a peer that asks and does not read is not served before
//     others. Bitswap would serve nobody else until its sending timed out.
//   - blockstore: bitswap reads this node's blocks and never writes any.
//   - finder: bitswap asks the caller for the holders of a model, instead of
//     looking up each block.
//
// Bounds on streams (how many of a peer are read at once, how long one may stand
// still, how many bytes per second pass) are not here but in the host that New
// is given: they hold for leaves in bulk as well, over the same host, so package
// exchange keeps them (inbound.go there).
//
// A session prefers the holders it began with. A caller that wants all holders
// used opens several, and new ones when a holder joins.
package bitswap
