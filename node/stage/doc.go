// Package stage serves spans of models to sessions.
//
// The way of a step through a stage, in the order in which it runs:
//
//	reader     one goroutine a stream: the client's (Open, for the first stage
//	           the prompt's chunks, Ping, Halt, Resume, Bye) and the
//	           predecessor's (Link, then activations). Checks each frame and
//	           queues its step with its session, for which there always is room:
//	           tokens are small and bounded by the session's length, and rows
//	           come only as the predecessor was given credit for them (below).
//	loop       one goroutine a stage: takes ready steps, decodes before prefill
//	           chunks, of each kind the one that has waited longest, and makes
//	           one pass of them through the engine. Only it touches the engine.
//	sender     one goroutine a stream out: to the successor (activations, or
//	           from the last stage to the first the token just drawn) and to the
//	           client. The loop never waits for a socket: a session whose sender
//	           is full is passed over until it has room. Rows wait here for the
//	           successor's credit.
//
// A pass is an engine.Batch, and its result an engine.Result: the types of
// node/engine are pure Go, and stage imports them and nothing else of it, for twins
// of them cost a copy per pass. How tokens are drawn is the client's
// protocol.Sampling, handed on as it came once it has been checked.
//
// # Before admission
//
// A stream that has no session yet costs its peer's budget what it has sent and
// a little more (held.go), and has five seconds. Of answers that are due again
// and again (Pong, Halted, Trouble) only the last waits for a client that does
// not read. A successor is dialled where its own signed offer says.
//
// # Credit
//
// A reader that stops reading stops more than its own stream. Of all that is
// unread on one connection QUIC takes 768 KiB at first, and over it come other
// sessions' activations, tokens, and a node's own Pings, if it is client and
// predecessor at once: two long prompts over two stages, the second slower, and
// everybody was declared silent. So a successor says on the link how many rows
// may come in all (credit.go), 4 MiB of them ahead of those it has taken and
// never less than a chunk, and its reader never stops. A link has no credit
// before its session has taken it, which costs nothing where peers know what
// they speak, since the client's own trip takes as long.
//
// On links of /shoal/stage/1 there is no credit, and a reader whose session has
// no room still stops.
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
// Within a pass the groups of peers take turns, not the sessions: thirty-two
// sessions of one peer get what one of another's gets.
//
// # Room
//
// KV follows work (room.go). A session takes cells as it uses them, a chunk
// ahead, and is admitted by what it will probably use: its beginning and half of
// what may follow. That is more than is there if all answers take their whole
// length, which few do; it is refused (BUSY, with a hint when to come back) when
// all that was let in would probably not fit. Reserving whole lengths, as we
// did, gave all room to whoever asked for most, and kept its word to those who
// never used it.
//
// A group, of peers that share an IP network (Config.Group), has a right to a
// quarter of cells and sessions, and at least to one session of full length. It
// may have more while nobody else wants it. To whoever is within his share
// yield, in this order: sessions without work, though Pings come; what others
// have beyond their share, the youngest first; and to those whom the operator
// trusts, who never yield to strangers, one slot and a quarter of the cells that
// are only lent. Nobody makes his own yield, and nobody who is beyond his share
// makes anybody, so two cannot drive each other out. To yield is to be told BUSY
// in the middle: the client repairs its route, and nothing is lost if it can.
//
// Without work is who has had no step for two seconds where it is the client's
// turn, and for ten where other stages may be at work on it. A first step is due
// in five seconds, and Resume, for which the client first has to reach all
// replacements, in fifteen; who does not begin has no share for a minute, or 240
// openings that are never used would win against one that is.
//
// If cells run out all the same, a session waits for others to end, and the
// lowest in rank has the highest yield. Within a group rank is the session's
// random ID, at all stages the same, so that no two wait for each other at two
// stages.
//
// What a session has begun with is kept when it ends, for the same client's next
// one, and given up, the oldest first, when the room is needed: it counts as
// free, but for a while not to those beyond their share (prefix.go).
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
