// Package session drives one session along a route, from the client's side, and
// repairs the route when a stage is lost.
//
// It opens every stage of the route at once, sends the prompt to the first in
// chunks (stage 1 works on chunk 1 while stage 0 does chunk 2), and reads the
// tokens from the last, which also sends each to the first: between two tokens
// nothing goes through the client. Four times per second it sends a Ping on every
// stream, and each stage answers how far it is.
//
// # Early rows
//
// That a stage has accepted is known a round trip after its Open has been sent. What the
// client needs of the answers is how many positions of the prompt each stage has cached, and
// what it can take back; and that the peers have said before, when they were asked for their
// load (Hop.Said). So the first stage gets the first rows right behind its Open, in an epoch
// of their own, and the first token comes after one trip: to the first stage, around the
// ring, and back (early.go). The other stages and the links are opened meanwhile.
//
// If a stage has less cached than its peer had said, it drops the rows, which begin beyond
// what it has, and its answer tells the client, which begins another epoch where all
// stages can: nothing is gained, and nothing lost but what the stages before it have
// computed. If a stage refuses, so is what was sent, 1,024 rows at most. What was cached
// beyond what was said is computed again. All of this holds only if every peer of the route
// says that it drops such rows; with any other, rows wait for all answers, as do those of
// repairs and of second routes.
//
// # Repair
//
//	handleEvent  what a stage reports about itself or its neighbours
//	inspect      what it does not report: silence, or no progress though all answer
//	recover      halt what is left, replan only the lost span, resume (recover.go)
//
// A token is overdue after four times what was predicted or recently measured.
// Nothing is done before that; then the stages are inspected. A stage is lost if it
// has sent nothing for two Pings and a round trip. If all answer and none has work,
// the one that is missing what its predecessor has cannot be reached by it.
// Constants only bound what a busy machine adds.
//
// # A second route
//
// That a stage claims to compute proves nothing: a liar can claim it for ever, and
// a slow machine claims it rightly. What the client can check is when tokens come.
// Past a deadline (from what was predicted or measured, bounded by the length of the
// prompt) it seeks a second route without the stage that seems to hold it up. It
// opens that route, as a session of its own, if it is predicted to bring the token
// within the time waited so far. The route that brings the token first is kept
// and the other one ended (hedge.go). So an honest machine that is slow only loses a
// race, and the session waits for it if there is no better route. A second route is
// sought sooner around a stage that reports finishing no pass; the stage is
// replaced like a lost one only if there is no second route.
//
// With a second session, the machines that both routes share compute the prompt
// twice. That is why it begins late: at half a second, every hiccup of a busy
// machine would begin one.
//
// What comes after a repair does not depend on what was lost: every stage keeps
// the positions that all have in common. A stage that has fewer is sent the rest by
// its predecessor, which keeps what it sent. If that is lost, too, the predecessor
// computes it again from what its own predecessor sends, back to the client, which
// has the prompt and the tokens. A stage that cannot be taken back so far, as with
// recurrent blocks, says from which position on it can; it begins again at 0. So two losses at once, or a loss during a repair,
// take no code of their own. Tokens that come twice are dropped by their index.
//
// If only the stream to a stage broke, the same peer is tried first: it keeps the
// session for a moment.
//
// # Running ahead
//
// If the request allows it and every stage can take rows back, the first stage sends the
// rows of guesses before their tokens are known (node/stage, "Running ahead"). The client
// has little to do with it (ahead.go): it gives the first and the last stage a key, a new
// one with each repair, states the limit with the rows that it feeds, and counts. A repair
// goes as without guesses. Only the time after which a token is overdue must not be taken
// from tokens whose rows were sent ahead.
//
// # Number formats
//
// If the request says how long the slowest stage takes per row of a prompt, each stage
// chooses the codec in which it sends the prompt's rows on (node/stage, "Number formats").
// A stage that replaces another is told what was chosen for its link (wire.go).
//
// # Sessions that are not repaired
//
// Embeddings (embed.go) and readings, the probabilities of given tokens (read.go), need
// nothing from the end of the route to go on: all rows are sent at once (oneway.go). Such a
// session ends with the first stage that fails, and its caller has what is missing computed
// by another one. A repair would save a part of a prompt, for which the ring would have to
// halt, and need replay where rows have been taken back and written over.
//
// # Moving
//
// A stage's stream that crosses a relay moves when there is a better path: a direct
// connection, or another circuit before the relay cuts this one (move.go). The design
// was to open the stage again and replay; but a repair halts the whole ring for
// two round trips, and nothing is lost that would have to be replayed. So the stream
// moves while tokens flow: the client asks for the move on the new stream, and once the
// stage has agreed, each side ends what it sends on the old stream with a Move frame.
// What comes on the new stream is read after that. Stages move their links to each other
// in the same way, on their own. If the old path dies before its end was read, that is
// a stream that broke, and is repaired.
//
// # Why not the alternatives
//
// Petals replays from the client, whose uplink is the slowest of all; a warm
// standby costs everyone a second computation for the few who need it. The
// stage before the lost one still has the rows.
package session
