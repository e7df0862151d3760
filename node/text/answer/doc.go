// Package answer reads what a model writes, as it comes: its reasoning, its
// calls of functions, and the text that is meant for the person.
//
// How a model marks these is known from its chat template ([Detect]):
//
//	syntax.go   which marks a template stands for
//	reader.go   text -> parts, through reasoning, text and the bodies of calls
//	harmony.go  the same for gpt-oss, whose answers are messages on channels
//	calls.go    the body of a call -> name and arguments
//
// A model's answer is hostile, as is the template. What a Reader gives does not
// depend on the pieces in which the text comes; its memory is bounded; what
// looks like a call and is none comes out as text, to the letter; and the
// arguments of a call are a JSON object, always.
//
// # Why not a library
//
// Ollama's parsers (github.com/ollama/ollama, model/parsers, harmony, tools)
// are chosen by names of models or need its Go templates, fail the answer where
// a call is malformed, and pull in its client with keys and ssh.
package answer
