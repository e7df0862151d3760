// Package api is a node's local HTTP API: OpenAI's and Anthropic's under /v1 and Ollama's
// under /api, so that existing clients work, and shoal's own under /shoal/v1 for the
// command line.
//
// It is made for loopback, and for a unix socket in the node's home, through which the
// operator's own commands find it wherever else it listens. By default it accepts only
// requests for a loopback host name, since a page elsewhere can point its own name at
// 127.0.0.1. shoal's own endpoints, some of which read and write files for the caller,
// accept no requests from browsers and require the token in the node's directory.
//
// Requests of every dialect become chat requests (decode.go), and errors name the fields
// that the caller sent. Answers of /v1/responses and threads of /v1/messages are kept in
// memory for an hour, bounded in number and bytes (responses_store.go); a caller finds
// only what was kept for the same secret, so without a key all callers are one.
//
// It reaches the node only through the small interfaces of types.go. Errors have a kind,
// which determines the HTTP status and OpenAI's error object (or Ollama's), and from
// which [Client] recreates the same error. Prompts and answers are never logged.
package api
