// Package engine is the front of what computes a span of a model's blocks: the
// [Engine] that stages run passes through, and the process that it lives in. It is
// pure Go. What computes is a [Backend] behind it (node/engine/ggml), given by the
// program's main function; what every back end must do is a suite of tests
// (node/engine/enginetest).
//
//	Engine, Batch, Result   a pass: rows of sequences in, hidden states or tokens out
//	Config, Info, Loader    what is loaded, and how
//	Child, InChild, Start   the parent's side of an engine in a process of its own
//	ChildMain               that process's side, with a Backend
//	Check, Defaults         which models are computed, by their metadata alone
//	CostOf, Cost            what an engine of a span takes, likewise
//
// What is loaded is a stage file: a GGUF whose header lists only the tensors of the
// span. A hidden state enters before block From and leaves after block To-1. Tokens
// are drawn beside the logits (node/engine/sample), so that those never leave the
// engine.
//
// # The process
//
// An engine lives in a process of its own, the same program started again: what
// computes is C and C++, which ends its process on some faults, and Go cannot
// recover that. There it is behind a fence (node/fence), since it parses what
// strangers made. Parent and child share a socketpair, over which each request has
// one reply (message.go); the child ends when its end is closed, or its parent is
// gone.
//
// A program that is started as a child and does not know it would go on as itself:
// start a node, and that another one. So [ChildMain] must be the first thing that
// main calls, and three things see to it. Start refuses before anything is started
// if ChildMain was not called in this process ([CanStart]), and node.New does where
// it would come to that. A child says hello first: one that ends without it, or is
// silent for ten seconds, is no engine, and is ended. And node.New refuses in a
// process that was started as a child. The errors wrap [ErrNoChild] or [ErrLost],
// and carry remedy.CallChildMain.
//
// A child that has had no request for two seconds gives memory back: what its engine can
// do without (Trimmer), freed memory of Go, and the pages of its program, most of which
// only a node needs (proc.Shed).
//
// # Why not
//
// Plugins or a separate engine program: two files that must fit each other, where
// one program is always of one version. A network protocol to the child: a reply
// must come within tens of microseconds, and both ends are the same program, so
// numbers cross as they lie in memory. Types of its own for a stage's passes, as the
// parts otherwise have: they were twins of these, and a pass was copied for nothing.
package engine
