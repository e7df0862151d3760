// Package network connects a node to its peers: a libp2p host on QUIC and TCP,
// a private Kademlia DHT under /shoal, mDNS on the LAN, and the signed offers
// with which nodes announce what they serve.
//
// Where to find what:
//
//	that a peer serves or holds part of a model   provider records in the DHT,
//	                                              by model and by bucket of 16 blocks
//	what exactly, and how fast                    its signed offer, asked for directly;
//	                                              the reply also has offers it knows of others
//	an offer by peer ID alone                     in a small network, a value record in the DHT
//	its current load                              asked for directly, once per route
//
// Provider records are unsigned: a peer named in one is asked directly, and
// only what it has signed counts. Offers passed on by others (hearsay) are safe
// for the same reason. They are bounded (heard.go) per peer that passes them
// on, per group of addresses, and in total. Hearsay never evicts an offer that
// came from its signer, and a list that must be cut is sampled at random. A
// peer pushes only its own offer unasked. When asked, a peer named by the
// operator or one that has done work may pass on as many offers as fit in a
// reply, because a newcomer knows one such peer and learns of all others from
// it. A stranger may pass on eight.
//
// Large networks (listing.go, shelf.go, neighbours.go, find.go). Nothing in a DHT
// bounds how many providers a key has, so a node announces itself only while fewer
// than 64 others are listed. That list could be made up by the peers that keep it,
// so the median of their answers counts; it could be filled by one machine with
// many keys, so the peers that keep it take few records per group of addresses.
// Whoever makes keys that lie closest to a key can still take it over, as in any
// such DHT; then the other paths remain. Servers of a model keep up to sixteen
// neighbours among each other and ask one a minute for a few offers, so that all
// know some dozens of the others. Nobody pushes others' offers: what a peer does
// not ask for it does not take. Of a model at most 256 offers are known. A client
// asks three members that it knows or remembers, and the DHT only if these do not
// suffice; then it also looks under the keys of the buckets that fewest known
// peers serve, because the 64 that are listed under a popular model may all serve
// other blocks. GossipSub would spread offers faster, to everyone, at a cost per
// node that grows with the network.
//
// A node whose offer has changed informs its neighbours by sending them a
// request, which carries the sender's own offer. So the known offers usually
// suffice, and the DHT is queried only when they do not. A peer that does not
// answer is left out of routes for a while, longer each time. An offer is
// replaced only by one with a higher sequence number, is never used after its
// expiry, and is forgotten once its peer cannot be reached.
//
// What a peer can use of this node is bounded (limits.go): connections (first
// idle ones are trimmed, then each new one evicts another, then new ones are
// refused), streams per protocol, and memory in total. Many users may share one
// public address, as in an office, so an address may have 64 connections;
// private addresses have no such bound. Peers that the operator named or that
// did work for this node are disconnected last.
//
// What the DHT stores here for others is bounded as well (dhtstore.go): in
// bytes, per peer and minute, and to keys that so few peers are closer to that
// others may look for them here. The record of an offer lives as long as an
// offer may.
//
// One gate (gate.go) decides which addresses this node dials, whatever their
// source: offers, the DHT, identify, mDNS, or peers that fetch. A stranger
// cannot make this node dial an address again and again, or probe a network.
// Where the peer that reported an address is known, only addresses that it can
// know of are kept: libp2p's own rule for what a peer says about itself,
// applied to hearsay too. The DHT does not say who reported an address, so a
// private one from there is dialled only if some peer is connected from that
// network, and failures there are few. Names are resolved only where the
// operator gave them. Dials are counted per spot (address, port and protocol),
// because a single IP address may stand for a whole office.
//
// A node that has lost its last peer, has moved, or has few peers looks for
// more (meet.go): peers named by the operator, remembered peers, and peers it
// has heard of. Each draw takes some of each kind at random, since most of them
// may be gone. At most 64 peers are remembered (book.go), and at most four per
// group of addresses. Half of them are the peers known for longest and half are
// those that did the most for this node, so that newly arrived strangers evict
// nobody. An address is remembered if this node dialled the peer there, or if
// the peer connected from there and says that it listens there: the first node
// of a network dials nobody, and must find the others again all the same. A
// node that moves signs its offer again and sends it to its peers; a few times at
// once, and then twice a minute at most (resign.go), since relays and peers can
// have its addresses change as often as they like. Relays at which its places do
// not last are left alone for longer each time (outer.Rests).
//
// A change of address ends no connection: QUIC notices after half a minute, TCP
// later, and libp2p looks at the machine's addresses once a minute. So this node
// looks every second (elsewhere.go). After a change it tests its connections,
// closes those on which nobody answers, and makes those to some public nodes
// again, because a peer says where it sees this node only at their beginning.
// The others cannot know of the change, so they test a peer on whose answer a
// request waits longer than four round trips and half a second. A connection
// over which packets come has longer to answer: its line may be full.
//
// How a node behind a router is reached (reaching.go; package reach decides):
// it asks the nearest relays that it is connected to for reservations, at once
// (relays.go), and its offers name those relays until strangers prove that it
// can be dialled. A proven node is a relay and a server of the DHT; where few
// are proven, the network is small and every node serves the DHT. To have
// strangers dial it, a node asks a peer to pass that on (thirds.go); and because
// in a small network it has soon sent packets to everybody, it also asks from
// another port with another key (scout.go). In a private swarm the member vouches
// for that key, as for those of AutoNAT. A relayed
// connection is limited to 256 MiB and an hour, carries no weights, and is replaced
// by a direct one when a hole can be punched, which is tried again and again
// (holes.go): every ten minutes while sessions use the peer, and after waits that
// double while none does. Each try sends packets to which nothing answers where
// two NATs do not match, and a home has many such peers. For the same reason a
// circuit that nothing uses is closed once there is a direct connection, and only
// circuits in use are probed for their round trip.
//
// The hole punching service is made here and not by libp2p's option, because the
// host's own cannot be asked to try again. It begins once an outside address is
// known, because it makes no attempt for circuits that came before. Dials at holes
// are bounded apart from others, because most tries fail before one succeeds. Peers whose
// UDP is blocked need this node's TCP port as others see it, so one of several
// public peers is connected to over TCP (overtcp.go). Where circuits lead both
// ways, one side begins: the node with the smaller ID, or the other one if the
// first is behind a symmetric NAT. Attempts of both sides at once would end each
// other (holehost.go). AutoNAT's word is a claim and no more. A node on loopback
// alone has none of this, and one with transports of its own neither AutoNAT nor
// mapped ports, which use the machine's network.
//
// Relayed connections carry small messages, headers of models, and the frames of
// sessions; bulk and
// the DHT refuse them with a reset code, whoever opens the stream. Each circuit's
// bytes are counted below its encryption (circuit.go). Before its relay cuts it,
// the side that made it makes another, and Stream.Better tells the streams on it
// that there is a better path, as it does when a direct connection appears.
// Streams do not move by themselves: whoever has one opens another. A relay whose
// circuits fall silent is asked whether it lives, and left if it does not answer.
//
// A private swarm (Config.Swarm) has a host of its own, and one more gate
// (membergate.go): a peer gets in only with a valid certificate of the swarm,
// sealed in its TLS certificate. QUIC connections are judged when TLS is done,
// before libp2p knows them; those over TCP and relays in the handshake itself
// (membertls.go). So an outsider opens no stream and learns no protocol, address
// or member. libp2p dials back with helper keys of its own to find out whether a
// node is reachable; a member vouches for them, and they have no roles. A new
// revocation list and an expired certificate close connections at once,
// including those of bulk transfers, which have a libp2p swarm of their own with
// the same gate (Dialling). libp2p makes its TLS certificate once, so a renewed
// membership is shown after the host's next start. What a member may do depends
// on its roles (swarm.go): the network keeps peers with no use for a protocol off
// it, and believes no offer of a peer that may not serve. The swarm's DHT and its
// service on the LAN have names of their own, and what is announced on the LAN is
// sealed (swarmmdns.go). A peer that was refused learns it with its first stream
// (refusals.go), because with TLS 1.3 a client is ready before the server has
// judged it.
//
// Where no member can be dialled, a private swarm uses relays of the open network
// (outside.go). The swarm's host does not speak with them: package outer has a host with a
// key of its own that does, on the same UDP port. So what these relays say of where they see
// it is where holes are punched. Members are preferred: outside relays are asked only while
// fewer than two members relay for this node, and circuits through them are dialled later.
//
// In the network of a bridge (bridge.go), members of two swarms meet: each has a host with a
// key that its certificate's key vouches for, and is judged by its own swarm's root key and
// lists. Guests have those of their roles that the bridge's record gives; nodes of the lender
// serve and relay there, and use nothing. When either swarm revokes the record, all
// connections end as those of a member do. What guests see there is what the record names,
// and of models that they do not serve themselves the headers, without which no prompt can be
// made, but no weights.
//
// A stream to the node itself is a pipe to its own handler: libp2p does not
// dial itself, and a client's own node may be a stage of its route.
package network
