// Package stage serves spans of models to sessions.
//
// The path of a step through a stage, in the order in which it runs:
//
//	reader     one goroutine per incoming stream: the client's (Open, Ping, Halt,
//	           Resume, Bye, and at the first stage the prompt's chunks) and the
//	           predecessor's (Link, then activations). It checks each frame and
//	           queues its step with its session, where there is always space:
//	           tokens are small and bounded by the session's length, and the
//	           predecessor may only send as many rows as it has credit for (below).
//	loop       one goroutine per stage: takes the ready steps, decodes before
//	           guesses and those before prefill chunks, of each kind the longest-waiting first, and runs
//	           them through the engine in one pass. Only the loop calls the engine.
//	sender     one goroutine per outgoing stream: to the successor (activations; from
//	           the last stage to the first, the token just sampled) and to the
//	           client. The loop never waits for a socket: it skips a session while
//	           its sender's queue is full. Rows wait here for the successor's
//	           credit.
//
// A pass takes an engine.Batch and returns an engine.Result. The types of
// node/engine are pure Go, and stage imports nothing else of it: types of its own
// would cost a copy per pass. The sampling parameters are the client's
// protocol.Sampling, passed on unchanged once checked.
//
// # Before admission
//
// A stream without a session counts against its peer's budget with what it has
// sent plus a fixed amount (held.go), and must send its first frame within five
// seconds. The first frame that it gets is Opened, or Fail: a session exists, and may be
// linked, drained or evicted, before its engine has what is kept for it, so all that
// concerns the client is queued until then, and its silence is not counted. Of replies that can repeat (Pong, Halted, Trouble) only the latest is
// queued for a client that does not read. A successor is dialled at the addresses
// in its own signed offer.
//
// # Credit
//
// A reader that stops reading blocks more than its own stream. QUIC at first
// allows 768 KiB of unread data per connection, and all streams between two nodes
// share that connection: other sessions' activations, tokens, and Pings if one
// node is both client and predecessor. Two long prompts over two stages, the second
// slower, were enough for every client to be declared silent. So a successor grants
// its predecessor, on the link, a total number of rows (credit.go): 4 MiB ahead of
// those it has processed, and never less than a chunk; its reader never stops. A
// link has no credit before its session has accepted it.
//
// Links of /shoal/stage/1 have no credit, and their reader still stops when the
// session's queue is full.
//
// # Early rows
//
// A client need not wait for Opened before it sends rows (node/session, "Early rows"), and
// then a link's first credit would be what they wait for. So the first rows of a link go
// right behind Link, ahead of any credit (early.go): 64, which every successor grants, or as
// many as it has granted at first on an earlier link, and 256 KiB at most. The successor
// reads nothing of them before it has found the session, and has by then granted that much:
// versions that know nothing of this take them as well.
//
// But the client names the successor, and a few hundred bytes must not have a stage send
// a quarter of a megabyte to a third party. So rows go ahead only of answers that are to be
// expected: to a successor that has answered links of the same client's sessions in the last
// ten minutes, on no more links at once than it has answered, and no more than four. This
// node's own sessions need no such consent. A stage computes nothing before it has admitted
// the session, as ever.
//
// # Number formats
//
// Rows are sent as they were computed (F32) unless the client asks for less. It may ask so
// for the rows of the prompt alone, Open.prompt_rows, and leave it to each stage (wire.go):
// then a prompt goes over a link in F16 or Q8_0 if a row takes longer to send than the
// route's slowest stage needs for one, since only then does the link keep stages waiting.
// A stage knows how fast a link is from chunks that it wrote without a pause between them,
// and forgets it after ten minutes. The choice is made at Open and stated in Opened. It is
// by position, not by step: a row has the same codec however often it is computed or sent,
// so that repairs and guesses change no token. Rows of the answer stay exact: one at a time
// they are short, and each would be rounded on top of those before.
//
// To measure a link while its first session opens would need bytes that say nothing, in
// frames that older versions refuse. So the first long prompt over a link is exact.
//
// # Batches
//
// If each pass took every ready step, the sessions of a ring would move as one
// convoy: one stage works while the others wait. So a pass takes 1/n of the active
// decodes in a ring of n stages, which keeps all stages busy, as long as a row's
// cost is significant compared with a session's time around the ring. Where network
// latency dominates that time, all ready decodes go. At most one chunk of prefill
// is added to a pass with decodes.
//
// Whose steps a pass takes is decided by class first, then by group, then by session. A
// class is the clients that share a grant of the owner's rules (Lending). Classes share the
// engine's time by their weights (turns.go). Within a class, groups of peers take turns,
// not sessions: thirty-two sessions of one peer get the same share as one session of
// another.
//
// # Admission
//
// KV cells are allocated as work needs them (room.go). A session takes cells as it
// uses them, one chunk ahead. It is admitted by its expected use: the prompt and
// half of the remaining length. This overcommits if all answers run to their full
// length, which few do. A session is refused (BUSY, with a hint when to retry) if
// the expected use of all admitted sessions would exceed the KV cells. Reserving
// full lengths, as earlier versions did, let the clients that asked for most hold
// all cells without using them.
//
// Room is shared as time is, by class and by group. Under contention the classes with
// sessions are entitled to slots and cells by their weights. A group is the peers that
// share an IP network (Config.Group); within its class it is entitled to a quarter of the
// cells and sessions, and at least to one session of full length. Both may use more while
// nobody else needs it, except that an eighth of the slots is kept for classes of full
// weight. If an applicant does not fit whose class has less than it is entitled to,
// sessions are evicted of classes that have more, and of no more weight; if its group has
// less, those of groups of its own class that have more; in either case sessions without
// work, even if their client pings, come first. This node's own prompts are entitled to
// all of it, and are evicted for nobody. No group evicts its own sessions, and one that
// has what it is entitled to evicts none, so two cannot keep evicting each other. An
// evicted session ends with BUSY; its client repairs the route, and loses nothing if the
// repair succeeds.
//
// A session is without work if it has had no step for two seconds while it is the
// client's turn, or for ten while other stages may be working on it. The first step
// is due within five seconds of Open, and Resume within fifteen, since the client
// first has to reach all replacements. A group that misses this has no share for
// a minute; otherwise 240 openings that are never used would win against one that is.
//
// If cells run out all the same, a session waits for others to end, and the
// lowest-ranked session has the highest-ranked one evicted. Less weight ranks higher;
// within a group the rank is the session's random ID, the same at all stages, so that no
// two sessions wait for each other at two stages. The row of a guess takes only cells that
// are free and that nobody waits for: it evicts neither a session nor a kept prefix, and
// waits until it is known to be right.
//
// Lending also says who is refused, and counts what sessions use, without guesses in vain
// (bill.go); Review applies changed rules to those that run. While its owner's machine is
// not lent, a stage serves the owner alone: Reserve has it refuse the others. In both cases
// the clients of running sessions are notified, and move to other stages.
//
// When a session ends, the KV of its known prefix is kept for the same client's next
// session, for five minutes, and evicted, oldest first, when cells are needed. Kept
// cells count as free, but for a while not to groups above their share (prefix.go).
//
// A stage that no session uses can sleep: its engine is closed then, and loaded again by
// Config.Waken when a session is opened (sleep.go). An Open waits for that, but not long,
// since the client gives up a stage that is silent after others have accepted.
//
// # Running ahead
//
// Plain decode takes one trip around the ring per token: stage 0 waits for the token that
// the last stage draws. A session may run ahead instead: stage 0 guesses the next token
// (Guesser) and sends its row at once, as an ordinary step of one row, and another after
// it, up to the number in flight that the client allows. A right guess costs the slowest
// stage's time instead of a trip.
//
//	stage 0      When a token comes and is the oldest guess in flight, its row is on its
//	             way already. If it is another one, stage 0 begins a new line at its
//	             position: it drops the guesses that wait here, counts Step.line up, and
//	             sends the token's own row. A guess is queued only while nothing of the
//	             session waits for a pass or the socket, so that the row of a token that
//	             comes next finds nothing in its way (lead.go).
//	all stages   A step of a lower line is dropped. One of a higher line takes the session
//	             back to the step's base first: what waits from there on is dropped, here
//	             and in the successor's queue, what is being computed is not sent on, and
//	             the cache and the replay buffer are truncated (line.go).
//	last stage   It has drawn the token of a position before it computes that position's
//	             row. So it compares first, by Step.tag, and drops the rest of a line from
//	             the first wrong guess on, uncomputed. It draws at true positions alone, in
//	             order: penalties, formats and log probabilities never need undoing.
//
// A guesser may find guesses between tokens, too (Assisted): a small model that runs beside
// the stage takes its time. Stage 0 is told how the last stage draws (Open.draws), so that
// such a model can draw with the same noise.
//
// No frame discards, verifies or rolls back. Each session has one row in a pass, as in
// plain decode, so an accepted row goes through the same computation on the same cache, and
// an answer has the same tokens with and without guesses, to the bit. Rows of known tokens
// go before guesses, and guesses before prefill; a guess that has waited for one and a half
// trips is treated as known.
//
// A tag is a keyed hash of the guess (protocol.GuessTag), and only the first and the last
// stage have the key: a stage between them learns no token, as without guesses.
//
// Lines are within an epoch, which is the client's and belongs to repairs: Halt and Resume
// begin again at line 0. So nothing had to be added to a repair. What is in the cache for
// guesses does not count: a stage keeps as a prefix, and shares, only the positions that are
// settled, which stage 0 states in each frame. The replay buffer holds the rows of
// guesses in memory until they are settled, and only then may they go to disk. A line that
// a repair interrupts is over: the client feeds stage 0 the positions that it lacks, as
// always, and stage 0 makes a new Guesser of the tokens that it knows.
//
// How far it pays to run ahead depends on the whole ring, so each step carries sums to which
// each stage adds: the slowest stage's time per row, what a row costs other sessions, and
// how busy the busiest stage is. The last stage returns them with the token.
//
// A client allows guesses only if every stage of its route can take rows back
// (Opened.rollback_rows): stages of older versions do not say so, and recurrent blocks
// cannot. The limit is in the client's steps to stage 0 and not in its Open, because the
// answers of the other stages are needed first.
//
// The alternatives are worse here. A window of guesses that is verified in one pass
// changes the order of sums in most kernels, and with it some tokens. A tree of guesses
// needs rows that most links cannot carry. A frame that discards wrong rows would arrive
// hardly before the next line does.
//
// # Observation
//
// An Observer receives each Open, pass, part of a step's path and end of a session
// (observe.go). It receives numbers, never activations, tokens or text.
//
// # Readings
//
// A session of readings asks for the probabilities of given tokens at many places, most of
// which follow the same beginning (read.go). It is one sequence whose end is taken back for
// each question. A session per question would be admitted, linked and pinged as often, need
// a slot each, and share the beginning in whole blocks of 32 rows only; sequences in the
// engine that fork from the beginning would need slots, too, and as many rows.
//
// # Loss
//
// Positions are absolute, and a session has epochs: a step of a lower epoch is
// dropped; one of a higher epoch first truncates the session to the step's
// base. A step must begin where the session ends; anything else violates the
// protocol and ends the session.
//
// Everything sent to the successor is kept for the session's life, in memory up to a
// budget and then on disk, and is replayed to a replacement of the successor
// (replay.go). A broken link is reported to the client, which decides what to do: a
// stage never picks its neighbours.
//
// # Moving
//
// A stream that crosses a relay is continued on a better path without a halt (move.go):
// the client's by the client, the link to the successor by this stage. The side that
// opened the stream asks for it with Move on a new one; then each side ends what it sends
// on the old stream with an empty Move, and reads the new one only after the other's.
// One move per stream is under way at a time. A link's credit goes on where it was, so
// moving it yields no more room; only a few rows may come ahead of the old link's end.
//
// A session belongs to its client: it ends with Bye, or when the client has sent
// nothing for a second. After its stream breaks, the client has that second to
// reconnect.
package stage
