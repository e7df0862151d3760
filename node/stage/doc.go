// Package stage serves spans of models to sessions.
//
// The way of a step through a stage, in the order in which it runs:
//
//	reader     one goroutine a stream: the client's (Open, for the first stage
//	           the prompt's chunks, Ping, Halt, Resume, Bye) and the
//	           predecessor's (Link, then activations). Checks each frame and
//	           queues its step with its session; a full queue stops the reader,
//	           and QUIC's flow control the sender. Tokens are small and bounded:
//	           a client is never kept waiting, or its Pings would wait, too.
//	loop       one goroutine a stage: takes ready steps, decodes before prefill
//	           chunks, of each kind the one that has waited longest, and makes
//	           one pass of them through the engine. Only it touches the engine.
//	sender     one goroutine a stream out: to the successor (activations, or
//	           from the last stage to the first the token just drawn) and to the
//	           client. The loop never waits for a socket: a session whose sender
//	           is full is passed over until it has room.
//
// # Before admission
//
// A stream that has no session yet costs its peer's budget what it has sent and
// a little more (held.go), and has five seconds. Of answers that are due again
// and again (Pong, Halted, Trouble) only the last waits for a client that does
// not read. A successor is dialled where its own signed offer says.
//
// # Batches
//
// Taking all that is ready makes the sessions of a ring travel as one convoy: a
// stage works while the others wait. So a pass takes the part of the decodes
// that keeps all stages of the ring busy, one n-th with n stages, as long as a
// row costs enough for that to matter against a session's way round the ring;
// where the way is mostly distance, all that is ready goes. One chunk of prefill
// goes along with decodes, no more.
//
// # KV
//
// Admission is by KV tokens: a session reserves prompt and answer when it is
// opened and is refused then, with a hint when to come back, or never. What a
// session has begun with is kept when it ends, for the same client's next one,
// and given up, the oldest first, when the room is needed: it counts as free
// (prefix.go).
//
// # What is seen of it
//
// An Observer hears of each open, pass, part of a step's way and end of a session
// (observe.go). It has numbers, and no activations, tokens or text.
//
// # Loss
//
// Positions are absolute, and a session has epochs: a step of a lower epoch is
// dropped, one of a higher epoch first takes the session back to the step's
// base. A step must begin where the session ends; anything else is against the
// protocol and ends the session.
//
// All that is sent on is kept for the session's life, in memory up to a budget
// and then on disk, and sent again to a replacement of the successor
// (replay.go). A broken link is reported to the client, who decides: a stage
// looks for no neighbours.
//
// A session belongs to its client: it ends with Bye, or when the client has said
// nothing for a second. A stream that breaks leaves it that second to come back.
package stage
