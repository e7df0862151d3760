// Package api is a node's local HTTP API: OpenAI's and Anthropic's under /v1 and Ollama's
// under /api, so that existing clients work, and shoal's own under /shoal/v1 for the
// command line.
//
// It is made for loopback, and for a unix socket in the node's home, through which the
// operator's own commands find it wherever else it listens. By default it accepts only
// requests for a loopback host name, since a page elsewhere can point its own name at
// 127.0.0.1. shoal's own endpoints, some of which read and write files for the caller,
// require the token in the node's directory. Of browsers they accept only the node's own
// page, and let it change the node only if the node's owner sits in front of it: the
// kernel says that the socket belongs to the node's user, or the page has the secret of
// a session that began with a one-time link (owner.go).
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
//	decode.go           requests become jobs; chat_messages.go, calls.go, decode_tools.go: their parts
//	openai.go           chat, completions, models
//	follow.go           the generations of a job, some at once
//	answer.go           their tokens become a reply or a stream; best.go: the likeliest of several
//	responses*.go       OpenAI's responses, and what is kept of them
//	messages*.go        Anthropic's messages
//	embed*.go           embeddings and reranking, of all dialects
//	decide.go           questions answered by probabilities; systemone.go, decisions*.go: the
//	                    dialects; jsontext.go: JSON as text, in the order of the request
//	ollama*.go          Ollama's API
//	extras.go           what llama.cpp's and vLLM's servers have besides
//	admin.go, upkeep.go, view.go, health.go   shoal's own endpoints
//
// Requests of every dialect become chat requests (decode.go), and errors name the fields
// that the caller sent. Answers of /v1/responses and threads of /v1/messages are kept in
// memory for an hour, bounded in number and bytes (responses_store.go); a caller finds
// only what was kept for the same secret, so without a key all callers are one.
//
// # Who is admitted
//
// If there is a key (see [Keys]), every caller of OpenAI's and Ollama's endpoints needs
// one, those on this machine included: what listens on loopback may be forwarded. Without
// a key, callers of this machine are admitted, and those of other machines only if the
// operator has said so (Access.Open); they get 401 with a remedy. Of this machine is who
// comes through the socket or from a loopback address, and, where other machines can
// reach the listener, does not say that it forwards for another (X-Forwarded-For,
// Forwarded, X-Real-Ip). What a container's bridge forwards comes from the bridge's
// address and is not of this machine. A listener on loopback admits all that reaches it,
// proxies' callers too, as it always has: who puts a proxy in front of it decides who may
// pass. A proxy on this machine that forwards to a listener for all addresses without any
// such header is taken for this machine; a key closes that.
//
// It reaches the node only through the small interfaces of types.go. Errors have a kind,
// which determines the HTTP status and OpenAI's error object (or Ollama's), and from
// which [Client] recreates the same error. Prompts and answers are never logged.
package api
