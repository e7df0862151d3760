// Package scenario runs a testnet under faults and says what its sessions saw of
// them. cmd/shoal exposes it as `shoal testnet run FILE`.
//
// # A scenario
//
// A TOML file: a network, what is asked of it, and what goes wrong when. The
// files in contrib/scenarios are examples. Settings that are not known are
// refused. Times carry their unit ("10s"), and count from the first fault's
// possible instant; the undisturbed run comes before.
//
//	name, about          for people
//	nodes, replicas      as `shoal testnet` has them
//	model                default: the one inside the program; a path begins at the file's directory
//	rtt, rate, loss      of the links, as `shoal testnet` has them
//	node_args            more arguments of `shoal node`
//	duration             of the faults and of asking
//	seed                 of what is drawn: targets and prompts
//	exact = true         a text that differs from the undisturbed one is a failure
//	allow_gap = false    faults may take the last server of a block away
//	settle = "0s"        a node counts as a server of its blocks only so long after it is ready
//
//	[sessions]
//	count                at once: so many workers ask prompt after prompt
//	prompts              a list; or distinct = how many to draw
//	max_tokens, temperature, seed
//
//	[[fault]]
//	kind                 see below
//	at                   once; or
//	every, from, to      again and again, at from, from+every, ... before to
//	target               a node's name, "random", or "round-robin"
//
//	kill, stop           rejoin = how long after it comes back; without: never
//	hang, hang-engine    for
//	slow                 for; share = the part of its time that the engine keeps
//	kill-engine
//	partition            for; groups = two lists of names, of which one may have
//	                     "client", or a target that is cut from everybody
//	join                 span = "FROM-TO" or "auto"
//	rejoin
//
// # How it works
//
//	start -> undisturbed run (each prompt once) -> faults beside workers -> the
//	last sessions end -> report
//
// A fault that would leave no route from the first block to the last and back,
// among nodes that serve and reach each other and the client, waits for up to ten
// seconds until there is one, and is else passed over, which the report says.
// Which node a drawn fault hits depends on the seed and on who can be hit then.
//
// Each session's tokens are compared with those of the undisturbed run, by the
// index that they carry and by what they are: lost, doubled, out of order, or a
// text that goes on differently. A session that ended with an error has lost
// what it did not get. An error before the first token that says that there is
// no room or no route is a refusal: a failure too, unless the scenario allows
// gaps.
//
// When all sessions have ended, no node may hold anything of them after half a
// minute.
//
// A stall is the longest time between two tokens of a session whose route was
// repaired.
//
// # Invariants
//
//   - Nothing stays behind: what hangs goes on, cut links heal, and the testnet
//     is closed, also when ctx ends. Its directory is the caller's.
//   - The package prints nothing.
package scenario
