// Package lending applies the owner's rules (package lend/policy) in a node: it knows who
// asks, counts what they have, and says no.
//
//	desk.go    the rules in effect, and who a peer is
//	seats.go   sessions and tokens per peer; what a stage and the exchange ask
//	use.go     whose machines this node's own prompts may go to
//	try.go     what the rules would say of somebody, for the owner
//
// # Who
//
// A peer is known by its ID and by the network in which it came: each network has its own
// host and keys, so a stream's network says which swarm vouches for its peer, and the
// certificate that the peer has shown there says with which roles. Nothing that a peer
// says of itself counts.
//
// # Counting
//
// Sessions and tokens are counted per account. That of a member, a guest or a trusted peer
// is its ID: certificates cannot be had for nothing. That of a stranger is the group of IP
// addresses from which it comes, because IDs can.
//
// A session counts once however many stages of its route are on this node, and so do its
// tokens: those computed at the first of its stages here. What a stage has kept of an
// earlier prompt is not computed again, and not counted. A period begins with the first
// token after the one before has ended. A session that uses up its account's tokens ends,
// and its client goes on elsewhere; so an account is exceeded by at most one pass of each
// of its sessions. Counts are kept in memory: a restart forgets them, and so does a node
// with more accounts than maxAccounts, beginning with those whose periods end first.
//
// # What refused clients are told
//
// What they cannot have and when to come again, never the rule: it may name others.
//
// # Invariants
//
//   - This node's own prompts are allowed whatever the rules say, and counted nowhere.
//   - Rules are replaced as a whole; each decision is by one set of them.
//   - No lock is held while a function of Config is called. Package policy, which is pure,
//     is called under it.
package lending
