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
