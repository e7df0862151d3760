// Package route plans, from offers and measured round trips, which stages a session
// runs along, and predicts its speed. Which span a node should serve is decided by
// package placement. Route is pure: no clock, no socket, no goroutine.
//
// # Routes
//
// A decode step goes once around the ring: its cost is every stage's compute and
// queue time plus the one-way latency of every hop, including the one from the last
// stage back to the first. [Plan] finds the ring of least cost by dynamic programming
// over (first stage, stage), since only the closing hop depends on the first. A split
// that is slower than a route with fewer stages is therefore never chosen; [Compare]
// reports what a forced split costs.
//
// A stage always runs the whole span that its engine has loaded: two hops join where
// one span ends and the next begins.
//
// # Predictions
//
// A token that a guess brings, sent ahead of its ring, costs no trip, only the time of the
// slowest machine. With [Request].Guessed, the share of such tokens lately, the prediction
// is the mean of both; search goes by the trip. What stages of one machine compute for one
// session does not overlap, since each may take all of its cores: their times are added
// where stages on different machines would compute at once.
//
// # Trust
//
// An offer is an unverified claim. So [Choose] first checks whether the node itself,
// or peers that its operator trusts, serve the whole model. If so, the route uses
// only them, however fast others claim to be: activations that stay with them cannot
// be read by strangers. While they are full, a prompt waits a few seconds
// ([ErrOwnFull]) and then uses other peers. If they serve only a part of the model,
// every route sends activations to strangers, and speed decides; but trusted stages
// count half their cost, so that a stranger's must be twice as fast to replace one.
//
// [Price] sets the cost of a stranger: its claimed times, multiplied by the observed
// ratio of real to claimed time, with a surcharge for failures. A peer that has
// completed no session is a newcomer. For a day, so is one that has completed fewer
// than a quarter as many as the best-known peer of the same blocks. A newcomer costs
// at least the median, and is in a route only if there is no other route, or when it
// is a newcomer's turn, and then as the route's only newcomer. Every tenth session is
// such a turn. A peer that gets only those never reaches a quarter, so that a fast
// liar, whose nonsense nobody can tell from an answer, gets at most one prompt in ten.
// If no peer is known, all may be used at once: a new network, and the first prompt of
// a new client, are not slowed down.
//
// # Classes
//
// Engines, their versions, kinds of device and formats of the KV cache differ in the
// last bits of what they compute, and so, now and then, in a word. A session that loses
// a stage in the middle of an answer therefore asks, with [Request].Like, for stages of
// the same class. Trust comes first: the class decides only among routes that [Choose]
// holds to be equally trustworthy. A route of another class is better than none.
//
// Shunned peers (those that lied, and newcomers that failed) are used only if there is
// no other route. The caller decides how marks decay.
package route
