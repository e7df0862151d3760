// Package generate answers prompts: one request of the API becomes the tokens of one
// answer. Its Generator is api.Generator.
//
//	generator.go  Generator: what it needs, and probes
//	generate.go   Generate: attempts at a route, and what failures mean to the caller
//	prompt.go     a request read: its model, its tokens, how long the answer may be
//	chat.go       messages and tools through the chat template, calls out of the answer
//	format.go     what the answer must look like, how the model is told, and the check
//	              that it does
//	plan.go       a route: the first, one around lost stages, a second one
//	drive.go      one session along a route, and the events of its tokens
//	decide.go     questions answered by the probabilities of labels; rerank.go: texts scored so
//	costs.go      what each stage of the route is predicted to cost
//	record.go     what a session has shown of the peers on its route
//	trace.go      counters and spans
//
// # How a prompt goes through
//
//	read     find the model, render the chat, tokenize, limit the answer, compile
//	         the format; choices of one prompt share the result
//	plan     ask the peers that serve the model for their load, and have package
//	         route choose the fastest route
//	drive    run a session along it (package session), which repairs the route when
//	         stages are lost and asks plan.go for others
//	token    check the format, decode, cut at stop sequences, emit an event
//	record   note which peers worked and how fast, which failed, and which lied
//
// An attempt that fails before the first token is repeated over another route. Once
// the caller has seen a token there is no other attempt: what can be repaired,
// package session has repaired by then.
//
// Decisions (decide.go) read probabilities where an answer would begin, and draw nothing.
// They are exact: over links that round nothing, which is the default, one node and many
// give the same numbers. With Config.AutoWire a link that keeps the stages waiting sends
// the rows of a decision in fewer bytes by the rule for prompts, since a long state over
// such a link takes as long; its operator has asked for that. All rows are rounded then, the
// questions' as well as the state's, so that a question is answered alone as in company.
//
// # Invariants
//
//   - The caller gets a Start before its first token, and a Done after the last unless
//     Generate fails.
//   - A token that breaks the format is not emitted. The stage that drew it is recorded
//     as having lied, since an honest one cannot draw it.
//   - While the node itself and the peers that it trusts have no room, a prompt waits
//     for a few seconds before it goes to strangers, unless Survey.Fastest reports true.
//   - A prompt goes only to peers that Config.Use allows, in every plan of every route:
//     the first, repairs, and second ones. Probes, whose tokens say nothing, do not ask it.
//   - Nothing of a prompt's or an answer's text is logged, counted or traced.
//   - No lock is held while a function of Config is called. The only one guards
//     the costs of a single answer.
//
// # Why it has interfaces of its own
//
// Models, peers and the record of what they did belong to packages library, survey
// and standing. The interfaces in generator.go are all of them that an answer needs,
// so that one can read, and test, how a prompt goes through without a node around
// it. The tokenizer and the template come as a struct, Tools, whose parts are pure
// functions of the model's header.
package generate
