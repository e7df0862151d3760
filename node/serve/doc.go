// Package serve keeps spans of models served, from resolving a name to offering the
// span as ready, and again when an engine is lost.
//
//	server.go    Server: its spans, what it needs, Snapshot
//	spec.go      Spec and Event: what is to be served, and what came of it
//	control.go   spans started and stopped while it runs: api.Controller
//	serving.go   one span: resolve, fetch, load, serve, drain
//	retry.go     what cannot be had now is tried again
//	room.go      the memory lent, shared by all spans
//	choose.go    which engine computes a span
//	verdicts.go  which one was measured to be faster, over restarts
//	sleep.go     engines that are unloaded while nobody uses them
//	draft.go     a small model that guesses for a span which begins a large one
//	stays.go     how long a request wants an engine to stay loaded: api.Controller
//	calibrate.go what a row costs in an engine
//	probe.go     a token through a whole chain, which alone makes a span ready; for
//	             all blocks of a model, the measurement is that
//	place.go     spans of the node's own choice, by package placement
//	offer.go     what peers are told: the offer, and the load on request
//	gate.go      when the operator lends
//	memory.go    what Go keeps to beside the engines
//	observe.go   what a stage counts and traces
//	losses.go    recent losses of an engine
//
// # The life of a span
//
// A span is resolved to a model, fetched, loaded, measured, and offered as loaded.
// It is offered as ready when a token has gone through a whole chain that it is part
// of: a node that claims to be ready while nothing flows is the most common lie of
// such networks. When the engine is lost, the span is withdrawn and loaded again; when
// it is stopped, its sessions are drained first.
//
// Which span that is, the operator says, or with "auto" the node itself decides with
// package placement, again and again. Of several models with "auto", each that fits
// whole into what is left of the memory lent has a span of its own; of the others one
// span is chosen.
//
// # What cannot be had
//
// A daemon has an API, other models and sessions, so no model ends it: whatever is
// missing (a network, an origin, a peer that has it, disk, memory, or anybody who knows
// the name), the span says so in its state, and an event does, and all is tried again
// after pauses that grow to ten minutes, or to what an origin asks for. A pause ends
// early when a peer offers more of the model, when a model has come, and when memory is
// free. Only what no waiting can mend ends Run: a span that cannot be, and a program
// that cannot start engines.
//
// # Which engine
//
// Where the operator leaves the choice, the built-in engine computes what is to be exact,
// the library's what the built-in lacks, and of two that can the one that measured faster
// by a clear margin (choose.go, verdicts.go). Which architectures a library knows is asked
// by loading: a table would be another per version, and would still not tell whether the
// file, the library and this machine fit together. A library that fails at a model is
// given up for that model until another one is there, so a crash costs one process; two
// where nothing else computes the model.
//
// # While nothing is lent
//
// The operator's rules stop others, never the operator. While they forbid lending,
// nothing is offered to peers (the node itself still sees its spans), sessions of others
// are refused, and those that run have DrainTime to move; but the node's own prompts are
// computed here, with the engine that stays loaded, or is loaded if the node starts so.
// Loaded and idle, an engine uses no processor time, which is what a pause for the load
// of others is to free. It keeps its memory, which the operator has allowed, and which
// the kernel can page out: to unload it would cost every first prompt of the owner the
// seconds of a load.
//
// # Memory lent
//
// Each span reserves what it takes of the memory lent, before anything is fetched for
// it: at first the least with which it works, then what its engine is estimated to take,
// then what it does. An engine that takes more than is left is closed, and loaded
// smaller. So the sum never exceeds what is lent for longer than such a load. KV cells
// and buffers are counted in full, and the engine's process with what it was measured to
// take, though the engine has memory only for what is in use: what is reserved is what it
// may come to take. If less is lent than is reserved, the last spans are drained and loaded
// smaller, or wait for room.
//
// # Unloaded engines
//
// With Limits.UnloadAfter an engine that no session has used for so long is closed
// (followUse), which ends its process. Its stage stays, asleep, and so does its offer,
// which says how long a load takes. When a session is opened, the stage has the engine
// loaded again, as it was and without a new measurement. What the span has reserved of the
// memory lent stays reserved, or a load on demand might find no room. A span that is not
// ready yet is not unloaded: it asks for itself again and again.
//
// A request may say how long the engine stays after its last use (Ollama's keep_alive):
// not at all, for a time, or for ever. That holds instead of the limit until another
// request says otherwise or the engine is unloaded. It interrupts no session.
//
// # Drafters
//
// A span that begins a model, and does not end it, may have a drafter (draft.go): a model of
// the same vocabulary in an engine of its own, which guesses tokens for the sessions of the
// span (package draft). The operator names it, or the node takes the smallest that is here
// whole and has at most a quarter of the weights. A drafter is what can be done without: it is
// loaded only when guesses would pay, and only into memory that no span has reserved; it is
// unloaded first when a span wants the memory or less is lent, and after two minutes without
// use; its process has a lower priority than those of spans; and if it cannot be had or is
// lost, answers go on without it.
//
// # Locks
//
// A Server has one mutex, for what its spans are at the moment (another only keeps
// the changes of Go's memory limit in order). It is never held over a call out of the
// package, not even into a stage: Snapshot copies under the mutex and asks the stages
// afterwards. Status, metrics, the page and the offer are all made from a Snapshot, so
// they agree on what is served. The code that runs a span works on its own target, a
// model and a span, and takes the mutex only to note how far it is.
//
// # Memory of this process
//
// Engines take their memory outside of Go, so this process is told to keep to the rest
// of what the machine or control group has, again whenever an engine is loaded or
// goes. Otherwise the garbage of one long prompt in a container of 500 MiB makes the
// kernel kill node or engine.
//
// # Why it does not do the rest
//
// What a name means, where shards come from, and what an answer must look like is the
// library's business; how a session is driven is the caller's, since probes and prompts
// must go the same way. Both are small interfaces here, so that package serve runs in a
// test without a network.
package serve
