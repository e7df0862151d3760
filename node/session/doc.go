// Package session drives one session along a route, from the client's side, and
// repairs the route when a stage is lost.
//
// It opens every stage of the route at once, sends the prompt to the first in
// chunks (stage 1 works on chunk 1 while stage 0 does chunk 2), and reads the
// tokens from the last, which sends each also to the first: between two tokens
// nothing goes through the client. Four times a second it says on every stream
// that it lives, and hears in return how far each stage is.
//
// # Repair
//
//	take, look   what a stage says of itself or its neighbours, and what it
//	             does not say: silence, or no progress though all answer
//	recover      halt what is left, replan the lost span alone, resume (recover.go)
//
// A token is overdue after four times what was predicted, or seen of late;
// nothing is done before, and nothing then but to look. A stage is lost if it
// has said nothing for two beats and a trip; and if all answer and nobody has anything to do, the one
// that lacks what its predecessor has cannot be reached by it. Constants only
// bound what a busy machine adds.
//
// # A second route
//
// That a stage says it computes proves nothing: a liar says so for ever, and a slow
// machine is right to. What the client can check is when tokens come. Past a
// deadline, from what was predicted or seen, with bounds by the length of the
// prompt, it looks for a second route around the stage that seems to hold it up,
// and opens it, as a session of its own, if that would give the token within as
// long as has been waited. Whichever gives the token first goes on, and the other is
// left (hedge.go). So an honest machine that is slow loses nothing but a race, and
// where there is no better route it is waited for. One that finishes no pass, by
// its own word, is raced sooner; it is replaced alone, as a lost stage is, only if
// no second route can be had.
//
// A second session costs the machines that both routes share a second computation
// of the prompt. That is why it begins late: at half a second, every hiccup of a
// busy machine would begin one.
//
// What comes after a repair does not depend on what was lost: every stage keeps
// the positions that all have in common, whoever has less is sent the rest by
// its predecessor, which keeps what it sent, and where that is lost, too, the
// predecessor computes it again, up to the client, who has the prompt and the
// tokens. So two losses at once, or a loss during a repair, are nothing special,
// and the last resort is the same code. Tokens that come twice are dropped by
// their index.
//
// A stage whose stream alone broke is first tried again where it was: it keeps
// the session for a moment.
//
// # Why not the alternatives
//
// Petals replays from the client, whose uplink is the slowest of all; a warm
// standby costs everyone a second computation for the few who need it. The
// stage before the lost one has the rows at hand.
package session
