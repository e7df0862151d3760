// Package draft runs a small model ahead of a large one: a drafter, which guesses the next
// tokens of answers that a pipeline of distant nodes writes.
//
//	d := draft.New(vocabulary)          // of the large model
//	go d.Run(ctx, loaded)               // while it is loaded
//	s := d.Open(draws, more)            // a session of the large model begins
//	s.Prompt(tokens)
//	for y := range finalTokens {
//		s.Token(y)
//		s.Want(pays)                // whether guesses would be of use now
//	}
//	final, tokens, ok := s.Take()       // whenever more was called
//
// One engine serves all sessions of a stage. Each has a slot of it, a lane, as long as
// guesses are wanted; a pass takes one row of each lane, or a chunk of the prompt for those
// that have not caught up. A session's guesses go on from its final tokens and the guesses
// before, at most [Depth] of them. When a final token is another one than was guessed, the
// guesses are void, and the lane is taken back to what was right.
//
// Guesses are drawn as the large model's last stage draws: with the same seed, at the same
// positions, with the same parameters. Where the noise is the same, two models that agree
// about the probabilities of tokens agree about the tokens, at any temperature. Answers
// never depend on it: a guess is sent as a row, and dies if it was wrong.
//
// # Invariants
//
//   - Nothing here is waited for. Calls of a Session only take a lock that is never held
//     while the engine computes, and more is called with no lock held.
//   - What is held is bounded by the sessions that the stage has admitted: their tokens and
//     Depth guesses each. Cells and slots of the engine are never exceeded; sessions for which
//     there are none are not guessed for.
//   - A drafter that hangs, dies or is unloaded only means that no guesses come. The next
//     engine begins with empty lanes, and computes what is known of each session again.
//   - A guess is a token of the large model's vocabulary, and none that ends the answer.
//
// # Why not
//
// A drafter at the client would guess one hop later, and every client would need the model.
// Verifying several guesses in one pass of the large model changes the order of sums
// (package ahead). A drafter per session would take as much memory as sessions are allowed.
package draft
