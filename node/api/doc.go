// Package api is a node's local HTTP API: OpenAI's under /v1 and Ollama's under
// /api, so that existing clients work, and shoal's own under /shoal/v1 for the
// command line.
//
// It is made for loopback, and for a unix socket in the node's home, through which the
// operator's own commands find it wherever else it listens. By default it accepts only
// requests for a loopback host name, since a page elsewhere can point its own name at
// 127.0.0.1. shoal's own endpoints, some of which read and write files for the caller,
// accept no requests from browsers and require the token in the node's directory.
//
// Clients put requests together for several servers, and cannot mend what a model or
// another server has written into a history. So decoding takes what these take as long as
// nothing is lost by it: no content, a call whose arguments are no JSON, the result of a
// call that is not in the history, 16.0 for 16, a path with a slash too many. What would
// change the answer and is not supported is refused, never ignored.
//
// A request names a model by any of its names, with Ollama's tag or without, at every
// endpoint. Replies under /v1 carry the name that /v1/models lists, as OpenAI's carry a
// model's full name for its alias; those under /api repeat the name that was asked for, as
// Ollama's do. If a request names no model, the only one is meant.
//
//	server.go           the endpoints
//	guard.go            who may use them; origins.go: web pages of other sites
//	paths.go            paths as they are meant
//	fields.go           JSON, and fields that are refused; integers.go: 16.0 for 16
//	wire.go             OpenAI's requests and replies
//	decode.go           requests become jobs; messages.go, calls.go, decode_tools.go: their parts
//	openai.go           chat, completions, models
//	follow.go           the generations of a job, some at once
//	answer.go           their tokens become a reply or a stream; best.go: the likeliest of several
//	responses*.go       OpenAI's responses
//	ollama*.go          Ollama's API
//	extras.go           what llama.cpp's and vLLM's servers have besides
//	admin.go, upkeep.go, view.go, health.go   shoal's own endpoints
//
// It reaches the node only through the small interfaces of types.go. Errors have a kind,
// which determines the HTTP status and OpenAI's error object (or Ollama's), and from
// which [Client] recreates the same error. Prompts and answers are never logged.
package api
