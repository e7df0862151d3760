// Package swarm keeps the private swarms of a home: it founds and joins them, lets others
// in, ends memberships, and passes on who is no longer a member.
//
//	begin.go    which networks a home begins in
//	book.go     the swarms of a home: found, pick, leave
//	state.go    the files of a swarm, and their parsers
//	swarm.go    one swarm: members, codes, what a network needs to be in it
//	tickets.go  the codes that are out
//	door.go     the join listener; join.go: both sides of /shoal/join/1; outside.go: relays
//	            of the open network for both, and for the swarm's host
//	talk.go     /shoal/member/1 among members; agree.go: until both have the same list;
//	            addrs.go: where members are
//	revoke.go   ending memberships; keep.go: what changes with time; reenter.go: which
//	            certificate connections show
//	bridge.go   bridges to other swarms; bridgefile.go: their files; bridgeterms.go: how they
//	            begin and end; bridgeended.go: what stays of those that have ended;
//	            bridgetalk.go: what nodes tell each other over them
//	owner.go    all this for the API and the command line; bridgeowner.go: bridges
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
// # The first start
//
// Nothing is open by accident. The first start of a node in a home that is in no swarm
// founds one, with the root key in the home, and the node is in that alone: it serves the
// owner's own machines and those that are let in. Only who says so is in the open network,
// where strangers lend to each other, and then in the home's swarms as well, if it has any.
//
//	the owner has said    the home                            it begins in
//	open                  any                                 the open network and its swarms
//	closed, or nothing    is in swarms                        these
//	closed, or nothing    is in none                          a swarm that a node founds now
//	nothing               was open before homes had swarms    the open network, and each start says so
//
// The last line is for upgrades: a node that lends to strangers, or uses what they lend,
// would otherwise be cut off by a new version, without anybody being there to see why. It
// would be wrong, too, to go on in silence, so the first lines of each start, the status
// and the doctor say how to keep it and how to end it, until somebody decides. Such a home
// has a key for the open network and no folder of swarms, or only the mark of an attempt to join
// one, which leaves it as it is. Nothing else makes that key: what
// is open because somebody said so leaves a mark in that folder, and a command that needs
// no peers begins without any network.
//
// A home that joins a swarm before its first start is in that one, and founds none: a
// second machine of the same owner belongs to the swarm of the first. Only nodes found
// swarms; a command that asks or serves for a moment, in a home without any, is alone.
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
// is on disk before it asks, so that an answer that is lost costs no second use. While the
// inviter takes its time, other swarms are founded, joined and left. A damaged folder of
// the swarm does not bar the way: it is put aside, unless it has the root key.
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
// The operator's bootstrap addresses are dialled only if they are of known members. Anybody
// else there would see the peer ID of this node in the swarm and its sealed certificate; as
// relays such nodes see the key of the outer host alone (package outer).
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
// TLS certificate once, so a running node leaves the swarm's network and enters it again to
// show the new one: when no session runs in it, and a day before the old one ends at the
// latest, when sessions move to other routes and back (reenter.go).
//
// # Bridges
//
// Over a bridge the members of one swarm, the guests, use another, the lender, without a
// proxy: they open their sessions on its nodes. Two texts make a bridge. The guest's owner
// prints a request, which is the public root key; the lender's signs a record of what it
// lends, and prints a code, which is that record, the bridge's view key, and where some of
// the lender's nodes are. Neither text is a secret: only the guest's members can use the
// code. The guest's owner accepts it by signing both record and view key with the guest's
// root key. So no member can have the others send their prompts to a swarm of its own
// making, as none can lend a swarm that is not its own.
//
// Each bridge is a network of its own (network.Bridge): every node of the lender that may
// serve, and every member of the guest with one of the record's roles, has one more host
// there, with a key of its own that its certificate's key vouches for. The alternative is to
// let guests into the lender's own network, and to check at each protocol and record what a
// guest may see. But libp2p's DHT, identify and mDNS know nothing of that, and one forgotten
// place would be a leak; the lender's certificates would have to be sealed so that guests can
// read them, and then they could tell who is a member. In a network of its own there is
// nothing to leak: it has no members but those nodes, and only what the record names is ever
// offered there. Its view key is derived from the lender's, one way, so the lender's members
// need not be sent it, and guests learn nothing of the lender's own. An idle host is 0.6 MiB.
//
// Members tell each other of their swarm's bridges on /shoal/member/1, and of the lender's
// nodes there. In the bridge's network, the same protocol carries the revocation lists of both
// swarms and nothing else of their members: without the other's list, a node would let in, or
// trust with a prompt, somebody who was removed. So each side learns the keys that the other
// has revoked, and no more. A node that has just learned of a bridge has no list of the other
// swarm yet, and gets it from the first member that it meets, as one that was offline does.
//
// A bridge ends when its record expires or either root key revokes it: on the way of all
// revocation lists, at once. A record can be replaced by one of a higher number; revoking it
// revokes those before it, too, so that a node that has missed the newer one does not go back.
// For the same reason a node that forgets a bridge because its record has expired keeps the
// number: an older record may lend more, and for longer. It keeps the record as well, and
// tells members of it (bridgeended.go): one that was away throughout the life of that record
// still has the older one, and would lend by it for as long as that lasts.
// The lender enforces its newest record, whichever the guest has accepted. Guests pass it on,
// too, to nodes of the lender that meet no fellow member.
//
// How many tokens guests may use per day, and by how much nodes exceed that together, is
// package allowance's doc. Nodes of the lender tell each other their sums in the bridge's
// network.
//
// A bridge's network is opened again if the record of now gives other roles, because what is
// exchanged there follows from them, and to show a renewed certificate, as a swarm's own is.
// Relays of the open network carry its circuits, too, and see yet another key.
//
// A home that is in both swarms uses the lender as its member. Members that lend run no own
// prompts in a bridge's network.
//
// # Why not the alternative
//
// Members learn of each other when they connect and from the inviter, not by gossip: swarms
// are small, and a list of all members in every node's files would be the first thing to
// steal. Names of machines come from the machines themselves, and are shown to fellow
// members only.
package swarm
