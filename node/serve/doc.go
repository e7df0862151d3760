// Package serve keeps spans of models served, from resolving a name to offering the
// span as ready, and again when an engine is lost.
//
//	server.go    Server: its spans, what it needs, Snapshot
//	spec.go      Spec and Event: what is to be served, and what came of it
//	control.go   spans started and stopped while it runs: api.Controller
//	serving.go   one span: resolve, fetch, load, serve, drain
//	calibrate.go what a row costs in an engine, and what a span takes of memory
//	probe.go     a token through a whole chain, which alone makes a span ready
//	place.go     a span of the node's own choice, by package placement
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
// such networks. When the engine is lost, the span is withdrawn and loaded again;
// when ctx ends or the operator stops lending, its sessions are drained first.
//
// Which span that is, the operator says, or with "auto" the node itself decides with
// package placement, again and again.
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
// # Memory
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
