// Package scenario runs a testnet under faults and reports how they affected its
// sessions. cmd/shoal exposes it as `shoal testnet run FILE`.
//
// # A scenario
//
// A scenario is a TOML file: a network, its load, and what goes wrong when. The files
// in contrib/scenarios are examples. Unknown settings are refused. Times have a unit
// ("10s"), and count from the beginning of the faults, which follow the undisturbed run.
//
//	name, about          for people
//	nodes, replicas      as `shoal testnet` has them
//	model                default: the built-in one; paths are relative to the file's directory
//	rtt, rate, loss      of the links, as `shoal testnet` has them
//	node_args            additional arguments for `shoal node`
//	duration             of the faults and the load
//	seed                 of random targets and prompts
//	exact = true         a text that differs from the undisturbed one is a failure
//	allow_gap = false    true: faults may remove the last server of a block
//	settle = "0s"        how long after it is ready a node counts as a server of its blocks
//
//	[sessions]
//	count                concurrent workers, each of which asks prompt after prompt
//	prompts              a list; or distinct = how many to draw
//	max_tokens, temperature, seed
//
//	[[group]]             nodes that differ from the others
//	nodes                a list of names
//	engine               "ggml", "llama" or "auto"; default: as the others
//	node_args            additional arguments for `shoal node`
//
//	[[fault]]
//	kind                 see below
//	at                   once; or
//	every, from, to      repeatedly, at from, from+every, ... before to
//	target               a node's name, "random", or "round-robin"
//
//	kill, stop           rejoin = after how long it comes back; default: never
//	hang, hang-engine    for
//	slow                 for; share = the fraction of its time that the engine keeps
//	kill-engine
//	partition            for; groups = two lists of names, one of which may include
//	                     "client", or a target that is cut from everybody
//	join                 span = "FROM-TO" or "auto"
//	rejoin
//
// # How it works
//
//	start -> undisturbed run (each prompt once) -> faults beside workers -> the
//	last sessions end -> report
//
// A fault that would leave no route from the first block to the last and back, among
// nodes that serve and can reach each other and the client, waits up to ten seconds for
// another route; otherwise it is skipped, which the report notes. Which node a random
// fault hits depends on the seed and on which nodes can be hit at that time.
//
// Each session's tokens are compared with those of the undisturbed run, by index and by
// ID, to find tokens that are lost, duplicated or out of order, and texts that continue
// differently. A session that ended with an error has lost the tokens it did not get. An
// error before the first token that reports no room or no route is a refusal, which is a
// failure, too, unless the scenario allows gaps.
//
// Half a minute after all sessions have ended, no node may still hold any of their state.
//
// A stall is the longest time between two tokens of a session whose route was
// repaired.
//
// # Invariants
//
//   - Nothing stays behind, even when ctx ends: hanging processes continue, cut links
//     heal, and the testnet is closed. Its directory is the caller's.
//   - The package prints nothing.
package scenario
