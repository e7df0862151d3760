// Package answer parses what a model writes, as it arrives: its reasoning, its
// function calls, and the text for the user.
//
// The model's chat template determines how it marks these ([Detect]):
//
//	syntax.go   which marks a template uses
//	reader.go   text -> parts: reasoning, text and the bodies of calls
//	harmony.go  the same for gpt-oss, whose answers are messages on channels
//	calls.go    the body of a call -> name and arguments
//	families.go the marks and calls of further families of models
//
// A model's answer is hostile input, and so is the template. A Reader's output
// does not depend on the pieces in which the text arrives. Its memory is
// bounded. What looks like a call but is not one is returned verbatim as text.
// And the arguments of a call are always a JSON object.
//
// # Why not a library
//
// Ollama's parsers (github.com/ollama/ollama, model/parsers, harmony, tools)
// are selected by model names or need its Go templates, fail the whole answer
// when a call is malformed, and depend on its client, including keys and ssh.
package answer
