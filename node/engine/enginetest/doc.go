// Package enginetest is what every back end of the engine must pass.
//
// A back end's own tests call [Run] with a [Backend], which is it and what it
// claims of itself: how near its numbers come to the references', and what holds to
// the last bit. The suite looks at it through engine.Engine alone: tokens or hidden
// states go in, hidden states or tokens come out, and stages of a model are engines
// of their own, so that what one sends on is what the next takes.
//
//	references  greedy text and log probabilities of real models, against those
//	            of llama2.c, Hugging Face's transformers and our own training
//	stages      one stage, three and five answer alike
//	random      every architecture, as a small model of random weights: chunks,
//	            input, steps taken back, neighbours in a pass, shared prefixes,
//	            sliding windows, overflows
//	cache       nothing depends on who came before or is there besides
//	errors      bad batches, unknown models, missing tensors, too much memory: the
//	            engine goes on, and errors wrap what engine says
//	cancel      contexts that have ended
//	child       the same in a process of its own, and what is left when that is
//	            killed
//
// Tests of what only one back end has (its cache's books, its library's own pass,
// its devices) stay with it; [Cut], [Chain], [StageFile] and [RandomModels] are
// here for them, too. The reference models are not part of the repository: where
// Backend.Shared does not have them, what needs them is skipped.
package enginetest
