// Package stage serves spans of models to sessions.
//
// The way of a step through a stage, in the order in which it runs:
//
//	reader     one goroutine a stream: the client's (Open, then for stage 0 the
//	           prompt's chunks) and the predecessor's (Link, then activations).
//	           Checks each frame and queues its step with its session; a full
//	           queue stops the reader, and QUIC's flow control the sender.
//	loop       one goroutine a stage: takes the ready step of every session,
//	           decodes before prefill chunks, up to a budget of rows, and makes
//	           one pass of them through the engine.
//	sender     one goroutine a stream out: to the successor (activations, or
//	           from the last stage to stage 0 the token just drawn) and to the
//	           client (tokens). The loop never waits for a socket: a session
//	           whose sender is full is passed over until it has room.
//
// Admission is by KV tokens: a session reserves prompt and answer when it is
// opened and is refused then, with a hint when to come back, or never.
//
// Positions are absolute, and a session has epochs: a step of a lower epoch is
// dropped, one of a higher epoch first truncates the session to the step's
// base. A step must begin where the session ends; anything else is against the
// protocol and ends the session.
//
// A session belongs to its client: it ends when the client's stream does,
// which is why every stage has a stream from the client even though only
// stage 0 and the last one carry traffic on it. A link that breaks is reported
// to the client, who decides; the KV stays until then or until the idle
// timeout.
package stage
