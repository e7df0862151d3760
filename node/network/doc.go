// Package network joins a node to its peers: a libp2p host on QUIC and TCP, a
// Kademlia DHT of our own under /shoal, mDNS on the LAN, and the signed offers
// by which nodes say what they serve.
//
// What is where:
//
//	that a peer serves or holds part of a model   provider records in the DHT,
//	                                              by model and by bucket of 16 blocks
//	what exactly, and how fast                    its signed offer, asked directly;
//	                                              it also tells what it knows of others
//	an offer by peer ID alone                     a value record in the DHT
//	its load just now                             asked directly, a route at a time
//
// Provider records are unsigned: whoever is named in one is asked, and only
// what it has signed counts. Hearsay is safe for the same reason, and bounded
// (heard.go): of one teller, of one group of addresses, and in all. It never
// pushes out an offer that came from its signer, and where a list is cut, what
// stays is drawn at random. Unasked, a peer gives its own offer and no other; of
// those it tells when asked, all that fit in a reply are kept if the operator
// named it or it has done work, since a newcomer knows one such peer and learns
// of all others from it, and eight if it is a stranger.
//
// A node whose offer has changed tells its neighbours, by asking them: a request
// carries the asker's own. So what is known is mostly enough, and the DHT is
// asked where it is not. A peer that does not answer is left out for a while,
// longer each time: no route leads to a ghost. An offer is replaced only by one
// of a higher sequence number, is never used after its expiry, and is forgotten
// when its peer cannot be reached any more.
//
// What a peer can take is bounded (limits.go): connections in the order in which
// they are trimmed, make room for each other, and are refused; streams a
// protocol; memory in all. Many may stand behind one address, as in an office,
// so a public one may have 64 connections, and private ones as many as there are.
// Who was named by the operator or did work for this node goes last.
//
// What the DHT keeps here for others is bounded as well (dhtstore.go): in bytes,
// by the peer and minute, and to keys that so few peers are closer to that others
// may look for them here. An offer's record lives for as long as an offer may.
//
// Whom this node dials is decided at one gate (gate.go), whoever told of the
// address: offers, the DHT, identify, mDNS, or peers that fetch. Nobody is made
// to call at an address over and over, or to try the doors of a network, on a
// stranger's word. Where a teller is known, only what it can know of is kept to
// begin with: libp2p's own rule for what a peer says of itself, for hearsay as
// well. The DHT does not say who told, so there a private address is dialled if
// some peer is connected from such a network, and failures are few. Names are
// resolved where the operator gave them, and nowhere else. What is counted are
// spots, an address and port with its protocol: an IP address alone stands for a
// whole office.
//
// A node that has lost its last peer, that has moved, or that has few peers looks
// for some (meet.go): those named by the operator, those remembered, and those
// heard of, drawn at random with some of each kind in each draw, since most may
// be gone. Remembered are at most 64 (book.go), at most four of a group of
// addresses: half of them who has been known for longest, half who did most for
// this node, so that strangers who come late push out nobody. An address is
// remembered if the peer was dialled there, or came from there and says that it
// listens there: the first node of a network dials nobody, and must find the
// others all the same. A node that moves signs its offer anew, tells it, and
// closes the connections on which nobody answers from where it is now.
//
// A stream to oneself is a pipe to one's own handler: libp2p does not dial
// itself, and a client's own node may be a stage of its route.
package network
