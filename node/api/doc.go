// Package api is a node's local HTTP API: OpenAI's under /v1 and Ollama's under
// /api, so that existing clients work, and shoal's own under /shoal/v1 for the
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
// It reaches the node only through the small interfaces of types.go. Errors have a kind,
// which determines the HTTP status and OpenAI's error object (or Ollama's), and from
// which [Client] recreates the same error. Prompts and answers are never logged.
package api
