// Package outer lets a host that speaks with members alone be reached through relays of
// the open network, which learn nothing of it.
//
//	bare.go      a libp2p host without any protocol
//	outer.go     the outer host: its relays, and where it can be reached through them
//	look.go      what it asks relays: a reservation, whether they live, where they see it
//	tcp.go       dials from the inner host's TCP port, so that relays see that, too
//	circuits.go  the circuits that it carries for the inner host
//	addr.go      addresses of such circuits
//
// # How it works
//
// Two homes behind routers reach each other only through a third machine that both can
// dial. If no member of their swarm is such a machine, a node of the open network is: each
// one that can be dialled relays for others. But a swarm's host must not speak with
// outsiders, and they must learn none of its keys. So it gets a second libp2p host, the
// outer one, with a key of its own and no protocol but that with which a relay announces a
// circuit. The outer host dials relays, reserves places at the first that grant one, and
// asks them where they see it. Circuits to and from other outer hosts are handed to the
// inner host as they are: its own security runs inside. Both hosts dial from the same UDP
// and TCP ports, so where relays see the outer host is where holes to the inner one are
// punched. A relay that is dialled over QUIC is also asked over TCP, with a key that is
// never used again.
//
// A relay learns the key, address and port of the outer host, with which other outer hosts
// it has circuits, and how many bytes these carry. It cannot see the inner host's protocols,
// addresses, name, certificate or key, unless it dials the port itself: QUIC shows the key
// of whoever listens, and a sealed certificate.
//
// # Addresses
//
//	/ip4/RELAY/udp/4001/quic-v1/p2p/RELAY-ID/p2p-circuit/p2p/OUTER-ID/p2p-circuit/p2p/INNER-ID
//
// reads like a relay behind a relay: the outer host relays for the inner one. libp2p takes
// it for a relay's address wherever that matters (it dials directly first, such connections
// are limited, holes are punched from them), and a host without this package fails to dial
// it.
//
// # Invariants
//
//   - The outer host listens nowhere, and its connections are those that it has dialled.
//   - Each circuit counts as limited, also at a relay that sets no limit, so it carries
//     frames and small messages, never bulk.
//   - What relays and other members say is bounded: addresses per relay, dials (by the
//     inner host's gate), the time for an answer.
//   - The relays that were used last are asked first, also after a restart: members who
//     were away remember these addresses.
//
// # Why not the alternatives
//
// With the member's own key the addresses would be those of libp2p, but every relay could
// list who is in a swarm, and when; and the swarm's host and its join listener, which have
// one key, could not use the same relay. A new key for each start would tell relays less,
// but two homes that start again while the other is off would never find each other. A
// relay service of the project's own would have to be paid for and trusted to stay.
package outer
