// Package swarm keeps the private swarms of a home: it founds and joins them, lets others
// in, ends memberships, and passes on who is no longer a member.
//
//	book.go     the swarms of a home: found, pick, leave
//	state.go    the files of a swarm, and their parsers
//	swarm.go    one swarm: members, codes, what a network needs to be in it
//	tickets.go  the codes that are out
//	door.go     the join listener; join.go: both sides of /shoal/join/1; outside.go: relays
//	            of the open network for both, and for the swarm's host
//	talk.go     /shoal/member/1 among members; agree.go: until both have the same list;
//	            addrs.go: where members are
//	revoke.go   ending memberships; keep.go: what changes with time
//	owner.go    all this for the API and the command line
//
// The objects and their signatures are package protocol/member's, and package network
// checks them at each connection. This package decides which of them exist.
//
// # In the home
//
// A swarm has a folder, swarms/<ID>/: this node's key there, its certificate, the swarm's
// name, root and view key (swarm.json), the newest revocation lists, the members that are
// known, the codes that are out (hashes only), and for the founder the root key, unless
// that was put elsewhere. The files of a new swarm are gathered in a folder beside it that
// is renamed when it is whole; later, each file is replaced as a whole. So a crash leaves a
// swarm or none. A folder whose keys, certificate or lists are damaged is not used, since
// without the lists the node would let in whom it must not.
//
// # Joining
//
// A code names the inviter, up to three addresses, and a secret. The inviter has a second
// libp2p host for those who come with one, because its swarm's host lets in nobody without
// a certificate. It has no identify, ping or DHT, so a stranger who finds it learns nothing
// but a peer ID, and it is open only while a code is out. Behind a router it is also reached
// through relays of the open network (package network/outer), which learn less: they see
// keys that neither side has elsewhere. A code with two relayed addresses and one of the LAN
// has about 460 letters. After a code's last use it
// listens for ten more minutes, so that whoever comes second is told that the code is
// spent; later, nobody listens.
//
// The secret is proved by an HMAC over both peer IDs and never sent. The key of the HMAC is
// a hash of the secret: the inviter keeps that alone, and nobody can make the code from its
// files. A use is on disk before the certificate leaves the inviter, and the joiner's key
// is on disk before it asks, so that an answer that is lost costs no second use.
//
// # Where members are
//
// Members claim their own addresses and those of others, so claims are hearsay (addrs.go):
// what is no IP address with TCP or QUIC, nor such a relay's or a member's outer host
// there, is dropped, and the network bounds dials to the rest as to any stranger's. Only
// where this node has itself reached a member does it dial freely again, and at first where
// the code's IP address leads. No member's address is ever an error: one would keep the
// node from its swarm for good.
//
// # Ending a membership
//
// A revocation list is in force before it is written down or passed on; the connections
// that it forbids are closed meanwhile, since a peer that reads nothing could hold that up.
// The list goes to all connected members at once, and again to each that has not been heard
// to have it; a member that finds it to be news does the same. Members compare digests of
// their lists when they connect, and with one of the connected members about once a minute.
// A list names members by their keys, so that it holds for all their certificates, by
// whomever, and for peers that this node has never met. Codes with which a peer has come
// end when it is revoked: it could use what is left of them under another key. Whoever
// could invite falls with those that it has let in: it could have signed certificates for
// other keys of its own. Only the root key removes an inviter, and what that inviter had
// revoked is then valid again. An inviter's list ends with its certificate, so the nodes
// that sign lists take over what is in one that is about to end, as members: in the root's
// list it would weigh more than an inviter may decide.
//
// A certificate is renewed from day 60 of 90 on, by any connected issuer. One that has
// another serial or fewer roles renews nothing, so no issuer can take away what another
// has granted. A home with the root key renews its own, also at a start after it has
// expired, and does not join again instead: that would lose the root key. libp2p builds its
// TLS certificate once, so connections show the new one after the next start.
//
// # Why not the alternative
//
// Members learn of each other when they connect and from the inviter, not by gossip: swarms
// are small, and a list of all members in every node's files would be the first thing to
// steal. Names of machines come from the machines themselves, and are shown to fellow
// members only.
package swarm
