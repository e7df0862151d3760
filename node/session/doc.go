// Package session drives one session along a route, from the client's side.
//
// It opens every stage of the route at once, sends the prompt to stage 0 in
// chunks (stage 1 works on chunk 1 while stage 0 does chunk 2), and reads the
// tokens from the last stage, which sends each also to stage 0: between two
// tokens nothing goes through the client. It watches every stage's stream, for
// a stage that fails says so there, and one that dies ends it.
//
// Deadlines follow from what the route was predicted to need, not from
// constants: see Request.Step and Request.Prefill.
package session
