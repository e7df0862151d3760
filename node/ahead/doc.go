// Package ahead guesses the tokens that a session is about to produce, and decides which
// of the guesses are sent round the ring before they are known to be right.
//
// Plain decode waits one trip round the ring for each token. The first stage of a route
// need not wait: with a guess for the next token it sends that token's row at once, as an
// ordinary step of one row. If the guess was right, its token comes without a further
// trip; if it was wrong, the row dies on the way, and nothing is lost as long as the rows
// were few enough to be out of the way of the next true one. A [Runner] is the part of
// this that thinks. It has no clock, does no I/O, and is driven by its stage:
//
//	r := ahead.New(ahead.Config{MaxInFlight: 32, MaxTokens: 500, End: isEnd, Trials: ofTheStage})
//	r.Prompt(tokens)                    // once per chunk of the prompt
//	r.Expect(tokens)                    // what the client expects, if it said so
//	for y := range finalTokens {
//		hit := r.Token(y, now, measures)
//		if !hit {
//			// Guesses in flight are void: begin a new line.
//			// Send the row of y, unless y ends the answer.
//		}
//		for {
//			guess, ok := r.Next(now, sendBufferNotEmpty)
//			if !ok {
//				break
//			}
//			// Send the row of guess, one position further than the row before it.
//		}
//	}
//
// # Where guesses come from
//
// Answers repeat: the prompt, themselves, and the text that the client expects. Each
// text (the session's own, and the expected one) has a table of its runs of three tokens
// (table.go, about 12 bytes per token) and one thread (thread.go), which follows the
// place from which the answer seems to be copied. While the thread is right it costs one
// comparison per token. When it is wrong it looks for the longest earlier match of the
// last 3 to 32 tokens, the newest of equals. It also looks around the place that it has
// just lost: an answer that repeats a text with changes goes on there, right behind the
// change, and need not wait for a match of three tokens, each of which would cost a trip.
// A copy may run into tokens that are guesses themselves, as in a loop.
//
// A drafter that is slower than a table, such as a small model, may give hints (hint.go).
// It is asked only while the answer is expected to come at least 1.15 times as fast with it
// as with the tables alone (draft.go), where t is the share of tokens that the tables have
// right, and f, of the others, that of the drafter:
//
//	without  (1-t) x trip + t x row
//	with     (1-t)(1-f) x trip + t x row + (1-t) f x max(row, time per guess)
//
// f counts what came in time, so a drafter that has died is one that is wrong. After that it
// rests for 64 tokens, and longer each time.
//
// # Which guesses are sent
//
// Each kind of guess, by its source and the length of its match, has a share of right
// ones (trust.go). It is learned in the shadow: each final token scores the guesses that
// the threads had for it, whether they were sent or not. So not sending costs nothing,
// and still tells when it would pay to begin.
//
// Guess j of a line is sent while the product P of the shares up to j is at least theta,
// and while the rows in flight, the last true one included, are fewer than W (pace.go):
//
//	W     = min(MaxInFlight + 1, 0.8 x trip / row)
//	theta = max(0.05, price / trip, floor)
//
// trip is the mean time from the sending of a true row to its token, row the time that
// the slowest stage takes per row, price what one more row adds to the work of others,
// and floor the same for stages that are nearly busy. The bound W lets a line of wrong
// guesses be out of the way when the next true row is sent. While all guesses in flight
// are likely right, W is 1.1 x trip / row, and one more, which keeps the slowest stage busy.
//
// With a stage over 0.85 busy, the sessions of a stage also hold trials (trials.go): two
// seconds without guesses, two with half as many as could be in flight. Unless all gain,
// and the sessions that have nothing to guess lose hardly anything, there are no guesses
// for twenty seconds, and longer each time; else they stay, and the next trial is of more.
//
// A ledger is the last line: a session whose wrong guesses have cost 3 % of its time, and
// 300 ms, more than the right ones gained sends none until that is no longer so.
//
// The tests run Runners on a simulated ring in virtual time. There, a file that is written
// again with changes comes 15 times as fast at 80 ms and 1 ms per row, and prose, random
// tokens and texts that lure into wrong guesses never slower.
//
// # Invariants
//
//   - A Runner sends no guess past its MaxTokens, and none for the row of an end token.
//   - Tokens are final once given to Token; nothing is ever taken back.
//   - The same calls give the same guesses: there is no randomness but Trials' phase.
//   - What peers report (Measures) is bounded before it is used: the worst that a lying
//     stage can do is to switch guessing off, or to leave MaxInFlight as the only bound.
//
// # Why not the alternatives
//
// A window of guesses that is checked in one pass computes several rows of a session at
// once, which changes the order of sums in the engine, and so now and then a token. A
// fixed number of guesses makes prompts slower whose answers repeat nothing. A table
// that outlives its session would mix the texts of different users.
//
// The last stage could send the likeliest tokens along with each token, to be guessed when
// the same token comes again (token recycling). In prose of a model of 135M parameters, 189
// tokens of three texts, the token was one of the three runners-up of the last time in 0.12
// of the cases (greedy) and 0.08 (drawn at temperature 0.8); that is counted by
// cmd/shoal/bench, own.go. Others found that it pays from 0.17 on. The likeliest token of the
// last time was right in 0.39 and 0.31; of the rows that a draft model had sent there, 0.6
// were kept, and they come in chains. Heads that predict several tokens (MTP) need
// models that have them, which the built-in engine does not compute.
package ahead
