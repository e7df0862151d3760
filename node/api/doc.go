// Package api is a node's local HTTP API: OpenAI's under /v1 and Ollama's under
// /api, so that existing clients work, and shoal's own under /shoal/v1 for the
// command line.
//
// It is made for loopback, and for a unix socket in the node's home, by which the
// operator's own commands find it wherever it listens. Requests are taken only under a loopback host name
// (a page elsewhere can point its own name at 127.0.0.1), and shoal's own
// endpoints, some of which read and write files for the caller, take none from
// a browser and ask for the token that lies in the node's directory.
//
// Everything behind it comes through the small interfaces of types.go. Errors
// have a kind, which gives the HTTP status and OpenAI's error object (or Ollama's), and which
// [Client] turns back into the same error. Prompts and answers are never
// logged.
package api
