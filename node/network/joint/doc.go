// Package joint presents the networks that a node is in as one: the open network
// and any number of private swarms.
//
// Each of them is a network.Network of its own, with its own libp2p host, key,
// port, gate and DHT. What one of them knows never enters another: an offer, a
// provider record or an address that was heard in one swarm is passed on in that
// swarm alone, because no code path leads from one host to the next. A single
// host that checks for each protocol and record which swarm it belongs to would
// need that check in libp2p's DHT, identify and mDNS as well, where one forgotten
// place would be a leak. An idle host costs 0.6 MiB of heap and stacks (see
// BenchmarkNetwork), and nothing is added for a node that is in one network:
// every method then calls the only one.
//
// Invariants:
//
//   - A node has one peer ID per network. Own reports whether an ID is this
//     node's in any of them. Known and Offers return this node's own offer once,
//     that of the first network, and drop what others pass on of its offers in
//     the other networks, so that it is never counted twice and never taken for
//     a stranger. In returns how it is known in a given swarm.
//   - A route lies in one network, because its stages dial each other. Offers and
//     streams carry the ID of their swarm for that, and package survey plans
//     within each network by itself.
//   - A stage opens the stream to its successor in the network from which the
//     session came. A client of one swarm cannot have this node dial a member of
//     another.
//   - What may be used in a network is decided per model, by Config.May. It
//     filters the offers that are made there, with them the provider records, and
//     the answers to peers that ask for this node's load; the same function decides what stages and the exchange serve there.
//   - In the network of a bridge, where the members of two swarms meet, this node offers
//     and answers for what the bridge's record names, and nothing unless its own swarm is
//     the lender or the record lets guests serve. Where it only lends, its own prompts
//     find no offers: Known and Offers leave that network out.
//   - Where nobody may have a model by the owner's rules (Lend), it is not offered. Who of
//     a network may, those who serve it decide for each peer.
//   - At least one network is open until Close, so that Self is always somebody.
//
// Networks are added and removed while the node runs. A network that is added
// gets the handlers, the offer, and the trusted peers that the others have; one
// that is removed takes back its offer, and its streams end. Those of the other
// networks go on.
//
// Networks are in the order in which they were added; the first one names this
// node where one name is needed, as in the status. Where a choice is free,
// private swarms come before the open network: their members are known to
// somebody.
package joint
