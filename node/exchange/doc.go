// Package exchange gets what a node lacks of a model from all who have it at
// once, and gives of what it holds.
//
// Sources are three, behind one small interface (source):
//
//   - mates: peers that give leaves in bulk and tell what they have, over
//     /shoal/leaves/1 (protocol/README.md), over TCP with TLS where there can be
//     a direct connection (line), never over a relay;
//   - origins: the model's files on servers, read by ranges, or on this machine;
//   - bitswap (boxo), under the prefix /shoal: all other peers, as one source.
//     Manifests, and the nodes that list a shard's leaves, come by it alone.
//
// 1 GiB between two processes on loopback, two cores: 420 MiB/s in bulk over
// TCP, 228 over QUIC, and 23 by bitswap as it comes into flatfs (`shoal bench
// fetch`, SHOAL_BIG=1). That is why there is a protocol besides bitswap.
//
// A fetch asks the store what it lacks and is done when that is nothing, so it
// resumes by itself: first the manifest, then the nodes, then the leaves. The
// desk hands these out; how is said there. A swarm finds itself: who asks for a
// model's leaves is told of the others that do. Every leaf is checked against
// its CID before it reaches the store, whoever sent it. A source that sends
// another is dropped, named to whoever waits for the fetch, and not asked again
// for an hour, over restarts (ledger). At most window leaves are in memory on
// their way in.
//
// What bulk takes is bounded by the operator's rates in both directions, and by
// a fifth of what it reached before while sessions run here (pacer); each end
// sees to that for itself. If peers want at the same time, those who gave most,
// less what they were given, have their turn first, and every fourth turn is
// whoever's has waited longest (turns). The ledger's file is bounded,
// and who gave something is the last that it forgets.
//
// Which peers to ask is not bitswap's to find out: shoal announces models, never
// leaves, so the holders of the model are looked up, connected to, and looked
// up again while the fetch lasts. Bitswap as it comes trusts peers and links
// more than strangers on home lines deserve. What is added here, each with a
// test that fails without it:
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
