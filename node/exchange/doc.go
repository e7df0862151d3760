// Package exchange fetches what a node is missing of a model from all sources at
// once, and serves what the node has.
//
// There are four kinds of source, behind one small interface (source):
//
//   - swarm peers, which send leaves in bulk and report which they have, over
//     /shoal/leaves/1 (protocol/README.md), over TCP with TLS where there can be
//     a direct connection (bulkDialer), never over a relay;
//   - peers to which only a relay leads (relayedPeer): they send headings over
//     /shoal/heading/1, and nothing else;
//   - origins: the model's files on servers, read by ranges, or on this machine;
//   - bitswap, as one source that stands for all other peers (package bitswap).
//     Manifests, and the nodes that list a shard's leaves, come by it, or as headings.
//
// 1 GiB between two processes on loopback, two cores: 420 MiB/s in bulk over
// TCP, 228 over QUIC, and 23 by plain bitswap into flatfs (`shoal bench
// fetch`, SHOAL_BIG=1). That is why there is a protocol besides bitswap.
//
// A fetch asks the store what is missing and is done when that is nothing, so an
// interrupted fetch resumes by itself: first the manifest, then the nodes, then
// the leaves, which the scheduler assigns to sources. Peers learn of each other
// from the holders: a peer that asks for a model's leaves is told which others
// do. Every leaf is checked against its CID before it reaches the store. A source
// that sends something else is dropped, named in the progress, and not asked again
// for an hour, over restarts (ledger). At most windowMost leaves are in memory on
// their way in.
//
// Each leaf that the swarm does not have comes from an origin, or from a holder
// that does not fetch, by one member of the swarm. How that one is found, and
// when another takes its place, is said in ownership.go. The bound on duplicates
// holds at any speed at which a stream brings a chunk of 128 KiB within
// stallTime; below that, requests fail.
//
// Bulk keeps to the operator's rates in both directions, and to a fifth of the
// rate it reached before while sessions run here (rateLimiter). If several peers
// ask at once, uploadSlots decides whose leaf is sent next. The ledger's file is
// bounded; the accounts of peers that gave something are the last to be dropped.
//
// A heading is what a prompt needs of a model: its manifest, its header, and the nodes that
// list the header's leaves (Need.Heading). Without it a client could use no node behind a
// router that lets no hole be punched. It is small, so relays carry it, within bounds: a
// fetch takes at most 32 MiB over relays, a peer is sent four times that an hour, and
// no block that is more than the circuit may still carry. Holders with a direct connection
// are asked first. There is a protocol of its own, rather than bitswap or bulk with fewer
// blocks, so that both go on refusing relays, and older peers notice at once.
//
// Bitswap does not find holders: shoal announces models, never leaves. So a fetch
// looks up the holders of the model, connects to them, and looks again while it
// lasts. When nothing comes any more, it asks again in new bitswap sessions
// (fetch.round); bitswap by itself waits most of a minute after a loss. So it does when
// a peer that it watches has got more, by a fetch or, which Gained tells, by an import.
//
// inboundLimiter bounds how many streams of a peer are read at once, and with
// them the memory that a peer can take; a message that does not move fails soon.
// It lies here rather than in package bitswap because bulk goes through it too.
//
// An exchange works over any number of networks (net.go), each with its own host,
// bitswap and dialer, over one store and within the same rates. A peer is asked in the
// network in which it was found, and told of no fetcher in another; what may be sent in a
// network, Net.May decides, and what to which of its peers, Net.Lends and Net.Sends.
// Bitswap is asked in all networks with holders at once.
//
// Reading order: exchange.go (the API), net.go, fetch.go, holders.go (finding peers),
// scheduler.go, ownership.go, source.go with swarmpeer.go, relayed.go and origin.go, and
// for the other direction upload.go, heading.go and uploadslots.go.
package exchange
