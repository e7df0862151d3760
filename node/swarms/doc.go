// Package swarms opens the networks of a node: the open one, if the node is in it, and
// one for each private swarm of its home, also for swarms that are joined, founded or
// left while the node runs. What they are together is package joint's business, and
// what a swarm is package swarm's.
//
// The open network has the node's port, listening addresses and bootstrap peers. A
// private swarm has a port of its own, which it keeps in its folder, and finds its
// members by what it remembers of them. If the node is not in the open network, its
// oldest swarm takes the port, the addresses and the bootstrap peers that the operator
// named: they belong to whatever network the operator can mean then.
//
// A swarm is also reached through relays of the open network (package outer): those that
// the operator named, those that the open network's host knows or remembers, and those at
// which other members are reached.
//
// A bridge, by which the members of another swarm use this node's or the other way round,
// has a network of its own as well (see packages swarm and network), with a port of its
// own.
//
// A swarm whose network cannot be opened, because its membership has expired for
// instance, does not keep the node from being in the others. A private node without a
// swarm, and one that leaves its last network, is in one of which nobody else can be a
// member (nobody), so that its owner can use what it serves, and so that it is never
// open by accident. Commands that need no peers run so, too, and thus make no key for
// the open network: package swarm takes that for a sign that a home was in it.
package swarms
