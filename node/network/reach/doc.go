// Package reach decides whether peers elsewhere can dial this node, and says what
// a path to a peer is. It only decides: it has no host, no goroutine and no clock
// of its own, so that a table can test it. Package network feeds it and acts on
// what it says.
//
//	verdict.go  Machine: unknown, claimed, proven
//	path.go     what a connection is: direct or relayed, and what is left of it
//
// # The verdict
//
// A node is *claimed* reachable when AutoNAT v2 says so, when the router has
// mapped a port, or when it has a public address of its own. It is *proven*
// reachable when two peers have connected to it within ten minutes that it had
// never sent a packet to, from different /16 networks (IPv6: /32). A proof
// counts for its IP version alone.
//
// AutoNAT alone is not believed: its servers dial back from an address that this
// node has just sent packets to, and a NAT that filters by address lets them in
// and nobody else. A node that takes that for "public" stops keeping
// reservations with relays and can be reached by nobody; and as a server of the
// DHT it is a dead entry in everybody's table.
//
// Strangers connect by themselves where a network grows. Where it does not, the
// node asks a peer to have a third one dial it (/shoal/reach/1). Where it has
// sent packets to all of them, it has them dial another port of its own, from
// which it has sent packets to the asked peer alone (Machine.CameAside). NATs
// filter for each inside port by itself (RFC 4787), so to that port the others
// are strangers. That holds for NATs that use one outside port towards
// everybody; for others, and where AutoNAT has found the node's own port
// unreachable, another port proves nothing. No port serves twice in a day,
// because the NAT may still let in those of the first time.
//
// A proof ends when the node's public address changes, when AutoNAT finds every
// address unreachable, or a day after the last stranger came in.
//
// Machine.Sent must learn of every dial before the packet leaves. The addresses
// are kept for a day, and so are those of peers that came in, because answering
// them opens the NAT as well. When there are too many, the oldest are forgotten
// and nothing proves anything until a day after that: forgetting could turn an
// old acquaintance into a stranger.
package reach
