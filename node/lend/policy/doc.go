// Package policy decides what a peer may have of this machine, and whose machines this
// node's own prompts may go to. It is pure: callers pass in who asks, for what, and when.
//
// # Lend rules
//
// A rule names who it is about and what they get, with semicolons between the parts:
//
//	strangers: share 20%; sessions 2; models smollm2* tiny*; hours 22:00-07:00
//	swarm anna: share 50%; context 8192
//	swarm lab role serve: share 100%
//	guests of anna: share 10%; tokens 100000/day
//	peer 12D3KooW...: nothing
//
// Who is, from the least to the most specific: anybody; strangers (peers of the open
// network that are not trusted), members (of any swarm) or guests (whom a bridge lets into
// a swarm without being its members); guests of NAME, the swarm whose members they are;
// swarm NAME or its ID; swarm NAME role ROLE; trusted (whom the operator named); peer ID.
// What is:
//
//	nothing        no session at all
//	share PART     weight of all whom the rule decides about, in a stage's time and room,
//	               while others want them, too (default 100%)
//	cap PART       of a stage's time even if nobody else wants it
//	models GLOB... names or IDs of models (default: all)
//	context N      tokens per session, prompt and answer together
//	sessions N     at once, per peer
//	tokens N/day   prompt and answer together, per peer; also /hour and /minute
//	hours H        when, as lend.ParseHours reads it
//
// For a peer, only the most specific rules that are about it count. Of those the first
// decides whose models and hours fit; if none fits, the peer gets nothing. So a narrow
// rule takes away as well as it gives, and two rules about the same peers may give
// different shares of different models. If no rule is about a peer, those of [Defaults]
// are; and likewise where all rules about it give nothing and none of them fits, as with
// "strangers: nothing; models llama*".
//
// A peer is known by its ID and by the swarm that vouches for it. The name of a machine
// is what the machine says of itself, so no rule can be about one.
//
// The owner's own prompts are subject to no rule.
//
// # Use rules
//
// mine (this node and trusted peers), swarm (and members of the swarms that it is in) or
// anybody, for all models or, in front of a colon, for those that a pattern matches:
//
//	swarm
//	llama*: mine
//
// The first pattern that matches decides; without one, the rule without a pattern.
package policy
